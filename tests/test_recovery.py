"""What is not finite: skipped, named, rolled back with a lower rate; and no average ever sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import equal
from toy_run import Loader, everything, new_state, run_toy

from iifdet.checkpoint import read_checkpoint
from iifdet.training import Callback, FitOptions, NotFinite, TrainState, Undo, train_step
from iifdet.training import saving as saving_module
from iifdet.types import Batch

CPU = torch.device("cpu")


class Poison(Callback):
    """Spoil the pixels of the steps at which ``when`` says so."""

    def __init__(self, when: Callable[[TrainState], bool]) -> None:
        self.when, self.spoiled = when, 0

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        if self.when(state):
            batches[-1].images.fill_(math.nan)
            self.spoiled += 1


class PowerCut(Callback):
    def __init__(self, when: Callable[[TrainState], bool]) -> None:
        self.when = when

    def on_step(self, state: TrainState, *_: Any) -> None:
        if self.when(state):
            raise RuntimeError("power cut")


def lr_of(state: TrainState) -> list[float]:
    return [row["lr"] for row in state.rows]


def test_a_bad_step_moves_neither_weights_nor_averages_nor_statistics_and_names_its_images(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two accumulated batches is bad, so the first one's gradient must go too."""
    state, options = new_state(), FitOptions(epochs=1, device=CPU, accumulate=2)
    undo, batches = Undo(state.model, CPU), list(Loader().epoch(0))
    assert train_step(state, batches[:2], 6, options, undo)
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    average = {k: v.clone() for k, v in state.average.weights.items()}  # type: ignore[union-attr]
    batches[3].images.fill_(math.nan)
    assert not train_step(state, batches[2:4], 6, options, undo)
    equal(before, dict(state.model.state_dict())), equal(average, state.average.weights)  # type: ignore[union-attr]
    assert (state.bad_steps, state.batch, state.trained) == (1, 4, 2)
    assert "loss is nan at epoch 0 batch 3 (12.png, 13.png, 14.png, 15.png): step skipped" in caplog.text
    assert train_step(state, batches[4:], 6, options, undo) and state.bad_steps == 0
    assert not torch.equal(before["norm.running_mean"], state.model.state_dict()["norm.running_mean"])


def test_a_streak_over_an_epoch_s_end_is_rolled_back_and_cut_off_runs_come_to_the_same_bits(tmp_path: Path) -> None:
    """Bad from (1, 4) until the rate is lower: two steps of epoch 1 and two of epoch 2, then back to (1, 0)."""

    def poison() -> Poison:
        return Poison(lambda s: s.lr_factor == 1 and (s.epoch, s.batch) >= (1, 4))

    watched = poison()
    whole = run_toy(tmp_path / "whole", callbacks=[watched], max_bad_steps=4)
    expected = everything(whole)
    assert watched.spoiled == 4 and (whole.rollbacks, whole.lr_factor, whole.bad_steps) == (1, 0.5, 0)
    unharmed = lr_of(run_toy(tmp_path / "unharmed"))
    assert lr_of(whole) == [unharmed[0], unharmed[1] / 2, unharmed[2] / 2]
    assert all(v.isfinite().all() for v in whole.average.weights.values())  # type: ignore[union-attr]

    cuts = [
        lambda s: (s.epoch, s.batch) == (2, 1),  # last.pt is from among the bad steps, last.prev.pt from before
        lambda s: s.lr_factor < 1 and (s.epoch, s.batch) == (1, 3),  # rolled back, nothing saved since
        lambda s: s.lr_factor < 1 and (s.epoch, s.batch) == (2, 2),
    ]
    for cut in cuts:
        with pytest.raises(RuntimeError, match="power cut"):
            run_toy(tmp_path / "cut", callbacks=[poison(), PowerCut(cut)], max_bad_steps=4)
    assert read_checkpoint(tmp_path / "cut" / "weights" / "last.pt")["training"]["lr_factor"] == 0.5
    equal(expected, everything(run_toy(tmp_path / "cut", callbacks=[poison()], max_bad_steps=4)))


def test_the_counter_of_bad_steps_is_saved_with_the_epoch(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        poison = Poison(lambda s: (s.epoch, s.batch) in ((0, 4), (0, 5)))
        run_toy(tmp_path, callbacks=[poison, PowerCut(lambda s: s.epoch == 1)], max_bad_steps=4)
    assert read_checkpoint(tmp_path / "weights" / "last.pt")["training"]["bad_steps"] == 2
    assert read_checkpoint(tmp_path / "weights" / "last.prev.pt")["training"]["bad_steps"] == 0


def test_the_first_epoch_goes_back_to_the_start(tmp_path: Path) -> None:
    start = everything(new_state())["weights"]
    seen: list[dict[str, Any]] = []

    class Look(Poison):
        def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
            super().on_batches(state, batches)
            if (state.epoch, state.batch) == (0, 0):
                seen.append({k: v.clone() for k, v in state.model.state_dict().items()})

    state = run_toy(tmp_path, callbacks=[Look(lambda s: s.batch > 1 and s.lr_factor > 0.3)], max_bad_steps=2, epochs=1)
    assert (state.rollbacks, state.lr_factor, len(seen)) == (2, 0.25, 3)
    for weights in seen:
        equal(start, weights)


def test_no_more_rollbacks_than_allowed_then_it_stops(tmp_path: Path) -> None:
    poison = Poison(lambda s: s.epoch > 0)
    with pytest.raises(FloatingPointError, match=r"not finite 3 steps in a row; lower lr.*\(2 rollbacks\)"):
        run_toy(tmp_path, callbacks=[poison], max_bad_steps=3, max_rollbacks=2)
    assert poison.spoiled == 3 * 3
    content = read_checkpoint(tmp_path / "weights" / "last.pt")
    assert content["training"]["epoch"] == 1 and all(v.isfinite().all() for v in content["weights"].values())


def test_the_best_result_stays_the_best_over_a_rollback(tmp_path: Path) -> None:
    """Epoch 1 ends among bad steps with the best score; its weights are sound, and best.pt has them."""
    poison = Poison(lambda s: s.lr_factor == 1 and (s.epoch, s.batch) >= (1, 4))

    class Lower(Callback):
        def on_validate(self, state: TrainState) -> None:
            scores[1] = 0.9 if state.lr_factor == 1 else 0.2

    scores = [0.1, 0.0, 0.3]
    state = run_toy(tmp_path, callbacks=[poison, Lower()], scores=scores, max_bad_steps=4)
    assert state.rollbacks == 1 and (state.best, state.best_epoch) == (0.9, 2)
    assert read_checkpoint(tmp_path / "weights" / "best.pt")["metrics"]["AP"] == 0.9


@pytest.mark.parametrize("part", ["weights", "average"])
def test_ruined_weights_or_averages_are_never_saved_but_rolled_back(tmp_path: Path, part: str) -> None:
    class Ruin(Callback):
        def on_step(self, state: TrainState, *_: Any) -> None:
            if state.lr_factor == 1 and (state.epoch, state.batch) == (1, 3):
                weights = state.model.state_dict() if part == "weights" else state.average.weights  # type: ignore[union-attr]
                weights["head.bias"].fill_(math.inf)

    state = run_toy(tmp_path, callbacks=[Ruin()], save_steps=1, max_bad_steps=99)
    assert state.rollbacks == 1 and state.finished
    for name in ("last", "last.prev", "best"):
        content = read_checkpoint(tmp_path / "weights" / f"{name}.pt")
        assert all(v.isfinite().all() for p in ("weights", "ema") for v in content[p].values())


def test_an_unsound_start_is_refused(tmp_path: Path) -> None:
    state = new_state()
    with torch.no_grad():
        state.model.head.bias.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(NotFinite, match=r"weights such as head.bias"):
        run_toy(tmp_path, state)


# -- when it saves -----------------------------------------------------------------------------------------------------


class Saved(Callback):
    """Notes which checkpoint lies there when a step is made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.places = folder, []  # type: ignore[var-annotated]

    def on_step(self, state: TrainState, *_: Any) -> None:
        training = read_checkpoint(self.folder / "weights" / "last.pt")["training"]
        self.places.append((training["epoch"], training["batch"]))


def test_checkpoints_come_every_so_many_batches_also_where_steps_are_longer(tmp_path: Path) -> None:
    seen = Saved(tmp_path)
    run_toy(tmp_path, callbacks=[seen], save_steps=3, accumulate=2, epochs=2)
    assert seen.places == [(0, 0), (0, 0), (0, 4), (1, 0), (1, 0), (1, 4)]


def test_checkpoints_come_every_so_many_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, now = Saved(tmp_path), iter(range(0, 10_000, 25))  # the clock is read once a step, and at a save
    monkeypatch.setattr(saving_module.time, "monotonic", lambda: next(now))
    run_toy(tmp_path, callbacks=[seen], save_minutes=1, epochs=1)
    assert seen.places == [(0, 0), (0, 0), (0, 0), (0, 3), (0, 3), (0, 3)]


def test_last_prev_pt_is_the_checkpoint_before(tmp_path: Path) -> None:
    run_toy(tmp_path, epochs=3)
    last, previous = (read_checkpoint(tmp_path / "weights" / f"{n}.pt")["training"] for n in ("last", "last.prev"))
    assert (last["epoch"], previous["epoch"]) == (3, 2)


def test_a_run_resumed_from_last_prev_pt_ends_as_the_one_left_alone(tmp_path: Path) -> None:
    expected = everything(run_toy(tmp_path / "whole"))
    run_toy(tmp_path / "run")
    weights = tmp_path / "run" / "weights"
    (weights / "last.prev.pt").replace(weights / "last.pt")
    equal(expected, everything(run_toy(tmp_path / "run")))
