"""Checkpoints and files: whole or not at all, and no code inside."""

from __future__ import annotations

import errno
import math
import os
import pickle
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

import iifdet
from iifdet import files
from iifdet.build.model import load_model
from iifdet.checkpoint import FORMAT, read_checkpoint, save_checkpoint, to_cpu
from iifdet.errors import InputError
from iifdet.files import atomic_write
from iifdet.longtail import ClassCounts
from iifdet.models import create_model


def make_model() -> Any:
    torch.manual_seed(0)
    model = create_model("yolov3-nano", 3, width=0.0625, depth=0.1, class_loss="focal")
    model.names = ["car", "bus", "tram"]
    model.counts = ClassCounts(model.names, torch.tensor([9, 4, 1]), torch.tensor([20, 5, 1]), 12)
    model.set_adjustment(torch.tensor([1.0, 1.5, 2.5]), torch.tensor([0.0, 0.1, 0.2]), when="infer", center="mean")
    return model


def test_a_checkpoint_keeps_weights_names_counts_adjustment_and_activation(tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(tmp_path / "a.pt", model, recipe={"lr": 0.1})
    loaded: Any = iifdet.load(tmp_path / "a.pt")
    assert not loaded.training and loaded.names == model.names
    assert loaded.counts.images.tolist() == [9, 4, 1] and loaded.counts.instances.tolist() == [20, 5, 1]
    assert loaded.counts.num_images == 12
    assert (loaded.class_loss, loaded.class_activation) == ("focal", "sigmoid")
    assert (loaded.adjust.when, loaded.adjust.center) == ("infer", "mean")
    assert loaded.adjust.scale.tolist() == [1.0, 1.5, 2.5]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(image)[0]["scores"], model.eval()(image)[0]["scores"])


def test_averaged_weights_are_the_ones_that_are_loaded(tmp_path: Path) -> None:
    model = make_model()
    average = {k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_checkpoint(tmp_path / "a.pt", model, ema=average)
    key = "backbone.stem.conv.weight" if "backbone.stem.conv.weight" in average else next(iter(average))
    assert torch.equal(iifdet.load(tmp_path / "a.pt").state_dict()[key], average[key])


def test_a_folded_model_stays_folded(tmp_path: Path) -> None:
    model = make_model()
    model.fold()
    save_checkpoint(tmp_path / "a.pt", model)
    assert iifdet.load(tmp_path / "a.pt").adjust.folded


def test_a_cost_sensitive_class_weight_survives(tmp_path: Path) -> None:
    model = make_model()
    model.set_class_weight(torch.tensor([1.0, 2.0, 3.0]))
    save_checkpoint(tmp_path / "a.pt", model)
    loaded: Any = iifdet.load(tmp_path / "a.pt")
    assert loaded.class_weight.tolist() == [1.0, 2.0, 3.0]


def test_saved_tensors_are_copies() -> None:
    value = torch.zeros(2)
    copied = to_cpu({"a": [value, (value, 1)]})
    value += 1
    assert copied["a"][0].tolist() == [0, 0] and copied["a"][1][1] == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_named_in_one_line(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make_model())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="truncated or foreign") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"model": 1}, [1, 2], torch.zeros(2), {"format": "iifdet-99"}])
def test_a_foreign_file_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match=f"expected an iifdet checkpoint \\({FORMAT}\\)"):
        read_checkpoint(tmp_path / "foreign.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(InputError, match=r"the folder .*; name a file such as"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
def test_damaged_bytes_are_refused_and_the_checkpoint_before_offered(tmp_path: Path, place: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_model())
    shutil.copyfile(path, tmp_path / "last.prev.pt")
    data = bytearray(path.read_bytes())
    start = int(place * len(data))
    data[start : start + 400] = bytes(byte ^ 0xFF for byte in data[start : start + 400])
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged in|truncated or foreign") as caught:
        read_checkpoint(path)
    assert str(caught.value).endswith(f"weights={tmp_path / 'last.prev.pt'} is the one before it")


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = make_model()
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = math.nan
    save_checkpoint(tmp_path / "a.pt", model)
    with pytest.raises(InputError, match=f"NaN or infinity in {re.escape(name)} of "):
        load_model(tmp_path / "a.pt")


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("plain", [True, False])
def test_code_inside_a_checkpoint_does_not_run(tmp_path: Path, plain: bool) -> None:
    content = {"format": FORMAT, "model": Payload(tmp_path / "executed")}
    path = tmp_path / "evil.pt"
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(InputError):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_atomic_write_replaces_on_success_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in (b"old", b"new"):
        with atomic_write(path) as file:
            file.write(text)
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_write_leaves_the_old_file_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half of the ne")
        raise error
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_is_said_in_one_line_and_leaves_the_old_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, previous, model = tmp_path / "last.pt", tmp_path / "last.prev.pt", make_model()
    for _ in range(2):
        save_checkpoint(path, model, previous=previous)
    before = path.read_bytes(), previous.read_bytes()
    full = os.open("/dev/full", os.O_WRONLY)  # the kernel itself says ENOSPC
    monkeypatch.setattr(files.tempfile, "mkstemp", lambda **_: (full, str(tmp_path / "none")))
    with pytest.raises(OSError, match=r"last.pt cannot be written \(No space left on device\); .*resume=") as caught:
        save_checkpoint(path, model, previous=previous)
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)
    assert (path.read_bytes(), previous.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.prev.pt", "last.pt"]


@pytest.mark.parametrize("links", [True, False])
def test_the_file_before_stays_beside_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path, previous = tmp_path / "last.pt", tmp_path / "last.prev.pt"
    for text in (b"one", b"two", b"three"):
        with atomic_write(path, previous=previous) as file:
            file.write(text)
    assert (path.read_bytes(), previous.read_bytes()) == (b"three", b"two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.prev.pt", "last.pt"]


def test_file_and_folder_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    true_sync, true_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        true_sync(handle)

    def replace(old: Any, new: Any) -> None:
        calls.append("rename")
        true_replace(old, new)

    monkeypatch.setattr(os, "fsync", sync), monkeypatch.setattr(os, "replace", replace)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert calls == ["sync file", "rename", "sync folder"]
