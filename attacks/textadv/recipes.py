"""Attack recipes by name.

A recipe is a name, what it does, its parameters as they go into every row, and a function that builds a TextAttack
`Attack` from `Parts`. A recipe on a stand-in for one of its models has a name of its own: `textfooler+glove+minilm`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.core.errors import ConfigurationError
from harness.core.registry import Registry
from textadv.artifacts import ARTIFACTS, Pickled

if TYPE_CHECKING:
    from textadv.parts import Parts


@dataclass(frozen=True)
class Recipe:
    """An attack recipe.

    Attributes:
        name: How rows and tables call it.
        swaps: What it changes in a text, in a few words.
        parameters: JSON-able parameters that decide its outcome, the constraints it holds among them.
        build: From the parts to a new `textattack.Attack`; called once for every text.
        artifacts: Names of the artifacts it needs (`textadv.artifacts`).
        goal: `input-reduction` for a recipe with that goal of its own; else the user chooses.
        paper: Where it was published.
    """

    name: str
    swaps: str
    parameters: Mapping[str, Any]
    build: Callable[[Parts], Any]
    artifacts: tuple[str, ...] = ()
    goal: Literal["flip", "input-reduction"] = "flip"
    paper: str = ""

    def check(self) -> None:
        """Refuse a recipe that cannot run.

        Raises:
            ConfigurationError: It is blocked; the hint names the variants that run.
        """
        if self.blocked:
            variants = [name for name in RECIPES.names() if name.startswith(f"{self.name}+")]
            raise ConfigurationError(
                f"the recipe {self.name!r} cannot run: {self.blocked}.", f"Use {' or '.join(variants)}."
            )

    @property
    def blocked(self) -> str:
        """Why it cannot run, if it cannot; a variant with a stand-in can."""
        pickled = [name for name in self.artifacts if isinstance(ARTIFACTS.get(name).source, Pickled)]
        return f"it needs {' and '.join(pickled)}, published as a pickle, which is never loaded" if pickled else ""

    @property
    def constraints(self) -> tuple[str, ...]:
        """What a perturbed text must hold, each in a few words."""
        return tuple(self.parameters["constraints"])


def what_is_wrong(name: str, found: Any) -> str:
    """What keeps another package's object from being the recipe `name`; empty for nothing."""
    return next(_faults(name, found), "")


def _faults(name: str, found: Any) -> Iterator[str]:
    # Only the first is asked for: what comes after it may not make sense.
    if not isinstance(found, Recipe):
        yield f"{found!r} is no textadv.recipes.Recipe"
    if found.name != name:
        yield f"it calls itself {found.name!r}"
    if not callable(found.build):
        yield "its `build` is no function"
    if not (isinstance(found.swaps, str) and found.swaps):
        yield "its `swaps` does not say what it changes"
    try:
        written = json.loads(json.dumps(found.parameters if isinstance(found.parameters, dict) else None))
    except (TypeError, ValueError):
        written = None
    held = written.get("constraints") if isinstance(written, dict) else None
    if not (isinstance(held, list) and all(isinstance(one, str) for one in held)):
        yield "its `parameters` are no JSON object with a list of texts under 'constraints'"
    unknown = [artifact for artifact in found.artifacts if artifact not in ARTIFACTS]
    if unknown:
        yield f"there is no artifact {unknown[0]!r}"
    if found.goal not in ("flip", "input-reduction"):
        yield f"its goal is {found.goal!r}, neither flip nor input-reduction"


RECIPES: Registry[Recipe] = Registry("recipe", what_is_wrong)

_TAGS = {
    "glove": "counter-fitted GloVe for the counter-fitted vectors",
    "neighbors": "a table of counter-fitted neighbours for the vectors, without distances",
    "minilm": "MiniLM for the sentence encoder",
    "use-numpy": "a NumPy port of multilingual USE for the sentence encoder",
    "minilm-mlm": "a masked LM trained on MiniLM",
    "nogrammar": "without the grammar check",
    "nolm": "without the language model",
    "noner": "without swaps of names and places",
    "nltk": "NLTK's tagger for flair's",
    "wordnet": "WordNet for HowNet",
}


def _add(module: str, name: str, summary: str, *variants: str) -> None:
    for tags in ("", *variants):
        constant = f"{name}{tags}".upper().replace("-", "_").replace("+", "_")
        with_tags = "; ".join(_TAGS[tag] for tag in tags.split("+")[1:])
        RECIPES.add(f"{name}{tags}", f"textadv.{module}:{constant}", f"{summary}{'; ' if with_tags else ''}{with_tags}")


_add("word_recipes", "pwws", "WordNet synonyms, words ordered by probability-weighted saliency (Ren et al., ACL 2019)")
_add(
    "word_recipes",
    "textfooler",
    "neighbours in counter-fitted vectors, words ordered by deletion (Jin et al., AAAI 2020)",
    "+glove+minilm",
    "+glove+use-numpy",
    "+neighbors+minilm",
)
_add(
    "word_recipes",
    "tf-adj",
    "TextFooler with tighter constraints (Morris et al., Findings of EMNLP 2020)",
    "+glove+minilm+nogrammar",
)
_add(
    "word_recipes",
    "a2t",
    "neighbours in counter-fitted vectors, words ordered by gradient (Yoo and Qi, Findings of EMNLP 2021)",
    "+glove+minilm",
)
_add("word_recipes", "hotflip", "word flips by gradient, for word-level victims (Ebrahimi et al., ACL 2018)", "+glove")
_add(
    "word_recipes",
    "kuleshov",
    "neighbours in counter-fitted vectors, greedy (Kuleshov et al., 2018)",
    "+glove+nolm",
)
_add("masked_recipes", "bae", "words refilled by a masked LM (Garg and Ramakrishnan, EMNLP 2020)", "+minilm-mlm+minilm")
_add(
    "masked_recipes",
    "bert-attack",
    "sub-words refilled by a masked LM (Li et al., EMNLP 2020)",
    "+minilm-mlm+minilm",
)
_add(
    "masked_recipes",
    "clare",
    "words replaced, inserted and merged by a masked LM (Li et al., NAACL 2021)",
    "+nltk",
    "+minilm-mlm+minilm+nltk",
)
_add("character_recipes", "pruthi", "one misspelling (Pruthi et al., ACL 2019)")
_add("character_recipes", "deepwordbug", "misspellings, words ordered by masking (Gao et al., 2018)")
_add("character_recipes", "textbugger", "misspellings and neighbours (Li et al., NDSS 2019)", "+glove+minilm")
_add("character_recipes", "checklist", "contractions, numbers, names, places (Ribeiro et al., ACL 2020)", "+noner")
_add("character_recipes", "input-reduction", "words left out, the label kept (Feng et al., EMNLP 2018)")
_add("population_recipes", "iga", "an improved genetic algorithm on neighbours (Wang et al., 2019)", "+glove")
_add(
    "population_recipes",
    "fast-alzantot",
    "a genetic algorithm on neighbours (Jia et al., EMNLP 2019)",
    "+nolm",
    "+glove+nolm",
)
_add("population_recipes", "pso", "particle swarm on HowNet's sememes (Zang et al., ACL 2020)", "+wordnet")
