"""Loading from the Hugging Face Hub and from folders in its format, and what is said when that fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, HarnessError
from harness.core.files import disk_errors

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def is_hub_id(value: Any) -> bool:
    """Whether something is written like the id of a repository of the Hub: `NAME` or `ORG/NAME`."""
    return isinstance(value, str) and _HUB_ID.fullmatch(value) is not None and ".." not in value


def looks_like_path(spec: str) -> bool:
    """Whether a name can only be meant as a path: a hub id has one slash at most and no leading dot or slash."""
    return spec.startswith((".", "/", "~")) or spec.count("/") > 1 or "\\" in spec


def summary(error: Exception) -> str:
    """The beginning of a library's error message, on one line."""
    return " ".join(str(error).split())[:200].rstrip(".: ") or type(error).__name__


def load_hub_dataset(
    what: str, hub_id: str, config: str | None, *, revision: str | None, hint: str, **options: Any
) -> Any:
    """Load a dataset of the Hub with `datasets`, from the local cache or the network.

    Args:
        what: How messages call it, such as "the dataset 'imdb'".
        hub_id: Its id.
        config: Its configuration.
        revision: Its commit.
        hint: What to do where the Hub cannot be reached.
        **options: Passed to `datasets.load_dataset`.

    Raises:
        ConfigurationError: A local folder has the dataset's id as its path.
        HarnessError: The Hub cannot be reached and the cache does not have it.
    """
    # `datasets` would read such a folder instead of the Hub, and ignore the revision.
    if Path(hub_id).exists():
        raise ConfigurationError(
            f"the local folder {hub_id} hides the Hub's dataset of that id.",
            f"Give ./{hub_id} to read that folder, or run the command elsewhere.",
        )
    import datasets

    try:
        with disk_errors(Path(datasets.config.HF_DATASETS_CACHE)):
            return datasets.load_dataset(hub_id, config, revision=revision, **options)
    except HarnessError:
        raise
    except Exception as error:  # the Hub's clients raise errors of four libraries
        raise hub_unreachable(f"{what} ({hub_id})", error, hint) from error


def hub_unreachable(what: str, error: Exception, hint: str) -> HarnessError:
    """The error for what cannot be had from the Hub."""
    return HarnessError(
        f"{what} cannot be loaded from the Hugging Face Hub: {type(error).__name__}: {summary(error)}.", hint
    )


def unloadable(what: str, kind: str, source: str, error: Exception, hint: str) -> tuple[str, str]:
    """Message and hint for a model that transformers cannot load from a folder or the Hub.

    Args:
        what: What it is to be, such as "victim".
        kind: What a folder lacks, such as "classifier".
        source: The folder or hub id.
        error: What was raised.
        hint: What to do where it is neither.
    """
    if isinstance(error, OSError) and "safetensors" in str(error):
        return (
            f"the {what} {source!r} has no weights in safetensors.",
            "Pickled weights are never loaded; convert them once with transformers' save_pretrained.",
        )
    if Path(source).is_dir():
        return f"the folder {source} holds no loadable {kind}: {summary(error)}.", ""
    return f"the {what} {source!r} is neither a folder nor loadable from the Hugging Face Hub.", hint
