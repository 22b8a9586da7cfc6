"""Who trains in ``train_speed.py``: one optimizer step of each on batches that wait in pinned memory as uint8.

Each arm is what its project does in its own loop: ours is ``iifdet.training.train_step`` with ``clip=10 ema=0.9999``
beside Ultralytics, plain beside torchvision; Ultralytics' is its trainer's step (autocast, clipping at 10, SGD with
Nesterov momentum, its ModelEMA) and torchvision's that of its reference script (SGD, ``.item()`` on the loss). All
convert pixels on the device, and cuDNN may pick its algorithms for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv

from iifdet.detectors import DETECTORS
from iifdet.optim import AveragedWeights, build_optimizer
from iifdet.training import AMP_TYPES, FitOptions, TrainState, train_step
from iifdet.training.pieces import Undo
from iifdet.training.prefetch import ahead
from iifdet.types import Batch, ImageInfo, Target

CLASSES, BOXES = 80, 7  # as many boxes an image as COCO has on average
Step = Callable[[], object]


def made_up(images: int, size: int, number: int, pinned: bool) -> list[Batch]:
    """Batches of noise with boxes in places drawn from a seed."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(number):
        pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
        targets = []
        for _ in range(images):
            corner, side = (torch.rand(BOXES, 2, generator=generator) for _ in range(2))
            boxes = torch.cat([corner * 0.6, corner * 0.6 + side * 0.35 + 0.03], dim=1) * size
            targets.append(Target(boxes=boxes, labels=torch.randint(CLASSES, (BOXES,), generator=generator)))
        infos = [ImageInfo(n, n, f"{n}.jpg", (size, size)) for n in range(images)]
        batch = Batch(pixels, targets, infos)
        batches.append(batch.pin_memory() if pinned else batch)
    return batches


def ours(
    name: str, source: Iterator[Batch], device: torch.device, amp: str, size: int, like: str, compiled: bool
) -> tuple[Step, nn.Module]:
    """A step of iifdet's own loop, with IIF weights; ``like`` names whom it stands beside."""
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if name == "fasterrcnn":
        options = {"backbone": "resnet50_fpn", "min_size": size, "max_size": 2 * size}
    model = DETECTORS[name](CLASSES, **options).to(device)
    model.set_adjustment(torch.linspace(0.5, 2, CLASSES))
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    if compiled:
        model.compile_network()
    beside_yolo = like == "ultralytics"
    optimizer = build_optimizer(model, "sgd", lr=1e-5, momentum=0.9, weight_decay=5e-4)
    average = AveragedWeights(model, 0.9999) if beside_yolo else None
    state = TrainState(model, optimizer, torch.amp.GradScaler(device.type, enabled=False), average)
    fit = FitOptions(epochs=1, device=device, amp=amp, clip=10.0 if beside_yolo else 0.0)
    undo, batches = Undo(model, device), ahead(source, device)
    model.train()

    def step() -> None:
        if not train_step(state, [next(batches)], 10**9, fit, undo):
            raise RuntimeError("a step was skipped: its loss or gradient is not finite")

    return step, model


def torchvisions(
    name: str, source: Iterator[Batch], device: torch.device, amp: str, size: int
) -> tuple[Step, nn.Module]:
    """The training loop of torchvision's reference scripts, mixed precision on."""
    torch.manual_seed(0)
    plain: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": CLASSES + 1}
    if name == "ssd300":
        model = tv.ssd300_vgg16(**plain).to(device)
    else:
        model = tv.fasterrcnn_resnet50_fpn(**plain, min_size=size, max_size=2 * size).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=5e-4)
    model.train()

    def step() -> float:
        batch = next(source)
        images = list(batch.images.to(device, non_blocking=True).float().div_(255))  # type: ignore[union-attr]
        targets = [
            {"boxes": t["boxes"].to(device, non_blocking=True), "labels": t["labels"].to(device) + 1}
            for t in batch.targets
        ]
        with torch.autocast(device.type, AMP_TYPES[amp], enabled=amp != "none"):
            losses = sum(model(images, targets).values())
        value = losses.item()
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        return value

    return step, model


def ultralytics(source: Iterator[Batch], device: torch.device, amp: str, size: int) -> tuple[Step, nn.Module]:
    """The step of Ultralytics' DetectionTrainer on its yolov3.yaml.

    Raises:
        ImportError: it is not installed.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import ModelEMA

    torch.manual_seed(0)
    model = DetectionModel("yolov3.yaml", nc=CLASSES, verbose=False).to(device)
    model.args = get_cfg()
    kinds: list[list[Tensor]] = [[], [], []]
    for module in model.modules():
        for key, value in module.named_parameters(recurse=False):
            kinds[0 if value.ndim == 1 and "weight" in key else 1 if key == "bias" else 2].append(value)
    optimizer = torch.optim.SGD(kinds[1], lr=1e-5, momentum=0.937, nesterov=True)
    optimizer.add_param_group({"params": kinds[2], "weight_decay": 5e-4})
    optimizer.add_param_group({"params": kinds[0], "weight_decay": 0.0})
    average = ModelEMA(model)
    model.train()

    def step() -> None:
        batch = next(source)
        told: dict[str, Any] = _as_theirs(batch, size)
        told = {k: v.to(device, non_blocking=True) for k, v in told.items()}
        told["img"] = told["img"].float() / 255
        with torch.autocast(device.type, AMP_TYPES[amp], enabled=amp != "none"):
            loss, _ = model(told)
            loss = loss.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)

    return step, model


def _as_theirs(batch: Batch, size: int) -> dict[str, Any]:
    boxes = torch.cat([t["boxes"] for t in batch.targets]) / size
    centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    rows = torch.arange(len(batch)).repeat_interleave(torch.tensor([len(t["labels"]) for t in batch.targets]))
    labels = torch.cat([t["labels"] for t in batch.targets]).float().view(-1, 1)
    return {"img": batch.images, "cls": labels, "bboxes": centred, "batch_idx": rows.float()}


def arms(model: str, size: int, images: int, device: torch.device, amp: str) -> dict[str, Callable[[], Any]]:
    """Name -> a function that builds (step, model): ours, ours compiled, and whom the model stands beside."""
    batches = made_up(images, size, 3, device.type == "cuda")
    rival = "ultralytics" if model == "yolov3" else "torchvision"
    built: dict[str, Callable[[], Any]] = {
        "iifdet": lambda: ours(model, cycle(batches), device, amp, size, rival, False),
    }
    if rival == "ultralytics":
        built[rival] = lambda: ultralytics(cycle(batches), device, amp, size)
    else:
        built[rival] = lambda: torchvisions(model, cycle(batches), device, amp, size)
    if model != "fasterrcnn":
        built["iifdet compiled"] = lambda: ours(model, cycle(batches), device, amp, size, rival, True)
    return built
