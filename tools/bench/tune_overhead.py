"""What a study costs beside its trainings: seconds a trial for storage, process, reports and pictures.

python tools/bench/tune_overhead.py

The same small training is run N times alone, one after another in one process that has everything loaded, and N times
as the trials of a study; the difference, per trial, is the study's, with its pictures. The start of the fork server,
once a call of ``tune``, is given beside it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write

import iifdet
from iifdet.tuning import fork_server

SPACE = "lr: {type: float, low: 0.001, high: 0.003}\nmomentum: {low: 0.8, high: 0.9}\nhsv_h: {low: 0.0, high: 0.1}\n"


def main() -> None:
    args = arguments(__doc__, trials=20, epochs=2, imgsz=64, fraction=0.1)
    base: dict[str, Any] = {"model": "yolov3-nano", "data": "demo", "imgsz": args.imgsz, "epochs": args.epochs}
    base |= {"fraction": args.fraction, "val_every": 1, "verbose": False, "model_args.width": 0.0625}
    with tempfile.TemporaryDirectory() as folder:
        place = {"project": folder}
        alone = {**base, **place, "plots": False, "holdout": 0.1}
        iifdet.train(**alone, name="first")  # caches are warm afterwards, and so are imports
        singles = [timed(iifdet.train, **alone, name=f"alone-{i}") for i in range(args.trials)]
        (Path(folder) / "space.yaml").write_text(SPACE)
        server = timed(start_server)
        study = {**base, **place, "space": f"{folder}/space.yaml", "study": "s", "pruner": "none", "threads": 1}
        trials = timed(iifdet.tune, **study, trials=args.trials, plots=False)
        pictures = timed(iifdet.tune, **study, trials=args.trials)  # nothing else is left to do
    single = statistics.median(singles)
    content = {
        "trials": args.trials,
        "seconds": {
            "one training alone, median": round(single, 3),
            "trainings alone": round(sum(singles), 2),
            "study": round(trials, 2),
            "pictures and page, once": round(pictures, 2),
            "start of the fork server, once": round(server, 2),
        },
        "overhead a trial, seconds": round((trials + pictures - sum(singles)) / args.trials, 3),
    }
    write("tune_overhead", args.out, content)


def timed(work: Any, **keys: Any) -> float:
    """Seconds that ``work(**keys)`` takes."""
    began = time.perf_counter()
    work(**keys)
    return time.perf_counter() - began


def start_server() -> None:
    """Start it, and wait until it has imported everything: until its first child has ended."""
    from iifdet.build.tuning import PRELOAD

    child = fork_server(PRELOAD).Process(target=len, args=((),))
    child.start()
    child.join()


if __name__ == "__main__":
    main()
