"""Tables in every form: what a narrow terminal shows, what a pipe gets, and names that look like markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from iifdet.cli import main
from iifdet.tables import Table

TABLE = Table("caption", ["run", "AP"], [["[bold]a[/]", "27.6 (+5.7)"], ["b|c", "1.0"]])


def shown(table: Table, terminal: bool, width: int = 80) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    table.print(console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_name_that_looks_like_markup_is_shown_as_it_stands(terminal: bool) -> None:
    text = shown(TABLE, terminal)
    assert "[bold]a[/]" in text and "b|c" in text and text.lstrip().startswith("caption")


def test_a_pipe_gets_aligned_lines_however_long() -> None:
    wide = Table("", ["name", *map(str, range(50))], [["x", *["12345.6"] * 50]])
    lines = shown(wide, terminal=False).splitlines()
    assert len(lines) == 2 and len(lines[0]) == len(lines[1]) > 400


def test_no_number_is_cut_off_on_a_narrow_terminal() -> None:
    """A cell takes several lines rather than lose digits."""
    text = shown(TABLE, terminal=True, width=18)
    assert "…" not in text and "27.6(+5.7)" in "".join(line[-9:].strip() for line in text.splitlines()[3:])


def test_columns_become_rows_where_that_is_what_fits() -> None:
    wide = Table("", ["run", *(f"figure {i}" for i in range(9))], [[f"run {r}", *["27.6 (+5.7)"] * 9] for r in "ab"])
    lines = [line.strip() for line in shown(wide, terminal=True).splitlines()]
    assert "figure 8  27.6 (+5.7)  27.6 (+5.7)" in lines and lines[1].split() == ["run", "run", "a", "run", "b"]
    assert shown(wide, terminal=True, width=200).count("27.6 (+5.7)  27.6 (+5.7)  27.6 (+5.7)") == 6


def test_stats_of_all_variants_fit_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["stats", "data=demo", f"project={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    for header in ("instances", "smooth", "relative", "base10", "gombit", "normit", "letter_t"):
        assert header in out
    assert " 6.13 " in out, "the rarest class's weight under raw, in one line"
