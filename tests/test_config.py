"""Defaults < recipe < overrides, and what a wrong key or value is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iifdet.config import StatsConfig, TrainConfig, ValConfig, parse_value, resolve, validate
from iifdet.config.recipes import FAMILIES
from iifdet.config.tuning import read_study
from iifdet.errors import InputError
from iifdet.models import MODELS, create_model
from iifdet.resources import resource_names, resource_path

RECIPES = [name for name in resource_names("cfg") if "/" not in name]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("model: yolov3-nano\nepochs: 7\nlr: 1e-3\nmodel_args: {width: 0.5, lambda_xy: 2e-1}\n")
    return path


def refusal(keys: dict[str, Any], kind: Any = TrainConfig) -> str:
    with pytest.raises(InputError) as caught:
        resolve(kind, keys)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_overrides_win_over_the_recipe_which_wins_over_the_defaults(recipe: Path) -> None:
    cfg = resolve(TrainConfig, {"model": str(recipe), "epochs": 3})
    assert (cfg.model, cfg.epochs, cfg.lr, cfg.batch) == ("yolov3-nano", 3, 0.001, TrainConfig().batch)


def test_without_a_model_the_default_model_s_recipe_is_read() -> None:
    assert resolve(TrainConfig, {}).imgsz == 128
    assert resolve(ValConfig, {}).imgsz == 640


def test_a_classifier_by_its_name_alone_is_trained_as_its_family() -> None:
    small, photos = (resolve(TrainConfig, {"model": name}) for name in ("se_resnet32", "resnext50_32x4d"))
    assert (small.model, small.imgsz, small.epochs, small.cache) == ("se_resnet32", 32, 400, "device")
    assert (photos.model, photos.imgsz, photos.schedule) == ("resnext50_32x4d", 224, "cosine")
    assert small.adjust == "iif" and small.model_args == {}, "the method stays the user's"
    named = {name for name in MODELS for pattern in FAMILIES if re.fullmatch(pattern, name)}
    assert named == {name for name, entry in MODELS.items() if entry.task == "classify"}


def test_dotted_model_args_reach_into_the_recipe_s(recipe: Path) -> None:
    cfg = resolve(TrainConfig, {"model": str(recipe), "model_args.depth": 0.1, "model_args.width": 0.25})
    assert cfg.model_args == {"width": 0.25, "depth": 0.1, "lambda_xy": 0.2}


def test_dotted_keys_reach_as_deep_as_they_go(recipe: Path) -> None:
    keys = {"model": str(recipe), "model_args.class_loss.las.head": 0.4, "model_args.class_loss.las.tail": 0.1}
    assert resolve(TrainConfig, keys).model_args["class_loss"] == {"las": {"head": 0.4, "tail": 0.1}}
    given = {"model_args": {"depth": 0.2, "class_loss": {"las": {"head": 0.4}}}}
    for keys in (
        {**given, "model_args.class_loss.las.tail": "1e-3"},
        {"model_args.class_loss.las.tail": "1e-3", **given},
    ):
        found = resolve(TrainConfig, keys).model_args
        assert found["depth"] == 0.2 and found["class_loss"] == {"las": {"head": 0.4, "tail": 1e-3}}
    for twice in (
        {"model_args.class_loss": "las", "model_args.class_loss.las.head": 0.4},
        {"model_args.class_loss.las.head": 0.4, "model_args.class_loss": "las"},
    ):
        assert "expected it to be given once, got 'las' as well; drop one" in refusal(twice)


def test_options_of_a_recipe_s_loss_are_kept_where_it_is_the_same_loss(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: yolov3-nano\nmodel_args: {width: 0.25, class_loss: {las: {head: 0.4, tail: 0.1}}}\n")
    for asked, expected in (
        ({"las": {"head": 0.2}}, {"las": {"head": 0.2, "tail": 0.1}}),
        ({"focal": {"gamma": 1}}, {"focal": {"gamma": 1}}),
        ("las", "las"),
        ({"las": 3}, {"las": 3}),
    ):
        found = resolve(TrainConfig, {"model": str(recipe), "model_args": {"class_loss": asked}}).model_args
        assert found == {"width": 0.25, "class_loss": expected}


def test_a_caller_s_dictionary_is_left_alone(recipe: Path) -> None:
    given_args = {"width": 0.25}
    resolve(TrainConfig, {"model": str(recipe), "model_args": given_args, "model_args.depth": 0.1})
    assert given_args == {"width": 0.25}


def test_paths_and_numbers_serve_as_text(recipe: Path) -> None:
    cfg = resolve(TrainConfig, {"model": recipe, "name": 12, "weights": Path("a/last.pt")})
    assert (cfg.name, cfg.weights) == ("12", str(Path("a/last.pt")))


def test_a_study_takes_paths_as_well() -> None:
    study, keys = read_study({"project": Path("a"), "space": Path("b.yaml"), "data": Path("c.yaml"), "trials": 3})
    assert (study.project, study.space, keys) == ("a", "b.yaml", {"data": "c.yaml"})


@pytest.mark.parametrize(
    ("wrong", "right"), [("epohcs", "epochs"), ("weight-decay", "weight_decay"), ("imgs", "imgsz")]
)
def test_an_unknown_key_suggests_the_nearest(wrong: str, right: str) -> None:
    assert refusal({wrong: 1}) == f"{wrong}: unknown key; did you mean '{right}'?"


def test_a_key_given_plain_and_dotted_is_refused() -> None:
    assert "given once" in refusal({"data": "demo", "data.path": "x"})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("epochs", 0, "expected at least 1"),
        ("epochs", "many", "expected a whole number"),
        ("lr", -1, "expected more than 0"),
        ("lr", float("nan"), "finite number"),
        ("flip", 1.5, "expected at most 1"),
        ("optimizer", "sdg", "expected one of sgd, adamw"),
        ("temperature", 0, "expected more than 0, or one of mean"),
        ("strategy", "end2end", "expected one of end_to_end, post_process, decoupled, cost_sensitive"),
        ("adjust", "fii", "expected one of none, iif"),
        ("by", "box", "expected one of image, instance"),
        ("multi_scale", [1.5, 0.5], "ascending"),
        ("multi_scale", [0.5], "two numbers"),
        ("multi_scale", 0.5, "two numbers"),
        ("group_limits", [100, 10], "ascending"),
        ("model_args", 3, "expected a mapping such as {a: 1}"),
        ("steps", [-1], "expected more than 0"),
        ("cache", "dsk", "ram"),
        ("augment", "paperr", "expected one of default, paper, ssd"),
        ("mosaic", 2, "expected at most 1"),
        ("close_mosaic", -1, "expected at least 0"),
    ],
)
def test_a_bad_value_is_one_line_with_key_expectation_and_value(key: str, value: Any, says: str) -> None:
    text = refusal({key: value})
    assert text.startswith(f"{key}: ") and says in text and "got " in text


@pytest.mark.parametrize("off", ["none", False, None])
def test_off_means_none_in_a_choice(off: Any) -> None:
    cfg = resolve(TrainConfig, {"adjust": off, "center": off, "amp": off})
    assert (cfg.adjust, cfg.center, cfg.amp) == ("none", "none", "none")


def test_val_keeps_unset_adjust_apart_from_none() -> None:
    assert resolve(ValConfig, {}).adjust is None
    assert resolve(ValConfig, {"adjust": False}).adjust == "none"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("model: [unclosed", "expected YAML"),
        ("- a\n- b\n", "expected a mapping"),
        ("epochs: 3\n", "'model' key"),
        ("model: yolov3-nano\nepocs: 3\n", "did you mean 'epochs'"),
        ("model: yolov3-nano\nepochs: three\n", "epochs: "),
    ],
)
def test_a_broken_recipe_says_what_is_wrong_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    assert says in refusal({"model": str(path)})


def test_a_missing_recipe_lists_those_there_are(tmp_path: Path) -> None:
    assert "yolov3-nano" in refusal({"model": str(tmp_path / "absent.yaml")})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_for_every_verb_and_its_model_builds(name: str) -> None:
    cfg = resolve(TrainConfig, {"model": name})
    assert cfg.model_dump(mode="json") == validate(TrainConfig, cfg.model_dump(mode="json")).model_dump(mode="json")
    assert resolve(ValConfig, {"model": name}).imgsz == cfg.imgsz
    resolve(StatsConfig, {})
    with torch.device("meta"):
        model = create_model(cfg.model, 3, **cfg.model_args)
    assert model.num_classes == 3 and resource_path("cfg", name) is not None


def test_unknown_model_and_option_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'yolov3-nano'"):
        create_model("yolov3-nao", 3)
    with pytest.raises(InputError, match="did you mean 'width'"):
        create_model("yolov3-nano", 3, widht=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-2", -2),
        ("0.5", 0.5),
        ("true", True),
        ("off", False),
        ("[35, 55]", [35, 55]),
        ("name", "name"),
        ("", ""),
        ("2026-01-31", "2026-01-31"),
        ("2026-13-01", "2026-13-01"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("a: [", "a: ["),
    ],
)
def test_values_are_read_as_yaml_but_odd_names_stay_text(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@given(st.text(max_size=20))
def test_any_text_parses_to_something(text: str) -> None:
    parse_value(text)


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_the_command_line(whole: int, real: float) -> None:
    assert parse_value(str(whole)) == whole
    assert float(parse_value(repr(real))) == real
