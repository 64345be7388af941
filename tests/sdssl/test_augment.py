from __future__ import annotations

import math
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, UnknownNameError
from sdssl.augment import AUGMENTATIONS, IMAGENET_MEAN, IMAGENET_STD, Draw, View, reading_transform, two_views

SEEDS = range(4000)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-20, 21, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def views(name: str, size: int = 32) -> tuple[View, View]:
    return two_views(name, size, IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture(scope="module")
def v2() -> Any:
    prepare_torchvision()
    import torchvision.transforms.v2

    return torchvision.transforms.v2


def torchvision_view(v2: Any, image: Image.Image, draw: Draw, size: int) -> torch.Tensor:
    """The same view by torchvision's transform classes, given what was drawn; the blur is MoCo v3's own."""
    left, top, right, bottom = draw.box
    place = {"top": top, "left": left, "height": bottom - top, "width": right - left}
    image = v2.RandomResizedCrop(size, antialias=True).transform(image, place)
    if draw.jitter:
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        factors = {names[step]: factor for step, factor in draw.jitter}
        order = torch.tensor([step for step, _ in draw.jitter])
        image = v2.ColorJitter(0.4, 0.4, 0.2, 0.1).transform(image, {"fn_idx": order, **factors})
    if draw.grey:
        image = v2.RandomGrayscale(p=1.0).transform(image, {"num_input_channels": 3})
    if draw.sigma is not None:
        image = image.filter(ImageFilter.GaussianBlur(radius=draw.sigma))
    if draw.solarize:
        image = v2.RandomSolarize(threshold=128, p=1.0).transform(image, {})
    if draw.flip:
        image = v2.RandomHorizontalFlip(p=1.0).transform(image, {})
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return torch.Tensor(v2.Compose(steps)(image))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(32, 32), (57, 41), (20, 160), (1, 1), (1, 90), (64, 2)])
def test_a_view_is_torchvisions_pixel_by_pixel(v2: Any, name: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    for view in views(name, 32):
        for seed in range(60):
            draw = view.draw(*size, seed)
            torch.testing.assert_close(
                view(image, seed), torchvision_view(v2, image, draw, 32), rtol=0, atol=2e-6, msg=f"{draw}"
            )


def test_a_view_at_224_px_is_torchvisions(v2: Any) -> None:
    image = picture(300, 400)
    for view in views("imagenet", 224):
        for seed in range(8):
            expected = torchvision_view(v2, image, view.draw(300, 400, seed), 224)
            torch.testing.assert_close(view(image, seed), expected, rtol=0, atol=2e-6)


def within(count: int, trials: int, chance: float) -> bool:
    """Whether a count is no surprise (less than one in 10^7) for its probability."""
    return stats.binomtest(count, trials, chance).pvalue > 1e-7 if 0 < chance < 1 else count == trials * chance


# Published in moco-v3's main_moco.py: the probabilities of jitter, grey, blur, solarize and flip.
@pytest.mark.parametrize(
    ("name", "number", "chances"),
    [
        ("imagenet", 0, (0.8, 0.2, 1.0, 0.0, 0.5)),
        ("imagenet", 1, (0.8, 0.2, 0.1, 0.2, 0.5)),
        ("small", 0, (0.8, 0.2, 0.0, 0.0, 0.5)),
        ("small", 1, (0.8, 0.2, 0.0, 0.2, 0.5)),
    ],
)
def test_each_step_happens_as_often_as_published(name: str, number: int, chances: tuple[float, ...]) -> None:
    view = views(name)[number]
    draws = [view.draw(32, 32, seed) for seed in SEEDS]
    happened = [(bool(d.jitter), d.grey, d.sigma is not None, d.solarize, d.flip) for d in draws]
    for chance, count in zip(chances, np.sum(happened, axis=0), strict=True):
        assert within(int(count), len(draws), chance)
    # Steps are drawn apart from each other: both of two happen as often as the product says.
    for i, j in ((0, 1), (0, 4), (1, 4), (1, 3), (3, 4)):
        assert within(sum(h[i] and h[j] for h in happened), len(draws), chances[i] * chances[j])


def test_factors_are_uniform_and_their_order_is_random() -> None:
    draws = [d for d in (views("imagenet")[0].draw(32, 32, seed) for seed in SEEDS) if d.jitter]
    ranges = {0: (0.6, 1.4), 1: (0.6, 1.4), 2: (0.8, 1.2), 3: (-0.1, 0.1)}
    for step, (low, high) in ranges.items():
        factors = [dict(d.jitter)[step] for d in draws]
        assert stats.kstest(factors, "uniform", (low, high - low)).pvalue > 1e-6
    orders = Counter(tuple(step for step, _ in d.jitter) for d in draws)
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > 1e-6
    sigmas = [views("imagenet")[0].draw(32, 32, seed).sigma for seed in SEEDS]
    assert stats.kstest(sigmas, "uniform", (0.1, 1.9)).pvalue > 1e-6


@pytest.mark.parametrize(("name", "scale"), [("imagenet", (0.08, 1.0)), ("small", (0.2, 1.0))])
@pytest.mark.parametrize("size", [(64, 64), (400, 400), (200, 90), (30, 300)])
def test_crops_are_distributed_as_torchvisions(
    v2: Any, name: str, scale: tuple[float, float], size: tuple[int, int]
) -> None:
    width, height = size
    boxes = np.array([views(name)[0].draw(width, height, seed).box for seed in SEEDS])
    ours = np.stack([boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    crop = v2.RandomResizedCrop(32, scale=scale)
    image = Image.new("RGB", size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in SEEDS]
    theirs = np.array([[d["left"], d["top"], d["width"], d["height"]] for d in drawn])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6
    areas = [a[:, 2] * a[:, 3] / (width * height) for a in (ours, theirs)]
    ratios = [a[:, 2] / a[:, 3] for a in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-6
    assert stats.ks_2samp(*ratios).pvalue > 1e-6


def test_the_shape_of_crops_is_uniform_in_its_logarithm() -> None:
    boxes = np.array([views("imagenet")[0].draw(1000, 1000, seed).box for seed in SEEDS])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    # Below half of the area no shape is rejected for not fitting.
    small = width * height < 500_000
    shapes = np.log(width[small] / height[small])
    assert stats.kstest(shapes, "uniform", (math.log(3 / 4), 2 * math.log(4 / 3))).pvalue > 1e-6


@pytest.mark.parametrize(("size", "box"), [((1, 1), (0, 0, 1, 1)), ((300, 3), (148, 0, 152, 3))])
def test_where_no_crop_fits_the_middle_is_taken(size: tuple[int, int], box: tuple[int, ...]) -> None:
    boxes = Counter(views("imagenet")[0].draw(*size, seed).box for seed in range(200))
    assert box in boxes


def test_a_view_is_a_pure_function_of_image_and_seed() -> None:
    image = picture(40, 30)
    before = image.tobytes()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, second = views("imagenet")
    results = [view(image, seed) for view in (first, second) for seed in range(30)]
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert image.tobytes() == before
    random.seed(2), np.random.seed(2), torch.manual_seed(2)  # noqa: NPY002
    again = [view(image, seed) for view in (first, second) for seed in range(30)]
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
    # Other seeds and the other view draw otherwise; one seed serves both.
    assert len({result.numpy().tobytes() for result in results}) == 60
    assert len({view.draw(500, 400, seed).box for view in (first, second) for seed in range(500)}) == 1000


def test_the_views_are_the_same_in_another_process() -> None:
    code = """
from PIL import Image
from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD, two_views
import hashlib
image = Image.radial_gradient("L").convert("RGB")
views = two_views("imagenet", 24, IMAGENET_MEAN, IMAGENET_STD)
print(hashlib.sha256(b"".join(v(image, s).numpy().tobytes() for v in views for s in (0, 7, 2**64 - 1))).hexdigest())
"""
    results = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1
    assert len(results.pop().strip()) == 64


def test_views_travel_to_worker_processes() -> None:
    image = picture(20, 20)
    for made in (*views("small"), reading_transform(16, IMAGENET_MEAN, IMAGENET_STD)):
        copy = pickle.loads(pickle.dumps(made))
        arguments = (image, 5) if isinstance(made, View) else (image,)
        assert torch.equal(copy(*arguments), made(*arguments))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_views_are_float32_of_the_asked_size_for_any_picture(mode: str) -> None:
    image = picture(9, 70).convert(mode)
    low = (0 - np.array(IMAGENET_MEAN)) / IMAGENET_STD
    high = (1 - np.array(IMAGENET_MEAN)) / IMAGENET_STD
    for transform in (
        lambda i: views("imagenet", 17)[0](i, 3),
        lambda i: views("small", 17)[1](i, 3),
        reading_transform(17, IMAGENET_MEAN, IMAGENET_STD),
    ):
        result = transform(image)
        assert result.shape == (3, 17, 17)
        assert result.dtype == torch.float32
        assert result.is_contiguous()
        assert (result.amin((1, 2)).numpy() >= low - 1e-5).all()
        assert (result.amax((1, 2)).numpy() <= high + 1e-5).all()


def test_mean_and_std_are_of_values_from_0_to_1() -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 51))
    result = reading_transform(4, (0.5, 0.25, 0.0), (0.5, 0.5, 0.1))(image)
    torch.testing.assert_close(result[:, 0, 0], torch.tensor([1.0, -0.5, 2.0]))


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (31, 47), (500, 333), (333, 500), (1, 1), (3, 40), (224, 225)])
@pytest.mark.parametrize(("side", "fraction"), [(32, 1.0), (224, 0.875), (33, 0.9)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_reading_is_torchvisions_resize_and_centre_crop(
    v2: Any, size: tuple[int, int], side: int, fraction: float, interpolation: str
) -> None:
    image = picture(*size)
    expected = v2.Compose(
        [
            v2.Resize(math.floor(side / fraction), interpolation=v2.InterpolationMode(interpolation)),
            v2.CenterCrop(side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )(image)
    transform = reading_transform(
        side, IMAGENET_MEAN, IMAGENET_STD, crop_fraction=fraction, interpolation=interpolation
    )
    torch.testing.assert_close(transform(image), torch.Tensor(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("side", "fraction"), [(224, 0.9), (96, 1.0), (518, 1.0)])
def test_reading_is_timms_evaluation_transform(v2: Any, side: int, fraction: float) -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    image = picture(300, 211)
    theirs = create_transform((3, side, side), crop_pct=fraction, interpolation="bicubic")
    ours = reading_transform(side, IMAGENET_MEAN, IMAGENET_STD, crop_fraction=fraction)
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(2, 100), (100, 2), (3, 777)])
def test_a_very_long_picture_is_read_as_others_within_a_grey_level(v2: Any, size: tuple[int, int]) -> None:
    image = picture(*size)
    pixels = v2.Compose([v2.Resize(8, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(8)])(image)
    expected = torch.from_numpy(np.array(pixels)).permute(2, 0, 1) / 255
    result = reading_transform(8, (0, 0, 0), (1, 1, 1))(image)
    torch.testing.assert_close(result, expected, rtol=0, atol=1.01 / 255)
    # The whole of this one would be 224 x 14.6 million pixels.
    assert reading_transform(224, (0, 0, 0), (1, 1, 1))(Image.new("RGB", (1, 65000), "red"))[0].min() == 1


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="augmentation named 'imagnet'") as error:
        two_views("imagnet", 32, IMAGENET_MEAN, IMAGENET_STD)
    assert "imagenet" in error.value.hint
    with pytest.raises(UnknownNameError, match="interpolation"):
        reading_transform(32, IMAGENET_MEAN, IMAGENET_STD, interpolation="cubic")
    for fraction in (0.0, 1.5, -1.0, math.nan):
        with pytest.raises(ConfigurationError, match="crop fraction"):
            reading_transform(32, IMAGENET_MEAN, IMAGENET_STD, crop_fraction=fraction)
    with pytest.raises(ConfigurationError, match="image size of 0"):
        two_views("small", 0, IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(ConfigurationError, match="above 0"):
        two_views("small", 8, IMAGENET_MEAN, (1, 0, 1))
    with pytest.raises(ConfigurationError, match="three numbers"):
        two_views("small", 8, (0.5,), (0.5,))
