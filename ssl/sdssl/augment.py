"""Per-sample augmentation: two random views of an image for training, one fixed view for reading.

A view is a pure function of the picture and a seed: it draws from a generator of its own, so that global random states
are neither read nor changed, and a resumed run sees the same views. Everything runs on PIL images, where the 8-bit
operations are several times quicker than on tensors, and gives the same pixels as torchvision's transforms on them.

Source: MoCo v3 (Chen, Xie & He, ICCV 2021), https://github.com/facebookresearch/moco-v3; it follows BYOL's views.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter

from harness.core.errors import ConfigurationError, UnknownNameError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RATIO = (3 / 4, 4 / 3)
_SOLARIZED = [value if value < 128 else 255 - value for value in range(256)] * 3
_HUES = [value % 256 for value in range(512)]


@dataclass(frozen=True)
class Recipe:
    """How strongly a view changes an image; the defaults are MoCo v3's.

    Attributes:
        crop_scale: Range of the crop's area as a part of the image's.
        jitter: Half widths of the ranges of brightness, contrast, saturation (around 1) and hue (around 0).
        jitter_chance: Probability of the colour jitter.
        grey_chance: Probability of losing the colours.
        blur_sigma: Range of the Gaussian blur's standard deviation, in pixels of the view.
        blur_chance: Probability of the blur.
        solarize_chance: Probability of inverting all values from 128 up.
        flip_chance: Probability of a horizontal flip.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_chance: float = 0.8
    grey_chance: float = 0.2
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_chance: float = 1.0
    solarize_chance: float = 0.0
    flip_chance: float = 0.5


# "small" is for images of at most 64 px: there a crop of 8 % is a few pixels, and a blur of 2 px leaves nothing.
_RECIPES = {
    "imagenet": (Recipe(), Recipe(blur_chance=0.1, solarize_chance=0.2)),
    "small": (
        Recipe(crop_scale=(0.2, 1.0), blur_chance=0.0),
        Recipe(crop_scale=(0.2, 1.0), blur_chance=0.0, solarize_chance=0.2),
    ),
}
AUGMENTATIONS = tuple(_RECIPES)
SMALL_IMAGE = 64  # pixels


@dataclass(frozen=True)
class Draw:
    """What a view does to one image.

    Attributes:
        box: Left, top, right and bottom of the crop, in pixels.
        jitter: The steps of the colour jitter in order, 0 brightness, 1 contrast, 2 saturation, 3 hue, each with its
            factor; empty where there is none.
        grey: Whether colours are lost.
        sigma: Standard deviation of the blur, or None.
        solarize: Whether bright values are inverted.
        flip: Whether left and right are exchanged.
    """

    box: tuple[int, int, int, int]
    jitter: tuple[tuple[int, float], ...]
    grey: bool
    sigma: float | None
    solarize: bool
    flip: bool


class View:
    """One random view: crop, resize (bilinear), colour jitter, grey, blur, solarize, flip, normalise, in this order.

    Args:
        recipe: What is done how often.
        image_size: S, side of the result in pixels.
        mean: Three channel means for values from 0 to 1.
        std: Three channel standard deviations.
        number: Of the view among those of an image; the same seed draws otherwise for another number.

    Raises:
        ConfigurationError: The size is below 1, or mean or std cannot be used.
    """

    def __init__(
        self, recipe: Recipe, image_size: int, mean: Sequence[float], std: Sequence[float], number: int = 0
    ) -> None:
        self.recipe = recipe
        self.image_size = image_size
        self.number = number
        self._to_tensor = ToTensor(image_size, mean, std)

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """A view of a picture, which stays as it is.

        Args:
            image: Any size; converted to mode "RGB" where it has another.
            seed: 0 or more.

        Returns:
            (3, S, S) float32, normalised; always the same for the same picture and seed.
        """
        image = image if image.mode == "RGB" else image.convert("RGB")
        return self._to_tensor(self.apply(image, self.draw(image.width, image.height, seed)))

    def draw(self, width: int, height: int, seed: int) -> Draw:
        """Draw what happens to an image of `width` x `height` pixels under `seed`."""
        # Two numbers of one seed, and two seeds of one number, never share a stream.
        generator = random.Random(2 * int(seed) + self.number)  # noqa: S311
        chance, between, recipe = generator.random, generator.uniform, self.recipe
        box = _draw_crop(generator, width, height, recipe.crop_scale)
        jitter: tuple[tuple[int, float], ...] = ()
        if chance() < recipe.jitter_chance:
            steps = list(range(4))
            generator.shuffle(steps)
            middles = (1.0, 1.0, 1.0, 0.0)
            widths = recipe.jitter
            jitter = tuple((s, between(middles[s] - widths[s], middles[s] + widths[s])) for s in steps)
        grey = chance() < recipe.grey_chance
        sigma = between(*recipe.blur_sigma) if chance() < recipe.blur_chance else None
        solarize = chance() < recipe.solarize_chance
        return Draw(box, jitter, grey, sigma, solarize, flip=chance() < recipe.flip_chance)

    def apply(self, image: Image.Image, draw: Draw) -> Image.Image:
        """Do to a picture in mode "RGB" what was drawn; returns one of S x S pixels."""
        size = (self.image_size, self.image_size)
        image = image.crop(draw.box).resize(size, Image.Resampling.BILINEAR)
        for step, factor in draw.jitter:
            image = _JITTER[step](image, factor)
        if draw.grey:
            grey = image.convert("L")
            image = Image.merge("RGB", (grey, grey, grey))
        if draw.sigma is not None:
            image = image.filter(ImageFilter.GaussianBlur(draw.sigma))
        if draw.solarize:
            image = image.point(_SOLARIZED)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.flip else image


def augmentation_for(image_size: int) -> str:
    """The recipe for images of a size: "small" up to 64 pixels."""
    return "small" if image_size <= SMALL_IMAGE else "imagenet"


def two_views(name: str, image_size: int, mean: Sequence[float], std: Sequence[float]) -> tuple[View, View]:
    """The two views of an augmentation; give both the same seed for an image, they draw apart all the same.

    Args:
        name: One of `AUGMENTATIONS`.
        image_size: S, side of the views in pixels.
        mean: Three channel means for values from 0 to 1.
        std: Three channel standard deviations.

    Raises:
        UnknownNameError: There is no such augmentation.
        ConfigurationError: The size is below 1, or mean or std cannot be used.
    """
    if name not in _RECIPES:
        raise UnknownNameError("augmentation", name, AUGMENTATIONS)
    first, second = _RECIPES[name]
    return View(first, image_size, mean, std, 0), View(second, image_size, mean, std, 1)


class ToTensor:
    """A picture in mode "RGB" as a normalised tensor: (3, height, width) float32."""

    def __init__(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        if image_size < 1:
            raise ConfigurationError(f"an image size of {image_size} is not possible.", "Give 1 or more pixels.")
        if len(mean) != 3 or len(std) != 3 or not all(math.isfinite(value) for value in mean):
            raise ConfigurationError(f"mean {mean} and std {std} must be three numbers each.")
        if not all(math.isfinite(value) and value > 0 for value in std):
            raise ConfigurationError(f"the standard deviations {std} must be above 0.")
        self._mean = torch.tensor(mean, dtype=torch.float32).mul_(255).view(3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).mul_(255).view(3, 1, 1)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(3, height, width) float32 of a picture in mode "RGB"."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(self._mean).div_(self._std)


class ReadingTransform:
    """Resize the shorter side, cut out the centre, normalise; made by `reading_transform`."""

    def __init__(self, image_size: int, resized: int, resampling: Image.Resampling, to_tensor: ToTensor) -> None:
        self._size = image_size
        self._resized = resized
        self._resampling = resampling
        self._to_tensor = to_tensor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(3, S, S) float32 of a picture of any size."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        short, side = min(image.size), self._size
        width, height = (self._resized * edge // short for edge in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        if max(width, height) > 16 * self._resized:
            # Only the part that is kept: the whole of a picture of 1 x 10,000 pixels would fill the memory.
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + side) * across, (top + side) * down)
            return self._to_tensor(image.resize((side, side), self._resampling, box=box))
        if (width, height) != image.size:
            image = image.resize((width, height), self._resampling)
        return self._to_tensor(image.crop((left, top, left + side, top + side)))


def reading_transform(
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    crop_fraction: float = 1.0,
    interpolation: str = "bicubic",
) -> Callable[[Image.Image], torch.Tensor]:
    """The fixed view that evaluation reads: shorter side resized with the aspect kept, centre cut out, normalised.

    The same pixels as torchvision's `Resize` and `CenterCrop` on PIL images, and as timm's evaluation transform.

    Args:
        image_size: S, side of the result in pixels.
        mean: Three channel means for values from 0 to 1.
        std: Three channel standard deviations.
        crop_fraction: S as a part of the shorter side after resizing, above 0 and at most 1 (0.875: 224 of 256).
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".

    Returns:
        A picture -> (3, S, S) float32.

    Raises:
        ConfigurationError: A number is out of range.
        UnknownNameError: There is no such interpolation.
    """
    if not 0 < crop_fraction <= 1:
        raise ConfigurationError(f"a crop fraction of {crop_fraction} is not possible.", "Give one from above 0 to 1.")
    known = {mode.name.lower(): mode for mode in Image.Resampling}
    if interpolation not in known:
        raise UnknownNameError("interpolation", interpolation, known)
    resized = math.floor(image_size / crop_fraction)
    return ReadingTransform(image_size, resized, known[interpolation], ToTensor(image_size, mean, std))


def _draw_crop(
    generator: random.Random, width: int, height: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A crop as torchvision's `RandomResizedCrop` draws it: (left, top, right, bottom)."""
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(low, high))
        wide, high_ = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high_ <= height:
            left, top = generator.randrange(width - wide + 1), generator.randrange(height - high_ + 1)
            return left, top, left + wide, top + high_
    # No crop fits, as in very long images: the largest one in the middle whose shape is allowed.
    wide, high_ = width, height
    if width / height < _RATIO[0]:
        high_ = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        wide = round(height * _RATIO[1])
    left, top = (width - wide) // 2, (height - high_) // 2
    return left, top, left + wide, top + high_


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return Image.blend(Image.new("RGB", image.size), image, factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    mean = int(np.asarray(image.convert("L")).mean() + 0.5)
    return Image.blend(Image.new("RGB", image.size, (mean, mean, mean)), image, factor)


def _saturation(image: Image.Image, factor: float) -> Image.Image:
    grey = image.convert("L")
    return Image.blend(Image.merge("RGB", (grey, grey, grey)), image, factor)


def _hue(image: Image.Image, factor: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turn = int(factor * 255) % 256
    return Image.merge("HSV", (hue.point(_HUES[turn : turn + 256]), saturation, value)).convert("RGB")


_JITTER = (_brightness, _contrast, _saturation, _hue)
