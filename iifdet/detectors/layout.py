"""Where the rows of ``raw`` stand: how an image lies in the network's input, and the grids of cells over it."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """One level of cells.

    Attributes:
        rows, columns: cells down and across.
        per_cell: boxes at each of them.
        step: pixels of the network's input from cell to cell, down and across; the first cell starts in the upper left
            corner.
    """

    rows: int
    columns: int
    per_cell: int
    step: tuple[float, float]

    @property
    def size(self) -> int:
        """How many rows of ``raw`` the level has."""
        return self.rows * self.columns * self.per_cell


@dataclass(frozen=True)
class Layout:
    """Where one image and its rows stand inside the network.

    Attributes:
        input: (height, width) of what the network sees, padding included.
        content: (height, width) of the image inside it, from the upper left corner.
        levels: in the order of ``raw``'s rows, which run by level, row, column, box. Empty where rows are proposals,
            which stand anywhere.
    """

    input: Size
    content: Size
    levels: tuple[Grid, ...] = ()

    def step(self, rows: int, columns: int) -> tuple[float, float]:
        """Pixels of the input from cell to cell, down and across, of a map of this shape."""
        for grid in self.levels:
            if (grid.rows, grid.columns) == (rows, columns):
                return grid.step
        return self.input[0] / rows, self.input[1] / columns
