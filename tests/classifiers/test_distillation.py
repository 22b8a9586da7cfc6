"""Learning from a finished classifier: published formulas, whole runs, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_data import small_classifier
from runs import Interrupt, last_of, same_run
from torch import Tensor

import iifdet
from iifdet.classifiers import CLASSIFIERS, Distillation
from iifdet.classifiers.distillation import feature_distance, virtual_examples
from iifdet.errors import InputError
from iifdet.longtail import balanced_softmax_shift
from iifdet.longtail.counts import ClassCounts

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, 2])


def waves(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """What the reference numbers were made of."""
    steps = torch.arange(rows * columns).float()
    return torch.sin(steps).view(rows, columns), torch.cos(steps).view(rows, columns)


def model(seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    return CLASSIFIERS["se_resnet20"](3, width=0.25, **options)


# -- formulas ----------------------------------------------------------------------------------------------------------


def test_the_distance_of_features_is_class_balanced_distillation_s() -> None:
    assert feature_distance(*waves(4, 6)).item() == pytest.approx(0.962040, abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "power", "value"), [(2, 0.5, 2.240482), (3, 0.5, 2.369207), (3, 1.0, 3.688348)]
)
def test_virtual_examples_are_the_published_program_s(temperature: float, power: float, value: float) -> None:
    student, teacher = (3 * wave for wave in waves(4, 5))
    assert virtual_examples(student, teacher, temperature, power).item() == pytest.approx(value, abs=2e-6)


def test_plain_distillation_is_torch_s_divergence() -> None:
    student, teacher = (3 * wave for wave in waves(4, 5))
    log_p, q = (student / 4).log_softmax(-1), (teacher / 4).softmax(-1)
    expected = 16 * torch.nn.functional.kl_div(log_p, q, reduction="batchmean")
    torch.testing.assert_close(virtual_examples(student, teacher, 4, 1.0), expected)


@pytest.mark.parametrize(("temperature", "total"), [(2, 2.399700), (3, 2.464063)])
def test_the_whole_loss_under_balanced_softmax_is_dive_s(temperature: float, total: float) -> None:
    n = torch.tensor([50, 20, 10, 5, 2])
    student, teacher = (3 * wave for wave in waves(4, 5))
    net, other = (CLASSIFIERS["se_resnet20"](5, width=0.25) for _ in range(2))
    for one, logits in ((net, student), (other, teacher)):
        one.head = Said(logits)  # type: ignore[assignment]
    net.set_adjustment(shift=balanced_softmax_shift(ClassCounts(list("abcde"), n, n, 87)), when="train")
    net.learn_from(Distillation(other, "dive", share=0.5, temperature=temperature))
    losses = net.train()(IMAGES, torch.tensor([0, 2, 4, 2]))
    assert sum(losses.values()).item() == pytest.approx(total, abs=2e-6)


class Said(torch.nn.Module):
    """Says the same for all features."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Tensor:
        return self.output


# -- the teacher beside the student ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cbd", "dive"])
def test_a_teacher_is_no_part_of_the_student_and_never_moves(kind: str) -> None:
    student, teacher = model(0), model(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    names, count = set(student.state_dict()), sum(1 for _ in student.parameters())
    student.learn_from(Distillation(teacher, kind))
    losses = student.train()(IMAGES, LABELS)
    torch.stack(list(losses.values())).sum().backward()
    assert set(losses) == {"cls", "distill"} and losses["distill"] > 0
    assert set(student.state_dict()) == names and sum(1 for _ in student.parameters()) == count
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters()) and not teacher.training
    student.double()
    assert next(teacher.parameters()).dtype == torch.float64, "it goes where the student goes"


def test_who_equals_the_teacher_has_nothing_to_learn() -> None:
    teacher = model(1)
    student = model(1).eval()
    for kind, options in (("cbd", {}), ("dive", {"power": 1.0})):
        student.learn_from(Distillation(teacher, kind, share=0.25, **options))
        losses = student.losses(IMAGES, LABELS)
        assert losses["distill"].item() == pytest.approx(0, abs=1e-4)
    student.distillation = None
    torch.testing.assert_close(losses["cls"], 0.75 * student.losses(IMAGES, LABELS)["cls"])


def test_a_teacher_with_an_adjustment_teaches_adjusted_scores() -> None:
    student, teacher = model(0).eval(), model(1)
    student.learn_from(Distillation(teacher, "dive"))
    plain = student.losses(IMAGES, LABELS)["distill"].item()
    teacher.set_adjustment(torch.tensor([0.5, 1.0, 4.0]))
    assert student.losses(IMAGES, LABELS)["distill"].item() != pytest.approx(plain)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_classifier(tmp_path_factory.mktemp("distil"), device="cpu", adjust="none", epochs=2)


@pytest.fixture(scope="module")
def teacher(keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's weights."""
    run = iifdet.train(**{**keys, "project": str(tmp_path_factory.mktemp("teacher")), "lr": 0.05})
    return run.folder / "weights" / "last.pt"


@pytest.mark.parametrize(("kind", "cache"), [("cbd", "device"), ("dive", False)])
def test_a_run_with_a_teacher_resumes_to_the_bit_and_needs_none_afterwards(
    kind: str, cache: Any, keys: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    own = tmp_path / "teacher.pt"
    shutil.copy(teacher, own)
    mine = {**keys, "distill": kind, "teacher": str(own), "cache": cache, "project": tmp_path, "seed": 1}
    whole = iifdet.train(**{**mine, "name": "whole"})
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 1)], **{**mine, "name": "run"})
    same_run(whole.folder, iifdet.train(resume=tmp_path / "run").folder)
    alone = iifdet.train(**{**mine, "distill": "none", "teacher": None, "name": "alone"}).folder
    assert not torch.equal(last_of(alone)["weights"]["head.weight"], last_of(whole.folder)["weights"]["head.weight"])
    with pytest.raises(RuntimeError, match="power cut"):
        iifdet.train(callbacks=[Interrupt(1, 1)], **{**mine, "name": "left"})
    own.unlink()
    assert iifdet.val(weights=whole.folder / "weights" / "last.pt", project=tmp_path, plots=False).metrics["images"]
    with pytest.raises(InputError, match=r"teacher: expected .*teacher\.pt"):
        iifdet.train(resume=tmp_path / "left")


def test_training_knows_nothing_of_an_adjustment_afterwards(
    keys: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    mine = {**keys, "distill": "dive", "teacher": str(teacher), "project": tmp_path, "epochs": 1}
    later = iifdet.train(**{**mine, "adjust": "iif", "strategy": "post_process", "name": "later"}).folder
    plain = iifdet.train(**{**mine, "name": "plain"}).folder
    assert torch.equal(last_of(later)["weights"]["head.weight"], last_of(plain)["weights"]["head.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "x.pt"}, "teacher: belongs to distill=cbd or dive, got distill=none; drop it"),
        ({"distill_share": 0.9}, "distill_share: belongs to distill=cbd or dive, got distill=none"),
        ({"distill": "cbd", "teacher": "T", "distill_power": 0.3}, "distill_power: belongs to distill=dive, got .*cbd"),
        ({"distill": "cbd", "teacher": "T", "distill_share": 1.0}, "distill_share: .* less than 1"),
        ({"distill": "cbd", "teacher": "T", "strategy": "decoupled", "weights": "T"}, "cbd teaches features, which"),
        ({"distill": "dive", "teacher": "T", "model_args": {"class_loss": "bce"}}, "dive compares scores of a softmax"),
        ({"distill": "dive", "teacher": "x.onnx"}, "teacher: expected a checkpoint, got the exported file x.onnx"),
        ({"distill": "cbd"}, "distill: cbd learns from a finished classifier; give teacher="),
        ({"distill": "dive", "teacher": "nowhere.pt"}, "teacher: expected .*nowhere.pt"),
        (
            {"distill": "cbd", "teacher": "T", "model_args": {"width": 0.5}},
            "features of shape .* use distill=dive",
        ),
        ({"distill": "dive", "teacher": "T", "classes": [0, 1]}, "teacher: expected the 2 classes of the data"),
        (
            {"distill": "dive", "teacher": "T", "model_args": {"experts": 2}},
            "teaches one classifier by itself, got",
        ),
    ],
)
def test_what_cannot_teach_is_refused(
    change: dict[str, Any], message: str, keys: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    given = {**keys, **change, "project": tmp_path}
    given |= {key: str(teacher) for key in ("teacher", "weights") if given.get(key) == "T"}
    with pytest.raises(InputError, match=message):
        iifdet.train(**given)


def test_detectors_have_no_teacher(tiny_keys: Any, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="distill: belongs to classifiers, got it with model="):
        iifdet.train(**tiny_keys(tmp_path, distill="dive", teacher=str(teacher)))
