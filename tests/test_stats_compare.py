"""``iifdet stats`` against counts taken by hand, and ``compare`` over real runs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import iifdet
import iifdet.longtail
from iifdet.cli import main
from iifdet.errors import InputError

Keys = Callable[..., dict[str, Any]]


def counted(root: Path) -> tuple[list[int], list[int], list[str]]:
    """Images and boxes of each class of train.json, the long way."""
    document = json.loads((root / "train.json").read_text())
    ids = [c["id"] for c in document["categories"]]
    boxes = [[a["image_id"] for a in document["annotations"] if a["category_id"] == i] for i in ids]
    return [len(set(b)) for b in boxes], [len(b) for b in boxes], [c["name"] for c in document["categories"]]


def test_stats_writes_counts_imbalance_and_curves(tiny_root: Path, tmp_path: Path) -> None:
    images, instances, names = counted(tiny_root)
    assert images == [12, 7, 4, 1]
    found = iifdet.stats(data=tiny_root / "data.yaml", project=tmp_path, name="s")
    written = json.loads((tmp_path / "s" / "stats.json").read_text())
    assert written["imbalance"]["image"] == pytest.approx(12 / 1)
    assert written["imbalance"]["instance"] == pytest.approx(max(instances) / min(instances))
    assert (written["images"], written["classes"], written["instances"]) == (24, 4, sum(instances))
    with (tmp_path / "s" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["name"], int(r["images"]), int(r["instances"])) for r in rows] == list(
        zip(names, images, instances, strict=True)
    )
    for row, n in zip(rows, images, strict=True):
        assert float(row["smooth"]) == pytest.approx(math.log(25 / (n + 1)) + 1, abs=1e-4)
        assert float(row["raw"]) == pytest.approx(math.log(24 / n), abs=1e-4)
    for picture in ("labels.png", "weights.png"):
        assert (tmp_path / "s" / picture).stat().st_size > 1000
    assert found.counts.names == names and set(found.weights) | set(found.undefined) == set(iifdet.longtail.VARIANTS)


def test_stats_shows_the_weights_that_a_training_with_the_same_keys_has(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = {"temperature": "mean", "variant": "smooth", "by": "instance"}
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="iif", **keys))
    model = iifdet.load(run.folder / "weights" / "last.pt")
    found = iifdet.stats(data=tiny_keys(tmp_path)["data"], project=tmp_path, plots=False, **keys)
    assert found.weights["smooth"].tolist() == pytest.approx(model.adjust.scale.tolist())
    assert float(found.weights["smooth"].mean()) == pytest.approx(1)


@pytest.mark.parametrize("verb", [iifdet.stats, iifdet.check])
@pytest.mark.parametrize("key", ["imgsz", "center", "tau"])
def test_keys_that_change_nothing_are_unknown(verb: Callable[..., Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{key}: unknown key"):
        verb(data="demo", project=tmp_path, **{key: 1})


def test_variants_that_are_undefined_for_one_reason_share_a_line(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((tiny_copy / "train.json").read_text())
    rarest = document["categories"][3]["id"]
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] != rarest]
    (tiny_copy / "train.json").write_text(json.dumps(document))
    assert main(["stats", f"data={tiny_copy / 'data.yaml'}", f"project={tmp_path}", "plots=false"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("undefined here") == 1
    assert "raw, relative, base2, base10, gombit, normit: undefined here: class 3 'white' has 0 training images" in said


def test_stats_counts_by_instance_and_of_another_split(tiny_root: Path, tmp_path: Path) -> None:
    _, instances, _ = counted(tiny_root)
    found = iifdet.stats(data=tiny_root / "data.yaml", project=tmp_path, by="instance", plots=False)
    k = sum(instances)
    assert found.weights["raw"].tolist() == pytest.approx([math.log(k / n) for n in instances])
    assert iifdet.stats(
        data=tiny_root / "data.yaml", split="val", project=tmp_path, plots=False
    ).counts.images.tolist() == [
        3,
        3,
        3,
        3,
    ]


def test_stats_names_the_class_for_which_a_variant_is_undefined(tiny_copy: Path, tmp_path: Path) -> None:
    document = json.loads((tiny_copy / "train.json").read_text())
    document["categories"].append({"id": 99, "name": "toaster"})
    (tiny_copy / "train.json").write_text(json.dumps(document))
    found = iifdet.stats(data=tiny_copy / "data.yaml", project=tmp_path, plots=True)
    assert "toaster" in found.undefined["raw"] and "smooth" in found.weights


def test_the_stats_command_prints_the_factors(
    tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", f"data={tiny_data}", f"project={tmp_path}", "plots=false"]) == 0
    out = capsys.readouterr().out
    assert "12.0 by image" in out and "white" in out


def test_compare_tables_two_runs_with_differences(
    tiny_keys: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = iifdet.train(**tiny_keys(tmp_path, epochs=1, name="softmax", adjust="none"))
    second = iifdet.train(**tiny_keys(tmp_path, epochs=1, name="iif"))
    table = iifdet.compare([first.folder, second.folder], draws=20)
    assert [row.name for row in table.rows] == ["softmax", "iif"]
    assert all("Fixed AP sees only" in notice for notice in table.notices) and table.analysis is not None
    assert "adjust=iif" in table.rows[1].settings
    for figure in ("AP", "AP50"):
        expected = 100 * (second.metrics[figure] - first.metrics[figure])
        assert table.rows[1].differences[figure] == pytest.approx(expected)
    assert table.rows[1].values["tail5"] == pytest.approx(100 * second.metrics["tail5"]["image"])
    assert main(["compare", str(first.folder), str(second.folder), "by=instance", "draws=0"]) == 0
    assert "tails by instance counts" in capsys.readouterr().out
    assert main(["compare", f"runs=[{first.folder}, {second.folder}]", "draws=0"]) == 0


def test_compare_refuses_runs_on_different_data(
    tiny_keys: Callable[..., dict[str, Any]], tiny_copy: Path, tmp_path: Path
) -> None:
    document = json.loads((tiny_copy / "val.json").read_text())
    document["annotations"] = document["annotations"][:-1]
    (tiny_copy / "val.json").write_text(json.dumps(document))
    first = iifdet.train(**tiny_keys(tmp_path, epochs=1))
    second = iifdet.train(**tiny_keys(tmp_path, epochs=1, data=tiny_copy / "data.yaml"))
    with pytest.raises(InputError, match="same data"):
        iifdet.compare([first.folder, second.folder])


def test_compare_looks_at_files_outside_the_data_only_where_it_is_told_to(
    tiny_keys: Callable[..., dict[str, Any]], tiny_copy: Path, tmp_path: Path
) -> None:
    (tiny_copy / "val").rename(tmp_path / "elsewhere")
    document = json.loads((tiny_copy / "val.json").read_text())
    for image in document["images"]:
        image["file_name"] = str(tmp_path / "elsewhere" / image["file_name"])
    (tiny_copy / "val.json").write_text(json.dumps(document))
    (tiny_copy / "val").mkdir()
    data = tiny_copy / "data.yaml"
    run = iifdet.train(**tiny_keys(tmp_path / "runs", epochs=1, data=data, allow_outside=True))
    refused = iifdet.compare([run.folder], draws=0)
    assert refused.analysis is None and "set allow_outside=true" in refused.notices[0]
    assert iifdet.compare([run.folder], draws=0, allow_outside=True).analysis is not None
