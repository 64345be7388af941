"""A text encoder says at every layer what `hidden_states` hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision

prepare_torchvision()

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError  # noqa: E402
from harness.text.encoders import FLOPS_TOKENS, TextEncoder  # noqa: E402

TEXTS = ["a good film", "the story was long and dull and very very weak", "great", "not a bad comedy , really"]


def by_hand(folder: Path, layer: int) -> tuple[Any, Any]:
    """Each text alone, so that there is no padding: its first token, and the mean of all."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    first, mean = [], []
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        first.append(states[layer][0, 0].numpy())
        mean.append(states[layer][0].double().mean(dim=0).numpy())
    return np.stack(first), np.stack(mean)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
def test_layers_are_hidden_states(tiny_victim_folder: Any, kind: str) -> None:
    folder = tiny_victim_folder(kind)
    encoder = TextEncoder.load(str(folder), batch_size=3, device="cpu")
    layers = range(1, encoder.num_layers + 1)
    found = encoder.read(TEXTS, layers)
    for layer in layers:
        first, mean = by_hand(folder, layer)
        np.testing.assert_allclose(found[layer, "cls"], first, atol=1e-5)
        np.testing.assert_allclose(found[layer, "avg"], mean, atol=1e-5)
        assert found[layer, "cls"].dtype == np.float32
    assert encoder.poolings == ("cls", "avg")
    assert (encoder.name, encoder.arch, encoder.unit) == (folder.name, kind, "text")
    assert encoder.facts == dict.fromkeys(("objective", "self_distill", "train_dataset", "seed"))


def test_one_forward_for_all_layers(tiny_victim_folder: Any) -> None:
    encoder = TextEncoder.load(str(tiny_victim_folder()), batch_size=2, device="cpu")
    seen: list[int] = []
    encoder.model.embeddings.register_forward_hook(lambda _m, _g, out: seen.append(len(out)))
    encoder.read(TEXTS, [1, 2, 3])
    assert seen == [2, 2]
    assert encoder.forward_seconds > 0
    assert encoder.read([], [1])[1, "avg"].shape == (0, 32)
    assert encoder.read_pairs(TEXTS, [1], 0) is None


def test_operations_by_hand(tiny_victim_folder: Any) -> None:
    encoder = TextEncoder.load(str(tiny_victim_folder()), device="cpu")
    tokens, width, inner = min(FLOPS_TOKENS, encoder.max_length), 32, 64
    block = 2 * tokens * width * (4 * width + 2 * inner) + 2 * (2 * tokens * tokens * width)
    assert [encoder.flops(layer) for layer in (1, 2, 3)] == [block, 2 * block, 3 * block]


def test_an_architecture_without_a_class_token_is_averaged(tmp_path: Path, tiny_victim_folder: Any) -> None:
    from transformers import GPT2Config, GPT2Model

    tokenizer = AutoTokenizer.from_pretrained(tiny_victim_folder())
    model = GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64))
    model.save_pretrained(tmp_path, safe_serialization=True)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.load(str(tmp_path), device="cpu")
    assert encoder.poolings == ("avg",)
    np.testing.assert_allclose(encoder.read(TEXTS, [2])[2, "avg"], by_hand(tmp_path, 2)[1], atol=1e-5)


def test_long_texts_are_cut(tiny_victim_folder: Any) -> None:
    encoder = TextEncoder.load(str(tiny_victim_folder()), max_length=8, device="cpu")
    found = encoder.read(["the " * 50, "the " * 60], [3])[3, "avg"]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    with pytest.raises(ConfigurationError, match="--max-length 1000"):
        TextEncoder.load(str(tiny_victim_folder()), max_length=1000)


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ("no-one/no-model", ConfigurationError, "neither a folder nor loadable"),
        ("./nowhere", MissingFileError, "no encoder folder"),
        ("", MissingFileError, "no encoder folder"),
    ],
)
def test_what_cannot_be_opened(spec: str, kind: type[HarnessError], said: str) -> None:
    with pytest.raises(kind, match=said):
        TextEncoder.load(spec)


def test_folders_that_hold_no_text_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.json is missing"):
        TextEncoder.load(str(tmp_path))
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ConfigurationError, match="reads no texts"):
        TextEncoder.load(str(tmp_path / "vit"))


@pytest.mark.parametrize("fault", ["missing", "nan", "pickled"])
def test_weights_that_cannot_be_used(tmp_path: Path, tiny_victim_folder: Any, fault: str) -> None:
    import shutil

    folder = tmp_path / "encoder"
    shutil.copytree(tiny_victim_folder(), folder)
    path = folder / "model.safetensors"
    state = load_file(path)
    key = "bert.encoder.layer.1.output.dense.weight"
    if fault == "pickled":
        path.rename(folder / "pytorch_model.bin")
        with pytest.raises(ConfigurationError, match="no weights in safetensors"):
            TextEncoder.load(str(folder))
        return
    if fault == "missing":
        state.pop(key)
    else:
        state[key][0, 0] = float("nan")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"layer\.1\.output\.dense\.weight" if fault == "missing" else "not a finite"):
        TextEncoder.load(str(folder), device="cpu").read(TEXTS, [1, 2])
