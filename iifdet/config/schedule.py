"""How long, how fast and how safely is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from iifdet.config.keys import Keys, Lower, Share, true_is


class OptimizerKeys(Keys):
    """Optimizer and schedule"""

    epochs: Annotated[int, Field(ge=1)] = 100
    """passes over the training images"""
    optimizer: Annotated[Literal["sgd", "adamw"], Lower] = "sgd"
    """SGD with momentum, or AdamW"""
    lr: Annotated[float, Field(gt=0)] = 0.002
    """learning rate after the warm-up"""
    momentum: Share = 0.9
    """of SGD; AdamW takes it as its first beta"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """of weights, not of batch norms and biases"""
    decay_all: bool = False
    """weight decay on batch norms and biases too, as the original did"""
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    """how the learning rate falls"""
    steps: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)
    """schedule=step: the epochs at which it drops"""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """schedule=step: what a drop multiplies it by"""
    final_lr: Share = 0.01
    """schedule=cosine: where it ends, as a share of lr"""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """epochs in which the learning rate grows linearly to lr"""
    warmup_factor: Share = 0.001
    """where the warm-up begins, as a share of lr"""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """batches whose gradients make one step"""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """norm that gradients are cut to; 0 is off"""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """decay of the averaged weights that are validated and saved beside the raw ones; 0 is off"""
    freeze: Annotated[int, Field(ge=0)] = 0
    """so many of the first layers are not trained"""
    frozen_bn: Literal["eval", "train"] = "eval"
    """frozen batch norms keep their statistics, or go on collecting"""
    sync_bn: bool = False
    """several processes on CUDA: batch norms see the images of all"""


class SafetyKeys(Keys):
    """Checkpoints, validation and what goes wrong"""

    val_every: Annotated[int, Field(ge=1)] = 1
    """epochs between two validations; the last one is always validated"""
    val_batch: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """images at a time in validation; by default batch"""
    patience: Annotated[int, Field(ge=0)] = 0
    """epochs without a better AP (classifiers: accuracy) after which training ends; 0 is off"""
    select_on: Literal["holdout", "val", "test"] | None = None
    """classifiers: what picks the best epoch; by default val where there is one, else holdout"""
    select_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """select_on=holdout: the share of the training images that is held out"""
    save_steps: Annotated[int, Field(ge=0)] = 0
    """batches between two checkpoints inside an epoch; 0 is off"""
    save_minutes: Annotated[float, Field(ge=0)] = 10.0
    """likewise, minutes"""
    max_bad_steps: Annotated[int, Field(ge=1)] = 20
    """steps in a row that are not finite before the run goes back to the last good checkpoint"""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """times it may do so, each with half the learning rate"""
    tensorboard: bool = False
    """write the figures for TensorBoard, too"""


class SpeedKeys(Keys):
    """Speed and memory"""

    cache: Annotated[Literal[False, "ram", "disk", "device"], BeforeValidator(true_is("ram"))] = False
    """keep decoded images, true is in memory; device: classifiers of small images, augmented there"""
    compile: bool = False
    """torch.compile of the network, which takes minutes to start; one image size, not Faster and Mask R-CNN"""
    channels_last: bool = False
    """order of images and weights in memory"""
    graph: bool = True
    """with cache=device on CUDA: whole steps as one CUDA graph"""
    deterministic: bool = False
    """CUDA: only operations that repeat to the bit, which are slower"""
