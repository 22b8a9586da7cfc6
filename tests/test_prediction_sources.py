"""Every kind of source gives the same picture; what is wrong with one is said in one line."""

from __future__ import annotations

import gc
import http.server
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import iifdet
from iifdet.datasets import read_image
from iifdet.errors import InputError
from iifdet.prediction import Result, fetching, videos

pytest_plugins = ["prediction_fixtures"]

Look = Callable[..., list[Result]]
Spot = Callable[..., np.ndarray]
WriteImage = Callable[[Path, np.ndarray], Path]
WriteVideo = Callable[..., Path]


# -- pictures in memory ------------------------------------------------------------------------------------------------


def test_arrays_tensors_and_pil_images_are_the_picture_that_a_file_is(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path
) -> None:
    image = spot()
    file = write_image(tmp_path / "a.png", image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    alpha = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    sources = [image, tensor, tensor / 255, image / 255.0, Image.fromarray(image), Image.open(file), alpha]
    sources += [Image.fromarray(alpha), image.astype(np.uint16) * 257, np.asfortranarray(image)]
    results = look([*sources, str(file), file])
    for result in results:
        assert np.array_equal(result.image, image) and torch.equal(result.boxes, results[0].boxes)
    stacks = look([np.stack([image, image]), torch.stack([tensor, tensor])])
    assert [r.path for r in stacks] == ["image0", "image1", "image2", "image3"]


@pytest.mark.parametrize("kind", ["grey", "16 bit", "turned", "palette"])
def test_odd_files_look_as_in_training_and_pil_images_of_them_do_too(look: Look, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.png"
    grey = np.random.default_rng(0).integers(0, 256, (30, 50)).astype(np.uint8)
    picture = {
        "grey": Image.fromarray(grey),
        "16 bit": Image.fromarray(grey.astype(np.uint16) * 256 + 200),
        "turned": Image.fromarray(grey),
        "palette": Image.fromarray(grey).convert("P"),
    }[kind]
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "turned" else 1
    picture.save(file, exif=exif)
    by_path, by_pil = look([file, Image.open(file)])
    assert by_path.size == ((50, 30) if kind == "turned" else (30, 50))
    assert np.array_equal(by_path.image, read_image(file)) and np.array_equal(by_pil.image, by_path.image)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"1, 3 or 4 channels, got the shape \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), "got the shape"),
        (np.full((8, 8, 3), 200.0), r"floats in \[0, 1\], got 200 to 200"),
        (np.full((8, 8, 3), np.nan), r"floats in \[0, 1\]"),
        (np.zeros((8, 8, 3), np.int64), "got int64"),
        (torch.zeros(8, 8), "expected a tensor"),
        ([], "got none"),
        ({"a": 1}, "expected a file, folder"),
        (True, "expected a file, folder"),
        (-1, "expected a camera number"),
        ("absent.jpg", "'absent.jpg', which does not exist"),
        ("absent/*.jpg", "match absent"),
        (".", "expected images or videos in ., found none"),
    ],
)
def test_what_is_no_picture_is_refused(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        look(source)


# -- files -------------------------------------------------------------------------------------------------------------


def test_folders_globs_and_lists_name_their_files(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in/a.png", "in/deep/b.jpg", "in/c [1].png"):
        write_image(tmp_path / name, spot())
    (tmp_path / "in" / "notes.md").write_text("no picture")
    monkeypatch.chdir(tmp_path)

    def paths(source: Any) -> list[str]:
        return [r.path for r in look(source)]

    everything = ["in/a.png", "in/c [1].png", "in/deep/b.jpg"]
    assert paths("in") == everything and sorted(paths("in/**")) == everything
    assert paths("in/c [1].png") == ["in/c [1].png"] and paths("in/*/*.jpg") == ["in/deep/b.jpg"]
    (tmp_path / "in" / "list.txt").write_text("in/a.png\n\n./deep/b.jpg\ndeep\n")
    assert paths("in/list.txt") == ["in/a.png", "in/deep/b.jpg", "in/deep/b.jpg"]
    assert paths(["in/a.png", Path("in/deep")]) == ["in/a.png", "in/deep/b.jpg"]


def test_bad_files_are_skipped_in_one_line_each_and_counted(
    look: Look, spot: Spot, write_image: WriteImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "a.png", spot())
    (tmp_path / "b.jpg").write_text("no picture")
    (tmp_path / "c.mp4").write_bytes(b"no video")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with caplog.at_level("WARNING", logger="iifdet"):
        assert [Path(r.path).name for r in look([tmp_path, "absent.jpg"])] == ["a.png"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines[:-1]] == ["skipped"] * 4 and lines[-1] == "4 of 5 could not be read"
    assert all("\n" not in line for line in lines)
    with pytest.raises(InputError, match="expected readable images, got none in 1"):
        look(tmp_path / "c.mp4")


# -- videos and cameras ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "batch"), [(200, 6), (20, 1)])
def test_a_video_is_streamed_with_no_more_than_a_batch_of_frames_alive(
    bright: Any, write_video: WriteVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int, batch: int
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most, read = 0, videos.next_frame

    class Counted(np.ndarray):  # arrays cannot be hashed
        __hash__ = object.__hash__  # type: ignore[assignment]
        __eq__ = object.__eq__  # type: ignore[assignment]

    def counted(capture: Any) -> Any:
        nonlocal most
        frame = read(capture)
        if frame is not None:
            frame = frame.view(Counted)
            alive.add(frame)
            most = max(most, len(alive))
        return frame

    monkeypatch.setattr(videos, "next_frame", counted)
    source = write_video(tmp_path / "v.avi", frames)
    keys: dict[str, Any] = {"model": bright, "imgsz": 64, "batch": batch, "save": True, "project": str(tmp_path)}
    gc.disable()  # what is let go must be gone at once
    try:
        seen = []
        for result in iifdet.predict(source, stream=True, **keys):
            seen.append((result.frame, len(result)))
            del result
    finally:
        gc.enable()
    assert seen == [(i, 2) for i in range(frames)] and most == batch and not alive
    assert _frames_of(tmp_path / "predict" / "pictures" / "v.mp4") == frames


def _frames_of(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def test_a_gif_of_one_frame_is_a_picture_and_of_more_a_video(look: Look, spot: Spot, tmp_path: Path) -> None:
    frames = [Image.fromarray(spot()).quantize(64), Image.fromarray(255 - spot()).quantize(64)]
    frames[0].save(tmp_path / "still.gif")
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (still,) = look(tmp_path / "still.gif", save=True, project=tmp_path / "runs", name="a")
    assert still.frame is None and [f.name for f in (tmp_path / "runs/a/pictures").iterdir()] == ["still.jpg"]
    (as_png,) = look(frames[0].convert("RGB"))
    assert np.array_equal(still.image, as_png.image) and np.array_equal(still.boxes, as_png.boxes)
    assert [result.frame for result in look(tmp_path / "moving.gif")] == [0, 1]
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"broken\.gif"):
        look(tmp_path / "broken.gif")


def test_frames_are_left_out_by_stride_and_limit(look: Look, write_video: WriteVideo, tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.avi", 20)
    results = look(source, frame_stride=3)
    assert [r.frame for r in results] == [0, 3, 6, 9, 12, 15, 18]
    assert results[0].fps == pytest.approx(10 / 3)
    # The square moves a pixel a frame, so the boxes tell that these are the right frames.
    assert [round(float(r.boxes[0, 0])) for r in results] == pytest.approx([0, 3, 6, 9, 12, 15, 18], abs=1)
    assert [r.frame for r in look(source, max_frames=2)] == [0, 1]
    with pytest.raises(InputError, match="not kept; use stream=True"):
        results[0].plot()
    assert next(iter(look(source, stream=True, max_frames=1))).plot().shape == (64, 64, 3)


def test_a_camera_is_a_number_and_has_no_end(look: Look, spot: Spot, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def __init__(self, number: int) -> None:
            assert number == 0
            self.released = False

        def isOpened(self) -> bool:
            return True

        def get(self, _: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray]:
            return True, spot()

        def release(self) -> None:
            self.released = True

    monkeypatch.setattr(videos.cv2, "VideoCapture", Camera)
    with pytest.raises(InputError, match="camera has no end"):
        look(0)
    assert [(r.path, r.frame, len(r)) for r in look("0", max_frames=3)] == [("camera 0", i, 2) for i in range(3)]


# -- the web -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, spot: Spot, write_image: WriteImage) -> Iterator[str]:
    """A web server on this machine with one picture, a text, and a redirect out of the web."""
    (tmp_path / "site").mkdir()
    data = write_image(tmp_path / "site" / "a.png", spot()).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/out"):
                self.send_response(302)
                self.send_header("Location", f"file://{tmp_path}/site/a.png")
                self.end_headers()
                return
            body = {"/a%20b.png?x=1": data, "/text": b"hello"}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_url_is_a_picture_or_one_line_that_says_why_not(
    look: Look, spot: Spot, site: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (result,) = look(f"{site}/a%20b.png?x=1")
    assert np.array_equal(result.image, spot()) and result.stem == "a_b"
    for path, says in {"text": "not an image", "absent": "404", "out": "302"}.items():
        caplog.clear()
        with pytest.raises(InputError, match="expected readable images"):
            look(f"{site}/{path}")
        assert says in caplog.text
    monkeypatch.setattr(fetching, "LARGEST", 100)
    with pytest.raises(InputError):
        look(f"{site}/a%20b.png?x=1")
    assert "cannot be fetched (more than" in caplog.text
    with pytest.raises(InputError):
        look("http://127.0.0.1:9/a.png")
    assert "check the address and the network" in caplog.text
