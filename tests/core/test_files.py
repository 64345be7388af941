"""Files are whole or absent: crashes, kills and full disks; hashes; the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import files
from harness.core.errors import DiskFullError, MissingFileError
from harness.core.files import (
    atomic_writer,
    cache_folder,
    canonical_json,
    disk_errors,
    hash_file,
    hash_json,
    hash_strings,
    read_json,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "result"
    with atomic_writer(path) as handle:
        handle.write(b"new")
        handle.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    with atomic_writer(path) as handle:
        handle.write(b"newer")
        handle.flush()
        assert path.read_bytes() == b"new"
    assert path.read_bytes() == b"newer"
    assert os.listdir(path.parent) == ["result"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_a_crash_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with pytest.raises(failure, match="crash"), atomic_writer(path) as handle:  # noqa: PT012
        handle.write(b"half of the ne")
        handle.flush()
        raise failure("crash")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result"]


KILLED = """
import sys, time
from pathlib import Path
from harness.core.files import atomic_writer
with atomic_writer(Path(sys.argv[1])) as handle:
    handle.write(b"half of the ne")
    handle.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        assert len(os.listdir(tmp_path)) == 2  # it was in the middle of it
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_written_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "result", "x")
        assert os.umask(0o027) == 0o027  # the writer left the mask as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == 0o640


def test_content_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        if steps[-1] == "content":
            assert os.fstat(descriptor).st_size == 3  # flushed from Python's buffer
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), rename(*names)))
    write_text(tmp_path / "result", "new")
    assert steps == ["content", "rename", "folder"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", [66_000, 10_000_000])
def test_a_full_disk_is_named_and_loses_nothing(small_disk: Path, size: int) -> None:
    path = small_disk / "result"
    write_text(path, "old")
    with pytest.raises(DiskFullError) as caught:
        write_text(path, "x" * size)
    assert str(path) in caught.value.message
    assert "run the same command again" in caught.value.hint
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["result"]
    write_text(path, "y" * 30_000)  # the space was given back
    assert path.stat().st_size == 30_000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space_in_any_call_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    path = tmp_path / "result"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError, match="no space left"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_the_systems_own_error_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), disk_errors(tmp_path), open("/dev/full", "wb") as handle:
        handle.write(b"x")


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


@given(JSON)
def test_json_files_keep_values(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    write_json(path, value)
    assert read_json(path) == value


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no file"):
        read_json(tmp_path / "nothing.json")


def test_nan_is_no_json(tmp_path: Path) -> None:
    for write in (lambda: write_json(tmp_path / "x.json", {"a": float("nan")}), lambda: hash_json([float("inf")])):
        with pytest.raises(ValueError, match="JSON compliant"):
            write()
    assert os.listdir(tmp_path) == []


def test_hashes_are_the_published_function(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert hash_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()
    assert hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_joints_of_strings_count(left: list[str], right: list[str]) -> None:
    assert (hash_strings(left) == hash_strings(right)) == (left == right)
    assert hash_strings(["ab", "c"]) != hash_strings(["a", "bc"]) != hash_strings(["abc"])


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path))
    assert cache_folder("a", "b") == tmp_path / "a" / "b"
    monkeypatch.delenv(files.CACHE_VARIABLE)
    assert "palimpsest" in str(cache_folder())
    assert list(tmp_path.iterdir()) == []
