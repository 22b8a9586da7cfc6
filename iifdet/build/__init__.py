"""The only wiring: Config -> data, counts, model, optimizer, evaluator."""

from iifdet.build.adjustment import LEARNED, loss_weights, refuse_idle_weight_keys, set_adjustment
from iifdet.build.batch import check_batch, images_together, settle_batch
from iifdet.build.batches import EpochBatches, ending_workers
from iifdet.build.comparison import classifier_norms, evaluated_index
from iifdet.build.data import (
    build_evaluator,
    build_index,
    build_splits,
    build_train_batches,
    build_val_batches,
    check_bare_annotations,
    describe_index,
    refuse_keys_in_val,
    split_name,
    training_counts,
)
from iifdet.build.detection import build_mixing
from iifdet.build.explainer import build_cam
from iifdet.build.exporter import build_export
from iifdet.build.features import look_before_epochs, prepare_synthesis
from iifdet.build.finished import check_exported, load_finished, read_about, task_of_loaded
from iifdet.build.loop import (
    build_schedule,
    build_state,
    build_step,
    compiled,
    deterministic,
    fastest_algorithms,
    fit_options,
    pick_device,
    placed,
    synchronise_batch_norms,
)
from iifdet.build.model import (
    build_model,
    load_foreign_model,
    load_model,
    load_weights,
    postprocess_options,
    settle_options,
    task_of_model,
)
from iifdet.build.predictor import build_prediction
from iifdet.build.rules import class_weights
from iifdet.build.scoring import ABOUT_SCORING, build_scoring, refuse_imported_keys, refuse_model_keys, shown_detections
from iifdet.datasets.description import task_of

__all__ = [
    "ABOUT_SCORING",
    "LEARNED",
    "EpochBatches",
    "build_cam",
    "build_evaluator",
    "build_export",
    "build_index",
    "build_mixing",
    "build_model",
    "build_prediction",
    "build_schedule",
    "build_scoring",
    "build_splits",
    "build_state",
    "build_step",
    "build_train_batches",
    "build_val_batches",
    "check_bare_annotations",
    "check_batch",
    "check_exported",
    "class_weights",
    "classifier_norms",
    "compiled",
    "describe_index",
    "deterministic",
    "ending_workers",
    "evaluated_index",
    "fastest_algorithms",
    "fit_options",
    "images_together",
    "load_finished",
    "load_foreign_model",
    "load_model",
    "load_weights",
    "look_before_epochs",
    "loss_weights",
    "pick_device",
    "placed",
    "postprocess_options",
    "prepare_synthesis",
    "read_about",
    "refuse_idle_weight_keys",
    "refuse_imported_keys",
    "refuse_keys_in_val",
    "refuse_model_keys",
    "set_adjustment",
    "settle_batch",
    "settle_options",
    "shown_detections",
    "split_name",
    "synchronise_batch_norms",
    "task_of",
    "task_of_loaded",
    "task_of_model",
    "training_counts",
]
