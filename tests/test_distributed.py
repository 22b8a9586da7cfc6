"""Several processes are one: the same losses, weights and figures, and what happens to one of them happens to all.

The processes are forked and talk through gloo, as those that torchrun starts on a machine without CUDA.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classification_data import small_classifier
from fork_server import ForkServer
from test_never_lose import diary_of, equal_runs
from toy_run import Loader, new_state

import iifdet
from iifdet import build
from iifdet.checkpoint import read_checkpoint
from iifdet.cli import main
from iifdet.config import TrainConfig, resolve
from iifdet.datasets.rect import RectBatchSampler
from iifdet.datasets.samplers import EpochSampler, Shard
from iifdet.distributed import World
from iifdet.errors import InputError
from iifdet.rundir import Onlooker
from iifdet.training import FitOptions, Undo, train_step

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")

Keys = Callable[..., dict[str, Any]]
#: 24 images, 8 a step: 21 steps. Weights of each step's own images, averages and mosaic are on.
SHARED: dict[str, Any] = {
    "batch": 8,
    "epochs": 7,
    "imgsz": 32,
    "optimizer": "sgd",
    "source": "batch",
    "ema": 0.9,
    "mosaic": 0.5,
    "close_mosaic": 1,
    "val_every": 4,
    "val_batch": 2,
    "save_steps": 3,
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def pair(server: ForkServer, tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    keys = tiny_keys(folder, **SHARED, name="run")
    assert server.run_many(world=2, keys=keys, log=str(folder / "run.log")) == [0, 0], said(folder / "run.log")
    return folder / "run"


def said(log: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(log.parent.glob(f"{log.stem}*.err")))


def of_rank(run: Path, rank: int) -> Path:
    """What :func:`diary_of` takes for the diary of a process."""
    return run.with_name(f"{run.name}.{rank}.x") if rank else run


def notes_of(run: Path) -> list[dict[str, Any]]:
    lines = [line.split() for line in run.with_suffix(".log").read_text().splitlines()]
    return [json.loads(words[3]) for words in lines if words[0] == "note"]


def test_two_processes_train_as_one_that_accumulates_two_batches(
    server: ForkServer, tiny_keys: Keys, pair: Path, tmp_path: Path
) -> None:
    keys = tiny_keys(tmp_path, **{**SHARED, "batch": 4, "accumulate": 2, "save_steps": 6}, name="one")
    assert server.run(keys=keys, log=str(tmp_path / "one.log")) == 0
    ours, theirs = notes_of(pair), notes_of(tmp_path / "one")
    assert len(ours) == len(theirs) == 21
    for a, b in zip(ours, theirs, strict=True):
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-5, abs=1e-5)
        assert a["online"] == b["online"], "weights of all images of the step"
    assert len({json.dumps(note["online"]) for note in ours}) > 5, "which differ from step to step"
    two, one = (read_checkpoint(run / "weights" / "last.pt") for run in (pair, tmp_path / "one"))
    trained = {name for name, value in two["weights"].items() if value.is_floating_point() and "running" not in name}
    for part in ("weights", "ema"):
        for name in trained:
            torch.testing.assert_close(two[part][name], one[part][name], rtol=1e-4, atol=1e-5, msg=name)
    assert two["training"]["images"] == one["training"]["images"]


def test_after_each_step_all_processes_hold_the_same_bits_and_one_writes(pair: Path) -> None:
    """Batch norms' statistics too, of which each process has seen other batches."""
    assert diary_of(pair) == diary_of(of_rank(pair, 1))
    assert len({digest for _, digest in diary_of(pair)}) == 21
    assert said(pair.with_suffix(".log")).count("AP50") == 1, "one speaks"
    generators = read_checkpoint(pair / "weights" / "last.pt")["training"]
    assert not torch.equal(generators["generators"]["cpu"], generators["other_generators"][0]["cpu"])


def test_gradients_that_a_loss_counts_are_those_of_all_processes(
    server: ForkServer, tiny_keys: Keys, tmp_path: Path
) -> None:
    keys = tiny_keys(tmp_path, **{**SHARED, "epochs": 2, "source": "dataset"}, name="run")
    keys["model_args"] = {**keys["model_args"], "class_loss": "eqlv2"}
    log = tmp_path / "run.log"
    assert server.run_many(world=2, keys=keys, log=str(log)) == [0, 0], said(log)
    run = tmp_path / "run"
    assert diary_of(run) == diary_of(of_rank(run, 1)) and len(diary_of(run)) == 6
    assert read_checkpoint(run / "weights" / "last.pt")["weights"]["class_statistic"].any()


#: Parts of classifiers that add something up, or want images together: 42 training images do not divide.
ADDING_UP: dict[str, dict[str, Any]] = {
    "bilateral": {"model_args": {"width": 0.25, "bilateral": True}, "sampling": "bilateral"},
    "views": {"model_args": {"width": 0.25, "contrast": "views"}, "sampling": "views", "batch": 12},
    "causal": {"model_args": {"width": 0.5, "head": "causal"}},
    "generator": {"model_args": {"width": 0.25, "generator": True}, "defer": 0.5, "batch": 10, "epochs": 2},
}


@pytest.mark.parametrize("name", ADDING_UP)
def test_classifiers_that_add_up_or_pair_images_are_the_same_in_all_processes(
    name: str, server: ForkServer, tmp_path: Path
) -> None:
    keys = small_classifier(tmp_path, device="cpu", adjust="none", mixup=0.0, epochs=1, select_on="test")
    log, keys = tmp_path / "run.log", {**keys, **ADDING_UP[name], "project": str(tmp_path), "name": "run"}
    assert server.run_many(world=2, keys=keys, log=str(log)) == [0, 0], said(log)
    run = tmp_path / "run"
    assert diary_of(run) == diary_of(of_rank(run, 1)) and len(diary_of(run)) > 3


@pytest.mark.parametrize("stage", ["robust", "drawn", "memory"])
def test_what_is_made_of_all_features_is_the_same_in_all_processes(
    stage: str, server: ForkServer, tmp_path: Path
) -> None:
    keys = small_classifier(tmp_path, device="cpu", adjust="none", mixup=0.0, epochs=1, select_on="test")
    start = iifdet.train(**{**keys, "name": "first"}).folder / "weights" / "last.pt"
    mine: dict[str, Any] = {"synthesis": "tailcalib", "strategy": "decoupled"}
    if stage == "robust":
        mine = {"model_args": {"width": 0.25, "robust": True}}
    if stage == "memory":
        mine = {"model_args": {"width": 0.25, "memory": True, "head": "cosine"}}
    log, keys = tmp_path / "run.log", {**keys, **mine, "weights": str(start), "project": str(tmp_path), "name": "run"}
    assert server.run_many(world=2, keys=keys, log=str(log)) == [0, 0], said(log)
    run = tmp_path / "run"
    assert diary_of(run) == diary_of(of_rank(run, 1)) and len(diary_of(run)) > 4
    if stage == "robust":
        alone = iifdet.train(**{**keys, "name": "alone"}).folder
        two, one = (read_checkpoint(r / "weights" / "last.pt")["weights"]["robust.centroids"] for r in (run, alone))
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_resume_to_the_same_bits(
    server: ForkServer, tiny_keys: Keys, pair: Path, tmp_path: Path
) -> None:
    log, keys = tmp_path / "run.log", tiny_keys(tmp_path, **SHARED, name="run")
    codes = server.run_many(world=2, keys=keys, log=str(log), signal="SIGTERM", signal_at=[2, 2], only=1)
    assert codes == [143, 143], said(log)
    training = read_checkpoint(tmp_path / "run" / "weights" / "last.pt")["training"]
    assert (training["epoch"], training["batch"]) == (2, 2)
    assert [diary_of(of_rank(tmp_path / "run", rank))[-1][0] for rank in (0, 1)] == [(2, 2), (2, 2)]
    assert server.run(keys={"resume": str(tmp_path / "run")}, log=str(tmp_path / "alone.log")) == 2
    assert "expected 2 processes" in said(tmp_path / "alone.log")
    assert server.run_many(world=2, keys={"resume": str(tmp_path / "run")}, log=str(log)) == [0, 0], said(log)
    equal_runs(pair, tmp_path / "run")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_during_validation_ends_all_before_its_next_batch(
    server: ForkServer, tiny_keys: Keys, pair: Path, tmp_path: Path, rank: int
) -> None:
    """Of 12 images in batches of 2 each process has 3; the signal comes after the first."""
    log, keys = tmp_path / "run.log", tiny_keys(tmp_path, **SHARED, name="run")
    codes = server.run_many(world=2, keys=keys, log=str(log), signal="SIGTERM", signal_after_val_batch=1, only=rank)
    assert codes == [143, 143], said(log)
    for number in (0, 1):
        assert log.with_suffix(f".{number}.log" if number else ".log").read_text().count("validated 3") == 1
    training = read_checkpoint(tmp_path / "run" / "weights" / "last.pt")["training"]
    assert (training["epoch"], training["batch"]) == (3, 3), "all steps of the epoch, and its validation still to come"
    assert server.run_many(world=2, keys={"resume": str(tmp_path / "run")}, log=str(log)) == [0, 0], said(log)
    equal_runs(pair, tmp_path / "run")


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_all(
    server: ForkServer, tiny_keys: Keys, tmp_path: Path
) -> None:
    """In the first of two accumulated batches, at the first step and at the one after it."""
    keys = tiny_keys(tmp_path, imgsz=32, batch=4, accumulate=2, epochs=1, save_steps=0)
    log = tmp_path / "run.log"
    assert server.run_many(world=2, keys=keys, log=str(log), poison_at=[[0, 0], [0, 2]], only=1) == [0, 0], said(log)
    digests = [[digest.split()[0] for _, digest in diary_of(of_rank(tmp_path / "run", rank))] for rank in (0, 1)]
    assert digests[0] == digests[1]
    assert digests[0][0] == digests[0][1] != digests[0][2], "two steps were skipped, the third was made"
    assert "loss is nan at epoch 0 batch 0 (" in log.with_suffix(".err").read_text()
    assert log.with_suffix(".1.err").read_text() == "", "the first process says it for all"


def test_when_a_process_is_killed_the_others_end_in_one_line(
    server: ForkServer, tiny_keys: Keys, tmp_path: Path
) -> None:
    keys, log = tiny_keys(tmp_path, imgsz=32, epochs=1), tmp_path / "run.log"
    assert server.run_many(world=2, keys=keys, log=str(log), signal="SIGKILL", signal_at=[0, 1], only=1) == [1, -9]
    lines = [line for line in log.with_suffix(".err").read_text().splitlines() if line.startswith("iifdet: ")]
    assert len(lines) == 1 and "another process of this run has ended" in lines[0]


def test_figures_are_equal_to_the_last_digit_at_any_number_of_processes(
    server: ForkServer, pair: Path, tmp_path: Path
) -> None:
    """12 images in batches of 5, 5 and 2: two processes have two batches and one; of four, one has none."""
    base = {"weights": str(pair / "weights" / "last.pt"), "batch": 5, "project": str(tmp_path), "device": "cpu"}
    files = {}
    for world, rect in ((1, False), (2, False), (3, False), (1, True), (4, True)):
        name = f"{world}{rect}"
        keys, log = {**base, "name": name, "rect": rect, "plots": False, "workers": 0}, tmp_path / f"{name}.log"
        assert server.run_many(verb="val", world=world, keys=keys, log=str(log)) == [0] * world, said(log)
        files[name] = [(tmp_path / name / file).read_bytes() for file in ("metrics.json", "predictions.json")]
    assert json.loads(files["1False"][1]), "there are detections"
    assert files["1False"] == files["2False"] == files["3False"]
    assert files["1True"] == files["4True"]


@pytest.mark.parametrize(("images", "batch", "world"), [(24, 4, 2), (23, 4, 2), (30, 4, 3), (2, 4, 3)])
def test_a_step_of_all_processes_has_the_images_that_one_would_accumulate(images: int, batch: int, world: int) -> None:
    alone = [key.row for key in EpochSampler(images, seed=5)]
    samplers = [EpochSampler(images, seed=5, rank=r, world_size=world, batch=batch) for r in range(world)]
    shares = [[key.row for key in sampler] for sampler in samplers]
    assert len({len(share) for share in shares}) == 1
    turns = range(0, len(shares[0]), batch)
    dealt = [row for turn in turns for share in shares for row in share[turn : turn + batch]]
    assert dealt[:images] == alone
    assert dealt[images:] == [alone[i % images] for i in range(len(dealt) - images)], "filled up from the start"
    for share, sampler in zip(shares, samplers, strict=True):
        sampler.set_epoch(0, start=1)
        assert [key.row for key in sampler] == share[1:]


def test_rect_batches_are_shared_out_whole() -> None:
    sizes = np.random.default_rng(0).integers(20, 90, (31, 2)).astype(np.int32)
    alone = list(RectBatchSampler(sizes, 64, 4, seed=2))
    shares = [list(RectBatchSampler(sizes, 64, 4, seed=2, rank=r, world_size=3)) for r in range(3)]
    assert [batch for turn in zip(*shares, strict=True) for batch in turn] == [*alone, alone[0]]


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_shards_hold_each_batch_once(world: int) -> None:
    batches = [[EpochSampler(1).__iter__().__next__()._replace(row=row)] for row in range(7)]
    shards = [Shard(batches, rank, world) for rank in range(world)]
    assert [len(shard) for shard in shards] == [len(list(shard)) for shard in shards]
    assert sorted(keys[0].row for shard in shards for keys in shard) == list(range(7))


def test_a_batch_that_does_not_divide_and_sync_bn_without_cuda_are_refused(tiny_keys: Keys, tmp_path: Path) -> None:
    world = World()
    world.size = 3
    cfg = resolve(TrainConfig, tiny_keys(tmp_path, batch=16, sync_bn=True))
    with pytest.raises(InputError, match=r"batch: expected a multiple of the 3 processes.*got 16; use batch=15"):
        build.check_batch(cfg, world)
    with pytest.raises(InputError, match=r"sync_bn: expected CUDA.*got device=cpu"):
        build.synchronise_batch_norms(cfg, torch.nn.BatchNorm2d(2), torch.device("cpu"), world)


def test_each_process_takes_the_cuda_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(build.pick_device(name, 1)) for name in (None, "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(InputError, match="got 2 for process 2 of this machine; use torchrun --nproc-per-node=2"):
        build.pick_device(None, 2)
    with pytest.raises(InputError, match="expected cpu or cuda where torchrun starts several processes, got '0'"):
        build.pick_device(0, 0)


def test_who_only_looks_on_writes_nothing(tmp_path: Path) -> None:
    run = Onlooker(tmp_path)
    with run.lock():
        run.write_environment()
        run.write_yaml("args.yaml", {})
        run.write_rows("results.csv", [{"a": 1}])
        run.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("local_rank", "order"), [(0, ["block", "barrier"]), (1, ["barrier", "block"])])
def test_one_process_of_each_machine_goes_first_and_lets_the_others_on_if_it_fails(
    local_rank: int, order: list[str]
) -> None:
    seen: list[str] = []

    class Watched(World):
        def barrier(self) -> None:
            seen.append("barrier")

    world = Watched()
    world.local_rank = local_rank
    with pytest.raises(InputError), world.one_a_machine_first():
        seen.append("block")
        raise InputError("no data")
    assert seen == order


def test_what_the_first_process_refuses_ends_the_others_without_a_word() -> None:
    class Second(World):
        rank = 1

        def broadcast(self, value: Any) -> Any:
            return None, True  # what the first one sends when it has failed

    with pytest.raises(SystemExit) as left:
        Second().on_main(lambda: pytest.fail("only the first process makes it"))
    assert left.value.code == 2


def test_memory_that_runs_out_in_one_of_several_processes_ends_the_run_in_one_line() -> None:
    world, state, batches = World(), new_state(), list(Loader().epoch(0))
    world.size, state.model.room = 2, 2  # type: ignore[assignment]
    options = FitOptions(epochs=1, device=torch.device("cpu"), world=world)
    with pytest.raises(InputError, match=r"batch: expected memory for 4 images.*several processes.*batch=auto"):
        train_step(state, batches[:1], 6, options, Undo(state.model, torch.device("cpu")))


def test_verbs_that_cannot_be_shared_are_refused_and_each_process_says_which_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["stats", "data=demo"]) == 2
    assert capsys.readouterr().err.startswith("iifdet: [process 1] stats: expected one process, got 2")


@pytest.mark.slow
def test_torchrun_trains_validates_and_passes_refusals_on(tiny_keys: Keys, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, imgsz=32, epochs=1, plots=True)
    words = [f"{k}={json.dumps(v) if isinstance(v, dict | bool) else v}" for k, v in keys.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "iifdet"]

    def go(verb: str, *rest: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([*torchrun, verb, *rest], capture_output=True, text=True, env=environment, timeout=250)

    done = go("train", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("results on ") == 1 and done.stdout.count("AP50") == 1
    last = tmp_path / "run" / "weights" / "last.pt"
    assert len(read_checkpoint(last)["training"]["other_generators"]) == 1
    assert (tmp_path / "run" / "train_batch0.jpg").is_file()
    seen = go("val", f"weights={last}", f"project={tmp_path}", "name=val", "device=cpu", "workers=0")
    assert seen.returncode == 0, seen.stderr
    figures = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "val")]
    assert figures[0]["per_class"] == figures[1]["per_class"]
    refused = go("train", *words, "accumulate=1", "sync_bn=true")
    assert refused.returncode != 0 and "sync_bn: expected CUDA" in refused.stderr
