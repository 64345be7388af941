"""Attacks on victims that read whole words: HotFlip, which needs them, and the others."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.text.datasets import TextDataset
from harness.text.victims import Victim
from textadv.parts import Parts
from textadv.recipes import RECIPES
from textadv.runtime import load_textattack
from textadv.shards import ShardWorker


@pytest.fixture(scope="module")
def dataset(word_victim: Victim, sentences: Any) -> TextDataset:
    """The texts the victim is least sure of: HotFlip changes two words at most, and not many fit."""
    texts = [text for text in sentences(300, seed=4) if len(text.split()) > 3]
    probabilities = word_victim.read(texts).probabilities
    unsure = np.argsort(probabilities.max(axis=1))[:40]
    texts = [texts[i] for i in unsure]
    return TextDataset("tiny", "test", texts, probabilities[unsure].argmax(axis=1), np.arange(len(texts)), None, {})


@pytest.fixture(scope="module")
def near_words(small_artifacts: Path, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts in which every word is near every other: HotFlip proposes one word a step, and few would pass."""
    from textadv.vectors import WordVectors, save_vectors

    folder = tmp_path_factory.mktemp("near") / "artifacts"
    shutil.copytree(small_artifacts, folder)
    matrix = np.ones((len(words), 8)) + 0.1 * np.random.default_rng(0).normal(size=(len(words), 8))
    save_vectors(folder / "counterfitted-glove", WordVectors(words, matrix.astype(np.float32)))
    return folder


@pytest.mark.parametrize("recipe", ["pwws", "hotflip+glove", "a2t+glove+minilm", "deepwordbug"])
def test_recipes_flip_word_level_victims(
    recipe: str, word_victim: Victim, dataset: TextDataset, near_words: Path
) -> None:
    worker = ShardWorker(Parts(word_victim, artifacts=near_words), RECIPES.get(recipe), 0)
    found = worker.attack(dataset)
    rows = [text.row for text in found if text.row]
    assert len(rows) == len(dataset), next(text.traceback for text in found if not text.row)
    wins = [row for row in rows if row.result == "success"]
    assert wins
    said = word_victim.read([row.perturbed_text for row in wins])
    assert (said.predictions != [row.label for row in wins]).all()
    if recipe.startswith("hotflip"):
        assert all(1 <= len(row.changed_positions) <= 2 for row in wins)


def test_hotflip_takes_the_word_of_the_steepest_first_order_rise(word_victim: Victim, dataset: TextDataset) -> None:
    """Against every flip's estimate, summed over the embedding's dimensions in plain NumPy (eq. 1 of the paper)."""
    load_textattack()
    from textattack.shared import AttackedText, utils

    from harness.text.gradients import token_gradients
    from textadv.components import WordLevelGradientSwap

    swap = WordLevelGradientSwap(Parts(word_victim).model(), top_n=1)
    table = word_victim.model.get_input_embeddings().weight.detach().numpy().astype(np.float64)
    tokens = word_victim.tokenizer.convert_ids_to_tokens(list(range(len(table))))
    is_word = np.array([utils.has_letter(token) and len(utils.words_from_text(token)) == 1 for token in tokens])
    compared = 0
    for text in (re.sub("[^a-z ]", "", text.lower()) for text in dataset.texts):
        (found,) = token_gradients(word_victim, [text])
        assert len(found.ids) == len(text.split())
        rises = (found.gradient.astype(np.float64) @ table.T) - np.sum(
            found.gradient.astype(np.float64) * table[found.ids], axis=1, keepdims=True
        )
        rises[:, ~is_word] = -np.inf
        rises[:, word_victim.tokenizer.pad_token_id] = -np.inf
        place, word = np.unravel_index(rises.argmax(), rises.shape)
        attacked = AttackedText(text)
        ((proposed, index),) = swap._get_replacement_words_by_grad(attacked, range(len(attacked.words)))
        assert (index, proposed) == (place, tokens[word])
        compared += 1
    assert compared > 5
