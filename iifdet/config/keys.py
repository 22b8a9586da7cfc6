"""Groups of keys that several verbs share, and the kinds of values that they hold.

The text below a key is its meaning in ``iifdet VERB --help`` and docs/keys.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from iifdet.errors import suggest


def _off(value: Any) -> Any:
    """YAML reads ``off``/``no`` as False; in a choice they mean 'none'."""
    return "none" if value is False or value is None else value


def off_is_none(value: Any) -> Any:
    return None if value in (False, "none", "off") else value


def _numbers(options: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text; in options that nothing else checks it must become a number."""
    if not isinstance(options, dict):
        return options
    number = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
    return {k: float(v) if isinstance(v, str) and number.fullmatch(v) else _numbers(v) for k, v in options.items()}


def _class_list(value: Any) -> Any:
    """One class or several, by number or name."""
    if value is None or value is False:
        return None
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items or not all(isinstance(v, int | str) and not isinstance(v, bool) for v in items):
        raise ValueError("expected numbers or names of classes such as [0, 3] or [car, bus]")
    return items


def _two(pair: Any) -> Any:
    if pair is not None and not (isinstance(pair, list | tuple) and len(pair) == 2):
        raise ValueError("expected two numbers [low, high]")
    return pair


def _ascending(pair: Any) -> Any:
    if pair is not None and not 0 <= pair[0] < pair[1]:
        raise ValueError("expected two ascending numbers [low, high]")
    return pair


def true_is(choice: str) -> Any:
    """What ``true`` means in a choice, for those who write ``cache=True``."""
    return lambda value: choice if value is True else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _device_name(value: Any) -> Any:
    """A torch.device is named as it names itself."""
    return str(value) if type(value).__name__ == "device" else value


Choice = BeforeValidator(_off)
Lower = BeforeValidator(_lower)
Device = Annotated[str | int | None, BeforeValidator(_device_name)]
Options = Annotated[dict[str, Any], BeforeValidator(_numbers)]
Pair, Ascending = BeforeValidator(_two), AfterValidator(_ascending)
Range = Annotated[tuple[float, float] | None, Pair, Ascending, BeforeValidator(off_is_none)]
Adjust = Annotated[Literal["none", "iif", "la", "bsce", "norcal", "fracal", "taunorm", "cb", "lws", "disalign"], Choice]
#: What a finished model can be adjusted by.
Readjust = Annotated[Literal["none", "iif", "la", "norcal", "fracal", "taunorm"], Choice]
Share = Annotated[float, Field(ge=0, le=1)]
Classes = Annotated[list[int | str] | None, BeforeValidator(_class_list)]


class Keys(BaseModel):
    """What every group of keys has in common."""

    model_config = ConfigDict(
        extra="forbid",
        validate_default=True,
        protected_namespaces=(),
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class FolderKeys(Keys):
    """The folder of results"""

    project: str | None = None
    """the folder above it; runs/<verb> where none is named"""
    name: str | None = None
    """its name; a number is added where it is taken"""
    exist_ok: bool = False
    """write over what is there"""


class TalkKeys(Keys):
    """What is said and drawn"""

    plots: bool = True
    """draw pictures"""
    verbose: bool = True
    """say what is going on; false leaves warnings"""


class SplitKeys(FolderKeys):
    """Data"""

    data: str = "demo"
    """what there is to learn from: a YAML description, or a name in data/"""
    max_bad: Share = 0.05
    """share of broken images, boxes and labels above which the run is refused"""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """share of the training images that is used, drawn by strata and seed"""
    classes: Classes = None
    """keep only these, by number or name; all, if not given"""
    single_cls: bool = False
    """make one class of all"""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the training images, by strata, that is not trained on and stands in for val"""
    allow_outside: bool = False
    """annotation files and lists may name files outside the data set's folders"""
    imbalance: Annotated[float, Field(ge=1)] | None = None
    """classifiers: cut the training split to an exponential profile, the largest class this many times the smallest"""
    cache_index: bool = True
    """keep what was read of the annotations on disk while they are the same"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """of everything that is drawn"""

    @property
    def reads_images(self) -> bool:
        """Whether image files must be there; otherwise their sizes in the annotations are enough."""
        return True


class DataKeys(SplitKeys, TalkKeys):
    """Size of the images"""

    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    """side of the square that images are fitted into, pixels"""
    resize: Literal["letterbox", "square"] = "letterbox"
    """keep the aspect and pad with grey, or stretch to the square"""


def _variant(name: str) -> str:
    if name == "smooth":  # the default must not cost the import of torch
        return name
    from iifdet.longtail.weights import ALIASES, VARIANTS

    known = {**VARIANTS, **ALIASES}
    if name not in known:
        raise ValueError(f"expected one of {', '.join(VARIANTS)}{suggest(name, known)}")
    return name


class VariantKeys(Keys):
    """IIF's weights"""

    variant: Annotated[str, AfterValidator(_variant)] = "smooth"
    """a class's share of the images to its weight: smooth, raw (-log p), relative, base2, base10, gombit, normit"""
    by: Literal["image", "instance"] = "image"
    """count images with the class (IIF) or its boxes (IOF)"""
    normalizer: Literal["sum", "images"] = "sum"
    """what counts are divided by: their sum, as in the paper, or the number of images, as in its published runs"""
    temperature: Annotated[float, Field(gt=0)] | Literal["mean"] = 1.0
    """they are divided by it; mean makes their mean 1 and leaves only their ratios"""
    on_nonpositive: Literal["raise", "allow"] = "raise"
    """a weight of zero or less, which inverts the sign of a logit, stops the run or is let through"""


class WeightKeys(VariantKeys):
    """The adjustment; adjust=none ignores these and IIF's weights"""

    center: Annotated[Literal["none", "mean", "bg"], Choice] = "none"
    """subtract the mean class logit or the background's before multiplying"""
    tau: Annotated[float, Field(ge=0)] = 1.0
    """strength of Logit Adjustment, NorCal and tau-normalisation"""
    fractal: Annotated[float, Field(ge=0)] = 2.0
    """adjust=fracal: strength of how far a class spreads over images, beside its frequency"""
    bg_scale: float = 1.0
    """weight of the background logit, in models that have one"""
    bg_shift: float = 0.0
    """added to the background logit"""


class FinishedKeys(Keys):
    """The finished model"""

    weights: str | None = None
    """a checkpoint, an exported file (val, predict), or another program's weights beside model"""
    model: str | None = None
    """beside another program's weights: the model's name"""
    model_args: Options = Field(default_factory=dict)
    """beside another program's weights: options of the model"""
    adjust: Readjust | None = None
    """adjust a model that was trained without, or otherwise; if not given, as the checkpoint has it"""


class DetectionKeys(Keys):
    """How the model runs and how detections are chosen"""

    batch: Annotated[int, Field(ge=1, le=65_536)] = 16
    """images at a time, of all processes together"""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """processes that read and augment images, for each process that computes; 0 reads in that one"""
    device: Device = None
    """cpu, cuda or the number of a GPU; if not given, the first GPU, or else the CPU"""
    amp: Annotated[Literal["none", "bf16", "fp16"], Choice, BeforeValidator(true_is("bf16"))] = "none"
    """mixed precision; true is bf16"""
    conf: Share = 0.001
    """score below which a detection is dropped"""
    iou: Share = 0.6
    """overlap from which the better of two detections suppresses the other"""
    max_det: Annotated[int, Field(ge=1)] = 300
    """detections of an image at most"""
    nms: Literal["class", "agnostic", "majority"] = "class"
    """suppress within a class, across classes, or across with the class that most of the overlapping boxes have"""
    multi_label: bool = True
    """a box may be a detection of several classes"""
    mask_threshold: Share = 0.5
    """probability above which a pixel belongs to a mask"""
    rect: bool = False
    """batches of like-shaped images, padded no further than they need"""


class InferenceKeys(DetectionKeys):
    """How detections are scored against the truth"""

    engine: Literal["hotcoco", "pycocotools"] = "hotcoco"
    """what computes COCO's figures; both give the same"""
    group_limits: Annotated[tuple[int, int] | None, Pair, Ascending] = None
    """training images up to which a class is rare and common (detectors; by default 10, 100), or below which it is few
    and above which it is many (classifiers; by default 20, 100)"""
