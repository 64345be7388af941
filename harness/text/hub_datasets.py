"""Datasets of the Hugging Face Hub, each pinned to one commit, so that row numbers keep their meaning."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import DataError
from harness.core.loading import load_hub_dataset
from harness.text.columns import choose_columns
from harness.text.local_files import table_of
from harness.text.text_dataset import TextDataset, build_dataset


@dataclass(frozen=True)
class HubDataset:
    """A loader for one dataset of the Hugging Face Hub at one commit; call it with a split."""

    name: str
    hub_id: str
    config: str
    revision: str
    splits: tuple[str, ...]
    text_column: str | None = None
    label_column: str | None = None
    hidden_splits: tuple[str, ...] = ()

    def __call__(self, split: str) -> TextDataset:
        """Load `split`, from the local cache or the Hub.

        Raises:
            DataError: There is no such split, or its labels are hidden.
            HarnessError: The Hub cannot be reached and the cache does not have it.
        """
        self._check_split(split)
        loaded = load_hub_dataset(
            f"the dataset {self.name!r}",
            self.hub_id,
            self.config,
            split=split,
            revision=self.revision,
            hint="Check the connection or pass a local folder or file instead, e.g. --dataset path/to/folder.",
        )
        source = {"kind": "hub", "id": self.hub_id, "config": self.config, "revision": self.revision}
        where = f"the dataset {self.name!r}, split {split!r},"
        wanted = (self.text_column, self.label_column)
        columns = choose_columns(loaded.column_names, where, *wanted)
        return build_dataset(
            name=self.name,
            split=split,
            where=where,
            table=table_of(loaded, lambda _: columns),
            columns=columns,
            source=source,
        )

    def _check_split(self, split: str) -> None:
        if split in self.hidden_splits:
            raise DataError(
                f"the split {split!r} of {self.name!r} has hidden labels.",
                f"Use another split instead: {' or '.join(reversed(self.splits))}.",
            )
        if split not in self.splits:
            raise DataError(f"the dataset {self.name!r} has no split {split!r}.", f"It has: {', '.join(self.splits)}.")


IMDB = HubDataset(
    "imdb", "stanfordnlp/imdb", "plain_text", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", ("train", "test")
)
AG_NEWS = HubDataset(
    "ag_news", "fancyzhx/ag_news", "default", "eb185aade064a813bc0b7f42de02595523103ca4", ("train", "test")
)
SST2 = HubDataset(
    "sst2",
    "stanfordnlp/sst2",
    "default",
    "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
    ("train", "validation"),
    text_column="sentence",
    hidden_splits=("test",),
)
YELP_POLARITY = HubDataset(
    "yelp_polarity",
    "fancyzhx/yelp_polarity",
    "plain_text",
    "bbf1c97a1f0cf005e5aded43839fd814654a1557",
    ("train", "test"),
)
