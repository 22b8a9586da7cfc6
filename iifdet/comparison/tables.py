"""One small table in every form that it is wanted in."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text with a line above them.

    Attributes:
        caption: what the numbers are.
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

    def rich(self) -> RichTable:
        """For a terminal."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.caption, title_justify="left", title_style="")
        for column, title in enumerate(self.header):
            table.add_column(title, justify="left" if column < self.text_columns else "right", no_wrap=column == 0)
        for row in self.rows:
            table.add_row(*row)
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
        return "\n".join([self.caption, *lines])

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
