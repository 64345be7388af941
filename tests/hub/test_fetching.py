"""Fetching from a hub on loopback: named data files only, bounded, with the right bytes; and detectors from there."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Blob, Hub, sha256

Python = Callable[..., "subprocess.CompletedProcess[str]"]

FETCH = """
import json, sys
from harness.core.errors import HarnessError
from harness.hub.fetching import fetch
for spec, patterns, options in json.loads(sys.argv[1]):
    try:
        folder = fetch(spec, "model", patterns, **options)
        found = {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}
        print(json.dumps(found))
    except HarnessError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))
"""


@pytest.fixture
def fetch(python: Python) -> Callable[..., list[dict[str, Any]]]:
    def run(asked: list[tuple[str, list[str], dict[str, Any]]], **changed: str | None) -> list[dict[str, Any]]:
        done = python(FETCH, json.dumps(asked), **changed)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": b"weights",
    "data/one.csv": b"1",
    "data/two.csv": b"2",
    "model.py": b"import os",
    "model.pkl": b"pickle",
}


def test_only_what_is_asked_for_is_fetched_and_kept(hub: Hub, fetch: Callable[..., list[dict[str, Any]]]) -> None:
    repo = hub.create("model", "me/it", FILES)
    first = repo.commits[-1].sha
    repo.add("newer", {**repo.commits[-1].files, "config.json": Blob(b'{"a": 2}', False)})
    hub.fail("GET /me/it/resolve", drop="after")
    hub.fail("GET /api/models/me/it", status=503)
    wanted = ["config.json", "model.safetensors"]
    newest, old, pattern = fetch(
        [
            ("me/it", wanted, {"required": wanted}),
            (f"hub:me/it@{first}", wanted, {}),
            ("me/it", ["data/*.csv"], {}),
        ]
    )
    assert newest == {"config.json": '{"a": 2}', "model.safetensors": "weights"}
    assert old == {"config.json": '{"a": 1}', "model.safetensors": "weights"}
    assert pattern == {**newest, "data/one.csv": "1", "data/two.csv": "2"}  # one folder a commit
    assert hub.sent(r"/resolve/.*/model\.p") == []
    sent = len(hub.sent("GET .*/resolve/"))
    (again,) = fetch([("me/it", wanted, {})])
    assert again == pattern
    assert len(hub.sent("GET .*/resolve/")) == sent  # from the cache
    asked = len(hub.requests)
    (offline, other) = fetch(
        [("me/it", wanted, {"required": wanted}), ("me/other", wanted, {"required": wanted})], HF_HUB_OFFLINE="1"
    )
    assert offline == pattern
    assert "is not in the hub's cache, and offline mode is on" in other["error"]
    assert len(hub.requests) == asked


def test_what_cannot_be_fetched_is_one_sentence(hub: Hub, fetch: Callable[..., list[dict[str, Any]]]) -> None:
    hub.create("model", "me/it", FILES)
    hub.create("model", "me/large", {"config.json": b"[" + b"0," * 1000 + b"0]"})
    hub.create("model", "me/broken", {"config.json": b"{}"})
    hub.create("model", "me/damaged", {"model.safetensors": b"weights"})
    hub.create("model", "me/gated", FILES).gated = True
    hub.create("model", "stranger/secret", FILES)
    for name in ("../../../../outside.json", "/tmp/outside.json", ".hidden.json", "a/../../b.json", "a\\b.json"):
        hub.create("model", f"me/evil{len(hub.repos)}", {"config.json": b"{}", name: b"{}"})
    evil = [name for _, name in hub.repos if "evil" in name]
    hub.fail("GET /me/damaged/resolve", status=200, body="wEights", headers={"ETag": '"x"'})
    hub.fail("GET /api/models/me/broken", status=500, times=99)
    config = ["config.json"]
    asked: list[tuple[str, list[str], dict[str, Any]]] = [
        ("me/absent", config, {}),
        ("me/it@v9", config, {}),
        ("me/gated", config, {}),
        ("stranger/secret", config, {}),
        ("me/it", ["detector.json"], {"required": ["detector.json"]}),
        ("me/it", ["nothing*"], {}),
        ("me/it", ["model.p*"], {}),
        ("me/large", config, {"max_bytes": 100}),
        ("me/damaged", ["*.safetensors"], {}),
        *((name, ["*"], {}) for name in evil),
        ("not an id", config, {}),
    ]
    expected = [
        "there is no model me/absent that your token may see",
        "the model me/it has no revision v9",
        "access to the model me/gated has to be granted first",
        "there is no model stranger/secret that your token may see",
        "the model me/it has no file detector.json",
        "has none of the files that are looked for",
        "files such as model.pkl of the model me/it are not fetched",
        "at most 1000 files and 100 bytes are fetched",
        "the hub sent other bytes for model.safetensors of the model me/damaged",
        *("so it is not fetched" for _ in evil),
        "is not the id of a repository",
    ]
    for outcome, message, (spec, *_) in zip(fetch(asked), expected, asked, strict=True):
        assert message in outcome.get("error", ""), (spec, outcome)
        assert "\n" not in outcome["error"]
    assert hub.sent("/resolve/.*(outside|hidden|b.json|pkl)") == []
    (repaired,) = fetch([("me/damaged", ["*.safetensors"], {})])
    assert repaired == {"model.safetensors": "weights"}
    (without,) = fetch([("me/it", config, {})], HF_TOKEN=None)
    assert (
        without["error"] == "Fetching the model me/it failed: there is no model me/it that can be seen without a token."
    )


def test_an_unreachable_hub_is_one_sentence(fetch: Callable[..., list[dict[str, Any]]], python: Python) -> None:
    code = "import time; time.sleep = lambda seconds: None\n" + FETCH
    done = python(code, json.dumps([("me/it", ["a.json"], {})]), HF_ENDPOINT="http://127.0.0.1:1")
    assert json.loads(done.stdout)["error"] == "Fetching the model me/it failed: the connection to the hub broke."


@pytest.fixture
def detector(tmp_path: Path, tiny_victim_folder: Callable[..., Path], main: Callable[..., int]) -> Path:
    """A fitted detector, and clean texts beside it."""
    words = ["good", "bad", "film", "story", "warm", "dull"]
    with open(tmp_path / "train.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows([f"{words[k % 6]} {words[k // 6 % 6]} {words[k // 36]}", k % 2] for k in range(80))
    with open(tmp_path / "clean.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows([f"the {words[k % 6]} {words[k // 6 % 6]} {words[k // 36]}", k % 2] for k in range(60))
    out = tmp_path / "detector"
    victim = tiny_victim_folder("bert")
    train = tmp_path / "train.csv"
    assert main("detect", "fit", "--victim", victim, "--dataset", train, "--detector", "msp", "--out", out) == 0
    return out


def published(hub: Hub, detector: Path, name: str) -> None:
    files = ("detector.json", "state.safetensors", "seen.safetensors")
    hub.create("model", name, {file: (detector / file).read_bytes() for file in files}, private=False)


COMMANDS = """
import json, sys
import harness.cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["harness", *arguments]
    try:
        harness.cli.main()
        print("code: 0")
    except SystemExit as left:
        print("code:", left.code or 0)
    print("code:", "done", file=sys.stderr)
"""


def test_detectors_of_the_hub_score_and_calibrate_as_their_folders_do(
    hub: Hub, python: Python, detector: Path, tmp_path: Path, tiny_victim_folder: Callable[..., Path]
) -> None:
    published(hub, detector, "me/msp")
    other = tiny_victim_folder("bert", seed=1)
    texts = tmp_path / "texts.txt"
    texts.write_text("a warm film\nthe dull story\n")
    clean = str(tmp_path / "clean.csv")
    commands = [
        ["detect", "score", str(detector), str(texts), "--out", "local.csv"],
        ["detect", "score", "hub:me/msp", str(texts), "--out", "hub.csv"],
        ["detect", "calibrate", "hub:me/msp", "--calibration", clean, "--fpr", "0.1"],
        ["detect", "calibrate", "hub:me/msp", "--calibration", clean, "--fpr", "0.1", "--out", "own"],
        ["detect", "score", "own", str(texts), "--out", "own.csv"],
        ["detect", "score", "hub:me/msp", str(texts), "--victim", str(other), "--out", "wrong.csv"],
        ["detect", "score", "hub:me/absent", str(texts), "--out", "wrong.csv"],
        ["eval", "detect", "--attacks", "nowhere", "--detector", "hub:me/absent"],
    ]
    done = python(COMMANDS, json.dumps(commands))
    codes = [line for line in done.stdout.splitlines() if line.startswith("code: ")]
    assert codes == [f"code: {code}" for code in (0, 0, 2, 0, 0, 2, 2, 2)], done.stderr
    said = done.stderr.split("code: done\n")
    assert "its calibration needs a place" in said[2]
    assert "is not the one that the detector" in said[5]
    assert "there is no model me/absent that your token may see" in said[6]
    assert "there is no model me/absent that your token may see" in said[7]
    local, fetched, own = ((tmp_path / f"{name}.csv").read_text() for name in ("local", "hub", "own"))
    assert local == fetched
    assert "p_value" in own
    assert not (tmp_path / "wrong.csv").exists()
    assert not list((tmp_path / "hf-home").rglob("calibration.json"))  # the shared cache stays as it was


def test_a_fetched_detector_is_checked_before_it_is_used(
    hub: Hub, python: Python, detector: Path, tmp_path: Path
) -> None:
    """One by one, files are put in place of the detector's; each is told in one sentence."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a warm film\n")
    facts = json.loads((detector / "detector.json").read_text())
    header = (2**63).to_bytes(8, "little") + b"{}"
    replaced = {
        "list": {"detector.json": b"[]"},
        "deep": {"detector.json": b'{"a":' * 100_000},
        "no-json": {"detector.json": b"\xff\xfe"},
        "header": {
            "state.safetensors": header,
            "detector.json": json.dumps({**facts, "state_sha256": sha256(header)}).encode(),
        },
        "unknown": {"detector.json": json.dumps({**facts, "detector": "os.system"}).encode()},
    }
    for name, files in replaced.items():
        copy = tmp_path / name
        shutil.copytree(detector, copy)
        for file, data in files.items():
            (copy / file).write_bytes(data)
        published(hub, copy, f"me/{name}")
    done = python(COMMANDS, json.dumps([["detect", "score", f"hub:me/{name}", str(texts)] for name in replaced]))
    said = done.stderr.split("code: done\n")[:-1]
    assert len(said) == len(replaced)
    for name, text in zip(replaced, said, strict=True):
        lines = [line for line in text.splitlines() if line.startswith(("error: ", "Traceback"))]
        assert len(lines) == 1, (name, text)
        assert lines[0].startswith("error: "), (name, text)
