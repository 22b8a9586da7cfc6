"""Check a data set: 1) read its splits 2) find their faults 3) report them as a table, as lines, and as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iifdet.datasets import DataDescription, find_description, load_index
from iifdet.datasets.classification.health import ClassSplitToCheck, check_class_splits, read_class_splits
from iifdet.datasets.description import task_of
from iifdet.datasets.findings import SEVERITIES, Finding, ReasonCount, count_reasons, printable
from iifdet.datasets.health import SplitToCheck, check_splits
from iifdet.datasets.strays import find_strays
from iifdet.errors import counted
from iifdet.evaluation.lookalikes import find_lookalikes
from iifdet.rundir import RunDir
from iifdet.tables import Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_STYLES = {"error": "bold red", "warning": "yellow", "notice": "cyan"}
_COLUMNS = ("severity", "split", "reason", "count")
#: decode -> what "the same image" means.
COMPARED = {
    True: "same images: by the bytes of their files, then by their decoded pixels",
    False: "same images: by the bytes of their files; images were not decoded (decode=false)",
}


def read_splits(
    data: str | Path | Mapping[str, Any] | DataDescription, split: str | None = None, *, allow_outside: bool = False
) -> list[Any]:
    """Read one split of a data set, or all that its description has, however much of them is broken.

    Returns:
        Of each its name, its index and its place: SplitToCheck, or ClassSplitToCheck for data of classification.

    Raises:
        InputError: a split of which nothing can be read.
    """
    if not isinstance(data, DataDescription) and task_of(data) == "classify":
        return list(read_class_splits(data, split, allow_outside=allow_outside))
    description = find_description(data)
    found = []
    for name in description.splits if split is None else [split]:
        where = description.split(name)
        place = str(where.annotations or where.images[0])
        index = load_index(description, name, max_bad=1.0, cache_index=False, allow_outside=allow_outside)
        found.append(SplitToCheck(name, index, place, tuple(find_strays(description, name))))
    return found


def find_faults(
    splits: list[Any],
    *,
    decode: bool = True,
    max_bad: float = 0.05,
    seen: Callable[[int], None] = lambda done: None,
) -> list[Finding]:
    """All findings about these splits; the keywords are those of :func:`iifdet.datasets.health.check_splits`."""
    if any(isinstance(split, ClassSplitToCheck) for split in splits):
        return check_class_splits(splits, decode=decode, seen=seen)
    found = check_splits(splits, decode=decode, max_bad=max_bad, seen=seen)
    for split in splits:
        found += [*find_lookalikes(split.index, split.name), *split.strays]
    return found


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``check`` returns.

    Attributes:
        data: what the data set is called.
        splits: split -> its numbers of ``images``, ``boxes`` (where there are some) and ``classes`` after what is
            broken was dropped.
        findings: everything that was found.
        folder: where problems.json and problems.csv are.
        compared: what "the same image" means in it.
    """

    data: str
    splits: dict[str, dict[str, int]]
    findings: list[Finding]
    folder: Path
    compared: str

    @classmethod
    def of(
        cls, splits: list[Any], findings: list[Finding], folder: Path, *, data: str, decode: bool = True
    ) -> CheckReport:
        """The report on these splits."""
        sizes = {split.name: _sizes(split) for split in splits}
        return cls(data, sizes, [printable(finding) for finding in findings], folder, COMPARED[decode])

    @property
    def errors(self) -> list[Finding]:
        """What would break training or falsify the evaluation; none of it means that the data set passes."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def reasons(self) -> list[ReasonCount]:
        """Findings by severity, split and reason, gravest first."""
        return count_reasons(self.findings)

    def counts(self) -> dict[str, int]:
        """Number of findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def write(self) -> None:
        """Leave problems.json and problems.csv in the folder."""
        run = RunDir(self.folder)
        rows = [asdict(finding) for finding in self.findings]
        content = {
            "data": self.data,
            "splits": self.splits,
            "compared": self.compared,
            "counts": self.counts(),
            "reasons": [{**dict(zip(_COLUMNS, _cells(group), strict=True))} for group in self.reasons()],
            "problems": rows,
        }
        run.write_json("problems.json", content)
        run.write_rows("problems.csv", rows, columns=list(Finding.__dataclass_fields__))

    def print(self, console: Console | None = None, *, limit: int | None = 3) -> None:
        """Show a table of reasons on a terminal, plain lines elsewhere (NO_COLOR is honoured), then examples of each.

        Args:
            console: where to; standard output by default.
            limit: examples a reason; None for all.
        """
        from rich.console import Console

        console = console or Console()
        for line in self._heading():
            _say(console, line)
        if self.findings and console.is_terminal:
            console.print(self._table())
        elif self.findings:
            Table("", list(_COLUMNS), [[str(cell) for cell in _cells(group)] for group in self.reasons()], 3).print(
                console
            )
        for line in self._examples(limit):
            _say(console, line)
        _say(console, self.verdict)

    @property
    def verdict(self) -> str:
        """The closing line."""
        counts = self.counts()
        said = ", ".join(counted(count, severity) for severity, count in counts.items())
        return f"{self.data}: {'does not pass' if counts['error'] else 'passes'}: {said}; all of it: {self.folder}"

    def _heading(self) -> list[str]:
        nouns = {"images": ("image",), "boxes": ("box", "boxes"), "classes": ("class", "classes")}
        sizes = {
            split: ", ".join(counted(n[what], *noun) for what, noun in nouns.items() if what in n)
            for split, n in self.splits.items()
        }
        return [*(f"{self.data} {split}: {size}" for split, size in sizes.items()), self.compared]

    def _table(self) -> RichTable:
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable()
        for column in _COLUMNS:
            table.add_column(column, justify="right" if column == "count" else "left")
        for group in self.reasons():
            severity, *others = (str(cell) for cell in _cells(group))
            table.add_row(Text(severity, style=_STYLES[severity]), *(Text(cell) for cell in others))
        return table

    def _examples(self, limit: int | None) -> Iterator[str]:
        for severity, split, reason, findings in self.reasons():
            shown = findings if limit is None else findings[:limit]
            if not shown:
                continue
            yield f"{severity}: {split}: {reason}"
            yield from (f"  {_one_line(finding)}" for finding in shown)
            if len(shown) < len(findings):
                yield f"  … and {len(findings) - len(shown)} more"


def _sizes(split: Any) -> dict[str, int]:
    boxes = {"boxes": len(split.index.labels)} if isinstance(split, SplitToCheck) else {}
    return {"images": len(split.index), **boxes, "classes": len(split.index.names)}


def _cells(group: ReasonCount) -> tuple[str, str, str, int]:
    return group.severity, group.split, group.reason, len(group.findings)


def _one_line(finding: Finding) -> str:
    box = "" if finding.box is None else f" box {finding.box}"
    return f"{finding.file}{box}" + (f": {finding.detail}" if finding.detail else "")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
