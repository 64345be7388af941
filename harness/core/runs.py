"""The run folder: what every command that computes leaves behind.

    config.yaml     what was asked for, resolved, with the hashes of the data and models it was asked of
    manifest.json   command line, versions, git state, hardware, wall and device time, status, hashes of the outputs
    run.log         one line a session; the traceback of an unexpected error
    ...             the outputs

The same configuration again resumes; another one is refused. One process at a time works in a folder; the lock
is the operating system's, so a killed process leaves none behind.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.core.errors import ConfigurationError, HarnessError
from harness.core.files import canonical_json, disk_errors, hash_file, hash_json, read_json, write_json, write_text

CONFIG, MANIFEST, LOG, LOCK = "config.yaml", "manifest.json", "run.log", ".lock"
_ABSENT = "(absent)"
_PACKAGES = (
    "datasets",
    "numpy",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "textattack",
    "torch",
    "transformers",
)
# Set by the command line; runs that a library made have none.
_command_line: ContextVar[str | None] = ContextVar("command_line", default=None)


@contextmanager
def command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Let the manifests of runs that finish in this block name the command that made them.

    Args:
        arguments: What follows `harness`.
    """
    token = _command_line.set(shlex.join(["harness", *arguments]))
    try:
        yield
    finally:
        _command_line.reset(token)


class Run:
    """A run folder, opened for work.

    Use it as a context manager: it holds the folder's lock, and an unexpected error leaves its traceback in
    `run.log`.

    Args:
        folder: Where the run lives; made when it is not there.
        command: The command that makes it, for example "attack run".
        config: JSON-able settings that decide the outputs; a run is resumed only under an equal one.

    Raises:
        ConfigurationError: The folder holds another run, other files, or a process at work.
    """

    def __init__(self, folder: Path, command: str, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.command = command
        # As it will be read back: a tuple is a list then.
        self.config: dict[str, Any] = json.loads(canonical_json({"command": command, **config}))
        self.id = hash_json(self.config)[:12]
        self.resumed = False
        self._lock: Any = None
        self._started = 0.0
        self._made = False
        self._check()

    def path(self, *parts: str) -> Path:
        """A path inside the folder."""
        return self.folder.joinpath(*parts)

    @property
    def log_path(self) -> Path:
        """The run's log."""
        return self.path(LOG)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands on disk, or an empty one."""
        path = self.path(MANIFEST)
        return dict(read_json(path)) if path.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether an earlier session completed this run, and its outputs are still there."""
        manifest = self.manifest
        outputs = manifest.get("outputs", {})
        return manifest.get("status") == "complete" and all(self.path(name).exists() for name in outputs)

    def __enter__(self) -> Run:
        import filelock

        self._made = not self.folder.exists()
        try:
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the folder {self.folder} cannot be made: {error.strerror or error}.", "Give another path as --out."
            ) from error
        self._lock = filelock.FileLock(self.path(LOCK))
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ConfigurationError(
                f"another process is at work in {self.folder}.", "Wait for it, or use another --out."
            ) from error
        try:
            self._check()  # again: another process may have taken the folder before the lock was ours
            self.resumed = self.path(CONFIG).exists()
            self._started = time.monotonic()
            if not self.resumed:
                import yaml

                # Escaped, not `allow_unicode`: PyYAML does not read all line breaks of Unicode back.
                write_text(self.path(CONFIG), yaml.safe_dump(self.config, sort_keys=True))
            self.log("resumed" if self.resumed else "started")
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, HarnessError):
                self.log(f"stopped: {error.message}")
                if not self.resumed and self._made:
                    self._discard_if_empty()
            elif isinstance(error, Exception):
                self.log("failed\n" + "".join(traceback.format_exception(error)))
                error.add_note(f"The traceback is kept in {self.log_path}.")
            elif error is not None:
                self.log(f"interrupted: {type(error).__name__}")
        finally:
            self._lock.release()

    def _discard_if_empty(self) -> None:
        """Remove the folder again when bad input stopped the run before it made anything."""
        ours = {CONFIG, LOG, LOCK}
        if {entry.name for entry in self.folder.iterdir()} <= ours:
            for name in ours:
                self.path(name).unlink(missing_ok=True)
            with suppress(OSError):  # another process has just begun to use it
                self.folder.rmdir()

    def log(self, text: str) -> None:
        """Append a dated line to `run.log`. A full disk does not hide the error that is being logged."""
        try:
            with open(self.log_path, "a", encoding="utf-8") as handle:
                handle.write(f"{_now()} [{os.getpid()}] {text}\n")
        except OSError:
            if self.path(MANIFEST).exists() or self.path(CONFIG).exists():
                return
            raise

    def finish(self, outputs: list[str], **facts: Any) -> None:
        """Write the manifest that makes the run complete.

        Args:
            outputs: Names of the files the run made; their hashes go into the manifest.
            **facts: JSON-able extras: seeds, counts, device seconds.
        """
        manifest = self.manifest
        if (told := _command_line.get()) is not None:
            manifest["command_line"] = told
        manifest.update(
            status="complete",
            command=self.command,
            run=self.id,
            finished=_now(),
            wall_seconds=round(time.monotonic() - self._started, 3),
            versions=versions(),
            git=git_state(),
            hardware=hardware(),
            outputs={name: hash_file(self.path(name)) for name in sorted(outputs)},
            **facts,
        )
        write_json(self.path(MANIFEST), manifest)
        self.log("complete")

    def _check(self) -> None:
        """Refuse a folder that belongs to something else."""
        if self.folder.is_file():
            raise ConfigurationError(f"{self.folder} is a file, not a folder.", "Choose another --out.")
        if not self.folder.is_dir():
            return
        path = self.path(CONFIG)
        if not path.exists():
            strangers = [entry.name for entry in self.folder.iterdir() if entry.name not in (LOCK, LOG)]
            # A process killed before its first rename leaves only a temporary file.
            strangers = [name for name in strangers if not name.endswith(".tmp")]
            if strangers:
                raise ConfigurationError(
                    f"the folder {self.folder} is not empty and holds no run ({sorted(strangers)[0]} is in it).",
                    "Choose an empty folder or a new name for --out.",
                )
            return
        known = _read_config(self.folder)
        if known != self.config:
            pairs = {k: (known.get(k, _ABSENT), self.config.get(k, _ABSENT)) for k in sorted({*known, *self.config})}
            changed = [f"{k}: {_short(old)} -> {_short(new)}" for k, (old, new) in pairs.items() if old != new]
            raise ConfigurationError(
                f"the run folder {self.folder} was made by another configuration ({'; '.join(changed[:4])}).",
                "Use another --out, or run the earlier command to resume it.",
            )


def run_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run, whatever command made it."""
    path = Path(folder) / MANIFEST
    return path.is_file() and dict(read_json(path)).get("status") == "complete"


def known_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run that was begun in a folder, finished or not; empty where there is none."""
    folder = Path(folder)
    return _read_config(folder) if (folder / CONFIG).is_file() else {}


def read_run(folder: Path, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the configuration and the manifest of a finished run.

    Args:
        folder: A run folder.
        command: The command that must have made it, for example "attack run"; a prefix such as "attack" will do.

    Raises:
        ConfigurationError: It is no run folder, another command's, or not finished.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ConfigurationError(
            f"{folder} is not a run folder: it has no {CONFIG}.", f"Give a folder that `harness {command}` made."
        )
    config = _read_config(folder)
    if not config["command"].startswith(command):
        raise ConfigurationError(f"{folder} was made by `harness {config['command']}`, not by `harness {command}`.")
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    if manifest.get("status") != "complete":
        raise ConfigurationError(
            f"the run in {folder} is not finished.",
            f"Run its `harness {config['command']}` command again to resume it.",
        )
    return config, manifest


def _read_config(folder: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("command"), str):
        raise ConfigurationError(
            f"{folder} is not a run folder: its {CONFIG} was not written by `harness`.", "Choose another folder."
        )
    return config


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what its results depend on."""
    found = {"python": platform.python_version()}
    for package in ("palimpsest", *_PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and dirtiness of the checkout this package runs from; None when it is installed from a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, accelerator: what a timing depends on."""
    import torch

    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
