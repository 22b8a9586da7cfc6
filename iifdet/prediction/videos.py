"""Frames out of a video or camera one at a time, and frames into a video file."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image as Pillow

from iifdet.datasets import ImageError
from iifdet.prediction.arrays import Image

log = logging.getLogger("iifdet")

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".gif")
#: Frames a second where a file or camera does not say.
FPS = 25.0
#: Codec and suffix of written videos, in order of preference.
CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))


class Frame(NamedTuple):
    """One frame: its number from 0, the pixels (H, W, 3) uint8 RGB, frames a second of the video."""

    number: int
    image: Image
    fps: float


def is_video(file: str) -> bool:
    """Whether a file is called like a video."""
    return file.lower().endswith(SUFFIXES)


def is_still(file: str) -> bool:
    """Whether a file that is called like a video is one picture: a GIF of a single frame."""
    if not file.lower().endswith(".gif"):
        return False
    try:
        with Pillow.open(file) as image:
            return not getattr(image, "is_animated", False)  # counting the frames would read them all
    except (OSError, ValueError):  # what is wrong with it is said when its turn comes
        return False


def read_frames(source: str | int, stride: int = 1, most: int = 0) -> Iterator[Frame]:
    """Every ``stride``-th frame of a video file (its path) or camera (its number); one at a time is in memory.

    Args:
        most: end after so many frames; 0 is all of them.

    Raises:
        ImageError: it cannot be opened, or has not one frame.
    """
    capture = _open(source)
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = (fps if 0 < fps < 1000 else FPS) / stride
        count = 0
        while not most or count < most:
            image = next_frame(capture)
            if image is None:
                break
            frame = Frame(count * stride, image, fps)
            del image  # nothing here holds a frame while the next one is read
            yield frame
            del frame
            count += 1
            if not all(capture.grab() for _ in range(stride - 1)):
                break
        if not count:
            raise ImageError(f"{_name(source)}: not one frame can be read")
    finally:
        capture.release()


def next_frame(capture: Any) -> Image | None:
    """The next frame, (H, W, 3) uint8 RGB, or None at the end."""
    ok, image = capture.read()
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8) if ok else None


def _open(source: str | int) -> Any:
    with _silence():
        capture = cv2.VideoCapture(source) if isinstance(source, int) else cv2.VideoCapture(source, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        if isinstance(source, int):
            raise ImageError(f"{_name(source)}: cannot be opened; check its number and that no other program has it")
        raise ImageError(f"{source}: " + ("not a video" if os.path.exists(source) else "no such file"))
    return capture


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """OpenCV and FFmpeg would write lines of their own about a broken file, beside the one that there should be."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _name(source: str | int) -> str:
    return f"camera {source}" if isinstance(source, int) else source


class VideoFile:
    """A video file that grows frame by frame; it has its name only once it is closed.

    Args:
        stem: path without a suffix: ``.mp4``, or ``.avi`` where OpenCV cannot write the former.
        fps: frames a second.
        size: (height, width); frames of another size are brought to it.
    """

    def __init__(self, stem: Path, fps: float, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self.path: Path | None = None
        for codec, suffix in CODECS:
            self._part = stem.with_name(f".{stem.name}.part{suffix}")
            fourcc = cv2.VideoWriter_fourcc(*codec)  # type: ignore[attr-defined]
            self._writer = cv2.VideoWriter(str(self._part), fourcc, fps, (self.width, self.height))
            if self._writer.isOpened():
                self.path = stem.with_name(stem.name + suffix)
                return
        log.warning("%s: OpenCV has no codec here to write a video; the other outputs are complete", stem)

    def write(self, image: Image) -> None:
        """Append an (H, W, 3) uint8 RGB frame."""
        if image.shape[:2] != (self.height, self.width):
            image = np.asarray(cv2.resize(image, (self.width, self.height)), dtype=np.uint8)
        if self.path is not None:
            self._writer.write(np.ascontiguousarray(image[..., ::-1]))

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._writer.release()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._part, self.path)
