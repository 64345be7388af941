"""The victims that come with this package: adapters of the embedded encoder, one a dataset of the suite `offline`.

How they were trained is in `resources/README.md`; that they are merged alike everywhere, in `adapters.py`.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "resources" / "victims"


def minilm_lora_sst2() -> Path:
    """Of SST-2: 2 classes."""
    return _FOLDER / "minilm-lora-sst2"


def minilm_lora_ag_news() -> Path:
    """Of AG-News: 4 classes."""
    return _FOLDER / "minilm-lora-ag_news"


def minilm_lora_imdb() -> Path:
    """Of IMDB: 2 classes."""
    return _FOLDER / "minilm-lora-imdb"


def minilm_lora_mr() -> Path:
    """Of MR: 2 classes."""
    return _FOLDER / "minilm-lora-mr"
