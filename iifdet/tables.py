"""One small table in every form that it is wanted in."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text with a line above them.

    Attributes:
        caption: what the numbers are; may be empty.
        header: titles of the columns.
        rows: the cells, as many a row as there are titles.
        text_columns: columns from the left that hold text and stand left-aligned; the others hold numbers.
        name: what a file or an anchor of it is called.
    """

    caption: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    text_columns: int = 1
    name: str = "table"

    def print(self, console: Console) -> None:
        """Show it on a terminal, as plain lines elsewhere.

        On a narrow terminal columns stand closer, or become rows, whichever is enough; the last resort are cells of
        several lines.
        """
        if not console.is_terminal:
            console.print(self.plain(), markup=False, highlight=False, soft_wrap=True)
        elif self.width <= console.width:
            console.print(self.rich(gap=2))
        elif self.width - len(self.header) > console.width and self.turned().width <= console.width:
            console.print(self.turned().rich(gap=2))
        else:
            console.print(self.rich(gap=1))

    @property
    def width(self) -> int:
        """Characters that the longest line has, with two spaces between columns and one at either side."""
        return 2 * len(self.header) + sum(max(map(len, column)) for column in zip(self.header, *self.rows, strict=True))

    def turned(self) -> Table:
        """Columns as rows, and the other way round."""
        header, *rows = map(list, zip(self.header, *self.rows, strict=True))
        return Table(self.caption, header, rows, 1, self.name)

    def rich(self, gap: int = 2) -> RichTable:
        """For a terminal; where that is too narrow, cells have several lines.

        Args:
            gap: spaces between columns, 1 or more.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self.caption or None, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
        table.padding = (0, gap - 1, 0, 0)
        for column, title in enumerate(self.header):
            side: Literal["left", "right"] = "left" if column < self.text_columns else "right"
            table.add_column(title, justify=side, no_wrap=column == 0, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))  # as it stands: names may look like markup
        return table

    def plain(self) -> str:
        """Aligned lines of text."""
        cells = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < self.text_columns else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join([self.caption, *lines] if self.caption else lines)

    def markdown(self) -> str:
        """Markdown, without the caption."""
        header, *lines = [[cell.replace("|", "\\|") for cell in line] for line in (self.header, *self.rows)]
        rule = ["---" if i < self.text_columns else "---:" for i in range(len(header))]
        return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))

    def html(self) -> str:
        """An HTML table with the caption above it; all text is escaped."""
        sides = ["left" if i < self.text_columns else "right" for i in range(len(self.header))]
        head = "".join(f'<th class="{side}">{escape(t)}</th>' for t, side in zip(self.header, sides, strict=True))
        body = "".join(
            "<tr>" + "".join(f'<td class="{s}">{escape(c)}</td>' for c, s in zip(row, sides, strict=True)) + "</tr>\n"
            for row in self.rows
        )
        return (
            f'<table id="{escape(self.name)}"><caption>{escape(self.caption)}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
        )
