"""A web server on the loopback interface that does what servers and networks do wrong, and artifacts to try it on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import pytest

from harness.core.registry import Entry
from textadv.artifacts import ARTIFACTS, Artifact


@dataclass
class File:
    """A file of the server, and how it is served.

    Attributes:
        content: Its bytes.
        etag: What stands for these bytes; None for no validator at all.
        ranges: Whether the server knows ranges.
        cuts: After how many bytes of the body each coming answer breaks off, one for each request.
        statuses: What is answered instead, one for each coming request.
        length: Whether the length is told.
        location: Where it has moved.
        gate: The body stops half-way until this is set.
        headers: What else is said of it.
    """

    content: bytes = b""
    etag: str | None = '"1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    length: bool = True
    location: str | None = None
    gate: threading.Event | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Loopback:
    """Use it as a context manager; `serve` adds files, `requests` has path and Range header of every GET."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.half_sent = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"loopback": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients go away on purpose
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, path: str, content: bytes, **how: Any) -> str:
        """Serve `content` at `path`, in the way that the fields of `File` say; its address."""
        self.files[path] = File(content, **how)
        return self.url + path

    def close(self) -> None:
        """Stop answering, and let everyone go who waits; closing again does nothing."""
        for file in self.files.values():
            if file.gate is not None:
                file.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Loopback:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: Loopback

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.loopback.requests.append((self.path, self.headers.get("Range")))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file = self.loopback.files.get(self.path.split("?")[0])
        if file is None or file.statuses:
            self._plain(file.statuses.pop(0) if file else 404)
        elif file.location is not None:
            self._plain(302, **{"Location": file.location})
        else:
            self._file(file, body)

    def _plain(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _file(self, file: File, body: bool) -> None:
        start, total = 0, len(file.content)
        wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
        if wanted and file.ranges and known in (None, file.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                self._plain(416, **{"Content-Range": f"bytes */{total}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        if file.etag:
            self.send_header("ETag", file.etag)
        for name, value in file.headers.items():
            self.send_header(name, value)
        if file.length:
            self.send_header("Content-Length", str(total - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body:
            self._body(file, file.content[start:])

    def _body(self, file: File, rest: bytes) -> None:
        if file.cuts:
            rest = rest[: file.cuts.pop(0)]
            self.close_connection = True
        if file.gate is not None:
            half = len(rest) // 2
            self.wfile.write(rest[:half])
            self.wfile.flush()
            self.loopback.half_sent.set()
            file.gate.wait(60)
            rest = rest[half:]
        self.wfile.write(rest)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A web server of the test's own; retries follow one another without a pause."""
    monkeypatch.setattr("textadv.downloading._PAUSE", 0)
    # A proxy of the machine is no way to this machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Loopback() as server:
        yield server


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Artifact]:
    """`(name, source, files=("a.txt",), **fields)` puts an artifact into the registry for the time of the test."""

    def add(name: str, source: Any, files: tuple[str, ...] = ("a.txt",), **fields: Any) -> Artifact:
        facts: dict[str, Any] = {"kind": "test", "summary": "a test's", "licence": "none", "size_mb": 1, **fields}
        artifact = Artifact(name=name, files=files, source=source, **facts)
        ARTIFACTS.names()  # reads the plug-ins, before the entry is there
        monkeypatch.setitem(ARTIFACTS._entries, name, Entry(name, "none:none", artifact.summary))
        monkeypatch.setitem(ARTIFACTS._loaded, name, artifact)
        return artifact

    return add
