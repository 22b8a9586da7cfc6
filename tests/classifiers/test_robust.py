"""Features around centroids: the published loss, what moves in either stage, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run

import iifdet
from iifdet import build
from iifdet.classifiers.rivals.robust import centroid_loss
from iifdet.config import TrainConfig, resolve
from iifdet.errors import InputError
from iifdet.training import Callback, TrainState

FEATURES = torch.sin(torch.arange(48).float()).view(8, 6)
LABELS = torch.tensor([0, 1, 2, 0, 3, 3, 0, 1])
CENTROIDS = torch.cos(torch.arange(90).float()).view(3, 5, 6).mean(dim=0)


@pytest.mark.parametrize(
    ("margins", "value"), [([0.0] * 5, 2.053080), ([1.0] * 5, 2.865381), ([0.1, 0.2, 0.3, 0.4, 0.5], 2.248711)]
)
def test_the_loss_is_the_published_program_s(margins: list[float], value: float) -> None:
    """With margins in order, which the program mixes up in a batch that is not sorted by class."""
    found = centroid_loss(FEATURES, LABELS, CENTROIDS, torch.tensor(margins))
    assert found.item() == pytest.approx(value, abs=2e-6)


def test_the_gradient_is_that_of_finite_differences_and_finite_on_a_centroid() -> None:
    given = [t.double().requires_grad_() for t in (FEATURES, CENTROIDS, torch.linspace(0.1, 0.5, 5))]
    assert torch.autograd.gradcheck(lambda z, m, e: centroid_loss(z, LABELS, m, e), given)
    z = CENTROIDS[LABELS].clone().requires_grad_()
    centroid_loss(z, LABELS, CENTROIDS, torch.ones(5)).backward()
    assert z.grad is not None and z.grad.isfinite().all()


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("robust")
    return small_classifier(root, device="cpu", adjust="none", epochs=2, mixup=0.0, cache="device", lr=0.02)


@pytest.fixture(scope="module")
def start(keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's weights."""
    return iifdet.train(**{**keys, "project": str(tmp_path_factory.mktemp("first"))}).folder / "weights" / "last.pt"


def stage(keys: dict[str, Any], start: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    args = {**keys["model_args"], "robust": True}
    return {**keys, "model_args": args, "weights": start, "sampling": "class_aware", "project": folder, **changes}


@pytest.mark.parametrize("cache", ["device", False])
def test_features_move_under_rows_that_stay_and_a_resumed_run_comes_to_the_same_bits(
    cache: Any, keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    mine = stage(keys, start, tmp_path, cache=cache)
    whole = iifdet.train(**{**mine, "name": "whole"}).folder
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 1)], **{**mine, "name": "run"})
    same_run(whole, iifdet.train(resume=tmp_path / "run").folder)
    before, after = iifdet.load(start).state_dict(), last_of(whole)["weights"]  # type: ignore[union-attr]
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"network.conv1.weight", "network.layer3.0.bn2.running_mean"} <= moved
    assert not any(key.startswith("head") for key in moved)
    assert set(after) - set(before) == {f"robust.{name}" for name in ("margins", "centroids", "frequency")}
    assert after["robust.margins"].ne(1).all() and after["robust.frequency"].tolist() == pytest.approx([1, 0.5, 0.25])


def test_centroids_are_the_means_of_the_training_images_as_the_epoch_began(
    keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    mine = stage(keys, start, tmp_path, holdout=0.2, ema=0.0)
    expected: list[Any] = []

    class Watch(Callback):
        def on_epoch_end(self, state: TrainState, row: Any) -> None:
            if state.epoch == 1:
                expected.append({name: value.clone() for name, value in state.model.state_dict().items()})

    run = iifdet.train(callbacks=[Watch()], **mine)
    config = resolve(TrainConfig, mine)
    model = build.build_model(config, index := build.build_splits(config, "classify").train)
    model.load_state_dict(expected[0])
    model.eval()
    with torch.no_grad():
        batches = build.build_val_batches(config, config, index, "classify", "device", device=torch.device("cpu"))
        pairs = [(model.features(batch.to("cpu").images), batch.targets) for batch in batches]
    features, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(3)])
    torch.testing.assert_close(last_of(run.folder)["weights"]["robust.centroids"], means)


def test_a_second_stage_moves_the_rows_alone(keys: dict[str, Any], start: Path, tmp_path: Path) -> None:
    first = iifdet.train(**stage(keys, start, tmp_path, name="first")).folder / "weights" / "last.pt"
    second = stage(keys, first, tmp_path, name="second", strategy="decoupled")
    after = last_of(iifdet.train(**second).folder)["weights"]
    before = iifdet.load(first).state_dict()  # type: ignore[union-attr]
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "model_args.robust: begins with the features of a finished classifier"),
        (
            {"model_args": {"width": 0.25, "robust": True, "trainable_stages": 0}},
            "model_args.robust: trains features, got trainable_stages=0",
        ),
        ({"mixup": 0.2}, "mixup: expected 0 beside model_args.robust"),
        (
            {"model_args": {"robust": True, "experts": 2}},
            "experts: expected one of .* experts and robust",
        ),
        ({"model_args": {"robust": 1}}, "robust: expected true or false, got 1"),
        (
            {"model_args": {"width": 0.25, "robust": True, "head": "cosine"}},
            "weights: expected class rows for all classes, which model_args.robust leaves as they are",
        ),
    ],
)
def test_what_has_no_rows_to_stay_is_refused(
    change: dict[str, Any], message: str, keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**stage(keys, start, tmp_path, **change))
