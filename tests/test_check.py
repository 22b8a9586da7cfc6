"""``iifdet check``: exit codes, what is printed, what is left behind, and that nothing else is touched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

import iifdet
from iifdet.cli import main, parse
from iifdet.datasets.findings import Finding
from iifdet.errors import InputError
from iifdet.inspection import CheckReport

Spoil = Callable[[Path], None]


def edit_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def spoil_everything(root: Path) -> None:
    """One of each severity, and five images without boxes."""
    (root / "val" / "003.png").write_bytes(b"text")
    edit_json(root / "train.json", lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 5]))
    edit_json(root / "val.json", lambda d: d.update(annotations=[a for a in d["annotations"] if a["image_id"] > 5]))


def tree(root: Path) -> dict[str, tuple[str, int, int]]:
    """Content, permissions and time of every file and folder."""
    return {
        str(file.relative_to(root)): (
            hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
            file.stat().st_mode,
            file.stat().st_mtime_ns,
        )
        for file in [root, *sorted(root.rglob("*"))]
    }


def words(root: Path, project: Path, *more: str) -> list[str]:
    return ["check", f"data={root / 'data.yaml'}", f"project={project}", "name=c", *more]


# -- exit codes and lines ----------------------------------------------------------------------------------------------


def test_a_sound_data_set_passes_with_exit_code_0(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_root, tmp_path)) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].endswith("train: 24 images, 30 boxes, 4 classes")
    assert lines[-1].endswith(f"passes: 0 errors, 0 warnings, 0 notices; all of it: {tmp_path / 'c'}")
    assert len(lines) == 4 and err == ""
    assert json.loads((tmp_path / "c" / "problems.json").read_text())["problems"] == []
    assert (tmp_path / "c" / "problems.csv").read_text() == "severity,split,file,reason,detail,box\n"


def test_an_error_prints_the_report_and_one_closing_line_and_exits_with_2(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_everything(tiny_copy)
    assert main(words(tiny_copy, tmp_path)) == 2
    out, err = capsys.readouterr()
    assert not [line for line in err.splitlines() if line.startswith("iifdet:")]
    lines = out.splitlines()
    assert [line for line in lines if "does not pass" in line] == [lines[-1]]
    assert "1 error, 1 warning, 5 notices" in lines[-1]
    assert [line.split()[0] for line in lines[3:7]] == ["severity", "error", "warning", "notice"]
    assert [line.split()[-1] for line in lines[4:7]] == ["1", "1", "5"]
    assert any(line.startswith(f"  {tiny_copy / 'val' / '003.png'}: not an image") for line in lines)
    assert "  … and 2 more" in lines


def test_warnings_and_notices_alone_exit_with_0(tiny_copy: Path, tmp_path: Path) -> None:
    edit_json(tiny_copy / "train.json", lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 5]))
    edit_json(tiny_copy / "val.json", lambda d: d["annotations"].pop())
    assert main(words(tiny_copy, tmp_path)) == 0
    assert json.loads((tmp_path / "c" / "problems.json").read_text())["counts"] == {
        "error": 0,
        "warning": 1,
        "notice": 1,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: (root / "val.json").unlink(), "val.json, which does not exist"),
        (lambda root: (root / "train.json").write_text("{"), "expected complete JSON"),
        (lambda root: [file.unlink() for file in (root / "train").iterdir()], "expected images, found none"),
    ],
)
def test_data_of_which_nothing_can_be_read_end_in_one_line_and_no_folder(
    tiny_copy: Path, tmp_path: Path, change: Spoil, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(tiny_copy)
    assert main(words(tiny_copy, tmp_path / "runs")) == 2
    out, err = capsys.readouterr()
    assert says in err.splitlines()[-1] and err.splitlines()[-1].startswith("iifdet: ")
    assert out == "" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("split=tets", "split: expected one of train, val, test, got 'tets'"),
        ("split=test", "split: expected one of train, val"),
        ("limit=-1", "limit: "),
        ("decode=perhaps", "decode: "),
        ("epochs=3", "epochs: unknown key"),
    ],
)
def test_bad_keys_end_in_one_line(
    tiny_root: Path, tmp_path: Path, word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_root, tmp_path, word)) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and says in err


def listed(out: str) -> int:
    return sum(line.startswith("  ") and "more" not in line for line in out.splitlines())


@pytest.mark.parametrize(
    ("more", "shown"), [([], 5), (["limit=4"], 6), (["limit=0"], 0), (["verbose=true"], 7), (["--verbose"], 7)]
)
def test_limit_and_verbose_say_how_many_examples_are_shown(
    tiny_copy: Path, tmp_path: Path, more: list[str], shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_everything(tiny_copy)
    assert main(words(tiny_copy, tmp_path, *more)) == 2
    assert listed(capsys.readouterr().out) == shown
    assert len(json.loads((tmp_path / "c" / "problems.json").read_text())["problems"]) == 7


def test_verbose_may_stand_alone_or_have_a_value() -> None:
    assert parse(["--verbose"]) == ({"verbose": True}, [])
    assert parse(["--verbose", "limit=3"]) == ({"verbose": True, "limit": 3}, [])
    assert parse(["--verbose", "--limit", "3"]) == ({"verbose": True, "limit": 3}, [])
    assert parse(["--verbose", "false"]) == ({"verbose": False}, [])


def test_without_decoding_a_cut_picture_passes_and_the_report_says_so(tiny_copy: Path, tmp_path: Path) -> None:
    file = tiny_copy / "val" / "003.png"
    file.write_bytes(file.read_bytes()[:-20])
    assert len(iifdet.check(data=tiny_copy / "data.yaml", project=tmp_path).errors) == 1
    quick = iifdet.check(data=tiny_copy / "data.yaml", project=tmp_path, decode=False)
    assert quick.errors == [] and "not decoded" in quick.compared


# -- files -------------------------------------------------------------------------------------------------------------


def test_both_files_hold_every_finding(tiny_copy: Path, tmp_path: Path) -> None:
    spoil_everything(tiny_copy)
    report = iifdet.check(data=tiny_copy / "data.yaml", project=tmp_path, name="c", limit=1)
    written = json.loads((report.folder / "problems.json").read_text())
    with (report.folder / "problems.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(report.findings) == len(written["problems"]) == len(rows) == 7
    assert [Finding(**problem) for problem in written["problems"]] == report.findings
    assert [row["file"] for row in rows] == [finding.file for finding in report.findings]
    assert written["counts"] == report.counts() == {"error": 1, "warning": 1, "notice": 5}
    assert [reason["count"] for reason in written["reasons"]] == [1, 1, 5]
    assert written["splits"]["train"] == {"images": 24, "boxes": 29, "classes": 4}
    assert {file.name for file in report.folder.iterdir()} == {"problems.json", "problems.csv"}


def test_one_split_is_checked_alone_where_asked_for(tiny_copy: Path, tmp_path: Path) -> None:
    spoil_everything(tiny_copy)
    report = iifdet.check(data=tiny_copy / "data.yaml", project=tmp_path, split="train")
    assert list(report.splits) == ["train"]
    assert [(f.split, f.severity) for f in report.findings] == [("train", "warning")]


def test_a_second_check_gets_a_folder_of_its_own(tiny_root: Path, tmp_path: Path) -> None:
    folders = [iifdet.check(data=tiny_root / "data.yaml", project=tmp_path).folder for _ in range(2)]
    assert [folder.name for folder in folders] == ["check", "check-2"]


def test_the_data_stay_as_they_are_also_where_nobody_may_write(tiny_copy: Path, tmp_path: Path) -> None:
    spoil_everything(tiny_copy)
    places = [tiny_copy, *tiny_copy.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    before = tree(tiny_copy)
    try:
        assert main(words(tiny_copy, tmp_path / "runs")) == 2
        assert tree(tiny_copy) == before
    finally:
        for place in places:
            place.chmod(0o755 if place.is_dir() else 0o644)


# -- terminals ---------------------------------------------------------------------------------------------------------


def shown_on_terminal(report: CheckReport) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    report.print(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def bracketed() -> CheckReport:
    """A report whose names look like rich's markup."""
    found = [Finding("error", "val", "/data/[red]a[/red].jpg", "unreadable image", "[bold]cut", None)]
    return CheckReport("set", {"val": {"images": 1, "boxes": 1, "classes": 1}}, found, Path("runs/c"), "compared")


def test_a_terminal_gets_a_table_in_colour_unless_no_color_is_set(
    bracketed: CheckReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "┃" in shown_on_terminal(bracketed) and "\x1b[1;31m" in shown_on_terminal(bracketed)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in shown_on_terminal(bracketed) and "┃" in shown_on_terminal(bracketed)
    assert "/data/[red]a[/red].jpg: [bold]cut" in shown_on_terminal(bracketed)


def test_names_that_are_not_text_are_written_and_printed_all_the_same(tmp_path: Path) -> None:
    found = [Finding("error", "val", os.fsdecode(b"/data/\xff.jpg"), "unreadable image", "\ud800")]
    report = CheckReport.of([], found, tmp_path, data="set")
    report.write()
    assert "/data/?.jpg" in shown_on_terminal(report)
    assert "/data/?.jpg" in (tmp_path / "problems.csv").read_text()


# -- real data ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fod_lt", "car_damage", "coco128"])
def test_the_real_sets_pass(name: str, tmp_path: Path) -> None:
    if not os.environ.get("IIFDET_DATA_DIR"):
        pytest.skip("IIFDET_DATA_DIR is not set: no real data to check")
    assert iifdet.check(data=name, project=tmp_path).errors == []


def test_a_missing_key_of_python_is_an_input_error_as_well() -> None:
    with pytest.raises(InputError, match="unknown key"):
        iifdet.check(dat="demo")


def test_labels_of_no_image_and_images_that_nothing_reads_are_said(tmp_path: Path) -> None:
    for folder in ("images/train", "labels/train", "images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    picture = np.full((40, 40, 3), 90, np.uint8)
    for split in ("train", "val"):
        for name in "abc":
            cv2.imwrite(str(tmp_path / "images" / split / f"{name}.png"), picture + len(split) * ord(name) % 160)
            (tmp_path / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2")
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    (images / "a.png").rename(images / "a.gif")
    (labels / "b.txt").rename(labels / "b.TXT")
    (labels / "classes.txt").write_text("dot")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [dot]")
    report = iifdet.check(data=str(tmp_path / "data.yaml"), project=str(tmp_path / "out"))
    strays = {(Path(f.file).name, f.reason) for f in report.findings if f.severity == "warning" and f.split == "train"}
    assert strays == {
        ("a.gif", "file of a kind that is not read as an image"),
        ("a.txt", "label file without an image"),
        ("b.TXT", "label file without an image"),
    }
    (tmp_path / "some.txt").write_text("images/train/c.png")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: some.txt\nval: images/val\nnames: [dot]")
    report = iifdet.check(data=str(tmp_path / "data.yaml"), project=str(tmp_path / "out"))
    assert not [f for f in report.findings if f.split == "train" and f.severity == "warning"], "a list chooses"
