"""What every classifier promises."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from iifdet.checkpoint import describe_model, restore_model
from iifdet.classifiers import CLASSIFIERS, Classifier
from iifdet.longtail import ClassCounts, iif_weights
from iifdet.transfer import transfer_weights
from iifdet.types import MixedLabels

C = 5
CIFAR = [name for name in CLASSIFIERS if name.removeprefix("se_") in ("resnet20", "resnet32", "resnet44", "resnet56")]
COUNTS = ClassCounts(list("abcde"), *[torch.tensor([300, 80, 20, 5, 2])] * 2, num_images=407)
WEIGHTS = iif_weights(COUNTS, "smooth")


def small(**options: Any) -> Classifier:
    torch.manual_seed(0)
    model = CLASSIFIERS["se_resnet20"](C, width=0.25, **options)
    model.names, model.counts = COUNTS.names, COUNTS
    model.spec = {"name": "se_resnet20", "args": {"num_classes": C, "width": 0.25, **options}}
    return model


IMAGES, LABELS = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if not name.endswith("152")])  # resnet50's, longer
def test_every_model_gives_a_loss_in_train_mode_and_logits_in_eval_mode(name: str) -> None:
    model = CLASSIFIERS[name](C).train()
    losses = model(IMAGES, LABELS)
    assert list(losses) == ["cls"] and losses["cls"].shape == ()
    losses["cls"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    logits = model.eval()(IMAGES)
    assert logits.shape == (6, C) and logits.dtype == torch.float32
    torch.testing.assert_close(model.scores(logits).sum(dim=1), torch.ones(6))


#: Parameters for 10 classes as He et al. count them (Table 6), to the last one: the classifier's bias is counted.
HE = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018}


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_models_have_the_published_number_of_parameters(name: str) -> None:
    plain = name.removeprefix("se_")
    blocks = (int(plain.removeprefix("resnet")) - 2) // 6
    gates = blocks * sum(2 * c * (c // 4) for c in (16, 32, 64)) if name != plain else 0
    assert sum(p.numel() for p in CLASSIFIERS[name](10).parameters()) == HE[plain] + gates


def test_the_adjustment_stands_before_the_loss_and_before_the_scores() -> None:
    model = small().train()
    model.set_adjustment(WEIGHTS)
    raw = copy.deepcopy(model).raw(IMAGES)  # batch norm of the copy has seen the same
    expected = F.cross_entropy(raw * WEIGHTS.float(), LABELS)
    torch.testing.assert_close(model(IMAGES, LABELS)["cls"], expected)
    model.eval()
    torch.testing.assert_close(model(IMAGES), model.raw(IMAGES) * WEIGHTS.float())


def test_class_weights_multiply_each_image_s_loss() -> None:
    model = small().train()
    model.set_class_weight(WEIGHTS)
    raw = copy.deepcopy(model).raw(IMAGES)
    expected = (F.cross_entropy(raw, LABELS, reduction="none") * WEIGHTS.float()[LABELS]).mean()
    torch.testing.assert_close(model(IMAGES, LABELS)["cls"], expected)


@pytest.mark.parametrize("share", [torch.tensor(1.0), torch.tensor(0.3), torch.linspace(0, 1, 6)])
def test_mixed_labels_cost_what_their_shares_say(share: torch.Tensor) -> None:
    model = small().train()
    others = LABELS.flip(0)
    each = [
        F.cross_entropy(copy.deepcopy(model).raw(IMAGES), labels, reduction="none").detach()
        for labels in (LABELS, others)
    ]
    expected = (share * each[0] + (1 - share) * each[1]).mean()
    plain = copy.deepcopy(model)(IMAGES, LABELS)["cls"]
    loss = model(IMAGES, MixedLabels(LABELS, others, share))["cls"]
    torch.testing.assert_close(loss, expected)
    if share.ndim == 0 and share == 1:
        torch.testing.assert_close(loss, plain, rtol=0, atol=0)


@pytest.mark.parametrize("head", ["linear", "cosine", "cosine_learned"])
def test_a_folded_model_gives_the_same_logits_and_does_not_train(head: str) -> None:
    model = small(head=head).eval()
    model.set_adjustment(WEIGHTS, torch.linspace(-1, 1, C), center="mean")
    expected = model(IMAGES)
    model.fold()
    assert model.adjust.is_identity
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="folded model cannot train"):
        model.train()(IMAGES, LABELS)


@pytest.mark.parametrize("head", ["linear", "cosine", "cosine_learned"])
def test_a_checkpoint_s_content_restores_every_bit(head: str) -> None:
    model = small(head=head).eval()
    model.set_adjustment(WEIGHTS, when="infer")
    content = {**describe_model(model), "ema": None}
    fresh = restore_model(small(head=head), content).eval()
    torch.testing.assert_close(fresh(IMAGES), model(IMAGES), rtol=0, atol=0)


@pytest.mark.parametrize("head", ["linear", "cosine", "cosine_learned"])
def test_class_rows_go_by_name_and_a_learned_scale_goes_along(head: str) -> None:
    source = small(head=head).eval()
    if head == "cosine_learned":
        with torch.no_grad():
            source.head.root_scale.fill_(4.0)
    model = small(head=head).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.names = ["e", "new", "c", "b", "a"]
    notes = transfer_weights(model, source)
    assert any("1 class starts from random rows: new" in note for note in notes)
    found, expected = model(IMAGES), source(IMAGES)
    torch.testing.assert_close(found[:, [0, 2, 3, 4]], expected[:, [4, 2, 1, 0]])


def test_images_are_normalised_inside() -> None:
    model = small(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()
    plain = small(mean=(0, 0, 0), std=(1, 1, 1)).eval()
    plain.load_state_dict(model.state_dict())
    by_hand = (IMAGES - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(model(IMAGES), plain(by_hand))
    torch.testing.assert_close(model(list(IMAGES)), model(IMAGES))


def test_frozen_stages_keep_their_weights_and_the_head_learns() -> None:
    model = small(trainable_stages=1).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(IMAGES, LABELS)["cls"].backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(name.startswith(("network.layer3.", "head.")) for name in changed)
    assert not any(p.requires_grad for p in small(trainable_stages=0).network.parameters())


def test_maps_of_the_last_stage_are_what_explanations_look_at() -> None:
    model = small().eval()
    [(name, layer)] = model.cam_layers().items()
    seen = []
    layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    model(IMAGES)
    assert name == "layer3" and seen[0].shape == (6, 16, 8, 8)
    torch.testing.assert_close(model.features(IMAGES), seen[0].mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable_stages": 5}, "trainable_stages: expected 0…4, got 5"),
        ({"trainable_stages": True}, "trainable_stages: expected 0…4, got True"),
        ({"mean": (0.1, 0.2)}, "mean: expected three numbers"),
        ({"std": (0.1, 0.2, 0.0)}, "std: expected numbers above 0"),
        ({"head": "sine"}, "head: expected one of"),
        ({"class_loss": "mse"}, "class_loss: expected one of"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_background_is_refused_and_targets_are_asked_for() -> None:
    model = small()
    with pytest.raises(ValueError, match="center: Classifier has no background logit"):
        model.set_adjustment(WEIGHTS, center="bg")
    with pytest.raises(ValueError, match="targets: expected a label an image"):
        model.train()(IMAGES)


@pytest.mark.parametrize("head", ["linear", "cosine", "cosine_learned"])
def test_a_step_never_waits_for_a_value_of_the_device(head: str) -> None:
    """Fake tensors have no values: whoever asks for one, as a CUDA graph forbids, gets an error."""
    model = small(head=head).train()
    model.set_adjustment(WEIGHTS, center="mean")
    model.set_class_weight(WEIGHTS)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images, labels = torch.rand(6, 3, 32, 32), torch.zeros(6, dtype=torch.int64)
        model(images, MixedLabels(labels, labels, torch.rand(6)))["cls"].backward()
        logits = model.eval()(images)
        assert logits.shape == (6, C)
        with pytest.raises(DataDependentOutputException):
            logits[0, 0].item()
