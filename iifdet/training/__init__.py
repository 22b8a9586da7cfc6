"""The training loop and its parts, from what is plain to what uses it:

options, stopping -> state -> callbacks; multiscale, pieces, prefetch -> memory, step, graphed;
recovery -> saving -> loop.
"""

from iifdet.training.callbacks import Callback
from iifdet.training.graphed import GraphedStep
from iifdet.training.loop import EpochLoader, Step, Validate, fit
from iifdet.training.memory import has_room, largest_fitting
from iifdet.training.multiscale import rescale
from iifdet.training.options import AMP_TYPES, FitOptions
from iifdet.training.pieces import Undo, pieces_of
from iifdet.training.prefetch import to_device
from iifdet.training.recovery import NotFinite
from iifdet.training.saving import Saver
from iifdet.training.state import TrainState, averaged, processes_of
from iifdet.training.step import optimizer_step, train_step
from iifdet.training.stopping import GracefulStop

__all__ = [
    "AMP_TYPES",
    "Callback",
    "EpochLoader",
    "FitOptions",
    "GracefulStop",
    "GraphedStep",
    "NotFinite",
    "Saver",
    "Step",
    "TrainState",
    "Undo",
    "Validate",
    "averaged",
    "fit",
    "has_room",
    "largest_fitting",
    "optimizer_step",
    "pieces_of",
    "processes_of",
    "rescale",
    "to_device",
    "train_step",
]
