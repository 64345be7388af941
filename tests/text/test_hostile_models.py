"""A classifier or encoder of texts that a stranger wrote: one sentence, and no memory for what it merely claims."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import HarnessError
from harness.text.encoders import TextEncoder
from harness.text.victims import Victim

DEEP = "[" * 100_000 + "]" * 100_000
FILES: dict[str, tuple[str, bytes]] = {
    "a configuration nested deeply": ("config.json", DEEP.encode()),
    "a configuration that is a list": ("config.json", b"[]"),
    "a header longer than the file": ("model.safetensors", struct.pack("<Q", 2**62) + b"{}"),
    "a pickle": ("model.safetensors", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94"),
    "a header nested deeply": ("model.safetensors", struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995),
    "a tokenizer nested deeply": ("tokenizer.json", DEEP.encode()),
    "a tokenizer of no class": ("tokenizer_config.json", b'{"tokenizer_class": "os.system"}'),
    "a tokenizer without a number": (
        "tokenizer_config.json",
        b'{"tokenizer_class": "BertTokenizer", "model_max_length": "x"}',
    ),
}
CLAIMS: list[dict[str, Any]] = [
    {"num_hidden_layers": 200_000},
    {"num_hidden_layers": "3"},
    {"hidden_size": 2**32},
    {"hidden_size": -1},
    {"num_attention_heads": 0},
    {"vocab_size": 2**33},
    {"vocab_size": 2**30},
    {"max_position_embeddings": 2**30},
    {"model_type": "../../x"},
]


@pytest.fixture
def folder(tiny_victim_folder: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_victim_folder("bert"), tmp_path / "fetched"))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("load", [Victim.load, TextEncoder.load], ids=["victim", "encoder"])
def test_a_file_that_is_none_is_refused_in_one_sentence(load: Any, kind: str, folder: Path) -> None:
    name, content = FILES[kind]
    (folder / name).write_bytes(content)
    with pytest.raises(HarnessError) as caught:
        load(str(folder))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("claims", CLAIMS, ids=str)
@pytest.mark.parametrize("load", [Victim.load, TextEncoder.load], ids=["victim", "encoder"])
def test_what_no_model_has_is_refused_before_memory_is_taken(load: Any, claims: dict[str, Any], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **claims}))
    with pytest.raises(HarnessError) as caught:
        load(str(folder))
    assert "\n" not in caught.value.message
