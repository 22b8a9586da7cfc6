"""Runs side by side."""

from __future__ import annotations

import io
import json

import pytest
import yaml
from rich.console import Console

from iifdet.comparison import compare_runs
from iifdet.errors import InputError

SOFTMAX = {"AP": 0.25, "AP50": 0.415, "AP75": 0.259, "tail5": {"image": 0.147, "instance": 0.2}, "data_digest": "abc"}
IIF = {"AP": 0.257, "AP50": 0.436, "AP75": 0.264, "tail5": {"image": 0.185, "instance": 0.19}, "data_digest": "abc"}


@pytest.fixture
def run(tmp_path):
    """run(name, metrics, **settings): write a run folder."""

    def _run(name, metrics, **args):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        if args:
            (folder / "args.yaml").write_text(yaml.safe_dump(args))
        return folder

    return _run


@pytest.fixture
def both(run):
    common = {"model": "ssd300", "seed": 0}
    return [run("softmax", SOFTMAX, adjust="none", **common), run("iif", IIF, adjust="iif", **common)]


def test_percentages_and_differences_to_the_first(both):
    comparison = compare_runs(both)
    first, second = comparison.rows
    assert first.values["AP"] == pytest.approx(25.0) and first.differences["AP"] == 0
    assert second.values["tail5"] == pytest.approx(18.5)
    assert second.differences["tail5"] == pytest.approx(3.8)
    assert (first.name, first.settings, second.settings) == ("softmax", "adjust=none", "adjust=iif")
    assert comparison.notices == []


def test_tail_by_instance(both):
    comparison = compare_runs([str(f) for f in both], by="instance")
    assert comparison.rows[1].differences["tail5"] == pytest.approx(-1.0)
    assert "by instance counts" in comparison.caption


def test_missing_figures_stay_unknown(run):
    folder = run("a", {"AP": 0.5, "tail5": {"image": None}, "tail10": None, "data_digest": "x"})
    row = compare_runs([folder]).rows[0]
    assert [row.values[f] for f in ("AP", "tail5", "tail10", "tail20")] == [50.0, None, None, None]
    assert row.differences["tail5"] is None


def test_figures_of_masks_stand_beside_where_a_run_has_them(both, run):
    masks = {"segm": {"AP": 0.2, "tail5": {"image": 0.1, "instance": 0.05}}}
    rows = compare_runs([both[0], run("masks", IIF | masks), run("better", IIF | {"segm": {"AP": 0.21}})]).rows
    assert [row.values["mask_AP"] for row in rows] == pytest.approx([None, 20, 21])
    assert rows[1].values["mask_tail5"] == pytest.approx(10) and rows[1].differences["mask_AP"] is None
    lines = compare_runs([run("a", IIF | masks), both[0]], by="instance").markdown().splitlines()
    assert lines[0].endswith("| tail20 | mask_AP | mask_tail5 | mask_tail10 | mask_tail20 |")
    assert lines[2].endswith("| – | 20.0 | 5.0 | – | – |")
    assert "mask_AP" not in compare_runs(both).rows[0].values


def test_markdown(both):
    assert compare_runs(both).markdown().splitlines() == [
        "| run | settings | AP | AP50 | AP75 | tail5 | tail10 | tail20 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| softmax | adjust=none | 25.0 | 41.5 | 25.9 | 14.7 | – | – |",
        "| iif | adjust=iif | 25.7 (+0.7) | 43.6 (+2.1) | 26.4 (+0.5) | 18.5 (+3.8) | – | – |",
    ]


def test_plain_lines_when_not_a_terminal(both):
    out = io.StringIO()
    compare_runs(both).print(Console(file=out, width=40))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4 and lines[3].startswith("iif ") and "18.5 (+3.8)" in lines[3]
    assert "\x1b" not in out.getvalue() and "───" not in out.getvalue()


@pytest.mark.parametrize("no_color", [True, False])
def test_table_on_a_terminal(both, monkeypatch, no_color):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system="standard")
    compare_runs(both).print(console)
    text = console.file.getvalue()
    assert "───" in text and "18.5 (+3.8)" in text
    assert console.no_color is no_color and not (no_color and "\x1b[3" in text.replace("\x1b[3m", ""))


def test_names_that_repeat_get_their_parents(run):
    folders = [run("first/exp", SOFTMAX), run("second/exp", IIF)]
    assert [row.name for row in compare_runs(folders).rows] == ["first/exp", "second/exp"]
    assert [row.name for row in compare_runs([folders[0], folders[0]]).rows] == ["exp", "exp"]


def test_runs_on_different_data_are_refused(both, run):
    other = run("other", SOFTMAX | {"data_digest": "xyz"})
    with pytest.raises(
        InputError, match=r"expected runs on the same data, got .*softmax \(abc\) and .*other \(xyz\); "
    ):
        compare_runs([*both, other])


def test_unknown_data_is_said(both, run):
    stranger = run("stranger", {"AP": 0.1})
    assert "stranger" in compare_runs([*both, stranger]).notices[0]
    out = io.StringIO()
    compare_runs([*both, stranger]).print(Console(file=out))
    assert "note: no data_digest in" in out.getvalue()
    assert compare_runs([stranger]).notices == []


def test_wrong_input_says_expected_got_next_step(both, tmp_path, run):
    broken, strange, settings = run("broken", {}), run("strange", [1]), run("settings", SOFTMAX)
    (broken / "metrics.json").write_text('{"AP": ')
    (settings / "args.yaml").write_text("a: [")
    for call, words in [
        (lambda: compare_runs([]), "at least one run folder, got none"),
        (
            lambda: compare_runs([tmp_path / "nowhere"]),
            "expected a run folder with metrics.json, got none; .*iifdet val",
        ),
        (lambda: compare_runs([broken]), "expected JSON, got .*; run iifdet val again"),
        (lambda: compare_runs([strange]), "got neither AP nor top1"),
        (lambda: compare_runs([settings]), "args.yaml: expected YAML"),
        (lambda: compare_runs(both, by="box"), "expected 'image' or 'instance'"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_runs_that_chose_their_detections_differently_are_said(run):
    keys = {"conf": 0.001, "iou": 0.6, "max_det": 300, "temperature": 1.0}
    alike = [run("a", SOFTMAX, **keys), run("b", IIF, **{**keys, "temperature": "mean"})]
    assert compare_runs(alike).notices == [], "the adjustment is what is compared"
    assert compare_runs(alike).rows[1].settings == "temperature=mean"
    other = run("c", IIF, **{**keys, "conf": 0.2, "max_det": 10})
    found = compare_runs([alike[0], other])
    assert found.rows[1].settings == "conf=0.2 max_det=10"
    assert found.notices[0].startswith("the runs chose their detections differently (conf, max_det): AP, calibration")
    known = run("d", SOFTMAX, model="x")
    assert compare_runs([known, other]).notices == [], "a verb that does not say how is no difference"
