"""What a prediction leaves behind: pictures, videos, COCO JSON, YOLO text, CSV, written as results come."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import yaml

from iifdet.errors import InputError
from iifdet.files import atomic_write
from iifdet.prediction.results import MaskFormat, Result
from iifdet.prediction.shown import Shown
from iifdet.prediction.videos import VideoFile
from iifdet.rundir import RunDir

#: Where things go inside the run folder.
PICTURES, LABELS, JSON, CSV = "pictures", "labels", "predictions.json", "predictions.csv"
COLUMNS = ("path", "frame", "class", "name", "score", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Outputs:
    """Which files are written.

    Attributes:
        save: annotated pictures and videos.
        save_json: predictions.json, a COCO data set whose annotations have scores.
        save_txt: YOLO text labels, one file a picture, empty where nothing was found.
        save_conf: the score at the end of those lines.
        save_csv: predictions.csv, one row a detection.
        mask_format: of masks in predictions.json.
    """

    save: bool = True
    save_json: bool = True
    save_txt: bool = False
    save_conf: bool = False
    save_csv: bool = False
    mask_format: MaskFormat = "rle"

    def __bool__(self) -> bool:
        return self.save or self.save_json or self.save_txt or self.save_csv


class Writer:
    """Takes results in order; the files have their names once :meth:`close` was called.

    Files of two sources with one name get ``x`` and ``x-2``; the images in predictions.json say which is whose.
    """

    #: Of predictions.csv.
    columns: tuple[str, ...] = COLUMNS

    def __init__(self, run: RunDir, names: Sequence[str], outputs: Outputs) -> None:
        self.run, self.outputs = run, outputs
        self._open_files = contextlib.ExitStack()
        self._stems: set[str] = set()
        self._stem, self._source = "", -1
        self._video: VideoFile | None = None
        self._lock = self._open_files.enter_context(run.lock())
        self._json = self._csv = None
        if outputs.save_json:
            file = self._open_files.enter_context(atomic_write(run.path / JSON))
            self._json = self.open_json(file, names)
            self._open_files.callback(self._json.close)
        if outputs.save_csv:
            self._csv = self._open_files.enter_context(atomic_write(run.path / CSV))
            self._write_row(self.columns)

    # -- of detections -------------------------------------------------------------------------------------------------

    def open_json(self, file: IO[bytes], names: Sequence[str]) -> JsonStream:
        """predictions.json."""
        return CocoStream(file, names, self.outputs.mask_format)

    def lines(self, result: Any) -> list[str]:
        """Of the text file of a result."""
        return result.to_yolo(self.outputs.save_conf)

    def rows(self, result: Any) -> Iterator[Sequence[Any]]:
        """Of a result in predictions.csv, behind its path and frame."""
        found = zip(result.labels.tolist(), result.classes, result.scores.tolist(), result.boxes.tolist(), strict=True)
        for label, name, score, box in found:
            yield label, name, f"{score:.6f}", *(f"{v:.2f}" for v in box)

    # -- shared --------------------------------------------------------------------------------------------------------

    def add(self, result: Any) -> None:
        """Write everything about one result, and note the annotated picture in it."""
        if result.source != self._source:
            self._end_video()
            self._source, self._stem = result.source, self._unique(result.stem)
        if self.outputs.save:
            result.saved = self._draw(result)
        if self._json is not None:
            self._json.add(result, self.run.path)
        if self._csv is not None:
            frame = "" if result.frame is None else result.frame
            for row in self.rows(result):
                self._write_row([result.path, frame, *row])
        if self.outputs.save_txt:
            number = "" if result.frame is None else f"_{result.frame:06d}"
            lines = self.lines(result)
            with atomic_write(self.run.path / LABELS / f"{self._stem}{number}.txt", sync=False) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        """Finish all files, with what was found so far where a run was interrupted."""
        self._end_video()
        self._open_files.close()

    def _unique(self, stem: str) -> str:
        """The stem, or with a number behind it; capitals do not tell files apart on every system."""
        for number in range(1, len(self._stems) + 2):
            name = stem if number == 1 else f"{stem}-{number}"
            if name.lower() not in self._stems:
                break
        self._stems.add(name.lower())
        return name

    def _draw(self, result: Shown) -> Path | None:
        place = self.run.path / PICTURES / self._stem
        if result.frame is None:
            return result.save(place.with_name(place.name + ".jpg"))
        if self._video is None:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._video = VideoFile(place, result.fps, result.size)
        self._video.write(result.plot())
        return self._video.path

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = None

    def _write_row(self, values: Sequence[Any]) -> None:
        assert self._csv is not None
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self._csv.write(line.getvalue().encode(errors="surrogateescape"))  # file names need not be UTF-8


class JsonStream(Protocol):
    """A predictions.json that grows."""

    def add(self, result: Any, folder: Path) -> None: ...
    def close(self) -> None: ...


class CocoStream:
    """A COCO file that grows: annotations go straight into it, images beside it until the end."""

    def __init__(self, file: IO[bytes], names: Sequence[str], mask_format: MaskFormat) -> None:
        self.file, self.names, self.mask_format = file, names, mask_format
        self.images: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self.number = self.annotation = 0
        file.write(b'{"annotations": [')

    def add(self, result: Result, folder: Path) -> None:
        """Append one image, numbered from 1, and its detections."""
        self.number += 1
        append(self.images, {"id": self.number, **about_image(result, folder)}, first=self.number == 1)
        for row, area in zip(result.to_coco(self.number, self.mask_format), result.areas(), strict=True):
            self.annotation += 1
            row = {"id": self.annotation, **row, "area": area, "iscrowd": 0}
            append(self.file, row, first=self.annotation == 1)

    def close(self) -> None:
        """Write what follows the annotations."""
        self.file.write(b'],\n"images": [')
        self.images.seek(0)
        shutil.copyfileobj(self.images, self.file)
        self.images.close()
        categories = [{"id": label, "name": name} for label, name in enumerate(self.names)]
        self.file.write(b'],\n"categories": ' + json.dumps(categories).encode() + b"}\n")


def about_image(result: Shown, folder: Path) -> dict[str, Any]:
    """What predictions.json says of a picture."""
    height, width = result.size
    image: dict[str, Any] = {"file_name": result.path, "width": width, "height": height}
    if result.frame is not None:
        image["frame"] = result.frame
    if result.saved is not None:
        image["picture"] = result.saved.relative_to(folder).as_posix()
    return image


def append(file: IO[bytes], row: dict[str, Any], first: bool) -> None:
    """One more object of a list that is written as it grows."""
    file.write((b"\n" if first else b",\n") + json.dumps(row, allow_nan=False).encode())


def make_folder(project: str | None, name: str | None, exist_ok: bool, sources: Iterable[str] = ()) -> RunDir:
    """A run folder; with ``exist_ok`` an empty one or an earlier prediction's, of which nothing is left.

    Args:
        sources: files that are being looked at and must not be touched.

    Raises:
        InputError: it holds something else, which would be mixed with the outputs or lost under them.
    """
    run = RunDir.create("predict", project, name, exist_ok)
    there = [file for file in run.path.iterdir() if file.name != ".lock"]
    if not there:
        return run
    if not _is_prediction(run.path / "args.yaml"):
        raise InputError(
            f"exist_ok: expected an empty folder or an earlier prediction's, got {run.path} with {there[0].name} "
            "in it; choose another name"
        )
    here = run.path.resolve()
    inside = next((file for file in sources if here in Path(file).resolve().parents), None)
    if inside is not None:
        raise InputError(f"exist_ok: expected sources outside {run.path}, got {inside}; choose another name")
    with run.lock():
        for folder in (PICTURES, LABELS):
            shutil.rmtree(run.path / folder, ignore_errors=True)
        for file in (JSON, CSV):
            (run.path / file).unlink(missing_ok=True)
    return run


def _is_prediction(args: Path) -> bool:
    try:
        content = yaml.safe_load(args.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and {"source", "mask_format", "frame_stride"} <= set(content)
