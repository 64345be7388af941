from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from harness.core.errors import DataError
from sdssl.image_decoding import CorruptImageError, decode_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 24, height: int = 17) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("PPM", {}), ("TIFF", {})]
)
def test_plain_pictures_come_back(kind: str, options: dict[str, object]) -> None:
    image = decode_image(encoded(picture(), kind, **options), "x")
    assert (pixels(image) == pixels(picture())).all()


def test_jpeg_is_read_as_pil_reads_it() -> None:
    data = encoded(picture(), "JPEG")
    assert (pixels(decode_image(data, "x")) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK")
    assert np.abs(pixels(decode_image(encoded(image, "JPEG", quality=95), "x")) - [200, 100, 50]).max() < 12


def test_grey_and_palette_and_one_bit_become_rgb() -> None:
    for mode in ("L", "1", "P"):
        image = picture().convert(mode)
        assert (pixels(decode_image(encoded(image), "x")) == pixels(image.convert("RGB"))).all()


def over_white(colour: tuple[int, int, int], alpha: int) -> np.ndarray:
    return np.array([255 + (c - 255) * alpha / 255 for c in colour])


@pytest.mark.parametrize("alpha", [0, 51, 128, 255])
def test_transparency_lies_over_white(alpha: int) -> None:
    image = decode_image(encoded(Image.new("RGBA", (3, 3), (200, 10, 0, alpha))), "x")
    assert np.abs(pixels(image) - over_white((200, 10, 0), alpha)).max() <= 1
    grey = decode_image(encoded(Image.new("LA", (3, 3), (100, alpha))), "x")
    assert np.abs(pixels(grey) - over_white((100, 100, 100), alpha)).max() <= 1


def test_a_transparent_colour_of_a_palette_or_key_is_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putdata([0, 1])
    assert pixels(decode_image(encoded(palette, transparency=0), "x"))[0].tolist() == [[255] * 3, [200, 0, 0]]
    key = Image.new("RGB", (2, 1), (1, 2, 3))
    key.putpixel((1, 0), (9, 8, 7))
    assert pixels(decode_image(encoded(key, transparency=(1, 2, 3)), "x"))[0].tolist() == [[255] * 3, [9, 8, 7]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535, 300, 1000]], dtype=np.uint16)
    expected = [[round(v / 257)] * 3 for v in values[0].tolist()]
    for kind in ("PNG", "TIFF"):
        assert pixels(decode_image(encoded(Image.fromarray(values), kind), "x"))[0].tolist() == expected


def test_wide_integers_and_floats_have_a_fixed_scale() -> None:
    def first_row(values: np.ndarray) -> list[int]:
        return pixels(decode_image(encoded(Image.fromarray(values), "TIFF"), "x"))[0, :, 0].tolist()

    assert first_row(np.array([[0, 7, 255]], dtype=np.int32)) == [0, 7, 255]
    assert first_row(np.array([[0, 257, 65535]], dtype=np.int32)) == [0, 1, 255]
    assert first_row(np.array([[0, 0.5, 1]], dtype=np.float32)) == [0, 128, 255]
    assert first_row(np.array([[-3, 0.5, 100, 400, np.nan]], dtype=np.float32)) == [0, 0, 100, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    # What a camera stores so that this orientation shows the picture upright.
    undo = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE"]
    undo.append("ROTATE_270")
    stored = picture() if orientation == 1 else picture().transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    assert (pixels(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) == pixels(picture())).all()
    assert (pixels(decode_image(data, "x")) == pixels(picture())).all()


def test_damaged_exif_beside_a_good_picture_is_passed_over() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffjunk")
    assert decode_image(data, "x").size == picture().size


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(decode_image(data, "x"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_corrupt(kind: str, part: float) -> None:
    data = encoded(picture(64, 64), kind)
    assert decode_image(data, "x").size == (64, 64)
    with pytest.raises(CorruptImageError):
        decode_image(data[: int(len(data) * part)], "x")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("data", [None, b"", b"not an image", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_image_is_corrupt(data: bytes | None) -> None:
    with pytest.raises(CorruptImageError, match=r"the image train/cat/7\.jpg cannot be decoded: ") as error:
        decode_image(data, "train/cat/7.jpg")
    assert isinstance(error.value, DataError)
    assert error.value.name == "train/cat/7.jpg"
    assert error.value.reason
    assert "BytesIO" not in str(error.value)
    copy = pickle.loads(pickle.dumps(error.value))
    assert (copy.name, copy.reason, str(copy)) == (error.value.name, error.value.reason, str(error.value))


def test_a_decompression_bomb_is_corrupt_before_it_is_unpacked() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (10_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(CorruptImageError, match="pixels"):
                decode_image(data, "bomb.png")


def test_a_fault_of_the_machine_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", no_more_files)
    with pytest.raises(OSError, match="Too many open files"):
        decode_image(b"x", "x")
