"""Publishing against a hub on loopback: whole or not at all, resumed, one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, Repo, sha256

from harness.core.errors import ConfigurationError, DataError, HarnessError
from harness.hub.asking import HubError
from harness.hub.names import repository, target
from harness.hub.outgoing import outgoing_files, refuse_secret

DATASET_FILES = ["README.md", "data/test.parquet", "data/validation.parquet"]
Publish = Callable[..., list[dict[str, Any]]]
Python = Callable[..., "subprocess.CompletedProcess[str]"]

READ_BACK = """
import json, sys
import datasets
from huggingface_hub import HfApi, snapshot_download
loaded = datasets.load_dataset("my-team/set")
folder = snapshot_download("my-team/set", repo_type="dataset")
print(json.dumps({
    "rows": {split: loaded[split].num_rows for split in loaded},
    "label": loaded["test"].features["label"].names,
    "first": loaded["test"][0],
    "files": HfApi().list_repo_files("my-team/set", repo_type="dataset"),
    "card": open(folder + "/README.md").read(),
}))
"""


def request(folder: Path, repo: str, **options: Any) -> dict[str, Any]:
    return {"staging": folder, "files": DATASET_FILES, "repo": repo, "kind": "dataset", **options}


def test_a_dataset_is_published_in_one_commit_and_loads(
    hub: Hub, publish: Publish, python: Python, dataset_folder: Path
) -> None:
    first, again = publish([request(dataset_folder, "my-team/set"), request(dataset_folder, "my-team/set")])
    assert first == {"url": f"{hub.url}/datasets/my-team/set", "commit": first["commit"], "changed": True}
    assert again == {**first, "changed": False}
    assert hub.visible("dataset", "my-team/set") == [set(), set(DATASET_FILES)]
    assert hub.repos["dataset", "my-team/set"].private
    held = hub.repos["dataset", "my-team/set"].commits[-1].files
    assert {name: held[name].data for name in DATASET_FILES} == {
        name: (dataset_folder / name).read_bytes() for name in DATASET_FILES
    }
    read = python(READ_BACK)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == {
        "rows": {"validation": 3, "test": 5},
        "label": ["negative", "positive"],
        "first": {"text": "test 0", "label": 0},
        "files": [".gitattributes", *DATASET_FILES],
        "card": (dataset_folder / "README.md").read_text(),
    }
    assert hub.unknown == []


def test_what_passes_is_waited_for(hub: Hub, publish: Publish, dataset_folder: Path) -> None:
    hub.fail("GET /api/datasets/me/set$", status=500, body="<html>oops</html>")
    hub.fail("POST /api/repos/create", drop="after")
    hub.fail("POST .*/preupload/", status=429, headers={"Retry-After": "3"})
    hub.fail("POST .*/objects/batch", status=502)
    hub.fail("PUT /lfs/", drop="middle")
    hub.fail("POST /lfs/verify", status=503)
    hub.fail("POST /api/validate-yaml", status=502, body="<html>Bad Gateway</html>")
    hub.fail("POST .*/commit/main", drop="after")
    (done,) = publish([request(dataset_folder, "me/set")], PACE="0.3")
    assert done.get("changed"), done
    assert not any(fault.times for fault in hub.faults)
    assert hub.visible("dataset", "me/set") == [set(), set(DATASET_FILES)]
    refused, admitted = hub.sent("POST .*/preupload/")[:2]
    assert admitted.when - refused.when >= 0.3 * 3  # and not the second of the first pause


def test_a_killed_upload_shows_nothing_and_is_resumed(
    hub: Hub, hub_environment: dict[str, str], publish: Publish, dataset_folder: Path
) -> None:
    first, second = (
        sha256((dataset_folder / "data" / f"{name}.parquet").read_bytes()) for name in ("test", "validation")
    )
    line = request(dataset_folder, "me/set")
    code = (
        "import sys, json; from pathlib import Path; from harness.hub.publishing import publish\n"
        "line = json.loads(sys.argv[1]); publish(Path(line.pop('staging')), **line)"
    )
    processes: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while first not in hub.objects and time.monotonic() < deadline:
            time.sleep(0.01)
        processes[0].kill()

    hub.fail(f"PUT /lfs/object/{second}", do=kill, drop="middle")
    command = [sys.executable, "-c", code, json.dumps(line, default=str)]
    processes.append(subprocess.Popen(command, env=hub_environment))
    assert processes[0].wait(60) == -9
    assert hub.visible("dataset", "me/set") == [set()]
    assert set(hub.objects) == {first}
    (done,) = publish([line])
    assert done.get("changed"), done
    assert hub.visible("dataset", "me/set") == [set(), set(DATASET_FILES)]
    assert len(hub.sent(f"PUT /lfs/object/{first}")) == 1


def test_what_does_not_pass_is_one_sentence_and_changes_nothing(
    hub: Hub, publish: Publish, dataset_folder: Path
) -> None:
    hub.create("dataset", "me/full", {"README.md": b"mine", "data/old.parquet": b"PAR1"})
    hub.create("dataset", "me/public", private=False)
    hub.create("dataset", "me/race", {"README.md": b"mine"})
    hub.create("dataset", "my-team/big")
    hub.create("dataset", "stranger/secret")
    hub.fail("PUT /lfs/", change=lambda body: body[:-1] + b"?")
    hub.fail("POST /api/datasets/my-team/big/commit", status=413)
    hub.fail("POST /api/datasets/my-team/ill/commit", status=500, times=99)

    def race(repo: Repo) -> None:
        if repo is hub.repos["dataset", "me/race"]:
            repo.add("meanwhile", repo.commits[-1].files)

    hub.before_commit = race
    before = {key: list(repo.commits) for key, repo in hub.repos.items()}
    told = {
        "me/damaged": "found other bytes than were sent",
        "me/full": "is taken already: a dataset with other files",
        "me/public": "is public, and these files are to be private",
        "me/race": "was changed by somebody else meanwhile",
        "my-team/big": "the hub does not take so much",
        "stranger/set": "your token gives no right to do that: You don't have the rights",
        "stranger/secret": "your token gives no right to do that",
        "my-team/ill": "the hub has trouble of its own (HTTP 500)",
        "no-org": "'no-org' is not the id of a repository",
    }
    outcomes = publish([request(dataset_folder, repo, update=repo == "me/race") for repo in told], PACE="0")
    for (repo, expected), outcome in zip(told.items(), outcomes, strict=True):
        assert expected in outcome.get("error", ""), (repo, outcome)
        assert "\n" not in outcome["error"]
        assert outcome["error"].count(". ") == 0
        assert outcome["hint"]
    assert "what was uploaded is not sent again" in outcomes[-2]["hint"]
    hub.repos["dataset", "me/race"].commits.pop()  # the other one's
    assert {key: list(repo.commits) for key, repo in hub.repos.items() if key in before} == before
    assert {name for _, name in set(hub.repos) - set(before)} == {"me/damaged", "my-team/ill"}
    assert hub.visible("dataset", "me/damaged") == hub.visible("dataset", "my-team/ill") == [set()]


def test_tokens_that_are_missing_or_weak(hub: Hub, publish: Publish, dataset_folder: Path, tmp_path: Path) -> None:
    line = request(dataset_folder, "me/set")
    expected = {
        None: "there is no token for the Hugging Face Hub.",
        "hf_unknown": "Looking at the dataset me/set failed: the hub does not accept your token.",
        "hf_reader": "Making the dataset me/set failed: your token gives no right to do that",
    }
    for token, message in expected.items():
        (outcome,) = publish([line], HF_TOKEN=token)
        assert outcome["error"].startswith(message)
        assert "HF_TOKEN" in outcome["hint"] or "Use a token with the right for me" in outcome["hint"]
    assert hub.repos == {}
    login = tmp_path / "hf-home" / "token"
    login.parent.mkdir(exist_ok=True)
    login.write_text("hf_writer\n")
    (outcome,) = publish([line], HF_TOKEN=None)
    assert outcome["changed"]


def test_an_update_puts_these_files_in_place_of_the_old(hub: Hub, publish: Publish, dataset_folder: Path) -> None:
    hub.multipart_from = 500
    hub.create("dataset", "me/old", {"README.md": b"old", "data/gone.parquet": b"PAR1"})
    hub.create("dataset", "me/empty")
    hub.create("dataset", "me/open", {"README.md": b"old"}, private=False)
    old, empty, open_ = publish(
        [
            request(dataset_folder, "me/old", update=True),
            request(dataset_folder, "me/empty"),
            request(dataset_folder, "me/open", update=True, private=False),
        ]
    )
    assert old["changed"]
    assert empty["changed"]
    assert open_["changed"]
    assert hub.visible("dataset", "me/old")[1:] == [{"README.md", "data/gone.parquet"}, set(DATASET_FILES)]
    assert hub.visible("dataset", "me/empty") == [set(), set(DATASET_FILES)]
    assert not hub.repos["dataset", "me/open"].private
    assert len(hub.sent("PUT /lfs/part/")) > 2
    assert len(hub.sent("POST /lfs/complete/")) == 2  # the same two files, for the first of the three


DRIVER = """
import json, logging, sys, time, types
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
time.sleep = lambda seconds: None
import harness.cli

def stage(run, staging, *, repo=None, **_):
    (staging / "data").mkdir(parents=True)
    for name in ("README.md", "data/test.parquet"):
        (staging / name).write_bytes((Path(run) / name).read_bytes())
    return ["README.md", "data/test.parquet"]

sys.modules["harness.text.release"] = types.SimpleNamespace(stage_attacks=stage)
sys.modules["harness.text.release.released"] = types.SimpleNamespace(is_released=lambda _: False, stage_released=stage)
sys.modules["harness.detectors.publishing"] = types.SimpleNamespace(stage_detector=stage)
sys.modules["sdssl.publishing"] = types.SimpleNamespace(stage_encoder=stage)
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["harness", *arguments]
    try:
        harness.cli.main()
        codes.append(0)
    except SystemExit as left:
        codes.append(left.code or 0)
print(json.dumps(codes))
"""
PLACES = (
    *("GET /api/(datasets|models)/me/{0}", "POST /api/repos/create", "POST /api/.*/me/{0}/preupload"),
    *("POST .*me/{0}.git/info", "PUT /lfs/object", "POST /lfs/verify", "POST /api/validate-yaml"),
    "POST /api/.*/me/{0}/commit",
)
ECHO = {"X-Error-Message": "for {token}", "X-Request-Id": "{token}"}


def test_the_token_is_in_nothing_that_is_written(
    hub: Hub, python: Python, dataset_folder: Path, tmp_path: Path
) -> None:
    """A server that fails in every place and sends back what it was given, and clients that say all they do."""
    from hub_server import CANARY

    faults: list[dict[str, Any]] = [
        *({"status": status, "headers": ECHO, "body": "{token} again"} for status in (400, 401, 403, 409)),
        *({"status": status, "headers": ECHO, "body": '{"error": "{token}"}'} for status in (422, 429, 500)),
        {"status": 302, "headers": {"Location": "/nowhere?token={token}"}},
        *({"status": 200, "body": body} for body in ("{token}", "{}", '{"objects": [{"error": "{token}"}]}')),
        *({"drop": drop} for drop in ("before", "middle")),
    ]
    commands = []
    verbs = ("attack", "detect", "ssl")
    for place in PLACES:
        for fault in faults:
            name = f"r{len(commands)}"
            # An upload has no repository in its address: its turn comes when a repository's uploads begin.
            hub.fail(place.format(name) if "{0}" in place else place, times=0, **fault)
            commands.append([verbs[len(commands) % 3], "push", str(dataset_folder), f"me/{name}"])
    turns = iter(hub.faults)
    current: list[Any] = []

    def next_turn(line: str) -> None:
        """The first look at a repository begins a command, and with it the command's fault."""
        found = re.fullmatch(r"GET /api/(?:datasets|models)/me/(r\d+)", line)
        if found and found[1] not in seen:
            seen.add(found[1])
            hub.objects.clear()
            for one in current:
                one.times = 0
            current[:] = [next(turns)]
            current[0].times = 50

    seen: set[str] = set()
    hub.before_request = next_turn
    loud = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    done = python(DRIVER, json.dumps(commands), HF_TOKEN=CANARY, **loud)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert len(seen) == len(commands)
    assert set(codes) == {0, 2}  # never a traceback
    assert codes.count(2) > len(codes) / 2
    assert "Traceback" not in done.stderr
    assert "(token)" in done.stderr
    assert CANARY not in done.stdout
    assert [line for line in done.stderr.splitlines() if CANARY in line] == []
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in kept if CANARY.encode() in path.read_bytes()] == []
    for repo in hub.repos.values():
        assert all(
            set(c.files) - {".gitattributes"} in (set(), {"README.md", "data/test.parquet"}) for c in repo.commits
        )


def test_no_error_leads_back_to_a_request_with_the_token(hub: Hub, python: Python) -> None:
    hub.fail("GET /api/datasets/me/set", status=403, headers=ECHO)
    code = """
import sys, traceback
from pathlib import Path
from harness.hub.fetching import fetch
try:
    fetch("me/set", "dataset", ["README.md"])
except Exception as error:
    assert error.__cause__ is None and error.__context__ is None
    print(traceback.format_exception(error, chain=True), repr(vars(error)))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "gives no right" in done.stdout
    assert "hf_writer" not in done.stdout + done.stderr


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch, dataset_folder: Path) -> Path:
    """A detector's run whose staging writes the dataset's files."""
    import types

    def stage(run: Path, staging: Path, *, repo: str | None = None) -> list[str]:
        (staging / "data").mkdir(parents=True)
        for name in DATASET_FILES:
            (staging / name).write_bytes((run / name).read_bytes())
        return DATASET_FILES

    module = types.SimpleNamespace(stage_detector=stage)
    monkeypatch.setitem(sys.modules, "harness.detectors.publishing", module)  # type: ignore[arg-type]
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return dataset_folder


def test_a_dry_run_lists_what_would_leave_and_needs_nothing(
    main: Callable[..., int], staged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert main("detect", "push", staged, "me/it", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = {name: (staged / name).stat().st_size for name in DATASET_FILES}
    assert [line.split() for line in lines[:3]] == [[f"{size:,}", name] for name, size in sizes.items()]
    assert lines[3].startswith("3 files, ")
    assert lines[3].endswith("to the private model me/it")
    assert main("detect", "push", staged, "me/it") == 2
    assert "there is no token for the Hugging Face Hub." in capsys.readouterr().err


@pytest.mark.parametrize(
    "repo", ["me", "me/", "/it", "me/it/more", "me/../it", "me/it.git", "me it/x", "me/it@main", "", "hub:me/it"]
)
def test_a_push_needs_the_id_of_a_repository(
    repo: str, main: Callable[..., int], staged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("detect", "push", staged, repo, "--dry-run") == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {repo!r} ")
    assert "ORG/NAME" in hint or "me/it" in hint


def test_no_command_takes_a_token() -> None:
    import click
    import typer.main

    from harness.cli import app

    def options(command: click.Command) -> list[str]:
        own = [name for parameter in command.params for name in parameter.opts]
        return own + [name for sub in getattr(command, "commands", {}).values() for name in options(sub)]

    found = options(typer.main.get_command(app))
    assert "--public" in found
    assert [name for name in found if "token" in name] == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../secret", "is not a plain relative name"),
        ("data/../../secret", "is not a plain relative name"),
        ("/etc/hostname", "is not a plain relative name"),
        ("data//test.parquet", "is not a plain relative name"),
        (".env", "is hidden"),
        ("data/.cache/x", "is hidden"),
        ("data\\test.parquet", "holds characters"),
        ("C:secret", "holds characters"),
        ("line\nbreak", "holds characters"),
        ("linked", "is a link out of its folder"),
        ("linked-folder/secret", "is a link out of its folder"),
        ("data", "is not a file"),
        ("absent", "there is no file absent"),
        ("readme.MD", "there is no file readme.MD"),
    ],
)
def test_only_files_of_the_folder_leave(name: str, problem: str, dataset_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (dataset_folder / "linked").symlink_to(tmp_path / "secret")
    (dataset_folder / "linked-folder").symlink_to(tmp_path)
    with pytest.raises(HarnessError, match=problem.replace(".", r"\.")):
        outgoing_files(dataset_folder, ["README.md", name])


def test_a_list_without_card_or_with_a_name_twice_is_refused(dataset_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no README\.md"):
        outgoing_files(dataset_folder, DATASET_FILES[1:])
    with pytest.raises(ConfigurationError, match="listed twice"):
        outgoing_files(dataset_folder, [*DATASET_FILES, "README.md"])


def test_a_file_that_holds_the_token_stays(tmp_path: Path) -> None:
    secret = "hf_0123456789"
    path = tmp_path / "README.md"
    for size in (10, (1 << 20) - 5, 3 << 20):  # in the first chunk, across two, in a later one
        path.write_bytes(b"x" * size + secret.encode() + b"y" * 100)
        with pytest.raises(DataError, match=r"README\.md' holds your access token"):
            refuse_secret(outgoing_files(tmp_path, ["README.md"]), secret)
    path.write_bytes(b"x" * (1 << 20) + secret[:-1].encode())
    refuse_secret(outgoing_files(tmp_path, ["README.md"]), secret)


def test_ids_and_revisions_are_read() -> None:
    found = repository("hub:me/it@v1.0", "model")
    assert (found.id, found.kind, found.revision, str(found)) == ("me/it", "model", "v1.0", "model me/it@v1.0")
    assert target("me/it", "model").revision is None
    for text in ("me/it@", "me/it@../x", "me/it@a b", "me/it@a//b", "me/it@-x", "me/it@x/"):
        with pytest.raises(ConfigurationError, match="is not a revision"):
            repository(text, "model")


def test_hub_errors_survive_a_process_boundary() -> None:
    import pickle

    copied = pickle.loads(pickle.dumps(HubError("it failed.", "Wait.", 500)))
    assert (copied.message, copied.hint) == ("it failed.", "Wait.")
