"""Attack speed against TextAttack as shipped: the same victim, texts and recipe, in turn, in one run.

TextAttack's own wrapper pads every batch to the tokenizer's maximal length; the engine here pads to the batch's
longest text and sorts by length. The peer gets the same sorted candidates, so that both do the same search.
"""

from __future__ import annotations

import argparse
import time

from harness.text.datasets import load_dataset
from harness.text.victims import Victim
from textadv.recipes import RECIPES
from textadv.runtime import load_textattack


def main() -> None:
    """Attack the same texts twice and print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=10)
    parser.add_argument("--max-length", type=int, default=128, help="what the peer pads to")
    options = parser.parse_args()
    load_textattack()
    from textattack.goal_functions import UntargetedClassification
    from textattack.models.wrappers import HuggingFaceModelWrapper

    from textadv.components import ProbabilityWrapper

    victim = Victim.load("embedded")
    texts = load_dataset("embedded", "test").sample(options.texts, 0)
    recipe = RECIPES.get("pwws")
    ours = recipe.build(lambda batch: victim.read(batch).probabilities)
    theirs = recipe.build(lambda batch: victim.read(batch).probabilities)
    victim.tokenizer.model_max_length = options.max_length
    assert isinstance(theirs.goal_function.model, ProbabilityWrapper)
    theirs.goal_function = UntargetedClassification(HuggingFaceModelWrapper(victim.model, victim.tokenizer))
    theirs.search_method.goal_function = theirs.goal_function
    theirs.search_method.get_goal_results = theirs.goal_function.get_results

    seconds = {"palimpsest": 0.0, "textattack": 0.0}
    outcomes: dict[str, list[str]] = {"palimpsest": [], "textattack": []}
    for text, label in zip(texts.texts, texts.labels.tolist(), strict=True):
        for name, attack in (("palimpsest", ours), ("textattack", theirs)):
            started = time.perf_counter()
            result = attack.attack(text, label)
            seconds[name] += time.perf_counter() - started
            outcomes[name].append(f"{type(result).__name__} {result.perturbed_text()}")
    same = sum(a == b for a, b in zip(*outcomes.values(), strict=True))
    print(f"PWWS on {len(texts)} texts, {same} of them with the same outcome and perturbed text")
    for name, value in seconds.items():
        print(f"{name:12} {value:8.1f} s")
    print(f"{'ratio':12} {seconds['textattack'] / seconds['palimpsest']:8.1f} x")


if __name__ == "__main__":
    main()
