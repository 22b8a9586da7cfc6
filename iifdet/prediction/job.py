"""One prediction from its sources to its files."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iifdet.errors import InputError, counted, some
from iifdet.prediction.output import Outputs, Writer, make_folder
from iifdet.prediction.predictor import Predictor
from iifdet.prediction.shown import Shown
from iifdet.prediction.sources import Entry, is_endless, read_source

log = logging.getLogger("iifdet")


@dataclass
class PredictionSummary:
    """What a prediction came to.

    Attributes:
        folder: the run folder, None where nothing was written.
        images: pictures and frames that were looked at.
        classes: class name -> detections, or images of it.
        unit: what is counted.
        unreadable: paths of what could not be read.
    """

    folder: Path | None = None
    images: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    unit: str = "detections"

    def describe(self) -> str:
        """One line: ``3 images, 5 detections (4 car, 1 bus)``, or ``3 images (2 cat, 1 dog)``."""
        named = some((f"{count} {name}" for name, count in self.classes.most_common()), 8)
        classes = f" ({named})" if named else ""
        found = f", {counted(self.classes.total(), self.unit.removesuffix('s'))}" if self.unit != "images" else ""
        return f"{counted(self.images, 'image')}{found}{classes}"


@dataclass
class PredictionJob:
    """Everything that a prediction needs, checked; :meth:`stream`, :meth:`collect` or :meth:`run` does it.

    Attributes:
        entries: what to look at.
        predictor: the model and how it looks.
        outputs: what to write.
        place: ``project``, ``name`` and ``exist_ok`` of the run folder.
        args: keys for its args.yaml.
        stride, most: of videos' frames, as in :func:`.sources.read_source`.
        writer: writes the files.
    """

    entries: list[Entry]
    predictor: Predictor
    outputs: Outputs
    place: dict[str, Any]
    args: dict[str, Any]
    stride: int = 1
    most: int = 0
    summary: PredictionSummary = field(default_factory=PredictionSummary)
    writer: type[Writer] = Writer

    def stream(self) -> Iterator[Any]:
        """Results one by one; files are written as they come, and finished when the stream ends or is closed.

        Raises:
            InputError: nothing could be read.
        """
        writer: Writer | None = None
        self.summary.unreadable = self.predictor.unreadable
        items = read_source(self.entries, self.stride, self.most)
        try:
            for result in self.predictor(items):
                if writer is None and self.outputs:  # the folder is made once there is something to put into it
                    writer = self._open()
                if writer is not None:
                    writer.add(result)
                self.summary.images += 1
                self.summary.classes.update(result.found)
                log.info("%s", result.describe())
                yield result
                del result  # so that its pixels are gone before the next batch is read
        finally:
            if writer is not None:
                writer.close()
        self._end()

    def collect(self) -> list[Any]:
        """All results; the pixels of files and videos are not kept, as there may be any number of them.

        Raises:
            InputError: nothing could be read; a camera, which has no end.
        """
        if is_endless(self.entries) and not self.most:
            raise InputError("source: a camera has no end; use stream=True, or give max_frames")
        return [self._light(result) for result in self.stream()]

    def run(self) -> PredictionSummary:
        """Write the files and keep nothing else.

        Raises:
            InputError: nothing could be read.
        """
        deque(self.stream(), maxlen=0)
        return self.summary

    def _light(self, result: Shown) -> Shown:
        kept = result.frame is None and not self.entries[result.source].is_file
        return result if kept else result.without_pixels()

    def _open(self) -> Writer:
        files = (entry.value for entry in self.entries if entry.is_file)
        run = make_folder(**self.place, sources=files)
        run.write_yaml("args.yaml", self.args)
        run.write_environment()
        self.summary.folder = run.path
        return self.writer(run, self.predictor.model.names, self.outputs)  # type: ignore[arg-type]

    def _end(self) -> None:
        bad = self.summary.unreadable
        if not self.summary.images:
            raise InputError(f"source: expected readable images, got none in {len(bad)} ({some(bad, 1)})")
        if bad:
            log.warning("%d of %d could not be read", len(bad), len(bad) + self.summary.images)
