"""A training step asks the device for nothing but its losses and the gradient's norm, all at once.

On CUDA each question empties the device's queue. Here, on the CPU, operations are counted whose result the host has to
know before it can go on: those that read a value, and those whose output has as many rows as some mask says.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iifdet.build.loop import placed
from iifdet.config import TrainConfig
from iifdet.detectors import DETECTORS
from iifdet.errors import InputError
from iifdet.optim import AveragedWeights, build_optimizer
from iifdet.training import FitOptions, TrainState, train_step
from iifdet.training.pieces import Undo
from iifdet.training.prefetch import ahead
from iifdet.types import Batch, ImageInfo, Target

CPU = torch.device("cpu")
#: Operations that read the device.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim")


class Reads(TorchDispatchMode):
    """Notes the operations that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        rows = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
        if name in READS or any(row is not None and row.dtype == torch.bool for row in rows):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _batch(size: int, boxes: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    targets = []
    for _ in range(2):
        corner = torch.rand(boxes, 2, generator=generator) * size / 2
        labels = torch.randint(4, (boxes,), generator=generator)
        targets.append(Target(boxes=torch.cat([corner, corner + size / 4], dim=1), labels=labels))
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)
    return Batch(pixels, targets, [ImageInfo(n, n, f"{n}.jpg", (size, size)) for n in range(2)])


def _step(name: str, device: torch.device, clip: float, **options: Any) -> tuple[Callable[[Batch], bool], TrainState]:
    torch.manual_seed(0)
    model = DETECTORS[name](4, **options).to(device)
    model.set_adjustment(torch.tensor([0.5, 1.0, 2.0, 3.0]))
    optimizer = build_optimizer(model, "sgd", lr=1e-4)
    state = TrainState(model, optimizer, torch.amp.GradScaler(device.type, enabled=False), AveragedWeights(model, 0.9))
    undo, fit = Undo(model, device), FitOptions(epochs=1, device=device, clip=clip)
    model.train()
    return lambda batch: train_step(state, [batch], 10, fit, undo), state


@pytest.mark.parametrize("boxes", [0, 3])
@pytest.mark.parametrize("clip", [0.0, 10.0])
@pytest.mark.parametrize(
    ("name", "size", "options"), [("yolov3-nano", 64, {}), ("yolov3-tiny", 64, {}), ("ssd300", 300, {"width": 0.125})]
)
def test_a_step_reads_the_device_once(
    name: str, size: int, options: dict[str, Any], clip: float, boxes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tolist`` of losses and norm is the one question; the check of the targets looks at tensors of the CPU."""
    for module in ("ssd", "yolov3"):
        monkeypatch.setattr(sys.modules[f"iifdet.detectors.{module}"], "check_targets", lambda *_: None)
    asked: list[int] = []
    plain = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: asked.append(self.numel()) or plain(self))
    step, state = _step(name, CPU, clip, **options)
    step(_batch(size, boxes))  # momentum is made in the first
    asked.clear()
    with Reads() as reads:
        assert step(_batch(size, boxes))
    assert len(asked) == 1 and asked[0] == len(state.sums) + 2, "each loss, their sum, the norm"
    assert not reads.found


def test_a_mask_or_a_read_value_is_counted() -> None:
    """What the test above leans on."""
    x = torch.arange(4.0)
    for question in (lambda: x[x > 1], lambda: x.sum().item(), lambda: bool(x.any()), lambda: x.nonzero()):
        with Reads() as reads:
            question()
        assert reads.found, "not seen"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("name", "size"), [("yolov3-nano", 64), ("ssd300", 300)])
def test_cuda_itself_sees_one_wait_a_step(name: str, size: int) -> None:
    device = torch.device("cuda", 0)
    step, _ = _step(name, device, 10.0)
    batches = ahead(iter([_batch(size, 3).pin_memory() for _ in range(3)]), device)
    step(next(batches))
    batch = next(batches)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing" in str(w.message) for w in caught) == 1


# -- compile -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "options"), [("yolov3-nano", 64, {}), ("ssd300", 300, {"width": 0.125, "class_loss": "bce"})]
)
def test_a_compiled_network_trains_as_the_plain_one(name: str, size: int, options: dict[str, Any]) -> None:
    """Graph capture without the code generator, which takes minutes: the same steps to the bit, the same state dict."""
    plain, one = _step(name, CPU, 10.0, **options)
    compiled, other = _step(name, CPU, 10.0, **options)
    other.model.compile_network(backend="aot_eager")  # type: ignore[operator]
    for _ in range(2):
        assert plain(_batch(size, 3)) and compiled(_batch(size, 3))
    assert one.sums == pytest.approx(other.sums, rel=1e-5)
    weights = other.model.state_dict()
    assert list(weights) == list(one.model.state_dict())
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5)


def test_compile_is_refused_where_shapes_are_not_fixed() -> None:
    with pytest.raises(InputError, match=r"compile: RetinaNet has no part of fixed shapes"):
        placed(TrainConfig(compile=True), DETECTORS["retinanet"](2, backbone="mobilenet_v3_large_fpn"), CPU)
