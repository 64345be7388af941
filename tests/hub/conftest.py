"""A hub on loopback, and processes whose clients talk to it: they read their settings when they are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving

TOKEN = "hf_writer"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


@pytest.fixture
def hub_environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that uses this hub, with a cache of its own and a token that may write."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf-home"), "HF_TOKEN": TOKEN}


@pytest.fixture
def python(hub_environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`(code, *arguments, **environment)` runs Python code; an argument is in `sys.argv`; None unsets a variable."""

    def run(code: str, *arguments: object, **changed: str | None) -> subprocess.CompletedProcess[str]:
        environment = {**hub_environment, **{n: v for n, v in changed.items() if v is not None}}
        environment = {n: v for n, v in environment.items() if changed.get(n, "") is not None}
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )

    return run


PUBLISH = """
import json, os, sys, time
pause, pace = time.sleep, float(os.environ.get("PACE", "1"))
time.sleep = lambda seconds: pause(seconds * pace)
from pathlib import Path
from harness.core.errors import HarnessError
from harness.hub.publishing import publish

for line in json.loads(sys.argv[1]):
    try:
        done = publish(Path(line.pop("staging")), line.pop("files"), line.pop("repo"), line.pop("kind"), **line)
        print(json.dumps({"url": done.url, "commit": done.commit, "changed": done.changed}))
    except HarnessError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))
"""


@pytest.fixture
def publish(python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., list[dict[str, object]]]:
    """`([arguments of publish, ...], **environment)` publishes one after the other in a process: what came of each."""

    def run(lines: list[dict[str, object]], **changed: str | None) -> list[dict[str, object]]:
        done = python(PUBLISH, json.dumps(lines, default=str), **changed)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A staged dataset: two Parquet files with typed features, a card, and a file that is not to leave."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    features = {
        "label": {"names": ["negative", "positive"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    schema = pa.schema(
        {"text": pa.string(), "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split, rows in (("validation", 3), ("test", 5)):
        table = pa.table({"text": [f"{split} {k}" for k in range(rows)], "label": [k % 2 for k in range(rows)]}, schema)
        pq.write_table(table, folder / "data" / f"{split}.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: validation\n    path: data/validation.parquet\n"
        "  - split: test\n    path: data/test.parquet\n---\n# A set\n"
    )
    (folder / "private.log").write_text("not to leave")
    return folder


DATASET_FILES = ["README.md", "data/test.parquet", "data/validation.parquet"]
