"""Pictures of classification: what stands under an image, and calibration by frequency group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from iifdet.plots.boxes import FONT, Colour
from iifdet.plots.curves import draw_reliability
from iifdet.plots.figure import as_array, new_figure, number, save, say_nothing_to_show, tidy

#: Of a caption: right, wrong, and what is neither.
RIGHT: Colour = (0, 120, 80)
WRONG: Colour = (190, 60, 0)
NEUTRAL: Colour = (40, 40, 40)


def add_caption(image: np.ndarray, lines: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """Lines of text on white below a copy of an (H, W, 3) uint8 image; each as large as fits its width."""
    width = image.shape[1]
    height = max(18, round(width / 32))
    strip = np.full((height * len(lines) + 4, width, 3), 255, np.uint8)
    for row, (text, colour) in enumerate(lines):
        scale = height / 34
        (long, _), _ = cv2.getTextSize(text, FONT, scale, 1)
        scale *= min(1.0, (width - 4) / max(long, 1))
        at = (2, (row + 1) * height - height // 4)
        cv2.putText(strip, text, at, FONT, scale, colour, 1, cv2.LINE_AA)
    return np.concatenate([np.ascontiguousarray(image), strip])


def plot_group_reliability(groups: Mapping[str, Any], path: str | Path) -> None:
    """Accuracy of each confidence bin against its mean confidence, a column for each group of images.

    Args:
        groups: name -> Reliability (``confidence``, ``precision``, ``count``, ``ece``).
        path: the picture.
    """
    figure = new_figure(max(6.5, 3.6 * len(groups)), 6)
    columns = max(len(groups), 1)
    panels = figure.subplots(2, columns, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for (name, r), upper, lower in zip(groups.items(), panels[0], panels[1], strict=False):
        n = as_array(r.count)
        tidy(upper, title=f"{name}: ECE {number(100 * r.ece, 1)} %, {int(np.nansum(n)):,} images", grid="both")
        tidy(lower, xlabel="confidence")
        upper.set(xlim=(0, 1), ylim=(0, 1))
        upper.plot([0, 1], [0, 1], "--", color="#666666", label="perfectly calibrated")
        if np.nansum(n) > 0:
            draw_reliability(upper, lower, as_array(r.confidence), as_array(r.precision), n, "accuracy")
        else:
            say_nothing_to_show(upper, "no images")
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images (log)")
    if not groups:
        say_nothing_to_show(panels[0, 0], "no images")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save(figure, path)
