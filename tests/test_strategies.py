"""End-to-end, post-process, decoupled and cost-sensitive, each through ``iifdet.train`` and ``iifdet.val``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import iifdet
from iifdet.api import RunResult
from iifdet.checkpoint import read_checkpoint, save_checkpoint
from iifdet.errors import InputError

Keys = Callable[..., dict[str, Any]]
FIGURES = ("AP", "AP50", "AP75", "tail5", "tail10", "groups", "per_class")
#: smooth weights of 12, 7, 4 and 1 images, by hand.
SMOOTH = [math.log(25 / (n + 1)) + 1 for n in (12, 7, 4, 1)]


def last(run: RunResult) -> Path:
    return run.folder / "weights" / "last.pt"


@pytest.fixture(scope="module")
def softmax(tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run without adjustment that detects something."""
    root = tmp_path_factory.mktemp("softmax")
    run = iifdet.train(**tiny_keys(root, adjust="none", epochs=10, lr=0.01, ema=0.5))
    assert run.metrics["AP50"] > 0.02
    return run


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """check(weights, …): the metrics of ``iifdet.val``, without the rows' weights."""

    def run(weights: Path, **keys: Any) -> dict[str, Any]:
        return iifdet.val(weights=weights, project=tmp_path, plots=False, workers=0, **keys).metrics

    return run


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    kept = {k: metrics[k] for k in FIGURES}
    kept["per_class"] = [{k: v for k, v in row.items() if k != "weight"} for row in metrics["per_class"]]
    return kept


@pytest.mark.parametrize(
    ("strategy", "when"), [("end_to_end", "both"), ("post_process", "infer"), ("cost_sensitive", None)]
)
def test_a_strategy_says_when_the_adjustment_acts(
    tiny_keys: Keys, tmp_path: Path, strategy: str, when: str | None
) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, strategy=strategy))
    model: Any = iifdet.load(last(run))
    if when is None:
        assert model.adjust.is_identity
        assert model.class_weight.tolist() == pytest.approx(SMOOTH)
    else:
        assert model.adjust.when == when and model.class_weight is None
        assert model.adjust.scale.tolist() == pytest.approx(SMOOTH)


def test_only_end_to_end_and_cost_sensitive_change_the_training(tiny_keys: Keys, tmp_path: Path) -> None:
    runs = {"softmax": iifdet.train(**tiny_keys(tmp_path, epochs=1, adjust="none"))}
    for strategy in ("end_to_end", "post_process", "cost_sensitive"):
        runs[strategy] = iifdet.train(**tiny_keys(tmp_path, epochs=1, strategy=strategy))
    weights = {name: read_checkpoint(last(run))["weights"] for name, run in runs.items()}
    trained = [k for k in weights["softmax"] if not k.startswith(("adjust.", "class_weight"))]
    equal = {n: all(torch.equal(w[k], weights["softmax"][k]) for k in trained) for n, w in weights.items()}
    assert equal == {"softmax": True, "end_to_end": False, "post_process": True, "cost_sensitive": False}


def test_val_with_iif_on_a_softmax_checkpoint_equals_the_post_process_strategy(
    tiny_keys: Keys, softmax: RunResult, check: Callable[..., Any], tmp_path: Path
) -> None:
    post = iifdet.train(**tiny_keys(tmp_path, epochs=10, lr=0.01, ema=0.5, strategy="post_process"))
    adjusted = check(last(softmax), adjust="iif")
    assert figures(adjusted) == figures(post.metrics)
    assert figures(adjusted) != figures(softmax.metrics), "the adjustment should move something"
    assert [row["weight"] for row in adjusted["per_class"]] == pytest.approx(SMOOTH)


def test_val_keeps_removes_or_changes_the_checkpoint_s_adjustment(
    tiny_keys: Keys, softmax: RunResult, check: Callable[..., Any], tmp_path: Path
) -> None:
    post = iifdet.train(**tiny_keys(tmp_path, epochs=10, lr=0.01, ema=0.5, strategy="post_process", variant="raw"))
    raw = [math.log(24 / n) for n in (12, 7, 4, 1)]
    kept = check(last(post))
    assert figures(kept) == figures(post.metrics)
    assert [row["weight"] for row in kept["per_class"]] == pytest.approx(raw)
    assert figures(check(last(post), adjust="none")) == figures(softmax.metrics)
    again = check(last(post), adjust="iif")  # the variant comes from the checkpoint's recipe
    assert figures(again) == figures(kept)
    with pytest.raises(InputError, match=r"^variant: belongs to a new adjustment, and without adjust="):
        check(last(post), variant="smooth")
    other = check(last(post), adjust="iif", variant="smooth", by="instance")
    assert [row["weight"] for row in other["per_class"]] != pytest.approx(raw)


def test_val_of_a_checkpoint_needs_no_training_annotations(
    softmax: RunResult, check: Callable[..., Any], tiny_copy: Path
) -> None:
    (tiny_copy / "train.json").unlink()
    metrics = check(last(softmax), data=tiny_copy / "data.yaml", adjust="iif")
    assert metrics["tail5"]["image"] is not None and [row["weight"] for row in metrics["per_class"]] == pytest.approx(
        SMOOTH
    )


def test_val_on_other_classes_is_refused(softmax: RunResult, check: Callable[..., Any], tiny_copy: Path) -> None:
    text = (tiny_copy / "val.json").read_text()
    (tiny_copy / "val.json").write_text(text.replace('"white"', '"pale"'))
    with pytest.raises(InputError, match="expected the checkpoint's 4 classes"):
        check(last(softmax), data=tiny_copy / "data.yaml")


# -- decoupled ---------------------------------------------------------------------------------------------------------


def class_rows(path: Path) -> set[str]:
    """Names of the tensors that hold class rows and nothing else."""
    model: Any = iifdet.load(path)
    own = {id(p) for layer in model.classifier_layers() for p in layer.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in own}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("reinit", [False, True])
def test_the_decoupled_stage_changes_class_rows_and_nothing_else(
    tiny_keys: Keys, softmax: RunResult, tmp_path: Path, optimizer: str, reinit: bool
) -> None:
    changes = {"optimizer": optimizer, "momentum": 0.9, "weight_decay": 0.1, "decay_all": True, "reinit": reinit}
    run = iifdet.train(
        **tiny_keys(tmp_path, strategy="decoupled", weights=last(softmax), epochs=3, lr=0.01, ema=0.9, **changes)
    )
    source = read_checkpoint(last(softmax))
    before, content = source["ema"], read_checkpoint(last(run))
    rows = class_rows(last(run))
    assert any("running_var" in k for k in before) and any("num_batches_tracked" in k for k in before)
    for part in ("weights", "ema"):
        after = content[part]
        for name, value in before.items():
            if name.startswith("adjust."):
                continue
            # A scale whose anchors fit no box has biases at zero, where decay leaves them.
            if name in rows and (name.endswith("weight") or value.any()):
                assert not torch.equal(after[name], value), name
            elif name not in rows:
                assert torch.equal(after[name], value), name
    assert content["adjustment"]["when"] == "both"
    assert content["adjustment"]["scale"].tolist() == pytest.approx(SMOOTH)


def test_a_decoupled_stage_resumes_and_keeps_box_rows(tiny_keys: Keys, softmax: RunResult, tmp_path: Path) -> None:
    from iifdet.training import Callback

    class Stop(Callback):
        def on_step(self, state: Any, losses: Any, lr: float, batches: int) -> None:
            if (state.epoch, state.batch) == (1, 2):
                raise RuntimeError("power cut")

    keys = tiny_keys(tmp_path, strategy="decoupled", weights=last(softmax), epochs=2, reinit=True)
    whole = iifdet.train(**{**keys, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Stop()], **keys)
    resumed = iifdet.train(resume=tmp_path / "run")
    one, other = read_checkpoint(last(whole))["weights"], read_checkpoint(last(resumed))["weights"]
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_class_rows_start_afresh_in_the_decoupled_stage_alone(tiny_keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^reinit: starts the class rows of strategy=decoupled afresh, got strategy="):
        iifdet.train(**tiny_keys(tmp_path, reinit=True))


def test_a_decoupled_stage_without_a_first_one_is_refused(tiny_keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give weights="):
        iifdet.train(**tiny_keys(tmp_path, strategy="decoupled"))
    assert not list(tmp_path.iterdir())


# -- other class lists, other counts -----------------------------------------------------------------------------------


def test_weights_of_another_class_list_go_in_by_class_name(
    tiny_keys: Keys, softmax: RunResult, tiny_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy knows white, blue, pink and red, in this order: pink is new and green is gone."""
    for split in ("train", "val"):
        document = json.loads((tiny_copy / f"{split}.json").read_text())
        order = ["white", "blue", "green", "red"]
        document["categories"].sort(key=lambda c: order.index(c["name"]))
        document["categories"] = [
            {"id": i + 1, "name": "pink" if c["name"] == "green" else c["name"], "old": c["id"]}
            for i, c in enumerate(document["categories"])
        ]
        new = {c.pop("old"): c["id"] for c in document["categories"]}
        for annotation in document["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]
        (tiny_copy / f"{split}.json").write_text(json.dumps(document))
    # A learning rate so small that what went in can be read off what comes out.
    keys = tiny_keys(tmp_path, data=tiny_copy / "data.yaml", weights=last(softmax), epochs=1, lr=1e-12)
    with caplog.at_level("INFO", "iifdet"):
        run = iifdet.train(**keys)
    assert "1 class starts from random rows: pink" in caplog.text
    mine: Any = iifdet.load(last(run))
    theirs: Any = iifdet.load(last(softmax))
    assert mine.names == ["white", "blue", "pink", "red"]
    for a, b in zip(mine.classifier_rows(), theirs.classifier_rows(), strict=True):
        torch.testing.assert_close(a.weight[[0, 1, 3]], b.weight[[3, 2, 0]], rtol=1e-5, atol=1e-8)
        assert not torch.allclose(a.weight[2], b.weight[1])
    assert mine.adjust.scale.tolist() == pytest.approx([SMOOTH[3], SMOOTH[2], SMOOTH[1], SMOOTH[0]])


def test_weights_of_another_model_are_refused(tiny_keys: Keys, softmax: RunResult, tmp_path: Path) -> None:
    keys = tiny_keys(tmp_path, weights=last(softmax), model="yolov3-tiny", model_args={"width": 0.03})
    with pytest.raises(InputError, match="choose the same model"):
        iifdet.train(**keys)


def test_weights_whose_rows_carry_an_adjustment_are_refused(tiny_keys: Keys, tmp_path: Path) -> None:
    first = iifdet.train(**tiny_keys(tmp_path, epochs=1))
    model: Any = iifdet.load(last(first))
    model.fold()
    save_checkpoint(tmp_path / "folded.pt", model)
    with pytest.raises(InputError, match="expected an unfolded checkpoint"):
        iifdet.train(**tiny_keys(tmp_path, weights=tmp_path / "folded.pt"))


def test_anchors_of_one_s_own_are_not_replaced_by_those_of_the_weights(
    tiny_keys: Keys, softmax: RunResult, tmp_path: Path
) -> None:
    anchors = [[[40 + s + 10 * a, 20] for a in range(3)] for s in (2, 1, 0)]
    args = {"width": 0.0625, "depth": 0.1, "anchors": anchors}
    run = iifdet.train(**tiny_keys(tmp_path, weights=last(softmax), epochs=1, model_args=args))
    model: Any = iifdet.load(last(run))
    assert model.anchors.tolist() == anchors


@pytest.mark.parametrize("variant", ["raw", "relative", "base2", "base10", "gombit", "normit"])
def test_a_class_without_images_is_named_by_every_variant_but_smooth(
    tiny_keys: Keys, tiny_copy: Path, tmp_path: Path, variant: str
) -> None:
    for split in ("train", "val"):
        document = json.loads((tiny_copy / f"{split}.json").read_text())
        document["categories"].append({"id": 99, "name": "toaster"})
        (tiny_copy / f"{split}.json").write_text(json.dumps(document))
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match=r"class 4 'toaster' has 0 training images.*use variant=smooth"):
        iifdet.train(**tiny_keys(runs, data=tiny_copy / "data.yaml", variant=variant))
    assert not runs.exists()
    if variant == "raw":
        iifdet.train(**tiny_keys(runs, data=tiny_copy / "data.yaml", epochs=1))
        iifdet.train(**tiny_keys(runs, data=tiny_copy / "data.yaml", epochs=1, adjust="none", variant=variant))


@pytest.mark.parametrize("verb", ["train", "val"])
def test_centring_on_a_background_that_yolo_lacks_is_refused(
    tiny_keys: Keys, softmax: RunResult, tmp_path: Path, verb: str
) -> None:
    with pytest.raises(InputError, match="has no background logit; use 'none' or 'mean'"):
        if verb == "train":
            iifdet.train(**tiny_keys(tmp_path, center="bg"))
        else:
            iifdet.val(weights=last(softmax), adjust="iif", center="bg", project=tmp_path)
    assert not list(tmp_path.iterdir())


def test_mean_centring_survives_the_checkpoint(tiny_keys: Keys, check: Callable[..., Any], tmp_path: Path) -> None:
    run = iifdet.train(**tiny_keys(tmp_path, epochs=3, lr=0.01, center="mean"))
    model: Any = iifdet.load(last(run))
    assert model.adjust.center == "mean"
    assert figures(check(last(run))) == figures(run.metrics)


def test_sigmoid_scores_survive_the_checkpoint(tiny_keys: Keys, tmp_path: Path) -> None:
    args = {"width": 0.0625, "depth": 0.1, "class_loss": "bce"}
    run = iifdet.train(**tiny_keys(tmp_path, epochs=1, model_args=args))
    model: Any = iifdet.load(last(run))
    assert (model.class_loss, model.class_activation) == ("bce", "sigmoid")
    assert run.metrics["class_activation"] == "sigmoid"
