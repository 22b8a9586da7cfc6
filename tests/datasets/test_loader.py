"""Batches: their contract, and that workers, caches and resumed epochs change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dataset_helpers import MakeCoco, assert_equal, document, epochs_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iifdet.datasets import (
    TRANSFORMS,
    CopyPaste,
    DatasetIndex,
    DetectionDataset,
    EvalTransform,
    Mixing,
    TrainTransform,
    load_index,
    make_loader,
)
from iifdet.datasets.resizing import RESIZES, content
from iifdet.datasets.samplers import EpochSampler
from iifdet.errors import InputError
from iifdet.evaluation.detection import DetectionEvaluator
from iifdet.types import Batch


@pytest.fixture
def index(tmp_path: Path, make_yolo: Callable[..., dict]) -> DatasetIndex:
    """Twenty noisy images of different sizes with 0 to 3 boxes, one of them with a mask."""
    data = make_yolo({"im0": "1 0.5 0.5 0.4 0.4\n2 0.1 0.1 0.9 0.1 0.5 0.8\n"})
    rng = np.random.default_rng(0)
    for n in range(17):
        shape = (int(rng.integers(40, 90)), int(rng.integers(40, 90)), 3)
        cv2.imwrite(str(tmp_path / f"images/train/n{n:02d}.jpg"), rng.integers(0, 255, shape).astype(np.uint8))
        rows = [f"{k} 0.5 {0.3 + 0.2 * k} 0.5 0.3" for k in range(int(rng.integers(0, 4)))]
        (tmp_path / f"labels/train/n{n:02d}.txt").write_text("\n".join(rows))
    return load_index(data)


def batches(dataset: DetectionDataset, workers: int, epochs: tuple[int, ...] = (0, 1), start: int = 0) -> list[Batch]:
    return epochs_of(make_loader(dataset, batch=4, workers=workers, shuffle=True, seed=3), epochs, start)


def test_the_number_of_workers_changes_nothing(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, TrainTransform(64), seed=3, masks=True)
    assert_equal(batches(dataset, workers=0), batches(dataset, workers=2))


def everything(index: DatasetIndex, **options: int) -> Mixing:
    return Mixing(mosaic=0.6, mixup=0.4, copy_paste=0.6, paste=CopyPaste(index), **options)


def test_each_row_and_epoch_has_draws_of_its_own(make_coco: MakeCoco) -> None:
    index = load_index(make_coco(document()))
    index.files[:], index.sizes[:] = [index.files[0]] * 3, index.sizes[0]  # the same picture three times
    dataset = DetectionDataset(index, TrainTransform(64), seed=1)
    samples = {dataset[epoch, row].image.numpy().tobytes() for epoch in range(3) for row in range(3)}
    assert len(samples) == 9
    assert torch.equal(dataset[2, 1].image, dataset[2, 1].image)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_number_of_workers_changes_nothing_under_any_preset_and_mixing(index: DatasetIndex, name: str) -> None:
    mixing = everything(index, epochs=3, close=1)
    dataset = DetectionDataset(index, TRANSFORMS[name](64), seed=3, mixing=mixing, masks=name == "default")
    one, two = (batches(dataset, workers, epochs=(0, 2)) for workers in (0, 2))
    assert_equal(one, two)


def test_mosaic_closes_in_workers_that_live_through_the_epochs(index: DatasetIndex) -> None:
    plain = DetectionDataset(index, TrainTransform(64), seed=3)
    mixed = DetectionDataset(index, TrainTransform(64), seed=3, mixing=Mixing(mosaic=1, mixup=1, epochs=4, close=2))
    a, b = batches(plain, 0, epochs=(0, 1, 2, 3)), batches(mixed, 2, epochs=(0, 1, 2, 3))
    assert not any(torch.equal(x.images, y.images) for x, y in zip(a[:10], b[:10], strict=True))
    assert_equal(a[10:], b[10:])
    # A run that is resumed in the third epoch gets what the whole one got.
    assert_equal(a[10 + 2 : 15], batches(mixed, 2, epochs=(2,), start=8))


def test_crowds_are_no_targets_of_mixed_samples_either(make_coco: MakeCoco) -> None:
    index = load_index(make_coco(document()))
    dataset = DetectionDataset(index, TrainTransform(64, affine={}), mixing=everything(index))
    crowd = int(index.labels[index.crowd][0])
    allowed = set(index.labels[~index.crowd].tolist())
    index.labels[index.crowd] = ({0, 1, 2} - allowed).pop()
    seen = {label for seed in range(30) for label in dataset[seed, 0].target["labels"].tolist()}
    assert seen == allowed and crowd in (0, 1, 2)


def test_epochs_differ_and_a_resumed_epoch_goes_on_where_it_stopped(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, TrainTransform(64), seed=3)
    whole = batches(dataset, workers=0)
    assert not torch.equal(whole[0].images, whole[5].images)
    assert_equal(whole[5 + 2 :], batches(dataset, workers=0, epochs=(1,), start=8))


@pytest.mark.parametrize("resize", ["letterbox", "square"])
def test_a_cache_gives_the_same_evaluation_images(index: DatasetIndex, resize: str) -> None:
    transform = EvalTransform(96, resize)
    plain, cached = DetectionDataset(index, transform), DetectionDataset(index, transform, cache="ram")
    for row in range(len(index)):
        a, b = plain[0, row], cached[0, row]
        assert torch.equal(a.image, b.image)
        assert torch.allclose(a.target["boxes"], b.target["boxes"], atol=1e-3)
        assert a.info.scale == pytest.approx(b.info.scale) and a.info.offset == b.info.offset


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 96),
    resize=st.sampled_from(sorted(RESIZES)),
)
def test_an_image_kept_at_its_size_inside_the_tensor_gives_the_same_tensor(
    height: int, width: int, size: int, resize: str
) -> None:
    image = np.random.default_rng(height * width).integers(0, 255, (height, width, 3)).astype(np.uint8)
    fit, shape = RESIZES[resize][0], RESIZES[resize][1](height, width, size)
    kept, none = content(image, shape, resize), np.zeros((0, 4), np.float32)
    assert kept.shape[:2] == shape
    assert np.array_equal(fit(kept, none, size).image, fit(image, none, size).image)


def test_batches_keep_the_contract(index: DatasetIndex) -> None:
    loader = make_loader(DetectionDataset(index, EvalTransform((64, 96)), masks=True), batch=8)
    seen = []
    for batch in loader:
        assert (batch.images.dtype, batch.images.shape[1:]) == (torch.uint8, (3, 64, 96))
        assert batch.images.is_contiguous()
        for target, info in zip(batch.targets, batch.infos, strict=True):
            where = index.boxes_of(info.index)
            assert target["labels"].tolist() == index.labels[where].tolist()
            back = info.to_original(target["boxes"]).numpy()
            assert np.allclose(back, index.boxes[where], atol=1e-3)
            assert target["masks"].shape == (len(back), 64, 96)
            assert (info.file, list(info.size)) == (index.files[info.index], index.sizes[info.index].tolist())
            seen.append(info.index)
    assert seen == list(range(20))
    assert batch.to("cpu").images.max() <= 1.0


def test_a_batch_of_any_shape_is_had_again_with_masks(index: DatasetIndex) -> None:
    plain, full = (DetectionDataset(index, EvalTransform(96), masks=masks) for masks in (False, True))
    batches, expected = (list(make_loader(dataset, batch=8, rect=True)) for dataset in (plain, full))
    assert len({batch.images.shape for batch in batches}) > 1 and "masks" not in batches[0].targets[0]
    assert_equal([plain.with_masks(batch) for batch in batches], expected)
    assert "masks" not in plain[0, 0].target


def test_crowds_are_never_targets(make_coco: MakeCoco) -> None:
    dataset = DetectionDataset(load_index(make_coco(document())), EvalTransform(64))
    assert dataset[0, 0].target["labels"].tolist() == [0]
    assert dataset[0, 0].info.image_id == 40


def test_masks_are_asked_of_data_that_have_none(make_coco: MakeCoco) -> None:
    with pytest.raises(InputError, match="segmentation"):
        DetectionDataset(load_index(make_coco(document())), EvalTransform(64), masks=True)


@pytest.mark.parametrize("cache", [False, "ram"])
def test_an_unreadable_image_gives_way_in_training_and_turns_grey_in_evaluation(
    make_coco: MakeCoco, tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: str | bool
) -> None:
    index = load_index(make_coco(document()))
    (tmp_path / "images/0.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING, "iifdet"):
        train = DetectionDataset(index, TrainTransform(64), cache=cache)
        assert [train[0, 0].info.index, train[1, 0].info.index] == [1, 1]
        evaluation = DetectionDataset(index, EvalTransform(64), cache=cache)
        sample = evaluation[0, 0]
    assert (sample.info.index, sample.target["labels"].tolist()) == (0, [0])
    assert (sample.image == 128).all()
    assert [("0.png" in r.getMessage()) for r in caplog.records] == [True, True]  # once a data set


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_go_bad_during_a_run_are_replaced_wherever_they_are_asked_for(
    index: DatasetIndex, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, resumed = (DetectionDataset(index, TrainTransform(64), seed=3, mixing=everything(index)) for _ in range(2))
    sound = list(make_loader(dataset, batch=4, workers=workers, shuffle=True, seed=3))
    bad = [0, 5, 6, 19]
    for row in bad[:3]:
        Path(index.files[row]).write_bytes(b"broken")
    Path(index.files[bad[3]]).unlink()
    loader = make_loader(resumed, batch=4, workers=workers, shuffle=True, seed=3)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, "iifdet"):
        found = list(loader)
    assert sum(len(b) for b in sound) == sum(len(b) for b in found) == 20
    rows = [info.index for batch in found for info in batch.infos]
    assert not set(rows) & set(bad)
    assert set(rows) == set(range(20)) - set(bad)
    for batch in found:
        for info in batch.infos:
            assert (info.file, info.image_id) == (index.files[info.index], index.image_ids[info.index])
    if workers == 0:
        assert all(Path(index.files[row]).name in caplog.text for row in bad)


def test_without_one_readable_image_there_is_an_error_and_no_endless_search(index: DatasetIndex) -> None:
    for file in index.files:
        Path(file).write_bytes(b"")
    with pytest.raises(InputError, match="got 20 of which not one can be read"):
        _ = DetectionDataset(index, TrainTransform(64), mixing=Mixing(mosaic=1))[0, 3]


@pytest.mark.parametrize("rect", [False, True])
def test_dropped_images_shift_nothing(make_coco: MakeCoco, tmp_path: Path, rect: bool) -> None:
    """Ids far from rows, three images missing or broken at the start: everything still speaks of the same image."""
    content = {"images": [], "annotations": [], "categories": [{"id": 7 + 5 * c, "name": f"c{c}"} for c in range(3)]}
    make_coco(content)
    for n in range(12):
        height, width = [(40, 80), (64, 64), (80, 40)][n % 3]
        cv2.imwrite(str(tmp_path / f"images/v{n:02d}.png"), np.full((height, width, 3), 20 * n, np.uint8))
        content["images"].append({"id": 900 - n, "file_name": f"v{n:02d}.png", "height": height, "width": width})
        box = {"id": n + 1, "image_id": 900 - n, "category_id": 7 + 5 * (n % 3), "iscrowd": 0}
        content["annotations"].append({**box, "bbox": [5 + n, 8, 20, 12 + n], "area": 20 * (12 + n)})
    for n in (0, 4, 9):
        (tmp_path / f"images/v{n:02d}.png").unlink()
    index = load_index(make_coco(content), max_bad=1.0)
    assert len(index) == 9
    # 1. Training: pixels, file, id, label and sampler row agree.
    dataset = DetectionDataset(index, TrainTransform(64, flip=0, hsv=(0, 0, 0), affine={}))
    for batch in make_loader(dataset, 4, shuffle=True, rect=rect):
        for image, target, info in zip(batch.images, batch.targets, batch.infos, strict=True):
            n = 900 - info.image_id
            assert info.file.endswith(f"v{n:02d}.png") and target["labels"].tolist() == [n % 3]
            assert (image[:, image.shape[1] // 2, image.shape[2] // 2] == 20 * n).all()
    # 2. Evaluation: the truth itself, handed in as detections, is perfect.
    evaluator = DetectionEvaluator(index)
    for batch in make_loader(DetectionDataset(index, EvalTransform(64)), 4, rect=rect):
        evaluator.update([{**t, "scores": torch.ones(len(t["labels"]))} for t in batch.targets], batch)
    assert evaluator.compute().metrics(index.counts())["AP"] == pytest.approx(1)


def test_boxes_annotated_on_pixels_before_the_exif_turn_fit(make_coco: MakeCoco, tmp_path: Path) -> None:
    data = make_coco(document())
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[10:30, 10:40] = 250
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "images/0.png", exif=exif)
    sample = DetectionDataset(load_index(data), EvalTransform(80))[0, 0]
    x1, y1, x2, y2 = sample.target["boxes"][0].int().tolist()
    assert (sample.image[:, y1:y2, x1:x2] == 250).all()


def test_an_image_of_another_size_than_annotated_is_brought_to_it(
    make_coco: MakeCoco, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_coco(document())
    cv2.imwrite(str(tmp_path / "images/0.png"), np.zeros((120, 160, 3), np.uint8))
    with caplog.at_level(logging.WARNING, "iifdet"):
        image = DetectionDataset(load_index(data), EvalTransform(80)).read(0)
    assert image.shape == (60, 80, 3)
    assert "expected 60x80" in caplog.text


def test_sampler_visits_every_row_once_an_epoch() -> None:
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(k.row for k in first) == sorted(k.row for k in second) == list(range(50))
    assert [k.row for k in first] != [k.row for k in second]
    sampler.set_epoch(1, start=45)
    assert (len(sampler), list(sampler)) == (5, second[45:])


def test_real_images_are_loaded(data_dir: Path) -> None:
    index = load_index("coco128", "val").select(range(8))
    batch = next(iter(make_loader(DetectionDataset(index, EvalTransform(128)), batch=8)))
    assert batch.images.shape == (8, 3, 128, 128)
    assert 40 < batch.images.float().mean() < 200
