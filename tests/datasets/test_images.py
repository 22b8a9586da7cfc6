"""Reading pixels: what people see is what comes out, and what is broken is said to be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from iifdet.datasets import ImageError, read_image
from iifdet.datasets.images import decode_image, existing, image_size, image_sizes


@pytest.fixture
def picture() -> np.ndarray:
    """(40, 60, 3): red to the left, green to the right, with a blue upper edge, so that every turn shows."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30, 0], image[:, 30:, 1], image[:8, :, 2] = 200, 150, 250
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(tmp_path: Path, picture: np.ndarray, orientation: int, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(file, exif=exif, quality=95)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    got = read_image(file)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 3
    assert image_size(file) == got.shape[:2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, picture: np.ndarray, mode: str) -> None:
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    source = Image.fromarray(picture).convert(mode)
    source.save(file, **({"quality": 100} if mode == "CMYK" else {}))
    got = read_image(file)
    assert (got.shape, got.dtype, got.flags.c_contiguous) == ((40, 60, 3), np.uint8, True)
    with Image.open(file) as image:
        assert np.abs(got.astype(int) - np.asarray(image.convert("RGB"))).mean() < 4


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_16_bit_images_keep_their_upper_8_bits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    rgb = np.stack([deep] * 3, -1) if deep.ndim == 2 else deep[..., ::-1]
    assert np.abs(read_image(tmp_path / "a.png") - rgb / 257).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_errors_and_not_half_grey_pictures(tmp_path: Path, suffix: str, share: float) -> None:
    file = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(file), noise)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=f"a{suffix}: truncated"):
        read_image(file)


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"quality": 40}, {"subsampling": 0}, {"progressive": True}])
def test_a_jpeg_has_the_pixels_that_opencv_gives_it(
    tmp_path: Path, picture: np.ndarray, mode: str, options: dict[str, int]
) -> None:
    file, exif = tmp_path / "a.jpg", Image.Exif()
    for exif[0x0112] in (1, 6):
        source = cv2.resize(picture, (301, 203), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(source).convert(mode).save(file, exif=exif, **options)
        for orient, flag in ((True, 0), (False, cv2.IMREAD_IGNORE_ORIENTATION)):
            expected = cv2.imread(str(file), cv2.IMREAD_COLOR | flag)[..., ::-1]
            got = read_image(file, orient=orient)
            assert got.shape == expected.shape and got.flags.c_contiguous
            assert np.array_equal(got, expected)


def test_exif_after_another_segment_of_its_kind_turns_the_picture_too(tmp_path: Path, picture: np.ndarray) -> None:
    file, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(file, exif=exif)
    data, xmp = file.read_bytes(), b"http://ns.adobe.com/xap/1.0/\0<x/>"
    file.write_bytes(data[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + data[2:])
    assert read_image(file).shape == (60, 40, 3) and image_size(file) == (60, 40)


@given(places=st.lists(st.tuples(st.integers(2, 900), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_jpeg_is_what_opencv_takes_it_for(places: list[tuple[int, int]]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    data = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    for place, value in places:
        data[place % (len(data) - 4) + 2] = value
    try:
        expected = cv2.imdecode(np.frombuffer(bytes(data), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        expected = None
    try:
        got = decode_image(bytes(data), "a.jpg")
    except ImageError as error:
        assert expected is None or "truncated" in str(error)  # of which OpenCV would paint the rest grey
    else:
        assert expected is not None and np.array_equal(got, expected[..., ::-1])


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xd9", None])
def test_what_is_no_image_is_an_error_that_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.jpg"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg: ."):
        read_image(file)
    with pytest.raises(ImageError, match=r"a\.jpg: ."):
        image_size(file)


def test_sizes_of_many_files_come_with_the_reasons_of_the_bad_ones(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((3, 5, 3), np.uint8))
    (tmp_path / "b.png").write_text("x")
    sizes, faults = image_sizes([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert sizes.tolist() == [[3, 5], [0, 0]]
    assert faults == {1: "not an image"}
    assert existing([str(tmp_path / "a.png"), str(tmp_path / "c.png"), "/no/such/folder/a.png"]).tolist() == [1, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_from_the_header_are_those_of_the_decoded_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Pillow turns TIFF sizes itself in some versions, and leaves the others to us."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 60)).save(tmp_path / f"a.{suffix}", exif=exif)
    assert image_size(tmp_path / f"a.{suffix}") == read_image(tmp_path / f"a.{suffix}").shape[:2]
