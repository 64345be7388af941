"""Recipes that search with a population of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textadv.recipes import Recipe
from textadv.word_recipes import GLOVE, VECTORS

if TYPE_CHECKING:
    from textadv.parts import Parts


def _iga(name: str, *, vectors: str = VECTORS) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import StopwordModification
        from textattack.constraints.semantics import WordEmbeddingDistance
        from textattack.search_methods import ImprovedGeneticAlgorithm
        from textattack.transformations import WordSwapEmbedding

        embedding = parts.embedding(vectors)
        constraints = [
            StopwordModification(),
            MaxWordsPerturbed(max_percent=0.2),
            WordEmbeddingDistance(embedding, max_mse_dist=0.5, compare_against_original=False),
        ]
        search = ImprovedGeneticAlgorithm(
            pop_size=60, max_iters=20, max_replace_times_per_index=5, post_crossover_check=False
        )
        swap = WordSwapEmbedding(max_candidates=50, embedding=embedding)
        return Attack(parts.goal_function(), constraints, swap, search)

    return Recipe(
        name=name,
        swaps="words for neighbours in word vectors",
        parameters={
            "transformation": f"50 neighbours, {vectors}",
            "search": "improved genetic, 60 texts, 20 generations, 5 replacements a word",
            "constraints": [
                "stopword",
                "at most 20 % of the words",
                f"word distance <= 0.5, {vectors}, against previous",
            ],
        },
        build=build,
        artifacts=(vectors,),
        paper="Wang et al., 2019",
    )


IGA = _iga("iga")
IGA_GLOVE = _iga("iga+glove", vectors=GLOVE)


def _fast_alzantot(name: str, *, vectors: str = VECTORS, language_model: bool = True) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.constraints.semantics import WordEmbeddingDistance
        from textattack.search_methods import AlzantotGeneticAlgorithm
        from textattack.transformations import WordSwapEmbedding

        embedding = parts.embedding(vectors)
        constraints = [
            RepeatModification(),
            StopwordModification(),
            MaxWordsPerturbed(max_percent=0.2),
            WordEmbeddingDistance(embedding, max_mse_dist=0.5),
        ]
        search = AlzantotGeneticAlgorithm(pop_size=60, max_iters=40, post_crossover_check=False)
        swap = WordSwapEmbedding(max_candidates=8, embedding=embedding)
        return Attack(parts.goal_function(), constraints, swap, search)

    return Recipe(
        name=name,
        swaps="words for neighbours in word vectors",
        parameters={
            "transformation": f"8 neighbours, {vectors}",
            "search": "genetic, 60 texts, 40 generations",
            "constraints": [
                "repeat",
                "stopword",
                "at most 20 % of the words",
                f"word distance <= 0.5, {vectors}",
                *(["log-probability difference <= 5, learning to write, window 6"] if language_model else []),
            ],
        },
        build=build,
        artifacts=(vectors, *(["learning-to-write-lm"] if language_model else [])),
        paper="Jia et al., EMNLP 2019",
    )


FAST_ALZANTOT = _fast_alzantot("fast-alzantot")
FAST_ALZANTOT_NOLM = _fast_alzantot("fast-alzantot+nolm", language_model=False)
FAST_ALZANTOT_GLOVE_NOLM = _fast_alzantot("fast-alzantot+glove+nolm", vectors=GLOVE, language_model=False)


def _pso(name: str, *, wordnet: bool = False) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.search_methods import ParticleSwarmOptimization

        from textadv.components import SortedWordNetSwap

        constraints = [RepeatModification(), StopwordModification()]
        search = ParticleSwarmOptimization(pop_size=60, max_iters=20)
        return Attack(parts.goal_function(), constraints, SortedWordNetSwap(), search)

    return Recipe(
        name=name,
        swaps=f"words for synonyms in {'WordNet' if wordnet else 'HowNet'}",
        parameters={
            "transformation": "wordnet-3.0" if wordnet else "hownet",
            "search": "particle swarm, 60 texts, 20 generations",
            "constraints": ["repeat", "stopword"],
        },
        build=build,
        artifacts=() if wordnet else ("hownet", "flair-upos"),
        paper="Zang et al., ACL 2020",
    )


PSO = _pso("pso")
PSO_WORDNET = _pso("pso+wordnet", wordnet=True)
