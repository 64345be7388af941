"""From the bytes of an image file to an RGB picture, or to an error that names the file and says why not.

What the picture is does not depend on the file's format:

- Transparency is laid over white, as a viewer shows it: colours under transparent pixels are often leftovers.
- 16-bit grey is scaled linearly, 0..65535 to 0..255, and not clipped. 32-bit integers are taken as 8 bits where none
  exceeds 255, else as 16 bits; floats as 0..1 where none exceeds 1, else as 0..255.
- The EXIF orientation is applied; of an animation the first frame counts.
- A truncated file is an error, and so is one of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (about 90 million),
  for it may be a decompression bomb.
"""

from __future__ import annotations

import errno
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.core.errors import DataError

_ORIENTATION = 0x0112
_TRANSPARENT_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
# A fault of the machine, not of the image: skipping images because of it would hide it.
_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class CorruptImageError(DataError):
    """An image that cannot be decoded.

    Args:
        name: Which one, e.g. "train/cat/7.jpg".
        reason: Why not, without a full stop.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the image {name} cannot be decoded: {reason}.", "Repair or remove it.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[CorruptImageError], tuple[str, str]]:
        return type(self), (self.name, self.reason)


def decode_image(encoded: bytes | None, name: str) -> Image.Image:
    """Decode one image.

    Args:
        encoded: The content of an image file, or None where there is none.
        name: For the message.

    Returns:
        A picture in mode "RGB" of any size, which holds no file open.

    Raises:
        CorruptImageError: It cannot be decoded, is cut short, or has too many pixels.
    """
    if not encoded:
        raise CorruptImageError(name, "there is no image" if encoded is None else "the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                raise CorruptImageError(name, f"{image.width} x {image.height} pixels are too many")
            image.load()
            return _to_rgb(_upright(image))
    except CorruptImageError:
        raise
    except Exception as error:  # the readers of broken files raise whatever the damage leads them to
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            raise
        raise CorruptImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image of a known format"
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged notes beside a good picture
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # a plain picture instead of an open file
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(image)).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    highest = values.max(initial=0.0)
    if image.mode == "F":
        scale = 255.0 if highest <= 1 else 1.0
    else:
        scale = 255 / 65535 if image.mode.startswith("I;16") or highest > 255 else 1.0
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
