"""What the tests of victims share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def encoder(tiny_victim_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder without a head; its classifier has a matrix of its own before the last one."""
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("encoders") / "tiny-encoder"
    source = tiny_victim_folder("distilbert", seed=3)
    AutoModel.from_pretrained(source).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder
