"""Attack recipes by name.

A recipe is a name, its parameters as they go into every row, and a function that builds a TextAttack `Attack`
around a victim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.registry import Registry
from textadv.runtime import load_textattack

if TYPE_CHECKING:
    from textadv.components import ProbabilityFunction


@dataclass(frozen=True)
class Recipe:
    """An attack recipe.

    Attributes:
        name: How rows and tables call it.
        parameters: JSON-able parameters that decide its outcome.
        build: From a victim's probability function to a `textattack.Attack`.
    """

    name: str
    parameters: Mapping[str, Any]
    build: Callable[[ProbabilityFunction], Any]


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.add(
    "pwws",
    "textadv.recipes:PWWS",
    "WordNet synonyms, words ordered by probability-weighted saliency (Ren et al., ACL 2019)",
)


def _build_pwws(model: ProbabilityFunction) -> Any:
    """PWWS (Ren et al., ACL 2019), as TextAttack 0.3.11 composes it, with sorted candidates."""
    load_textattack()
    from textattack import Attack
    from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
    from textattack.search_methods import GreedyWordSwapWIR

    from textadv.components import SortedWordNetSwap, untargeted

    return Attack(
        untargeted(model),
        [RepeatModification(), StopwordModification()],
        SortedWordNetSwap(),
        GreedyWordSwapWIR("weighted-saliency"),
    )


PWWS = Recipe(
    name="pwws",
    parameters={
        "transformation": "wordnet-3.0",
        "search": "greedy, weighted saliency",
        "constraints": ["repeat", "stopword"],
        "candidate_order": "sorted",
    },
    build=_build_pwws,
)
