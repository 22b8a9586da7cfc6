"""An exported file as a detector: it detects as the model did, and can do nothing else."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from iifdet.detectors import Detector, PostprocessOptions
from iifdet.detectors.batching import image_size
from iifdet.detectors.postprocess import select
from iifdet.errors import InputError
from iifdet.exporting.card import Card
from iifdet.exporting.graph import quiet
from iifdet.longtail import ClassifierRows
from iifdet.types import Detection, Target

ONNX, TORCH = ".onnx", ".pt2"
SUFFIXES = (ONNX, TORCH)
#: Images to what the graph gives, on the CPU.
Run = Callable[[Tensor], Sequence[Tensor]]


class ExportedDetector(Detector):
    """The graph of an exported file under the detector's contract, as far as it goes: ``forward`` in eval mode.

    Images are (B, 3, H, W) of the exported size, which a graph of one image sees one after the other. ``raw`` is not in
    the file, and the adjustment is in its rows, so neither explanations nor other adjustments are to be had.

    Args:
        card: what the file says about itself.
        run: images to boxes and scores, or with NMS inside to boxes, scores and labels, and masks where there are some.
    """

    def __init__(self, card: Card, run: Run) -> None:
        super().__init__(len(card.names), postprocess=card.options)
        self.card, self.names, self.counts = card, card.names, card.counts
        self.class_activation = card.class_activation
        self.wants_masks = card.masks
        self.recipe = card.habits()
        self.adjust.mark_folded()
        self._run = _Shared(run)
        self.eval()

    def forward(self, images: Any, targets: Sequence[Target] | None = None) -> list[Detection]:
        size = self.card.preprocessing.size
        if not isinstance(images, Tensor) or images.ndim != 4 or image_size(images) != size:
            got = tuple(images.shape) if isinstance(images, Tensor) else "a list"
            raise InputError(f"imgsz: expected (B, 3, {size[0]}, {size[1]}), the size of the export, got {got}")
        found: list[Detection] = []
        batch = images.detach().float().cpu()
        step = self.card.batch or max(len(batch), 1)
        for start in range(0, len(batch), step):
            given = [value.to(images.device) for value in self._run(batch[start : start + step])]
            if self.card.nms:
                found += [self._chosen(size, *values) for values in zip(*given, strict=True)]
            else:
                found += [select(b, s, size, self.options, self.card.levels)[0] for b, s in zip(*given, strict=True)]
        return found

    def _chosen(
        self, size: tuple[int, int], boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> Detection:
        rows = (scores > self.options.conf).nonzero().flatten()[: self.options.max_det]
        found = Detection(boxes=boxes[rows], labels=labels[rows], scores=scores[rows])
        if masks is None:
            return found
        return Detection(**found, masks=paste_masks_in_image(masks[rows, None], found["boxes"], size)[:, 0])

    def classifier_rows(self) -> Iterator[ClassifierRows]:
        """None that could be looked at."""
        return iter(())

    def check(self, options: PostprocessOptions, imgsz: int, rect: bool) -> None:
        """Refuse what the file has settled.

        Raises:
            InputError: another size, or with NMS inside a choice of detections that it has not made.
        """
        size, own = self.card.preprocessing.size, self.card.options
        if (imgsz, imgsz) != size or rect:
            got = "rect=true" if rect else imgsz
            raise InputError(f"imgsz: expected {size[0]}, the size of the export, got {got}; export anew for another")
        if not self.card.nms:
            return
        for key in ("iou", "nms", "multi_label"):
            if getattr(options, key) != getattr(own, key):
                raise InputError(
                    f"{key}: expected {getattr(own, key)}, as NMS inside the file has it, got {getattr(options, key)}; "
                    "export with nms_inside=false to choose"
                )
        if options.conf < own.conf or options.max_det > own.max_det:
            raise InputError(
                f"conf, max_det: expected at least {own.conf} and at most {own.max_det}, as NMS inside the file has "
                f"them, got {options.conf} and {options.max_det}; export anew with those"
            )


class _Shared:
    """A session, which copies of the detector share."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        return self.run(images)

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self


def is_exported(path: str | Path) -> bool:
    """Whether a file is called like an exported graph."""
    return Path(path).suffix.lower() in SUFFIXES


def read_card(path: str | Path) -> Card:
    """What an exported file says about itself; nothing of it is run.

    Raises:
        InputError: missing, unreadable, or not an export of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights: expected an exported file, got {path}, which is not there; check the path")
    try:
        return Card.from_metadata(_onnx_metadata(path) if path.suffix.lower() == ONNX else _torch_metadata(path))
    except InputError:
        raise
    except Exception as error:  # every library has errors of its own for a broken file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"weights: expected a file that iifdet exported, got {path}: {reason}") from error


def load_exported(path: str | Path, trusted: bool = False) -> ExportedDetector:
    """An exported file as a detector, on the CPU.

    Args:
        trusted: the file is known to come from a good place. PyTorch rebuilds a .pt2 with pickle and eval, so a crafted
            one can run any code.

    Raises:
        InputError: not an export of ours, a package is missing, or a .pt2 that nobody trusts.
    """
    path = Path(path)
    card = read_card(path)
    if path.suffix.lower() == TORCH and not trusted:
        raise InputError(
            f"trusted: expected true for {path}, since PyTorch can run code that stands in a .pt2; know where it comes "
            "from, or export with format=onnx"
        )
    try:
        return ExportedDetector(card, run_onnx(str(path)) if path.suffix.lower() == ONNX else _run_torch(path))
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"weights: expected a whole exported file, got {path}: {reason}") from error


def need(*packages: str) -> None:
    """Refuse what cannot be done without some of the optional packages.

    Raises:
        InputError: it names the missing ones.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"format: expected the packages {', '.join(packages)}, got no {missing[0]}; pip install 'iifdet[export]'"
        )


def run_onnx(model: str | bytes) -> Run:
    """The file at this path, or these bytes, in onnxruntime on as many threads as PyTorch has."""
    session = _session(model)
    return lambda images: [torch.from_numpy(out) for out in session.run(None, {"images": images.numpy()})]


def _session(model: str | bytes) -> Any:
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnx_metadata(path: Path) -> dict[str, str]:
    return dict(_session(str(path)).get_modelmeta().custom_metadata_map)


def _torch_metadata(path: Path) -> dict[str, str]:
    """The extra files of a .pt2, which is a zip archive."""
    with zipfile.ZipFile(path) as archive:
        extras = {n.rpartition("/")[2]: n for n in archive.namelist() if "/extra/" in n}
        return {key: archive.read(name).decode() for key, name in extras.items()}


def _run_torch(path: Path) -> Run:
    with quiet():
        module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(images: Tensor) -> Sequence[Tensor]:
        return module(images)

    return run
