"""The keys of ``iifdet train``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from iifdet.config.augmentation import AugmentKeys, SamplingKeys
from iifdet.config.classifying import DistillKeys, SynthesisKeys
from iifdet.config.keys import Adjust, DataKeys, InferenceKeys, Options, WeightKeys, off_is_none
from iifdet.config.schedule import OptimizerKeys, SafetyKeys, SpeedKeys


class TrainConfig(
    DataKeys,
    WeightKeys,
    OptimizerKeys,
    DistillKeys,
    SynthesisKeys,
    SamplingKeys,
    AugmentKeys,
    SafetyKeys,
    SpeedKeys,
    InferenceKeys,
):
    """The model and how it is adjusted"""

    model: str = "yolov3-nano"
    """a model's name, or a recipe: a YAML file, or a name in cfg/"""
    model_args: Options = Field(default_factory=dict)
    """options of the model itself, one by one: model_args.width=0.5; docs/keys.md lists them"""
    weights: str | None = None
    """where training starts: a checkpoint, weights of Darknet or torchvision, or default for torchvision's backbone"""
    resume: str | None = None
    """go on with the interrupted run in this folder; its keys hold"""
    anchors: Annotated[Literal["auto"] | None, BeforeValidator(off_is_none)] = None
    """YOLOv3: auto fits the anchors to the boxes"""

    adjust: Adjust = "iif"
    """multiply logits by IIF; add priors by Logit Adjustment or Balanced Softmax; after training add those of NorCal or
    fractal calibration, or divide by the lengths of class rows (taunorm); leave logits alone; weigh the loss by
    Class-Balanced weights (cb, strategy=cost_sensitive); learn weights (lws), or weights, shifts and how far they act
    on each image (disalign), in strategy=decoupled"""
    strategy: Literal["end_to_end", "post_process", "decoupled", "cost_sensitive"] = "end_to_end"
    """adjust in training and inference; in inference; in a second stage, of the class rows alone; or weigh the loss"""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """adjust=cb: 0 weighs all alike, towards 1 they go to the inverse of the counts"""
    rho: Annotated[float, Field(ge=0)] = 1.2
    """adjust=disalign: its loss weighs classes by their counts to the power of -rho"""
    defer: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """strategy=cost_sensitive: share of the epochs before the loss is weighed (deferred re-weighting); with
    model_args.generator=true, where 0 is 0.8, also before maps are made"""
    source: Literal["dataset", "batch"] = "dataset"
    """batch: training steps weigh by their own images (online IIF)"""
    reinit: bool = False
    """strategy=decoupled: start the class rows afresh"""
    auto_batch: bool = False
    """what batch=auto sets: as many images at a time as CUDA memory allows, a step's images as by default"""
    tuned: Options = Field(default_factory=dict)
    """where tuned values come from; iifdet tune writes it into its recipes"""
