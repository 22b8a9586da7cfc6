"""Input that once slipped through: each ends in one line, and nothing of an old run passes for a new one's."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import iifdet
from iifdet.api import RunResult
from iifdet.checkpoint import read_checkpoint
from iifdet.detectors import DETECTORS
from iifdet.errors import InputError
from iifdet.training import Callback

Keys = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run, to read from."""
    choose = {"conf": 0.002, "nms": "majority", "iou": 0.5, "mask_threshold": 0.4}
    return iifdet.train(**tiny_keys(tmp_path_factory.mktemp("finished"), epochs=1, **choose))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": math.inf}, "lr: "),
        ({"weight_decay": math.inf}, "weight_decay: "),
        ({"seed": 10**24}, "seed: "),
        ({"variant": "smoth", "adjust": "none"}, "variant: expected one of raw, smooth.*did you mean 'smooth'"),
        ({"strategy": "post_process", "adjust": "none"}, "post_process needs an adjustment"),
        ({"name": "../elsewhere"}, "name: expected a folder inside"),
        ({"model_args": {"lambda_xy": "abc"}}, "lambda_xy: expected a number >= 0, got 'abc'"),
        ({"model_args": {"lambda_cls": math.nan}}, "lambda_cls: expected a number >= 0"),
        ({"model_args": {"focal_gamma": -3}}, "focal_gamma: expected a number >= 0"),
        ({"model_args": {"focal_alpha": 1.5}}, r"focal_alpha: expected a number in \[0, 1\]"),
        ({"model_args": {"width": 0}}, "width: expected a number above 0"),
        ({"model_args": {"depth": -2}}, "depth: expected a number above 0"),
        ({"model_args": {"conf": 0.1}}, "write conf=…"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_written(
    tiny_keys: Keys, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        iifdet.train(**tiny_keys(tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_takes_over_a_folder_leaves_nothing_of_the_old_one(tiny_keys: Keys, tmp_path: Path) -> None:
    class Crash(Callback):
        def on_step(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("crash")

    first = iifdet.train(**tiny_keys(tmp_path, epochs=1))
    (first.folder / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="crash"):
        iifdet.train(callbacks=[Crash()], **tiny_keys(tmp_path, epochs=1, exist_ok=True))
    left = {p.name for p in first.folder.rglob("*") if p.is_file()}
    assert left == {"notes.txt", "args.yaml", "environment.json", "last.pt"}
    state = read_checkpoint(first.folder / "weights" / "last.pt")["training"]
    assert (state["epoch"], state["batch"], state["rows"]) == (0, 0, []), "last.pt is the new run's start"


def test_a_run_that_teaches_nothing_stops_and_saves_nothing_of_it(tiny_keys: Keys, tmp_path: Path) -> None:
    class Poison(Callback):
        def on_batches(self, state: Any, batches: Any) -> None:
            with torch.no_grad():
                next(state.model.parameters()).fill_(math.nan)

    with pytest.raises(FloatingPointError, match="not finite"):
        iifdet.train(callbacks=[Poison()], **tiny_keys(tmp_path, epochs=2))
    assert [p.name for p in (tmp_path / "run" / "weights").iterdir()] == ["last.pt"]
    content = read_checkpoint(tmp_path / "run" / "weights" / "last.pt")
    assert (content["training"]["epoch"], content["training"]["batch"]) == (0, 0)
    assert all(v.isfinite().all() for v in content["weights"].values()), "the start, from before"


def test_skipped_batches_do_not_dilute_the_reported_loss(tiny_keys: Keys, tmp_path: Path) -> None:
    """One of three batches is spoiled; the mean is over the other two."""

    class Spoil(Callback):
        def on_batches(self, state: Any, batches: Any) -> None:
            if state.batch == 1:
                batches[0].images = torch.full(batches[0].images.shape, math.nan)

        def on_step(self, state: Any, losses: Any, lr: float, batches: int) -> None:
            seen.append(sum(losses.values()))

    seen: list[float] = []
    run = iifdet.train(callbacks=[Spoil()], **tiny_keys(tmp_path, epochs=1, lr=1e-12))
    assert seen[1] == seen[0], "the spoiled batch adds nothing"
    row = (run.folder / "results.csv").read_text().splitlines()
    loss = float(dict(zip(row[0].split(","), row[1].split(","), strict=True))["loss"])
    assert loss == pytest.approx(seen[2])


def test_a_gradient_that_is_not_finite_moves_no_weight_without_clipping_either(tiny_keys: Keys, tmp_path: Path) -> None:
    class Spoil(Callback):
        def on_start(self, state: Any) -> None:
            self.hook = next(state.model.parameters()).register_hook(lambda g: g * math.nan)
            self.before = {k: v.clone() for k, v in state.model.named_parameters()}

        def on_step(self, state: Any, losses: Any, lr: float, batches: int) -> None:
            after = dict(state.model.named_parameters())
            same.append(all(torch.equal(after[k], v) for k, v in self.before.items()))

    same: list[bool] = []
    with pytest.raises(FloatingPointError, match="not finite"):  # a run that learnt nothing
        iifdet.train(callbacks=[Spoil()], **tiny_keys(tmp_path, epochs=1, clip=0.0, max_rollbacks=0))
    assert same == [True] * 3


def test_cost_sensitive_runs_report_the_weights_of_their_loss(tiny_keys: Keys, tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, strategy="cost_sensitive"))
    expected = [math.log(25 / (n + 1)) + 1 for n in (12, 7, 4, 1)]
    assert [row["weight"] for row in run.metrics["per_class"]] == pytest.approx(expected)


def test_resuming_a_finished_run_still_gives_its_summary(finished: RunResult) -> None:
    assert iifdet.train(resume=finished.folder).summary == finished.summary


def test_a_loaded_model_chooses_detections_as_its_run_did(finished: RunResult) -> None:
    options = iifdet.load(finished.folder / "weights" / "last.pt").options
    assert (options.conf, options.nms, options.iou, options.mask_threshold) == (0.002, "majority", 0.5, 0.4)


@pytest.mark.parametrize("part", ["counts", "model", "weights", "recipe"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(finished: RunResult, tmp_path: Path, part: str) -> None:
    content = read_checkpoint(finished.folder / "weights" / "last.pt")
    del content[part]
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(InputError, match=f"without its part '{part}'"):
        iifdet.load(tmp_path / "broken.pt")


def test_a_checkpoint_that_contradicts_itself_is_refused(finished: RunResult, tmp_path: Path) -> None:
    content = read_checkpoint(finished.folder / "weights" / "last.pt")
    content["names"] = content["names"][:2]
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(InputError, match="expected a consistent checkpoint"):
        iifdet.load(tmp_path / "broken.pt")


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov3-nano"])
def test_factories_still_take_post_processing_in_a_program(name: str) -> None:
    with torch.device("meta"):
        assert DETECTORS[name](2, conf=0.3).options.conf == 0.3


# -- images that are not what the annotations say ----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_too_many_images_with_broken_pixels_end_the_run_in_one_line(
    tiny_keys: Keys, tiny_copy: Path, tmp_path: Path, split: str, workers: int
) -> None:
    for file in (tiny_copy / split).iterdir():
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InputError, match=r"cannot be read as annotated|not one can be read") as caught:
        iifdet.train(**tiny_keys(tmp_path / "runs", data=tiny_copy / "data.yaml", epochs=1, workers=workers))
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_images_of_another_size_than_annotated_end_an_evaluation(
    finished: RunResult, tiny_copy: Path, tmp_path: Path
) -> None:
    text = (tiny_copy / "val.json").read_text()
    (tiny_copy / "val.json").write_text(text.replace('"width": 64', '"width": 640'))
    with pytest.raises(InputError, match="cannot be read as annotated"):
        iifdet.val(weights=finished.folder / "weights" / "last.pt", data=tiny_copy / "data.yaml", project=tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_grey_images_in_an_evaluation_are_counted_beside_its_figures(
    finished: RunResult, tiny_copy: Path, tmp_path: Path, workers: int
) -> None:
    keys = {"weights": finished.folder / "weights" / "last.pt", "data": tiny_copy / "data.yaml", "project": tmp_path}
    file, *others = sorted((tiny_copy / "val").iterdir())
    file.write_bytes(file.read_bytes()[:60])
    notices = iifdet.val(**keys, max_bad=1, workers=workers).metrics["notices"]
    assert notices == [
        f"1 of {1 + len(others)} images could not be read: grey ones were scored in their place; "
        "iifdet check names them"
    ]


def test_one_broken_image_of_many_is_replaced_and_said(
    tiny_keys: Keys, tiny_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tiny_copy / "train" / "003.png"
    file.write_bytes(file.read_bytes()[:60])
    run = iifdet.train(**tiny_keys(tmp_path, data=tiny_copy / "data.yaml", epochs=1, max_bad=0.05))
    assert run.metrics["AP"] is not None


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_do_not_multiply_a_broken_image(tiny_keys: Keys, tiny_copy: Path, tmp_path: Path, workers: int) -> None:
    """One of 24 is 4.2 %, however many workers look; two are 8.3 %, also where two workers see one each."""
    broken = [tiny_copy / "train" / f"{n:03}.png" for n in (3, 10)]
    keys = tiny_keys(tmp_path, data=tiny_copy / "data.yaml", epochs=1, batch=4, workers=workers, cache_index=False)
    broken[0].write_bytes(broken[0].read_bytes()[:60])
    iifdet.train(**keys, max_bad=0.05)
    broken[1].write_bytes(broken[1].read_bytes()[:60])
    with pytest.raises(InputError, match=r"expected at most 5.0% images that .*, got 8.3% so far"):
        iifdet.train(**{**keys, "epochs": 3}, max_bad=0.05)
