"""What an exported file says about itself: everything that is needed to use it, as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from iifdet.classifiers import Classifier
from iifdet.detectors import Detector, PostprocessOptions
from iifdet.detectors.batching import PAD
from iifdet.longtail import ClassCounts

#: A graph of one image, or with masks, is of the second format, a classifier of the third: earlier readers know none.
FORMAT, SINGLE, CLASSES = FORMATS = ("iifdet-export-1", "iifdet-export-2", "iifdet-export-3")
#: What graphs do.
DETECT, CLASSIFY = "detect", "classify"


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the graph's input; mean and standard deviation are inside the graph.

    Attributes:
        size: (height, width) of the input.
        resize: ``letterbox`` keeps the aspect and pads evenly, ``square`` stretches, ``middle`` is for classifiers: the
            shorter side becomes 8/7 of the input's, and the middle is looked at.
        pad: value of the padding, in [0, 1].
        layout, colour, range: float32 (batch, 3, height, width), RGB in [0, 1].
    """

    size: tuple[int, int]
    resize: str = "letterbox"
    pad: float = PAD
    layout: str = "NCHW"
    colour: str = "RGB"
    range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Card:
    """The metadata of an exported file, one JSON value a key.

    Attributes:
        names: the C class names, in the order of labels.
        training_counts: ``images`` and ``instances`` of each class and ``num_images``; None where they are unknown.
        adjustment: of the logits, as it was before it was folded into the class rows.
        preprocessing: how a picture becomes the input.
        postprocessing: fields of PostprocessOptions; with NMS inside they are part of the graph.
        nms: whether NMS is inside.
        levels: how many rows stand on each feature level, where candidates are counted by level.
        class_activation: ``softmax``, ``sigmoid`` or ``gumbel``.
        model: factory name and its keywords.
        recipe: keys of the training run that say how images are looked at.
        format: version of all this.
        batch: how many images the graph takes; None is any number.
        masks: whether there are masks beside the boxes.
        task: ``detect`` or ``classify``.
    """

    names: list[str]
    training_counts: dict[str, Any] | None
    adjustment: dict[str, Any]
    preprocessing: Preprocessing
    postprocessing: dict[str, Any]
    nms: bool
    levels: tuple[int, ...]
    class_activation: str
    model: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    batch: int | None = None
    masks: bool = False
    task: str = DETECT

    @classmethod
    def of(
        cls,
        model: Detector | Classifier,
        preprocessing: Preprocessing,
        *,
        nms: bool,
        levels: tuple[int, ...] = (),
        batch: int | None = None,
    ) -> Card:
        """What there is to say about a model before it is folded."""
        counts, detects = model.counts, isinstance(model, Detector)
        return cls(
            list(model.names),
            None
            if counts is None
            else {
                "images": counts.images.tolist(),
                "instances": counts.instances.tolist(),
                "num_images": counts.num_images,
            },
            {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in model.adjust.to_dict().items()},
            preprocessing,
            asdict(model.options) if isinstance(model, Detector) else {},
            nms,
            levels,
            model.class_activation,
            model.spec,
            {k: v for k, v in model.recipe.items() if k in ("data", "classes", "single_cls", "group_limits")},
            SINGLE if batch is not None else FORMAT if detects else CLASSES,
            batch,
            model.wants_masks,
            DETECT if detects else CLASSIFY,
        )

    @property
    def counts(self) -> ClassCounts | None:
        """The training counts."""
        told = self.training_counts
        if told is None:
            return None
        images, instances = (torch.tensor(told[key]) for key in ("images", "instances"))
        return ClassCounts(self.names, images, instances, num_images=told["num_images"])

    @property
    def options(self) -> PostprocessOptions:
        """How detections are chosen."""
        return PostprocessOptions(**self.postprocessing)

    def habits(self) -> dict[str, Any]:
        """Keys that say how the file is used to seeing images, as a recipe has them."""
        look = self.preprocessing
        fitted = {"resize": look.resize, "rect": False} if self.task == DETECT else {}
        return {**self.recipe, "imgsz": look.size[0], **fitted}

    def to_metadata(self) -> dict[str, str]:
        """Key -> JSON."""
        return {key: json.dumps(value, ensure_ascii=False) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Card:
        """From :meth:`to_metadata`'s keys among others.

        Raises:
            ValueError: keys are missing, or not what they should be.
        """
        try:
            told = {key: json.loads(metadata[key]) for key in cls.__dataclass_fields__ if key in metadata}
            if told["format"] not in FORMATS:
                raise ValueError(f"format {told['format']}")
            if told.get("batch") not in (None, 1):
                raise ValueError(f"batch {told['batch']}")
            look = told["preprocessing"]
            look |= {key: tuple(look[key]) for key in ("size", "range")}
            card = cls(**{**told, "preprocessing": Preprocessing(**look), "levels": tuple(told["levels"])})
            _ = card.counts, card.options  # what makes no sense is refused here
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no metadata of an iifdet export ({error})") from error
        return card
