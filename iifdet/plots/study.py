"""Pictures of a study, by Optuna's matplotlib backend."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iifdet.plots.figure import save

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger("iifdet")


def plot_study(study: Study, folder: Path, objectives: Sequence[str]) -> list[Path]:
    """Draw history, importance, slices and parallel coordinates of each objective, and the Pareto front of several.

    A picture that the trials do not suffice for is left out with a log line.

    Args:
        study: with at least one complete trial.
        folder: where history.png, importance.png, slice.png, parallel.png and pareto.png go; with several objectives
            ``-2``, ``-3``, … is added from the second on.
        objectives: their names.

    Returns:
        The files, in this order.
    """
    import matplotlib
    from optuna.visualization import matplotlib as draw

    kinds: dict[str, Callable[..., Any]] = {
        "history": draw.plot_optimization_history,
        "importance": draw.plot_param_importances,
        "slice": draw.plot_slice,
        "parallel": draw.plot_parallel_coordinate,
    }
    drawn = []
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, name in enumerate(objectives):
            target: dict[str, Any] = {"target_name": name}
            if len(objectives) > 1:
                target["target"] = lambda trial, i=i: trial.values[i]
            for kind, plot in kinds.items():
                path = folder / f"{kind}{f'-{i + 1}' if i else ''}.png"
                drawn += _draw(path, plot, study, **target)
        if len(objectives) in (2, 3):
            drawn += _draw(folder / "pareto.png", draw.plot_pareto_front, study, target_names=list(objectives))
    return drawn


def _draw(path: Path, plot: Callable[..., Any], *args: Any, **options: Any) -> list[Path]:
    from matplotlib import pyplot

    others = set(pyplot.get_fignums())
    try:
        axes = plot(*args, **options)
        _tidy((axes.flat[0] if hasattr(axes, "flat") else axes).figure, path)
    except Exception as error:
        log.warning("%s was not drawn: %s", path.name, " ".join(str(error).split())[:200])
        return []
    finally:
        for number in set(pyplot.get_fignums()) - others:
            pyplot.close(number)
    return [path]


def _tidy(figure: Any, path: Path) -> None:
    """Room for names and colour bars, which Optuna lays over one another."""
    keys, layout = len(figure.axes), "constrained"  # pictures with several axes have one for each key
    if path.stem.startswith("parallel"):
        figure.set_size_inches(max(8.0, 1.5 * keys), 5.0)
        layout = "tight"  # its axes are as thin as lines
    if path.stem.startswith("slice"):
        figure.set_size_inches(max(6.0, 2.4 * keys), 4.5)
        for axis in figure.axes:
            axis.tick_params(axis="x", labelrotation=45)
            if axis.get_xscale() == "log":
                few_log_ticks(axis.xaxis)
    figure.set_layout_engine(layout)
    save(figure, path)


def few_log_ticks(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5: less than a decade has labels on its minor ticks too, which lie on one another."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
