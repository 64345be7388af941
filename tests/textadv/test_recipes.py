from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nltk
import pytest

from harness.core.errors import UnknownNameError
from harness.text.victims import Victim
from textadv.recipes import RECIPES
from textadv.runtime import load_textattack

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


@pytest.fixture
def victim(tiny_victim_folder: Any) -> Victim:
    """One text a forward, so that a probability does not depend on its neighbours in a batch, not by the last bit."""
    return Victim.load(str(tiny_victim_folder()), device="cpu", batch_size=1)


@pytest.fixture
def textattacks_pwws(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
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


def outcomes(attack: Any, victim: Victim, wrong: Sequence[int]) -> list[tuple[Any, ...]]:
    labels = victim.read(TEXTS).predictions
    labels[list(wrong)] = 1 - labels[list(wrong)]
    found = []
    for text, label in zip(TEXTS, labels.tolist(), strict=True):
        attack.clear_cache()
        result = attack.attack(text, label)
        after = result.perturbed_result
        found.append(
            (
                type(result).__name__,
                after.attacked_text.text,
                int(result.original_result.output),
                int(after.output),
                result.original_result.raw_output.tolist(),
                after.raw_output.tolist(),
                result.num_queries,
            )
        )
    return found


@pytest.mark.parametrize("source", ["the shipped table", "NLTK's WordNet"])
def test_pwws_is_textattacks(
    source: str, victim: Victim, textattacks_pwws: Any, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textadv.components import ProbabilityWrapper
    from textadv.synonyms import synonym_source

    def predict(texts: Sequence[str]) -> Any:
        return victim.read(texts).probabilities

    theirs = outcomes(textattacks_pwws(ProbabilityWrapper(predict)), victim, wrong=[2])
    if source == "the shipped table":
        folder = str(shared_data / "nltk_data")
        monkeypatch.setattr(nltk.data, "path", [path for path in nltk.data.path if path != folder])
        if synonym_source() != "table-wordnet-3.0":
            pytest.skip("this machine has a WordNet of its own")
    else:
        assert synonym_source() == "nltk-wordnet-3.0"
    ours = outcomes(RECIPES.get("pwws").build(predict), victim, wrong=[2])
    assert ours == theirs
    kinds = {outcome[0] for outcome in ours}
    assert kinds == {"SuccessfulAttackResult", "FailedAttackResult", "SkippedAttackResult"}


def test_candidates_come_in_one_order() -> None:
    load_textattack()
    from textadv.components import SortedWordNetSwap

    words = SortedWordNetSwap()._get_replacement_words("good")
    assert len(words) > 20
    assert words == sorted(words)


def test_recipe_parameters_are_json_and_names_are_offered() -> None:
    import json

    for entry in RECIPES:
        recipe = RECIPES.get(entry.name)
        assert recipe.name == entry.name
        assert entry.summary
        assert json.loads(json.dumps(dict(recipe.parameters))) == dict(recipe.parameters)
    with pytest.raises(UnknownNameError) as found:
        RECIPES.get("pwsw")
    assert "Did you mean pwws?" in found.value.hint
