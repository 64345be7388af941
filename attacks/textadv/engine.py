"""Attack a dataset, resumable at any moment, the same rows whatever happened on the way.

The texts are cut into shards of fixed content. Every finished shard is one line in a journal, written and synced as it
ends. A killed run loses at most the shards it was working on; the next run reads the journal, drops a torn last
line, and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.files import atomic_writer, write_text
from harness.core.progress import Progress
from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE, TIMINGS_FILE, AdversarialRow, write_rows
from harness.text.datasets import TextDataset
from textadv.journal import JOURNAL, Finished, Journal
from textadv.runtime import SPLIT_MARK
from textadv.shards import ROOM, ShardWorker

ERRORS_FILE = "errors.jsonl"
SHARD_SIZE = 32
# From shards and a function that is told of each text that ends, to finished shards in any order.
WorkOff = Callable[
    [Sequence[tuple[int, TextDataset]], Callable[[Finished], None]], Iterator[tuple[int, list[Finished]]]
]


def set_threads(threads: int | None, workers: int | None) -> int:
    """Fix PyTorch's threads, on which the last digits of a product depend.

    Args:
        threads: How many; None for all cores in this process alone, and 1 for workers.
        workers: How many workers there are; None for this process alone.

    Returns:
        The threads of whoever attacks; this process has as many from now on.
    """
    import torch

    if threads is None:
        threads = torch.get_num_threads() if workers is None else 1
    torch.set_num_threads(threads)
    return threads


def attack_config(
    dataset: TextDataset, worker: ShardWorker, shard_size: int = SHARD_SIZE, threads: int = 1
) -> dict[str, Any]:
    """Everything that decides the rows, as it goes into the run's configuration."""
    victim = worker.parts.victim
    facts = dict(worker.facts)
    return {
        "dataset": dataset.name,
        "dataset_source": dataset.source,
        "dataset_hash": dataset.hash,
        "split": dataset.split,
        "texts": len(dataset),
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "batch_size": victim.batch_size,
        "shard_size": shard_size,
        "room": ROOM,
        "threads": threads,
        **facts,
        "recipe_parameters": json.loads(facts["recipe_parameters"]),
    }


def check_texts(dataset: TextDataset) -> None:
    """Refuse texts that hold the mark which TextAttack is given between the parts of a text.

    Raises:
        DataError: A text holds the mark.
    """
    for index, text in zip(dataset.indices.tolist(), dataset.texts, strict=True):
        if SPLIT_MARK in text:
            raise DataError(
                f"text {index} of {dataset.name!r} holds {SPLIT_MARK!r}, which is a mark of the attack engine.",
                "Remove it from the text.",
            )


def one_process(worker: ShardWorker) -> WorkOff:
    """Shards one after the other, in this process."""

    def work_off(
        shards: Sequence[tuple[int, TextDataset]], ended: Callable[[Finished], None]
    ) -> Iterator[tuple[int, list[Finished]]]:
        for number, texts in shards:
            yield number, worker.attack(texts, ended)

    return work_off


def run_attack(
    dataset: TextDataset, work_off: WorkOff, run: Run, *, shard_size: int = SHARD_SIZE
) -> tuple[list[AdversarialRow], list[Finished]]:
    """Attack every text of `dataset` and leave rows and timings in the folder of `run`.

    Args:
        dataset: Texts with gold labels, that `check_texts` lets pass.
        work_off: Who attacks the shards: `one_process`, or many workers (`textadv.ray_workers`).
        run: An open run with `attack_config` in its configuration.
        shard_size: Texts that are attacked together.

    Returns:
        All rows, in the order of `dataset`, and the texts that were set aside because their attack raised.

    Raises:
        DataError: Every text so far raised; the message has the last error.
        DiskFullError: No space left; the journal holds every finished shard.
    """
    journal = Journal(run.path(JOURNAL))
    done = journal.read()
    starts = list(enumerate(range(0, len(dataset), shard_size)))
    todo = [(k, dataset.take(range(at, min(at + shard_size, len(dataset))))) for k, at in starts if k not in done]
    wins = sum(text.row is not None and text.row.result == "success" for texts in done.values() for text in texts)
    with Progress("attacking", total=len(dataset), unit="text") as bar:
        bar.advance(sum(map(len, done.values())))

        def ended(text: Finished) -> None:
            nonlocal wins
            wins += text.row is not None and text.row.result == "success"
            bar.advance(note=f"{wins} adversarial")

        with journal:
            for number, texts in work_off(todo, ended):
                done[number] = texts
                if all(text.row is None for texts in done.values() for text in texts):
                    raise DataError(
                        f"all {len(texts)} texts of the first shard raised an error; the last one is:\n"
                        f"{texts[-1].traceback}",
                        "Nothing was kept. Mend the cause and run the same command again.",
                    )
                journal.append(number, texts)
    finished = [text for number in sorted(done) for text in done[number]]
    rows = [text.row for text in finished if text.row is not None]
    aside = [text for text in finished if text.row is None]
    write_rows(run.path(ROWS_FILE), rows)
    _write_timings(run.path(TIMINGS_FILE), [text for text in finished if text.row is not None])
    if aside:
        lines = [json.dumps({"index": text.index, "traceback": text.traceback}) for text in aside]
        write_text(run.path(ERRORS_FILE), "".join(f"{line}\n" for line in lines))
    return rows, aside


def _write_timings(path: Path, finished: list[Finished]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [text.row for text in finished if text.row is not None]
    table = pa.table(
        {
            "id": [row.id for row in rows],
            "seconds": pa.array([text.seconds for text in finished], pa.float64()),
            "queries": pa.array([row.queries for row in rows], pa.int64()),
        }
    )
    with atomic_writer(path) as handle:
        pq.write_table(table, handle)
