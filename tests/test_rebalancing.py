"""Logit Adjustment, Balanced Softmax, online IIF and sampling through ``iifdet.train`` and ``iifdet.val``."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import iifdet
from iifdet.api import RunResult
from iifdet.checkpoint import read_checkpoint
from iifdet.detectors import DETECTORS
from iifdet.errors import InputError
from iifdet.longtail import batch_counts, online_weights
from iifdet.longtail.activations import class_scores
from iifdet.longtail.model import PRIOR
from iifdet.training import Callback, TrainState
from iifdet.types import Batch

Keys = Callable[..., dict[str, Any]]
IMAGES = (12, 7, 4, 1)
LOG_PRIOR = [math.log(n / 24) for n in IMAGES]
SMOOTH = [math.log(25 / (n + 1)) + 1 for n in IMAGES]


def last(run: RunResult) -> Path:
    return run.folder / "weights" / "last.pt"


def adjustment(run: RunResult) -> Any:
    return iifdet.load(last(run)).adjust


def trained(run: RunResult) -> dict[str, torch.Tensor]:
    weights = read_checkpoint(last(run))["weights"]
    return {k: v for k, v in weights.items() if not k.startswith(("adjust.", "class_weight"))}


def same(one: RunResult, other: RunResult) -> bool:
    a, b = trained(one), trained(other)
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def softmax(tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of one epoch without adjustment, to compare with and to start from."""
    return iifdet.train(**tiny_keys(tmp_path_factory.mktemp("softmax"), epochs=1, adjust="none"))


# -- logit adjustment, balanced softmax --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["end_to_end", "decoupled"])
def test_logit_adjustment_adds_the_log_prior_in_training_alone(
    tiny_keys: Keys, softmax: RunResult, tmp_path: Path, strategy: str
) -> None:
    keys = tiny_keys(tmp_path, epochs=1, adjust="la", tau=0.5)
    if strategy == "decoupled":
        keys |= {"weights": last(softmax)}
    adjust = adjustment(iifdet.train(**keys, strategy=strategy))
    assert adjust.when == "train" and adjust.scale.tolist() == [1] * 4
    assert adjust.shift.tolist() == pytest.approx([v / 2 for v in LOG_PRIOR])


def test_logit_adjustment_after_training_subtracts_it_and_trains_like_softmax(
    tiny_keys: Keys, softmax: RunResult, tmp_path: Path
) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="la", strategy="post_process"))
    adjust = adjustment(run)
    assert adjust.when == "infer"
    assert adjust.shift.tolist() == pytest.approx([-v for v in LOG_PRIOR])
    assert same(run, softmax)
    again = iifdet.val(weights=last(softmax), adjust="la", project=tmp_path, plots=False, workers=0)
    assert [again.metrics[k] for k in ("AP", "tail5")] == [run.metrics[k] for k in ("AP", "tail5")]


def test_balanced_softmax_trains_yolo_as_logit_adjustment_at_tau_one(
    tiny_keys: Keys, softmax: RunResult, tmp_path: Path
) -> None:
    bsce = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="bsce"))
    assert adjustment(bsce).shift.tolist() == pytest.approx([math.log(n) for n in IMAGES])
    la = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="la"))
    a, b = trained(bsce), trained(la)  # without a background logit ln Σn cancels, but for rounding
    assert all(torch.allclose(a[k], b[k], rtol=1e-2, atol=2e-3) for k in a if a[k].is_floating_point())
    assert not same(la, softmax)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjust": "bsce", "strategy": "post_process"}, "use adjust=la"),
        (
            {"adjust": "la", "strategy": "cost_sensitive"},
            "weighs the loss by IIF or Class-Balanced weights",
        ),
        ({"adjust": "iif", "bg_shift": 1.0}, "has no background logit"),
        ({"adjust": "la", "center": "mean"}, "center: expected none beside any adjustment but iif"),
        ({"adjust": "la", "source": "batch"}, "source: batch belongs to adjust=iif"),
        ({"source": "batch", "strategy": "post_process"}, "strategy=post_process leaves that alone"),
        ({"source": "batch", "variant": "raw"}, "got variant=raw"),
        ({"source": "batch", "by": "instance"}, "by=instance"),
        ({"tau": -1}, "tau: "),
        ({"temperature": 0}, "temperature: "),
        ({"temperature": "median"}, "temperature: "),
        ({"sampling": "rsf"}, "sampling: expected one of random, rfs, class_aware, square_root"),
        ({"sampling": "rfs", "repeat_threshold": 0}, "repeat_threshold: "),
    ],
)
def test_keys_that_make_no_sense_together_are_refused(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**tiny_keys(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_balanced_softmax_after_training_is_refused_by_val(softmax: RunResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="adjust: expected one of none, iif, la, norcal, fracal, taunorm, got 'bsce'"):
        iifdet.val(weights=last(softmax), adjust="bsce", project=tmp_path / "val")


# -- temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "divisor"), [(2.0, 2.0), ("mean", sum(SMOOTH) / 4)])
def test_temperature_divides_the_weights(
    tiny_keys: Keys, tmp_path: Path, temperature: float | str, divisor: float
) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, temperature=temperature))
    assert adjustment(run).scale.tolist() == pytest.approx([w / divisor for w in SMOOTH])


# -- online IIF --------------------------------------------------------------------------------------------------------


class Spy(Callback):
    """Notes each announced group and the scale that its first step uses."""

    def __init__(self) -> None:
        self.groups: list[list[Batch]] = []
        self.scales: list[torch.Tensor] = []
        self.steps: list[int] = []

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        self.groups.append(list(batches))
        self.steps.append(state.batch)

    def on_step(self, state: TrainState, losses: Any, lr: float, batches: int) -> None:
        self.scales.append(state.model.adjust.batch_scale.clone())  # type: ignore[union-attr,operator]


def test_online_iif_weighs_each_step_by_all_its_accumulated_images(tiny_keys: Keys, tmp_path: Path) -> None:
    spy = Spy()
    keys = tiny_keys(tmp_path, epochs=1, source="batch", batch=4, accumulate=4)
    run = iifdet.train(callbacks=[spy], **keys)
    assert [len(group) for group in spy.groups] == [4, 2] and spy.steps == [0, 4]
    expected = [
        online_weights(batch_counts([t["labels"] for b in group for t in b.targets], 4)).float() for group in spy.groups
    ]
    assert all(torch.equal(a, b) for a, b in zip(spy.scales, expected, strict=True))
    assert len({tuple(s.tolist()) for s in spy.scales}) == 2
    # Inference and checkpoint have the data set's weights.
    assert adjustment(run).scale.tolist() == pytest.approx(SMOOTH)
    assert [row["weight"] for row in run.metrics["per_class"]] == pytest.approx(SMOOTH)


def test_online_iif_trains_other_weights_than_the_data_set_s(tiny_keys: Keys, tmp_path: Path) -> None:
    online = iifdet.train(**tiny_keys(tmp_path, epochs=1, source="batch"))
    assert not same(online, iifdet.train(**tiny_keys(tmp_path, epochs=1)))


def test_online_iif_resumes_bit_equal_in_the_middle_of_an_epoch(tiny_keys: Keys, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
            if (state.epoch, state.batch) == (1, 4):
                raise RuntimeError("power cut")

    keys = tiny_keys(
        tmp_path, source="batch", batch=4, accumulate=2, save_steps=2, sampling="rfs", repeat_threshold=0.5
    )
    whole = iifdet.train(**{**keys, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Stop()], **keys)
    assert same(iifdet.train(resume=tmp_path / "run"), whole)


# -- sampling ----------------------------------------------------------------------------------------------------------


class Rows(Callback):
    """Counts how often each class is a target, and notes the length of the epoch."""

    def __init__(self) -> None:
        self.images = [0] * 4
        self.batches = 0

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for info in batch.infos:
                self.images[sum(info.index >= n for n in (12, 19, 23))] += 1

    def on_step(self, state: TrainState, losses: Any, lr: float, batches: int) -> None:
        self.batches = batches


@pytest.mark.parametrize(
    ("sampling", "expected", "batches"),
    [
        ("random", [12, 7, 4, 1], 3),
        ("class_aware", [6, 6, 6, 6], 3),
        # r = √(0.5 · 24 / n): 1, 1.309, 1.732, 3.464; together 12 + 9.2 + 6.9 + 3.5 = 31.6, so 32 and 4 batches
        ("rfs", [12, 9, 7, 3], 4),
    ],
)
def test_sampling_changes_how_often_classes_are_seen(
    tiny_keys: Keys, tmp_path: Path, sampling: str, expected: list[int], batches: int
) -> None:
    rows = Rows()
    keys = tiny_keys(tmp_path, epochs=1, sampling=sampling, repeat_threshold=0.5)
    run = iifdet.train(callbacks=[rows], **keys)
    assert all(abs(a - b) <= 1 for a, b in zip(rows.images, expected, strict=True)), rows.images
    assert rows.batches == batches
    with open(run.folder / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    # Weights come from the data set, not from what the sampler makes of it.
    assert adjustment(run).scale.tolist() == pytest.approx(SMOOTH)


def test_repeat_factors_that_repeat_nothing_say_where_to_begin(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    iifdet.train(**tiny_keys(tmp_path, epochs=1, sampling="rfs"))
    assert (
        "repeats no image, since no class has a smaller share than repeat_threshold=0.001; half of them" in caplog.text
    )
    assert "have less than 0.23" in caplog.text  # 12, 7, 4 and 1 of 24 images
    caplog.clear()
    iifdet.train(**tiny_keys(tmp_path, epochs=1, sampling="rfs", repeat_threshold=0.2, exist_ok=True))
    assert "sampling" not in caplog.text


# -- sigmoid priors ----------------------------------------------------------------------------------------------------


def test_sigmoid_classes_begin_at_the_prior_whatever_their_weight() -> None:
    model = DETECTORS["ssd300"](4, class_loss="bce")
    rows = list(model.classifier_rows())
    assert all(torch.allclose(r.bias.sigmoid(), torch.tensor(PRIOR)) for r in rows)
    with torch.no_grad():
        rows[0].bias[1] = 0.3  # trained, or loaded
    scale, shift = torch.tensor([1.0, 2.0, 8.0, 4.0]), torch.tensor([0.0, -1.0, 0.5, 0.0])
    model.set_adjustment(scale, shift, when="infer")
    model.init_class_biases(untrained_only=True)
    assert all(torch.allclose(r.bias.sigmoid(), torch.tensor(PRIOR)) for r in rows[1:])  # training sees no adjustment
    model.set_adjustment(scale, shift)
    model.init_class_biases(untrained_only=True)
    begin = [model.adjust(r.bias, phase="train").sigmoid() for r in rows]
    assert all(torch.allclose(p, torch.tensor(PRIOR)) for p in begin[1:])
    assert rows[0].bias[1].item() == pytest.approx(0.3) and begin[0][2].item() == pytest.approx(PRIOR)


@pytest.mark.parametrize("name", ["ssd300", "retinanet"])
def test_gumbel_classes_begin_at_the_prior_also_where_rows_are_built_for_sigmoids(name: str) -> None:
    args = {"trainable_backbone_layers": 0} if name == "retinanet" else {}
    model = DETECTORS[name](4, class_loss="gumbel", **args)
    model.set_adjustment(torch.tensor([1.0, 2.0, 8.0, 4.0]))
    model.init_class_biases(untrained_only=True)
    for rows in model.classifier_rows():
        scores = class_scores(model.adjust(rows.bias, phase="train"), "gumbel")
        torch.testing.assert_close(scores, torch.full((4,), PRIOR), rtol=1e-4, atol=0)
