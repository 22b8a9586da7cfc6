"""Runs side by side: one row a run, percentages, differences to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iifdet.comparison.files import read_metrics, read_settings, short_names
from iifdet.comparison.rendering import analysis_tables
from iifdet.comparison.results import Analysis
from iifdet.errors import InputError
from iifdet.longtail import spell_choice
from iifdet.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = ("AP", "AP50", "AP75", "tail5", "tail10", "tail20")
#: The same of classifiers.
CLASS_FIGURES = ("top1", "top5", "mean_class", "many", "medium", "few", "ece")
#: Figures of the frequency groups, shown where one of the runs has them.
GROUP_FIGURES = ("rare", "common", "frequent")
GROUPS = (*GROUP_FIGURES, "many", "medium", "few")
#: Figures by the overlap of masks, shown where one of the runs has them.
MASK_FIGURES = ("mask_AP", "mask_tail5", "mask_tail10", "mask_tail20")
#: Settings worth a word beside a run's name, where runs differ in them.
SETTINGS = (
    *("model", "adjust", "strategy", "source", "variant", "by", "normalizer", "temperature", "center", "tau", "beta"),
    *("class_loss", "distill", "synthesis", "sampling", "defer", "bg_scale", "bg_shift", "seed", "epochs", "imgsz"),
    *("resize", "rect", "mask_threshold"),
)
#: Settings that decide which detections there are to be scored: the figures of runs that differ in them do not compare.
CHOOSING = ("conf", "iou", "max_det", "nms", "multi_label")


@dataclass(frozen=True, slots=True)
class Row:
    """One run.

    Attributes:
        name: the run folder's name, with its parents where names repeat.
        settings: the settings in which it differs from another run, as ``key=value``.
        values: FIGURES, with groups GROUP_FIGURES, and with masks MASK_FIGURES, in percent; None where unknown. Of
            classifiers CLASS_FIGURES.
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
        analysis: intervals, tests, errors and calibration, where the runs' predictions were at hand.
        folder: where the report is, if one was written.
    """

    rows: list[Row]
    by: str = "image"
    notices: list[str] = field(default_factory=list)
    analysis: Analysis | None = None
    folder: Path | None = None

    def tables(self) -> list[Table]:
        """The figures of the runs, then what a closer look found."""
        return [self.figures(), *(analysis_tables(self.analysis) if self.analysis else [])]

    def figures(self) -> Table:
        """The figures of metrics.json, one row a run."""
        header, *lines = self._cells()
        return Table(self.caption, header, lines, self._text_columns, "figures")

    def plain(self) -> str:
        """The comparison as aligned lines of text."""
        return "\n\n".join(table.plain() for table in self.tables())

    def markdown(self) -> str:
        """The comparison as Markdown tables, with captions where there are several."""
        tables = self.tables()
        parts = [tables[0].markdown()] if len(tables) == 1 else [f"{t.caption}\n\n{t.markdown()}" for t in tables]
        return "\n\n".join([*parts, *(f"Note: {notice}" for notice in self.notices)])

    def print(self, console: Console | None = None) -> None:
        """Show the tables on a terminal, plain lines elsewhere. NO_COLOR is honoured."""
        from rich.console import Console

        console = console or Console()
        if console.is_terminal:
            for table in self.tables():
                table.print(console)
        else:
            console.print(self.plain(), markup=False, highlight=False, soft_wrap=True)
        for notice in self.notices:
            console.print(f"note: {notice}", markup=False, highlight=False, soft_wrap=True)
        if self.folder is not None:
            console.print(f"report and tables: {self.folder}", markup=False, highlight=False, soft_wrap=True)

    @property
    def caption(self) -> str:
        """What the numbers are."""
        tails = "" if "top1" in self.rows[0].values else f"; tails by {self.by} counts"
        return f"percent (difference to the first run){tails}"

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
    metrics = [read_metrics(path) for path in paths]
    figures = _figures(paths, metrics)
    notices = _check_same_data(paths, metrics)
    values = [{figure: _percent(m, figure, by) for figure in figures} for m in metrics]
    differences = [{f: _difference(row[f], values[0][f]) for f in figures} for row in values]
    found = [read_settings(path) for path in paths]
    chosen = _differing(found, CHOOSING)
    if chosen and figures[0] == "AP":
        notices.append(
            f"the runs chose their detections differently ({', '.join(chosen)}): AP, calibration, Fixed AP and errors "
            "do not compare; evaluate them alike with iifdet val"
        )
    names = short_names(paths)
    strangers = [name for name, keys in zip(names, found, strict=True) if keys.get("predictions")]
    if strangers and len(paths) > 1:
        notices.append(f"{', '.join(strangers)}: another program's detections; which of them it left out is not known")
    shown = [_with_class_loss(keys) for keys in found]
    settings = _describe(shown, _differing(shown, (*SETTINGS, *CHOOSING)))
    rows = [Row(*parts) for parts in zip(names, settings, values, differences, strict=True)]
    return Comparison(rows, by, notices)


def _figures(paths: list[Path], metrics: list[dict[str, Any]]) -> tuple[str, ...]:
    """What runs are compared by: their task's figures.

    Raises:
        InputError: detectors beside classifiers.
    """
    classify = ["top1" in m for m in metrics]
    if any(classify) and not all(classify):
        detector = paths[classify.index(False)]
        raise InputError(f"compare: expected runs of one task, got {detector} of a detector beside classifiers")
    if all(classify):
        return CLASS_FIGURES
    figures = FIGURES + (GROUP_FIGURES if any(m.get("groups") for m in metrics) else ())
    return figures + (MASK_FIGURES if any("segm" in m for m in metrics) else ())


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
    value = (metrics.get("groups") or {}).get(figure) if figure in GROUPS else metrics.get(figure)
    if isinstance(value, dict):  # tail figures come in both orders
        value = value.get(by)
    return None if value is None else 100.0 * float(value)


def _difference(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first


def _differing(settings: list[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """The keys in which runs differ. One that a run's verb does not have is no difference: val knows no epochs."""
    return [key for key in keys if len({str(s[key]) for s in settings if key in s}) > 1]


def _with_class_loss(settings: dict[str, Any]) -> dict[str, Any]:
    """A training's settings with the class loss beside them: None where the recipe leaves it to the model."""
    options = settings.get("model_args")
    if "epochs" not in settings or not isinstance(options, dict):
        return settings
    choice = options.get("class_loss")
    return {**settings, "class_loss": spell_choice(choice) if isinstance(choice, dict) else choice}


def _describe(settings: list[dict[str, Any]], differing: list[str]) -> list[str]:
    return [" ".join(f"{key}={s[key]}" for key in differing if s.get(key) is not None) for s in settings]


def _cell(value: float | None, difference: float | None) -> str:
    if value is None:
        return "–"
    # + 0.0 after rounding: no difference has no sign
    return f"{value:.1f}" if difference is None else f"{value:.1f} ({round(difference, 1) + 0.0:+.1f})"
