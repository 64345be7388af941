"""Small stand-ins for what recipes need: vectors, a sentence encoder, language models, a part-of-speech tagger."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Sentences = Callable[..., list[str]]


@pytest.fixture(scope="session")
def small_artifacts(
    tmp_path_factory: pytest.TempPathFactory, tiny_victim_folder: Any, shared_data: Path, words: list[str]
) -> Path:
    """An `--artifacts` folder with random little models, and the shared data's tagger."""
    folder = tmp_path_factory.mktemp("artifacts")
    _save_vectors(folder / "counterfitted-glove", words)
    _save_models(folder, Path(tiny_victim_folder()))
    shutil.copytree(shared_data / "nltk_data" / "taggers", folder / "nltk-tagger" / "taggers")
    return folder


@pytest.fixture(scope="session")
def sentences(words: list[str]) -> Sentences:
    """`(n, seed=0)` -> n different sentences over the tiny victims' words, some with marks.

    Most have one to nine words; one in five is longer than the windows of sentence encoders.
    """

    def make(n: int, seed: int = 0) -> list[str]:
        draw = random.Random(seed)
        found: dict[str, None] = {}
        while len(found) < n:
            length = draw.randint(16, 22) if draw.random() < 0.2 else draw.randint(1, 9)
            drawn = draw.choices(words, k=length)
            drawn[0] = drawn[0].capitalize() if draw.random() < 0.5 else drawn[0]
            marks = [draw.choice(["", "", "", ",", ";", "!"]) for _ in drawn]
            found[" ".join(word + mark for word, mark in zip(drawn, marks, strict=True))] = None
        return list(found)

    return make


def _save_vectors(folder: Path, words: list[str]) -> None:
    """Eight clusters, so that words have neighbours with a cosine above every recipe's floor, and others without."""
    from textadv.vectors import WordVectors, save_vectors

    draw = np.random.default_rng(0)
    centres = draw.normal(size=(8, 16))
    matrix = centres[draw.integers(0, 8, len(words))] + 0.35 * draw.normal(size=(len(words), 16))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    folder.mkdir()
    save_vectors(folder, WordVectors(words, matrix.astype(np.float32)))


def _save_models(folder: Path, victim: Path) -> None:
    from harness.core.compat import prepare_torchvision

    prepare_torchvision()
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(victim)
    config = AutoConfig.from_pretrained(victim)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        small = GPT2Config(
            vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2
        )
        models = {
            "minilm": BertModel(config),
            # TextAttack pads to 512 tokens.
            "minilm-masked-lm": BertForMaskedLM(AutoConfig.from_pretrained(victim, max_position_embeddings=512)),
            "gpt2": GPT2LMHeadModel(small),
        }
    for name, model in models.items():
        model.save_pretrained(folder / name, safe_serialization=True)
        tokenizer.save_pretrained(folder / name)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "minilm" / "modules.json").write_text(json.dumps(modules))
    (folder / "minilm" / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_mean_tokens": True}
    (folder / "minilm" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.fixture(scope="session")
def word_victim(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Any:
    """An untrained word CNN over the tiny victims' words, its weights wide enough that texts differ."""
    import torch

    from harness.text.victims import Victim
    from harness.text.word_vocabulary import new_word_classifier

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model, tokenizer = new_word_classifier("wordcnn", [" ".join(words)] * 2, ["bad", "good"])
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.mul_(3)
    folder = tmp_path_factory.mktemp("word-victim") / "wordcnn"
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return Victim.load(str(folder), device="cpu")
