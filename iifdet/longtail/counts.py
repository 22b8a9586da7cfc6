"""How often each class appears: the one statistic that everything in this package starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Per-class frequencies of a training set.

    Attributes:
        names: the C class names, in label order.
        images: (C,) int64, in how many images each class appears (the paper's IF, Eq. 10).
        instances: (C,) int64, how many boxes each class has (the paper's OF).
        num_images: number of images of the training set, those without boxes included.

    Raises:
        ValueError: when lengths differ, a count is negative or no whole number, or a class appears in more images than
            there are images or boxes.

    Example:
        >>> counts = ClassCounts(["car", "bus"], torch.tensor([8, 2]), torch.tensor([30, 2]), num_images=9)
        >>> counts.imbalance("image"), counts.imbalance("instance")
        (4.0, 15.0)
    """

    names: list[str]
    images: Tensor
    instances: Tensor
    num_images: int

    def __post_init__(self) -> None:
        for field in ("images", "instances"):
            given = torch.as_tensor(getattr(self, field))
            values = given.to(torch.int64).cpu()
            if given.is_floating_point() and not torch.equal(values.to(given), given):
                raise ValueError(f"counts.{field}: expected whole numbers, got {given.tolist()}")
            if values.shape != (len(self.names),):
                raise ValueError(f"counts.{field}: expected shape ({len(self.names)},), got {tuple(values.shape)}")
            if (values < 0).any():
                raise ValueError(f"counts.{field}: expected counts >= 0, got {int(values.min())}")
            object.__setattr__(self, field, values)
        most = torch.minimum(self.instances, torch.tensor(self.num_images))
        wrong = (self.images > most).nonzero().flatten().tolist()
        if wrong:
            c = wrong[0]
            raise ValueError(
                f"class {c} '{self.names[c]}': expected at most {int(most[c])} images "
                f"(its boxes, or all {self.num_images} images), got {int(self.images[c])}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def by(self, by: str) -> Tensor:
        """Return the (C,) counts named ``"image"`` (IIF) or ``"instance"`` (IOF)."""
        if by not in ("image", "instance"):
            raise ValueError(f"by: expected 'image' or 'instance', got '{by}'")
        return self.images if by == "image" else self.instances

    @property
    def alike(self) -> bool:
        """Whether every class has as many instances as images, as in classification: then one count says it all."""
        return bool(self.images.equal(self.instances))

    def imbalance(self, by: str = "image") -> float:
        """Largest count over smallest count above zero (β of the paper's Table I); NaN without any count."""
        counts = self.by(by)
        present = counts[counts > 0]
        return float(present.max() / present.min()) if len(present) else float("nan")


def count_classes(image_of_box: Tensor, labels: Tensor, names: list[str], num_images: int) -> ClassCounts:
    """Count images and instances per class, each with one bincount.

    Args:
        image_of_box: (M,) int, row of the image each box lies in, 0…num_images-1.
        labels: (M,) int, class of each box, 0…C-1.
        names: the C class names.
        num_images: number of images, those without boxes included.

    Example:
        >>> counts = count_classes(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]), ["a", "b"], num_images=3)
        >>> counts.images.tolist(), counts.instances.tolist()
        ([0, 2], [0, 3])
    """
    num_classes = len(names)
    image_of_box, labels = torch.as_tensor(image_of_box).long(), torch.as_tensor(labels).long()
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ValueError(f"labels: expected 0…{num_classes - 1}, got {int(labels.min())}…{int(labels.max())}")
    if len(labels) and not (int(image_of_box.min()) >= 0 and int(image_of_box.max()) < num_images):
        raise ValueError(f"image_of_box: expected 0…{num_images - 1}, got up to {int(image_of_box.max())}")
    pairs = torch.unique(image_of_box * num_classes + labels)
    return ClassCounts(
        names=list(names),
        images=torch.bincount(pairs % num_classes, minlength=num_classes),
        instances=torch.bincount(labels, minlength=num_classes),
        num_images=num_images,
    )
