"""Which images are drawn how often, and what is done to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iifdet.config.keys import Choice, Keys, Range, Share


class SamplingKeys(Keys):
    """Sampling"""

    sampling: Literal["random", "rfs", "class_aware", "square_root", "bilateral", "views", "prototypes"] = "random"
    """each image once; repeat factors; classes alike; classes by the square root of their size; or images that are
    trained on together: each with one by inverse class counts (bilateral), or with one of a class, all classes alike
    (prototypes), the first one twice (views)"""
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """sampling=rfs: classes in a smaller share of the images than this are repeated"""
    sampling_by: Literal["image", "instance", "both"] = "image"
    """what repeat factors count"""


class AugmentKeys(Keys):
    """Augmentation"""

    augment: Literal["default", "paper", "ssd"] = "default"
    """flip, colours and affine moves; the eight of the paper's YOLOv3; SSD's own, both with their own ranges"""
    flip: Share = 0.5
    """probability of a horizontal flip"""
    hsv_h: Share = 0.015
    """hue, ± share of the circle"""
    hsv_s: Share = 0.7
    """saturation, ± share"""
    hsv_v: Share = 0.4
    """brightness, ± share"""
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """rotation, ± degrees"""
    translate: Share = 0.1
    """shift, ± share of the image"""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """size, 1 ± this"""
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0
    """shear, ± degrees"""
    multi_scale: Range = None
    """draw the image size between these shares of imgsz, such as [0.5, 1.5]"""
    multi_scale_every: Annotated[int, Field(ge=1)] = 10
    """batches between two draws of it"""
    mosaic: Share = 0.0
    """probability that an image is one of four"""
    mixup: Share = 0.0
    """probability that two images are laid over one another; classifiers: α of Beta(α, α)"""
    copy_paste: Share = 0.0
    """probability that objects of other images are pasted, rare classes first"""
    close_mosaic: Annotated[int, Field(ge=0)] = 10
    """last epochs without mosaic and mixup; 0 is none"""
    auto_augment: Annotated[Literal["none", "cifar10", "imagenet", "rand"], Choice] = "none"
    """classifiers: AutoAugment's policy of a data set, or RandAugment"""
    cutout: Annotated[int, Field(ge=0)] = 0
    """classifiers of small images: side of the hole, pixels; 0 is off"""
    crop_padding: Annotated[int, Field(ge=0)] = 4
    """classifiers of small images: border before the random crop, pixels"""
