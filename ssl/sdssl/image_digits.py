"""The image dataset that comes with an installed dependency: scikit-learn's scans of handwritten digits."""

from __future__ import annotations

import numpy as np

from harness.core.errors import DataError
from sdssl.image_dataset import ImageDataset, make_dataset
from sdssl.image_stores import memory_images

TEST_ROWS = 360


def digits(split: str) -> ImageDataset:
    """One split of the 1,797 digits, 8 x 8 pixels, of `sklearn.datasets.load_digits`.

    They are the test part of UCI's optical recognition of handwritten digits (Alpaydin & Kaynak, 1998). The last
    360 rows are the test split and the first 1,437 the train split. Values 0..16 become grey values 0..255.

    Args:
        split: "train" or "test".

    Raises:
        DataError: There is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"the image dataset 'digits' has no split {split!r}.", f"It has: {', '.join(sorted(SPLITS))}.")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = slice(-TEST_ROWS, None) if split == "test" else slice(None, -TEST_ROWS)
    grey = np.rint(bunch.images[part] * (255 / 16)).astype(np.uint8)
    # A PGM file has one possible form; a PNG file would have another hash under another zlib.
    encoded = [b"P5 8 8 255\n" + image.tobytes() for image in grey]
    return make_dataset(
        name="digits",
        split=split,
        store=memory_images(encoded, f"digits, split {split!r}"),
        labels=bunch.target[part].astype(np.int64),
        label_names=[str(name) for name in bunch.target_names],
        source={"kind": "package", "name": "scikit-learn", "file": "digits.csv.gz"},
    )


SPLITS = ("train", "test")
digits.splits = SPLITS  # type: ignore[attr-defined]  # what `available_splits` reads
