"""Features of rare classes that are drawn in training (FASA): the published formulas, and runs with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import Interrupt, last_of, same_run

import iifdet
from iifdet.detectors import DETECTORS
from iifdet.detectors.augmentation import DECAY, SHARE, FeatureAugmentation, class_moments, like_classes
from iifdet.errors import InputError
from iifdet.longtail import ClassCounts
from iifdet.training import Callback, TrainState

C, D = 4, 6
COUNTS = ClassCounts(list("abcd"), *[torch.tensor([40, 8, 2, 0])] * 2, num_images=50)
RCNN: dict[str, Any] = {"backbone": "mobilenet_v3_large_320_fpn", "min_size": 64, "max_size": 64}


def batches(number: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Features and labels of proposals, most of them background; class 3 never comes."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(30, D, generator=generator) + 2, torch.randint(-3, 3, (30,), generator=generator).clamp(min=-1))
        for _ in range(number)
    ]


def test_running_moments_are_those_of_the_published_program() -> None:
    """theirs, class by class: first mean and unbiased variance as they are, then one part in ten of the new ones."""
    ours = FeatureAugmentation(D, C)
    mean, var, used = np.zeros((C, D)), np.zeros((C, D)), np.zeros(C)
    for features, labels in batches():
        ours.observe(features, labels)
        for c in range(C):
            own = features[labels == c].double().numpy()
            if not len(own):
                continue
            new = own.mean(0), own.var(0, ddof=1) if len(own) > 1 else np.zeros(D)
            share = DECAY if used[c] else 1.0
            mean[c], var[c], used[c] = share * new[0] + (1 - share) * mean[c], share * new[1] + (1 - share) * var[c], 1
    np.testing.assert_allclose(ours.means().numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.variance.numpy(), var, rtol=1e-4, atol=1e-6)
    assert ours.weight.tolist() == used.tolist() == [1, 1, 1, 0]


def test_moments_that_several_processes_average_are_those_of_the_ones_that_saw_the_class() -> None:
    saw, did_not = FeatureAugmentation(D, C), FeatureAugmentation(D, C)
    features, labels = batches(1)[0]
    saw.observe(features, labels)
    alone = saw.means().clone()
    for name in FeatureAugmentation.running:
        mean = (getattr(saw, name) + getattr(did_not, name)) / 2
        getattr(saw, name).copy_(mean)
    torch.testing.assert_close(saw.means(), alone)
    saw.observe(features, labels)  # the same again changes nothing
    torch.testing.assert_close(saw.means(), alone)


def test_moments_of_nothing_and_of_one() -> None:
    number, mean, variance = class_moments(torch.ones(1, D), torch.tensor([2]), C)
    assert number.tolist() == [0, 0, 1, 0] and mean[2].tolist() == [1.0] * D and not variance.any()
    number, mean, variance = class_moments(torch.zeros(0, D), torch.zeros(0, dtype=torch.long), C)
    assert not number.any() and not mean.any() and not variance.any()


def test_rare_classes_are_drawn_more_often_and_unseen_ones_never() -> None:
    ours = FeatureAugmentation(D, C)
    ours.set_counts(COUNTS)
    torch.testing.assert_close(ours.chance, torch.tensor([1 / 40, 1 / 8, 1 / 2, 0]) / (1 / 40 + 1 / 8 + 1 / 2))
    for features, labels in batches():
        ours.observe(features, labels)
    torch.manual_seed(0)
    drawn = torch.zeros(C)

    costs = torch.tensor([1.0, 10, 100, 1000])
    for _ in range(2000):
        state = torch.get_rng_state()
        lots = torch.rand(C) < ours.chance
        torch.set_rng_state(state)
        total = ours.loss(lambda features, labels: costs[labels])
        drawn += lots
        expected = SHARE * (lots * costs).sum() / lots.sum().clamp(min=1)
        torch.testing.assert_close(total, expected)
    torch.testing.assert_close(drawn / 2000, ours.chance, atol=0.04, rtol=0)


def test_drawn_features_are_spread_like_those_that_were_seen() -> None:
    ours, seen = FeatureAugmentation(D, 1), []
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(4000, D, generator=generator) * torch.arange(1.0, D + 1) + 3
    ours.observe(real, torch.zeros(4000, dtype=torch.long))
    ours.chance.fill_(1.0)
    torch.manual_seed(0)
    for _ in range(4000):
        ours.loss(lambda features, labels: seen.append(features[0]) or features.sum(1))  # type: ignore[func-returns-value]
    drawn = torch.stack(seen)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.std(0), real.std(0), atol=0, rtol=0.06)


def test_chances_rise_where_losses_fall_and_fall_where_they_rise_group_by_group() -> None:
    ours = FeatureAugmentation(D, C)
    ours.chance.copy_(torch.tensor([0.1, 0.2, 0.95, 0.4]))
    groups = torch.tensor([0, 0, 1, 2])
    ours.adapt(torch.tensor([1.0, 1.0, 1.0, 0.0]), groups)
    assert ours.chance.tolist() == pytest.approx([0.1, 0.2, 0.95, 0.4])  # nothing to compare with yet
    ours.adapt(torch.tensor([3.0, 0.5, 0.5, 0.0]), groups)
    assert ours.chance.tolist() == pytest.approx([0.09, 0.18, 1.0, 0.4])


def test_classes_that_look_alike_are_one_group() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 80.0]]).repeat_interleave(4, dim=0)
    groups = like_classes(centres + torch.randn(12, 2, generator=generator))
    assert groups.unique().numel() == 3
    assert all(groups[i : i + 4].unique().numel() == 1 for i in (0, 4, 8))


def test_groups_that_cannot_be_found_are_single_classes_and_nobody_is_warned(recwarn: Any) -> None:
    assert like_classes(torch.zeros(2, 3)).shape == (2,)
    generator = torch.Generator().manual_seed(0)
    assert like_classes(torch.randn(60, 500, generator=generator)).shape == (60,)
    assert not recwarn.list


def test_the_loss_is_that_of_class_rows_on_drawn_features_and_begins_late() -> None:
    torch.manual_seed(0)
    model: Any = DETECTORS["fasterrcnn"](C, **RCNN, box_batch_size_per_image=16, augment_features=True)
    model.names, model.counts = COUNTS.names, COUNTS
    model.set_class_statistic(COUNTS)
    model.set_adjustment(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    images = [torch.rand(3, 64, 64)]
    target: Any = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([2])}]
    model.train()
    named = model(images, target)
    assert named["drawn"] == 0 and model.augmentation.weight.tolist() == [0, 0, 1, 0]
    model.generating.fill_(1.0)
    model.augmentation.chance.fill_(1.0)
    model.augmentation.variance.zero_()  # all that is drawn is the mean
    with torch.no_grad():
        named = model(images, target)
        mean = model.augmentation.means()[2:3]
        model.augmentation.variance.zero_()
        again = model._drawn_loss(
            model.augmentation, model.net.roi_heads.predict(*_no_proposals(model, images)), torch.zeros(0).long()
        )
        z = model.net.roi_heads.box_predictor.cls_score(mean)
        z[:, 1:] *= torch.tensor([1.0, 2.0, 3.0, 4.0])
        torch.testing.assert_close(again, SHARE * F.cross_entropy(z, torch.tensor([3])))


def _no_proposals(model: Any, images: Any) -> tuple[Any, Any, Any]:
    scene = model._encode(images)
    return scene.features, [scene.proposals[0][:0]], scene.sizes


def test_losses_by_class_are_means_of_the_training_loss_and_learn_nothing() -> None:
    torch.manual_seed(0)
    model: Any = DETECTORS["fasterrcnn"](C, **RCNN, box_batch_size_per_image=16, augment_features=True).eval()
    images = [torch.rand(3, 64, 64)]
    target: Any = [{"boxes": torch.tensor([[5.0, 5, 40, 40], [20.0, 20, 60, 60]]), "labels": torch.tensor([2, 0])}]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    sums, number = model.losses_by_class(images, target)
    torch.manual_seed(1)
    scene = model._encode(images, target)
    sample = model._sample(scene)
    assert number == len(sample.labels) > (sample.labels >= 0).sum() > 0
    said = model.net.roi_heads.predict(scene.features, sample.proposals, scene.sizes)
    each = F.cross_entropy(said.logits, sample.labels + 1, reduction="none")
    expected = torch.stack([each[sample.labels == c].sum() for c in range(C)])
    torch.testing.assert_close(sums, expected)
    assert (expected > 0).tolist() == [True, False, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Chances(Callback):
    """Chances and switch at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, list[float]]] = []

    def on_epoch_end(self, state: TrainState, row: dict[str, Any]) -> None:
        model: Any = state.model
        self.seen.append((float(model.generating), model.augmentation.chance.tolist()))


@pytest.mark.slow
def test_a_run_draws_from_its_second_epoch_adapts_on_held_out_images_and_resumes_to_the_bit(
    tiny_keys: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**RCNN, "box_batch_size_per_image": 16, "rpn_post_nms_top_n_test": 20, "head": "cosine"}
    options |= {"augment_features": True}
    keys = tiny_keys(tmp_path, model="fasterrcnn", model_args=options, epochs=3, batch=4, holdout=0.25, ema=0.9)
    keys |= {"augment": "default", "save_steps": 1, "val_every": 3, "fraction": 0.5}
    watch = Chances()
    whole = iifdet.train([watch], **{**keys, "name": "whole"}).folder
    switches, chances = zip(*watch.seen, strict=True)
    assert switches == (0, 1, 1)
    assert chances[0] == chances[1] != chances[2]
    assert sum(chances[0]) == pytest.approx(1)
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train([Interrupt(2, 1)], **{**keys, "name": "run"})
    same_run(whole, iifdet.train(resume=tmp_path / "run").folder)
    held = last_of(whole)
    assert {"augmentation.chance", "augmentation.mean", "generating"} <= set(held["weights"])
    assert iifdet.val(weights=whole / "weights" / "last.pt", project=tmp_path / "val", plots=False).metrics is not None
    assert "chances of being drawn stay" not in caplog.text


def test_losses_that_see_a_batch_as_a_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="class_loss: federated sees a batch as a whole"):
        DETECTORS["fasterrcnn"](C, **RCNN, augment_features=True, class_loss="federated")
    with pytest.raises(ValueError, match="augment_features: expected true or false, got 1"):
        DETECTORS["maskrcnn"](C, **RCNN, augment_features=1)


def test_other_models_have_no_such_option(tiny_keys: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model_args\.augment_features: unknown option of ssd300"):
        iifdet.train(**tiny_keys(tmp_path, model="ssd300", model_args={"augment_features": True}))
