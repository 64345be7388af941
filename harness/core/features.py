"""The feature store: what a model said of a data set, kept per layer in memory-mapped files.

One folder per key, and the key holds everything the arrays depend on (weights hash, data hash, layers, pooling,
maximal length, dtype). Rows are appended in shards of a fixed number of texts; a shard takes its name only when it
is whole, with its SHA-256 in the manifest. A shard that is missing, or whose hash differs, is computed again.

    <root>/<key hash>/manifest.json        key, rows, shard size; per shard: hash, seconds, truncated
    <root>/<key hash>/00000.safetensors    probabilities and one array a layer; read through a memory map

`get` gives all arrays at once; `open` gives one at a time, for features that would fill the memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError
from harness.core.files import atomic_writer, hash_file, hash_json, read_json, write_json
from harness.core.progress import Progress

Arrays = dict[str, NDArray[Any]]
SHARD_ROWS = 512


@dataclass(frozen=True)
class StoredFeatures:
    """Arrays of one key, concatenated over shards.

    Attributes:
        arrays: Name -> (n, ...) array.
        seconds: What computing them cost, whenever that was.
        truncated: How many texts were cut to the maximal length.
    """

    arrays: Arrays
    seconds: float
    truncated: int


@dataclass(frozen=True)
class OpenFeatures:
    """Arrays of one key that stay on disk until they are asked for.

    Attributes:
        names: The arrays' names, sorted; empty where there are no rows.
        seconds: What computing them cost, whenever that was.
        truncated: How many texts were cut to the maximal length.
        fresh: How many rows were computed by this call.
    """

    names: tuple[str, ...]
    seconds: float
    truncated: int
    fresh: int
    _shards: tuple[Path, ...]

    def read(self, name: str) -> NDArray[Any]:
        """One array, (n, ...), concatenated over shards; the others are not touched.

        Raises:
            KeyError: There is no such array.
        """
        from safetensors import safe_open

        if name not in self.names:
            raise KeyError(name)
        parts = []
        for path in self._shards:
            with safe_open(path, framework="np") as shard:
                parts.append(shard.get_tensor(name))
        return np.concatenate(parts)


class FeatureStore:
    """Shards of arrays in a folder, made once and trusted only while their hashes hold.

    Args:
        root: The folder that holds one folder a key.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def get(
        self,
        key: Mapping[str, Any],
        rows: int,
        compute: Callable[[int, int], tuple[Arrays, float, int]],
        *,
        what: str = "features",
        unit: str = "text",
    ) -> StoredFeatures:
        """Return the arrays of `key`, computing the shards that are not there.

        Args:
            key: JSON-able facts that decide the arrays.
            rows: n, how many rows there are.
            compute: (start, stop) -> (arrays of those rows, seconds, truncated).
            what: What the progress bar says is being read.
            unit: What the progress bar calls a row.
        """
        stored = self.open(key, rows, compute, what=what, unit=unit)
        return StoredFeatures({name: stored.read(name) for name in stored.names}, stored.seconds, stored.truncated)

    def open(
        self,
        key: Mapping[str, Any],
        rows: int,
        compute: Callable[[int, int], tuple[Arrays, float, int]],
        *,
        what: str = "features",
        unit: str = "text",
    ) -> OpenFeatures:
        """As `get`, but every array stays on disk until it is read."""
        import filelock

        folder = self.root / hash_json(dict(key))[:24]
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, rows, SHARD_ROWS)
        with filelock.FileLock(folder / ".lock"):
            manifest = _manifest(folder, key, rows)
            missing = [start for start in starts if not _valid(folder, manifest, start)]
            fresh = sum(min(SHARD_ROWS, rows - start) for start in missing)
            if missing:
                with Progress(what, total=rows, unit=unit, done=rows - fresh) as bar:
                    for start in missing:
                        stop = min(start + SHARD_ROWS, rows)
                        _write_shard(folder, manifest, start, compute(start, stop))
                        bar.advance(stop - start)
        entries = [manifest["shards"][_name(start)] for start in starts]
        paths = tuple(folder / _name(start) for start in starts)
        return OpenFeatures(
            _array_names(paths[0]) if paths else (),
            sum(float(entry["seconds"]) for entry in entries),
            sum(int(entry["truncated"]) for entry in entries),
            fresh,
            paths,
        )


def _manifest(folder: Path, key: Mapping[str, Any], rows: int) -> dict[str, Any]:
    fresh: dict[str, Any] = {"key": dict(key), "rows": rows, "shard_rows": SHARD_ROWS, "shards": {}}
    path = folder / "manifest.json"
    if not path.exists():
        return fresh
    try:
        known = dict(read_json(path))
        # By hash: a tuple in the key is a list in the file.
        same = hash_json({**known, "shards": {}}) == hash_json(fresh) and isinstance(known["shards"], dict)
    except (DataError, ValueError, TypeError, KeyError):  # damaged: everything is computed again
        return fresh
    return known if same else fresh


def _name(start: int) -> str:
    return f"{start // SHARD_ROWS:05d}.safetensors"


def _valid(folder: Path, manifest: Mapping[str, Any], start: int) -> bool:
    entry = manifest["shards"].get(_name(start))
    path = folder / _name(start)
    return bool(entry) and path.is_file() and hash_file(path) == entry["sha256"]


def _write_shard(folder: Path, manifest: dict[str, Any], start: int, made: tuple[Arrays, float, int]) -> None:
    from safetensors.numpy import save

    arrays, seconds, truncated = made
    path = folder / _name(start)
    with atomic_writer(path) as handle:
        handle.write(save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))
    manifest["shards"][path.name] = {"sha256": hash_file(path), "seconds": seconds, "truncated": truncated}
    write_json(folder / "manifest.json", manifest)


def _array_names(path: Path) -> tuple[str, ...]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as shard:
        return tuple(sorted(shard.keys()))
