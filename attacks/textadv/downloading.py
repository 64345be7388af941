"""Download a file over HTTP: resumed where it broke off, checked, and whole or absent under its name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.core.errors import DataError, HarnessError
from harness.core.files import disk_errors, fsync_folder, hash_file, read_json, write_json
from harness.core.loading import summary
from harness.core.progress import Progress

if TYPE_CHECKING:
    import requests

_CHUNK = 1 << 14  # what a broken connection may lose: the library keeps nothing of a chunk that is not full
_MEGABYTE = 1_000_000
_TIMEOUTS = (15, 60)  # seconds to connect, and between two packets
_TRIES = 5  # in a row without a byte more
_PAUSE = 0.5  # seconds before the second try; doubled each time
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
OFFLINE_HINT = (
    "On a machine without network, copy a folder that another machine filled with "
    "`harness fetch ... --artifacts DIR`, and give it as --artifacts DIR."
)


class _Broken(Exception):
    """The transfer broke off; it may be tried again."""


def download(url: str, path: Path, *, sha256: str | None, max_bytes: int) -> str:
    """Download `url` to `path`, going on where an earlier call or a broken connection left off.

    What has come is kept beside `path` as `.part`, with what identifies the file on the server. It is gone on with
    only where the server still has that very file (its ETag or date of change), or where `sha256` will tell.

    Args:
        url: An HTTP or HTTPS address; HTTPS is never left for HTTP.
        path: Where the file goes; a file that is there counts as downloaded.
        sha256: What the file's SHA-256 (hex) must be, or None.
        max_bytes: How long it may be.

    Returns:
        Its SHA-256 (hex).

    Raises:
        HarnessError: It cannot be had: no network, no such file, too long.
        DataError: It is not the file that it should be; nothing of it is kept.
    """
    if path.is_file():
        found = hash_file(path)
        if sha256 in (None, found):
            return found
        path.unlink()
    part = _Part(url, path)
    resumed = _transfer_all(part, sha256, max_bytes)
    found = hash_file(part.path)
    if sha256 not in (None, found) and resumed:  # the rest may have been that of another file
        part.discard()
        _transfer_all(part, sha256, max_bytes)
        found = hash_file(part.path)
    if sha256 not in (None, found):
        part.discard()
        raise DataError(
            f"{url} is not the file that it should be: its SHA-256 is {found}, not {sha256}.",
            "It was changed, there or on its way; nothing of it is kept. Report it if it stays so.",
        )
    os.replace(part.path, path)
    fsync_folder(path.parent)
    part.discard()
    return found


class _Part:
    """What has come of a file so far, and what the server said of it."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.path = path.with_name(path.name + ".part")
        self._facts_path = path.with_name(path.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self) -> str | None:
        """The ETag or date that the server gave for what has come, or None."""
        try:
            facts = read_json(self._facts_path)
        except HarnessError:
            return None
        if not isinstance(facts, dict) or facts.get("url") != self.url:
            return None
        return facts.get("validator") or None

    def begin(self, headers: Any) -> None:
        """Forget what has come and note what the server says of the file."""
        self.path.unlink(missing_ok=True)
        etag = headers.get("ETag", "")
        # A weak ETag promises the same meaning, not the same bytes.
        validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        write_json(self._facts_path, {"url": self.url, "validator": validator})

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._facts_path.unlink(missing_ok=True)


def _transfer_all(part: _Part, sha256: str | None, max_bytes: int) -> bool:
    """Transfer until the file is whole; whether any of it came in an earlier request.

    Raises:
        HarnessError: It cannot be had.
    """
    import requests

    best, tries, resumed = part.size, 0, False
    part.path.parent.mkdir(parents=True, exist_ok=True)
    with requests.Session() as session:
        while True:
            try:
                resumed |= _transfer(session, part, pinned=sha256 is not None, max_bytes=max_bytes)
                return resumed
            except _Broken as error:
                resumed = True
                tries = tries + 1 if part.size <= best else 1
                best = max(best, part.size)
                if tries >= _TRIES:
                    kept = f" ({part.size:,} bytes are kept)" if part.size else ""
                    raise HarnessError(
                        f"{part.url} cannot be downloaded: {error}{kept}.",
                        f"Run the same command again to go on. {OFFLINE_HINT}",
                    ) from error
                time.sleep(_PAUSE * 2 ** (tries - 1))


def _transfer(session: requests.Session, part: _Part, *, pinned: bool, max_bytes: int) -> bool:
    """One request for what is missing; whether it went on with what was there.

    Raises:
        _Broken: It broke off.
        HarnessError: The server refuses, or the file is too long.
    """
    import requests

    offset, validator = part.size, part.validator()
    # A coding on the way would make ranges those of other bytes.
    headers = {"Accept-Encoding": "identity"}
    if offset and (validator or pinned):
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    try:
        with session.get(part.url, headers=headers, stream=True, timeout=_TIMEOUTS) as answer:
            _check_scheme(part.url, answer)
            resumed = answer.status_code == requests.codes.partial_content
            total = _length(answer, part, offset)
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return True  # all of it came; only its name is missing
            if not resumed:
                part.begin(answer.headers)
                offset = 0
            if total is not None and total > max_bytes:
                raise _too_long(part, max_bytes)
            _receive(answer, part, offset, total, max_bytes)
            return resumed
    except requests.exceptions.InvalidURL as error:
        raise HarnessError(f"{part.url} is no address.") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise _Broken("the connection broke off") from error
    except requests.exceptions.ConnectionError as error:
        # Its own message is a chain of addresses and objects.
        host = urlsplit(part.url).hostname
        raise _Broken(f"{host} cannot be reached, or broke off ({_innermost(error)})") from error
    except requests.exceptions.RequestException as error:
        raise _Broken(f"{type(error).__name__}: {summary(error)}") from error


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return summary(error) if isinstance(error, Exception) else type(error).__name__


def _check_scheme(url: str, answer: requests.Response) -> None:
    secure = urlsplit(url).scheme == "https"
    if secure and any(urlsplit(step.url).scheme != "https" for step in (*answer.history, answer)):
        raise HarnessError(f"{url} is redirected to an address without encryption.", "Nothing was downloaded.")


def _length(answer: requests.Response, part: _Part, offset: int) -> int | None:
    """The whole file's length, as far as an answer says it.

    Raises:
        _Broken: The answer is not to this request, or the server is busy.
        HarnessError: The server refuses.
    """
    status, said = answer.status_code, answer.headers
    if status in (206, 416):
        span, _, total = said.get("Content-Range", "").removeprefix("bytes ").partition("/")
        length = int(total) if total.isdecimal() else None
        if status == 206 and span.split("-")[0] == str(offset):
            return length
        if status == 416 and length == offset:
            return length
        part.discard()
        raise _Broken(f"the server has no bytes from {offset:,} on")
    if status in _AGAIN:
        raise _Broken(f"the server answers {status} {answer.reason}")
    if status != 200:
        raise HarnessError(
            f"{part.url} cannot be downloaded: the server answers {status} {answer.reason}.", OFFLINE_HINT
        )
    length_said = said.get("Content-Length", "")
    return int(length_said) if length_said.isdecimal() and "Content-Encoding" not in said else None


def _receive(answer: requests.Response, part: _Part, offset: int, total: int | None, max_bytes: int) -> None:
    name = part.path.name.removesuffix(".part")
    megabytes = None if total is None else -(-total // _MEGABYTE)
    with (
        disk_errors(part.path),
        open(part.path, "ab") as handle,
        Progress(name, total=megabytes, unit="MB", done=offset // _MEGABYTE) as bar,
    ):
        come = offset
        for chunk in answer.iter_content(_CHUNK):
            if come + len(chunk) > max_bytes:
                raise _too_long(part, max_bytes)
            handle.write(chunk)
            bar.advance((come + len(chunk)) // _MEGABYTE - come // _MEGABYTE)
            come += len(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    if total is not None and come != total:
        raise _Broken(f"the connection ended after {come:,} of {total:,} bytes")


def _too_long(part: _Part, max_bytes: int) -> HarnessError:
    part.discard()
    return HarnessError(f"{part.url} is longer than {max_bytes:,} bytes, the most that it should have.")
