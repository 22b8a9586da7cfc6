"""docs/reliability.md names a test for each promise: each of them exists, and so does every file it names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def _rows() -> list[tuple[str, str]]:
    """(promise, tests) of each row of a table."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [(row[0].strip(), row[-1].strip()) for row in rows if row[0].strip() != "promise"]


def _functions(file: str) -> list[str]:
    found = list(TESTS.rglob(file))
    assert found, f"{file} is named in {PAGE.name} and is not there"
    return [name for path in found for name in re.findall(r"def (test_\w+)", path.read_text())]


def test_every_promise_names_tests_that_exist() -> None:
    rows, named = _rows(), 0
    assert len(rows) > 25
    for promise, cell in rows:
        file = ""
        for text in re.findall(r"`([^`]+)`", cell):
            path, _, test = text.rpartition("::") if "::" in text else ("", "", text)
            if text.endswith(".py"):
                path, test = text, ""
            file = path or file
            assert file, f"{promise}: {text} belongs to no file"
            functions, part = _functions(file), test.strip("…")
            fits = [f for f in functions if part in f and (test.startswith("…") or f.startswith(part))]
            assert fits, f"{promise}: {file} has no test {test}"
            named += 1
    assert named >= len(rows), "a promise without a test"
