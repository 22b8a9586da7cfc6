"""argv and exit codes: 0 done, 1 a bug, 2 bad input (one line), 130 and 143 on signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from iifdet.errors import InputError, counted, suggest

#: What each verb does, and a command of it.
VERBS = {
    "train": ("train a model, validate it each epoch", "iifdet train model=yolov3-nano data=demo adjust=iif"),
    "val": ("evaluate a checkpoint, or a results file", "iifdet val weights=runs/train/x/weights/last.pt"),
    "predict": ("detect in images, videos, a camera", "iifdet predict weights=last.pt source=photos"),
    "tune": ("search keys by trials", "iifdet tune space=optimizer data=demo trials=30"),
    "cam": ("what a score rests on, as pictures", "iifdet cam weights=a.pt,b.pt source=photo.jpg"),
    "export": ("a graph that runs without iifdet (ONNX, .pt2)", "iifdet export weights=last.pt format=onnx"),
    "stats": ("class counts, imbalance and weight curves", "iifdet stats data=demo"),
    "check": ("everything wrong in a data set", "iifdet check data=demo"),
    "compare": ("runs side by side, with the tail", "iifdet compare runs/train/a runs/train/b"),
}
#: What is left after Ctrl-C, where it is not a run to resume.
INTERRUPTED = {
    "predict": "what was found so far is kept",
    "tune": "trials that ran are back in the queue; the same command with study=<its name> goes on",
}
#: Verbs whose work several processes share.
SHARED = ("train", "val")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in words
    words = [w for w in words if w != "--traceback"]
    try:
        with _obeying_sigterm():
            return _run(words)
    except InputError as error:
        if traceback:
            raise
        _say(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        _say(f"interrupted; {INTERRUPTED.get(words[0], 'resume=<run folder> goes on from the last checkpoint')}")
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if traceback:
            raise
        _say(f"{type(error).__name__}: {error} (--traceback shows where)")
        return 1


@contextlib.contextmanager
def _obeying_sigterm() -> Iterator[None]:
    """SIGTERM ends any verb as Ctrl-C does, so that it ends its own processes; left alone, Python ends without a word.

    ``train`` catches it itself, and saves.
    """
    try:
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    except ValueError:  # signals can only be caught in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _rank() -> int:
    """Number of this process, where a launcher such as torchrun has started several; 0 alone."""
    return int(os.environ.get("RANK", 0)) if _processes() > 1 else 0


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _say(line: str) -> None:
    print(f"iifdet: {f'[process {_rank()}] ' if _rank() else ''}{line}", file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        from iifdet import __version__

        print(__version__)
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise InputError(f"verb: expected train, val or another one, got '{verb}'{suggest(verb, VERBS)}")
    if any(word in ("-h", "--help") for word in rest):
        print(_verb_help(verb, [word for word in rest if word not in ("-h", "--help")]))
        return 0
    keys = _keys_of(verb, rest)
    from iifdet import api

    _set_up_logging(bool(keys.get("verbose", True)))
    result = api.VERBS[verb](**keys)
    return 0 if _rank() else _SHOWN[verb](result, keys)


def _keys_of(verb: str, words: list[str]) -> dict[str, Any]:
    """The keys of a call; names alone, and without torch: a typo and --help are answered at once."""
    from iifdet.config import CONFIGS

    if verb not in SHARED and _processes() > 1:
        raise InputError(f"{verb}: expected one process, got {_processes()}; torchrun is for {' and '.join(SHARED)}")
    keys, plain = parse(words)
    if plain and verb != "compare":
        raise InputError(f"arguments: expected key=value, got '{plain[0]}'")
    known = CONFIGS[verb].model_fields
    for key in keys:
        if key.partition(".")[0] not in known:
            raise InputError(f"{key}: unknown key{suggest(key, known)}")
    if verb == "compare":
        named = keys.get("runs", [])
        keys["runs"] = [*plain, *(named if isinstance(named, list) else [named])]
    return keys


def parse(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """``key=value``, ``--key=value`` and ``--key value`` to a dictionary, and the words that are neither.

    ``--verbose`` may stand alone, as users of other programs write it.

    Raises:
        InputError: a key given twice, or ``--key`` at the end without a value.
    """
    from iifdet.config import parse_value

    keys: dict[str, Any] = {}
    plain, queue = [], list(words)
    while queue:
        word = queue.pop(0)
        key, equals, value = word.partition("=")
        if word.startswith("--"):
            key = key[2:].replace("-", "_")
            if not equals and key == "verbose" and (not queue or queue[0].startswith("--") or "=" in queue[0]):
                value = "true"
            elif not equals:
                if not queue or queue[0].startswith("--"):
                    raise InputError(f"--{key}: expected a value after it, got none; write {key}=value")
                value = queue.pop(0)
        elif not equals:
            plain.append(word)
            continue
        if key in keys:
            raise InputError(f"{key}: expected it once, got it twice")
        keys[key] = parse_value(value)
    return keys, plain


def _set_up_logging(verbose: bool) -> None:
    log = logging.getLogger("iifdet")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s" if not _rank() else f"[process {_rank()}] %(message)s"))
        if _rank():
            handler.addFilter(_own_matter)
        log.addHandler(handler)
        log.propagate = False


def _own_matter(record: logging.LogRecord) -> bool:
    """What the first process cannot say: errors, and what the images of another one's share are like."""
    return record.levelno >= logging.ERROR or (record.levelno >= logging.WARNING and record.module == "loader")


def _help() -> str:
    verbs = "\n".join(f"  {name:<9}{text:<47}{example}" for name, (text, example) in VERBS.items())
    return (
        "iifdet: object detection on class-imbalanced data with Inverse Image Frequency\n\n"
        f"usage: iifdet VERB key=value …     (--key value works too)\n\n{verbs}\n\n"
        "iifdet VERB --help lists the keys of a verb. --traceback shows the stack of an error."
    )


def _verb_help(verb: str, words: Sequence[str]) -> str:
    """The keys of a verb, with the values that they have beside ``words``, such as a recipe's."""
    import shutil

    from iifdet.config import CONFIGS, describe_keys, values_of

    keys, _ = parse(words)
    values = values_of(verb, keys) if keys else None
    text, example = VERBS[verb]
    having = "the values that they have here" if keys else "their defaults"
    if not keys and verb in ("train", "tune"):
        having += f"; iifdet {verb} model=<name in cfg/> --help shows a recipe's"
    listed = describe_keys(CONFIGS[verb], values, width=shutil.get_terminal_size((100, 24)).columns)
    return f"iifdet {verb}: {text}\n\n  {example}\n\nKeys and {having}.\n\n{listed}"


def _show_metrics(result: Any, keys: dict[str, Any]) -> int:
    from iifdet.figures import describe_figures

    if result.summary:
        print(describe_figures(result.summary))
    print(f"pictures and tables: {result.folder}")
    return 0


def _show_predictions(summary: Any, keys: dict[str, Any]) -> int:
    print(summary.describe())
    if summary.folder is not None:
        print(f"pictures and tables: {summary.folder}")
    return 0


def _show_stats(result: Any, keys: dict[str, Any]) -> int:
    from rich.console import Console

    from iifdet.tables import Table

    counts, rows = result.counts, result.table()
    header = ["#", *list(rows[0])[1:]]  # 80 columns hold all variants of names that are not long
    cells = [[format(v, ".2f") if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    console = Console()
    caption = f"{counted(len(counts), 'class', 'classes')}, {counted(counts.num_images, 'image')}"
    Table(caption, header, cells, text_columns=2).print(console)
    orders = ("image",) if counts.alike else ("image", "instance")
    factors = ", ".join(f"{counts.imbalance(by):.1f} by {by}" for by in orders)
    console.print(f"imbalance factor: {factors}")
    reasons: dict[str, list[str]] = {}
    for variant, reason in result.undefined.items():  # most often the same: a class without an image
        reasons.setdefault(reason.replace(f"variant={variant}", "their formula"), []).append(variant)
    for reason, variants in reasons.items():
        console.print(f"{', '.join(variants)}: undefined here: {reason}")
    console.print(f"pictures and tables: {result.folder}")
    return 0


def _show_check(report: Any, keys: dict[str, Any]) -> int:
    from iifdet.config import CheckConfig

    report.print(limit=None if keys.get("verbose") else int(keys.get("limit", CheckConfig().limit)))
    return 2 if report.errors else 0


def _show_study(result: Any, keys: dict[str, Any]) -> int:
    result.print()
    return 0 if result.succeeded else 1


def _show_export(result: Any, keys: dict[str, Any]) -> int:
    print(result.describe())
    return 0


def _show_itself(result: Any, keys: dict[str, Any]) -> int:
    result.print()
    return 0


#: Verb -> (result, keys) -> exit code; prints what came of it.
_SHOWN: dict[str, Callable[[Any, dict[str, Any]], int]] = {
    "train": _show_metrics,
    "val": _show_metrics,
    "predict": _show_predictions,
    "tune": _show_study,
    "cam": _show_itself,
    "export": _show_export,
    "stats": _show_stats,
    "check": _show_check,
    "compare": _show_itself,
}
