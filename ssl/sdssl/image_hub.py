"""Image datasets of the Hugging Face Hub, at one commit each, so that row numbers keep their meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import ConfigurationError, DataError
from harness.core.loading import hub_unreachable, load_hub_dataset
from harness.core.splits import canonical_split
from sdssl.image_dataset import ImageDataset
from sdssl.image_stores import ArrowImages
from sdssl.image_tables import build_table_dataset

PREFIX = "hub:"
_HINT = "Check the connection or give a local folder or Parquet file instead."
_SPEC = re.compile(r"hub:([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?")
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


@dataclass(frozen=True)
class HubImages:
    """A loader for one image dataset of the Hugging Face Hub; call it with a split.

    Attributes:
        name: What the dataset is called in rows.
        hub_id: "organisation/name".
        config: The configuration, where the dataset has several.
        revision: A commit; where it is None, the commit that is current at loading, which `source` then records.
        splits: The splits, where they are known.
        image_column: As in `load_images`.
        label_column: As in `load_images`.
    """

    name: str
    hub_id: str
    config: str | None = None
    revision: str | None = None
    splits: tuple[str, ...] = ()
    image_column: str | None = None
    label_column: str | None = None

    def __call__(self, split: str) -> ImageDataset:
        """Load `split`, from the local cache or the Hub.

        Raises:
            DataError: There is no such split, or a column is missing or unusable.
            HarnessError: The Hub cannot be reached and the cache does not have it.
        """
        if self.splits and split not in self.splits:
            raise self._no_split(split, self.splits)
        loaded, revision = self._load()
        parts = {canonical_split(str(name)): part for name, part in loaded.items()}
        if split not in parts:
            raise self._no_split(split, parts)
        part, train = parts[split], parts.get("train")
        label_of = None if train is None or split == "train" else train.data.column
        return build_table_dataset(
            name=self.name,
            split=split,
            where=f"the image dataset {self.name!r}, split {split!r},",
            schema=part.features.arrow_schema,
            columns=(self.image_column, self.label_column),
            store=lambda column: _store(part, column, f"{self.name}, split {split!r}"),
            labels=part.data.column,
            train_labels=label_of,
            source={"kind": "hub", "id": self.hub_id, "config": self.config, "revision": revision},
        )

    def find_splits(self) -> list[str]:
        """The splits that the Hub lists, sorted.

        Raises:
            HarnessError: The Hub cannot be reached and the cache does not have it.
        """
        if self.splits:
            return sorted(self.splits)
        import datasets

        try:
            names = datasets.get_dataset_split_names(self.hub_id, self.config, revision=self.revision)
        except Exception as error:  # the Hub's clients raise errors of four libraries
            raise hub_unreachable(f"{self._shown} ({self.hub_id})", error, _HINT) from error
        return sorted({canonical_split(str(name)) for name in names})

    def _load(self) -> tuple[Any, str | None]:
        """All splits, as `datasets` loads them, and their commit."""
        revision = self.revision
        if revision is None or not _COMMIT.fullmatch(revision):
            revision = self._current_commit() or revision
        loaded = load_hub_dataset(self._shown, self.hub_id, self.config, revision=revision, hint=_HINT)
        if revision is None or not _COMMIT.fullmatch(revision):
            revision = _commit_in_cache(loaded) or revision
        return loaded, revision

    def _current_commit(self) -> str | None:
        """The commit behind a branch, tag or nothing; None where the Hub does not answer and the cache has to do."""
        import huggingface_hub

        try:
            return huggingface_hub.HfApi().dataset_info(self.hub_id, revision=self.revision).sha
        except Exception:  # noqa: BLE001 - whatever is wrong, loading meets it again and says so
            return None

    def _no_split(self, split: str, known: Any) -> DataError:
        return DataError(
            f"the image dataset {self.name!r} has no split {split!r}.", f"It has: {', '.join(sorted(known))}."
        )

    @property
    def _shown(self) -> str:
        return f"the image dataset {self.name!r}"


def parse_hub_spec(spec: str) -> HubImages:
    """The loader for "hub:ORG/NAME", "hub:ORG/NAME@REVISION" or "hub:ORG/NAME:CONFIG@REVISION".

    Raises:
        ConfigurationError: The text has another form.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigurationError(
            f"{spec!r} names no dataset of the Hub.", "Write hub:ORGANISATION/NAME, with @REVISION behind for a commit."
        )
    hub_id, config, revision = match.groups()
    return HubImages(hub_id, hub_id, config, revision)


def with_columns(loader: HubImages, image_column: str | None, label_column: str | None) -> HubImages:
    """The same loader with the columns that the user asked for."""
    return replace(
        loader,
        image_column=image_column or loader.image_column,
        label_column=label_column or loader.label_column,
    )


def _store(part: Any, column: str, name: str) -> ArrowImages:
    files = [str(entry["filename"]) for entry in part.cache_files]
    if files:
        return ArrowImages(None, [(name, part.num_rows)], files=files, column_name=column)
    return ArrowImages(part.data.column(column), [(name, part.num_rows)])


def _commit_in_cache(loaded: Any) -> str | None:
    """The commit in the addresses or cache paths of what was loaded, where all agree."""
    found = set()
    for part in loaded.values():
        places = [*(part.info.download_checksums or ()), *(entry["filename"] for entry in part.cache_files)]
        found |= {match for place in places for match in _COMMIT.findall(str(place))}
    return found.pop() if len(found) == 1 else None


CIFAR10 = HubImages(
    "cifar10", "uoft-cs/cifar10", "plain_text", "0b2714987fa478483af9968de7c934580d0bb9a2", ("train", "test")
)
CIFAR100 = HubImages(
    "cifar100",
    "uoft-cs/cifar100",
    "cifar100",
    "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
    ("train", "test"),
    label_column="fine_label",
)
