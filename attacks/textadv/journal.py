"""The journal of an attack: one line a finished shard, on disk before the next is begun."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.core.files import disk_errors
from harness.text.adversarial import AdversarialRow, row_from_json

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Finished:
    """One text that was attacked.

    Attributes:
        index: Row number in the source split.
        seconds: Time of its own, and its share of the batches it was in.
        row: Its row; None where the attack raised.
        traceback: The traceback, where it raised.
    """

    index: int
    seconds: float
    row: AdversarialRow | None = None
    traceback: str = ""


class Journal:
    """Finished shards, each a JSON line that is synced to disk.

    Args:
        path: The file; made on the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def read(self) -> dict[int, list[Finished]]:
        """Finished shards by number; a torn last line is cut off.

        Raises:
            DataError: A line other than the last is damaged.
        """
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            # Killed while writing: the line's shard is done again.
            with open(self.path, "r+b") as handle:
                handle.truncate(whole)
        done = {}
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            try:
                entry = json.loads(line)
                done[int(entry["shard"])] = [_finished(one) for one in entry["texts"]]
            except (ValueError, KeyError, TypeError, DataError) as error:
                raise DataError(
                    f"line {number} of {self.path} is damaged.",
                    "Remove that line; its texts are attacked again.",
                ) from error
        return done

    def __enter__(self) -> Journal:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, shard: int, texts: list[Finished]) -> None:
        """Write and sync one shard; on a full disk the file is left as it was before."""
        entry = {"shard": shard, "texts": [asdict(text) for text in texts]}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
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


def _finished(entry: dict[str, object]) -> Finished:
    row = None if entry["row"] is None else row_from_json(json.dumps(entry["row"]))
    if (row is None) != bool(entry["traceback"]):
        raise ValueError("neither a row nor a traceback, or both")
    return Finished(int(str(entry["index"])), float(str(entry["seconds"])), row, str(entry["traceback"]))
