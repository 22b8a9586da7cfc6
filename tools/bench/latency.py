"""Single-image CPU latency of YOLOv3 at 416 px, softmax, IIF folded and fused, against Ultralytics' fused yolov3.

``network`` is the folded, fused model up to its last convolutions, once more packed as ``predict`` runs it, and
``onnxruntime`` the same exported.
Ultralytics has another head and 103.7 M parameters, so counted FLOP/s stand beside milliseconds. It needs an OpenCV of
its own, hence an environment of its own:

    python -m venv .venv-bench && .venv-bench/bin/pip install -c constraints.txt . ultralytics
    .venv-bench/bin/python tools/bench/latency.py
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, paired_times, summary, write

from iifdet.detectors import DETECTORS
from iifdet.detectors.fusing import fuse_batch_norms
from iifdet.detectors.packing import pack_convolutions
from iifdet.detectors.postprocess import PostprocessOptions


def main() -> None:
    args = arguments(__doc__, size=416, repeats=15)
    torch.manual_seed(0)
    plain = DETECTORS["yolov3"](80)
    plain.options = PostprocessOptions(conf=0.25)
    plain.eval()
    folded = copy.deepcopy(plain)
    folded.set_adjustment(torch.linspace(1, 8, 80))
    folded.fold()
    image = torch.rand(1, 3, args.size, args.size)
    models: dict[str, nn.Module] = {
        "iifdet": plain,
        "iifdet fused": fuse_batch_norms(copy.deepcopy(plain), image),
        "iifdet folded, fused": fuse_batch_norms(folded, image),
    }
    models["network"] = network = Network(folded).eval()
    models["network, packed"] = pack_convolutions(copy.deepcopy(network))
    models["iifdet folded, packed"] = pack_convolutions(copy.deepcopy(folded))
    models.update(_ultralytics())
    tasks: dict[str, Any] = {name: lambda m=m: m(image) for name, m in models.items()}
    tasks.update(_onnxruntime(network, image))
    with torch.inference_mode():
        times = paired_times(tasks, args.repeats)
        # Packed convolutions are not known to the counter; they have as many operations as before.
        flops = {name: _flops(model, image) for name, model in models.items() if "packed" not in name}
    rows: dict[str, Any] = summary(times, "network")
    for name, row in rows.items():
        row["gflop"] = round(flops.get(name, flops["network"]) / 1e9, 2)
        row["gflop_per_s"] = round(1e3 * row["gflop"] / row["ms"], 1)
        row["parameters"] = sum(p.numel() for p in models.get(name.replace("packed", "fused"), network).parameters())
    write("latency", args.out, {"size": args.size, "batch": 1, "models": rows})


class Network(nn.Module):
    """What is the same in every program: an image to the logits of boxes and classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> Any:
        return self.model.tensors(image)  # type: ignore[operator,union-attr]


def _onnxruntime(network: nn.Module, image: torch.Tensor) -> dict[str, Any]:
    """The network exported, with as many threads."""
    try:
        import onnxruntime
    except ImportError:
        print("onnxruntime is not installed: left out", file=sys.stderr)
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(network, (image,), path, dynamo=False, input_names=["image"])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pixels = image.numpy()
    with torch.inference_mode():
        for ours, theirs in zip(network(image), session.run(None, {"image": pixels}), strict=True):
            assert (torch.from_numpy(theirs) - ours).norm() < 1e-3 * ours.norm(), "the exported network differs"
    return {"onnxruntime": lambda: session.run(None, {"image": pixels})}


def _ultralytics() -> dict[str, nn.Module]:
    """The network alone; its NMS runs apart and is not counted."""
    try:
        from ultralytics import YOLO
    except ImportError:
        print("ultralytics is not installed: measuring iifdet alone", file=sys.stderr)
        return {}
    return {"ultralytics yolov3 fused": YOLO("yolov3.yaml").model.fuse(verbose=False).eval()}


def _flops(model: nn.Module, image: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
