"""An attack made ready for evaluation: its rows, the victim it was made on, the victim's training texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError, VictimError
from harness.core.files import hash_file
from harness.core.runs import read_run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows
from harness.text.datasets import TextDataset, source_key
from harness.text.sources import load_from_pointer
from harness.text.victims import Victim

# A few texts stand in both splits of published datasets; more means that train and test are one.
_LARGEST_LEAK = 0.1


@dataclass(frozen=True)
class EvaluatedAttack:
    """Everything an evaluation needs of one attack."""

    folder: Path
    rows: list[AdversarialRow]
    rows_hash: str
    victim: Victim
    train: TextDataset | None

    @property
    def dataset(self) -> str:
        """Name of the attacked dataset."""
        return self.rows[0].dataset

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
) -> EvaluatedAttack:
    """Load a finished attack or an imported log with its victim and the victim's training texts.

    Args:
        folder: A run folder of `attack run` or `attack import`.
        victim: A victim to use instead of the one the run remembers; needed for an imported log.
        dataset: A dataset pointer to use instead of the run's; needed for an imported log.
        needs_training_texts: Whether a detector will be fitted; they are loaded wherever the run says where from.
        dtype: The victim's arithmetic.
        max_length: Tokens a text may have; by default as in the attack.

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
        raise ConfigurationError(
            f"{folder} does not say which victim was attacked: it is an imported log.", "Pass --victim."
        )
    model = Victim.load(spec, dtype=dtype, max_length=max_length or config.get("max_length"))
    known = rows[0].victim_hash
    if known is not None and known != model.hash:
        raise VictimError(
            f"the victim {spec} is not the one that was attacked in {folder}: its weights hash differs.",
            "Evaluate on the attacked victim, or attack this one.",
        )
    pointer = dataset or sources.get("dataset")
    if pointer is None and needs_training_texts:
        raise ConfigurationError(
            f"{folder} does not say which dataset was attacked: it is an imported log.",
            "Pass --dataset, whose train split the detectors are fitted on.",
        )
    train = load_from_pointer(pointer, "train") if pointer is not None else None
    if train is not None:
        seen = {source_key(text) for text in train.texts}
        leaked = sum(source_key(row.original_text) in seen for row in rows)
        if leaked > _LARGEST_LEAK * len(rows):
            raise DataError(
                f"{leaked} of the {len(rows)} attacked texts of {folder} are training texts of {train.name!r}.",
                "Attack a split that victim and detectors were not trained on.",
            )
    return EvaluatedAttack(Path(folder), rows, hash_file(Path(folder) / ROWS_FILE), model, train)
