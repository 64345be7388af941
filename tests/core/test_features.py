"""The feature store computes once, survives kills, and trusts nothing whose hash differs."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core import features
from harness.core.errors import DiskFullError
from harness.core.features import FeatureStore
from harness.core.files import hash_json

KEY = {"weights": "w", "data": "d", "layers": [0, 3], "pooling": "class", "max_length": 128, "dtype": "fp32"}
ROWS = 1200  # three shards: 512, 512 and 176
Compute = Callable[[int, int], tuple[dict[str, Any], float, int]]


def arrays(start: int, stop: int) -> dict[str, Any]:
    rows = np.arange(start, stop)
    return {
        "probabilities": np.stack([rows, -rows], axis=1).astype(np.float64),
        "layer.3": (rows[:, None] * np.ones(5)).astype(np.float32),
    }


class Computer:
    """Computes `arrays` and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> tuple[dict[str, Any], float, int]:
        self.asked.append((start, stop))
        return arrays(start, stop), 0.25 * (stop - start), start // 512 + 1


def check(stored: features.StoredFeatures, rows: int = ROWS) -> None:
    for name, values in arrays(0, rows).items():
        np.testing.assert_array_equal(stored.arrays[name], values)
        assert stored.arrays[name].dtype == values.dtype


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))


def test_everything_is_computed_once(tmp_path: Path) -> None:
    compute = Computer()
    store = FeatureStore(tmp_path)
    for _ in range(3):
        stored = store.get(KEY, ROWS, compute)
        check(stored)
        assert stored.seconds == pytest.approx(0.25 * ROWS)  # what it cost then, not what reading costs now
        assert stored.truncated == 1 + 2 + 3
    assert compute.asked == [(0, 512), (512, 1024), (1024, 1200)]
    assert FeatureStore(tmp_path).get(dict(reversed(KEY.items())), ROWS, compute).seconds == pytest.approx(300)
    FeatureStore(tmp_path).get({**KEY, "layers": (0, 3)}, ROWS, compute)
    assert len(compute.asked) == 3


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 60), size=st.integers(1, 20))
def test_any_number_of_rows_in_any_shards(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, rows: int, size: int
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", size)
    compute = Computer()
    check(FeatureStore(tmp_path_factory.mktemp("store")).get(KEY, rows, compute), rows)
    assert [row for start, stop in compute.asked for row in range(start, stop)] == list(range(rows))
    assert all(0 < stop - start <= size for start, stop in compute.asked)


def test_no_rows(tmp_path: Path) -> None:
    compute = Computer()
    stored = FeatureStore(tmp_path).get(KEY, 0, compute)
    assert (stored.arrays, stored.seconds, stored.truncated, compute.asked) == ({}, 0, 0, [])


@pytest.mark.parametrize("name", sorted(KEY))
def test_a_change_of_any_part_of_the_key_computes_again(tmp_path: Path, name: str) -> None:
    store, compute = FeatureStore(tmp_path), Computer()
    store.get(KEY, 10, compute)
    store.get({**KEY, name: "other"}, 10, compute)
    assert compute.asked == [(0, 10), (0, 10)]
    store.get(KEY, 10, compute)
    assert len(compute.asked) == 2  # and the first is still there


def test_another_number_of_rows_computes_again(tmp_path: Path) -> None:
    store, compute = FeatureStore(tmp_path), Computer()
    store.get(KEY, 600, compute)
    check(store.get(KEY, 700, compute), 700)
    assert compute.asked == [(0, 512), (512, 600), (0, 512), (512, 700)]


def test_a_folder_that_another_key_left_is_not_trusted(tmp_path: Path) -> None:
    store, compute = FeatureStore(tmp_path), Computer()
    store.get({**KEY, "weights": "other"}, 10, lambda start, stop: ({"probabilities": np.zeros((10, 2))}, 0.0, 0))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    folder.rename(tmp_path / hash_json(KEY)[:24])  # as if the first 24 digits were the same
    check(store.get(KEY, 10, compute), 10)
    assert compute.asked == [(0, 10)]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_a_damaged_shard_is_computed_again_alone(tmp_path: Path, damage: str) -> None:
    store, compute = FeatureStore(tmp_path), Computer()
    store.get(KEY, ROWS, compute)
    path = shards(tmp_path)[1]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-100] ^= 1  # in the data: the file still opens
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(shards(tmp_path)[0].read_bytes())
    compute.asked.clear()
    stored = store.get(KEY, ROWS, compute)
    check(stored)
    assert compute.asked == [(512, 1024)]
    assert (stored.seconds, stored.truncated) == (pytest.approx(300), 6)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff", b'{"key": 1}'])
def test_a_damaged_manifest_computes_everything_again(tmp_path: Path, content: bytes) -> None:
    store, compute = FeatureStore(tmp_path), Computer()
    store.get(KEY, ROWS, compute)
    (manifest,) = tmp_path.glob("*/manifest.json")
    whole = manifest.read_bytes()
    manifest.write_bytes(content)
    check(store.get(KEY, ROWS, compute))
    assert len(compute.asked) == 6
    assert manifest.read_bytes() == whole


def test_the_manifest_says_what_the_arrays_are(tmp_path: Path) -> None:
    FeatureStore(tmp_path).get(KEY, ROWS, Computer())
    (manifest,) = tmp_path.glob("*/manifest.json")
    known = json.loads(manifest.read_text())
    assert (known["key"], known["rows"], known["shard_rows"]) == (KEY, ROWS, 512)
    assert sorted(known["shards"]) == [path.name for path in shards(tmp_path)]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from harness.core.features import FeatureStore

def compute(start, stop):
    print(start, flush=True)
    if start >= 512:
        os.kill(os.getpid(), signal.SIGKILL)
    rows = np.arange(start, stop)
    return {
        "probabilities": np.stack([rows, -rows], axis=1).astype(np.float64),
        "layer.3": (rows[:, None] * np.ones(5)).astype(np.float32),
    }, 0.25 * (stop - start), start // 512 + 1

key = %r
FeatureStore(Path(sys.argv[1])).get(key, 1200, compute)
"""


def test_a_kill_keeps_finished_shards(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED % KEY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["0", "512"]
    compute = Computer()
    check(FeatureStore(tmp_path).get(KEY, ROWS, compute))
    assert compute.asked == [(512, 1024), (1024, 1200)]


def test_a_shard_that_the_manifest_does_not_name_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "write_json", killed)  # between the shard and the manifest
    store, compute = FeatureStore(tmp_path), Computer()
    with pytest.raises(KeyboardInterrupt):
        store.get(KEY, 10, compute)
    assert len(shards(tmp_path)) == 1
    monkeypatch.undo()
    check(store.get(KEY, 10, compute), 10)
    assert len(compute.asked) == 2


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store, compute = FeatureStore(tmp_path), Computer()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="no space left"):
        store.get(KEY, ROWS, compute)
    monkeypatch.undo()
    assert shards(tmp_path) == []
    check(store.get(KEY, ROWS, compute))


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    script = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass")
    command = [sys.executable, "-c", script % KEY, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(outputs) == [[], ["0", "512", "1024"]]


def test_progress_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FeatureStore(tmp_path).get(KEY, ROWS, Computer(), what="reading the weather")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "reading the weather" in captured.err
    assert "1200/1200" in captured.err


def test_arrays_are_read_one_at_a_time(tmp_path: Path) -> None:
    compute = Computer()
    opened = FeatureStore(tmp_path).open(KEY, ROWS, compute, unit="image")
    assert opened.names == ("layer.3", "probabilities")
    assert (opened.fresh, opened.seconds, opened.truncated) == (ROWS, pytest.approx(300), 6)
    for name, values in arrays(0, ROWS).items():
        np.testing.assert_array_equal(opened.read(name), values)
    with pytest.raises(KeyError):
        opened.read("layer.4")
    shards(tmp_path)[1].unlink()
    again = FeatureStore(tmp_path).open(KEY, ROWS, compute)
    assert (again.fresh, again.seconds) == (512, pytest.approx(300))
    assert FeatureStore(tmp_path).open({**KEY, "data": "none"}, 0, compute).names == ()


def test_the_unit_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FeatureStore(tmp_path).get(KEY, ROWS, Computer(), unit="image")
    assert "images/s" in capsys.readouterr().err
