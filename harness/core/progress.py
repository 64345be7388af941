"""One kind of progress bar for every long step, on standard error."""

from __future__ import annotations

import sys
from types import TracebackType


class Progress:
    """A progress bar with rate and time left; use it as a context manager.

    Where standard error is no terminal it is redrawn once in ten seconds, so that a log stays readable.

    Args:
        what: What is being done, in a word or two.
        total: How many units there are; None when it is not known.
        unit: What one unit is.
        done: Units that an earlier session did; they count for the bar and not for the rate.
    """

    def __init__(self, what: str, *, total: int | None, unit: str, done: int = 0) -> None:
        from tqdm import tqdm

        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=f" {unit}s",
            mininterval=interval,
            maxinterval=interval,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more as done and show `note` behind the bar."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)
