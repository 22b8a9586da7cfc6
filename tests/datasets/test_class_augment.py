"""Augmentation of small images in batches: torchvision as the oracle, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from iifdet.datasets.classification.augment import NUMBERS, SmallAugment, crop, cut_out, mix
from iifdet.datasets.classification.index import ArrayImages, ClassIndex
from iifdet.datasets.classification.photos import ClassDataset, Collate, PhotoTransform, SmallTransform
from iifdet.datasets.classification.policies import CIFAR10, FILL, LEVELS, OPERATIONS, SIGNED, apply_policy, operate
from iifdet.datasets.classification.resident import ResidentImages, ResidentSplit, ResidentTraining
from iifdet.datasets.samplers import EpochSampler, SampleKey
from iifdet.errors import InputError
from iifdet.types import Batch, MixedLabels

ALL = SmallAugment(padding=4, flip=0.5, policy="cifar10", cutout=16)
#: Our names of operations, as torchvision has them.
THEIRS = {name: "".join(part.title() for part in name.split("_")) for name in OPERATIONS} | {
    "autocontrast": "AutoContrast"
}


def pictures(count: int = 24, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth colours with some noise: every operation has something to change."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(count, 3, 4, 4))
    smooth = torch.nn.functional.interpolate(torch.from_numpy(waves), size=size, mode="bicubic")
    return (110 + 50 * smooth + torch.from_numpy(rng.normal(0, 4, smooth.shape))).clamp(0, 255).byte()


def numbers(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, NUMBERS), dtype=np.float32))


def index(count: int = 40, size: int = 16, classes: int = 4) -> ClassIndex:
    array = pictures(count, size).permute(0, 2, 3, 1).contiguous().numpy()
    labels = np.arange(count) % classes
    return ClassIndex.of(
        [str(c) for c in range(classes)], ArrayImages(array, [f"{i}.png" for i in range(count)]), labels
    )


def test_the_policy_is_the_published_one() -> None:
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    ours = [tuple((THEIRS[name], p, level) for name, p, level in pair) for pair in CIFAR10]
    assert [tuple((n, p, m or 0) for n, p, m in pair) for pair in theirs] == ours


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", [0, 4, 9])
def test_an_operation_is_torchvisions(name: str, level: int) -> None:
    images = pictures(6)
    space = AutoAugment()._augmentation_space(LEVELS, (32, 32))
    magnitudes, signed = space[THEIRS[name]]
    assert signed == (name in SIGNED)
    for minus in (False, True) if signed else (False,):
        size = float(magnitudes[level]) if magnitudes.ndim else 0.0
        done = operate(images, name, level, minus)
        for image, mine in zip(images, done, strict=True):
            theirs = _apply_op(image, THEIRS[name], -size if minus else size, InterpolationMode.NEAREST, FILL)
            assert (mine.int() - theirs.int()).abs().max() <= 1, name


@pytest.mark.parametrize("augment", [ALL, SmallAugment(), SmallAugment(padding=0, flip=1.0), SmallAugment(cutout=8)])
def test_a_batch_is_augmented_as_its_images_alone(augment: SmallAugment) -> None:
    images, drawn = pictures(), numbers(24)
    together = augment(images, drawn)
    alone = torch.cat([augment(images[i : i + 1], drawn[i : i + 1]) for i in range(24)])
    assert torch.equal(together, alone)
    assert together.dtype == torch.uint8 and together.shape == images.shape
    assert not torch.equal(together, images)


def test_the_loaders_transform_is_the_same_augmentation() -> None:
    images = pictures(3)
    rng = np.random.default_rng(7)
    expected = ALL(images[:1], torch.from_numpy(rng.random((1, NUMBERS), dtype=np.float32)))[0]
    assert torch.equal(SmallTransform(32, ALL)(images[0], 7), expected)


def test_the_input_is_left_alone() -> None:
    images = pictures()
    before = images.clone()
    ALL(images, numbers(24))
    apply_policy(images, CIFAR10, numbers(24)[:, :5])
    assert torch.equal(images, before)


def test_a_crop_moves_by_up_to_the_padding() -> None:
    images = pictures(3, 8)
    edges = torch.tensor([0.0, 0.5, 0.9999])
    moved = crop(images, 2, edges, edges)
    padded = torch.nn.functional.pad(images, [2] * 4)
    for row, start in enumerate((0, 2, 4)):
        assert torch.equal(moved[row], padded[row, :, start : start + 8, start : start + 8])


def test_holes_are_black_squares_cut_at_the_edges() -> None:
    images = torch.full((2, 3, 10, 10), 200, dtype=torch.uint8)
    cut = cut_out(images, 4, torch.tensor([5.9, 0.0]), torch.tensor([5.0, 9.99]))
    assert (cut == 0).sum(dim=(1, 2, 3)).tolist() == [3 * 16, 3 * 2 * 3]
    assert (cut[0, :, 3:7, 3:7] == 0).all() and (cut[1, :, :2, 7:] == 0).all()


def test_each_sub_policy_comes_as_often_as_the_others() -> None:
    """Invert is the only thing that turns a white image with these numbers black."""
    images = torch.full((25, 3, 4, 4), 255, dtype=torch.uint8)
    drawn = torch.zeros(25, 5)
    drawn[:, 0] = (torch.arange(25) + 0.5) / 25
    drawn[:, 3] = 0.999  # the second step never acts
    done = apply_policy(images, CIFAR10, drawn)
    black = [i for i in range(25) if not done[i].any()]
    assert black == [i for i, pair in enumerate(CIFAR10) if pair[0][0] in ("invert", "solarize") and pair[0][1] > 0]


def test_mixing_with_share_one_changes_nothing() -> None:
    images = pictures(5)
    others = torch.tensor([4, 3, 2, 1, 0])
    assert torch.equal(mix(images, others, torch.ones(5)), images.float() / 255)
    torch.testing.assert_close(mix(images, others, torch.zeros(5)), images[others].float() / 255)


def training(batch: int = 8, seed: int = 3, **options: object) -> ResidentTraining:
    data = ResidentImages.of(index(), torch.device("cpu"), 16)
    return ResidentTraining(data, EpochSampler(40, seed), batch, SmallAugment(2, 0.5, "cifar10", 4), **options)  # type: ignore[arg-type]


def flat(batch: Batch) -> list[Tensor]:
    return [batch.images, *(batch.targets if isinstance(batch.targets, tuple) else [batch.targets])]  # type: ignore[list-item]


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_an_epoch_goes_on_in_its_middle(mixup: float) -> None:
    whole = list(training(mixup=mixup).epoch(2))
    rest = list(training(mixup=mixup).epoch(2, start=3))
    assert len(whole) == 5 and len(rest) == 2
    for one, other in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))
    assert list(training().epoch(2, start=5)) == []


def test_epochs_differ_and_hold_every_image_once() -> None:
    data = training()
    labels = [torch.cat([b.targets for b in data.epoch(e)]) for e in (0, 1)]  # type: ignore[misc]
    assert [torch.bincount(each).tolist() for each in labels] == [[10] * 4] * 2
    assert not torch.equal(*labels)


def test_partners_are_of_the_same_batch_with_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in training(batch=16, mixup=0.2).epoch(0):
        assert isinstance(batch.targets, MixedLabels)
        assert sorted(batch.targets.labels.tolist()) == sorted(batch.targets.others.tolist())
        assert len(batch.targets.share.unique()) == 1
        assert batch.images.is_floating_point() and float(batch.images.max()) <= 1  # type: ignore[union-attr]


def test_a_split_comes_once_in_order_over_processes() -> None:
    data = ResidentImages.of(index(), torch.device("cpu"), 16)
    parts = [list(ResidentSplit(data, 16, rank, 2)) for rank in (0, 1)]
    assert [len(p) for p in parts] == [len(ResidentSplit(data, 16, rank, 2)) for rank in (0, 1)] == [2, 1]
    images = torch.cat([parts[0][0].images, parts[1][0].images, parts[0][1].images])  # type: ignore[list-item]
    assert torch.equal(images, data.images)


def test_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"imgsz: expected 16 .* got 32"):
        ResidentImages.of(index(), torch.device("cpu"), 32)


def test_no_size_makes_oblong_images_resident() -> None:
    oblong = ArrayImages(np.zeros((2, 9, 12, 3), np.uint8), ["0", "1"])
    with pytest.raises(InputError, match=r"imgsz: expected 9x12 .* got 32; use cache=false$"):
        ResidentImages.of(ClassIndex.of(["a"], oblong, [0, 0]), torch.device("cpu"), 32)


def test_photos_are_augmented_by_their_seed_alone() -> None:
    transform, image = PhotoTransform(64, policy="imagenet"), pictures(1, 96)[0]
    torch.manual_seed(0)
    first, after = transform(image, 5), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(transform(image, 5), first) and first.shape == (3, 64, 64)
    assert not torch.equal(transform(image, 6), first)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)  # nothing was taken from the run's own generator


def test_the_loader_mixes_by_the_seed_of_the_first() -> None:
    data = ClassDataset(index(), SmallTransform(16, SmallAugment()), seed=0, grey=False)
    samples = [data[SampleKey(0, row)] for row in range(6)]
    one, other = Collate(0.2)(samples), Collate(0.2)(samples)
    assert isinstance(one.targets, MixedLabels) and isinstance(other.targets, MixedLabels)
    assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))
    assert Collate(0.0)(samples).targets.tolist() == [s.label for s in samples]  # type: ignore[union-attr]
