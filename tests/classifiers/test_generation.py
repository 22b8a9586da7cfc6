"""Maps that a generator makes for rare classes: what goes where, what learns from what, whole runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run
from torch import Tensor

import iifdet
from iifdet.classifiers import CLASSIFIERS
from iifdet.classifiers.rivals.generation import CENTRES, Generator
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts
from iifdet.training import Callback, TrainState
from iifdet.types import MixedLabels

LABELS = torch.tensor([0, 1, 2, 0, 3, 0])
COUNTS = ClassCounts(list("abcde"), n := torch.tensor([90, 30, 10, 5, 2]), n, 137)


def generator() -> tuple[Generator, Tensor]:
    torch.manual_seed(0)
    made, maps = Generator(4, 5), torch.randn(6, 4, 3, 3)
    made.common[0] = 1
    torch.nn.init.normal_(made.centres)
    return made, maps


def test_the_loss_on_centres_is_that_of_one_place_after_the_other() -> None:
    made, maps = generator()
    shares = made.shares(maps, LABELS)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
    found = torch.zeros(())
    for i, label in enumerate(LABELS.tolist()):
        scores = made.choice[label] @ maps[i].mean(dim=(1, 2)) + made.choice_bias[label]
        torch.testing.assert_close(shares[i], scores.softmax(0))
        for k in range(CENTRES):
            found = found + shares[i, k] * (maps[i] - made.centres[label, k, :, None, None]).square().sum()
    torch.testing.assert_close(made.centre_loss(maps, LABELS), found / 6)


def test_a_map_is_made_for_each_common_image_of_a_rare_class_that_is_there() -> None:
    made, maps = generator()
    seen = set()
    for _ in range(60):
        new, labels, valid, _ = made.made(maps, LABELS)
        assert valid.tolist() == [1, 0, 0, 1, 0, 1]
        assert torch.equal(new[valid == 0], maps[valid == 0]) and torch.equal(labels[valid == 0], LABELS[valid == 0])
        variation = maps - made.nearest_centre(maps, LABELS)
        for i in (0, 3, 5):
            own = int((labels[i] == LABELS).nonzero()[0])
            torch.testing.assert_close(new[i], maps[own] + made.turn(variation)[i], atol=1e-5, rtol=1e-4)
        seen |= set(labels[valid == 1].tolist())
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 2, 3]])
def test_a_batch_of_one_kind_alone_makes_nothing(labels: list[int]) -> None:
    made, maps = generator()
    new, found, valid, loss = made.made(maps[:3], torch.tensor(labels))
    assert torch.equal(new, maps[:3]) and found.tolist() == labels and not valid.any() and loss == 0


def model(**options: Any) -> Any:
    torch.manual_seed(0)
    made = CLASSIFIERS["se_resnet20"](5, width=0.25, generator=True, **options)
    made.set_class_statistic(COUNTS)
    return made


IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def gradients(made: Any, generating: float) -> dict[str, set[str]]:
    """Loss -> modules of the generator and the network that learn from it."""
    made.generating.fill_(generating)
    losses = made.train()(IMAGES, LABELS)
    found = {}
    for name, loss in losses.items():
        made.zero_grad()
        loss.backward(retain_graph=True)
        found[name] = {
            ".".join(key.split(".")[:2]) for key, p in made.named_parameters() if p.grad is not None and p.grad.any()
        }
    return found


def test_first_centres_and_comparisons_learn_and_then_what_turns_variations() -> None:
    before, after = gradients(model(), 0.0), gradients(model(), 1.0)
    network = {"network.conv1", "network.layer2", "network.layer3", "head.weight"}
    kinds = {"generator.centres", "generator.choice", "generator.choice_bias"}
    assert network <= before["cls"] and not any(key.startswith("generator") for key in before["cls"])
    assert before["centres"] == kinds | {"generator.compare"} and not before["variations"]
    assert network <= after["cls"] and {k for k in after["cls"] if k.startswith("gen")} == {"generator.turn"}
    assert after["centres"] == kinds and after["variations"] == {"generator.turn"}


def test_before_it_makes_anything_the_loss_is_the_plain_one() -> None:
    made = model().eval()
    plain = made.label_losses(made.raw(IMAGES), LABELS).mean()
    torch.testing.assert_close(made.losses(IMAGES, LABELS)["cls"], plain)
    made.generating.fill_(1.0)
    assert made.losses(IMAGES, LABELS)["cls"].item() != pytest.approx(plain.item())
    with pytest.raises(ValueError, match=r"with model_args\.generator, got mixed"):
        made.train()(IMAGES, MixedLabels(LABELS, LABELS, torch.ones(6)))


@pytest.mark.parametrize("name", ["resnet50", "se_resnet20"])
def test_a_network_in_two_parts_is_the_network(name: str) -> None:
    network: Any = CLASSIFIERS[name](3).eval().network
    x = torch.rand(2, 3, network.side, network.side)
    maps = network.inner(x)
    assert maps.shape[1] == network.inner_channels()
    assert torch.equal(network.outer(maps), network(x))


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("generation")
    return small_classifier(root, device="cpu", adjust="none", epochs=4, mixup=0.0, cache="device")


def test_a_run_resumes_to_the_bit_on_either_side_and_begins_to_make_maps_late(
    keys: dict[str, Any], tmp_path: Any
) -> None:
    states = []

    class Watch(Callback):
        def on_epoch_end(self, state: TrainState, row: Any) -> None:
            states.append(float(state.model.generating))  # type: ignore[arg-type]

    args = {"width": 0.25, "generator": True, "head": "cosine", "scale": 30, "class_loss": "ldam"}
    mine = {**keys, "model_args": args, "adjust": "cb", "strategy": "cost_sensitive", "defer": 0.5, "project": tmp_path}
    whole = iifdet.train(callbacks=[Watch()], **{**mine, "name": "whole"}).folder
    assert states == [0, 0, 1, 1]
    for epoch in (1, 3):
        with pytest.raises(RuntimeError, match="power cut"):
            iifdet.train(callbacks=[Interrupt(epoch, 1)], **{**mine, "name": f"run{epoch}"})
        same_run(whole, iifdet.train(resume=tmp_path / f"run{epoch}").folder)
    weights = last_of(whole)["weights"]
    assert weights["generator.common"].tolist() == [1, 0, 0] and weights["generator.centres"].any()
    iifdet.val(weights=whole / "weights" / "last.pt", adjust="iif", project=tmp_path, plots=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_args": {"width": 0.25, "generator": True, "class_loss": "efl"}},
            "generator asks for each image",
        ),
        ({"mixup": 0.2}, "mixup: expected 0 beside model_args.generator"),
        (
            {"model_args": {"generator": True, "memory": True, "head": "cosine"}},
            "memory: .* got memory and generator",
        ),
    ],
)
def test_what_a_generator_cannot_use_is_refused(
    change: dict[str, Any], message: str, keys: dict[str, Any], tmp_path: Any
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**{**keys, "model_args": {"width": 0.25, "generator": True}, "project": tmp_path, **change})
