"""3x3 convolutions with 16 products where 36 were: Winograd's minimal filtering, for inference on a CPU.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, F(2x2, 3x3). Tiles of 4x4 inputs
overlap by two and give 2x2 outputs each; between two small changes of basis all tiles of a position are one matrix
product. Same outputs up to rounding, about that of a direct convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

#: B^T: an input tile's four pixels of one axis. G: a filter's three. A^T: the two outputs.
INPUT = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
FILTER = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUT = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
#: The product, of a tile's 16, that all four outputs take once and with a plus: there the bias comes in.
MIDDLE = 5
#: Below so many channels the changes of basis cost what the products save (YOLOv3 at 416 px, one AVX2 core).
LEAST_CHANNELS = 128
#: Tiles of one matrix product: more leave the cache, fewer read the filters more often.
TILES = 512


def suits(conv: nn.Conv2d) -> bool:
    """Whether a convolution of this form is faster so: 3x3, stride 1, padding 1, no groups, many channels."""
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return plain and conv.groups == 1 and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS


class WinogradConv2d(nn.Module):
    """A convolution that ``suits``, and an activation.

    Args:
        conv: its weights are read once.
        activation: may change its input in place.
    """

    def __init__(self, conv: nn.Conv2d, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        filters = conv.weight.detach().permute(2, 3, 1, 0)  # (3, 3, C, K)
        # Not registered, as with every packed convolution.
        self.filters = torch.einsum("ai,bj,ijck->abck", FILTER, FILTER, filters).flatten(0, 1)  # (16, C, K)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.activation = activation
        self.into, self.out = torch.kron(INPUT, INPUT), torch.kron(OUTPUT, OUTPUT)  # (16, 16), (4, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W), channels last in memory."""
        batch, channels, height, width = x.shape
        down, across = -(-height // 2), -(-width // 2)  # tiles
        padded = torch.zeros(batch, 2 * down + 2, 2 * across + 2, channels)
        padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
        outputs = torch.empty(batch, down, 2, across, 2, self.filters.shape[2])
        images, rows = max(1, TILES // max(1, down * across)), max(1, TILES // max(1, across))
        with torch.autocast("cpu", enabled=False):
            for first, top in itertools.product(range(0, batch, images), range(0, down, rows)):
                part = padded[first : first + images, 2 * top : 2 * (top + rows) + 2]
                outputs[first : first + images, top : top + rows] = self._tiles(part)
        result = outputs.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return (result if self.activation is None else self.activation(result)).permute(0, 3, 1, 2)

    def _tiles(self, padded: Tensor) -> Tensor:
        """(B, 2 D + 2, 2 A + 2, C) -> (B, D, 2, A, 2, K)."""
        batch, down, across = padded.shape[0], padded.shape[1] // 2 - 1, padded.shape[2] // 2 - 1
        image, row, column, _ = padded.stride()
        size, strides = (4, 4, batch, down, across), (row, column, image, 2 * row, 2 * column, 1)
        tiles = padded.as_strided((*size, padded.shape[3]), strides, padded.storage_offset())
        inputs = (self.into @ tiles.reshape(16, -1)).view(16, batch * down * across, -1)
        products = torch.bmm(inputs, self.filters)
        if self.bias is not None:
            products[MIDDLE] += self.bias
        outputs = (self.out @ products.flatten(1)).view(2, 2, batch, down, across, -1)
        return outputs.permute(2, 3, 0, 4, 1, 5)
