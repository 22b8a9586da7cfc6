"""Sheets and maps of many images: several models on each, one file of each kind an image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iifdet.errors import InputError
from iifdet.explaining.choosing import Choice
from iifdet.explaining.curves import curve_arrays
from iifdet.explaining.explanation import explain
from iifdet.explaining.geometry import View
from iifdet.explaining.sheet import draw_sheet
from iifdet.files import atomic_write, write_image
from iifdet.longtail import AdjustedModel

log = logging.getLogger("iifdet")

#: An original image (H, W, 3) -> its tensor (3, h, w) on the device, and its View but for the layout.
Prepare = Callable[[str, NDArray[np.uint8]], tuple[Tensor, View]]


@dataclass(frozen=True)
class CamColumn:
    """One model of a sheet.

    Attributes:
        title: what the sheet calls it.
        model: in eval mode, on its device.
        prepare: how it is used to seeing images.
    """

    title: str
    model: AdjustedModel
    prepare: Prepare


@dataclass(frozen=True)
class CamTask:
    """One image to explain.

    Attributes:
        file: the image.
        read: gives its pixels (H, W, 3), or raises an OSError.
        choose: the choice for a view of it; of a classifier the class, or None.
    """

    file: str
    read: Callable[[], NDArray[np.uint8]]
    choose: Callable[[View], Choice | int | None]


@dataclass(frozen=True)
class CamSheet:
    """What was written for one image.

    Attributes:
        file: the image.
        picture: the sheet.
        maps: the .npz file; M models by row.
        lines: for each model what is explained, or why nothing is.
        explained: for each model whether there was anything.
    """

    file: str
    picture: Path | None
    maps: Path
    lines: list[str]
    explained: list[bool]

    def load(self) -> dict[str, NDArray[Any]]:
        """The content of ``maps``: (M, H, W) ``confidence``, ``class_map``, ``class_score``, ``cam``; (M, 4) ``box``;
        (M,) ``label``, ``class_name``, ``score``, ``row``, ``scalar``, ``value``, ``layer``, ``method``, ``note``,
        ``model``; ``image``, the file. With S steps of curves (M, S + 1) ``deletion``, ``insertion``,
        ``chance_deletion`` and ``chance_insertion``: scores after each step, which all move as many pixels.
        Of classifiers ``cam``, ``label`` … ``model`` without ``row`` and ``note``, and
        (M, K) ``best`` and ``best_scores``.
        """
        with np.load(self.maps, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}

    def plot(self) -> NDArray[np.uint8]:
        """The sheet as (H, W, 3) uint8 RGB.

        Raises:
            InputError: it was not drawn.
        """
        if self.picture is None:
            raise InputError("plots: expected true where a sheet is to be looked at, got false; the maps are in load()")
        pixels = cv2.imread(str(self.picture))
        assert pixels is not None, "the job wrote it"
        return np.ascontiguousarray(pixels[..., ::-1], np.uint8)

    def save(self, path: str | Path) -> Path:
        """Write :meth:`plot` as a picture; the suffix names the format.

        Raises:
            InputError: as :meth:`plot`; an unknown suffix.
        """
        return write_image(path, self.plot())

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO result dicts of what was explained, one a model that had something to explain.

        A classifier's have no box, and give none. Each has ``image_id``, ``category_id`` (the label, from 0), ``bbox``
        (xywh), ``score`` and ``model``, its title.
        """
        maps = self.load()
        if "box" not in maps:
            return []
        columns = (maps[name].tolist() for name in ("label", "box", "score", "model"))
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                "model": model,
            }
            for label, (x1, y1, x2, y2), score, model in zip(*columns, strict=True)
            if label >= 0
        ]


@dataclass(frozen=True)
class CamResult:
    """What ``cam`` returns: the folder and a CamSheet an image."""

    folder: Path
    sheets: list[CamSheet]

    def print(self) -> None:
        """Say what was explained, image by image."""
        for sheet in self.sheets:
            for line in sheet.lines:
                print(f"{sheet.file}: {line}")
        print(f"sheets and maps: {self.folder}")


@dataclass(frozen=True)
class CamJob:
    """Everything that a run needs.

    Attributes:
        columns: one a model.
        tasks: one an image.
        options: keywords of ``explain``.
        plots: write sheets; the maps are always written.
        explain: explains an image, and ``draw`` writes its sheet; those of the models' task.
    """

    columns: Sequence[CamColumn]
    tasks: Sequence[CamTask]
    options: dict[str, Any]
    plots: bool = True
    explain: Callable[..., Any] = explain
    draw: Callable[..., None] = draw_sheet

    def explanations(self) -> Iterator[tuple[CamTask, NDArray[np.uint8], list[Any]]]:
        """Image by image, what each model makes of it; an image that cannot be read is logged and left out."""
        for task in self.tasks:
            try:
                image = task.read()
            except OSError as error:
                log.warning("left out: %s", error)
                continue
            yield task, image, [self._explain(column, task, image) for column in self.columns]

    def _explain(self, column: CamColumn, task: CamTask, image: NDArray[np.uint8]) -> Any:
        tensor, view = column.prepare(task.file, image)
        return self.explain(column.model, tensor, view, task.choose(view), **self.options)

    def run(self, make_folder: Callable[[], Path]) -> CamResult:
        """Write ``<image>.png`` and ``<image>.npz`` for each image into a folder, made once there is one to write.

        Raises:
            InputError: not one image can be read; the score does not depend on the layer; a cell outside an image.
        """
        sheets: list[CamSheet] = []
        titles, taken = [column.title for column in self.columns], set[str]()
        folder: Path | None = None
        for task, image, found in self.explanations():
            folder = make_folder() if folder is None else folder
            stem = free_name(Path(task.file).stem, taken)
            maps, picture = folder / f"{stem}.npz", folder / f"{stem}.png" if self.plots else None
            save_maps(maps, task.file, titles, found, self.options.get("curve_steps", 0))
            if picture is not None:
                self.draw(image, found, titles, picture)
            sheets.append(
                CamSheet(
                    task.file,
                    picture,
                    maps,
                    [f"{title}: {seen.line}" for title, seen in zip(titles, found, strict=True)],
                    [seen.chosen is not None for seen in found],
                )
            )
        if folder is None:
            raise InputError(f"source: expected images that can be read, got {len(self.tasks)} of which not one can be")
        return CamResult(folder, sheets)


def free_name(stem: str, taken: set[str]) -> str:
    """A name that no earlier image of the run has: x, x-2, …; folders may hold images of one name."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name


def save_maps(path: Path, file: str, titles: Sequence[str], found: Sequence[Any], curve_steps: int = 0) -> None:
    """Write the maps of one image, M models by row; see :meth:`CamSheet.load`."""
    rows = [seen.arrays() | (curve_arrays(seen.curves, curve_steps) if curve_steps else {}) for seen in found]
    content: dict[str, Any] = {"image": np.array(file), "model": np.array(titles)}
    content |= {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    with atomic_write(path, sync=False) as target:
        np.savez_compressed(target, **content)
