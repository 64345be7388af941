import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
import numpy as np
import pytest

from harness.core.errors import ConfigurationError, MissingArtifactError, UnknownNameError
from harness.text.datasets import TextDataset
from harness.text.victims import Victim
from textadv.artifacts import ARTIFACTS
from textadv.goals import Goal
from textadv.parts import Parts
from textadv.plan import AttackPlan
from textadv.recipes import RECIPES
from textadv.runtime import load_textattack
from textadv.shards import ShardWorker

BLOCKED = {"checklist", "clare", "fast-alzantot", "pso"}
TEXTS = [
    "A good film, with a warm heart and a clever script.",
    "The plot is dull; the acting is worse than dull!",
    "people love life",
    "the of and",
    "It's a well-made picture, isn't it?\nDon't miss it.",
    "the longest 90 minutes of my life",
    "an honest, moving and charming little story about work, money and time",
    "Boring boring BORING movie",
    "children ran, men sang, women felt happier",
    "a poor start ... but a great end",
]


@pytest.fixture(scope="module")
def victim(tiny_victim_folder: Any) -> Victim:
    """One text a forward, so that a probability does not depend on its neighbours in a batch, not by the last bit."""
    return Victim.load(str(tiny_victim_folder()), device="cpu", batch_size=1)


def test_recipes_have_what_rows_and_lists_tell() -> None:
    for entry in RECIPES:
        recipe = RECIPES.get(entry.name)
        assert recipe.name == entry.name
        assert entry.summary
        assert recipe.swaps
        assert recipe.paper
        assert recipe.constraints
        assert json.loads(json.dumps(dict(recipe.parameters))) == dict(recipe.parameters)
        assert set(recipe.artifacts) <= set(ARTIFACTS.names())
    with pytest.raises(UnknownNameError) as found:
        RECIPES.get("pwsw")
    assert "Did you mean pwws" in found.value.hint


def test_every_recipe_of_the_issue_is_there() -> None:
    names = set(RECIPES.names())
    assert {"textfooler", "pwws", "bae", "tf-adj", "pruthi", "a2t", "bert-attack", "textbugger", "deepwordbug"} <= names
    assert {"clare", "checklist", "input-reduction", "iga", "fast-alzantot", "pso", "hotflip", "kuleshov"} <= names


def test_a_stand_in_is_in_the_name_and_in_the_parameters() -> None:
    """A recipe's name says every artifact that the original has not, and no recipe without a tag uses a stand-in."""
    stand_ins = {name for name in ARTIFACTS.names() if ARTIFACTS.get(name).stand_in_for}
    tags = {
        "counterfitted-glove": "glove",
        "counterfitted-neighbors": "neighbors",
        "minilm": "minilm",
        "use-numpy": "use-numpy",
        "minilm-masked-lm": "minilm-mlm",
    }
    for entry in RECIPES:
        recipe = RECIPES.get(entry.name)
        used = stand_ins & set(recipe.artifacts)
        assert {tags[name] for name in used} <= set(entry.name.split("+")[1:])
        if recipe.blocked:
            continue
        for artifact in set(recipe.artifacts) - {"nltk-tagger", "languagetool", "gpt2"}:
            assert artifact in json.dumps(dict(recipe.parameters))


def test_blocked_recipes_say_why_and_what_to_take(victim: Victim) -> None:
    assert {entry.name for entry in RECIPES if RECIPES.get(entry.name).blocked} == BLOCKED
    for name in BLOCKED:
        with pytest.raises(ConfigurationError, match="pickle, which is never loaded") as found:
            AttackPlan("embedded", name).build(victim)
        assert f"{name}+" in found.value.hint
        for variant in found.value.hint.removeprefix("Use ").rstrip(".").split(" or "):
            assert not RECIPES.get(variant).blocked


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of artifacts, an empty cache and no data of NLTK's."""
    load_textattack()
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NLTK_DATA", raising=False)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr("textadv.artifacts.module_folder", lambda module: None)
    (tmp_path / "artifacts").mkdir()
    return tmp_path / "artifacts"


@pytest.mark.parametrize(
    "name", [name for name in RECIPES.names() if RECIPES.get(name).artifacts and name.split("+")[0] != "hotflip"]
)
def test_a_missing_artifact_stops_and_names_itself(name: str, nothing_here: Path, victim: Victim) -> None:
    recipe = RECIPES.get(name)
    if recipe.blocked:
        return
    with pytest.raises(MissingArtifactError) as found:
        AttackPlan("embedded", name, artifacts=nothing_here).build(victim)
    assert any(repr(artifact) in found.value.message for artifact in recipe.artifacts)
    assert "harness fetch" in found.value.hint or "pip install" in found.value.hint


@pytest.fixture
def textattacks_pwws(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """TextAttack's own recipe over NLTK's WordNet; of its code only the order of candidates is changed."""
    load_textattack()
    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path, str(shared_data / "nltk_data")])
    from nltk.corpus import wordnet
    from textattack.attack_recipes import PWWSRen2019
    from textattack.transformations import WordSwapWordNet

    wordnet.ensure_loaded()
    unsorted = WordSwapWordNet._get_replacement_words

    # Its constructor asks the network for multilingual data, which English does not need.
    monkeypatch.setattr(WordSwapWordNet, "__init__", lambda self: setattr(self, "language", "eng"))
    monkeypatch.setattr(WordSwapWordNet, "_get_replacement_words", lambda self, word: sorted(unsorted(self, word)))
    return PWWSRen2019.build


@pytest.mark.parametrize("source", ["the shipped table", "NLTK's WordNet"])
def test_pwws_is_textattacks_whichever_wordnet_is_read(
    source: str, victim: Victim, textattacks_pwws: Any, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.text.synonyms import synonym_source

    labels = victim.read(TEXTS).predictions
    labels[2] = 1 - labels[2]
    dataset = TextDataset("tiny", "test", TEXTS, labels, np.arange(len(TEXTS)), None, {})
    attack = textattacks_pwws(Parts(victim).model())
    theirs = []
    for text, label in zip(TEXTS, labels.tolist(), strict=True):
        attack.clear_cache()
        result = attack.attack(text, label)
        before, after = result.original_result, result.perturbed_result
        raw = before.raw_output.tolist(), after.raw_output.tolist()
        theirs.append((after.attacked_text.text, int(before.output), int(after.output), *raw, result.num_queries))
    if source == "the shipped table":
        folder = str(shared_data / "nltk_data")
        monkeypatch.setattr(nltk.data, "path", [path for path in nltk.data.path if path != folder])
        if synonym_source() != "table-wordnet-3.0":
            pytest.skip("this machine has a WordNet of its own")
    else:
        assert synonym_source() == "nltk-wordnet-3.0"
    rows = [text.row for text in ShardWorker(Parts(victim), RECIPES.get("pwws"), 0).attack(dataset) if text.row]
    ours = [
        (
            row.perturbed_text,
            row.original_output,
            row.perturbed_output,
            row.original_probabilities,
            row.perturbed_probabilities,
            row.queries,
        )
        for row in rows
    ]
    assert ours == theirs
    assert {row.result for row in rows} == {"success", "failure", "skipped"}


def test_candidates_come_in_one_order() -> None:
    load_textattack()
    from textadv.components import SortedWordNetSwap

    found = SortedWordNetSwap()._get_replacement_words("good")
    assert len(found) > 20
    assert found == sorted(found)


def test_bert_attack_ends_on_a_word_of_many_sub_words(
    tiny_victim: Victim, small_artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TextAttack would build 8 ** 40 combinations."""
    text = "a film " + "x" * 40
    label = int(tiny_victim.read([text]).predictions[0])
    dataset = TextDataset("tiny", "test", [text], np.array([label]), np.arange(1), None, {})
    recipe = RECIPES.get("bert-attack+minilm-mlm+minilm")
    (found,) = ShardWorker(Parts(tiny_victim, artifacts=small_artifacts), recipe, 0).attack(dataset)
    assert found.row is not None
    assert json.loads(found.row.recipe_parameters)["most_combinations_a_word"] == 4096


def test_rows_name_the_artifacts_they_were_made_with(tiny_victim: Victim, small_artifacts: Path) -> None:
    parts = Parts(tiny_victim, artifacts=small_artifacts)
    worker = ShardWorker(parts, RECIPES.get("textfooler+glove+minilm"), 0)
    told = json.loads(worker.facts["recipe_parameters"])["artifacts"]
    assert set(told) == {"counterfitted-glove", "minilm"}
    assert all(len(value) == 64 for value in told.values())


def test_input_reduction_keeps_the_label(tiny_victim: Victim, sentences: Any) -> None:
    texts = sentences(12)
    labels = tiny_victim.read(texts).predictions
    dataset = TextDataset("tiny", "test", texts, labels, np.arange(len(texts)), None, {})
    found = ShardWorker(Parts(tiny_victim, Goal(input_reduction=True)), RECIPES.get("input-reduction"), 0)
    rows = [text.row for text in found.attack(dataset) if text.row]
    assert {row.result for row in rows} == {"maximized"}
    assert {row.goal for row in rows} == {"input-reduction"}
    assert all(row.perturbed_output == row.label for row in rows)
    assert any(len(row.perturbed_text.split()) < len(row.original_text.split()) for row in rows)


def test_hotflip_takes_word_level_victims_only(tiny_victim: Victim, small_artifacts: Path) -> None:
    with pytest.raises(ConfigurationError, match="reads sub-words"):
        ShardWorker(Parts(tiny_victim, artifacts=small_artifacts), RECIPES.get("hotflip+glove"), 0)
