"""Every recipe that runs offline ends as TextAttack's own: same result, same text, same number of queries."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nltk
import numpy as np
import pytest
import torch
from textattack_peers import Downloads, textattack_recipe

from harness.text.datasets import TextDataset, row_id
from harness.text.victims import Victim
from textadv.goals import Goal
from textadv.parts import Parts
from textadv.recipes import RECIPES
from textadv.runtime import load_textattack
from textadv.shards import ShardWorker

# Texts a recipe is tried on; those that search with populations or by character take long in TextAttack.
TEXTS = {
    "pwws": 40,
    "textfooler+glove+minilm": 40,
    "tf-adj+glove+minilm+nogrammar": 40,
    "a2t+glove+minilm": 40,
    "kuleshov+glove+nolm": 20,
    "bae+minilm-mlm+minilm": 12,
    "bert-attack+minilm-mlm+minilm": 12,
    "clare+minilm-mlm+minilm+nltk": 3,
    "pruthi": 10,
    "deepwordbug": 30,
    "textbugger+glove+minilm": 30,
    "checklist+noner": 40,
    "input-reduction": 30,
    "iga+glove": 4,
    "fast-alzantot+glove+nolm": 6,
    "pso+wordnet": 4,
}


def dataset_of(victim: Victim, texts: Sequence[str]) -> TextDataset:
    """The victim's own labels, every ninth wrong."""
    labels = victim.read(texts).predictions
    labels[::9] = 1 - labels[::9]
    return TextDataset("tiny", "test", list(texts), labels, np.arange(len(texts)), None, {})


def ours(name: str, dataset: TextDataset, victim: Victim, artifacts: Path) -> list[tuple[Any, ...]]:
    goal = Goal(input_reduction=RECIPES.get(name).goal == "input-reduction")
    found = ShardWorker(Parts(victim, goal, artifacts=artifacts), RECIPES.get(name), seed=0).attack(dataset)
    assert not [text.traceback for text in found if text.row is None]
    return [
        (text.row.result, text.row.perturbed_text, text.row.perturbed_output, text.row.queries)
        for text in found
        if text.row
    ]


def seed_as_documented(identity: str) -> None:
    import hashlib

    number = int.from_bytes(hashlib.sha256(f"0:{identity}".encode()).digest()[:4], "little")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def theirs(name: str, dataset: TextDataset, victim: Victim, given: Downloads) -> list[tuple[Any, ...]]:
    """One text after the other through TextAttack's own attack and wrapper, which pads to the full length."""
    from textattack.models.wrappers import HuggingFaceModelWrapper

    kinds = {"Successful": "success", "Failed": "failure", "Maximized": "maximized", "Skipped": "skipped"}
    found = []
    with textattack_recipe(name, HuggingFaceModelWrapper(victim.model, victim.tokenizer), given) as attack:
        for i, (text, label) in enumerate(zip(dataset.texts, dataset.labels.tolist(), strict=True)):
            attack.clear_cache()
            seed_as_documented(row_id(text, dataset.name, i))
            result = attack.attack(text, label)
            after = result.perturbed_result
            kind = kinds[type(result).__name__.removesuffix("AttackResult")]
            found.append((kind, after.attacked_text.tokenizer_input, int(after.output), result.num_queries))
    return found


@pytest.fixture
def downloads(small_artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Downloads:
    from textadv.sentence_encoders import load_sentence_encoder
    from textadv.vectors import load_vectors

    load_textattack()  # it puts a folder of its own on NLTK's path, to stay there
    # TextAttack's tagger is NLTK's, loaded anew for every word: here once, for time's sake.
    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path, str(small_artifacts / "nltk-tagger")])
    tagger = nltk.tag._get_tagger("eng")
    monkeypatch.setattr(nltk.tag, "_get_tagger", lambda lang: tagger)
    vectors = load_vectors(small_artifacts / "counterfitted-glove")
    encoder = load_sentence_encoder("minilm", small_artifacts / "minilm", device="cpu")
    return Downloads(
        words=vectors.words,
        matrix=vectors.matrix,
        encode=lambda texts: np.stack([encoder.encode([text])[0] for text in texts]),
        masked_lm=small_artifacts / "minilm-masked-lm",
        gpt2=small_artifacts / "gpt2",
    )


def test_every_recipe_is_tried_or_cannot_run_here() -> None:
    tried = {name.split("+")[0] for name in TEXTS}
    assert {entry.name.split("+")[0] for entry in RECIPES} - tried == {"hotflip"}  # see test_recipes


@pytest.mark.parametrize("name", TEXTS)
def test_a_recipe_ends_as_textattacks(
    name: str, tiny_victim: Victim, small_artifacts: Path, downloads: Downloads, sentences: Any
) -> None:
    texts = sentences(TEXTS[name])
    if name == "checklist+noner":
        texts = [f"it isn't {text}, we've watched it {i + 2} times" for i, text in enumerate(texts)]
    if name.startswith("kuleshov"):
        texts = [text.lower() for text in texts]  # TextAttack's thought vector fails where it knows no word
    dataset = dataset_of(tiny_victim, texts)
    mine = ours(name, dataset, tiny_victim, small_artifacts)
    assert mine == theirs(name, dataset, tiny_victim, downloads)
    results = {outcome[0] for outcome in mine}
    assert "skipped" in results or len(dataset) < 9
    assert results & {"success", "maximized"}
    assert any(outcome[1] != text for outcome, text in zip(mine, dataset.texts, strict=True))
