"""Distribution alignment: the formula, the second stage that learns it, and what goes on with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run

import iifdet
from iifdet.errors import InputError
from iifdet.longtail import generalized_weights
from iifdet.longtail.alignment import Alignment
from iifdet.training import Callback, TrainState


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_classifier(tmp_path_factory.mktemp("align"), device="cpu", adjust="none", epochs=2)


@pytest.fixture(scope="module")
def softmax(keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run to start from."""
    return iifdet.train(**{**keys, "project": str(tmp_path_factory.mktemp("softmax"))}).folder / "weights" / "last.pt"


def test_it_is_the_published_program() -> None:
    """theirs: (1 + σ s) z + σ b."""
    torch.manual_seed(0)
    align, z, x = Alignment(5, 4), torch.randn(3, 4), torch.randn(3, 5)
    torch.nn.init.normal_(align.gain)
    torch.nn.init.normal_(align.shift)
    gate = torch.sigmoid(x @ torch.full((5, 1), 0.1))
    expected = (1 + gate * align.gain) * z + gate * align.shift
    torch.testing.assert_close(align(z, x), expected)


def test_a_second_stage_moves_nothing_else_and_weighs_the_loss(
    keys: dict[str, Any], softmax: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = {**keys, "weights": softmax, "strategy": "decoupled", "adjust": "disalign", "project": tmp_path, "lr": 0.1}
    with caplog.at_level(logging.INFO, "iifdet"):
        whole = iifdet.train(**{**mine, "name": "whole", "verbose": True}).folder
    assert (
        "weights and shifts of classes to be learned, and how far they act on an image, loss weighed by" in caplog.text
    )
    start: Any = iifdet.load(softmax)  # with averaged weights
    before, after = start.state_dict(), last_of(whole)["weights"]
    assert set(after) - set(before) == {
        *("align.gain", "align.shift", "align.gate.weight", "align.gate.bias", "class_weight")
    }
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    model: Any = iifdet.load(whole / "weights" / "last.pt")
    assert model.align.gain.any() and model.align.shift.any()
    torch.testing.assert_close(model.class_weight, generalized_weights(model.counts).float())
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        features, logits = start.features(images), start.raw(images)
        torch.testing.assert_close(model.raw(images), model.align(logits, features))
    with pytest.raises(ValueError, match="depends on the image and cannot be folded"):
        model.fold()


def test_it_resumes_to_the_bit_and_is_seen_by_val_and_left_by_the_next_training(
    keys: dict[str, Any], softmax: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = {**keys, "weights": softmax, "strategy": "decoupled", "adjust": "disalign", "project": tmp_path, "lr": 0.1}
    whole = iifdet.train(**{**mine, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 1)], **{**mine, "name": "run"})
    same_run(whole.folder, iifdet.train(resume=tmp_path / "run").folder)
    last = whole.folder / "weights" / "last.pt"
    again = iifdet.val(weights=last, project=tmp_path / "val", plots=False).metrics
    assert again["top1"] == whole.metrics["top1"] and again["nll"] == pytest.approx(whole.metrics["nll"])
    with caplog.at_level(logging.INFO, "iifdet"):
        iifdet.train(**{**keys, "weights": last, "project": tmp_path, "name": "next", "verbose": True, "epochs": 1})
    assert "the alignment that a second stage has learned is not taken" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "lws and disalign learn in a second stage, got strategy=end_to_end"),
        ({"strategy": "decoupled"}, "give weights="),
        ({"strategy": "decoupled", "weights": "x", "reinit": True}, "adjust=disalign keeps them as they are"),
        ({"strategy": "decoupled", "weights": "x", "rho": -1}, "rho: "),
        ({"strategy": "cost_sensitive"}, "got adjust=disalign, use iif or cb"),
        ({"strategy": "decoupled", "weights": "x", "defer": 0.5}, "defer: puts off the weights"),
    ],
)
def test_what_makes_no_sense_is_refused(
    keys: dict[str, Any], softmax: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = {**keys, "adjust": "disalign", "project": tmp_path / "runs", **changes}
    if "weights" in given:
        given["weights"] = softmax
    with pytest.raises(InputError, match=message):
        iifdet.train(**given)
    assert not (tmp_path / "runs").exists()


def test_models_whose_classes_look_at_no_features_of_their_own_have_none(tiny_keys: Any, tmp_path: Path) -> None:
    start = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="none", name="start")).folder / "weights" / "last.pt"
    with pytest.raises(InputError, match=r"disalign aligns one classifier .* got YOLOv3; use adjust=lws"):
        iifdet.train(**tiny_keys(tmp_path, strategy="decoupled", adjust="disalign", weights=start))


def test_gains_that_invert_a_logit_are_said_and_decay_leads_back_to_none(
    keys: dict[str, Any], softmax: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Invert(Callback):
        def on_epoch_end(self, state: TrainState, row: dict[str, Any]) -> None:
            model: Any = state.model
            model.align.gain.data[0] = -1.5

    mine = {**keys, "weights": softmax, "strategy": "decoupled", "adjust": "disalign", "project": tmp_path, "ema": 0.0}
    iifdet.train([Invert()], **mine)
    assert "disalign has learned weights of zero or less, which invert logits, for 1 class" in caplog.text
    runs = [iifdet.train(**{**mine, "weight_decay": decay, "lr": 0.1}).folder for decay in (0.0, 2.0)]
    free, held = (iifdet.load(run / "weights" / "last.pt").align.gain.abs().max() for run in runs)
    assert held < free / 2


def test_class_rows_that_the_weights_did_not_bring_are_not_frozen(
    keys: dict[str, Any], softmax: Path, tmp_path: Path
) -> None:
    mine = {**keys, "weights": softmax, "strategy": "decoupled", "adjust": "disalign", "project": tmp_path / "runs"}
    mine["model_args"] = {**keys["model_args"], "head": "cosine"}
    with pytest.raises(
        InputError, match=r"which adjust=disalign leaves as they are, got none in .*; give the data and"
    ):
        iifdet.train(**mine)
    assert not (tmp_path / "runs").exists()
