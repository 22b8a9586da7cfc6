"""Pictures of a run: pure functions from plain values and a path to a file. matplotlib is loaded at the first chart."""

from iifdet.plots.boxes import as_picture, class_colour, draw_boxes, enlarged, mosaic_grid, write_note
from iifdet.plots.classes import by_frequency, plot_labels, plot_weight_curves
from iifdet.plots.classification import add_caption, plot_group_reliability
from iifdet.plots.comparison import plot_differences, plot_errors, plot_intervals, plot_reliabilities
from iifdet.plots.confusion import plot_confusion
from iifdet.plots.curves import plot_pr_curve, plot_reliability
from iifdet.plots.norms import plot_weight_norms
from iifdet.plots.results import plot_results
from iifdet.plots.study import plot_study
from iifdet.plots.tail import plot_tail

__all__ = [
    "add_caption",
    "as_picture",
    "by_frequency",
    "class_colour",
    "draw_boxes",
    "enlarged",
    "mosaic_grid",
    "plot_confusion",
    "plot_differences",
    "plot_errors",
    "plot_group_reliability",
    "plot_intervals",
    "plot_labels",
    "plot_pr_curve",
    "plot_reliabilities",
    "plot_reliability",
    "plot_results",
    "plot_study",
    "plot_tail",
    "plot_weight_curves",
    "plot_weight_norms",
    "write_note",
]
