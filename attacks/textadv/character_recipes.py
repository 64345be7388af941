"""Recipes that misspell, rewrite small things, or leave words out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textadv.recipes import Recipe
from textadv.word_recipes import GLOVE, VECTORS

if TYPE_CHECKING:
    from textadv.parts import Parts


def _pruthi(parts: Parts) -> Any:
    from textattack.attack_recipes import Pruthi2019

    return parts.with_goal(Pruthi2019.build(parts.model(), max_num_word_swaps=1))


PRUTHI = Recipe(
    name="pruthi",
    swaps="a character of one word: swapped, left out, put in, or a neighbour on the keyboard",
    parameters={
        "transformation": "neighbouring swap, deletion, insertion, qwerty, inside the word",
        "search": "greedy",
        "constraints": ["words of 4 characters or more", "stopword", "at most 1 word", "repeat"],
    },
    build=_pruthi,
    paper="Pruthi et al., ACL 2019",
)


def _deepwordbug(parts: Parts) -> Any:
    from textattack.attack_recipes import DeepWordBugGao2018

    return parts.with_goal(DeepWordBugGao2018.build(parts.model()))


DEEPWORDBUG = Recipe(
    name="deepwordbug",
    swaps="a character of a word: swapped, replaced, left out or put in",
    parameters={
        "transformation": "neighbouring swap, random substitution, deletion, insertion",
        "search": "greedy, masking importance",
        "constraints": ["repeat", "stopword", "edit distance <= 30"],
    },
    build=_deepwordbug,
    paper="Gao et al., 2018",
)


def _textbugger(name: str, *, vectors: str = VECTORS, sentences: str = "use") -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.search_methods import GreedyWordSwapWIR
        from textattack.transformations import (
            CompositeTransformation,
            WordSwapEmbedding,
            WordSwapNeighboringCharacterSwap,
            WordSwapRandomCharacterDeletion,
            WordSwapRandomCharacterInsertion,
        )

        from textadv.components import HomoglyphSwap
        from textadv.constraints import AskedSentenceEncoder

        inside = {"random_one": True, "skip_first_char": True, "skip_last_char": True}
        transformation = CompositeTransformation(
            [
                WordSwapRandomCharacterInsertion(letters_to_insert=" ", **inside),
                WordSwapRandomCharacterDeletion(**inside),
                WordSwapNeighboringCharacterSwap(**inside),
                HomoglyphSwap(),
                WordSwapEmbedding(max_candidates=5, embedding=parts.embedding(vectors)),
            ]
        )
        constraints = [
            RepeatModification(),
            StopwordModification(),
            AskedSentenceEncoder(parts.sentence_encoder(sentences), threshold=0.8, metric="angular"),
        ]
        return Attack(parts.goal_function(), constraints, transformation, GreedyWordSwapWIR("delete"))

    return Recipe(
        name=name,
        swaps="a word by a space, a missing, swapped or look-alike character, or by a neighbour in word vectors",
        parameters={
            "transformation": f"space, deletion, neighbouring swap, homoglyph; 5 neighbours, {vectors}",
            "search": "greedy, deletion importance",
            "constraints": ["repeat", "stopword", f"sentence angular >= 0.8, {sentences}, whole text"],
        },
        build=build,
        artifacts=(vectors, sentences),
        paper="Li et al., NDSS 2019",
    )


TEXTBUGGER = _textbugger("textbugger")
TEXTBUGGER_GLOVE_MINILM = _textbugger("textbugger+glove+minilm", vectors=GLOVE, sentences="minilm")


def _checklist(name: str, *, entities: bool = True) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification
        from textattack.search_methods import GreedySearch
        from textattack.transformations import (
            CompositeTransformation,
            WordSwapChangeNumber,
            WordSwapContract,
            WordSwapExtend,
        )

        swap = CompositeTransformation([WordSwapExtend(), WordSwapContract(), WordSwapChangeNumber()])
        return Attack(parts.goal_function(), [RepeatModification()], swap, GreedySearch())

    named = "names, numbers, places" if entities else "numbers"
    return Recipe(
        name=name,
        swaps=f"contractions, their long forms, {named}",
        parameters={
            "transformation": f"extend, contract, change {named}",
            "search": "greedy",
            "constraints": ["repeat"],
        },
        build=build,
        artifacts=("flair-ner",) if entities else (),
        paper="Ribeiro et al., ACL 2020",
    )


CHECKLIST = _checklist("checklist")
CHECKLIST_NONER = _checklist("checklist+noner", entities=False)


def _input_reduction(parts: Parts) -> Any:
    from textattack.attack_recipes import InputReductionFeng2018

    return parts.with_goal(InputReductionFeng2018.build(parts.model()))


INPUT_REDUCTION = Recipe(
    name="input-reduction",
    swaps="nothing: it leaves words out while the label stays",
    parameters={
        "transformation": "word deletion",
        "search": "greedy, deletion importance",
        "constraints": ["repeat", "stopword"],
    },
    build=_input_reduction,
    goal="input-reduction",
    paper="Feng et al., EMNLP 2018",
)
