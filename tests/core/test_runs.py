"""Run folders: resume, refusal, the lock, the log and the manifest."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError
from harness.core.files import read_json
from harness.core.runs import Run, command_line, git_state, hardware, read_run, versions

ROOT = Path(__file__).resolve().parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
CONFIGS = st.dictionaries(
    TEXT.filter(lambda key: key != "command"),
    SCALARS
    | st.sampled_from(["1e5", "0x10", "2020-01-01", "yes", "null", "~", "1_000", "=", "*a", "!x", "a: b", "- a"])
    | st.lists(SCALARS, max_size=3)
    | st.lists(SCALARS, max_size=3).map(tuple)
    | st.dictionaries(TEXT, SCALARS, max_size=3),
    max_size=5,
)


def make(folder: Path, **config: Any) -> None:
    """A complete run with one output."""
    with Run(folder, "attack run", config) as run:
        run.path("rows.txt").write_bytes(b"abc")
        run.finish(["rows.txt"], seeds=[config.get("seed", 0)])


def refused(folder: Path, **config: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Run(folder, "attack run", config)
    return f"{caught.value.message} {caught.value.hint}"


def test_the_same_configuration_resumes(tmp_path: Path) -> None:
    with Run(tmp_path / "run", "attack run", {"seed": 0}) as run:
        assert not run.resumed
        assert not run.finished
        assert run.manifest == {}
        run.path("partial").touch()
    with Run(tmp_path / "run", "attack run", {"seed": 0}) as again:
        assert again.resumed
        assert again.id == run.id
        again.finish(["partial"])
    assert Run(tmp_path / "run", "attack run", {"seed": 0}).finished
    log = again.log_path.read_text()
    assert re.findall(r"\] (\w+)$", log, re.MULTILINE) == ["started", "resumed", "complete"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONFIGS)
def test_any_configuration_resumes(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("run")
    with Run(folder, "attack run", config) as run:
        pass
    with Run(folder, "attack run", dict(reversed(config.items()))) as again:
        assert again.resumed
        assert again.id == run.id


def test_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    make(tmp_path, seed=0, recipe="pwws", limit=10)
    message = refused(tmp_path, seed=1, recipe="pwws", limit=10)
    assert "seed: 0 -> 1" in message
    assert "recipe" not in message
    assert "limit: 10 -> (absent)" in refused(tmp_path, seed=0, recipe="pwws")
    assert "extra: (absent) -> None" in refused(tmp_path, seed=0, recipe="pwws", limit=10, extra=None)
    with pytest.raises(ConfigurationError, match="command: attack run -> eval detect"):
        Run(tmp_path, "eval detect", {"seed": 0, "recipe": "pwws", "limit": 10})
    assert Run(tmp_path, "attack run", {"limit": 10, "recipe": "pwws", "seed": 0}).finished


def test_folders_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("...")
    assert "chapter.tex is in it" in refused(foreign)
    (tmp_path / "file").write_text("x")
    assert "is a file, not a folder" in refused(tmp_path / "file")
    assert [entry.name for entry in foreign.iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"model: bert\n", b"{ broken", b"\xff\xfe", b"command: 3\n"])
def test_another_programs_config_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    assert "was not written by `harness`" in refused(tmp_path)
    with pytest.raises(ConfigurationError, match="was not written by `harness`"):
        read_run(tmp_path, "attack")
    assert (tmp_path / "config.yaml").read_bytes() == content


def test_an_empty_folder_and_a_torn_start_will_do(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.abc123.tmp").write_text("comm")
    (tmp_path / ".lock").touch()
    make(tmp_path)
    assert Run(tmp_path, "attack run", {}).finished


HOLD = """
import sys
from pathlib import Path
from harness.core.runs import Run
with Run(Path(sys.argv[1]), "attack run", {}) as run:
    print("working", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "working\n"
        with pytest.raises(ConfigurationError, match="another process is at work"), Run(folder, "attack run", {}):
            pass
        second = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert "another process is at work" in second.stderr
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    with Run(folder, "attack run", {}) as run:
        assert run.resumed


def test_the_lock_is_free_after_any_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyError), Run(folder, "attack run", {}):
        raise KeyError
    early = Run(tmp_path / "raced", "attack run", {"seed": 0})
    make(tmp_path / "raced", seed=1)  # another process takes the folder between the two checks
    with pytest.raises(ConfigurationError, match="another configuration"):
        early.__enter__()
    for path, config in ((folder, {}), (tmp_path / "raced", {"seed": 1})):
        with Run(path, "attack run", config) as run:
            assert run.resumed


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    def broken_step() -> None:
        raise ZeroDivisionError("ours to mend")

    with pytest.raises(ZeroDivisionError) as caught, Run(tmp_path, "attack run", {}):
        broken_step()
    log = (tmp_path / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "in broken_step" in log
    assert "ZeroDivisionError: ours to mend" in log
    assert any(str(tmp_path / "run.log") in note for note in caught.value.__notes__)


def test_expected_errors_and_interrupts_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for error, line in ((DataError("bad row.", "Mend it."), "stopped: bad row."), (KeyboardInterrupt(), "interrupted")):
        with pytest.raises(type(error)), Run(tmp_path / "kept", "attack run", {}):
            raise error
        log = (tmp_path / "kept" / "run.log").read_text()
        assert line in log
        assert "Traceback" not in log


def test_bad_input_leaves_no_folder_unless_it_holds_something(tmp_path: Path) -> None:
    with pytest.raises(DataError), Run(tmp_path / "run", "attack run", {}):
        raise DataError("bad row.")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError), Run(tmp_path / "run", "attack run", {}) as run:  # noqa: PT012
        run.path("journal").touch()
        raise DataError("bad row.")
    assert {entry.name for entry in run.folder.iterdir()} >= {"journal", "config.yaml", "run.log"}
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError), Run(tmp_path / "mine", "attack run", {}):
        raise DataError("bad row.")
    assert (tmp_path / "mine").is_dir()  # the user made it


def test_the_manifest_names_the_command_line_where_there_is_one(tmp_path: Path) -> None:
    make(tmp_path / "library", seed=0)
    assert "command_line" not in read_json(tmp_path / "library" / "manifest.json")
    with command_line(["attack", "run", "--out", "a folder"]):
        make(tmp_path / "command", seed=0)
    assert read_json(tmp_path / "command" / "manifest.json")["command_line"] == "harness attack run --out 'a folder'"


def test_the_manifest_says_what_a_result_depends_on(tmp_path: Path) -> None:
    make(tmp_path, seed=7)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["status"] == "complete"
    assert manifest["command"] == "attack run"
    assert manifest["seeds"] == [7]
    assert manifest["outputs"] == {"rows.txt": hashlib.sha256(b"abc").hexdigest()}
    assert manifest["wall_seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["finished"])
    for package in ("torch", "transformers", "numpy", "palimpsest"):
        assert manifest["versions"][package] == metadata.version(package)
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["hardware"]["cores"] == os.cpu_count()
    assert set(manifest["hardware"]) >= {"machine", "processor", "torch_threads"}
    assert str(tmp_path) not in (tmp_path / "manifest.json").read_text()
    assert manifest["hardware"] == hardware()
    assert manifest["versions"] == versions()


def test_git_state_is_gits_own_word() -> None:
    if not (ROOT / ".git").exists():
        assert git_state() is None
        return
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    state = git_state()
    if head.returncode == 0:
        assert state is not None
        assert state["commit"] == head.stdout.strip()
        assert isinstance(state["dirty"], bool)


def test_an_output_that_is_not_there_completes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Run(tmp_path, "attack run", {}) as run:
        run.finish(["rows.txt"])
    assert not Run(tmp_path, "attack run", {}).finished


def test_read_run(tmp_path: Path) -> None:
    make(tmp_path / "done", seed=3)
    config, manifest = read_run(tmp_path / "done", "attack")
    assert config == {"command": "attack run", "seed": 3}
    assert manifest["status"] == "complete"
    with Run(tmp_path / "open", "attack run", {}):
        pass
    for folder, command, message in (
        ("done", "detect fit", "was made by `harness attack run`, not by `harness detect fit`"),
        ("open", "attack run", "is not finished"),
        ("nowhere", "attack run", "is not a run folder"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            read_run(tmp_path / folder, command)
