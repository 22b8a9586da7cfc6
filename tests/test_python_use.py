"""The functions as a script or notebook uses them: models as objects, callbacks, random numbers, wrong arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iifdet
from iifdet.api import RunResult
from iifdet.datasets import DetectionDataset, EvalTransform, load_index
from iifdet.datasets.loader import collate
from iifdet.detectors import DETECTORS
from iifdet.errors import InputError
from iifdet.evaluation import EvalResult
from iifdet.evaluation.engine import evaluate
from iifdet.longtail import CLASS_LOSSES, ClassCounts, iif_cross_entropy, iif_weights
from iifdet.models import create_model
from iifdet.training import Callback, TrainState

Keys = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(tiny_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return iifdet.train(**tiny_keys(tmp_path_factory.mktemp("run"), adjust="none", epochs=1))


@pytest.fixture(scope="module")
def weights(run: RunResult) -> Path:
    return run.folder / "weights" / "last.pt"


# -- models as objects -------------------------------------------------------------------------------------------------


def test_val_of_a_model_is_val_of_its_checkpoint_and_leaves_the_model_alone(weights: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"workers": 0, "plots": False, "project": tmp_path, "adjust": "iif"}
    model = iifdet.load(weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mine, theirs = iifdet.val(model=model, **keys), iifdet.val(weights=weights, **keys)
    assert mine.metrics == theirs.metrics
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.set_adjustment(iif_weights(model.counts), when="infer")  # type: ignore[arg-type]
    assert iifdet.val(model=model, **{**keys, "adjust": None}).metrics["AP"] == mine.metrics["AP"]


def test_class_weights_and_folds_survive_a_plain_state_dict() -> None:
    model, fresh = create_model("yolov3-nano", 3), create_model("yolov3-nano", 3)
    model.set_class_weight(torch.tensor([1.0, 2.0, 3.0]))
    model.fold()
    fresh.load_state_dict(model.state_dict())
    assert fresh.class_weight.tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="folded"):
        fresh.set_adjustment()


@pytest.mark.parametrize(
    "bad", [torch.ones(4), torch.ones(3, 1), torch.tensor([1.0, -1.0, 1.0]), [1.0, float("nan"), 1]]
)
def test_class_weights_that_are_none_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="class_weight: expected"):
        create_model("yolov3-nano", 3).set_class_weight(bad)


@pytest.mark.parametrize("name", ["yolov3-nano", "ssd300"])
def test_images_as_loaders_bring_them_are_not_taken_for_floats(name: str) -> None:
    model = DETECTORS[name](3).eval()
    for images in (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [torch.zeros(3, 64, 64, dtype=torch.uint8)]):
        with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], got torch.uint8"):
            model(images)


def test_a_loss_of_ones_own_gives_softmax_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLASS_LOSSES, "mine", CLASS_LOSSES["ce"])
    assert create_model("yolov3-nano", 3, class_loss="mine").class_activation == "softmax"


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callbacks", ["yolov3-nano", [Callback], [lambda: None]])
def test_what_is_no_callback_is_refused_before_a_folder_is_made(
    tiny_keys: Keys, tmp_path: Path, callbacks: Any
) -> None:
    with pytest.raises(iifdet.InputError, match="callbacks: expected a list of"):
        iifdet.train(callbacks, **tiny_keys(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_callback_may_end_a_run_before_anything_was_validated(tiny_keys: Keys, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_epoch_end(self, state: TrainState, row: Mapping[str, Any]) -> None:
            state.finished = True

    run = iifdet.train(callbacks=[Stop()], **tiny_keys(tmp_path, epochs=3, val_every=3))
    assert run.metrics["epochs"] == 1 and run.metrics["AP"] is not None and run.metrics["best"]["fitness"] is None


def test_an_object_in_the_wrong_place_is_said_in_one_short_line(weights: Path) -> None:
    for keys in ({"model": iifdet.load(weights)}, {"iou": np.zeros((50, 50))}):
        with pytest.raises(InputError) as caught:
            iifdet.train(**keys)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_compare_takes_a_folder_and_what_val_gave(run: RunResult) -> None:
    for runs in (str(run.folder), [run], [run.folder]):
        assert len(iifdet.compare(runs, draws=0).rows) == 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"optimizer": "AdamW"}, {"optimizer": "adamw"}),
        ({"cache": True}, {"cache": "ram"}),
        ({"amp": True}, {"amp": "bf16"}),
        ({"device": torch.device("cpu")}, {"device": "cpu"}),
    ],
)
def test_spellings_of_other_programs_are_understood(given: dict[str, Any], meant: dict[str, Any]) -> None:
    from iifdet.config import TrainConfig, resolve

    assert resolve(TrainConfig, given) == resolve(TrainConfig, meant)


# -- what a call leaves behind -----------------------------------------------------------------------------------------


def test_loading_draws_no_random_numbers(weights: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    iifdet.load(weights)
    assert torch.equal(before, torch.get_rng_state())


# -- parts alone -------------------------------------------------------------------------------------------------------


def test_a_data_set_gives_samples_by_row(tiny_data: str) -> None:
    data = DetectionDataset(load_index(tiny_data, "val"), EvalTransform(64))
    batch = collate([data[0], data[1]])
    assert len(batch.images) == 2 and [info.index for info in batch.infos] == [0, 1]


def test_indexes_and_counts_compare_by_identity(tiny_data: str) -> None:
    one, other = load_index(tiny_data, "val"), load_index(tiny_data, "val")
    assert one == one and one != other and {one.counts(): 1}


def test_counts_that_are_no_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="expected whole numbers"):
        ClassCounts(["a", "b"], torch.tensor([0.6, 2.9]), torch.tensor([1.0, 3.0]), 5)
    assert ClassCounts(["a"], torch.tensor([2.0]), torch.tensor([3.0]), 5).images.tolist() == [2]


def test_weights_of_other_classes_are_refused_by_the_bare_loss() -> None:
    z, y, w = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64), torch.ones(3)
    assert iif_cross_entropy(z, y, w).shape == (4,)
    for logits, weight in ((z, w[:1]), (torch.randn(2, 3, 3, 3), w)):
        with pytest.raises(ValueError, match=r"expected \(N, C\) logits and \(C,\) weights"):
            iif_cross_entropy(logits, y, weight)


TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "width": 99, "height": 99}],
    "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}],
    "annotations": [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10]}],
}
FOUND = {"image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10], "score": 0.9}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bbox": None}, "expected 'bbox' in each, got none in number 1"),
        ({"score": None}, "expected 'score' in each"),
        ({"bbox": [0, 0, -5, 5]}, "expected bbox"),
        ({"bbox": [0, 0, 5]}, "expected bbox"),
        ({"category_id": 0}, "those of predict count classes from 0"),
    ],
)
def test_results_that_cannot_be_scored_are_refused_and_not_scored_as_nothing(change: dict[str, Any], says: str) -> None:
    result = {key: value for key, value in {**FOUND, **change}.items() if value is not None}
    with pytest.raises(InputError, match=says):
        evaluate(TRUTH, [FOUND, result])


def test_classes_in_another_numbering_are_refused() -> None:
    output = evaluate(TRUTH, [FOUND])
    assert EvalResult.from_engine(output, TRUTH, ["b", "a"], np.array([6, 5])).ap[1] == pytest.approx(1)
    for names, ids in ((["a", "b"], [0, 1]), (["a"], [5]), (["a", "b"], [5])):
        with pytest.raises(InputError, match="category_ids: expected the evaluation's 2 categories"):
            EvalResult.from_engine(output, TRUTH, names, np.array(ids))
