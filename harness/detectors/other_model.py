"""What detectors share that read another model than the victim."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from harness.core.errors import ConfigurationError, HarnessError
from harness.detectors.base import QueryDetector
from harness.text.victims import Victim


class OtherModel(Protocol):
    """A model with a name that is no path, the hash of its weights, and a count of the texts it was asked."""

    name: str
    hash: str
    forwards: int


M = TypeVar("M", bound=OtherModel)


class OtherModelDetector(QueryDetector, Generic[M]):
    """A detector that reads another model, which is loaded onto the victim's device when a victim is attached.

    Args:
        spec: Which model, as `_load` takes it; None where a subclass knows one itself.
    """

    # The constructor's name of `spec`, and what messages call the model.
    parameter: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, spec: str | None) -> None:
        super().__init__()
        self.spec = spec
        self._other: M | None = None
        self._device = ""

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask, and load the other model.

        Raises:
            ConfigurationError: The other model is not to be had.
        """
        super().attach(victim)
        if self._other is None or self._device != str(victim.device):
            try:
                self._other = self._load(str(victim.device))
            except HarnessError as error:
                raise ConfigurationError(
                    f"the detector {self.info.name!r} has no {self.kind} to ask: {error.message}", error.hint
                ) from error
            self._device = str(victim.device)
        return self

    @property
    def other(self) -> M:
        """The other model.

        Raises:
            NotFittedError: No victim was attached.
        """
        if self._other is None:
            self.attach(self.victim)
        assert self._other is not None
        return self._other

    @property
    def other_forwards(self) -> int:
        """Texts, or token sequences, run through the other model since it was loaded."""
        return 0 if self._other is None else self._other.forwards

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {self.parameter: self.spec}

    def facts(self) -> dict[str, Any]:
        """Its parameters, with the other model by name, and by hash once it is loaded."""
        name: str | None = None
        if self._other is not None:
            name = self._other.name
        elif self.spec is not None:
            # A hub id is told whole, unless a folder has it as its path.
            path = Path(self.spec).expanduser()
            name = path.name if path.exists() or self.spec.count("/") > 1 or not self.spec[0].isalnum() else self.spec
        return {
            **self.parameters(),
            self.parameter: name,
            f"{self.parameter}_hash": None if self._other is None else self._other.hash,
        }

    @abstractmethod
    def _load(self, device: str) -> M:
        """Load the other model; any `HarnessError` says why it cannot be."""
