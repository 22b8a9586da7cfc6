"""Starting from a checkpoint of another class list: class rows follow their names."""

from __future__ import annotations

import pytest
import torch

from iifdet.detectors.base import Detector
from iifdet.errors import InputError
from iifdet.models import create_model
from iifdet.transfer import transfer_weights


def named(names: list[str], seed: int, model: str = "yolov3-tiny") -> Detector:
    torch.manual_seed(seed)
    built: Detector = create_model(model, len(names), width=0.125)
    built.names = names
    return built


def test_class_rows_follow_class_names_and_new_classes_stay_random() -> None:
    source, model = named(["cat", "dog", "emu"], 0), named(["emu", "fox", "cat"], 1)
    before = [rows.weight[1].clone() for rows in model.classifier_rows()]
    notes = transfer_weights(model, source)
    for mine, theirs, fox in zip(model.classifier_rows(), source.classifier_rows(), before, strict=True):
        assert torch.equal(mine.weight[0], theirs.weight[2]) and torch.equal(mine.bias[0], theirs.bias[2])
        assert torch.equal(mine.weight[2], theirs.weight[0])
        assert torch.equal(mine.weight[1], fox)
    assert any("1 class starts from random rows: fox" in note for note in notes)


def test_everything_beside_the_class_rows_is_taken() -> None:
    source, model = named(["a", "b"], 0), named(["c"], 1)
    transfer_weights(model, source)
    rows = {id(p) for layer in model.classifier_layers() for p in layer.parameters()}
    theirs = dict(source.named_parameters())
    for name, value in model.named_parameters():
        if id(value) not in rows:
            assert torch.equal(value, theirs[name]), name


def test_the_adjustment_of_the_source_does_not_come_along() -> None:
    source, model = named(["a", "b"], 0), named(["a", "b"], 1)
    source.set_adjustment(torch.tensor([2.0, 5.0]))
    transfer_weights(model, source)
    assert model.adjust.is_identity


def test_a_model_in_which_nothing_fits_is_refused() -> None:
    source: Detector = create_model("yolov3", 2, width=0.25, depth=0.1)
    with pytest.raises(InputError, match="nothing in it fits"):
        transfer_weights(named(["a", "b"], 1), source)


def test_rows_of_another_kind_of_head_are_left_and_said() -> None:
    heads = {}
    for seed, head in enumerate(("linear", "cosine", "cosine_learned")):
        torch.manual_seed(seed)
        heads[head] = create_model("se_resnet20", 3, head=head)
        heads[head].names = ["a", "b", "c"]
    torch.nn.init.normal_(heads["linear"].head.bias)
    before = heads["cosine"].head.weight.clone()
    notes = transfer_weights(heads["cosine"], heads["linear"])
    assert any("CosineHead here, LinearHead in the checkpoint" in note for note in notes)
    assert torch.equal(heads["cosine"].head.weight, before) and not heads["cosine"].head.class_shift.any()
    transfer_weights(heads["cosine_learned"], heads["cosine"])  # the scale differs, the directions are the same
    assert torch.equal(heads["cosine_learned"].head.weight, before)


def test_layers_with_other_anchors_keep_random_rows_and_are_named() -> None:
    """ssd512 has a level more, and 6 anchors on the fifth where ssd300 has 4."""
    source, model = named(["a", "b"], 0, "ssd300"), named(["a", "b"], 1, "ssd512")
    before = [rows.weight.clone() for rows in model.classifier_rows()]
    notes = transfer_weights(model, source)
    assert "class rows of head.cls.4, head.cls.6 keep random weights: the checkpoint has others there, or none" in notes
    theirs = {layer: [r.weight for r in source.classifier_rows() if r.layer == layer] for layer in range(6)}
    for rows, old in zip(model.classifier_rows(), before, strict=True):
        if rows.layer in (4, 6):
            assert torch.equal(rows.weight, old)
        else:
            assert torch.equal(rows.weight, theirs[rows.layer].pop(0))
