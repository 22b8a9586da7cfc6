"""Typed configuration: defaults < recipe (YAML) < ``key=value``. Only cli, api and build see it."""

from __future__ import annotations

import re
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from iifdet.errors import InputError, suggest
from iifdet.resources import resource_names, resource_path


def _off(value: Any) -> Any:
    """YAML reads ``off``/``no`` as False; in a choice they mean 'none'."""
    return "none" if value is False or value is None else value


def _off_is_none(value: Any) -> Any:
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
Range = Annotated[tuple[float, float] | None, Pair, Ascending, BeforeValidator(_off_is_none)]
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


class TrainConfig(DataKeys, WeightKeys, InferenceKeys):
    """``iifdet train``."""

    model: str = "yolov3-nano"
    model_args: Options = {}
    weights: str | None = None
    resume: str | None = None
    anchors: Annotated[Literal["auto"] | None, BeforeValidator(_off_is_none)] = None  # auto: fitted to the boxes

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
    steps: list[Annotated[float, Field(gt=0)]] = []  # epochs at which the step schedule drops
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
    tuned: Options = {}  # where tuned values come from: `tune` writes it into its recipes, and runs carry it along


class ValConfig(DataKeys, WeightKeys, InferenceKeys):
    """``iifdet val``. Unset keys come from the checkpoint."""

    model: str | None = None
    model_args: Options = {}
    weights: str | None = None
    trusted: bool = False  # read a .pt2, which can run code that stands in it
    split: Literal["train", "val", "test"] = "val"
    adjust: Adjust | None = None  # None keeps what the checkpoint has
    fixed_ap: bool = False  # keep the best 10,000 detections of each class, however many of an image, for compare


class StatsConfig(DataKeys, WeightKeys):
    """``iifdet stats``."""

    split: Literal["train", "val", "test"] = "train"


class CheckConfig(DataKeys):
    """``iifdet check``."""

    split: Literal["train", "val", "test"] | None = None  # None checks every split of the description
    decode: bool = True  # really decode each image; false reads headers and hashes alone
    limit: Annotated[int, Field(ge=0)] = 3  # examples shown a reason; the files hold all of them
    verbose: bool = False  # show all of them


#: Names of classifiers -> the recipe whose image size, augmentation and schedule suit them.
FAMILIES = {
    r"(se_)?resnet(20|32|44|56)": "classify/cifar10-lt-softmax",
    r"(se_)?(resnet(50|152)|resnext50_32x4d)": "classify/imagenet-lt-softmax",
}

Config = TrainConfig | ValConfig | StatsConfig | CheckConfig
C = TypeVar("C", bound=BaseModel)


def resolve(kind: type[C], overrides: dict[str, Any]) -> C:
    """Merge defaults, the recipe that ``model`` names, and overrides (dotted keys reach into dictionaries).

    Raises:
        InputError: unknown key (with the nearest known one), bad value, unreadable recipe.
    """
    values = _nest(overrides)
    recipe = _recipe(kind, values.get("model")) if "model" in kind.model_fields else {}
    merged = {**recipe, **values}
    if isinstance(recipe.get("model_args"), dict) and isinstance(values.get("model_args"), dict):
        merged["model_args"] = {**recipe["model_args"], **values["model_args"]}
    if recipe:
        merged["model"] = recipe["model"]
    if merged.get("batch") == "auto" and "auto_batch" in kind.model_fields:
        own, default = recipe.get("batch"), kind.model_fields["batch"].default
        merged |= {"batch": default if own in (None, "auto") else own, "auto_batch": True}
    return validate(kind, merged)


def validate(kind: type[C], values: dict[str, Any]) -> C:
    """Values as they are, no recipe looked up, to a configuration.

    Raises:
        InputError: unknown key (with the nearest known one), or bad value.
    """
    unknown = [key for key in values if key not in kind.model_fields]
    if unknown:
        raise InputError(f"{unknown[0]}: unknown key{suggest(unknown[0], kind.model_fields)}")
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        raise InputError(f"{key}: {_expected(kind, key, first['msg'])}, got {first['input']!r}") from error


def _expected(kind: type[BaseModel], key: str, message: str) -> str:
    annotation = kind.model_fields[key].annotation
    choices = [c for part in (annotation, *get_args(annotation)) for c in get_args(part) if isinstance(c, str)]
    message = message.removeprefix("Value error, ")
    return f"expected one of {', '.join(choices)}" if choices else message[:1].lower() + message[1:]


def _nest(overrides: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        value = str(value) if isinstance(value, PathLike) else value
        head, dot, rest = key.partition(".")
        if dot:
            inner = nested.setdefault(head, {})
            if not isinstance(inner, dict):
                raise InputError(f"{key}: expected {head} to be given once, got both '{head}' and '{key}'")
            nested[head] = {**inner, **_nest({rest: value})}
        else:
            nested[key] = value
    return nested


def _recipe(kind: type[BaseModel], model: Any) -> dict[str, Any]:
    """The recipe that ``model`` names: a YAML file, or a name in cfg/. Other verbs take only the keys they know."""
    name = kind.model_fields["model"].default if model is None else model
    if not isinstance(name, str):
        return {}
    path = Path(name) if name.endswith((".yaml", ".yml")) else resource_path("cfg", name)
    if path is None:
        return _family_recipe(kind, name)
    recipe = read_yaml(path)
    if "model" not in recipe:
        raise InputError(f"model: expected a recipe with a 'model' key, got none in {path}")
    known = TrainConfig.model_fields
    for key in recipe:
        if key not in known:
            raise InputError(f"{path}: unknown key '{key}'{suggest(key, known)}")
    return {k: v for k, v in recipe.items() if k in kind.model_fields}


def _family_recipe(kind: type[BaseModel], name: str) -> dict[str, Any]:
    """What a classifier that has no recipe under its own name needs: those keys of its family's that are not the data's
    or the method's. Nothing for other names.
    """
    family = next((recipe for pattern, recipe in FAMILIES.items() if re.fullmatch(pattern, name)), None)
    path = None if family is None else resource_path("cfg", family)
    if path is None:
        return {}
    own = {k: v for k, v in read_yaml(path).items() if k not in ("data", "adjust", "model_args")}
    return {k: v for k, v in {**own, "model": name}.items() if k in kind.model_fields}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping, safely.

    Raises:
        InputError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(resource_names("cfg"))
        raise InputError(f"recipe: expected a YAML file, got {path} ({error}); known recipes: {known}") from error
    except yaml.YAMLError as error:
        raise InputError(f"recipe: expected YAML, got {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe: expected a mapping of keys, got {type(content).__name__} in {path}")
    return content


def parse_value(text: str) -> Any:
    """One command-line value, read as YAML: ``[35, 55]``, ``true``, ``0.1``, ``name``.

    A name may look like a date, an octal number or a time of day (2026-01-31, 007, 12:30): those stay text.
    """
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError):  # ValueError: 2026-13-01
        return text
    odd = isinstance(value, date) or (type(value) is int and str(value) != text)
    return text if odd else value
