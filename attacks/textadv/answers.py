"""What slow models answered, kept in a file for the next attack that asks the same.

Attacks on one victim ask it much that is alike: a far-boundary attack goes the way of the plain one to the end and
then on, and every recipe that ranks words leaves out the same ones. With a file of answers only what is new is
computed. A known answer does not share a batch with the others, so rows may differ from those of an attack without the
file as they do between machines: in the last digits of probabilities.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DataError

_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (question BLOB PRIMARY KEY, dtype TEXT NOT NULL, vector BLOB NOT NULL)"
_READ = "SELECT question, dtype, vector FROM answers"
# SQLite looks for at most so many at once, whatever it was built with.
_MOST_MARKS = 999


class AnswerFile:
    """A file of answers. Any number of processes of one machine may read and write it at once.

    Args:
        path: An SQLite file; made where it is not there.

    Raises:
        DataError: It is there and is something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            file.execute(_SCHEMA)
            file.execute(f"{_READ} LIMIT 0")  # somebody else's table of this name has other columns
            # Writers don't wait for readers, and a commit doesn't wait for the disk: a lost answer is asked for again.
            file.execute("PRAGMA journal_mode=WAL")

    def recall(
        self, model: str, questions: Sequence[bytes], answer: Callable[[list[int]], Iterable[Any]]
    ) -> list[np.ndarray[Any, Any]]:
        """The answers to questions, computing and keeping those that are not there.

        Args:
            model: What decides an answer beside the question: the model's hash and how it is run.
            questions: n distinct questions.
            answer: From positions among `questions` to their answers, vectors of one dtype.

        Returns:
            n vectors, as they were computed.

        Raises:
            DataError: The file was damaged, or cannot be written.
        """
        asked = hashlib.blake2b(model.encode()).digest()
        keys = [hashlib.blake2b(question, digest_size=16, key=asked).digest() for question in questions]
        known: dict[bytes, np.ndarray[Any, Any]] = {}
        with self._opened() as file:
            for start in range(0, len(keys), _MOST_MARKS):
                part = keys[start : start + _MOST_MARKS]
                marks = ",".join("?" * len(part))
                for key, dtype, vector in file.execute(f"{_READ} WHERE question IN ({marks})", part):
                    known[key] = np.frombuffer(vector, dtype=dtype)
        missing = [place for place, key in enumerate(keys) if key not in known]
        if missing:
            found = [np.asarray(vector) for vector in answer(missing)]
            new = {keys[place]: vector for place, vector in zip(missing, found, strict=True)}
            with self._opened() as file, file:
                # Another process may have been quicker; both found the same.
                rows = [(key, vector.dtype.str, vector.tobytes()) for key, vector in new.items()]
                file.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)
            known.update(new)
        return [known[key] for key in keys]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=60)) as file:
                file.execute("PRAGMA synchronous=NORMAL")
                yield file
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:  # the last two of a vector that is none
            raise DataError(
                f"the file of answers {self.path} cannot be used: {error}.", "Give another file, or none."
            ) from error
