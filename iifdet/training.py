"""The loop: batches in, checkpoints out. It knows losses, metrics and a fitness, and no task or detector by name."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from iifdet.checkpoint import save_checkpoint, to_cpu
from iifdet.optim import AveragedWeights, Schedule
from iifdet.rundir import RunDir
from iifdet.types import Batch, Target

log = logging.getLogger("iifdet")

AMP_TYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: So many steps in a row with a loss that is not finite, and the run stops.
MAX_BAD_STEPS = 20


class EpochLoader(Protocol):
    """A loader that can start in the middle of any epoch."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class FitOptions:
    """How to run the loop; see the keys of the same names."""

    epochs: int
    device: torch.device
    amp: str = "none"
    accumulate: int = 1
    clip: float = 0.0
    patience: int = 0
    save_steps: int = 0
    val_every: int = 1
    multi_scale: tuple[float, float] | None = None
    multi_scale_every: int = 10
    imgsz: int = 640
    seed: int = 0


class Callback:
    """Something that watches a run. Override what you need; every hook is neutral."""

    def on_start(self, state: TrainState) -> None: ...
    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        """All batches that the coming optimizer step accumulates, before the first of them is trained."""

    def on_step(self, state: TrainState, losses: Mapping[str, float], lr: float, batches: int) -> None: ...
    def on_validate(self, state: TrainState) -> None: ...
    def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None: ...
    def on_end(self, state: TrainState) -> None: ...


@dataclass
class TrainState:
    """Everything that changes during a run, and so everything that resuming needs.

    Attributes:
        epoch, batch: the next batch to train is number ``batch`` of ``epoch``.
        best, best_epoch: best fitness so far and when.
        rows: results.csv so far.
        sums: loss sums of the unfinished epoch.
        trained: batches of the unfinished epoch whose loss was finite.
        bad_steps: steps in a row, over epochs, whose loss was not finite.
    """

    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None = None
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    rows: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    trained: int = 0
    finished: bool = False
    bad_steps: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors; weights and averages are saved beside, not here."""
        return {
            "optimizer": to_cpu(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "generators": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            **{k: getattr(self, k) for k in PLAIN_FIELDS},
        }

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Restore a checkpoint's ``weights``, ``ema`` and ``training`` parts."""
        training = content["training"]
        self.model.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(training["optimizer"])
        if training["scaler"]:
            self.scaler.load_state_dict(training["scaler"])
        if self.average is not None and content["ema"] is not None:
            for name, value in content["ema"].items():
                self.average.weights[name].copy_(value)
            self.average.updates = training["average_updates"]
        torch.set_rng_state(training["generators"]["cpu"])
        if torch.cuda.is_available() and training["generators"]["cuda"]:
            torch.cuda.set_rng_state_all(training["generators"]["cuda"])
        for key in PLAIN_FIELDS:
            setattr(self, key, training[key])


PLAIN_FIELDS = ("epoch", "batch", "best", "best_epoch", "rows", "sums", "images", "seconds", "trained", "finished")

#: Validates the model it is given: (figures for results.csv, fitness).
Validate = Callable[[nn.Module], tuple[dict[str, Any], float]]


def fit(
    state: TrainState,
    loader: EpochLoader,
    schedule: Schedule,
    options: FitOptions,
    run: RunDir,
    validate: Validate,
    recipe: dict[str, Any],
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train to the last epoch: each epoch train, validate, write results.csv and checkpoints.

    Raises:
        FloatingPointError: the loss (MAX_BAD_STEPS steps in a row, or the last epoch) or a weight is not finite.
        KeyboardInterrupt, SystemExit: after saving at the end of the step, on SIGINT and SIGTERM.
    """
    save = Saver(state, run, recipe)
    with GracefulStop() as stop:
        for callback in callbacks:
            callback.on_start(state)
        while state.epoch < options.epochs and not state.finished:
            started = time.perf_counter()
            train_one_epoch(state, loader, schedule, options, callbacks, save, stop)
            refuse_ruins(state, options.epochs)
            row = _epoch_row(state, schedule, time.perf_counter() - started)
            last = state.epoch + 1 >= options.epochs
            fitness = None
            if last or (state.epoch + 1) % options.val_every == 0:
                for callback in callbacks:
                    callback.on_validate(state)
                with averaged(state) as model:
                    figures, fitness = validate(model)
                row.update(figures)
            _finish_epoch(state, row, fitness, options)
            save(row, best=state.best_epoch == row["epoch"])
            run.write_rows("results.csv", state.rows)
            for callback in callbacks:
                callback.on_epoch_end(state, row)
            if not state.finished:  # a run at its end may as well end
                stop.leave_if_asked()
        for callback in callbacks:
            callback.on_end(state)


def train_one_epoch(
    state: TrainState,
    loader: EpochLoader,
    schedule: Schedule,
    options: FitOptions,
    callbacks: Sequence[Callback] = (),
    save: Callable[[], None] | None = None,
    stop: GracefulStop | None = None,
) -> None:
    """Train from ``state.batch`` to the end of the epoch; an interrupted epoch goes on where it was saved."""
    model, batches = state.model, len(loader)
    set_train_mode(model)
    started = time.perf_counter()
    for batch in _announced(loader.epoch(state.epoch, start=state.batch), state, options.accumulate, callbacks):
        lr = schedule.at(state.epoch + state.batch / batches)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        moved = rescale(batch.to(options.device), _scale_of(state, batches, options))
        with torch.autocast(options.device.type, AMP_TYPES[options.amp], enabled=options.amp != "none"):
            losses = model(moved.images, moved.targets)
        total = torch.stack(list(losses.values())).sum()
        finite = bool(total.isfinite())
        state.bad_steps = 0 if finite else state.bad_steps + 1
        if finite:
            state.scaler.scale(total / options.accumulate).backward()
            _add(state.sums, losses)
            state.images, state.trained = state.images + len(batch), state.trained + 1
        else:
            files = ", ".join(info.file for info in batch.infos[:3])
            log.warning(
                "loss is %s at epoch %d batch %d (%s, …): skipped", total.item(), state.epoch, state.batch, files
            )
            if state.bad_steps >= MAX_BAD_STEPS:
                raise FloatingPointError(
                    f"the loss was not finite {state.bad_steps} steps in a row; lower lr, or set clip=10"
                )
        state.batch += 1
        if state.batch % options.accumulate == 0 or state.batch == batches:
            optimizer_step(state, options.clip)
        now = time.perf_counter()
        state.seconds, started = state.seconds + now - started, now
        for callback in callbacks:
            callback.on_step(state, {k: v / max(1, state.trained) for k, v in state.sums.items()}, lr, batches)
        asked = stop is not None and stop.signal is not None
        due = options.save_steps > 0 and state.batch % options.save_steps == 0
        if save is not None and (asked or due) and state.batch < batches and state.batch % options.accumulate == 0:
            save()
            if stop is not None:
                stop.leave_if_asked()


def refuse_ruins(state: TrainState, epochs: int) -> None:
    """Stop before ruined weights replace those of the last checkpoint, and at the end of a run that learnt nothing."""
    ruined = [name for name, p in state.model.named_parameters() if not bool(p.isfinite().all())]
    if ruined or (not state.trained and state.epoch + 1 >= epochs):
        what = f"weights such as {ruined[0]} are" if ruined else "the loss of every batch was"
        raise FloatingPointError(
            f"{what} not finite after epoch {state.epoch + 1}; lower lr, or set clip=10; last.pt is from before"
        )


def _announced(
    batches: Iterable[Batch], state: TrainState, accumulate: int, callbacks: Sequence[Callback]
) -> Iterator[Batch]:
    """The batches as they come, those of one optimizer step announced together."""
    source = iter(batches)
    while group := list(islice(source, accumulate)):
        for callback in callbacks:
            callback.on_batches(state, group)
        yield from group


def optimizer_step(state: TrainState, clip: float = 0.0) -> None:
    """Clip, step, reset gradients, average. Without a gradient, or with one that is not finite, no step."""
    parameters = [p for g in state.optimizer.param_groups for p in g["params"]]
    if all(p.grad is None for p in parameters):  # every loss since the last step was skipped
        return
    if clip:
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, clip)
    else:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not state.scaler.is_enabled() and not norm.isfinite():  # an enabled scaler sees to that itself
        log.warning("gradient is %s at epoch %d batch %d: skipped", norm.item(), state.epoch, state.batch - 1)
        state.optimizer.zero_grad(set_to_none=True)
        return
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.model)


def set_train_mode(model: nn.Module) -> None:
    """Train mode, except for batch norms whose parameters are frozen: their running statistics must not move."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                module.eval()


@contextlib.contextmanager
def averaged(state: TrainState) -> Iterator[nn.Module]:
    """The model in eval mode with its averaged weights, where there are some; the raw ones come back after."""
    model = state.model
    raw = None
    if state.average is not None:
        raw = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(state.average.weights)
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        if raw is not None:
            model.load_state_dict(raw)


def rescale(batch: Batch, size: int | None) -> Batch:
    """Resize each image's longer side to ``size`` pixels, boxes and masks with it; None leaves all as it is."""
    old = [(int(image.shape[-2]), int(image.shape[-1])) for image in batch.images]
    if size is None or all(max(shape) == size for shape in old):
        return batch
    new = [(round(h * size / max(h, w)), round(w * size / max(h, w))) for h, w in old]
    images: Tensor | list[Tensor]
    if isinstance(batch.images, Tensor):
        images = _resize(batch.images, new[0])
    else:
        images = [_resize(image[None], shape)[0] for image, shape in zip(batch.images, new, strict=True)]
    targets = [_rescale_target(*each) for each in zip(batch.targets, old, new, strict=True)]
    return Batch(images, targets, batch.infos)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _rescale_target(target: Target, old: tuple[int, int], new: tuple[int, int]) -> Target:
    scaled = target.copy()
    if "boxes" in scaled:  # a classifier's target has none
        scaled["boxes"] = target["boxes"] * target["boxes"].new_tensor([new[1] / old[1], new[0] / old[0]] * 2)
    if "masks" in target:
        scaled["masks"] = F.interpolate(target["masks"][:, None].float(), size=new)[:, 0].to(target["masks"].dtype)
    return scaled


def _scale_of(state: TrainState, batches: int, options: FitOptions) -> int | None:
    """A multiple of 32 within the bounds, drawn every so many steps from (seed, step) alone: a resume repeats it."""
    if options.multi_scale is None:
        return None
    low, high = (max(1, round(bound * options.imgsz / 32)) for bound in options.multi_scale)
    step = (state.epoch * batches + state.batch) // options.multi_scale_every
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
    return 32 * int(torch.randint(low, high + 1, (), generator=generator))


def _add(sums: dict[str, float], losses: Mapping[str, Tensor]) -> None:
    values = torch.stack([v.detach() for v in losses.values()]).tolist()
    for name, value in zip(losses, values, strict=True):
        sums[name] = sums.get(name, 0.0) + value


def _epoch_row(state: TrainState, schedule: Schedule, seconds: float) -> dict[str, Any]:
    batches = max(1, state.batch)
    lr = schedule.at(state.epoch + (batches - 1) / batches)  # of the last step
    row: dict[str, Any] = {"epoch": state.epoch + 1, "seconds": round(seconds, 2), "lr": lr}
    row["images_per_s"] = round(state.images / max(state.seconds, 1e-9), 2)
    trained = max(1, state.trained)
    row.update({f"loss_{name}": value / trained for name, value in state.sums.items()})
    row["loss"] = sum(state.sums.values()) / trained
    return row


def _finish_epoch(state: TrainState, row: dict[str, Any], fitness: float | None, options: FitOptions) -> None:
    if fitness is not None and (fitness > state.best or state.best_epoch < 0):
        state.best, state.best_epoch = fitness, row["epoch"]
    state.rows.append(row)
    state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
    state.images, state.seconds, state.trained = 0, 0.0, 0
    since = state.epoch - state.best_epoch
    stale = fitness is not None and options.patience > 0 and since >= options.patience
    if stale:
        log.info(
            "stopped early: no better result for %d epochs (best was epoch %d)", options.patience, state.best_epoch
        )
    state.finished = stale or state.epoch >= options.epochs


class Saver:
    """Writes last.pt, and best.pt when it is the best."""

    def __init__(self, state: TrainState, run: RunDir, recipe: dict[str, Any]) -> None:
        self.state, self.run, self.recipe = state, run, recipe

    def __call__(self, metrics: dict[str, Any] | None = None, best: bool = False) -> None:
        state = self.state
        average = None if state.average is None else state.average.weights
        if best:  # without optimizer state: a result, not a place to go on from
            save_checkpoint(self.run.best, state.model, recipe=self.recipe, ema=average, metrics=metrics)
        save_checkpoint(
            self.run.last,
            state.model,
            recipe=self.recipe,
            ema=average,
            training=state.state_dict(),
            metrics=metrics or (state.rows[-1] if state.rows else {}),
        )


class GracefulStop:
    """Turns SIGINT and SIGTERM into a request that the loop honours after the step. A second one interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        with contextlib.suppress(ValueError):  # signals can only be caught in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def leave_if_asked(self) -> None:
        """Raise what the signal asks for; call it only when everything is saved."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(143)
