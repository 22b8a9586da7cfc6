"""The same networks by other hands: torchvision's ResNets, timm's SE-ResNets."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from iifdet.classifiers import CLASSIFIERS, Classifier
from iifdet.classifiers.torchvision_weights import load_torchvision
from iifdet.errors import InputError

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def ours(name: str, classes: int = 7, **options: Any) -> Classifier:
    model = CLASSIFIERS[name](classes, mean=(0, 0, 0), std=(1, 1, 1), **options)
    model.spec = {"name": name}
    return model.eval()


def lively(model: nn.Module) -> nn.Module:
    """Random statistics in batch norm, so that nothing cancels."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.8, 1.2)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_torchvision_s_weights_give_torchvision_s_logits(name: str) -> None:
    theirs = lively(get_model(name, num_classes=7))
    model = ours(name)
    notes = load_torchvision(model, theirs.state_dict(), classifier=True)
    assert not any("left over" in note for note in notes)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), theirs(IMAGES), rtol=1e-4, atol=1e-5)


def test_resnet152_has_torchvision_s_tensors() -> None:
    theirs = get_model("resnet152", num_classes=7)
    load_torchvision(ours("resnet152"), theirs.state_dict(), classifier=True)


@torch.inference_mode()
def test_squeeze_and_excitation_starts_as_the_plain_network() -> None:
    theirs = lively(get_model("resnet50", num_classes=7))
    model = ours("se_resnet50", 3, head="cosine")
    head = model.head.weight.detach().clone()
    notes = load_torchvision(model, theirs.state_dict())
    assert "left over in the file: fc.weight, fc.bias" in notes[-1] and "16 blocks starts neutral" in notes[1]
    assert torch.equal(model.head.weight, head)
    plain = ours("resnet50", 3, head="cosine").eval()
    load_torchvision(plain, theirs.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model.eval().features(images), plain.features(images))


def timm_name(name: str) -> str:
    """Ours -> timm's."""
    name = name.removeprefix("network.body.").replace("head.", "fc.")
    return re.sub(r"se\.(squeeze|excite)", lambda m: "se." + {"squeeze": "fc1", "excite": "fc2"}[m[1]], name)


@pytest.mark.parametrize("name", ["se_resnet50", "se_resnext50_32x4d"])
def test_timm_s_se_networks_give_the_same_logits_and_count(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs: Any = lively(timm.create_model(name.replace("_", "", 1), num_classes=7))
    biases = 0
    for block in theirs.modules():
        if type(block).__name__ == "SEModule":  # timm's have biases
            for layer in (block.fc1, block.fc2):
                biases += layer.bias.numel()
                nn.init.zeros_(layer.bias)
                nn.init.normal_(layer.weight, std=0.3)
    model = ours(name)
    state = theirs.state_dict()

    def mapped(key: str, value: Tensor) -> Tensor:
        return state[timm_name(key)].view(value.shape) if timm_name(key) in state else value

    own = model.state_dict()
    unknown = [key for key in own if timm_name(key) not in state]
    assert all(key.startswith("adjust.") for key in unknown), unknown
    model.load_state_dict({key: mapped(key, value) for key, value in own.items()})
    assert sum(p.numel() for p in model.parameters()) + biases == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), theirs(IMAGES), rtol=1e-4, atol=1e-5)


def test_se_resnet50_has_the_published_28_1_million_parameters() -> None:
    """Hu et al., Table 2; timm's own count for 1000 classes is 28,088,024 with 16,048 biases that ours is without."""
    assert sum(p.numel() for p in CLASSIFIERS["se_resnet50"](1000).parameters()) == 28_088_024 - 16_048


def cifar_by_hand(model: Classifier, x: Tensor, reduction: int) -> Tensor:
    """He et al., Section 4.2 and Hu et al., written with functions over the tensors by name."""
    w = model.state_dict()
    f = torch.nn.functional

    def norm(x: Tensor, key: str) -> Tensor:
        p = [w[f"network.{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return (x - p[0][:, None, None]) / (p[1][:, None, None] + 1e-5).sqrt() * p[2][:, None, None] + p[3][
            :, None, None
        ]

    x = f.relu(norm(f.conv2d(x, w["network.conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = f.relu(norm(f.conv2d(x, w[f"network.{key}.conv1.weight"], stride=stride, padding=1), f"{key}.bn1"))
            y = norm(f.conv2d(y, w[f"network.{key}.conv2.weight"], padding=1), f"{key}.bn2")
            if reduction:
                mean = f.adaptive_avg_pool2d(y, 1).flatten(1)
                gates = f.relu(mean @ w[f"network.{key}.se.squeeze.weight"].T) @ w[f"network.{key}.se.excite.weight"].T
                y = y * (1 / (1 + torch.exp(-gates)))[..., None, None]
            if stride == 2:
                short = torch.zeros_like(y)
                c = x.shape[1]
                short[:, c // 2 : c // 2 + c] = x[:, :, ::2, ::2]
                x = short
            x = f.relu(x + y)
    return x.mean(dim=(2, 3)) @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize(("name", "reduction"), [("resnet20", 0), ("se_resnet20", 4)])
def test_cifar_networks_are_what_the_papers_say(name: str, reduction: int) -> None:
    model = ours(name)
    lively(model)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), cifar_by_hand(model, x, reduction), rtol=1e-4, atol=1e-5)


def test_files_of_other_networks_are_refused_and_nothing_changes() -> None:
    model = ours("resnet50")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for name in ("resnext50_32x4d", "resnet101"):
        with pytest.raises(InputError, match="choose the file of the same network"):
            load_torchvision(model, get_model(name).state_dict())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(InputError, match="torchvision has none for resnet20"):
        load_torchvision(ours("resnet20"), {})
    with pytest.raises(InputError, match="fit a linear head alone"):
        load_torchvision(ours("resnet50", head="cosine"), get_model("resnet50").state_dict(), classifier=True)
