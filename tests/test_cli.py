"""argv and exit codes; every way to be wrong ends in one line and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iifdet import api
from iifdet.checkpoint import save_checkpoint
from iifdet.cli import VERBS, main, parse
from iifdet.config import CONFIGS
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.running import RunResult

Keys = Callable[..., dict[str, Any]]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must end with code 2, one line on stderr and no file anywhere; returns the line."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(words) == 2
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("iifdet: "), err
        assert out == "" and sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


def words_of(keys: dict[str, Any]) -> list[str]:
    return [f"{k}={json.dumps(v) if isinstance(v, dict | list | bool) else v}" for k, v in keys.items()]


# -- reading words -----------------------------------------------------------------------------------------------------


def test_the_three_ways_to_write_a_key_are_one() -> None:
    expected = ({"epochs": 3, "exist_ok": True, "name": "x"}, [])
    assert parse(["epochs=3", "exist_ok=true", "name=x"]) == expected
    assert parse(["--epochs=3", "--exist-ok=true", "--name=x"]) == expected
    assert parse(["--epochs", "3", "--exist-ok", "true", "--name", "x"]) == expected


def test_values_may_hold_equals_signs_and_negative_numbers() -> None:
    assert parse(["name=a=b", "--lr", "-1"]) == ({"name": "a=b", "lr": -1}, [])


def test_plain_words_are_kept_in_order() -> None:
    assert parse(["b", "by=image", "a"]) == ({"by": "image"}, ["b", "a"])


@pytest.mark.parametrize("words", [["epochs=1", "--epochs", "2"], ["--epochs"], ["--plots", "--epochs", "3"]])
def test_a_key_twice_or_without_a_value_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="expected"):
        parse(words)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "epohcs=3"], "did you mean 'epochs'"),
        (["train", "epochs=0"], "epochs: "),
        (["train", "demo"], "expected key=value, got 'demo'"),
        (["train", "--epochs"], "expected a value after it"),
        (["train", "callbacks=x"], "unknown key"),
        (["train", "data=no_such_data"], "data: expected a YAML file or a known name"),
        (["train", "data=coc"], "did you mean 'coco'"),
        (["train", "model=absent.yaml"], "absent.yaml"),
        (["train", "resume=absent"], "absent"),
        (["val"], "weights: expected a checkpoint, got none"),
        (["val", "weights=absent.pt"], "absent.pt"),
        (["val", "weights=."], "got the folder ."),
        (["val", "weights=a.pt,b.pt"], "expected one checkpoint, got several: a.pt,b.pt"),
        (["predict"], "source: expected images to look at, got none"),
        (["predict", "source=absent.jpg"], "'absent.jpg', which does not exist"),
        (["predict", "source=."], "source: expected images or videos in ., found none"),
        (["predict", "source=0"], "weights: expected a checkpoint, got none"),
        (["predict", "sorce=a.jpg"], "did you mean 'source'"),
        (["stats", "variant=smoth"], "variant: expected one of raw"),
        (["stats", "epochs=3"], "unknown key"),
        (["compare"], "expected at least one run folder"),
        (["compare", "absent"], "metrics.json"),
        (["compare", "absent", "by=box"], "by: expected one of image, instance"),
    ],
)
def test_bad_arguments_end_in_one_line(refused: Callable[..., str], words: list[str], says: str) -> None:
    assert says in refused(*words)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "yolov3-nan"}, "did you mean 'yolov3-nano'"),
        ({"model_args": {"widht": 1}}, "did you mean 'width'"),
        ({"model_args": {"iou_type": "xiou"}}, "iou_type: expected one of"),
        ({"model_args": {"class_loss": "cse"}}, "class_loss: expected one of"),
        ({"weights": "absent.weights"}, "absent.weights"),
        ({"weights": "absent.pt"}, "absent.pt"),
        ({"device": "gpu"}, "device: expected cpu, cuda"),
        ({"variant": "smoth"}, "variant: expected one of"),
        ({"center": "bg"}, "center: YOLOv3 has no background logit; use 'none' or 'mean'"),
        ({"strategy": "decoupled"}, "give weights="),
        ({"freeze": 999}, "freeze: expected fewer than"),
        ({"max_det": 9999}, "max_det: expected"),
        ({"name": "in/file.txt/x"}, "in/file.txt"),
    ],
)
def test_a_bad_training_run_leaves_no_folder(
    refused: Callable[..., str], tiny_keys: Keys, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file.txt").write_text("in the way")
    assert says in refused("train", *words_of(tiny_keys(tmp_path, **change)))


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "train.json").unlink(), "train.json"),
        (lambda root: (root / "val.json").write_text('{"images": ['), "val.json"),
        (lambda root: (root / "train.json").write_text("[]"), "train.json"),
        (lambda root: [p.unlink() for p in (root / "train").glob("*.png")], "train"),
        (lambda root: (root / "data.yaml").write_text("path: [\n"), "data.yaml"),
        (lambda root: (root / "data.yaml").write_text("pth: x\n"), "did you mean 'path'"),
    ],
)
def test_broken_data_end_in_one_line(
    refused: Callable[..., str],
    tiny_keys: Keys,
    tiny_copy: Path,
    tmp_path: Path,
    break_it: Callable[[Path], Any],
    says: str,
) -> None:
    break_it(tiny_copy)
    assert says in refused("train", *words_of(tiny_keys(tmp_path, data=str(tiny_copy / "data.yaml"))))


def test_an_unknown_split_lists_those_there_are(refused: Callable[..., str], tiny_data: str) -> None:
    assert "split: expected one of train, val" in refused("stats", f"data={tiny_data}", "split=test")
    assert "split: expected one of train, val, test" in refused("stats", f"data={tiny_data}", "split=tset")


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("verb", ["val", "train"])
@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "malicious", "malicious zip", "another program's"])
def test_a_bad_checkpoint_is_refused_and_runs_no_code(
    refused: Callable[..., str], tiny_keys: Keys, tmp_path: Path, verb: str, kind: str
) -> None:
    path, evil = tmp_path / "bad.pt", {"format": "iifdet-1", "model": Payload(tmp_path / "executed")}
    if kind in ("truncated", "malicious zip", "another program's"):
        torch.save(evil if kind == "malicious zip" else {"state_dict": torch.zeros(9)}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind in ("text", "empty"):
        path.write_text("hello" if kind == "text" else "")
    elif kind == "malicious":
        path.write_bytes(pickle.dumps(evil))
    keys = {"weights": path} if verb == "val" else tiny_keys(tmp_path, weights=path)
    assert "expected an iifdet checkpoint" in refused(verb, *words_of(keys))
    assert not (tmp_path / "executed").exists()


def test_traceback_shows_the_stack() -> None:
    with pytest.raises(InputError):
        main(["train", "epohcs=3", "--traceback"])


# -- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RuntimeError("odd"), 1, "iifdet: RuntimeError: odd (--traceback shows where)"),
        (FloatingPointError("not finite"), 1, "not finite"),
        (KeyboardInterrupt(), 130, "resume="),
        (SystemExit(143), 143, ""),
    ],
)
def test_exit_codes_of_what_a_verb_raises(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setitem(api.VERBS, "stats", fail)
    assert main(["stats"]) == code
    err = capsys.readouterr().err
    assert says in err and err.count("\n") <= 1


def test_train_and_val_end_with_0_and_print_the_figures(
    tiny_keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words_of(tiny_keys(tmp_path, epochs=1))]) == 0
    out = capsys.readouterr().out
    assert all(figure in out for figure in ("AP50", "tail5", "rare")) and str(tmp_path / "run") in out
    last = tmp_path / "run" / "weights" / "last.pt"
    common = ["--project", str(tmp_path), "--name", "check", "--plots", "false", "--workers=0"]
    assert main(["val", "--weights", str(last), *common]) == 0
    assert "AP50" in capsys.readouterr().out and (tmp_path / "check" / "metrics.json").is_file()


def test_likelihoods_are_printed_as_they_are_and_shares_in_percent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"top1": 0.375, "few": None, "nll": 25.9576, "brier": 0.8, "ece": 0.125}
    monkeypatch.setitem(api.VERBS, "val", lambda **_: RunResult(Path("run"), {}, figures))
    assert main(["val"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "top1 37.5  few -  nll 25.958  brier 0.800  ece 12.5"


def test_help_and_version_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["help"], ["train", "--help"], ["val", "-h"], ["--version"]):
        assert main(words) == 0
        assert capsys.readouterr().out.strip()


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out.strip() == project["version"]


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_s_help_says_what_each_key_means(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([verb, "--help"])
    out = capsys.readouterr().out
    for name, field in CONFIGS[verb].model_fields.items():
        assert field.description, name
        assert f"  {name}=" in out and field.description.split()[0] in out


def test_help_shows_the_values_of_a_recipe_and_of_what_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "model=ssd300", "epochs=7", "--help"])
    out = capsys.readouterr().out
    assert "  imgsz=300 " in out and "  steps=[80.0, 110.0] " in out and "  epochs=7 " in out
    main(["tune", "model=yolov3-nano", "trials=7", "--help"])
    out = capsys.readouterr().out
    assert "  trials=7 " in out and "  workers=1 " in out, "the study's, not the recipe's 0"
    assert main(["train", "epochs=none", "--help"]) == 2


@pytest.mark.parametrize("words", [["--help"], [], ["trian"], ["train", "--lr"], ["train", "-h"], ["val", "epocs=1"]])
def test_help_and_first_mistakes_import_no_torch(words: list[str]) -> None:
    code = "import sys; from iifdet.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_optuna_is_imported_by_tune_alone() -> None:
    code = "import sys, iifdet.api; sys.exit('optuna' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "iifdet", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("iifdet: verb: ") and not done.stdout


@pytest.mark.parametrize("verb", ["val", "predict", "export"])
def test_keys_of_an_adjustment_that_nobody_asked_for_are_refused(
    verb: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    """They would stand in args.yaml and do nothing."""
    save_checkpoint(tmp_path / "last.pt", create_model("yolov3-nano", 3, width=0.125, depth=0.1))
    line = refused(verb, f"weights={tmp_path / 'last.pt'}", "tau=9", *(["source=x.jpg"] if verb == "predict" else []))
    assert line.startswith("iifdet: tau: belongs to a new adjustment") and "adjust=iif" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["weights=x.pth"], "model: expected the architecture of x.pth, got none; give model="),
        (["model=ssd300", "weights=none.pth"], "expected a file, got none.pth, which is not there"),
        (["model=ssd300", "weights=x.pth"], "expected one of torchvision's detectors, got something else: x.pth"),
    ],
)
def test_val_says_what_is_wrong_with_a_file_of_another_program(
    refused: Callable[..., str], tiny_data: str, tmp_path: Path, words: list[str], said: str
) -> None:
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "x.pth")
    assert said in refused("val", f"data={tiny_data}", "device=cpu", *words)
