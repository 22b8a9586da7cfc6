"""SSD300, Faster and Mask R-CNN beside torchvision's own: the same weights, images and targets, in turns.

    IIFDET_DATA_DIR=… python tools/bench/detectors.py                                 CPU: batch 2, small images
    IIFDET_DATA_DIR=… python tools/bench/detectors.py --batch 16 --side 800 --repeats 20     CUDA

``iifdet`` is the model with the identity, ``iifdet iif`` the same with IIF weights. A training step is forward,
backward and SGD; inference is one image to detections. Peak memory is what a step allocates beyond weights, gradients
and momentum, by the allocator's own book.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import detection as tv

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, paired_times, summary, write

from iifdet.detectors import DETECTORS
from iifdet.detectors.postprocess import PostprocessOptions
from iifdet.detectors.ssd import from_torchvision

CLASSES = 20
#: What torchvision is told; ours are given the same thresholds and limits.
RCNN = {"box_score_thresh": 0.05, "box_nms_thresh": 0.5, "box_detections_per_img": 100}
NAMES = {"ssd300": tv.ssd300_vgg16, "fasterrcnn": tv.fasterrcnn_resnet50_fpn, "maskrcnn": tv.maskrcnn_resnet50_fpn}
ARMS = ("torchvision", "iifdet", "iifdet iif")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    args = arguments(__doc__, models=",".join(NAMES), batch=2, side=320, repeats=8, amp="none")
    content: dict[str, Any] = {}
    for name in args.models.split(","):
        content[name] = _measure(args, name)
        print(name, content[name], flush=True)
    setting = {k: v for k, v in vars(args).items() if k != "out"}
    write("detectors", args.out, {"setting": setting, "models": content})


def _measure(args: Any, name: str) -> dict[str, Any]:
    images, targets = _data(args, masks=name == "maskrcnn")
    models = {arm: _build(name, arm, args.side).to(DEVICE) for arm in ARMS}
    steps = {arm: _step(model.train(), images, targets, args.amp) for arm, model in models.items()}
    train = paired_times(steps, args.repeats, warmup=1)
    del steps
    gc.collect()
    for arm, model in models.items():
        model.load_state_dict(_build(name, arm, args.side).state_dict())  # training has moved them apart
    infer = {arm: partial(_infer, model.eval(), images[:1], args.amp) for arm, model in models.items()}
    found = {arm: len(task()[0]["scores"]) for arm, task in infer.items()}
    return {
        "training_step": summary(train, "torchvision"),
        "inference": summary(paired_times(infer, 3 * args.repeats, warmup=1), "torchvision"),
        "detections": found,
        "peak_mb": {arm: _peak(args, name, arm) for arm in ARMS},
    }


def _build(name: str, arm: str, side: int) -> nn.Module:
    """A model with the weights of torchvision's, drawn once; its class logits are spread as those of a trained one."""
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES + 1}
    sizes = {} if name == "ssd300" else {"min_size": side, "max_size": 2 * side}
    theirs = NAMES[name](**options, **sizes, **({} if name == "ssd300" else RCNN)).eval()
    _spread(theirs, name)
    if arm == "torchvision":
        return theirs
    if name == "ssd300":
        ours = DETECTORS[name](CLASSES)
        ours.load_state_dict(from_torchvision(theirs.state_dict()))
    else:
        ours = DETECTORS[name](CLASSES, backbone="resnet50_fpn", **sizes)
        ours.net.load_state_dict(theirs.state_dict())  # type: ignore[union-attr,operator]
        ours.options = PostprocessOptions(conf=0.05, iou=0.5, max_det=100, min_box=0.01)
    if arm == "iifdet iif":
        ours.set_adjustment(torch.linspace(0.5, 2, CLASSES))
    return ours


@torch.no_grad()
def _spread(model: nn.Module, name: str) -> None:
    """Random classifiers give every class of every box the same score, which no trained model does."""
    if name == "ssd300":
        for layer in model.head.classification_head.module_list:  # type: ignore[union-attr]
            layer.weight.normal_(std=0.5 / layer.weight[0].numel() ** 0.5)
            layer.bias.view(-1, CLASSES + 1)[:, 0] += 4
    else:
        layer = model.roi_heads.box_predictor.cls_score  # type: ignore[union-attr]
        layer.weight.normal_(std=0.5)


def _data(args: Any, masks: bool) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Photos, each with eight boxes in places drawn from a seed."""
    folder = Path(os.environ.get("IIFDET_DATA_DIR", "unset")) / "coco128"
    files = sorted(folder.rglob("*.jpg"))[: args.batch]
    if len(files) < args.batch:
        sys.exit(f"photos: expected {args.batch} under {folder}, found {len(files)}; set IIFDET_DATA_DIR")
    side, generator = args.side, torch.Generator().manual_seed(0)
    images, targets = [], []
    for file in files:
        pixels = cv2.cvtColor(cv2.resize(cv2.imread(str(file)), (side, side)), cv2.COLOR_BGR2RGB)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).to(DEVICE))
        corner, size = torch.rand(8, 2, generator=generator) * 0.6, torch.rand(8, 2, generator=generator) * 0.3 + 0.08
        boxes = torch.cat([corner, corner + size], dim=1) * side
        target = {"boxes": boxes, "labels": torch.randint(CLASSES, (8,), generator=generator)}
        if masks:
            target["masks"] = torch.zeros(8, side, side, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(target["masks"], boxes.round().int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
        targets.append({k: v.to(DEVICE) for k, v in target.items()})
    return images, targets


def _step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]], amp: str) -> Callable[[], None]:
    """A training step; torchvision counts background as class 0."""
    offset = 0 if hasattr(model, "adjust") else 1
    own = [{**t, "labels": t["labels"] + offset} for t in targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        torch.manual_seed(0)  # the same proposals are drawn in every arm
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=amp == "bf16"):
            losses = model(images, own)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@torch.inference_mode()
def _infer(model: nn.Module, images: list[Tensor], amp: str) -> Any:
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=amp == "bf16"):
        return model(images)


def _peak(args: Any, name: str, arm: str) -> float:
    """Most megabytes of tensors that a training step holds beyond those that were there before it."""
    images, targets = _data(args, masks=name == "maskrcnn")
    step = _step(_build(name, arm, args.side).to(DEVICE).train(), images, targets, args.amp)
    step()  # gradients and momentum are not the step's
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return round(max(accumulate(e.nbytes() for e in changes)) / 1e6, 1)


if __name__ == "__main__":
    main()
