"""Attack a dataset: one text at a time, resumable at any moment, the same rows whatever happened on the way.

Every finished text is one line in a journal, written and synced before the next begins. A killed run loses at
most the text it was working on; the next run reads the journal, drops a torn last line, and goes on. What a text's
row holds depends on that text alone: TextAttack's caches are emptied and the random generators seeded before each,
so that rows do not depend on which texts came before in this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DataError
from harness.core.files import atomic_writer, disk_errors
from harness.core.progress import Progress
from harness.core.runs import Run
from harness.text.adversarial import (
    ROWS_FILE,
    TIMINGS_FILE,
    AdversarialRow,
    Result,
    compare_words,
    row_from_json,
    row_to_json,
    write_rows,
)
from harness.text.datasets import TextDataset, row_id
from harness.text.victims import Victim
from textadv.recipes import Recipe
from textadv.runtime import load_textattack, textattack_version

JOURNAL = "journal.jsonl"
_RESULTS: dict[str, Result] = {
    "SuccessfulAttackResult": "success",
    "FailedAttackResult": "failure",
    "SkippedAttackResult": "skipped",
}


def attack_config(dataset: TextDataset, victim: Victim, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Everything that decides the rows, as it goes into the run's configuration."""
    return {
        "dataset": dataset.name,
        "dataset_source": dataset.source,
        "dataset_hash": dataset.hash,
        "split": dataset.split,
        "texts": len(dataset),
        "victim": victim.name,
        "victim_hash": victim.hash,
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "recipe": recipe.name,
        "recipe_parameters": dict(recipe.parameters),
        "seed": seed,
        "textattack_version": textattack_version(),
    }


def check_texts(dataset: TextDataset) -> None:
    """Refuse texts that TextAttack cannot take: it fails on `<SPLIT>`, its own mark between the parts of a text.

    Raises:
        DataError: A text holds the mark.
    """
    for index, text in zip(dataset.indices.tolist(), dataset.texts, strict=True):
        if "<SPLIT>" in text:
            raise DataError(
                f"text {index} of {dataset.name!r} holds <SPLIT>, which TextAttack takes for a mark of its own.",
                "Remove it from the text.",
            )


def run_attack(
    dataset: TextDataset, victim: Victim, recipe: Recipe, run: Run, *, seed: int
) -> tuple[list[AdversarialRow], int]:
    """Attack every text of `dataset` and leave rows and timings in the folder of `run`.

    Args:
        dataset: Texts with gold labels, that `check_texts` lets pass.
        victim: The classifier under attack.
        recipe: How to attack.
        run: An open run with `attack_config` in its configuration.
        seed: Seed of the recipe's random choices.

    Returns:
        All rows, in the order of `dataset`, and how many of the texts are longer than the victim takes.

    Raises:
        DiskFullError: No space left; the journal holds every finished text.
    """
    journal = Journal(run.path(JOURNAL))
    done = journal.read()
    todo = [i for i in range(len(dataset)) if int(dataset.indices[i]) not in done]
    with Progress("attacking", total=len(dataset), unit="text") as bar:
        bar.advance(len(done))
        if todo:
            load_textattack()
            attack = recipe.build(lambda texts: victim.read(texts).probabilities)
            wins = sum(row.result == "success" for row, _ in done.values())
            with journal:
                for i in todo:
                    started = time.perf_counter()
                    row = _attack_text(attack, dataset, i, victim, recipe, seed)
                    seconds = time.perf_counter() - started
                    journal.append(row, seconds)
                    done[row.index] = row, seconds
                    wins += row.result == "success"
                    bar.advance(note=f"{wins} adversarial")
    finished = [done[int(index)] for index in dataset.indices]
    rows = [row for row, _ in finished]
    write_rows(run.path(ROWS_FILE), rows)
    _write_timings(run.path(TIMINGS_FILE), finished)
    return rows, victim.count_truncated(dataset.texts)


class Journal:
    """One JSON line per finished text, synced to disk before the next text begins.

    Args:
        path: The file; made on the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def read(self) -> dict[int, tuple[AdversarialRow, float]]:
        """Finished rows and their seconds by source index; a torn last line is cut off.

        Raises:
            DataError: A line other than the last is damaged.
        """
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            # Killed while writing: the line's text is attacked again.
            with open(self.path, "r+b") as handle:
                handle.truncate(whole)
        done = {}
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            try:
                entry = json.loads(line)
                row = row_from_json(json.dumps(entry["row"]))
                done[row.index] = row, float(entry["seconds"])
            except (ValueError, KeyError, TypeError, DataError) as error:
                raise DataError(
                    f"line {number} of {self.path} is damaged.",
                    "Remove that line; its text is attacked again.",
                ) from error
        return done

    def __enter__(self) -> Journal:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, row: AdversarialRow, seconds: float) -> None:
        """Write and sync one row; on a full disk the file is left as it was before."""
        line = f'{{"seconds": {seconds:.6f}, "row": {row_to_json(row)}}}\n'.encode()
        size = os.fstat(self._descriptor).st_size
        with disk_errors(self.path):
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, size)
                raise


def _attack_text(
    attack: Any, dataset: TextDataset, i: int, victim: Victim, recipe: Recipe, seed: int
) -> AdversarialRow:
    text, label, index = dataset.texts[i], int(dataset.labels[i]), int(dataset.indices[i])
    identity = row_id(text, dataset.name, index)
    _seed(seed, identity)
    attack.clear_cache()
    result = attack.attack(text, label)
    before, after = result.original_result, result.perturbed_result
    # Not `AttackedText.text`: what the victim was asked about is what counts.
    perturbed = after.attacked_text.tokenizer_input
    changed, percent = compare_words(text, perturbed)
    probabilities = [np.asarray(side.raw_output, dtype=np.float64).tolist() for side in (before, after)]
    return AdversarialRow(
        id=identity,
        dataset=dataset.name,
        split=dataset.split,
        index=index,
        label=label,
        original_text=text,
        perturbed_text=perturbed,
        changed_positions=changed,
        original_output=int(before.output),
        perturbed_output=int(after.output),
        original_score=1.0 - probabilities[0][label],
        perturbed_score=1.0 - probabilities[1][label],
        original_probabilities=probabilities[0],
        perturbed_probabilities=probabilities[1],
        result=_RESULTS[type(result).__name__],
        goal="untargeted",
        min_confidence=None,
        recipe=recipe.name,
        recipe_parameters=json.dumps(dict(recipe.parameters), sort_keys=True),
        victim=victim.name,
        victim_hash=victim.hash,
        queries=int(result.num_queries),
        words_changed_percent=percent,
        seed=seed,
        textattack_version=textattack_version(),
    )


def _seed(seed: int, identity: str) -> None:
    """Seed every generator a recipe may use, from the run's seed and the text: order and resuming don't matter."""
    import torch

    number = int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:4], "little")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (TextAttack draws from the global generator)
    torch.manual_seed(number)


def _write_timings(path: Path, finished: list[tuple[AdversarialRow, float]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": [row.id for row, _ in finished],
            "seconds": pa.array([seconds for _, seconds in finished], pa.float64()),
            "queries": pa.array([row.queries for row, _ in finished], pa.int64()),
        }
    )
    with atomic_writer(path) as handle:
        pq.write_table(table, handle)
