"""Asking the hub through its client: patience with what passes, one sentence for what does not, never the token.

Errors of the client carry the request, its headers and whatever the server answered. So none of them leaves this
module, not as a cause either: what leaves is a `HarnessError` whose words are free of the token.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from harness.core.errors import HarnessError
from harness.hub.names import Repository

T = TypeVar("T")
TRIES = 5
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0
_PASSING = {429, 500, 502, 503, 504}
_SECRETS = re.compile(r"(?i)\bhf_\w{8,}|\bbearer\s+\S+|(?<=//)[^/\s@]+@")


class HubError(HarnessError):
    """The hub does not do what it was asked.

    Args:
        message: One sentence that says what is wrong.
        hint: One sentence that says what to do about it.
        status: The HTTP status of its answer; None where there was none.
    """

    def __init__(self, message: str, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status


def token() -> str | None:
    """The user's token, from the environment or the hub's own login."""
    from huggingface_hub import get_token

    return get_token()


def redacted(text: str) -> str:
    """Text on one line, of at most 200 characters, without the token or anything that looks like one."""
    secret = token()
    if secret:
        text = text.replace(secret, "(token)")
    return " ".join(_SECRETS.sub("(token)", text).split())[:200].rstrip(".: ")


@contextmanager
def discreet_logs() -> Iterator[None]:
    """Keep the token out of log records, also where the client logs an address that a server made with it."""
    secret, make = token(), logging.getLogRecordFactory()

    def record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        made = make(*arguments, **keywords)
        text = made.getMessage()
        if secret and secret in text:
            made.msg, made.args = text.replace(secret, "(token)"), None
        return made

    logging.setLogRecordFactory(record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


def ask(repo: Repository, doing: str, call: Callable[[], T], *, after: str = "") -> T:
    """Call the hub's client; again, with growing pauses, while what goes wrong may pass.

    Args:
        repo: The repository it is about.
        doing: What is being done, for messages: "the upload of the dataset x/y".
        call: The call, safe to repeat.
        after: What stands behind the hint when it fails for good, such as how to go on.

    Raises:
        HubError: It failed for good, or too often.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except HarnessError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the client raises may carry the token
            pause = _pause(error, attempt)
            message, hint, status = _sentence(error, repo, doing)
        # Out of the handler, so that the new error has no context either.
        if pause is None or attempt == TRIES:
            break
        time.sleep(pause)
    raise HubError(message, " ".join(filter(None, (hint, after))), status)


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an error of the client, or in what caused it."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if response is not None and getattr(response, "status_code", None):
            return int(response.status_code)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _broke(error: BaseException) -> bool:
    """Whether the connection could not be made, or broke."""
    import requests

    # What is no JSON where JSON is due comes from a server, or a gateway before it, that has trouble.
    broken = (requests.exceptions.ChunkedEncodingError, requests.exceptions.InvalidJSONError)
    kinds = (requests.ConnectionError, requests.Timeout, *broken)
    return any(isinstance(one, kinds) for one in _chain(error)) and not _offline(error)


def _offline(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return any(isinstance(one, OfflineModeIsEnabled) for one in _chain(error))


def _pause(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next try; None where another would not help."""
    status = status_of(error)
    # The client has sent the bytes of a blob six times itself by then, unless it was asked to wait.
    tried_by_client = status != 429 and any(_method(one) == "PUT" for one in _chain(error))
    if tried_by_client or not (status in _PASSING or (status is None and _broke(error))):
        return None
    asked = max((_retry_after(one) for one in _chain(error)), default=0.0)
    return float(min(max(_FIRST_WAIT * 2 ** (attempt - 1), asked), _LONGEST_WAIT))


def _method(error: BaseException) -> str:
    """The HTTP method of the request that an error is about."""
    request = getattr(getattr(error, "response", None), "request", None) or getattr(error, "request", None)
    return str(getattr(request, "method", ""))


def _retry_after(error: BaseException) -> float:
    response = getattr(error, "response", None)
    value = "" if response is None else response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _sentence(error: Exception, repo: Repository, doing: str) -> tuple[str, str, int | None]:
    """Message, hint and status."""
    status = status_of(error)
    if status is not None:
        return *_by_status(status, error, repo, doing), status
    if _offline(error):
        return f"{doing} needs the hub, and offline mode is on.", "Unset HF_HUB_OFFLINE.", None
    if _broke(error):
        return f"{doing} failed: the connection to the hub broke.", "Check the network.", None
    return f"{doing} failed: {type(error).__name__}: {redacted(str(error)) or 'no reason given'}.", "", None


def _by_status(status: int, error: Exception, repo: Repository, doing: str) -> tuple[str, str]:
    said = redacted(_server_message(error))
    because = f": {said}" if said else ""
    if status in (401, 403, 404):
        reason, hint = _denied(status, server_code(error), repo, because)
    elif status >= 500:
        reason, hint = f"the hub has trouble of its own (HTTP {status})", "Wait a while."
    elif status in _REFUSALS:
        reason, hint = _REFUSALS[status]
        reason = reason.format(repo=repo, because=because)
    else:
        reason, hint = f"the hub refused it (HTTP {status}){because}", ""
    return f"{doing} failed: {reason}.", hint


_MEANWHILE = (
    "the {repo} was changed by somebody else meanwhile",
    "Look at it, then run the same command again.",
)
_REFUSALS = {
    409: _MEANWHILE,
    412: _MEANWHILE,
    413: ("the hub does not take so much{because}", "Publish less, such as fewer rows."),
    422: (
        "the hub found other bytes than were sent{because}",
        "Run the same command again; if it stays so, the connection or the disk is at fault.",
    ),
    429: ("the hub asks for fewer requests", "Wait some minutes."),
}


def _denied(status: int, code: str, repo: Repository, because: str) -> tuple[str, str]:
    login = "Set HF_TOKEN to a valid token, or run `hf auth login`."
    plain = {
        401: ("the hub does not accept your token", login),
        403: (
            f"your token gives no right to do that{because}",
            f"Use a token with the right for {repo.id.partition('/')[0]}, or another name.",
        ),
        404: (f"there is no {repo} on the hub", "Check its name; a private one needs a token."),
    }
    named = {
        "GatedRepo": (
            f"access to the {repo} has to be granted first",
            "Ask for it on its page on the hub, then run this again.",
        ),
        "RepoNotFound": (f"there is no {repo} that your token may see", "Check its name and your token."),
        "RevisionNotFound": (
            f"the {repo.kind} {repo.id} has no revision {repo.revision or 'main'}",
            "Look at its branches, tags and commits on the hub.",
        ),
    }
    if token() is None and code not in ("GatedRepo", "RevisionNotFound"):
        return f"there is no {repo} that can be seen without a token", login
    return named.get(code, plain[status])


def _server_message(error: Exception) -> str:
    said = (getattr(one, "server_message", None) for one in _chain(error))
    return next((str(one) for one in said if one), "")


def server_code(error: Exception) -> str:
    """The name that the server gives its refusal."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if response is not None and "X-Error-Code" in response.headers:
            return str(response.headers["X-Error-Code"])
    return ""
