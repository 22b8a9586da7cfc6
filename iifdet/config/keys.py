"""Groups of keys that several verbs share, and the kinds of values that they hold."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from iifdet.errors import suggest


def _off(value: Any) -> Any:
    """YAML reads ``off``/``no`` as False; in a choice they mean 'none'."""
    return "none" if value is False or value is None else value


def off_is_none(value: Any) -> Any:
    return None if value in (False, "none", "off") else value


def _numbers(options: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text; in options that nothing else checks it must become a number."""
    if not isinstance(options, dict):
        return options
    number = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
    return {k: float(v) if isinstance(v, str) and number.fullmatch(v) else v for k, v in options.items()}


def _class_list(value: Any) -> Any:
    """One class or several, by number or name."""
    if value is None or value is False:
        return None
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items or not all(isinstance(v, int | str) and not isinstance(v, bool) for v in items):
        raise ValueError("expected numbers or names of classes such as [0, 3] or [car, bus]")
    return items


def _two(pair: Any) -> Any:
    if pair is not None and not (isinstance(pair, list | tuple) and len(pair) == 2):
        raise ValueError("expected two numbers [low, high]")
    return pair


def _ascending(pair: Any) -> Any:
    if pair is not None and not 0 <= pair[0] < pair[1]:
        raise ValueError("expected two ascending numbers [low, high]")
    return pair


Choice = BeforeValidator(_off)
Options = Annotated[dict[str, Any], BeforeValidator(_numbers)]
Pair, Ascending = BeforeValidator(_two), AfterValidator(_ascending)
Range = Annotated[tuple[float, float] | None, Pair, Ascending, BeforeValidator(off_is_none)]
Adjust = Annotated[Literal["none", "iif", "la", "bsce"], Choice]
Share = Annotated[float, Field(ge=0, le=1)]
Classes = Annotated[list[int | str] | None, BeforeValidator(_class_list)]


class DataKeys(BaseModel):
    """Keys about data that every verb knows."""

    model_config = ConfigDict(
        extra="forbid",
        validate_default=True,
        protected_namespaces=(),
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
    )

    data: str = "demo"
    imgsz: Annotated[int, Field(ge=32, le=8192)] = 640
    resize: Literal["letterbox", "square"] = "letterbox"
    max_bad: Share = 0.05
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the training images, drawn by strata and seed
    classes: Classes = None  # keep only these, by number or name; None keeps all
    single_cls: bool = False  # one class of all
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the training images that is val instead
    allow_outside: bool = False  # annotation files and lists may name files outside the data set's folders
    imbalance: Annotated[float, Field(ge=1)] | None = None  # classifiers: cut the train split's tail to this ratio
    cache_index: bool = True  # keep what was read of the data on disk, for the next run
    project: str | None = None
    name: str | None = None
    exist_ok: bool = False
    plots: bool = True
    verbose: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def _variant(name: str) -> str:
    if name == "smooth":  # the default must not cost the import of torch
        return name
    from iifdet.longtail.weights import ALIASES, VARIANTS

    known = {**VARIANTS, **ALIASES}
    if name not in known:
        raise ValueError(f"expected one of {', '.join(VARIANTS)}{suggest(name, known)}")
    return name


class WeightKeys(BaseModel):
    """Keys about the adjustment; ``adjust: none`` ignores the others."""

    variant: Annotated[str, AfterValidator(_variant)] = "smooth"
    by: Literal["image", "instance"] = "image"
    normalizer: Literal["sum", "images"] = "sum"
    temperature: Annotated[float, Field(gt=0)] | Literal["mean"] = 1.0  # IIF weights are divided by it
    center: Annotated[Literal["none", "mean", "bg"], Choice] = "none"
    tau: Annotated[float, Field(ge=0)] = 1.0  # strength of Logit Adjustment
    bg_scale: float = 1.0  # of the background logit, where a model has one
    bg_shift: float = 0.0
    on_nonpositive: Literal["raise", "allow"] = "raise"


class DetectionKeys(BaseModel):
    """Keys about how a model runs and how detections are chosen."""

    batch: Annotated[int, Field(ge=1)] = 16
    workers: Annotated[int, Field(ge=0)] = 2
    device: str | int | None = None
    amp: Annotated[Literal["none", "bf16", "fp16"], Choice] = "none"
    conf: Share = 0.001
    iou: Share = 0.6
    max_det: Annotated[int, Field(ge=1)] = 300
    nms: Literal["class", "agnostic", "majority"] = "class"
    multi_label: bool = True
    mask_threshold: Share = 0.5  # probability above which a pixel belongs to a mask
    rect: bool = False  # batches of like-shaped images, padded no further than they need


class InferenceKeys(DetectionKeys):
    """The same and how detections are scored against the truth."""

    engine: Literal["hotcoco", "pycocotools"] = "hotcoco"
    group_limits: Annotated[tuple[int, int], Pair, Ascending] = (10, 100)
