"""Fetched artifacts are whole and written down, or not there; a second fetch trusts only the hashes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingArtifactError
from textadv.artifacts import Artifact, Download, HubSnapshot, InstalledPackage, Made, Pickled, find_artifact
from textadv.fetching import Settings, fetch

Register = Callable[..., Artifact]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def zipped(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_txt", ".txt"), content)
    return stream.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))


def test_files_of_every_kind_come_and_are_written_down(web: Any, cache: Path, register: Register) -> None:
    urls = {
        "plain": web.serve("/a.txt", b"plain"),
        "zip": web.serve("/b.zip", zipped(b__c_txt="in a zip")),
        "tar.gz": web.serve("/b", tarred("d.txt", b"in a tar")),
        "gz": web.serve("/e.txt.gz", gzip.compress(b"in gzip")),
    }
    pinned = hashlib.sha256(b"plain").hexdigest()
    parts = (
        Download(urls["plain"], pinned, into="a.txt"),
        Download(urls["zip"], archive="zip"),
        Download(urls["tar.gz"], archive="tar.gz", into="t"),
        Download(urls["gz"], archive="gz", into="g/e.txt"),
    )
    register("toy", parts, ("a.txt", "b/c.txt", "t/d.txt", "g/e.txt"), licence="MIT")
    found = fetch("toy")
    assert (found.note, found.place) == ("fetched", cache / "toy")
    assert find_artifact("toy") == cache / "toy"
    contents = {"a.txt": b"plain", "b/c.txt": b"in a zip", "t/d.txt": b"in a tar", "g/e.txt": b"in gzip"}
    for name, content in contents.items():
        assert (cache / "toy" / name).read_bytes() == content
    manifest = json.loads((cache / "toy" / "manifest.json").read_text())
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    assert (manifest["artifact"], manifest["licence"], manifest["source"]["kind"]) == ("toy", "MIT", "download")
    assert [part["url"] for part in manifest["source"]["files"]] == [part.url for part in parts]
    assert [part["pinned"] for part in manifest["source"]["files"]] == [True, False, False, False]
    assert manifest["source"]["files"][0]["sha256"] == pinned
    assert visible(cache) == ["toy"]


def test_the_same_files_give_the_same_manifest(web: Any, tmp_path: Path, register: Register) -> None:
    register("toy", (Download(web.serve("/a", b"1"), into="a.txt"),))
    manifests = [(fetch("toy", tmp_path / name).place / "manifest.json").read_bytes() for name in ("one", "two")]
    assert manifests[0] == manifests[1]


def test_a_second_fetch_asks_nobody(web: Any, register: Register) -> None:
    register("toy", (Download(web.serve("/a", b"1"), into="a.txt"),))
    fetch("toy")
    web.requests.clear()
    assert "is here already, every file as its manifest says" in fetch("toy").note
    assert web.requests == []
    assert fetch("toy", again=True).note == "fetched"
    assert len(web.requests) == 1


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_corrupted_file_is_named_and_mended(web: Any, cache: Path, register: Register, damage: str) -> None:
    parts = (Download(web.serve("/a", b"1"), into="a.txt"), Download(web.serve("/b", b"2"), into="b.txt"))
    register("toy", parts)
    fetch("toy")
    path = cache / "toy" / "b.txt"  # not one of the files that prove it
    if damage == "changed":
        path.write_bytes(b"3")
    else:
        path.unlink()
    said: list[str] = []
    assert fetch("toy", say=said.append).note == "fetched"
    assert len(said) == 1
    assert "b.txt" in said[0]
    assert "a.txt" not in said[0]
    assert path.read_bytes() == b"2"
    assert visible(cache) == ["toy"]


def test_a_damaged_artifact_stays_until_the_new_one_is_whole(web: Any, cache: Path, register: Register) -> None:
    register("toy", (Download(web.serve("/a", b"1"), into="a.txt"), Download(web.serve("/b", b"2"), into="b.txt")))
    fetch("toy")
    (cache / "toy" / "b.txt").write_bytes(b"3")
    web.serve("/b", b"2", statuses=[404])
    with pytest.raises(HarnessError, match="404"):
        fetch("toy")
    assert (cache / "toy" / "a.txt").read_bytes() == b"1"
    fetch("toy")
    assert (cache / "toy" / "b.txt").read_bytes() == b"2"


def test_what_came_is_not_fetched_again(web: Any, register: Register) -> None:
    register("toy", (Download(web.serve("/a", b"1"), into="a.txt"), Download(web.serve("/b", b"2"), into="b.txt")))
    web.files["/b"].statuses = [404]
    with pytest.raises(HarnessError, match="404"):
        fetch("toy")
    web.requests.clear()
    fetch("toy")
    assert web.requests == [("/b", None)]


def test_a_wrong_hash_leaves_nothing_under_the_name(web: Any, cache: Path, register: Register) -> None:
    register("toy", (Download(web.serve("/a", b"1"), "0" * 64, into="a.txt"),))
    with pytest.raises(DataError, match="0" * 64):
        fetch("toy")
    assert not (cache / "toy").exists()
    with pytest.raises(MissingArtifactError):
        find_artifact("toy")


def test_an_evil_archive_leaves_nothing_under_the_name(web: Any, cache: Path, register: Register) -> None:
    register("toy", (Download(web.serve("/a", tarred("../../../evil.txt", b"1")), archive="tar.gz"),))
    with pytest.raises(DataError, match="leads out"):
        fetch("toy")
    assert not (cache / "toy").exists()
    assert not list(cache.parent.parent.rglob("evil.txt"))


def test_an_archive_without_the_files_is_refused(web: Any, cache: Path, register: Register) -> None:
    register("toy", (Download(web.serve("/a", zipped(other_txt="1")), archive="zip"),))
    with pytest.raises(DataError, match=r"lacks a\.txt"):
        fetch("toy")
    assert not (cache / "toy").exists()


def test_the_size_is_bounded_by_what_it_should_be(web: Any, register: Register) -> None:
    register("toy", (Download(web.serve("/a", bytes(51_000_000)), into="a.txt"),), size_mb=0)
    with pytest.raises(HarnessError, match="longer than 50,000,000 bytes"):
        fetch("toy")


def test_a_folder_put_together_by_hand_is_never_replaced(web: Any, cache: Path, register: Register) -> None:
    register("toy", (Download(web.serve("/a", b"1"), into="a.txt"),))
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not replaced") as failed:
        fetch("toy")
    assert "a.txt" in failed.value.hint
    (cache / "toy" / "a.txt").write_text("mine too")
    assert "no manifest" in fetch("toy").note
    with pytest.raises(ConfigurationError, match="not replaced"):
        fetch("toy", again=True)
    assert (cache / "toy" / "a.txt").read_text() == "mine too"
    assert web.requests == []


def test_a_folder_to_take_along_is_filled_from_the_cache(
    web: Any, cache: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("toy", (Download(web.serve("/a", b"1"), into="a.txt"), Download(web.serve("/b", b"2"), into="b.txt")))
    fetch("toy")
    web.requests.clear()
    along = tmp_path / "along"
    assert fetch("toy", along).place == along / "toy"
    assert web.requests == []
    for name in ("a.txt", "b.txt", "manifest.json"):
        assert (along / "toy" / name).read_bytes() == (cache / "toy" / name).read_bytes()
    # On the other machine: no network, an empty cache.
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "elsewhere"))
    web.files.clear()
    assert find_artifact("toy", along) == along / "toy"


def test_two_fetches_do_the_work_once(web: Any, register: Register) -> None:
    url = web.serve("/a", b"x" * 100_000, gate=threading.Event())
    register("toy", (Download(url, into="a.txt"),))
    said: list[str] = []
    notes: list[str] = []
    workers = [threading.Thread(target=lambda: notes.append(fetch("toy", say=said.append).note)) for _ in range(2)]
    workers[0].start()
    assert web.half_sent.wait(30)
    workers[1].start()
    while not said:
        assert workers[1].is_alive()
    web.files["/a"].gate.set()
    for worker in workers:
        worker.join(30)
    assert "another fetch of toy" in said[0]
    assert sorted(note.split(",")[0] for note in notes) == ["fetched", "is here already"]
    assert len(web.requests) == 1


KILLED = """
import sys
from textadv.artifacts import ARTIFACTS, Artifact, Download
from harness.core.registry import Entry
from textadv.fetching import fetch
artifact = Artifact("toy", "test", "a test's", ("a.txt",), (Download(sys.argv[1], into="a.txt"),), "none", 10)
ARTIFACTS.names()
ARTIFACTS._entries["toy"] = Entry("toy", "none:none")
ARTIFACTS._loaded["toy"] = artifact
print(fetch("toy").note)
"""


def test_a_killed_fetch_is_gone_on_with(web: Any, cache: Path, register: Register) -> None:
    content = os.urandom(3_000_000)
    url = web.serve("/a", content, gate=threading.Event())
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], env=dict(os.environ))
    try:
        assert web.half_sent.wait(60)
        while not (parts := [p for p in cache.rglob("*.part") if p.stat().st_size > 1_000_000]):
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert visible(cache) == [".toy.partial"]
    come = parts[0].stat().st_size
    web.files["/a"].gate.set()
    web.serve("/a", content)
    web.requests.clear()
    done = subprocess.run([sys.executable, "-c", KILLED, url], capture_output=True, text=True, check=True)
    assert done.stdout == "fetched\n"
    assert web.requests == [("/a", f"bytes={come}-")]
    assert (cache / "toy" / "a.txt").read_bytes() == content
    assert visible(cache) == ["toy"]


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A maker that writes down what it was given."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "palimpsest_test_maker.py").write_text(
        textwrap.dedent("""
        def make(target, sources, *, dataset, limit, seed):
            assert not list(target.iterdir())
            if dataset == "broken":
                (target / "a.txt").write_text("half")
                raise ValueError("no")
            text = (sources["raw"] / "a.txt").read_text()
            (target / "a.txt").write_text(f"{text} {dataset} {limit} {seed}")
        """)
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    return "palimpsest_test_maker:make"


def test_what_is_made_brings_what_it_needs(web: Any, cache: Path, register: Register, maker: str) -> None:
    register("raw", (Download(web.serve("/a", b"raw"), into="a.txt"),))
    register("cooked", Made(maker, ("raw",)))
    fetch("cooked", settings=Settings(seed=3))
    assert (cache / "cooked" / "a.txt").read_text() == "raw None None 3"
    assert visible(cache) == ["cooked", "raw"]
    source = json.loads((cache / "cooked" / "manifest.json").read_text())["source"]
    assert (source["kind"], source["maker"], source["settings"]) == ("made", maker, {"seed": 3})
    assert set(source["needs"]) == {"raw"}
    # Made from other bytes, it is said to be.
    web.serve("/a", b"new")
    fetch("raw", again=True)
    fetch("cooked", again=True, settings=Settings(seed=3))
    assert json.loads((cache / "cooked" / "manifest.json").read_text())["source"]["needs"] != source["needs"]


def test_what_may_learn_from_texts_is_made_anew_for_others(
    web: Any, cache: Path, tmp_path: Path, register: Register, maker: str
) -> None:
    register("raw", (Download(web.serve("/a", b"raw"), into="a.txt"),))
    register("taught", Made(maker, ("raw",), takes_dataset=True))
    fetch("taught")
    assert (cache / "taught" / "a.txt").read_text() == "raw None None 0"
    given = Settings("imdb", 10, 0)
    with pytest.raises(ConfigurationError, match="made with dataset None, limit None, seed 0, not with dataset imdb"):
        fetch("taught", settings=given)
    fetch("taught", settings=given, again=True)
    assert (cache / "taught" / "a.txt").read_text() == "raw imdb 10 0"
    assert "already" in fetch("taught", settings=given).note
    assert "already" in fetch("taught").note
    with pytest.raises(
        ConfigurationError, match="dataset imdb, limit 10, seed 0, not with dataset imdb, limit 10, seed 1"
    ):
        fetch("taught", settings=Settings("imdb", 10, 1))
    # Into another folder: a copy of what is as wanted, else it is made anew.
    assert fetch("taught", tmp_path / "same", settings=given).place.joinpath("a.txt").read_text().endswith("10 0")
    other = fetch("taught", tmp_path / "other", settings=Settings("sst2")).place
    assert (other / "a.txt").read_text() == "raw sst2 None 0"


def test_a_maker_that_fails_leaves_nothing_under_the_name(
    web: Any, cache: Path, register: Register, maker: str
) -> None:
    register("raw", (Download(web.serve("/a", b"raw"), into="a.txt"),))
    register("taught", Made(maker, ("raw",), takes_dataset=True))
    with pytest.raises(ValueError, match="no"):
        fetch("taught", settings=Settings("broken"))
    assert not (cache / "taught").exists()
    fetch("taught", settings=Settings("imdb"))
    assert (cache / "taught" / "a.txt").read_text() == "raw imdb None 0"


def test_pickles_are_not_fetched(register: Register) -> None:
    register("unsafe", Pickled("somewhere.pkl"), files=())
    with pytest.raises(MissingArtifactError, match="'unsafe' cannot be fetched") as failed:
        fetch("unsafe")
    assert "somewhere.pkl" in failed.value.hint


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A wheel in a folder that pip looks at instead of the index; its SHA-256."""
    name, info = "palimpsest_test_wheel", "palimpsest_test_wheel-1.0.dist-info"
    path = tmp_path / "wheels" / f"{name}-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise RuntimeError('imported')")
        archive.writestr(f"{name}/data/a.txt", "in a wheel")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_files_of_a_wheel_come_without_installing_it(cache: Path, register: Register, wheel: str) -> None:
    pytest.importorskip("pip")
    register("contained", InstalledPackage("palimpsest_test_wheel", "data", "palimpsest-test-wheel==1.0", wheel))
    fetch("contained")
    assert (cache / "contained" / "a.txt").read_text() == "in a wheel"
    assert not (cache / "contained" / "__init__.py").exists()
    source = json.loads((cache / "contained" / "manifest.json").read_text())["source"]
    assert source == {"kind": "package", "requirement": "palimpsest-test-wheel==1.0", "sha256": wheel}


def test_a_wheel_with_another_hash_is_refused(cache: Path, register: Register, wheel: str) -> None:
    pytest.importorskip("pip")
    register("contained", InstalledPackage("palimpsest_test_wheel", "data", "palimpsest-test-wheel==1.0", "0" * 64))
    with pytest.raises(HarnessError, match="cannot be fetched with pip") as failed:
        fetch("contained")
    assert "pip install palimpsest-test-wheel==1.0" in failed.value.hint
    assert not (cache / "contained").exists()


def test_a_package_whose_code_is_needed_is_left_to_pip(register: Register) -> None:
    register("code", InstalledPackage("palimpsest_test_none", "data", "none==1", "0" * 64, is_code=True))
    with pytest.raises(MissingArtifactError) as failed:
        fetch("code")
    assert failed.value.hint == "Run: pip install none==1"


HUB = """
import sys
from textadv.artifact_kinds import HubSnapshot
from textadv.artifacts import ARTIFACTS, Artifact
from harness.core.errors import HarnessError
from harness.core.registry import Entry
from textadv.fetching import fetch
source = HubSnapshot("them/model", sys.argv[1], ("config.json", "1_Pooling/config.json", "model.safetensors"))
ARTIFACTS.names()
ARTIFACTS._entries["toy"] = Entry("toy", "none:none")
ARTIFACTS._loaded["toy"] = Artifact("toy", "test", "", ("config.json", "model.safetensors"), source, "none", 1)
try:
    print(fetch("toy").note)
except HarnessError as error:
    print(type(error).__name__, error.message)
"""


def hub(web: Any, commit: str, files: dict[str, bytes]) -> None:
    listing = {
        "id": "them/model",
        "modelId": "them/model",
        "sha": commit,
        "siblings": [{"rfilename": name} for name in files],
    }
    for revision in ("main", commit):
        web.serve(f"/api/models/them/model/revision/{revision}", json.dumps(listing).encode())
    for name, content in files.items():
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        web.serve(f"/them/model/resolve/{commit}/{name}", content, etag=etag, headers={"X-Repo-Commit": commit})


@pytest.mark.parametrize("pinned", [True, False], ids=["a commit", "main"])
def test_a_snapshot_of_the_hub_brings_no_pickles(web: Any, cache: Path, pinned: bool) -> None:
    commit = "c" * 40
    wanted = {"config.json": b"{}", "1_Pooling/config.json": b"{1}", "model.safetensors": b"weights"}
    hub(web, commit, {**wanted, "pytorch_model.bin": b"pickle", "onnx/config.json": b"other"})
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": web.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(cache),
    }
    command = [sys.executable, "-c", HUB, commit if pinned else "main"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "fetched\n", done.stdout + done.stderr
    found = {
        path.relative_to(cache / "toy").as_posix(): path.read_bytes()
        for path in (cache / "toy").rglob("*")
        if path.is_file()
    }
    manifest = json.loads(found.pop("manifest.json"))
    assert found == wanted
    assert manifest["source"]["commit"] == commit
    assert set(manifest["files"]) == set(wanted)
    assert not [path for path, _ in web.requests if "pytorch_model.bin" in path]


def test_a_hub_out_of_reach_is_one_sentence(cache: Path, register: Register) -> None:
    register("toy", HubSnapshot("them/model", "c" * 40, ("config.json",)), files=("config.json",))
    with pytest.raises(HarnessError, match="the model them/model cannot be loaded") as failed:  # the tests are offline
        fetch("toy")
    assert "--artifacts DIR" in failed.value.hint
    assert not (cache / "toy").exists()
