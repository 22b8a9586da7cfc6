"""The keys of ``iifdet train``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from iifdet.config.keys import Adjust, Choice, DataKeys, InferenceKeys, Options, Range, Share, WeightKeys, off_is_none


class TrainConfig(DataKeys, WeightKeys, InferenceKeys):
    """``iifdet train``."""

    model: str = "yolov3-nano"
    model_args: Options = Field(default_factory=dict)
    weights: str | None = None
    resume: str | None = None
    anchors: Annotated[Literal["auto"] | None, BeforeValidator(off_is_none)] = None  # auto: fitted to the boxes

    adjust: Adjust = "iif"
    strategy: Literal["end_to_end", "post_process", "decoupled", "cost_sensitive"] = "end_to_end"
    source: Literal["dataset", "batch"] = "dataset"  # batch: training steps weigh by their own images (online IIF)
    reinit: bool = False  # decoupled: start the class rows afresh

    epochs: Annotated[int, Field(ge=1)] = 100
    auto_batch: bool = False  # batch=auto: as many images at once as CUDA memory allows, a step's images as by default
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.002
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay_all: bool = False  # weight decay on batch norm and biases too, as the original did
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    steps: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)  # epochs at which the step schedule drops
    gamma: Annotated[float, Field(gt=0)] = 0.1
    final_lr: Share = 0.01  # where the cosine ends, as a share of lr
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    warmup_factor: Share = 0.001
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay; 0 is off
    sync_bn: bool = False  # several processes on CUDA: batch norms see the images of all
    clip: Annotated[float, Field(ge=0)] = 0.0  # gradient norm; 0 is off
    accumulate: Annotated[int, Field(ge=1)] = 1
    freeze: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=0)] = 0  # epochs without a better AP; 0 is off
    save_steps: Annotated[int, Field(ge=0)] = 0  # batches between two checkpoints in an epoch; 0 is off
    save_minutes: Annotated[float, Field(ge=0)] = 10.0  # likewise, minutes
    deterministic: bool = False  # CUDA: only operations that repeat to the bit, slower
    compile: bool = False  # torch.compile of the network; not of Faster and Mask R-CNN; one size, minutes to start
    max_bad_steps: Annotated[int, Field(ge=1)] = 20  # steps in a row that are not finite, before a rollback
    max_rollbacks: Annotated[int, Field(ge=0)] = 3  # each halves the learning rate
    val_every: Annotated[int, Field(ge=1)] = 1
    select_on: Literal["holdout", "val", "test"] | None = None  # classifiers: picks the best epoch; val, else holdout
    select_share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # … which is this share of the training images
    frozen_bn: Literal["eval", "train"] = "eval"  # whether frozen batch norms keep collecting statistics
    channels_last: bool = False  # order of images and weights in memory
    graph: bool = True  # CUDA, cache=device: whole steps as one CUDA graph
    val_batch: Annotated[int, Field(ge=1)] | None = None  # images at once in validation; None is batch

    sampling: Literal["random", "rfs", "class_aware", "square_root"] = "random"
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] = 1e-3  # rfs: classes rarer than this are repeated
    sampling_by: Literal["image", "instance", "both"] = "image"
    multi_scale: Range = None  # e.g. [0.5, 1.5] of imgsz
    multi_scale_every: Annotated[int, Field(ge=1)] = 10
    augment: Literal["default", "paper", "ssd"] = "default"  # the presets have ranges of their own
    flip: Share = 0.5
    hsv_h: Share = 0.015
    hsv_s: Share = 0.7
    hsv_v: Share = 0.4
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Share = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0
    mosaic: Share = 0.0
    mixup: Share = 0.0  # detectors: share of images; classifiers: α of Beta(α, α)
    auto_augment: Annotated[Literal["none", "cifar10", "imagenet", "rand"], Choice] = "none"  # classifiers
    cutout: Annotated[int, Field(ge=0)] = 0  # classifiers of small images: side of the hole
    crop_padding: Annotated[int, Field(ge=0)] = 4  # likewise: border around the image before it is cropped
    close_mosaic: Annotated[int, Field(ge=0)] = 10  # last epochs without mosaic and mixup; 0 is none
    copy_paste: Share = 0.0  # pastes objects of rare classes
    cache: Literal[False, "ram", "disk", "device"] = False  # device: classifiers of small images
    tensorboard: bool = False
    tuned: Options = Field(default_factory=dict)  # where tuned values come from; `tune` writes it into its recipes
