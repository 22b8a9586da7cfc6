"""What a classifier's network is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Network(nn.Module):
    """(B, 3, H, W) images of zero mean and unit variance -> (B, D) features.

    A subclass sets ``out_features`` (D) and ``side`` (of the images that it is for, pixels), and defines :meth:`stages`
    and ``forward``.
    """

    out_features: int
    side: int
    #: Whether the last maps lie side by side, so that a score stands on all of them.
    parallel = False

    def stages(self) -> dict[str, nn.Module]:
        """Parts in the order in which an image passes them."""
        raise NotImplementedError

    def attend(self, make: Callable[[int, int], nn.Module]) -> None:
        """Put a module of (channels, side) between the last maps and their pooling."""
        raise ValueError(f"{type(self).__name__} has no place for attention")

    def inner(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the maps in front of the last stage."""
        raise ValueError(f"{type(self).__name__} has no single last stage")

    def outer(self, maps: Tensor) -> Tensor:
        """Maps in front of the last stage -> (B, D) features."""
        raise ValueError(f"{type(self).__name__} has no single last stage")

    def inner_channels(self) -> int:
        """Of the maps in front of the last stage."""
        raise ValueError(f"{type(self).__name__} has no single last stage")

    def last_maps(self) -> dict[str, nn.Module]:
        """The parts, by name, that give the maps which are pooled."""
        name, stage = list(self.stages().items())[-1]
        return {name: stage}
