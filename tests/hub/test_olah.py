"""A published set, served by another server than ours: olah, from PyPI, out of a git repository."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub

OLAH = Path(os.environ.get("OLAH", Path(__file__).resolve().parents[2] / ".venv-olah" / "bin" / "olah-cli"))
FILES = ["README.md", "data/test.parquet", "data/validation.parquet"]

READ = """
import json
import datasets
from huggingface_hub import hf_hub_download
from harness.hub.fetching import fetch
loaded = datasets.load_dataset("my-team/set")
card = hf_hub_download("my-team/set", "README.md", repo_type="dataset")
folder = fetch("my-team/set", "dataset", ["README.md", "data/*.parquet"], required=["README.md"])
print(json.dumps({
    "rows": {split: loaded[split].num_rows for split in loaded},
    "label": loaded["test"].features["label"].names,
    "texts": loaded["validation"]["text"][:],
    "card": open(card).read(),
    "fetched": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
}))
"""


@pytest.fixture
def olah(hub: Hub, publish: Callable[..., Any], dataset_folder: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an olah that serves what was published."""
    if not OLAH.is_file():
        pytest.skip(f"there is no {OLAH}: `just olah` installs it")
    (done,) = publish([{"staging": dataset_folder, "files": FILES, "repo": "my-team/set", "kind": "dataset"}])
    assert done["changed"]
    mirror = tmp_path / "mirrors" / "datasets" / "my-team" / "set"
    for name, blob in hub.repos["dataset", "my-team/set"].commits[-1].files.items():
        if name != ".gitattributes":
            (mirror / name).parent.mkdir(parents=True, exist_ok=True)
            (mirror / name).write_bytes(blob.data)
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "-m", "published"]):
        subprocess.run(["git", "-C", str(mirror), *command], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "olah.toml"
    settings.write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nrepos-path = "{tmp_path}/olah"\n'
        f'mirrors-path = ["{tmp_path}/mirrors"]\n[accessibility]\noffline = true\n'
    )
    with open(tmp_path / "olah.log", "wb") as log:
        command = [str(OLAH), "-c", str(settings), "--log-path", str(tmp_path / "olah-logs")]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while True:
                assert server.poll() is None, (tmp_path / "olah.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "olah.log").read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def test_a_published_set_is_read_through_olah(
    olah: str, python: Callable[..., subprocess.CompletedProcess[str]], dataset_folder: Path, tmp_path: Path
) -> None:
    done = python(READ, HF_ENDPOINT=olah, HF_TOKEN=None, HF_HOME=str(tmp_path / "olah-home"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "rows": {"validation": 3, "test": 5},
        "label": ["negative", "positive"],
        "texts": ["validation 0", "validation 1", "validation 2"],
        "card": (dataset_folder / "README.md").read_text(),
        "fetched": FILES,
    }
