"""An attack made ready for evaluation: its rows, the victim it was made on, the victim's training texts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import ConfigurationError, DataError, VictimError
from harness.core.files import hash_file
from harness.core.runs import read_run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows
from harness.text.datasets import TextDataset, source_key
from harness.text.seen_texts import text_keys
from harness.text.sources import load_from_pointer
from harness.text.verification import reanswered
from harness.text.victims import Victim

# A few texts stand in both splits of published datasets; more means that train and test are one.
_LARGEST_LEAK = 0.1


@dataclass(frozen=True)
class EvaluatedAttack:
    """Everything an evaluation needs of one attack.

    Attributes:
        folder: Where it lies.
        rows: Its rows, as the victim that is evaluated answers them.
        rows_hash: Hash of the file of rows.
        victim: The victim that is evaluated.
        train: Its training texts.
        asked_again: Where the victim that was attacked is another, or read in another precision: which, and how
            many rows end otherwise now. None where the rows are as the attack left them.
    """

    folder: Path
    rows: list[AdversarialRow]
    rows_hash: str
    victim: Victim
    train: TextDataset | None
    asked_again: dict[str, Any] | None = None

    @property
    def dataset(self) -> str:
        """Name of the attacked dataset."""
        return self.rows[0].dataset

    @property
    def goal(self) -> str:
        """What the attack wanted, in a word or two: `flip`, or what came on top of it."""
        head = self.rows[0]
        parts = [
            "flip" if head.goal == "untargeted" else head.goal,
            "" if head.target_class is None else f"to {head.target_class}",
            "" if head.min_confidence is None else f"p >= {head.min_confidence:g}",
            "" if head.evaded is None else f"past {json.loads(head.evaded)['detector']}",
            "" if self.asked_again is None or "victim" not in self.asked_again else "transferred",
        ]
        return ", ".join(filter(None, parts))

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self.rows[0].recipe

    def facts(self) -> dict[str, Any]:
        """What a result row keeps of the attack."""
        head = self.rows[0]
        return {
            "rows_hash": self.rows_hash,
            "split": head.split,
            "texts": len(self.rows),
            **dict(sorted(Counter(row.result for row in self.rows).items())),
            "seed": head.seed,
            "goal": head.goal,
            "min_confidence": head.min_confidence,
            "evaded": None if head.evaded is None else json.loads(head.evaded)["detector"],
            "asked_again": self.asked_again,
            "recipe_parameters": head.recipe_parameters,
            "textattack_version": head.textattack_version,
        }


def load_attack(
    folder: Path,
    *,
    victim: str | None = None,
    dataset: dict[str, Any] | None = None,
    needs_training_texts: bool = True,
    dtype: str = "fp32",
    max_length: int | None = None,
    transfer: bool = False,
) -> EvaluatedAttack:
    """Load a finished attack or an imported log with its victim and the victim's training texts.

    Args:
        folder: A run folder of `attack run` or `attack import`.
        victim: A victim to use instead of the one the run remembers; needed for an imported log or a restored set.
        dataset: A dataset pointer to use instead of the run's; needed for an imported log.
        needs_training_texts: Whether a detector will be fitted; they are loaded wherever the run says where from.
        dtype: The victim's arithmetic.
        max_length: Tokens a text may have; by default as in the attack.
        transfer: Whether `victim` may be another than the attacked one: its answers then decide which texts are
            adversarial.

    Raises:
        VictimError: The victim is not the one that was attacked.
        ConfigurationError: The run does not say where victim or dataset are.
        DataError: Rows of several recipes or datasets in one folder, or attacked texts that are training texts.
    """
    config, manifest = read_run(folder, "attack")
    rows = read_rows(folder)
    if len({(row.dataset, row.recipe, row.victim_hash) for row in rows}) > 1:
        raise DataError(f"{folder} mixes rows of several datasets, recipes or victims.", "Evaluate them one by one.")
    sources = manifest.get("sources", {})
    spec = victim or sources.get("victim")
    if spec is None:
        raise ConfigurationError(f"{folder} does not say which victim was attacked, or where it is.", "Pass --victim.")
    model = Victim.load(spec, dtype=dtype, max_length=max_length or config.get("max_length"))
    rows, asked_again = _as_answered(folder, rows, model, config, transfer)
    pointer = dataset or sources.get("dataset")
    if pointer is None and needs_training_texts:
        raise ConfigurationError(
            f"{folder} does not say which dataset was attacked, or where it is.",
            "Pass --dataset, whose train split the detectors are fitted on.",
        )
    train = model.with_own_labels(load_from_pointer(pointer, "train")) if pointer is not None else None
    if train is not None:
        seen = {source_key(text) for text in train.texts}
        leaked = sum(source_key(row.original_text) in seen for row in rows)
        if leaked > _LARGEST_LEAK * len(rows):
            raise DataError(
                f"{leaked} of the {len(rows)} attacked texts of {folder} are training texts of {train.name!r}.",
                "Attack a split that victim and detectors were not trained on.",
            )
    if dataset is not None and "dataset" in sources:
        _check_same_dataset(folder, rows, dataset)
    known = int(np.isin(text_keys([row.original_text for row in rows]), model.seen).sum())
    if known > _LARGEST_LEAK * len(rows):
        raise DataError(
            f"{known} of the {len(rows)} attacked texts of {folder} are training texts of the victim {model.name!r}.",
            "Attack a split that victim and detectors were not trained on.",
        )
    return EvaluatedAttack(Path(folder), rows, hash_file(Path(folder) / ROWS_FILE), model, train, asked_again)


def _check_same_dataset(folder: Path, rows: list[AdversarialRow], pointer: dict[str, Any]) -> None:
    """Refuse to fit detectors on another dataset than the attacked one, which rows would not say.

    A folder that has moved or has another name is the same dataset: attacked texts are there. A single file may hold
    the training texts alone, as a folder without the attacked split does.
    """
    if Path(pointer["spec"]).is_file():
        return
    try:
        split = load_from_pointer(pointer, rows[0].split)
    except DataError:  # it has no such split
        return
    if not np.isin(text_keys([row.original_text for row in rows]), text_keys(split.texts)).any():
        raise ConfigurationError(
            f"no text that was attacked in {folder} ({rows[0].dataset!r}) is in the split {split.split!r} of "
            f"{split.name!r}.",
            "Leave out --dataset, or give the dataset that was attacked.",
        )


def _as_answered(
    folder: Path, rows: list[AdversarialRow], victim: Victim, config: dict[str, Any], transfer: bool
) -> tuple[list[AdversarialRow], dict[str, Any] | None]:
    """The rows as the victim that is evaluated answers them, and what that changed."""
    head, facts = rows[0], {}
    if head.victim_hash is not None and head.victim_hash != victim.hash:
        if not transfer:
            raise VictimError(
                f"the victim {victim.name!r} is not the one that was attacked in {folder}: its weights hash differs.",
                "Evaluate on the attacked victim, attack this one, or ask how the texts transfer with --other-victim.",
            )
        facts = {"victim": head.victim, "victim_hash": head.victim_hash}
    precision = config.get("dtype", victim.dtype)
    if precision != victim.dtype:
        facts["dtype"] = precision
    if not facts:
        return rows, None
    answered = reanswered(rows, victim)
    changed = sum(before.result != after.result for before, after in zip(rows, answered, strict=True))
    return answered, {**facts, "other_results": changed}
