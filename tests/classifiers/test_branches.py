"""Experts (RIDE), two branches (BBN), contrast (hybrid networks): shapes, published formulas, whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run
from torch import Tensor

import iifdet
from iifdet.classifiers import CLASSIFIERS
from iifdet.classifiers.rivals.bilateral import BilateralClassifier
from iifdet.classifiers.rivals.contrastive import prototype_contrast, view_contrast
from iifdet.classifiers.rivals.experts import ExpertClassifier
from iifdet.curriculum import CumulativeShare
from iifdet.distributed import running_statistics
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts, class_balanced_weights
from iifdet.models import create_model
from iifdet.training import Callback, TrainState, pieces_of
from iifdet.transfer import transfer_weights
from iifdet.types import Batch, MixedLabels

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def counts(*images: int) -> ClassCounts:
    n = torch.tensor(images)
    return ClassCounts([str(c) for c in range(len(n))], n, n, int(n.sum()))


def experts(number: int = 2, classes: int = 3, **options: Any) -> ExpertClassifier:
    torch.manual_seed(0)
    model = CLASSIFIERS["se_resnet20"](classes, width=0.25, experts=number, head="cosine", scale=30, **options)
    assert isinstance(model, ExpertClassifier)
    return model


def bilateral(classes: int = 4, **options: Any) -> BilateralClassifier:
    torch.manual_seed(0)
    model = CLASSIFIERS["se_resnet20"](classes, width=0.25, bilateral=True, **options)
    assert isinstance(model, BilateralClassifier)
    return model


def waves(rows: int, columns: int) -> list[Tensor]:
    """What the published programs' numbers were made of."""
    steps = torch.arange(rows * columns, dtype=torch.float64)
    return [wave(steps).view(rows, columns) * 3 for wave in (torch.sin, torch.cos)]


class Said(torch.nn.Module):
    """Says the same for all images."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any) -> Tensor:
        return self.output


# -- experts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "number", "parameters"),
    [
        ("resnet32", 100, 2, 530_512),
        ("resnet32", 100, 3, 783_856),
        ("resnet50", 1000, 2, 29_599_808),
        ("resnext50_32x4d", 1000, 2, 29_063_488),
    ],
)
def test_experts_have_the_layers_of_the_published_networks(
    name: str, classes: int, number: int, parameters: int
) -> None:
    model = CLASSIFIERS[name](classes, experts=number, head="cosine")
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("images", "labels", "deferred", "total"),
    [
        ((100, 30, 5), (0, 1, 2, 0), False, 21.710331),
        ((100, 30, 5), (0, 1, 2, 0), True, 30.053409),
        ((500, 200, 80, 20, 5), (0, 1, 2, 3, 4, 4), False, 24.975709),
        ((500, 200, 80, 20, 5), (0, 1, 2, 3, 4, 4), True, 36.204320),
    ],
)
def test_the_loss_of_experts_is_the_published_program_s(
    images: Sequence[int], labels: Sequence[int], deferred: bool, total: float
) -> None:
    """RIDELoss with LDAM, before and after its re-weighting epoch, which our temperatures do not wait for."""
    labels_, known = torch.tensor(labels), counts(*images)
    model = experts(classes=len(images), class_loss="ldam").train()
    model.head = Said(torch.stack(waves(len(labels), len(images)), dim=1))  # type: ignore[assignment]
    model.first_head = lambda: model.scale  # type: ignore[assignment,method-assign,return-value]
    model.scale = experts().first_head()  # type: ignore[assignment]
    model.set_class_statistic(known)
    if deferred:  # theirs divides a batch by the weights in it
        weights = class_balanced_weights(known, 0.9999)
        model.set_class_weight(weights / weights[labels_].mean())
    else:
        model.temperature.fill_(1.0)
    losses = model(torch.zeros(len(labels), 3, 32, 32), labels_)
    assert losses["cls"].item() + losses["diversity"].item() == pytest.approx(total, abs=2e-5)


def test_experts_are_asked_together_and_adjusted_as_one() -> None:
    model = experts(3).eval()
    with torch.no_grad():
        each = torch.stack([head(f) for head, f in zip(model.head.each, model.features(IMAGES).unbind(1), strict=True)])
        torch.testing.assert_close(model(IMAGES), each.mean(dim=0))
        model.set_adjustment(torch.tensor([0.5, 1.0, 3.0]), torch.tensor([1.0, 0.0, -1.0]), center="mean")
        adjusted = model(IMAGES)
        model.fold()
        torch.testing.assert_close(model(IMAGES), adjusted)
    assert list(model.cam_layers()) == ["expert1", "expert2", "expert3"]


def test_the_reward_drives_experts_apart() -> None:
    model = experts(diversity=1.0).train()
    each = [torch.randn(2, 2, 3, requires_grad=True, generator=torch.Generator().manual_seed(1))]
    model.head = Said(each[0])  # type: ignore[assignment]
    model(IMAGES[:2], torch.tensor([0, 1]))["diversity"].backward()
    step = each[0].detach() - 0.1 * each[0].grad  # type: ignore[operator]
    assert (step[:, 0] - step[:, 1]).norm() > (each[0][:, 0] - each[0][:, 1]).norm()


def test_mixed_labels_reach_every_expert() -> None:
    model = experts().train()
    a, b = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])
    mixed = model(IMAGES, MixedLabels(a, b, torch.full((4,), 0.25)))
    whole = [model(IMAGES, labels)["cls"] for labels in (a, b)]
    torch.testing.assert_close(mixed["cls"], 0.25 * whole[0] + 0.75 * whole[1])


# -- two branches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "parameters"), [("resnet32", 100, 550_388), ("resnet50", 1000, 32_067_624)]
)
def test_branches_have_the_layers_of_the_published_networks(name: str, classes: int, parameters: int) -> None:
    model = CLASSIFIERS[name](classes, bilateral=True)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("epoch", "loss"), [(0, 1.898269), (100, 1.600315), (199, 1.365053)])
def test_the_loss_of_branches_is_the_published_program_s(epoch: int, loss: float) -> None:
    steps = torch.arange(6, dtype=torch.float64)
    ours, theirs = (wave(steps).view(2, 3).abs().float()[..., None, None] for wave in (torch.sin, torch.cos))
    model = bilateral().train()
    model.network.trunk = torch.nn.Identity()
    model.network.uniform, model.network.reversed = Said(ours), Said(theirs)
    model.head = torch.nn.Linear(6, 4)
    with torch.no_grad():
        model.head.weight.copy_(torch.cos(torch.arange(24, dtype=torch.float64)).view(4, 6) * 0.5)
        model.head.bias.copy_(torch.tensor([0.1, -0.1, 0.2, 0.0]))
    model.share.copy_(CumulativeShare(200).value(epoch))
    found = model(torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 1, 2]))  # pairs: 0 and 3, 1 and 2
    assert found["cls"].item() == pytest.approx(loss, abs=2e-6)
    logits = model.eval()(torch.rand(2, 3, 8, 8))
    expected = torch.tensor(
        [[-0.474433, -0.530278, -0.051848, -0.053356], [-0.487951, -0.541340, -0.059572, -0.057126]]
    )
    torch.testing.assert_close(logits, expected, atol=2e-6, rtol=0)


def test_each_kind_of_image_trains_its_own_branch() -> None:
    """At a share of 1 the first of each pair alone moves anything but the statistics of the trunk."""
    model, labels = bilateral().train(), torch.tensor([0, 3, 1, 2])
    model(IMAGES, labels)["cls"].backward()
    network: Any = model.network
    assert all(p.grad is not None and not p.grad.any() for p in network.reversed.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.uniform.parameters())
    other = model.head.weight.grad.clone()
    model.zero_grad()
    changed = IMAGES.clone()
    changed[1::2] = 0
    model(changed, torch.tensor([0, 0, 1, 1]))["cls"].backward()
    torch.testing.assert_close(model.head.weight.grad, other)


def test_pairs_are_never_parted() -> None:
    batch = Batch(torch.arange(10), torch.arange(10))
    for most in range(1, 10):
        pieces = pieces_of(batch, most, together=2)
        assert all(len(piece) % 2 == 0 and len(piece) for piece in pieces)
        assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)  # type: ignore[arg-type]
    assert [len(piece) for piece in pieces_of(batch, 4, together=2)] == [2, 4, 4]
    assert [len(piece) for piece in pieces_of(batch, 3, together=2)] == [2] * 5


# -- contrast ----------------------------------------------------------------------------------------------------------


def directions(rows: int, columns: int, wave: Any) -> Tensor:
    return torch.nn.functional.normalize(wave(torch.arange(rows * columns).float()).view(rows, columns), dim=-1)


@pytest.mark.parametrize(("temperature", "views", "prototypes"), [(0.1, 10.298558, 2.870275), (1, 2.618621, 0.624480)])
def test_contrasts_are_the_published_formulas(temperature: float, views: float, prototypes: float) -> None:
    """Numbers of the formulas, one anchor at a time."""
    z, labels = directions(12, 4, torch.sin), torch.tensor([0, 0, 1, 1, 2, 0])
    found = view_contrast(torch.stack([z[:6], z[6:]], dim=1), labels, temperature)
    assert found.item() == pytest.approx(views, rel=1e-6)
    found = prototype_contrast(z, labels.repeat(2), directions(3, 4, torch.cos), temperature)
    assert found.item() == pytest.approx(prototypes, rel=1e-5)


@pytest.mark.parametrize(("contrast", "together"), [("views", 3), ("prototypes", 2)])
def test_features_and_classifier_learn_from_images_of_their_own(contrast: str, together: int) -> None:
    torch.manual_seed(0)
    model = CLASSIFIERS["se_resnet20"](3, width=0.25, contrast=contrast).eval()
    images = torch.rand(2 * together + 1, 3, 32, 32).requires_grad_()
    labels = torch.tensor([0, 0, 2, 1, 1, 0] if together == 3 else [0, 2, 1, 0])
    labels = torch.cat([labels, torch.tensor([1])])  # one is left over
    model.share.fill_(0.5)
    losses = model.losses(images, labels)
    taught = {}
    for name, loss in losses.items():
        (slope,) = torch.autograd.grad(loss, images, retain_graph=True)
        taught[name] = slope.flatten(1).any(dim=1).nonzero().flatten().tolist()
    balanced = list(range(together - 1, 2 * together, together))
    assert taught["cls"] == balanced
    assert taught["contrast"] == [i for i in range(2 * together) if i not in balanced]
    model.share.fill_(1.0)
    assert model.losses(images, labels)["cls"] == 0


def test_inference_has_no_part_of_the_projection() -> None:
    model = CLASSIFIERS["se_resnet20"](3, width=0.25, contrast="prototypes").eval()
    before = model(IMAGES)
    for name, parameter in model.named_parameters():
        if name.startswith("contrast"):
            torch.nn.init.constant_(parameter, 7.0)
    assert torch.equal(model(IMAGES), before)


def test_prototypes_follow_their_classes_into_another_run() -> None:
    old = create_model("se_resnet20", 3, width=0.25, contrast="prototypes")
    new = create_model("se_resnet20", 2, width=0.25, contrast="prototypes")
    old.names, new.names = ["ant", "bee", "cow"], ["cow", "ant"]
    transfer_weights(new, old)
    assert torch.equal(new.contrast.prototypes, old.contrast.prototypes[[2, 0]])


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_classifier(tmp_path_factory.mktemp("branches"), device="cpu", adjust="none", epochs=4)


RUNS: dict[str, dict[str, Any]] = {
    "experts": {
        "model_args": {"width": 0.25, "experts": 2, "head": "cosine", "scale": 30, "class_loss": "ldam"},
        **{"adjust": "cb", "strategy": "cost_sensitive", "defer": 0.5},
    },
    "bilateral": {"model_args": {"width": 0.25, "bilateral": True}, "sampling": "bilateral", "mixup": 0.0},
    "views": {"model_args": {"width": 0.25, "contrast": "views"}, "sampling": "views", "mixup": 0.0, "batch": 9},
    "prototypes": {
        "model_args": {"width": 0.25, "contrast": "prototypes", "contrast_temperature": 1.0},
        **{"sampling": "prototypes", "mixup": 0.0},
    },
    "causal": {"model_args": {"width": 0.5, "head": "causal", "effect": 0.5}},
}


@pytest.mark.parametrize(
    ("name", "cache"), [*((name, "device") for name in RUNS), ("bilateral", False), ("views", False)]
)
def test_a_run_resumes_to_the_bit(name: str, cache: Any, keys: dict[str, Any], tmp_path: Path) -> None:
    mine = {**keys, **RUNS[name], "cache": cache, "project": tmp_path}
    whole = iifdet.train(**{**mine, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(2, 1)], **{**mine, "name": "run"})
    same_run(whole.folder, iifdet.train(resume=tmp_path / "run").folder)
    again = iifdet.val(weights=whole.folder / "weights" / "last.pt", project=tmp_path / "val", plots=False).metrics
    assert again["top1"] == whole.metrics["top1"] and again["nll"] == pytest.approx(whole.metrics["nll"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_three_colours(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    change = {"epochs": 16, "lr": 0.05, "cache": "device", "auto_augment": "none", "mixup": 0.0, "cutout": 0}
    change |= {"project": tmp_path, "select_on": "test", "val_every": 16}
    assert iifdet.train(**{**keys, **RUNS[name], **change}).metrics["top1"] > 0.6, "a third by chance"


def test_processes_agree_on_the_mean_of_what_the_causal_head_saw() -> None:
    model = CLASSIFIERS["se_resnet20"](3, width=0.5, head="causal")
    direction = model.head.direction
    assert any(buffer is direction for buffer in running_statistics(model.train()))
    assert not any(buffer is direction for buffer in running_statistics(model.eval()))


@pytest.mark.parametrize("name", RUNS)
def test_a_second_stage_moves_class_rows_alone(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    mine = {**keys, **RUNS[name], "project": tmp_path, "epochs": 1}
    start = iifdet.train(**{**mine, "name": "first"}).folder / "weights" / "last.pt"
    second = {**mine, "weights": start, "strategy": "decoupled", "adjust": "iif", "defer": 0.0, "name": "second"}
    after = last_of(iifdet.train(**second).folder)["weights"]
    before = iifdet.load(start).state_dict()  # type: ignore[union-attr]
    moved = {key for key, value in before.items() if key in after and not torch.equal(value, after[key])}
    rows = {f"{name}.weight" for name, module in iifdet.load(start).named_modules() if name.startswith("head")}  # type: ignore[union-attr]
    allowed = rows | {name.replace("weight", "bias") for name in rows} | {"adjust.scale", "class_weight", "share"}
    assert moved & rows and moved <= allowed


def test_the_share_of_branches_falls_over_the_run(keys: dict[str, Any], tmp_path: Path) -> None:
    class Watch(Callback):
        shares: list[float] = []  # noqa: RUF012

        def on_epoch_end(self, state: TrainState, row: Any) -> None:
            self.shares.append(float(state.model.share))  # type: ignore[arg-type]

    iifdet.train(callbacks=[Watch()], **{**keys, **RUNS["bilateral"], "project": tmp_path})
    assert pytest.approx([1, 15 / 16, 12 / 16, 7 / 16]) == Watch.shares


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sampling": "bilateral"},
            "sampling: bilateral draws images that are learned from together, got a model",
        ),
        ({"sampling": "views", "batch": 9}, "or a classifier with model_args.contrast=views"),
        ({"model_args": {"bilateral": True}, "mixup": 0.0}, "model_args.bilateral: .* random; add sampling=bilateral"),
        ({"model_args": {"contrast": "views"}, "mixup": 0.0}, "model_args.contrast: .* random; add sampling=views"),
        ({**RUNS["bilateral"], "mixup": 0.2}, "mixup: expected 0 beside model_args.bilateral"),
        ({**RUNS["bilateral"], "batch": 7}, "batch: expected a multiple of 2 with .* got 7; use batch=6"),
        ({**RUNS["views"], "batch": 8}, "batch: expected a multiple of 3 with .* got 8; use batch=6"),
        (
            {**RUNS["bilateral"], "model_args": {"width": 0.25, "bilateral": True, "class_loss": "eqlv2"}},
            "model_args.class_loss: eqlv2 sees a batch as a whole, and model_args.bilateral asks",
        ),
        (
            {"model_args": {"experts": 2, "class_loss": "bce"}},
            "diversity: compares scores of a softmax, got .*bce",
        ),
        ({"model_args": {"experts": 2, "diversity": "x"}}, "diversity: expected a number from 0 to 10, got 'x'"),
        ({"model_args": {"head": "causal", "effect": "x"}}, "effect: expected a number from 0, got 'x'"),
        ({"model_args": {"contrast": "no"}}, "contrast: expected views or prototypes, got 'no'"),
        ({"model_args": {"contrast": "views", "contrast_temperature": 0}}, "contrast_temperature: expected a number"),
        ({"model_args": {"contrast_temperature": 1}}, "contrast_temperature: expected none without contrast"),
        ({"model_args": {"experts": 0}}, "experts: expected a whole number from 1 to 16, got 0"),
        (
            {"model_args": {"experts": 2, "bilateral": True}},
            "experts: expected one of .* and bilateral; drop",
        ),
        ({"model_args": {"diversity": 0.1}}, "diversity: expected none with one expert"),
        ({"model_args": {"experts": 2, "diversity": -1}}, "diversity: expected a number from 0 to 10, got -1"),
        ({"model_args": {"width": 0.3, "head": "causal"}}, "head: causal wants an even number of features, got 19"),
    ],
)
def test_what_does_not_go_together_is_refused(
    change: dict[str, Any], message: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**{**keys, "project": tmp_path, **change})


def test_detectors_take_no_pairs(tiny_keys: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sampling: bilateral draws images that are learned from together"):
        iifdet.train(**tiny_keys(tmp_path, sampling="bilateral"))


def test_several_experts_are_not_aligned(keys: dict[str, Any], tmp_path: Path) -> None:
    mine = {**keys, **RUNS["experts"], "project": tmp_path, "epochs": 1}
    start = iifdet.train(**{**mine, "name": "first"}).folder / "weights" / "last.pt"
    second = {**mine, "weights": start, "strategy": "decoupled", "adjust": "disalign", "defer": 0.0, "name": "second"}
    with pytest.raises(InputError, match=r"disalign aligns one classifier .*, got ExpertClassifier"):
        iifdet.train(**second)


def test_more_experts_than_the_checkpoint_has_say_so() -> None:
    small, large = (create_model("se_resnet20", 3, width=0.25, experts=n) for n in (2, 3))
    notes = " ".join(transfer_weights(large, small))
    assert "class rows of head.2 keep random weights" in notes and "layers keep random weights" in notes
    plain = create_model("se_resnet20", 3, width=0.25)
    with pytest.raises(InputError, match="layers of se_resnet20 with experts=2, got a checkpoint of se_resnet20 and"):
        transfer_weights(small, plain)


def test_a_causal_head_on_finished_features_says_that_it_follows_nothing(
    keys: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = {**keys, "model_args": {"width": 0.5}, "project": tmp_path, "epochs": 1}
    start = iifdet.train(**{**mine, "name": "first"}).folder / "weights" / "last.pt"
    for number, change in enumerate(({"strategy": "decoupled"}, {"model_args": {"trainable_stages": 0}})):
        args = {"width": 0.5, "head": "causal", **change.get("model_args", {})}  # type: ignore[dict-item]
        run = iifdet.train(**{**mine, "weights": start, "name": f"later{number}", **change, "model_args": args})
        assert "inference will take nothing away" in caplog.text
        assert not last_of(run.folder)["weights"]["head.direction"].any()
        caplog.clear()
