"""Runs side by side: their figures, and where predictions are at hand what stands behind them."""

from iifdet.comparison.analysis import analyse
from iifdet.comparison.examining import examine
from iifdet.comparison.report import write_report
from iifdet.comparison.results import Analysis, BoxSplit, Options, Split
from iifdet.comparison.runs import Comparison, Row, compare_runs

__all__ = [
    "Analysis",
    "BoxSplit",
    "Comparison",
    "Options",
    "Row",
    "Split",
    "analyse",
    "compare_runs",
    "examine",
    "write_report",
]
