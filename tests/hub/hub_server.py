"""A hub in memory that speaks the Hugging Face Hub's HTTP protocol over real sockets, with faults on demand.

It keeps commits, so that what was visible when can be told, and checks the hash of every object it is sent. It stands
for what the clients of `huggingface_hub`, `datasets` and `timm` ask, not for all that the hub does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".parquet", ".safetensors", ".png")
CANARY = "api_org_CanaryThatMustNotSing0123456789"  # not of the form that is known by sight
RIGHTS = {"hf_writer": {"me", "my-team"}, CANARY: {"me"}, "hf_reader": set()}


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        return git_blob(self.data)


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    gated: bool = False

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)

    def add(self, title: str, files: dict[str, Blob]) -> Commit:
        names = "".join(f"{name} {blob.oid}\n" for name, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{title}{names}".encode()).hexdigest()
        self.commits.append(Commit(sha, title, files))
        return self.commits[-1]


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD path" matches, a number of times.

    Attributes:
        status: Answered instead.
        headers: Of that answer.
        body: Of that answer; the request's own token stands for `{token}`, here and in headers.
        drop: Break the connection: "before" the request is acted on, in the "middle" of its body, or "after".
        change: What to make of an uploaded body, so that its hash is wrong.
        do: Called before all that, while the client waits.
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    drop: str = ""
    change: Callable[[bytes], bytes] | None = None
    do: Callable[[], None] | None = None


@dataclass(frozen=True)
class Request:
    """A request as the server saw it: "METHOD path", bytes of its body, when (monotonic seconds)."""

    line: str
    size: int
    when: float


class Drop(Exception):
    pass


class Hub:
    """The server's state. `url` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.unknown: list[str] = []
        self.multipart_from = 1 << 30
        self.before_commit: Callable[[Repo], None] | None = None
        self.before_request: Callable[[str], None] | None = None
        self.lock = threading.RLock()
        self.url = ""

    def fail(self, pattern: str, **fault: Any) -> None:
        self.faults.append(Fault(pattern, **fault))

    def create(self, kind: str, name: str, files: dict[str, bytes] | None = None, *, private: bool = True) -> Repo:
        repo = self.repos[kind, name] = Repo(private)
        blobs = {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)}
        repo.add("initial commit", dict(blobs))
        if files is not None:
            for data in files.values():
                self.objects[sha256(data)] = data
            own = {n: Blob(data, n.endswith(LFS_SUFFIXES)) for n, data in files.items()}
            repo.add("files", {**blobs, **own})
        return repo

    def visible(self, kind: str, name: str) -> list[set[str]]:
        """The names of the files of each commit, the hub's own left out."""
        return [set(commit.files) - {".gitattributes"} for commit in self.repos[kind, name].commits]

    def sent(self, pattern: str) -> list[Request]:
        """The requests so far whose "METHOD path" matches."""
        return [request for request in self.requests if re.search(pattern, request.line)]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, f"{method} {path}"):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Answer(Exception):
    """What ends a request: status, body (JSON or bytes) and headers."""

    def __init__(self, status: int, body: Any = b"", **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}


def refusal(status: int, message: str, code: str = "") -> Answer:
    named = {"X_Error_Code": code} if code else {}
    return Answer(status, {"error": message}, X_Error_Message=message, **named)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer in one packet: a second would wait for the first one's receipt

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.path_only, self.query = unquote(url.path), parse_qs(url.query)
        if self.hub.before_request is not None:
            self.hub.before_request(f"{self.command} {self.path_only}")
        fault = self.hub.take_fault(self.command, self.path_only)
        if fault is not None and fault.do is not None:
            fault.do()
        try:
            body = self._body(fault)
            with self.hub.lock:
                self.hub.requests.append(Request(f"{self.command} {self.path_only}", len(body), time.monotonic()))
                answer = self._answer(fault, body)
        except Drop:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _body(self, fault: Fault | None) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.drop == "middle":
            self.rfile.read(length // 2)
            raise Drop
        return self.rfile.read(length)

    def _answer(self, fault: Fault | None, body: bytes) -> Answer:
        if fault is not None and fault.drop == "before":
            raise Drop
        if fault is not None and fault.status:
            token = self.headers.get("Authorization", "none").removeprefix("Bearer ")
            headers = {name: value.replace("{token}", token) for name, value in fault.headers.items()}
            return Answer(fault.status, fault.body.replace("{token}", token).encode(), **headers)
        if fault is not None and fault.change is not None:
            body = fault.change(body)
        try:
            self._route(body)
        except Answer as answer:
            if fault is not None and fault.drop == "after":
                raise Drop from None
            return answer
        self.hub.unknown.append(f"{self.command} {self.path}")
        return refusal(404, "no such address")

    # Who asks.

    def _token(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in RIGHTS:
            raise refusal(401, "Invalid credentials in Authorization header")
        return given or None

    def _may_write(self, name: str) -> None:
        token = self._token()
        if token is None:
            raise refusal(401, "Invalid username or password.")
        if name.partition("/")[0] not in RIGHTS[token]:
            raise refusal(403, f"You don't have the rights to create or change something under {name}")

    def _repo(self, kind: str, name: str) -> Repo:
        token = self._token()
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and (token is None or name.partition("/")[0] not in RIGHTS[token])):
            raise refusal(404 if token else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit(self, kind: str, name: str, revision: str) -> Commit:
        commit = self._repo(kind, name).at(revision)
        if commit is None:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # What is asked.

    def _route(self, body: bytes) -> None:
        path, method = self.path_only, self.command
        if path == "/api/repos/create" and method == "POST":
            self._create(json.loads(body))
        if path == "/api/validate-yaml" and method == "POST":
            raise Answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/lfs/(object|part|complete|verify)/([0-9a-f]{64})(?:/(\d+))?", path):
            self._store(*found.groups(), body)
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(found[2], json.loads(body))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve("dataset" if found[1] else "model", *found.groups()[1:])
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/([a-z-]+)/([^/]+)(?:/(.+))?)?", path):
            self._api(found[1], found[2], found[3] or "revision", found[4] or "main", found[5] or "", body)

    def _api(self, kind: str, name: str, what: str, revision: str, under: str, body: bytes) -> None:
        if what == "revision":
            self._info(kind, name, revision)
        elif what == "tree":
            self._tree(self._commit(kind, name, revision), under)
        elif what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            files = self._commit(kind, name, revision).files
            folders = {n.rpartition("/")[0] for n in files if "/" in n}
            found = [self._entry(n, files[n]) for n in wanted if n in files]
            raise Answer(
                200, found + [{"type": "directory", "path": n, "oid": "0" * 40} for n in wanted if n in folders]
            )
        elif what == "preupload":
            self._may_write(name)
            head = self._commit(kind, name, revision).files
            files = []
            for file in json.loads(body)["files"]:
                mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10**7 else "regular"
                known = head.get(file["path"])
                oid = None if known is None else sha256(known.data) if known.lfs else known.oid
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            raise Answer(200, {"files": files})
        elif what == "commit":
            self._commit_files(kind, name, body)

    def _create(self, asked: dict[str, Any]) -> None:
        name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type", "model")
        self._may_write(name)
        if (kind, name) in self.hub.repos:
            raise refusal(409, "You already created this repo")
        self.hub.create(kind, name, private=asked.get("private", False))
        raise Answer(200, {"url": f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"})

    def _info(self, kind: str, name: str, revision: str) -> None:
        commit, repo = self._commit(kind, name, revision), self.hub.repos[kind, name]
        if repo.gated:
            raise refusal(403, "Access to it is restricted", "GatedRepo")
        siblings = [{"rfilename": n, **self._blob(b)} for n, b in sorted(commit.files.items())]
        if not self.query.get("blobs"):
            siblings = [{"rfilename": s["rfilename"]} for s in siblings]
        facts = {"id": name, "sha": commit.sha, "private": repo.private, "gated": False, "disabled": False}
        raise Answer(200, {**facts, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def _blob(self, blob: Blob) -> dict[str, Any]:
        facts: dict[str, Any] = {"blobId": blob.oid, "size": len(blob.data)}
        if blob.lfs:
            facts["lfs"] = {"sha256": sha256(blob.data), "size": len(blob.data), "pointerSize": 134}
        return facts

    def _entry(self, name: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "oid": blob.oid, "size": len(blob.data)}
        if blob.lfs:
            entry["lfs"] = {"oid": sha256(blob.data), "size": len(blob.data), "pointerSize": 134}
        return entry

    def _tree(self, commit: Commit, under: str) -> None:
        start = f"{under}/" if under else ""
        deep = self.query.get("recursive", ["False"])[0].lower() in ("true", "1")
        inside = {n: b for n, b in commit.files.items() if n.startswith(start)}
        if under and not inside:
            raise refusal(404, f"{under} does not exist", "EntryNotFound")
        folders = {start + n.removeprefix(start).rsplit("/", k)[0] for n in inside for k in range(1, n.count("/") + 1)}
        folders = {n for n in folders if n not in inside and n.startswith(start) and n != under}
        entries = [{"type": "directory", "path": n, "oid": "0" * 40, "size": 0} for n in sorted(folders)]
        entries += [self._entry(n, b) for n, b in sorted(inside.items())]
        raise Answer(200, [e for e in entries if deep or "/" not in e["path"].removeprefix(start)])

    def _batch(self, name: str, asked: dict[str, Any]) -> None:
        self._may_write(name)
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
            if oid not in self.hub.objects:
                verify = {"href": f"{self.hub.url}/lfs/verify/{oid}", "header": {}}
                upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/object/{oid}", "header": {}}
                if size > self.hub.multipart_from:
                    step = self.hub.multipart_from
                    parts = {str(k + 1): f"{self.hub.url}/lfs/part/{oid}/{k + 1}" for k in range(-(-size // step))}
                    upload = {
                        "href": f"{self.hub.url}/lfs/complete/{oid}",
                        "header": {"chunk_size": str(step), **parts},
                    }
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        transfer = "multipart" if any("chunk_size" in str(o) for o in objects) else "basic"
        raise Answer(200, {"transfer": transfer, "objects": objects})

    def _store(self, what: str, oid: str, part: str | None, body: bytes) -> None:
        if what == "part":
            self.hub.parts[oid, int(part or 0)] = body
            raise Answer(200, ETag=f'"{git_blob(body)}"')
        if what == "complete":
            body = b"".join(self.hub.parts.pop((oid, p["partNumber"])) for p in json.loads(body)["parts"])
        if what == "verify":
            if oid not in self.hub.objects:
                raise refusal(422, "the object was not uploaded, or its hash is another")
            raise Answer(200, {})
        if sha256(body) == oid:
            self.hub.objects[oid] = body
        raise Answer(200, {})  # as object stores do: only `verify` tells

    def _commit_files(self, kind: str, name: str, body: bytes) -> None:
        self._may_write(name)
        repo = self._repo(kind, name)
        if self.hub.before_commit is not None:
            self.hub.before_commit(repo)
        header, *operations = (json.loads(line) for line in body.splitlines())
        if header["value"].get("parentCommit", repo.commits[-1].sha) != repo.commits[-1].sha:
            raise refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[-1].files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise refusal(400, f"LFS pointer points to an object that does not exist: {value['path']}")
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.add(header["value"]["summary"], files)
        url = f"{self.hub.url}/{name}/commit/{commit.sha}"
        raise Answer(200, {"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, kind: str, name: str, revision: str, file: str) -> None:
        commit = self._commit(kind, name, revision)
        blob = commit.files.get(file)
        if blob is None:
            raise refusal(404, "Entry not found", "EntryNotFound")
        data = blob.data
        tag = sha256(data) if blob.lfs else blob.oid
        linked = {"X_Linked_Size": str(len(data)), "X_Linked_Etag": f'"{tag}"'} if blob.lfs else {}
        headers = {"ETag": f'"{tag}"', "X_Repo_Commit": commit.sha, "Accept_Ranges": "bytes", **linked}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            raise Answer(206, data[first : last + 1], **headers)
        raise Answer(200, data, **{**headers, "Content_Length": str(len(data))})
