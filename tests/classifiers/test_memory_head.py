"""Meta-embeddings, attention and the memory of OLTR: published numbers, what follows what, whole second stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run

import iifdet
from iifdet.classifiers import CLASSIFIERS
from iifdet.classifiers.cosine import CosineHead
from iifdet.classifiers.rivals.attention import ModulatedAttention
from iifdet.classifiers.rivals.memory import REPULSION_SHARE, Memory, attraction, repulsion
from iifdet.errors import InputError


def wave(rows: int, columns: int, shift: int = 0, kind: Any = torch.sin) -> torch.Tensor:
    """What the reference numbers were made of."""
    return kind(torch.arange(rows * columns).float() + shift).view(rows, columns)


FEATURES, MEMORY = wave(3, 4), wave(5, 4, kind=torch.cos)


def logits(features: torch.Tensor) -> torch.Tensor:
    memory, head = Memory(4, 5), CosineHead(4, 5)
    with torch.no_grad():
        memory.centroids.copy_(MEMORY)
        memory.recall.weight.copy_(wave(5, 4, 1))
        memory.select.weight.copy_(wave(4, 4, 1, torch.cos))
        head.weight.copy_(wave(5, 4, 2))
        memory.recall.bias.zero_()
        memory.select.bias.zero_()
    return head(memory(features))


def test_meta_embeddings_are_the_published_program_s() -> None:
    expected = torch.tensor([-6.691812, 13.737339, -9.716945, -0.538734, 9.605876])
    torch.testing.assert_close(logits(FEATURES)[0], expected, atol=1e-5, rtol=0)


def test_the_losses_on_centroids_are_the_published_program_s() -> None:
    given = FEATURES, torch.tensor([0, 2, 4]), MEMORY
    attracted, repelled = attraction(*given), repulsion(*given)
    assert attracted.item() == pytest.approx(2.485086, abs=1e-5)
    assert (attracted + REPULSION_SHARE * repelled).item() == pytest.approx(2.554249, abs=1e-5)


def test_a_feature_on_a_centroid_is_finite() -> None:
    z = MEMORY[:2].clone().requires_grad_()
    found = logits(z)
    found.sum().backward()
    assert found.isfinite().all() and z.grad is not None and z.grad.isfinite().all()


def test_attention_begins_as_the_identity_and_is_the_published_formula() -> None:
    torch.manual_seed(0)
    attention, x = ModulatedAttention(6, 3), torch.randn(2, 6, 3, 3)
    assert torch.equal(attention(x), x)
    torch.nn.init.normal_(attention.mask.weight)
    got = attention(x)
    for b in range(2):  # one place at a time
        value, query, key = (
            layer(x[b : b + 1])[0].flatten(1).T for layer in (attention.value, attention.query, attention.key)
        )
        told = torch.stack([(query[i] @ key.T).softmax(0) @ value for i in range(9)])
        mask = told @ attention.mask.weight.flatten(1).T
        shares = attention.shares(x[b].flatten()).softmax(0)
        torch.testing.assert_close(got[b].flatten(1).T, x[b].flatten(1).T + shares[:, None] * mask)
    with pytest.raises(ValueError, match="imgsz: expected images whose last maps are 3 by 3, got 4 by 3"):
        attention(torch.zeros(1, 6, 4, 3))


def test_centroids_go_to_the_mean_of_a_batch_s_features_and_drag_nothing_along() -> None:
    torch.manual_seed(0)
    model: Any = CLASSIFIERS["se_resnet20"](3, width=0.25, head="cosine", memory=True)
    features, labels = torch.randn(4, 16, requires_grad=True), torch.tensor([0, 0, 2, 2])
    torch.nn.init.normal_(model.memory.centroids)
    sum(model.memory_losses(features, labels).values()).backward()
    with torch.no_grad():
        memory = model.memory.centroids.detach()
        attracted = torch.zeros_like(memory)
        for c in (0, 2):
            attracted[c] = (memory[c] - features[labels == c]).sum(dim=0) / 3 / 4  # 1 + two images; four in all
    repelled = repulsion(features.detach(), labels, model.memory.centroids)
    (push,) = torch.autograd.grad(repelled, model.memory.centroids)
    torch.testing.assert_close(model.memory.centroids.grad, attracted + 1e-4 * push)
    towards = 0.01 * (features.detach() - memory[labels]) / 4
    (push,) = torch.autograd.grad(repulsion(features, labels, memory), features)
    torch.testing.assert_close(features.grad, towards + 1e-4 * push)


@pytest.mark.parametrize("name", ["resnet50", "se_resnet20"])
def test_a_network_with_attention_gives_the_features_of_one_without_at_first(name: str) -> None:
    options: dict[str, Any] = {"head": "cosine"}
    torch.manual_seed(0)
    plain = CLASSIFIERS[name](3, **options).eval()
    model = CLASSIFIERS[name](3, **options, memory=True).eval()
    theirs = plain.network.state_dict()
    missing, unexpected = model.network.load_state_dict(theirs, strict=False)
    assert missing and not unexpected and all("attention" in key or "avgpool" in key for key in missing)
    x = torch.rand(1, 3, model.network.side, model.network.side)
    torch.testing.assert_close(model.features(x), plain.features(x))


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("memory")
    return small_classifier(root, device="cpu", adjust="none", epochs=2, mixup=0.0, cache="device", lr=0.02)


@pytest.fixture(scope="module")
def start(keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's weights."""
    return iifdet.train(**{**keys, "project": str(tmp_path_factory.mktemp("first"))}).folder / "weights" / "last.pt"


def test_a_second_stage_trains_head_and_attention_alone_and_resumes_to_the_bit(
    keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    args = {**keys["model_args"], "head": "cosine", "memory": True, "trainable_stages": 0}
    mine = {**keys, "model_args": args, "weights": start, "sampling": "class_aware", "project": tmp_path}
    whole = iifdet.train(**{**mine, "name": "whole"}).folder
    for epoch in (0, 1):
        with pytest.raises(RuntimeError, match="power cut"):
            iifdet.train(callbacks=[Interrupt(epoch, 1)], **{**mine, "name": f"run{epoch}"})
        same_run(whole, iifdet.train(resume=tmp_path / f"run{epoch}").folder)
    before, after = iifdet.load(start).state_dict(), last_of(whole)["weights"]  # type: ignore[union-attr]
    moved = {key for key in before if key in after and not torch.equal(before[key], after[key])}
    assert moved == {"head.weight"}, "the network stays"
    assert after["network.attention.mask.weight"].any()
    assert (after["memory.centroids"] > 0).float().mean() > 0.9, "means of features, which are not negative"
    last = whole / "weights" / "last.pt"
    iifdet.val(weights=last, adjust="iif", project=tmp_path, plots=False)
    for adjust, learned in (("none", "head.weight"), ("lws", "adjust.scale")):
        later = {**mine, "weights": last, "strategy": "decoupled", "adjust": adjust, "name": adjust}
        third, held = last_of(iifdet.train(**later).folder)["weights"], iifdet.load(last).state_dict()  # type: ignore[union-attr]
        assert {key for key in held if not torch.equal(held[key], third[key])} == {learned}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "model_args.memory: begins with the features of a finished classifier"),
        ({"mixup": 0.2}, "mixup: expected 0 beside model_args.memory"),
        (
            {"model_args": {"memory": True}},
            "head: expected cosine with a memory, got linear",
        ),
        ({"model_args": {"memory": True, "head": "cosine", "experts": 2}}, "experts: expected one of .* and memory"),
    ],
)
def test_what_a_memory_cannot_begin_with_is_refused(
    change: dict[str, Any], message: str, keys: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    args = {**keys["model_args"], "head": "cosine", "memory": True}
    with pytest.raises(InputError, match=message):
        iifdet.train(**{**keys, "model_args": args, "weights": start, "project": tmp_path, **change})
