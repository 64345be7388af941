"""Clean texts that neither victim nor detector has seen, and the validation rows of an attack.

A fitted detector keeps what it and its victim have seen as hashes, so that calibration can leave those texts out
wherever it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import ConfigurationError, DataError, VictimError
from harness.core.files import hash_file, hash_strings
from harness.core.runs import known_config, read_run
from harness.detectors.base import Detector
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows
from harness.text.columns import TEXT_COLUMNS, check_texts
from harness.text.datasets import DATASETS, load_dataset
from harness.text.local_files import READERS, read_file
from harness.text.reading import read_texts
from harness.text.seen_texts import SEEN_FILE, Keys, read_seen, text_keys
from harness.text.victims import Victim

# The share of an attack's rows that the protocol sets aside first (Yoo et al., Findings of ACL 2022).
VALIDATION_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class CleanTexts:
    """Clean texts to calibrate on.

    Attributes:
        name: Of the dataset.
        split: Its split, or "validation rows" of an attack on it; empty for a file.
        texts: n texts.
        left_out: Texts that were there as well, and that the detector or its victim has seen.
        in_drawn_order: Whether their order is a random one.
    """

    name: str
    split: str
    texts: tuple[str, ...]
    left_out: int = 0
    in_drawn_order: bool = False

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the texts, in order."""
        return hash_strings(self.texts)

    @property
    def title(self) -> str:
        """How messages call them."""
        return f"{self.name} ({self.split})" if self.split else self.name

    def unseen(self, seen: Keys, limit: int | None, seed: int) -> CleanTexts:
        """Those that were not seen, at most `limit` of them, drawn by `seed`, in their order.

        Raises:
            DataError: All were seen: they are training data.
        """
        fresh = ~np.isin(text_keys(self.texts), seen)
        if not fresh.any():
            raise DataError(
                f"all {len(self.texts)} calibration texts of {self.title} are training texts of the detector or its "
                "victim.",
                "Calibrate on clean texts that neither victim nor detector has seen, such as another split or "
                "the run folder of an attack.",
            )
        places = np.flatnonzero(fresh)
        if limit is not None and limit < len(places):
            places = np.sort(np.random.default_rng(seed).choice(places, size=limit, replace=False))
        texts = tuple(self.texts[i] for i in places)
        return CleanTexts(self.name, self.split, texts, int((~fresh).sum()), self.in_drawn_order)


def load_clean_texts(
    source: str,
    *,
    split: str | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
) -> CleanTexts:
    """Clean texts of a dataset, or the originals of an attack's validation rows.

    Args:
        source: A dataset's name, a folder of splits, a file (its labels are not read and may be missing; of a .txt
            file every line is a text), or the folder of a finished attack run.
        split: The split of a dataset; by default "test". Files and attacks have none.
        seed: Sampling seed of the protocol, which decides which of an attack's rows are validation rows.
        text_column: The column of the texts, where it is not a usual one.
        label_column: The same for the labels.

    Raises:
        HarnessError: There is no such data, or it cannot be used.
    """
    path = Path(source).expanduser()
    named = source in DATASETS and not source.startswith(".")
    if not named and path.is_dir() and known_config(path).get("command", "").startswith("attack"):
        _refuse_split(split, source, "an attack run")
        rows = validation_rows(path, seed)
        texts = tuple(row.original_text for row in rows)
        return CleanTexts(rows[0].dataset, "validation rows", texts, in_drawn_order=True)
    if not named and path.is_file():
        _refuse_split(split, source, "a single file")
        return CleanTexts(path.stem, "", tuple(_file_texts(path, text_column)))
    found = load_dataset(source, split or "test", text_column=text_column, label_column=label_column)
    return CleanTexts(found.name, found.split, tuple(found.texts))


def validation_rows(folder: Path, seed: int) -> list[AdversarialRow]:
    """The validation rows of a finished attack run, in drawn order: the first 30 % of the protocol's permutation.

    They are the rows that `harness eval detect --validation-fraction 0.3` sets aside for the same sampling seed,
    whatever became of the attack on them.

    Raises:
        ConfigurationError: It is no finished attack run.
        DataError: It has too few rows for any to be set aside.
    """
    read_run(folder, "attack")
    rows = read_rows(folder)
    order = np.random.RandomState(seed).permutation(len(rows))
    drawn = [rows[i] for i in order[: int(len(rows) * VALIDATION_SHARE)]]
    if not drawn:
        raise DataError(f"{folder} has only {len(rows)} rows: none of them is a validation row.", "Attack more texts.")
    return drawn


@dataclass(frozen=True, eq=False)
class TuningRows:
    """The first half of an attack's validation rows, for detectors that tune or train; the others calibrate.

    Attributes:
        originals: n original texts, whatever became of the attack on them.
        adversarial: m perturbed texts of the successes among them.
        facts: What rows say of them: dataset, recipe, hash of the attack's rows, counts; JSON-able.
    """

    originals: tuple[str, ...]
    adversarial: tuple[str, ...]
    facts: dict[str, Any]

    def unseen(self, seen: Keys) -> TuningRows:
        """The same without the adversarial texts that were seen: on those that trained it a detector is too good.

        Raises:
            DataError: All were.
        """
        fresh = ~np.isin(text_keys(self.adversarial), seen)
        if not fresh.any():
            raise DataError(
                f"all {len(self.adversarial)} adversarial texts to tune on have tuned or trained a member already.",
                "Give another attack with --attacks, or none: then the shares are equal.",
            )
        left = tuple(text for text, new in zip(self.adversarial, fresh, strict=True) if new)
        return TuningRows(self.originals, left, {**self.facts, "adversarial": len(left)})


def tuning_rows(folder: Path, victim: Victim, seed: int) -> TuningRows:
    """The validation rows of an attack that a detector may be tuned or trained on.

    Raises:
        VictimError: Another victim was attacked.
        ConfigurationError: It is no finished attack run.
        DataError: No attack on them succeeded.
    """
    rows = validation_rows(folder, seed)
    if rows[0].victim_hash not in (None, victim.hash):
        raise VictimError(
            f"the victim {victim.name!r} is not the one that was attacked in {folder}.", "Attack this one."
        )
    rows = rows[: (len(rows) + 1) // 2]
    wins = tuple(row.perturbed_text for row in rows if row.result == "success")
    if not wins:
        raise DataError(f"no attack in {folder} succeeded on the {len(rows)} rows to tune on.", "Attack more texts.")
    facts = {
        "dataset": rows[0].dataset,
        "recipe": rows[0].recipe,
        "rows_hash": hash_file(Path(folder) / ROWS_FILE),
        "clean": len(rows),
        "adversarial": len(wins),
    }
    return TuningRows(tuple(row.original_text for row in rows), wins, facts)


def tune_detector(detector: Detector, victim: Victim, rows: TuningRows) -> None:
    """Tune or train a fitted detector on validation rows of an attack.

    Raises:
        ConfigurationError: It takes no adversarial texts.
        DataError: They are too few.
    """
    check_takes_attacks(detector)
    texts = (*rows.originals, *rows.adversarial)
    outputs = read_texts(victim, texts, detector.layers, what="reading validation texts").outputs
    detector.fit_adversarial(outputs, np.arange(len(texts)) >= len(rows.originals))


def check_takes_attacks(detector: Detector) -> None:
    """Refuse adversarial texts for a detector that has no use for them.

    Raises:
        ConfigurationError: It takes none.
    """
    if detector.info.adversarial_texts == "none":
        raise ConfigurationError(
            f"the detector {detector.info.name!r} takes no adversarial texts.", "Leave out --attacks."
        )


def check_needs_no_attacks(detector: Detector) -> None:
    """Refuse to fit a detector that trains on adversarial texts without any.

    Raises:
        ConfigurationError: It trains on them.
    """
    if detector.info.adversarial_texts == "trains":
        raise ConfigurationError(
            f"the detector {detector.info.name!r} trains on adversarial texts.",
            "Give the run folder of an attack with --attacks.",
        )


def load_seen(folder: Path, facts: dict[str, Any]) -> Keys:
    """Keys of the texts that a detector and its victim have seen.

    Args:
        folder: The detector's folder.
        facts: Its facts.

    Raises:
        ConfigurationError: It was fitted by an earlier version, which kept none, or only the exact texts.
        DataError: The file is missing or damaged.
    """
    if "seen_sha256" not in facts:
        raise ConfigurationError(
            f"the detector in {folder} does not say which texts it has seen, so it cannot be calibrated.",
            "Fit it again with this version.",
        )
    path = folder / SEEN_FILE
    if not path.is_file() or hash_file(path) != facts["seen_sha256"]:
        raise DataError(f"{path} is missing or damaged.", "Fit the detector again.")
    return read_seen(folder)


def _refuse_split(split: str | None, source: str, kind: str) -> None:
    if split is not None:
        raise ConfigurationError(f"{source} is {kind} and has no splits.", "Leave out --calibration-split.")


def _file_texts(path: Path, text_column: str | None) -> list[str]:
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text.", "Save the file as UTF-8.") from error
        return check_texts([line.rstrip("\r") for line in lines], str(path), "text")
    if path.suffix.lower() not in READERS:
        raise DataError(f"cannot read texts from {path}.", f"Give a folder or a file of .txt, {', '.join(READERS)}.")
    chosen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        wanted = (text_column,) if text_column is not None else TEXT_COLUMNS
        chosen.extend(name for name in wanted if name in names)
        if not chosen:
            raise DataError(
                f"{path} has no column {' or '.join(map(repr, wanted))}; it has: {', '.join(names) or 'none'}.",
                "Name the column with --text-column.",
            )
        return chosen[:1]

    return check_texts(read_file(path, choose).columns[chosen[0]], str(path), chosen[0])
