"""What all charts share: a figure without global state, colours, a tidy axis, an atomic save."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart by colour-blind readers as well.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY, BLACK = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#8C8C8C",
    "#000000",
)
LINE_STYLES = ("-", "--", "-.", ":")

#: Up to this many classes an axis shows every name; above, ranks.
MAX_NAMES = 60
#: Fonts with Chinese, Japanese and Korean letters, one of which most systems have.
FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Source Han Sans", "WenQuanYi Zen Hei", "IPAGothic"),
    *("Droid Sans Fallback", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Hiragino Sans", "PingFang SC"),
    *("Apple SD Gothic Neo", "Arial Unicode MS"),
)
DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches. pyplot is not involved: no window, no state, safe in threads."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def tidy(ax: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: str = "y") -> None:
    """Titles on the left, no box around the data, a faint grid behind it (``"x"``, ``"y"``, ``"both"`` or ``""``)."""
    ax.set_title(title, loc="left", fontsize=11, wrap=True)  # run names may be long
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color="#DDDDDD", linewidth=0.7)  # type: ignore[arg-type]


def name_classes(ax: Axes, names: Sequence[str]) -> None:
    """Write one class name under each position 0…C-1."""
    ax.set_xticks(range(len(names)), [shorten(name) for name in names], rotation=90, fontsize=8)


def say_nothing_to_show(ax: Axes, why: str) -> None:
    """A sentence in place of an empty chart."""
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="#666666")


def shorten(name: str, length: int = 24) -> str:
    """Cut a long name in the middle: both ends of ``traffic_light_red_arrow`` tell something."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def number(value: float, digits: int = 3) -> str:
    """A figure for a title; a dash where there is none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def as_array(values: Any) -> np.ndarray:
    """A tensor, array or list as a float64 array."""
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def mean_of_finite(values: np.ndarray) -> float:
    """Mean over what is finite; NaN, without a warning, where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix of the path names the format."""
    kind = Path(path).suffix.lstrip(".") or "png"
    lend_fonts(figure)
    with warnings.catch_warnings():  # one for each letter that no font has
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        write_atomically(path, lambda file: figure.savefig(file, format=kind, facecolor="white"))


def lend_fonts(figure: Figure) -> None:
    """Let texts beyond ASCII, such as names of classes, take what matplotlib's own font lacks from FONTS."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_fontfamily([*text.get_fontfamily(), *_installed_fonts()])


@cache
def _installed_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    known = set(fontManager.get_font_names())
    return tuple(name for name in FONTS if name in known)


def write_atomically(path: str | Path, write: Callable[[Any], object]) -> None:
    """Let ``write`` fill a file beside the path and then put it in its place: readers never see half a picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
