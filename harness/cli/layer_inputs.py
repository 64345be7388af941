"""Encoders and datasets for layer-wise evaluation: the one place where images and texts meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError, UnknownNameError

if TYPE_CHECKING:
    from sdssl.layer_reading import LayerData, LayerReader

_TABLE = ".parquet"


@dataclass(frozen=True)
class DataRequest:
    """Which part of a dataset is read."""

    train_limit: int | None = None
    test_limit: int | None = None
    seed: int = 0
    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None


def load_layer_data(spec: str, request: DataRequest) -> LayerData:
    """Load a dataset of images, or of texts where it is one.

    A registered name says what it is. Of a path, a Parquet file or a folder is tried as images, then as texts; any
    other file holds texts.

    Raises:
        HarnessError: It is neither, or has no labels, or no split to score on.
    """
    from harness.text.datasets import DATASETS
    from sdssl.image_folders import SUFFIXES
    from sdssl.images import IMAGE_DATASETS

    path = Path(spec).expanduser()
    named = "/" not in spec and not spec.startswith(".")
    if spec.startswith("hub:") or (named and spec in IMAGE_DATASETS):
        return _images(spec, request)
    if (named and spec in DATASETS) or (path.is_file() and path.suffix.lower() != _TABLE):
        return _texts(spec, request)
    if not spec.strip() or not path.exists():
        if named:
            names = [*IMAGE_DATASETS.names(), *DATASETS.names()]
            raise UnknownNameError("dataset", spec, names, "A path to a file or folder works too.")
        raise MissingFileError(f"there is no file or folder {spec}.", "Give an existing path, or a dataset's name.")
    try:
        return _images(spec, request)
    except (_NoLabelsError, ConfigurationError):
        raise
    except HarnessError as no_images:
        if any(entry.suffix.lower() in SUFFIXES for entry in path.rglob("*")):
            raise  # whatever is wrong, these are images
        try:
            return _texts(spec, request)
        except HarnessError as no_texts:
            if "split" in no_texts.message or "class" in no_texts.message:
                raise
            raise DataError(
                f"{spec} cannot be read as images ({no_images.message.rstrip('.')}), nor as texts "
                f"({no_texts.message.rstrip('.')}).",
                no_images.hint,
            ) from no_texts


class _NoLabelsError(DataError):
    """Images without classes."""


def _images(spec: str, request: DataRequest) -> LayerData:
    from sdssl.encoders import ImageItems
    from sdssl.images import available_splits, load_images
    from sdssl.layer_reading import LayerData

    columns: dict[str, Any] = {"image_column": request.image_column, "label_column": request.label_column}
    whole = [load_images(spec, split, **columns) for split in ("train", _test_split(spec, available_splits(spec)))]
    for part in whole:
        if part.labels is None:
            raise _NoLabelsError(
                f"the {part.split} images of {part.name!r} have no labels, so no layer can be read on them.",
                "Sort them into a folder a class, or name the column with --label-column.",
            )
    train, test = whole[0].sample(request.train_limit, request.seed), whole[1].sample(request.test_limit, request.seed)
    parts = {"train": train, "test": test}
    assert train.labels is not None
    assert test.labels is not None
    if train.label_names is not None and test.label_names is not None and train.label_names != test.label_names:
        raise DataError(
            f"the splits of {train.name!r} number their classes differently.", "Give both splits the same classes."
        )
    return LayerData(
        name=train.name,
        unit="image",
        train_items=ImageItems(train),
        train_labels=train.labels,
        test_items=ImageItems(test),
        test_labels=test.labels,
        label_names=train.label_names,
        num_classes=max(train.num_classes, test.num_classes),
        hashes={name: part.hash for name, part in parts.items()},
        item_name=lambda split, position: parts[split].image_name(position),
        facts=_facts(request, test.split, {name: part.source for name, part in parts.items()}),
    )


def _texts(spec: str, request: DataRequest) -> LayerData:
    from harness.text.datasets import available_splits, load_dataset
    from sdssl.layer_reading import LayerData

    columns: dict[str, Any] = {"text_column": request.text_column, "label_column": request.label_column}
    splits = available_splits(spec)
    if not splits and Path(spec).expanduser().is_file():
        raise DataError(
            f"{spec} is one file without splits: what is fitted on it cannot be scored on it.",
            "Give a folder with a train and a test file.",
        )
    train = load_dataset(spec, "train", **columns).sample(request.train_limit, request.seed)
    test = load_dataset(spec, _test_split(spec, splits), **columns).sample(request.test_limit, request.seed)
    parts = {"train": train, "test": test}
    return LayerData(
        name=train.name,
        unit="text",
        train_items=train.texts,
        train_labels=train.labels,
        test_items=test.texts,
        test_labels=test.labels,
        label_names=train.label_names,
        num_classes=max(train.num_classes, test.num_classes),
        hashes={name: part.hash for name, part in parts.items()},
        item_name=lambda split, position: f"{split} row {int(parts[split].indices[position])}",
        facts=_facts(request, test.split, {name: part.source for name, part in parts.items()}),
    )


def _facts(request: DataRequest, test_split: str, sources: dict[str, Any]) -> dict[str, Any]:
    return {
        "test_split": test_split,
        "train_limit": request.train_limit,
        "test_limit": request.test_limit,
        "sampling_seed": request.seed,
        "sources": sources,
    }


def _test_split(spec: str, splits: list[str]) -> str:
    """The split to score on: `test`, else `validation`; loaders that do not say what they have are asked for `test`."""
    if not splits or "test" in splits:
        return "test"
    if "validation" in splits:
        return "validation"
    raise DataError(
        f"{spec} has no split to score on: it has {', '.join(splits)}.", "Add a test or validation split beside train."
    )


def open_layer_reader(
    spec: str,
    unit: str,
    *,
    image_size: int | None = None,
    batch_size: int = 128,
    dtype: str = "fp32",
    device: str | None = None,
    untrained: bool = False,
    seed: int = 0,
    max_length: int | None = None,
) -> LayerReader:
    """Open an encoder of images or of texts.

    Raises:
        HarnessError: It cannot be opened, or reads the other kind of data.
    """
    from harness.core.devices import choose_device, torch_dtype

    torch_dtype(dtype, choose_device(device))
    if unit == "image":
        if max_length is not None:
            raise ConfigurationError("--max-length is for texts.", "Leave it out, or give a text dataset as --data.")
        from sdssl.hub_reader import open_image_encoder

        return open_image_encoder(
            spec,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            image_size=image_size,
            untrained=untrained,
            seed=seed,
        )
    if image_size is not None:
        raise ConfigurationError("--image-size is for images.", "Leave it out, or give images as --data.")
    if (
        spec.startswith(("timm:", "hf_hub:", "hf-hub:", "local-dir:"))
        or (Path(spec).expanduser() / "encoder.json").is_file()
    ):
        raise ConfigurationError(
            f"the encoder {spec!r} reads images, and the data holds texts.", "Give images as --data, or a text encoder."
        )
    if untrained:
        raise ConfigurationError("--untrained is for timm models.", "Give --encoder timm:NAME.")
    from harness.text.encoders import TextEncoder

    return TextEncoder.load(spec, batch_size=batch_size, dtype=dtype, device=device, max_length=max_length)
