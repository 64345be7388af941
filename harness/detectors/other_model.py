"""What detectors share that read another model than the victim."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from harness.core.errors import ConfigurationError, DataError, HarnessError
from harness.detectors.base import Detector, QueryDetector
from harness.text.victims import Victim

OTHER_HASH = "other_model_hash"  # in the file of a fitted detector


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
        self._wanted_hash: str | None = None

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask, and load the other model.

        Raises:
            ConfigurationError: The other model is not to be had, or is not the one that it was fitted with.
        """
        super().attach(victim)
        if self._other is None or self._device != str(victim.device):
            try:
                found = self._load(str(victim.device))
            except HarnessError as error:
                raise ConfigurationError(
                    f"the detector {self.info.name!r} has no {self.kind} to ask: {error.message}", error.hint
                ) from error
            if self._wanted_hash is not None and found.hash != self._wanted_hash:
                raise ConfigurationError(
                    f"the {self.kind} {found.name!r} is not the one that the detector {self.info.name!r} was fitted "
                    f"with: the hash of its weights is {found.hash[:12]}, not {self._wanted_hash[:12]}.",
                    "Put the former one back, or fit and calibrate the detector again.",
                )
            self._other, self._device = found, str(victim.device)
        return self

    def expect(self, other_hash: str | None) -> Self:
        """Have `attach` refuse any other model than that with this hash; None takes every one."""
        self._wanted_hash = other_hash
        return self

    @property
    def other_hash(self) -> str | None:
        """The hash of the other model: of the loaded one, or of the one it expects; None where neither is known."""
        return self._wanted_hash if self._other is None else self._other.hash

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


def other_model_facts(detector: Detector) -> dict[str, str]:
    """What the file of a fitted detector says of its other model: the hash; nothing where there is none, or unknown.

    It stands beside parameters and arrays, which the keys of stored scores hold: what was scored before stays.
    """
    found = detector.other_hash if isinstance(detector, OtherModelDetector) else None
    return {} if found is None else {OTHER_HASH: found}


def expect_other_model(detector: Detector, facts: Mapping[str, Any]) -> Detector:
    """Have a detector refuse another model than the one that facts name; facts of before name none.

    Raises:
        DataError: They hold no hash.
    """
    wanted = facts.get(OTHER_HASH)
    if wanted is not None and not (isinstance(wanted, str) and re.fullmatch("[0-9a-f]{64}", wanted)):
        raise DataError(f"{OTHER_HASH} is no SHA-256")
    return detector.expect(wanted) if isinstance(detector, OtherModelDetector) else detector
