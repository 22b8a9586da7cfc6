"""Rival losses and weights of the loss through ``iifdet.train``: Seesaw, Equalization, LDAM, Class-Balanced, DRW."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import HARD, Interrupt, last_of, same_run
from test_detector_contract import COUNTS, SMALL, C, targets

import iifdet
from iifdet import build
from iifdet.checkpoint import read_checkpoint
from iifdet.classifiers import CLASSIFIERS
from iifdet.config import ValConfig, WeightKeys, validate
from iifdet.config.prediction import PredictConfig
from iifdet.datasets import load_index
from iifdet.detectors import Detector
from iifdet.detectors.darknet_weights import save_darknet
from iifdet.errors import InputError
from iifdet.longtail import (
    ClassCounts,
    ClassLossChoice,
    box_dimensions,
    class_balanced_weights,
    fractal_shift,
    iif_weights,
)
from iifdet.models import create_model
from iifdet.training import Callback, TrainState
from iifdet.types import Batch, MixedLabels

Keys = Callable[..., dict[str, Any]]
IMAGES = (12, 7, 4, 1)  # of the tiny data's classes
CB = class_balanced_weights(ClassCounts(list("abcd"), torch.tensor(IMAGES), torch.tensor(IMAGES), 24)).tolist()


#: Losses that balance classes against background.
AGAINST_BACKGROUND = ("eql", "droploss", "acsl", "ecm")


def told(name: str, class_loss: ClassLossChoice) -> Detector:
    torch.manual_seed(0)
    model: Detector = create_model(name, C, **{**SMALL[name], "class_loss": class_loss})
    model.set_class_statistic(COUNTS)
    return model.train()


def losses(model: Detector) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return model(torch.rand(2, 3, 96, 96), targets())


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "class_loss"),
    [
        *((name, "seesaw") for name in SMALL if name != "retinanet"),
        *((name, rival) for name in ("fasterrcnn", "maskrcnn", "retinanet") for rival in AGAINST_BACKGROUND),
        ("ssd300", "eql"),
        ("ssd300", "ecm"),
        *((name, "gumbel") for name in SMALL),
        ("yolov3-nano", "lade"),
        ("yolov3-nano", "las"),
        *((name, "eqlv2") for name in ("yolov3-nano", "fasterrcnn", "maskrcnn", "retinanet")),
        *((name, "efl") for name in ("yolov3-nano", "fasterrcnn", "retinanet")),
    ],
)
def test_detectors_train_with_losses_that_know_the_classes(name: str, class_loss: str) -> None:
    model = told(name, class_loss)
    losses(model)  # some learn from it
    found = losses(model)
    torch.stack(list(found.values())).sum().backward()
    for layer in model.classifier_layers():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    plain = losses(
        told(name, {"efl": "focal", **dict.fromkeys(["seesaw", "lade", "las"], "ce")}.get(class_loss, "bce"))
    )
    assert found["cls"].isfinite() and found["cls"] != plain["cls"]
    assert all(torch.equal(found[k], plain[k]) for k in found if k != "cls"), "nothing else is touched"


@pytest.mark.parametrize("name", ["yolov3-nano", "fasterrcnn"])
def test_a_model_that_was_told_nothing_says_what_it_wants(name: str) -> None:
    model = told(name, "seesaw")
    model.set_class_statistic(None)
    with pytest.raises(ValueError, match=r"seesaw has to know the training set's counts.*set_class_statistic"):
        losses(model)


def test_a_model_is_told_of_its_own_classes_only() -> None:
    three = ClassCounts(list("abc"), torch.tensor([3, 2, 1]), torch.tensor([3, 2, 1]), 4)
    with pytest.raises(ValueError, match=r"class_statistic: expected shape \(8,\), got \(3,\)"):
        told("ssd300", "seesaw").set_class_statistic(three)


@pytest.mark.parametrize(
    ("name", "class_loss", "message"),
    [
        *(("yolov3-nano", rival, "balances classes against background") for rival in AGAINST_BACKGROUND),
        *(
            (name, rival, "has no place for background")
            for name in ("ssd300", "fasterrcnn")
            for rival in ("lade", "las")
        ),
        ("retinanet", "seesaw", "use one of bce, focal, eql, eqlv2, efl, droploss, acsl, ecm, federated, gumbel"),
        ("ssd300", "eqlv2", "adds up the gradients of all samples, and SSD trains on the hardest negatives alone"),
        ("ssd512", "efl", "use eql or seesaw"),
        ("ssd300", "acsl", "draws lots for negatives, and SSD trains on those alone that cost most"),
        ("ssd300", "droploss", "lots included; use eql or ecm"),
    ],
)
def test_losses_that_fit_no_such_model_are_refused(name: str, class_loss: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, C, **{**SMALL[name], "class_loss": class_loss})


def test_margins_are_measured_in_the_head_s_own_scale() -> None:
    model = CLASSIFIERS["se_resnet20"](C, width=0.25, head="cosine", scale=30, class_loss="ldam")
    model.set_class_statistic(COUNTS)
    assert model.class_statistic is not None and model.class_statistic.max().item() == 15
    for head in ("linear", "cosine_learned"):
        with pytest.raises(ValueError, match=r"ldam's margins are cosines.*head=cosine model_args.scale=30"):
            CLASSIFIERS["se_resnet20"](C, width=0.25, head=head, class_loss="ldam").set_class_statistic(COUNTS)


def test_a_new_loss_forgets_what_the_old_one_knew() -> None:
    model = told("yolov3-nano", "seesaw")
    model.set_class_loss("seesaw")
    assert model.class_statistic is not None
    for name in ("federated", "eqlv2"):
        model.set_class_loss(name)
        assert model.class_statistic is None
        model.set_class_statistic(COUNTS)
        assert losses(model)["cls"].isfinite()


def test_a_whole_darknet_file_keeps_sigmoid_rivals_and_refuses_softmax_ones(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, epochs=2)
    model: Any = create_model(keys["model"], 4, **keys["model_args"])
    save_darknet(model, tmp_path / "whole.weights")
    keys["weights"] = str(tmp_path / "whole.weights")
    with pytest.raises(InputError, match=r"got softmax ones under class_loss=seesaw; use a file that is cut"):
        iifdet.train(**{**keys, "model_args": {**keys["model_args"], "class_loss": "seesaw"}})
    keys["model_args"] = {**keys["model_args"], "class_loss": "eqlv2"}
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 1)], **keys)
    loaded: Any = iifdet.load(iifdet.train(resume=tmp_path / "run").folder / "weights" / "last.pt")
    assert loaded.class_loss == "eqlv2" and loaded.class_statistic.any()


def test_retinanet_s_losses_see_the_batch_at_once() -> None:
    """Of two images whose anchors show other classes, in either order."""
    counts = []
    for order in ([0, 1], [1, 0]):
        model = told("retinanet", "efl")
        torch.manual_seed(1)
        images, wanted = torch.rand(2, 3, 96, 96), targets()
        model(images[order], [wanted[i] for i in order])
        counts.append(model.class_statistic)
    torch.testing.assert_close(*counts)


@pytest.mark.parametrize("class_loss", ["seesaw", "eqlv2"])
def test_what_the_loss_knows_is_in_the_checkpoint_and_training_goes_on_with_it(
    tiny_keys: Keys, tmp_path: Path, class_loss: str
) -> None:
    keys = tiny_keys(tmp_path, **HARD, adjust="none", strategy="end_to_end")
    keys["model_args"] = {**keys["model_args"], "class_loss": class_loss}
    whole = iifdet.train(**{**keys, "name": "whole"}).folder
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 4)], **keys)
    same_run(whole, iifdet.train(resume=tmp_path / "run").folder)
    loaded: Any = iifdet.load(whole / "weights" / "last.pt")
    assert loaded.class_loss == class_loss
    if class_loss == "seesaw":
        assert loaded.class_statistic.tolist() == last_of(whole)["counts"]["instances"].tolist()
    else:
        assert loaded.class_statistic.shape == (2, 4) and (loaded.class_statistic > 0).any()
    second = iifdet.train(**tiny_keys(tmp_path, epochs=1, weights=whole / "weights" / "last.pt", name="plain")).folder
    assert iifdet.load(second / "weights" / "last.pt").class_statistic is None, "a run's loss is its own"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args.class_loss": "seesaw"},
        {"model_args.class_loss": "eqlv2", "mixup": 0},
        {"model_args.class_loss": "efl", "mixup": 0},
        {"model_args.class_loss": "federated", "mixup": 0},
        {"model_args.class_loss": "lade"},
        {"model_args.class_loss": "las"},
        {"model_args.class_loss": "gumbel"},
        {"model_args.class_loss": "ldam", "model_args.head": "cosine", "model_args.scale": 30},
        {"strategy": "cost_sensitive", "adjust": "cb", "defer": 0.5},
    ],
)
def test_classifiers_train_with_them_also_with_mixed_labels(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = iifdet.train(**{"adjust": "none", **small_classifier(tmp_path, device="cpu"), **changes})
    rows = list(csv.DictReader((run.folder / "results.csv").open()))
    assert all(float(row["loss"]) < 100 for row in rows) and run.metrics["top1"] is not None


def test_options_of_a_loss_are_kept_with_it(tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iifdet")
    keys = tiny_keys(tmp_path, **HARD, adjust="none", strategy="end_to_end")
    keys["model_args"] = {**keys["model_args"], "class_loss": {"las": {"head": 0.4, "tail": 0.1}}}
    whole = iifdet.train(**{**keys, "name": "whole"}).folder
    assert any("no adjustment, class_loss=las(head=0.4,tail=0.1)" in message for message in caplog.messages)
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 4)], **keys)
    same_run(whole, iifdet.train(resume=tmp_path / "run").folder)
    loaded: Any = iifdet.load(whole / "weights" / "last.pt")
    assert loaded.class_loss_choice == {"las": {"head": 0.4, "tail": 0.1}}
    assert loaded.class_statistic.max().item() == pytest.approx(0.4) and loaded.class_statistic.min() == 0.1
    keys["model_args"] = {**keys["model_args"], "class_loss": "las"}
    plain = iifdet.train(**{**keys, "name": "plain"}).folder
    assert [row.settings for row in iifdet.compare([plain, whole]).rows] == [
        "class_loss=las",
        "class_loss=las(head=0.4,tail=0.1)",
    ]


@pytest.mark.parametrize(("name", "own"), [("yolov3-nano", "ce"), ("retinanet", "focal")])
def test_options_of_a_loss_act(name: str, own: str) -> None:
    soft, hard = (losses(told(name, {"focal": {"gamma": gamma}}))["cls"] for gamma in (0.5, 4))
    assert hard < soft
    model = told(name, {"focal": {"gamma": 4}})
    model.set_class_loss(own)
    assert model.class_loss_choice == own and losses(model)["cls"] == losses(told(name, own))["cls"]
    with pytest.raises(ValueError, match=r"class_loss.focal: expected alpha or gamma, got 'delta'"):
        model.set_class_loss({"focal": {"delta": 1}})


def test_a_step_that_is_undone_leaves_no_gradients_in_the_count(tiny_keys: Keys, tmp_path: Path) -> None:
    """The loss of the second batch is not finite."""
    counts: list[torch.Tensor] = []

    class Spoil(Callback):
        def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
            model: Any = state.model
            counts.append(model.class_statistic.clone())
            if state.batch == 1:
                self.hook = model.register_forward_hook(lambda _, __, out: {k: v * torch.nan for k, v in out.items()})

        def on_step(self, state: TrainState, *_: Any) -> None:
            if state.batch == 2:
                self.hook.remove()

    keys = tiny_keys(tmp_path, epochs=1)
    keys["model_args"] = {**keys["model_args"], "class_loss": "eqlv2"}
    iifdet.train(callbacks=[Spoil()], **keys)
    assert len(counts) == 3 and counts[1].any() and torch.equal(counts[1], counts[2])


@pytest.mark.parametrize("class_loss", ["eqlv2", "efl", "federated"])
def test_losses_that_see_a_batch_as_a_whole_take_no_mixed_labels(tmp_path: Path, class_loss: str) -> None:
    keys = small_classifier(tmp_path / "data", device="cpu", adjust="none")
    keys |= {"project": tmp_path / "runs", "model_args": {**keys["model_args"], "class_loss": class_loss}}
    with pytest.raises(InputError, match=rf"mixup: expected 0 beside class_loss={class_loss}.*add mixup=0"):
        iifdet.train(**keys)
    assert not (tmp_path / "runs").exists()
    model = CLASSIFIERS["se_resnet20"](C, width=0.25, class_loss=class_loss).train()
    model.set_class_statistic(COUNTS)
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="sees a batch as a whole and takes no mixed labels; set mixup=0"):
        model(torch.rand(2, 3, 32, 32), MixedLabels(labels, labels.flip(0), torch.ones(2)))


@pytest.mark.parametrize(
    ("class_loss", "adjust", "warned"),
    [
        ("seesaw", "iif", "seesaw acts on logits that adjust=iif has changed"),
        ("federated", "none", "counts 50 classes at least, so all 4 do, as under bce"),
        ({"federated": {"classes": 2}}, "none", ""),
        ("gumbel", "la", "gumbel has no gradient where an adjusted logit is below -4, and adjust=la takes"),
        ("gumbel", "none", ""),
        ("seesaw", "none", ""),
    ],
)
def test_rivals_that_are_not_what_one_may_take_them_for_are_named(
    tiny_keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture, class_loss: Any, adjust: str, warned: str
) -> None:
    keys = tiny_keys(tmp_path, epochs=1, adjust=adjust)
    keys["model_args"] = {**keys["model_args"], "class_loss": class_loss}
    iifdet.train(**keys)
    said = [message for message in caplog.messages if message.startswith("class_loss: ")]
    assert len(said) == bool(warned) and all(warned in message for message in said)


def test_compare_names_the_loss_in_which_trainings_differ(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, epochs=1, adjust="none")
    rival = {**keys, "name": "rival", "model_args": {**keys["model_args"], "class_loss": "seesaw"}}
    runs = [iifdet.train(**each).folder for each in (keys, rival)]
    assert [row.settings for row in iifdet.compare(runs).rows] == ["", "class_loss=seesaw"]


# -- weights of the loss -----------------------------------------------------------------------------------------------


class Weights(Callback):
    """Notes the class weights of every step."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], list[float]] = {}

    def on_batches(self, state: TrainState, batches: Sequence[Batch]) -> None:
        self.at = state.epoch, state.batch

    def on_step(self, state: TrainState, *_: Any) -> None:
        self.seen[self.at] = state.model.class_weight.tolist()  # type: ignore[union-attr,operator]


def test_class_balanced_weights_weigh_the_loss_and_leave_logits_alone(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, epochs=1, strategy="cost_sensitive", adjust="cb")
    model: Any = iifdet.load(iifdet.train(**keys).folder / "weights" / "last.pt")
    assert model.class_weight.tolist() == pytest.approx(CB) and model.adjust.is_identity
    equal: Any = iifdet.load(iifdet.train(**keys, beta=0).folder / "weights" / "last.pt")
    assert equal.class_weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("adjust", ["cb", "iif"])
def test_deferred_weights_begin_with_their_epoch_and_after_a_resumption_too(
    tiny_keys: Keys, tmp_path: Path, adjust: str
) -> None:
    keys = tiny_keys(tmp_path, **{**HARD, "epochs": 4}, strategy="cost_sensitive", adjust=adjust, defer=0.5)
    watch = Weights()
    whole = iifdet.train(callbacks=[watch], **{**keys, "name": "whole"}).folder
    smooth = iif_weights(ClassCounts(list("abcd"), torch.tensor(IMAGES), torch.tensor(IMAGES), 24)).tolist()
    for (epoch, _), weights in watch.seen.items():
        assert weights == pytest.approx([1.0] * 4 if epoch < 2 else CB if adjust == "cb" else smooth)
    assert {epoch for epoch, _ in watch.seen} == {0, 1, 2, 3}
    for at in ((1, 4), (2, 2)):
        with pytest.raises(RuntimeError, match="power cut"):
            iifdet.train(callbacks=[Interrupt(*at)], **{**keys, "name": f"cut-{at[0]}"})
        same_run(whole, iifdet.train(resume=tmp_path / f"cut-{at[0]}").folder)


def test_deferred_weights_act_in_the_last_epoch_at_least(tiny_keys: Keys, tmp_path: Path) -> None:
    watch = Weights()
    keys = tiny_keys(tmp_path, epochs=2, strategy="cost_sensitive", adjust="cb", defer=0.9, ema=0.9)
    run = iifdet.train(callbacks=[watch], **keys).folder
    assert {epoch: weights == pytest.approx(CB) for (epoch, _), weights in watch.seen.items()} == {0: False, 1: True}
    loaded: Any = iifdet.load(run / "weights" / "last.pt")
    assert loaded.class_weight.tolist() == pytest.approx(CB), "the average has them as they are"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjust": "cb"}, "adjust: cb weighs the loss, got strategy=end_to_end; add strategy=cost_sensitive"),
        ({"adjust": "cb", "strategy": "post_process"}, "say nothing about a finished model; use adjust=la"),
        ({"adjust": "norcal"}, "norcal calibrates a finished model, got strategy=end_to_end"),
        ({"adjust": "norcal", "strategy": "post_process", "center": "mean"}, "center: expected none"),
        ({"adjust": "la", "strategy": "cost_sensitive"}, "got adjust=la, use iif or cb"),
        ({"defer": 0.8}, "defer: puts off the weights of strategy=cost_sensitive, got strategy=end_to_end"),
        ({"adjust": "cb", "strategy": "cost_sensitive", "beta": 1}, "beta: "),
        ({"adjust": "cb", "strategy": "cost_sensitive", "defer": 1}, "defer: "),
        ({"model_args": {"class_loss": "eql"}}, "use bce"),
    ],
)
def test_keys_that_make_no_sense_are_refused_before_a_folder_is_made(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**tiny_keys(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_ldam_on_a_head_without_cosines_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    keys = small_classifier(tmp_path / "data", device="cpu")
    keys |= {"project": tmp_path / "runs", "model_args": {**keys["model_args"], "class_loss": "ldam"}}
    with pytest.raises(InputError, match=r"ldam's margins are cosines"):
        iifdet.train(**keys)
    assert not (tmp_path / "runs").exists()


def test_a_finished_model_has_no_use_for_weights_of_the_loss(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="none")).folder
    for adjust in ("cb", "lws", "bsce"):
        with pytest.raises(
            InputError, match=rf"adjust: expected one of none, iif, la, norcal, fracal, taunorm, got '{adjust}'"
        ):
            iifdet.val(weights=run / "weights" / "last.pt", adjust=adjust, project=tmp_path / "val")
    assert not (tmp_path / "val").exists()


# -- learned weights ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def softmax(tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run to start from."""
    keys = tiny_keys(tmp_path_factory.mktemp("softmax"), epochs=1, adjust="none")
    return iifdet.train(**keys).folder / "weights" / "last.pt"


def test_what_an_adjustment_had_a_part_in_is_said_where_it_is_left_behind(
    tiny_keys: Keys, tmp_path: Path, softmax: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tiny_keys(tmp_path, epochs=1, verbose=True)
    with caplog.at_level(logging.INFO, "iifdet"):
        iif = iifdet.train(**{**keys, "weights": softmax}).folder / "weights" / "last.pt"
        assert "is not taken" not in caplog.text
        iifdet.train(**keys, strategy="decoupled", adjust="lws", weights=iif)
    assert "that its class rows were trained under is not taken: LogitAdjustment(4, scale=" in caplog.text


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_learned_weights_that_invert_a_logit_are_said(
    tiny_keys: Keys, tmp_path: Path, softmax: Path, caplog: pytest.LogCaptureFixture, ema: float
) -> None:
    class Invert(Callback):
        def on_epoch_end(self, state: TrainState, row: dict[str, Any]) -> None:
            tensors: Any = [
                state.model.adjust.scale,
                *([] if state.average is None else [state.average.weights["adjust.scale"]]),
            ]
            for scale in tensors:
                scale.data[2] = -0.5

    keys = tiny_keys(tmp_path, epochs=1, ema=ema, strategy="decoupled", adjust="lws", weights=softmax)
    iifdet.train(**keys)
    assert "invert" not in caplog.text
    iifdet.train(callbacks=[Invert()], **keys, exist_ok=True)
    name = read_checkpoint(softmax)["names"][2]
    assert f"lws has learned weights of zero or less, which invert logits, for 1 class: {name}" in caplog.text


@pytest.mark.parametrize("adjust", ["lws"])
def test_class_rows_that_the_weights_did_not_bring_are_not_frozen(
    tiny_keys: Keys, tmp_path: Path, tiny_copy: Path, softmax: Path, adjust: str
) -> None:
    for file in tiny_copy.glob("*.json"):
        file.write_text(file.read_text().replace(read_checkpoint(softmax)["names"][1], "zebra"))
    keys = tiny_keys(tmp_path / "runs", strategy="decoupled", adjust=adjust, weights=softmax)
    with pytest.raises(InputError, match="expected class rows for all classes, which adjust=lws leaves as they are"):
        iifdet.train(**{**keys, "data": str(tiny_copy / "data.yaml")})
    assert not (tmp_path / "runs").exists()


def test_learned_weights_begin_at_one_and_nothing_else_moves(tiny_keys: Keys, tmp_path: Path, softmax: Path) -> None:
    keys = tiny_keys(tmp_path, **HARD, strategy="decoupled", adjust="lws", weights=softmax)
    whole = iifdet.train(**{**keys, "name": "whole"}).folder
    before, content = read_checkpoint(softmax)["weights"], last_of(whole)
    moved = {name for name, value in before.items() if not torch.equal(value, content["weights"][name])}
    assert moved == {"adjust.scale"}
    loaded: Any = iifdet.load(whole / "weights" / "last.pt")
    assert torch.equal(loaded.adjust.scale, content["ema"]["adjust.scale"]), "averages are what is used"
    assert not torch.equal(content["ema"]["adjust.scale"], content["weights"]["adjust.scale"])
    assert (loaded.adjust.when, loaded.adjust.center) == ("both", "none")
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 4)], **keys)
    same_run(whole, iifdet.train(resume=tmp_path / "run").folder)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        one = loaded(images)
        loaded.fold()
        other = loaded(images)
    torch.testing.assert_close([d["scores"] for d in one], [d["scores"] for d in other])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjust": "lws"}, "lws and disalign learn in a second stage, got strategy=end_to_end"),
        ({"adjust": "lws", "strategy": "decoupled"}, "give weights="),
        ({"adjust": "lws", "strategy": "decoupled", "weights": "x", "reinit": True}, "adjust=lws keeps them"),
        (
            {"adjust": "lws", "strategy": "decoupled", "weights": "x", "freeze": 1},
            "freeze: expected none beside adjust=lws",
        ),
        (
            {"adjust": "lws", "strategy": "decoupled", "weights": "x", "center": "mean"},
            "center, bg_scale, bg_shift: bel",
        ),
    ],
)
def test_learned_weights_want_a_finished_model(
    tiny_keys: Keys, tmp_path: Path, softmax: Path, changes: dict[str, Any], message: str
) -> None:
    keys = tiny_keys(tmp_path, **changes)
    if "weights" in keys:
        keys["weights"] = softmax
    with pytest.raises(InputError, match=message):
        iifdet.train(**keys)
    assert not list(tmp_path.iterdir())


# -- NorCal ------------------------------------------------------------------------------------------------------------


def test_norcal_calibrates_by_counts_and_leaves_the_background_alone() -> None:
    """The four lines of its authors: n^-γ e^z beside e^z of the background."""
    torch.manual_seed(0)
    logits, background = torch.randn(5, C), torch.randn(5)
    model = told("fasterrcnn", "ce").eval()
    model.counts, config = COUNTS, WeightKeys(tau=0.6)
    build.set_adjustment(model, config, "norcal", strategy="post_process")
    adjusted = model.adjust(logits, phase="infer", background=background)
    first = model.adjust.adjust_background(background, logits, phase="infer")
    got = torch.cat([first[:, None], adjusted], dim=1).softmax(dim=1)
    raised = logits.exp() / COUNTS.images.float() ** 0.6
    expected = torch.cat([background.exp()[:, None], raised], dim=1)
    torch.testing.assert_close(got, expected / expected.sum(dim=1, keepdim=True))
    assert torch.equal(model.adjust(logits, phase="train"), logits)


# -- after training: fractal calibration, lengths of the class rows ----------------------------------------------------


@pytest.mark.parametrize("adjust", ["fracal", "taunorm"])
def test_what_boxes_and_rows_tell_adjusts_a_finished_detector_in_every_verb(
    tiny_keys: Keys, tmp_path: Path, softmax: Path, adjust: str
) -> None:
    keys = {"weights": softmax, "adjust": adjust, "project": tmp_path, "plots": False, "workers": 0}
    iifdet.val(**keys, name="val")
    model: Any = iifdet.load(softmax)
    config = WeightKeys()
    build.set_adjustment(model, config, adjust, strategy="post_process")
    if adjust == "taunorm":
        norms = model.row_norms()
        assert norms is not None and model.adjust.when == "infer"
        torch.testing.assert_close(model.adjust.scale, ((1 / norms) / (1 / norms).mean()).float())
    else:
        data = tiny_keys(tmp_path)["data"]
        index = load_index(data, "train")
        centres = (index.boxes[:, :2] + index.boxes[:, 2:]) / 2 / index.sizes[index.box_image][:, ::-1]
        dimensions = box_dimensions(torch.from_numpy(centres), torch.from_numpy(index.labels), 4)
        torch.testing.assert_close(model.adjust.shift, fractal_shift(model.counts, dimensions).float())
        build.set_adjustment(model, WeightKeys(fractal=0), adjust, strategy="post_process")
        assert model.adjust.shift.tolist() == pytest.approx(fractal_shift(model.counts, torch.ones(4)).tolist())
    image = torch.rand(3, 64, 64)
    found = [iifdet.predict(image, weights=softmax, adjust=a, conf=0.0)[0].scores for a in (adjust, "none")]
    assert found[0].shape != found[1].shape or not torch.allclose(*map(torch.as_tensor, found))


def test_a_training_may_end_in_fractal_calibration(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="fracal", strategy="post_process")).folder
    loaded: Any = iifdet.load(run / "weights" / "last.pt")
    assert loaded.adjust.when == "infer" and loaded.adjust.shift.any() and not loaded.adjust.folded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjust": "fracal"}, "fracal calibrates a finished model, got strategy=end_to_end"),
        ({"adjust": "taunorm", "strategy": "post_process"}, "train with adjust=none, then iifdet val"),
        ({"adjust": "fracal", "strategy": "post_process", "center": "mean"}, "center: expected none"),
        ({"adjust": "fracal", "strategy": "post_process", "fractal": -1}, "fractal: "),
        (
            {"adjust": "fracal", "strategy": "post_process", "model_args": {"class_loss": "bce"}},
            "got class_loss=bce without one; use adjust=la",
        ),
    ],
)
def test_what_they_cannot_do_in_training_is_refused(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**tiny_keys(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_classifiers_have_no_boxes_and_cosine_rows_no_length(tmp_path: Path) -> None:
    keys = small_classifier(tmp_path, device="cpu", adjust="none")
    last = (
        iifdet.train(**{**keys, "model_args": {**keys["model_args"], "head": "cosine"}}).folder / "weights" / "last.pt"
    )
    for adjust, message in (
        ("fracal", "fracal looks at boxes"),
        ("taunorm", "cosine and causal heads and exported files have none"),
    ):
        with pytest.raises(InputError, match=message):
            iifdet.val(weights=last, adjust=adjust, project=tmp_path / "val")
    assert not (tmp_path / "val").exists()


def test_boxes_of_other_classes_or_of_nowhere_are_refused(tiny_keys: Keys, tmp_path: Path, softmax: Path) -> None:
    model: Any = iifdet.load(softmax)
    model.recipe = {}
    for data, message in (("demo", "data: expected the model's 4 classes"), (None, "got none; add data=")):
        with pytest.raises(InputError, match=message):
            iifdet.predict(torch.rand(3, 64, 64), model=model, adjust="fracal", data=data)


def test_all_verbs_calibrate_by_the_boxes_that_the_model_was_trained_on(
    tiny_keys: Keys, tmp_path: Path, tiny_copy: Path
) -> None:
    """Some of the images, a part of these held out; image files are not needed, annotations tell their sizes."""
    data = str(tiny_copy / "data.yaml")
    keys = tiny_keys(tmp_path, epochs=1, adjust="none", holdout=0.3, fraction=0.7, seed=3, data=data)
    last = iifdet.train(**keys).folder / "weights" / "last.pt"
    shifts = []
    for config in (
        validate(ValConfig, {"weights": str(last), "data": data}),
        validate(ValConfig, {"weights": str(last), "data": data, "holdout": 0.2, "seed": 1}),
        validate(PredictConfig, {"weights": str(last), "classes": [1]}),
    ):
        model: Any = iifdet.load(last)
        build.set_adjustment(model, config, "fracal", strategy="post_process")
        shifts.append(model.adjust.shift.tolist())
        for image in tiny_copy.glob("train/*"):
            image.unlink()
    assert shifts[0] == shifts[1] == shifts[2] and not list(tiny_copy.glob("train/*"))
    whole: Any = iifdet.load(last)
    whole.recipe = {**whole.recipe, "holdout": 0.0, "fraction": 1.0}
    build.set_adjustment(whole, config, "fracal", strategy="post_process")
    assert whole.adjust.shift.tolist() != shifts[0]
