"""Indexing COCO- and LVIS-sized annotations, cold and from the cache, against the json module and hotcoco's reader.

    python tools/bench/index.py              COCO (118,287 images, 860,001 boxes) and LVIS (100,170; 1,270,141)
    python tools/bench/index.py --share 0.01 --repeats 1

Each reading runs in a process of its own: seconds without the imports, and the largest resident memory, imports
included. The readings take turns, and the files lie in the page cache for all of them alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write
from synthetic import load_counts, write_coco

ORACLE = Path(os.environ.get("IIFDET_DATA_DIR", "unset")).parent / "oracle"
#: kind -> counts, mean points of an outline
KINDS = {"coco": ("coco_train2017_counts.json", 24), "lvis": ("lvis_v1_train_counts.json", 44)}

_REPORT = """
import json, resource, sys, time

def peak():
    # getrusage also counts what the starting process had before this one took its place; the status file does not.
    try:
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return int(status["VmHWM"].split()[0]) / 1e3 * 1.024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)

file, images, kind = sys.argv[1:]
{imports}
base = peak()
start, cpu = time.perf_counter(), time.process_time()
{work}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps(dict(seconds=seconds, cpu_seconds=cpu, peak_mb=peak(), import_mb=base)))
"""
_LOAD = (
    "index = load_index({{'format': kind, 'train': {{'images': images, 'annotations': file}}}}, cache_index={cache})"
)
_IIFDET = "from iifdet.datasets import load_index"
#: reading -> imports, work; the cache is filled by the run before the first of its turns.
READINGS = {
    "json.loads alone": ("", "document = json.loads(open(file, 'rb').read())"),
    "hotcoco": ("import hotcoco", "document = hotcoco.COCO(file)"),
    "iifdet, cold": (_IIFDET, _LOAD.format(cache=False)),
    "iifdet, cold and kept": (_IIFDET, _LOAD.format(cache=True)),
    "iifdet, from the cache": (_IIFDET, _LOAD.format(cache=True)),
}


def main() -> None:
    args = arguments(__doc__, share=1.0, repeats=3, kinds="coco,lvis", folder="")
    content: dict[str, Any] = {"share": args.share, "repeats": args.repeats}
    with tempfile.TemporaryDirectory(dir=args.folder or None) as scratch:
        for kind in args.kinds.split(","):
            content[kind] = _measure(Path(scratch) / kind, kind, args.share, args.repeats)
    write("index", args.out, content)


def _measure(folder: Path, kind: str, share: float, repeats: int) -> dict[str, Any]:
    name, points = KINDS[kind]
    if not (ORACLE / name).is_file():
        sys.exit(f"counts: expected {ORACLE / name}, which does not exist; set IIFDET_DATA_DIR")
    counts = load_counts(ORACLE / name, share)
    file = write_coco(folder, counts, points=points, lvis=kind == "lvis")
    cache = folder / "cache"
    rows: dict[str, list[dict[str, float]]] = {reading: [] for reading in READINGS}
    for _ in range(repeats):
        for kept in cache.rglob("*.npz"):
            kept.unlink()
        for reading in READINGS:
            rows[reading].append(_run(reading, [str(file), str(folder / "images"), kind], cache))
    size = {"images": counts["num_images"], "boxes": sum(counts["instance_count"]), "mb": file.stat().st_size / 1e6}
    size["cache_mb"] = sum(kept.stat().st_size for kept in cache.rglob("*.npz")) / 1e6
    return {"file": size, "readings": {reading: _medians(runs) for reading, runs in rows.items()}}


def _run(reading: str, arguments: list[str], cache: Path) -> dict[str, float]:
    imports, work = READINGS[reading]
    code = _REPORT.format(imports=imports, work=work)
    environment = os.environ | {"IIFDET_CACHE_DIR": str(cache), "NO_ALBUMENTATIONS_UPDATE": "1"}
    os.sync()  # what the reading before wrote is not this one's to wait for
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{reading}: {done.stderr.strip()[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{Path(arguments[0]).parent.name}, {reading}: {found['seconds']:.2f} s, {found['peak_mb']:.0f} MB", flush=True
    )
    return found


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


if __name__ == "__main__":
    main()
