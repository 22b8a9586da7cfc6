"""Tables V to X of the IIF paper: published and measured side by side.

CUDA, whole:  python tools/bench/paper_tables.py --data cifar10_lt100_jpeg --seeds 0,1,2
CUDA, timed:  … --seconds 540 (epochs are fewer where 400 do not fit, and the result says so)
Photographs:  … --table imagenet-lt --data imagenet-lt --seeds 0 --bn train,eval
CPU, short:   … --epochs 40 --stage2 10 --seeds 0 --device cpu --keys 'channels_last=true val_every=20'

Each seed is a process of its own (``--how threads``: a thread), all side by side on one device. A seed trains the
softmax model, tries every adjustment on its test logits (post-process), and trains every variant's class rows from it
(decoupled). ``--trained`` adds other recipes, by their names without the table's (``iif-csl,la-loss,ldam-drw``); ones
with a teacher or another first stage train that, too. ``--keys 'mixup=0'`` changes every run. What an earlier call
wrote into ``--folder`` is taken up, and figures of a JSON file (``--known``) are not measured again; second stages and
teachers need the run itself there.

``last`` is the last epoch, ``best`` the epoch with the highest test accuracy, which the original reports.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, keys_of, known_results, write
from paper_numbers import FIGURES, lines, table

import iifdet
from iifdet import build
from iifdet.build import classification
from iifdet.config import TrainConfig, ValConfig, resolve, validate
from iifdet.datasets.classification import find_class_description
from iifdet.datasets.classification.index import ClassIndex
from iifdet.datasets.classification.resident import ResidentImages
from iifdet.evaluation import ClassificationEvaluator
from iifdet.longtail import VARIANTS
from iifdet.training import Callback, TrainState

#: Epochs whose speed is measured.
PROBE = 8
#: What an epoch of the second stage costs of one of the first, and seconds for each run's start.
STAGE2_SHARE, START_SECONDS = 0.45, 5.0


class Clock(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.speeds: list[float] = []

    def on_epoch_end(self, state: TrainState, row: Any) -> None:
        self.speeds.append(row["seconds"])


def keep_images() -> None:
    """Read and upload each split once a process, not once a run."""
    read, kept, lock = ResidentImages.of, {}, threading.Lock()

    def of(index: ClassIndex, device: torch.device, size: int) -> ResidentImages:
        key = (index.digest(), str(device), size)
        with lock:
            if key not in kept:
                kept[key] = read(index, device, size)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)  # other streams read it
            return kept[key]  # type: ignore[no-any-return]

    ResidentImages.of = of  # type: ignore[method-assign,assignment]


class Seed:
    """All rows of one seed; what is there already is not made again."""

    def __init__(self, args: Any, seed: int) -> None:
        self.args, self.seed, self.started = args, seed, time.time()
        self.folder = Path(args.folder).absolute() / f"seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "rows.json"
        self.rows: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.known: dict[str, Any] = known_rows(args).get(str(seed), {})
        cuda = args.device != "cpu"
        self.common = {
            **{"data": args.data, "device": args.device, "seed": seed, "project": str(self.folder), "plots": False},
            **{"verbose": False, "exist_ok": True, "select_on": "test", "save_minutes": 0},
            **{"amp": "bf16" if cuda else "none", "channels_last": cuda and args.order == "last"},
            **{"compile": args.compile == "yes", "fraction": args.fraction},
            **({"model_args.width": args.width} if args.width != 1 else {}),
        }
        self.extra = keys_of(args.keys)

    def run(self) -> None:
        """Rows in the order in which they matter."""
        epochs = self.epochs()
        self.stage("softmax", lambda: self.train("softmax", epochs))
        self.post_process()
        variants = [v for v in self.args.variants.split(",") if v]
        for bn in self.args.bn.split(","):
            for variant in variants:
                name = f"decoupled {variant}" + (" bn-eval" if bn == "eval" else "")
                self.stage(name, lambda v=variant, b=bn: self.decoupled(v, b))  # type: ignore[misc]
        for recipe in filter(None, self.args.trained.split(",")):
            self.stage(recipe, lambda r=recipe: self.train(r, epochs))  # type: ignore[misc]
        self.save("seconds", round(time.time() - self.started, 1))

    def stage(self, name: str, make: Any) -> None:
        """One row; one that fails is noted, and the next ones are tried."""
        if "failed" not in self.rows.get(name, self.known.get(name, {"failed": "not tried"})):
            return
        if self.args.seconds and time.time() - self.args.begun > self.args.seconds:
            print(f"seed {self.seed}: {name}: no time is left", flush=True)
            return
        started = time.time()
        try:
            row = make()
        except Exception as error:
            traceback.print_exc()
            row = {"failed": f"{type(error).__name__}: {error}"[:300]}
        self.save(name, {**row, "took": round(time.time() - started, 1)})
        print(f"seed {self.seed}: {name}: {self.rows[name]}", flush=True)

    def save(self, name: str, row: Any) -> None:
        """Write what there is so far."""
        self.rows[name] = row
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.rows, indent=1))
        temporary.replace(self.file)

    def epochs(self) -> int:
        """As asked for, or as many as fit into ``--seconds`` at the speed of the first epochs."""
        if "epochs" in self.rows:
            return int(self.rows["epochs"])
        epochs = self.args.epochs
        if self.args.seconds:
            clock = Clock()
            keys = self.keys("softmax", PROBE) | {"name": "probe", "val_every": PROBE}
            iifdet.train([clock], **keys)
            second = statistics.median(clock.speeds[PROBE // 2 :])
            runs = len(self.args.variants.split(",")) * len(self.args.bn.split(","))
            left = self.args.seconds - (time.time() - self.args.begun) - (1 + runs) * START_SECONDS
            whole = 1 + len([r for r in self.args.trained.split(",") if r])
            fitting = int((0.93 * left / second - runs * self.args.stage2 * STAGE2_SHARE) / whole)
            epochs = min(epochs, max(10, fitting // 10 * 10))
            print(f"seed {self.seed}: {second:.3f} s an epoch, {epochs} epochs", flush=True)
        self.save("epochs", epochs)
        return int(epochs)

    def keys(self, recipe: str, epochs: int) -> dict[str, Any]:
        """Keys of a first stage: the recipe's, its steps where they are as shares of the epochs."""
        steps = [max(1, round(0.9 * epochs)), max(2, round(0.95 * epochs))]
        model = f"classify/{self.args.table}-{recipe}"
        every = max(1, epochs // 20)
        mine = {"model": model, "name": recipe, "epochs": epochs, "steps": steps, "val_every": every}
        return {**self.common, **mine, **self.extra}

    def train(self, recipe: str, epochs: int) -> dict[str, Any]:
        """A whole training, or a second stage of its own."""
        name = f"classify/{self.args.table}-{recipe}"
        config = resolve(TrainConfig, {"model": name})
        if config.strategy == "decoupled" or {"robust", "memory"} & set(config.model_args):
            whole = whole_epochs(self.args.table, recipe)
            return self.second_stage({"model": name, "name": recipe, "epochs": whole}, STARTS.get(recipe, "softmax"))
        start = {}
        if config.distill != "none":
            taught_by = TEACHERS[config.distill]
            self.stage(taught_by, lambda: self.train(taught_by, epochs))
            start = {"teacher": str(self.folder / taught_by / "weights" / "last.pt")}
        return figures(iifdet.train(**{**self.keys(recipe, epochs), **start}).folder)

    def decoupled(self, variant: str, bn: str) -> dict[str, Any]:
        """The class rows again, from the softmax run's last checkpoint."""
        keys = {"model": f"classify/{self.args.table}-iif-decoupled", "variant": variant, "frozen_bn": bn}
        return self.second_stage({**keys, "epochs": self.args.stage2, "name": f"decoupled-{variant}-{bn}"})

    def second_stage(self, keys: dict[str, Any], first: str = "softmax") -> dict[str, Any]:
        """A run that starts from another run's last checkpoint."""
        self.stage(first, lambda: self.train(first, self.epochs()))
        start = {"weights": str(self.folder / first / "weights" / "last.pt")}
        every = {"val_every": max(1, keys["epochs"] // 4)}
        return figures(iifdet.train(**{**self.common, **every, **self.extra, **keys, **start}).folder)

    def post_process(self) -> None:
        """Every adjustment on the logits of the softmax run."""
        wanted = {f"post-process {v}": {"adjust": "iif", "variant": v} for v in VARIANTS} | {
            "post-process la": {"adjust": "la"}
        }
        if all(name in {**self.known, **self.rows} for name in wanted):
            return
        try:
            model = build.load_model(self.folder / "softmax" / "weights" / "last.pt").to(self.device())
            config = validate(ValConfig, {"data": self.args.data, "imgsz": model.recipe["imgsz"]})
            split = "test" if "test" in find_class_description(self.args.data).splits else "val"
            index = build.build_index(config, split, "classify")
            cache, device = model.recipe["cache"], self.device()
            batches, raw = [], []
            with torch.inference_mode():
                for batch in classification.classification_val_batches(config, config, index, cache, device=device):
                    raw.append(model.raw(batch.to(device).images))
                    batches.append(replace(batch, images=batch.images[:0]))  # fifty thousand photographs do not fit
        except Exception as error:
            traceback.print_exc()
            self.save("post-process", {"failed": f"{type(error).__name__}: {error}"[:300]})
            return
        for name, keys in wanted.items():
            self.stage(name, lambda k=keys: score(model, k, raw, batches, index))  # type: ignore[misc]

    def device(self) -> torch.device:
        """Where models run."""
        return build.pick_device(self.args.device)


def score(model: Any, keys: dict[str, Any], raw: list[Any], batches: list[Any], index: Any) -> dict[str, Any]:
    """The figures of adjusted logits."""
    config = validate(ValConfig, {**keys, "on_nonpositive": "allow"})
    build.set_adjustment(model, config, keys["adjust"], strategy="post_process")
    evaluator = ClassificationEvaluator(index, model.class_activation)
    for logits, batch in zip(raw, batches, strict=True):
        evaluator.update(model.adjusted(logits), batch)
    metrics = evaluator.compute().metrics(model.counts)
    return {"last": percent(metrics | metrics["groups"])}


def figures(folder: Path) -> dict[str, Any]:
    """What a run has come to: its last epoch, and the one with the highest test accuracy."""
    metrics = json.loads((folder / "metrics.json").read_text())
    import csv

    rows = [row for row in csv.DictReader((folder / "results.csv").open()) if row.get("top1")]
    best = max(rows, key=lambda row: float(row["top1"]))
    speeds = [float(r["images_per_s"]) for r in csv.DictReader((folder / "results.csv").open())]
    return {
        "last": percent(metrics | metrics["groups"]),
        "best": {"top1": round(100 * float(best["top1"]), 2), "epoch": int(best["epoch"])},
        "epochs": metrics["epochs"],
        "images_per_s": round(statistics.median(speeds)),
    }


def percent(metrics: dict[str, Any]) -> dict[str, Any]:
    """FIGURES in percent; NLL as it is."""
    return {
        k: None if metrics.get(k) is None else round(metrics[k] * (1 if k == "nll" else 100), 3 if k == "nll" else 2)
        for k in FIGURES
    }


def whole_epochs(table: str, recipe: str) -> int:
    """Epochs of a recipe."""
    return resolve(TrainConfig, {"model": f"classify/{table}-{recipe}"}).epochs


#: Whose checkpoint a recipe that distils learns from.
TEACHERS = {"cbd": "softmax", "dive": "la-loss"}
#: Whose checkpoint a second stage starts from, where it is not the softmax run's.
STARTS = {"tailcalibx": "cbd", "dro-lt-decoupled": "dro-lt"}
#: What rows must have in common to stand in one table.
SETTING = ("table", "data", "epochs", "stage2", "bn", "width", "keys", "fraction")


def known_rows(args: Any) -> dict[str, Any]:
    """Seed -> what ``--known`` has of it."""
    return known_results(args.known, "keys", {key: getattr(args, key) for key in SETTING}).get("seeds", {})


def merge(args: Any, seeds: list[int], known: dict[str, Any]) -> dict[str, Any]:
    """What there is of all seeds so far, also as the result's file: a run that is cut off leaves its table behind."""
    files = {seed: Path(args.folder) / f"seed{seed}" / "rows.json" for seed in seeds}
    mine = {str(seed): json.loads(file.read_text()) for seed, file in files.items() if file.is_file()}
    merged = {seed: {**known.get(seed, {}), **mine.get(seed, {})} for seed in {**known, **mine}}
    keys = {k: v for k, v in vars(args).items() if k not in ("out", "seed", "begun")}
    shortened = any(row.get("epochs", 0) < whole_epochs(args.table, "softmax") for row in merged.values())
    content = {"keys": keys, "shortened": shortened, "table": table(args.table, merged), "seeds": merged}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return content


def in_processes(args: Any, seeds: list[int], known: dict[str, Any]) -> None:
    """A process a seed; one that dies costs its own rows alone."""
    threads = str(max(1, (os.cpu_count() or 1) // len(seeds) // 2))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    Path(args.folder).mkdir(parents=True, exist_ok=True)
    running = []
    for seed in seeds:
        log = (Path(args.folder) / f"seed{seed}.log").open("a")
        command = [sys.executable, __file__, *sys.argv[1:], "--seed", str(seed), "--begun", str(args.begun)]
        running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    while any(process.poll() is None for process in running):
        time.sleep(2)
        merge(args, seeds, known)


def in_threads(args: Any, seeds: list[int], known: dict[str, Any]) -> None:
    """A thread and a CUDA stream a seed: kernels of one context run at the same time, those of processes take turns."""
    keep_images()
    build_model, lock = build.build_model, threading.Lock()

    def one_at_a_time(*given: Any, **keys: Any) -> Any:  # weights are drawn from the one generator there is
        with lock:
            return build_model(*given, **keys)

    build.build_model = one_at_a_time

    def run(seed: int) -> None:
        try:
            if args.device == "cpu":
                Seed(args, seed).run()
            else:
                with torch.cuda.stream(torch.cuda.Stream()):
                    Seed(args, seed).run()
        except Exception:
            traceback.print_exc()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(2)
        merge(args, seeds, known)


def main() -> None:
    """Run the seeds and merge what they wrote."""
    args = arguments(
        __doc__,
        table="cifar10-lt",
        data="cifar10_lt100_jpeg",
        seeds="0,1,2",
        seed=-1,
        epochs=0,
        stage2=0,
        seconds=0.0,
        begun=0.0,
        device="cuda" if torch.cuda.is_available() else "cpu",
        variants="smooth,raw,relative,base2,base10,gombit,normit",
        bn="train",
        trained="",
        order="last",
        compile="no",
        width=1.0,
        keys="",
        fraction=1.0,
        folder="runs/paper_tables",
        how="processes",
        known="",
    )
    args.begun = args.begun or time.time()
    args.epochs = args.epochs or whole_epochs(args.table, "softmax")
    args.stage2 = args.stage2 or whole_epochs(args.table, "iif-decoupled")
    if args.seed >= 0:
        keep_images()
        Seed(args, args.seed).run()
        return
    seeds = [int(seed) for seed in args.seeds.split(",")]
    known = known_rows(args)
    {"processes": in_processes, "threads": in_threads}[args.how](args, seeds, known)
    content = merge(args, seeds, known)
    write(f"paper_{args.table}", args.out, content)
    print(lines(content["table"]))
    rows = {f"seed {seed}: {name}": row for seed, rows in content["seeds"].items() for name, row in rows.items()}
    failed = [name for name, row in rows.items() if isinstance(row, dict) and "failed" in row]
    if failed or not content["table"]:
        sys.exit(f"failed: {', '.join(failed) or 'every seed'}; see {args.folder}/seed*.log")


if __name__ == "__main__":
    main()
