"""Features drawn for rare classes: the published distribution, its parts, whole second stages, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run
from torch import Tensor

import iifdet
from iifdet.classifiers.synthesis import FLOOR, Moments, Synthesis
from iifdet.errors import InputError

COUNTS = (6, 4, 3, 2)
LABELS = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))
#: What the reference numbers were made of.
FEATURES = torch.nn.functional.normalize(torch.sin(torch.arange(75) * 0.7 + 0.3).abs().view(15, 5), dim=-1)
FIRST_OF_LAST = 13


def synthesis(neighbors: int = 3, spread: float = 0.0, scale: float = 1.0) -> Synthesis:
    batches = [(scale * FEATURES[i : i + 4], LABELS[i : i + 4]) for i in range(0, 15, 4)]
    return Synthesis.of(Moments.of(batches, 4), neighbors, spread)


def covariance_of(made: Synthesis, nearest: Tensor) -> Tensor:
    lent = made.roots[nearest]
    return (lent @ lent.transpose(1, 2)).mean(dim=0) + made.spread + FLOOR * torch.eye(5)


def test_the_distribution_is_the_published_program_s() -> None:
    """TailCalib with λ = 1, α = 0, three neighbours, for the first feature of the rarest class."""
    made, x = synthesis(), FEATURES[FIRST_OF_LAST : FIRST_OF_LAST + 1]
    nearest = made.nearest(x)[0]
    assert nearest.tolist() == [3, 0, 2]
    mean = (made.means[nearest].sum(dim=0) + x[0]) / 4
    expected = torch.tensor([0.532877, 0.420744, 0.226722, 0.342421, 0.497554])
    torch.testing.assert_close(mean, expected, atol=2e-6, rtol=0)
    covariance = covariance_of(made, nearest) - FLOOR * torch.eye(5)
    row = torch.tensor([0.011284, -0.002195, -0.018829, -0.004772, 0.015234])
    torch.testing.assert_close(covariance[0], row, atol=2e-6, rtol=0)
    assert covariance.trace().item() == pytest.approx(0.111642, abs=3e-6)
    assert (made.wanted * torch.tensor(COUNTS)).tolist() == [0, 2, 3, 4]
    assert made.per_image == pytest.approx(9 / 15)


@pytest.mark.parametrize(("neighbors", "spread"), [(3, 0.0), (2, 0.2)])
def test_draws_have_that_mean_and_covariance(neighbors: int, spread: float) -> None:
    torch.manual_seed(0)
    made, x = synthesis(neighbors, spread), FEATURES[FIRST_OF_LAST : FIRST_OF_LAST + 1]
    drawn = made.draw(x.expand(100_000, 5))
    nearest = made.nearest(x)[0]
    mean = (made.means[nearest].sum(dim=0) + x[0]) / (neighbors + 1)
    torch.testing.assert_close(drawn.mean(dim=0), mean, atol=6e-3, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), covariance_of(made, nearest), atol=5e-3, rtol=0.03)


def test_moments_are_those_of_the_classes_whatever_the_batches_and_lengths() -> None:
    made = synthesis(scale=7.0)
    for c in range(4):
        own = FEATURES[c == LABELS]
        torch.testing.assert_close(made.means[c], own.mean(dim=0))
        torch.testing.assert_close(made.roots[c] @ made.roots[c].T, own.T.cov(), atol=1e-6, rtol=1e-4)


def test_rare_classes_get_what_they_lack_and_real_features_stay() -> None:
    torch.manual_seed(0)
    made = synthesis()
    features = 3 * FEATURES
    counts = torch.zeros(4)
    for _ in range(400):
        more, labels = made(features, LABELS)
        assert torch.equal(more[:15], features) and torch.equal(labels[:15], LABELS)
        counts += torch.bincount(labels, minlength=4)
    assert counts.div(400).tolist() == pytest.approx([6, 6, 6, 6], abs=0.3)
    lengths = more[15:].norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 3.0)), "as long as real ones"


def test_a_class_with_one_image_borrows_all_its_spread() -> None:
    moments = Moments.of([(FEATURES[:7], torch.tensor([0, 0, 0, 0, 0, 0, 1]))], 2)
    made = Synthesis.of(moments, 3, 0.0)
    assert made.neighbors == 2 and not made.roots[1].any() and made.roots[0].any()
    assert made(FEATURES[:7], torch.tensor([0, 0, 0, 0, 0, 0, 1]))[0].isfinite().all()
    with pytest.raises(ValueError, match="synthesis: expected images of all classes, got none of 1"):
        Synthesis.of(Moments.of([(FEATURES[:7], torch.zeros(7, dtype=torch.long))], 2), 3, 0.0)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("synthesis")
    return small_classifier(root, device="cpu", adjust="none", epochs=2, mixup=0.0, cache="device")


@pytest.fixture(scope="module")
def start(keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's weights."""
    return iifdet.train(**{**keys, "project": str(tmp_path_factory.mktemp("first"))}).folder / "weights" / "last.pt"


@pytest.mark.parametrize("cache", ["device", False])
def test_a_second_stage_moves_class_rows_alone_and_resumes_to_the_bit(
    cache: Any, keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    mine = {**keys, "weights": start, "strategy": "decoupled", "project": tmp_path, "lr": 0.1, "cache": cache}
    drawn = {**mine, "synthesis": "tailcalib"}
    whole = iifdet.train(**{**drawn, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 1)], **{**drawn, "name": "run"})
    same_run(whole.folder, iifdet.train(resume=tmp_path / "run").folder)
    before = iifdet.load(start).state_dict()  # type: ignore[union-attr]
    after = last_of(whole.folder)["weights"]
    assert set(after) == set(before)
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head.weight", "head.bias"}
    plain = last_of(iifdet.train(**{**mine, "name": "plain"}).folder)["weights"]
    assert not torch.equal(plain["head.weight"], after["head.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "end_to_end"}, "strategy: expected decoupled beside synthesis=tailcalib"),
        ({"frozen_bn": "train"}, "frozen_bn: expected eval beside synthesis=tailcalib"),
        ({"sampling": "class_aware"}, "sampling: expected random beside .* got class_aware; add sampling=random"),
        ({"mixup": 0.2}, "mixup: expected 0 beside"),
        ({"model_args": {"experts": 2}}, "synthesis: belongs to plain classifiers, got model_args.experts; drop one"),
    ],
)
def test_where_features_move_nothing_is_drawn(
    change: dict[str, Any], message: str, keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    given = {**keys, "weights": start, "strategy": "decoupled", "synthesis": "tailcalib", "project": tmp_path}
    with pytest.raises(InputError, match=message):
        iifdet.train(**{**given, **change})


def test_covariances_that_fill_the_memory_are_refused(
    keys: dict[str, Any], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iifdet.build.features.MOST", 700)
    given = {**keys, "weights": start, "strategy": "decoupled", "synthesis": "tailcalib", "project": tmp_path}
    with pytest.raises(InputError, match="covariances of 700 numbers at most, got 3 classes with 16x16 each"):
        iifdet.train(**given)
