"""Detectors and attack sets that a command line names by folder or as hub:ORG/NAME."""

from __future__ import annotations

from pathlib import Path


def detector_folder(named: str | Path) -> Path:
    """The folder of a fitted detector; one on the hub (`hub:ORG/NAME[@REVISION]`) is fetched into the hub's cache.

    Raises:
        HarnessError: It cannot be fetched, or is no detector.
    """
    from harness.hub.names import is_hub_spec

    if not is_hub_spec(str(named)):
        return Path(named)
    from harness.detectors.decisions import CALIBRATION_FILE, CALIBRATION_SCORES
    from harness.detectors.fitting import DETECTOR_FILE, STATE_FILE
    from harness.hub.fetching import fetch
    from harness.text.seen_texts import SEEN_FILE

    needed = (DETECTOR_FILE, STATE_FILE)
    return fetch(str(named), "model", [*needed, SEEN_FILE, CALIBRATION_FILE, CALIBRATION_SCORES], required=needed)


def set_folder(named: str | Path) -> Path:
    """The folder of an attack set; one on the hub is fetched like a detector.

    Raises:
        HarnessError: It cannot be fetched, or is no attack set.
    """
    from harness.hub.names import is_hub_spec

    if not is_hub_spec(str(named)):
        return Path(named)
    from harness.hub.fetching import fetch
    from harness.text.release.description import DESCRIPTION_FILE

    return fetch(str(named), "dataset", [DESCRIPTION_FILE, "data/*.parquet"], required=[DESCRIPTION_FILE])
