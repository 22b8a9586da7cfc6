"""Runs side by side: one row a run, percentages, differences to the first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from iifdet.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FIGURES = ("AP", "AP50", "AP75", "tail5", "tail10", "tail20")
#: Figures by the overlap of masks, shown where one of the runs has them.
MASK_FIGURES = ("mask_AP", "mask_tail5", "mask_tail10", "mask_tail20")
#: Settings worth a word beside a run's name, where runs differ in them.
SETTINGS = ("model", "adjust", "strategy", "variant", "by", "normalizer", "center", "when", "seed", "epochs")


@dataclass(frozen=True, slots=True)
class Row:
    """One run.

    Attributes:
        name: the run folder's name, with its parents where names repeat.
        settings: the settings in which it differs from another run, as ``key=value``.
        values: FIGURES, and with masks MASK_FIGURES, in percent; None where unknown.
        differences: values minus those of the first run, None where either is unknown.
    """

    name: str
    settings: str
    values: dict[str, float | None]
    differences: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare_runs` found.

    Attributes:
        rows: one a run, in the order given.
        by: the order of the tail figures, ``image`` or ``instance``.
        notices: what a reader should know before trusting the differences.
    """

    rows: list[Row]
    by: str = "image"
    notices: list[str] = field(default_factory=list)

    def table(self) -> Table:
        """The comparison as a rich Table."""
        from rich.table import Table

        header, *lines = self._cells()
        table = Table(title=self.caption, title_justify="left", title_style="")
        for column, title in enumerate(header):
            table.add_column(title, justify="left" if column < self._text_columns else "right", no_wrap=column == 0)
        for line in lines:
            table.add_row(*line)
        return table

    def plain(self) -> str:
        """The comparison as aligned lines of text."""
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < self._text_columns else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join([self.caption, *lines])

    def markdown(self) -> str:
        """The comparison as a Markdown table."""
        header, *lines = [[cell.replace("|", "\\|") for cell in line] for line in self._cells()]
        rule = ["---" if i < self._text_columns else "---:" for i in range(len(header))]
        return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))

    def print(self, console: Console | None = None) -> None:
        """Show the table on a terminal, plain lines elsewhere. NO_COLOR is honoured."""
        from rich.console import Console

        console = console or Console()
        if console.is_terminal:
            console.print(self.table())
        else:
            console.print(self.plain(), markup=False, highlight=False, soft_wrap=True)
        for notice in self.notices:
            console.print(f"note: {notice}", markup=False, highlight=False, soft_wrap=True)

    @property
    def caption(self) -> str:
        """What the numbers are."""
        return f"percent (difference to the first run); tails by {self.by} counts"

    @property
    def _text_columns(self) -> int:
        return 2 if any(row.settings for row in self.rows) else 1

    def _cells(self) -> list[list[str]]:
        text = ["run", "settings"][: self._text_columns]
        lines = [
            [row.name, row.settings][: self._text_columns]
            + [_cell(value, None if i == 0 else row.differences[name]) for name, value in row.values.items()]
            for i, row in enumerate(self.rows)
        ]
        return [[*text, *self.rows[0].values], *lines]


def compare_runs(folders: Sequence[str | Path], by: str = "image") -> Comparison:
    """Compare finished runs by their metrics.json.

    Args:
        folders: run folders; differences refer to the first.
        by: rank the tail by ``image`` or by ``instance`` counts.

    Raises:
        InputError: no folder, no readable metrics.json, or runs that were evaluated on different data.
    """
    if by not in ("image", "instance"):
        raise InputError(f"by: expected 'image' or 'instance', got '{by}'")
    if not folders:
        raise InputError(
            "compare: expected at least one run folder, got none; name folders such as runs/train/baseline"
        )
    paths = [Path(folder) for folder in folders]
    metrics = [_read_metrics(path) for path in paths]
    notices = _check_same_data(paths, metrics)
    figures = FIGURES + (MASK_FIGURES if any("segm" in m for m in metrics) else ())
    values = [{figure: _percent(m, figure, by) for figure in figures} for m in metrics]
    differences = [{f: _difference(row[f], values[0][f]) for f in figures} for row in values]
    settings = _differing_settings([_read_settings(path) for path in paths])
    rows = [Row(*parts) for parts in zip(_names(paths), settings, values, differences, strict=True)]
    return Comparison(rows, by, notices)


def _read_metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{folder}: expected a run folder with metrics.json, got none; "
            "let the run finish, or make one with: iifdet val weights=…"
        ) from None
    except ValueError as error:  # broken JSON or encoding
        raise InputError(f"{path}: expected JSON, got {error}; run iifdet val again") from None
    if not isinstance(metrics, dict) or "AP" not in metrics:
        raise InputError(f"{path}: expected the figures of a detection run, got no AP; run iifdet val again")
    return metrics


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load((folder / "args.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / 'args.yaml'}: expected YAML, got {reason}; repair or delete it") from None
    return settings if isinstance(settings, dict) else {}


def _check_same_data(paths: list[Path], metrics: list[dict[str, Any]]) -> list[str]:
    digests = [m.get("data_digest") for m in metrics]
    known = [(path, digest) for path, digest in zip(paths, digests, strict=True) if digest is not None]
    for path, digest in known[1:]:
        if digest != known[0][1]:
            raise InputError(
                f"compare: expected runs on the same data, got {known[0][0]} ({known[0][1]}) and {path} ({digest}); "
                "evaluate both on one split with iifdet val"
            )
    strangers = [str(path) for path, digest in zip(paths, digests, strict=True) if digest is None]
    if strangers and len(paths) > 1:
        return [f"no data_digest in {', '.join(strangers)}: whether the runs saw the same data is unknown"]
    return []


def _percent(metrics: dict[str, Any], figure: str, by: str) -> float | None:
    if figure.startswith("mask_"):
        metrics, figure = metrics.get("segm", {}), figure.removeprefix("mask_")
    value = metrics.get(figure)
    if isinstance(value, dict):  # tail figures come in both orders
        value = value.get(by)
    return None if value is None else 100.0 * float(value)


def _difference(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first


def _differing_settings(settings: list[dict[str, Any]]) -> list[str]:
    differing = [key for key in SETTINGS if len({str(s.get(key)) for s in settings}) > 1]
    return [" ".join(f"{key}={s[key]}" for key in differing if s.get(key) is not None) for s in settings]


def _names(paths: list[Path]) -> list[str]:
    """The shortest folder names that tell the runs apart."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _cell(value: float | None, difference: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if difference is None else f"{value:.1f} ({difference:+.1f})"
