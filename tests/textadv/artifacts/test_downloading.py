"""Downloads end as the very file, whatever server and network do, or as nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError, HarnessError
from textadv import downloading
from textadv.downloading import download

CONTENT = random.Random(0).randbytes(102_400)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LARGE = 10**9


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(0, 3000),
    cuts=st.lists(st.integers(0, 60).map(lambda chunks: 16 * chunks), max_size=4),
    ranges=st.booleans(),
    length=st.booleans(),
    etag=st.sampled_from(['"1"', 'W/"1"', None]),
)
def test_a_broken_connection_costs_only_what_was_lost(
    web: Any,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    cuts: list[int],
    ranges: bool,
    length: bool,
    etag: str | None,
) -> None:
    monkeypatch.setattr(downloading, "_CHUNK", 16)  # cuts fall between chunks
    content, path = CONTENT[:size], tmp_path_factory.mktemp("download") / "file"
    # Without a length, an answer that breaks off looks like one that ends; only a hash could tell.
    url = web.serve("/file", content, cuts=list(cuts) if length else [], ranges=ranges, length=length, etag=etag)
    web.requests.clear()
    assert download(url, path, sha256=None, max_bytes=LARGE) == hashlib.sha256(content).hexdigest()
    assert path.read_bytes() == content
    assert left(path.parent) == ["file"]
    come = 0
    for number, (_, asked) in enumerate(web.requests):
        goes_on = come > 0 and etag == '"1"'
        assert asked == (f"bytes={come}-" if goes_on else None)
        start = come if goes_on and ranges else 0
        come = min(start + (cuts[number] if number < len(cuts) else LARGE), len(content))


def test_a_later_call_goes_on_with_an_earlier_one(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT, cuts=[1 << 15] + [0] * 9)
    with pytest.raises(HarnessError, match=r"32,768 bytes are kept") as failed:
        download(url, tmp_path / "file", sha256=None, max_bytes=LARGE)
    assert "again" in failed.value.hint
    assert left(tmp_path) == ["file.part", "file.part.json"]
    web.serve("/file", CONTENT)
    web.requests.clear()
    assert download(url, tmp_path / "file", sha256=None, max_bytes=LARGE) == SHA256
    assert web.requests == [("/file", "bytes=32768-")]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_file_under_the_address_is_taken_whole(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT, cuts=[1 << 15] + [0] * 9, etag='"old"')
    with pytest.raises(HarnessError):
        download(url, tmp_path / "file", sha256=None, max_bytes=LARGE)
    web.serve("/file", CONTENT[::-1], etag='"new"')
    download(url, tmp_path / "file", sha256=None, max_bytes=LARGE)
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_the_part_of_another_address_is_not_gone_on_with(web: Any, tmp_path: Path) -> None:
    url = web.serve("/old", CONTENT, cuts=[1 << 15] + [0] * 9)
    with pytest.raises(HarnessError):
        download(url, tmp_path / "file", sha256=None, max_bytes=LARGE)
    download(web.serve("/new", CONTENT[::-1]), tmp_path / "file", sha256=None, max_bytes=LARGE)
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_a_file_that_came_whole_and_has_no_name_yet_is_not_fetched_twice(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT)
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.json").write_text(json.dumps({"url": url, "validator": '"1"'}))
    assert download(url, tmp_path / "file", sha256=None, max_bytes=LARGE) == SHA256
    assert web.requests == [("/file", f"bytes={len(CONTENT)}-")]
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 5])
def test_a_wrong_beginning_is_seen_by_the_hash(web: Any, tmp_path: Path, size: int) -> None:
    url = web.serve("/file", CONTENT, etag=None)
    (tmp_path / "file.part").write_bytes(b"x" * size)
    assert download(url, tmp_path / "file", sha256=SHA256, max_bytes=LARGE) == SHA256
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_not_kept(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT[:-1] + b"?")
    with pytest.raises(DataError, match=SHA256) as failed:
        download(url, tmp_path / "file", sha256=SHA256, max_bytes=LARGE)
    assert url in failed.value.message
    assert left(tmp_path) == []


def test_a_wrong_file_under_the_final_name_is_fetched_again(web: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other")
    download(web.serve("/file", CONTENT), tmp_path / "file", sha256=SHA256, max_bytes=LARGE)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_said_at_once(web: Any, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="the server answers 404"):
        download(f"{web.url}/none", tmp_path / "file", sha256=None, max_bytes=LARGE)
    assert len(web.requests) == 1


def test_a_busy_server_is_asked_again(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT, statuses=[503, 429, 500])
    assert download(url, tmp_path / "file", sha256=None, max_bytes=LARGE) == SHA256
    url = web.serve("/busy", CONTENT, statuses=[503] * 99)
    with pytest.raises(HarnessError, match="503"):
        download(url, tmp_path / "busy", sha256=None, max_bytes=LARGE)
    assert len(web.files["/busy"].statuses) == 99 - 5


def test_any_number_of_breaks_is_borne_while_bytes_come(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT, cuts=[0, *[1 << 14] * 6])
    assert download(url, tmp_path / "file", sha256=None, max_bytes=LARGE) == SHA256
    assert len(web.requests) == 8


def test_a_redirect_is_followed(web: Any, tmp_path: Path) -> None:
    web.serve("/file", CONTENT, cuts=[100])
    url = web.serve("/moved", b"", location=f"{web.url}/file")
    assert download(url, tmp_path / "file", sha256=None, max_bytes=LARGE) == SHA256


def test_encryption_is_not_left() -> None:
    def answer(*urls: str) -> Any:
        *history, last = [SimpleNamespace(url=url) for url in urls]
        return SimpleNamespace(url=last.url, history=history)

    downloading._check_scheme("https://a/x", answer("https://a/x", "https://b/x"))
    downloading._check_scheme("http://a/x", answer("http://a/x", "http://b/x"))
    for steps in (("https://a/x", "http://b/x"), ("https://a/x", "http://b/x", "https://c/x")):
        with pytest.raises(HarnessError, match="without encryption"):
            downloading._check_scheme("https://a/x", answer(*steps))


@pytest.mark.parametrize("length", [True, False], ids=["declared", "not declared"])
def test_a_file_that_is_too_long_is_refused(web: Any, tmp_path: Path, length: bool) -> None:
    url = web.serve("/file", CONTENT, length=length)
    with pytest.raises(HarnessError, match="longer than"):
        download(url, tmp_path / "file", sha256=None, max_bytes=len(CONTENT) - 1)
    assert left(tmp_path) == []
    assert download(url, tmp_path / "file", sha256=None, max_bytes=len(CONTENT)) == SHA256


def test_no_network_is_one_sentence(web: Any, tmp_path: Path) -> None:
    url = web.serve("/file", CONTENT)
    web.close()
    with pytest.raises(HarnessError, match=r"127\.0\.0\.1 cannot be reached") as failed:
        download(url, tmp_path / "file", sha256=None, max_bytes=LARGE)
    assert "--artifacts DIR" in failed.value.hint


def test_a_killed_download_is_gone_on_with(web: Any, tmp_path: Path) -> None:
    import threading

    large = CONTENT * 30
    url = web.serve("/file", large, gate=threading.Event())
    code = (
        "import sys; from pathlib import Path; from textadv.downloading import download\n"
        "download(sys.argv[1], Path('file'), sha256=None, max_bytes=10**9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url], cwd=tmp_path, env=dict(os.environ))
    try:
        assert web.half_sent.wait(60)
        part = tmp_path / "file.part"
        while not part.is_file() or part.stat().st_size < 1_000_000:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "file").exists()
    come = part.stat().st_size
    web.files["/file"].gate.set()
    web.serve("/file", large)
    web.requests.clear()
    download(url, tmp_path / "file", sha256=None, max_bytes=LARGE)
    assert web.requests == [("/file", f"bytes={come}-")]
    assert (tmp_path / "file").read_bytes() == large
