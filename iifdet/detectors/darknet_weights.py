"""Darknet ``.weights`` files: full ones, truncated backbones (darknet53.conv.74), and files of another class count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from iifdet.detectors.darknet import ConvBNAct
from iifdet.detectors.yolov3 import Prediction, YOLOv3
from iifdet.errors import InputError

Block = ConvBNAct | Prediction


@dataclass
class DarknetReport:
    """What a file gave a model.

    Attributes:
        floats: parameters in the file.
        loaded, total: layers of the model that were filled, and all.
        file_classes: class count of the file, None for a backbone.
        full: every layer and every class row came from the file.
        notes: what did not match, one line each.
    """

    floats: int
    loaded: int
    total: int
    file_classes: int | None = None
    full: bool = False
    notes: list[str] = field(default_factory=list)


def load_darknet(model: YOLOv3, path: str | Path) -> DarknetReport:
    """Fill a YOLOv3 from a Darknet file, in place.

    Accepted are a file with every layer of this model, one that ends after any of its layers (a backbone), and one
    with every layer for another number of classes: then all but the class rows is taken. A full file was trained with
    sigmoid class scores, so the model is switched to them.

    Raises:
        InputError: the file is no Darknet file or does not fit; the message has the floats expected and found.
    """
    values = read_darknet(path)
    blocks = _blocks(model)
    classes = _classes_of(values.size, blocks, model.num_classes)
    sizes = [_block_size(b, classes if classes is not None else model.num_classes) for b in blocks]
    ends = np.cumsum(sizes)
    loaded = int(np.searchsorted(ends, values.size, side="right"))
    if loaded == 0 or ends[loaded - 1] != values.size:
        raise InputError(
            f"weights: expected {ends[-1]} floats for this model with {model.num_classes} classes "
            f"(or a file that ends after one of its layers), got {values.size} in {path}; use this architecture's file"
        )
    report = DarknetReport(values.size, loaded, len(blocks), classes, full=classes == model.num_classes)
    flat = torch.from_numpy(values)
    for block, start, size in zip(blocks[:loaded], ends - sizes, sizes, strict=False):
        part = flat[start : start + size]
        if isinstance(block, Prediction):
            _fill_prediction(block, part, classes or model.num_classes)
        else:
            _fill_conv(block, part)
    _finish(model, report)
    return report


def read_darknet(path: str | Path) -> np.ndarray:
    """The float32 parameters of a Darknet file, header versions 1 and 2 (int32 or int64 counter of seen images)."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights: expected a Darknet file, got {path} ({error.strerror}); check the path") from error
    if len(data) < 16:
        raise InputError(f"weights: expected a Darknet header of 16 bytes, got {len(data)} bytes in {path}")
    major, minor = (int(v) for v in np.frombuffer(data, np.int32, 2))
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise InputError(f"weights: expected a Darknet header, got version {major}.{minor} in {path}; not such a file")
    header = 20 if major * 10 + minor >= 2 else 16
    if (len(data) - header) % 4:
        raise InputError(
            f"weights: expected whole floats after {header} bytes, got {len(data)} bytes in {path}; truncated"
        )
    return np.frombuffer(data, np.float32, offset=header).copy()


def _blocks(model: YOLOv3) -> list[Block]:
    """Convolutions in file order, which is the order of registration."""
    return [m for m in model.modules() if isinstance(m, ConvBNAct | Prediction)]


def _block_size(block: Block, num_classes: int) -> int:
    if isinstance(block, Prediction):
        channels = block.box.in_channels
        return block.anchors * (5 + num_classes) * (channels + 1)
    return block.conv.weight.numel() + 4 * block.bn.num_features


def _classes_of(floats: int, blocks: list[Block], num_classes: int) -> int | None:
    """The class count for which ``floats`` is a full file, or None for a backbone or a file that does not fit."""
    fixed = sum(_block_size(b, 0) for b in blocks)
    per_class = sum(_block_size(b, 1) - _block_size(b, 0) for b in blocks)
    classes, rest = divmod(floats - fixed, per_class)
    return classes if rest == 0 and classes >= 1 else None


@torch.no_grad()
def _fill_conv(block: ConvBNAct, part: Tensor) -> None:
    bn, n = block.bn, block.bn.num_features
    assert bn.running_mean is not None and bn.running_var is not None
    for target, values in zip(
        (bn.bias, bn.weight, bn.running_mean, bn.running_var), part[: 4 * n].split(n), strict=True
    ):
        target.copy_(values)
    block.conv.weight.copy_(part[4 * n :].view_as(block.conv.weight))


@torch.no_grad()
def _fill_prediction(block: Prediction, part: Tensor, num_classes: int) -> None:
    """The file holds (A, 5 + C) biases, then (A, 5 + C, c) rows."""
    anchors, channels = block.anchors, block.box.in_channels
    bias, weight = part[: anchors * (5 + num_classes)], part[anchors * (5 + num_classes) :]
    bias, weight = bias.view(anchors, -1), weight.view(anchors, 5 + num_classes, channels, 1, 1)
    assert block.box.bias is not None and block.cls.bias is not None
    block.box.bias.copy_(bias[:, :5].flatten())
    block.box.weight.copy_(weight[:, :5].flatten(0, 1))
    if num_classes * anchors == block.cls.out_channels:
        block.cls.bias.copy_(bias[:, 5:].flatten())
        block.cls.weight.copy_(weight[:, 5:].flatten(0, 1))


def _finish(model: YOLOv3, report: DarknetReport) -> None:
    if report.full:
        if model.class_activation != "sigmoid":
            if model.class_loss != "ce":
                raise InputError(
                    f"weights: a whole Darknet file has class rows for sigmoid scores, got {model.class_activation} "
                    f"ones under class_loss={model.class_loss}; use a file that is cut before them, or class_loss=bce"
                )
            model.set_class_loss("bce")
            report.notes.append("Darknet class rows are sigmoid scores: class_loss is now bce")
    elif report.file_classes is not None:
        report.notes.append(
            f"class rows: the file has {report.file_classes} classes, the model {model.num_classes}: not taken"
        )
    else:
        report.notes.append(f"a backbone: {report.total - report.loaded} of {report.total} layers keep random weights")


def save_darknet(model: YOLOv3, path: str | Path) -> None:
    """Write a full Darknet file (header 0.2.0); the inverse of :func:`load_darknet`."""
    parts = [part.detach().cpu().float().numpy().ravel() for block in _blocks(model) for part in _block_values(block)]
    header = np.array([0, 2, 0], np.int32).tobytes() + np.array([0], np.int64).tobytes()
    Path(path).write_bytes(header + np.concatenate(parts).astype(np.float32).tobytes())


def _block_values(block: Block) -> list[Tensor]:
    if isinstance(block, Prediction):
        assert block.box.bias is not None and block.cls.bias is not None
        rows = [
            torch.cat(
                (box.view(block.anchors, 5, -1), cls.view(block.anchors, block.cls.out_channels // block.anchors, -1)),
                1,
            )
            for box, cls in ((block.box.bias, block.cls.bias), (block.box.weight, block.cls.weight))
        ]
        return rows
    bn = block.bn
    assert isinstance(bn.running_mean, Tensor) and isinstance(bn.running_var, Tensor) and isinstance(bn, nn.BatchNorm2d)
    return [bn.bias, bn.weight, bn.running_mean, bn.running_var, block.conv.weight]
