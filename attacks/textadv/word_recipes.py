"""Recipes that swap whole words for synonyms, neighbours in vectors, or by gradient.

Parameters are TextAttack 0.3.11's, which follow the papers' code; tests compare each attack with TextAttack's own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from textadv.recipes import Recipe

if TYPE_CHECKING:
    from textadv.parts import Parts

VECTORS = "counter-fitted-vectors"
GLOVE = "counterfitted-glove"
NEIGHBORS = "counterfitted-neighbors"


def _pwws(parts: Parts) -> Any:
    from textattack import Attack
    from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
    from textattack.search_methods import GreedyWordSwapWIR

    from textadv.components import SortedWordNetSwap

    constraints = [RepeatModification(), StopwordModification()]
    return Attack(parts.goal_function(), constraints, SortedWordNetSwap(), GreedyWordSwapWIR("weighted-saliency"))


PWWS = Recipe(
    name="pwws",
    swaps="words for WordNet synonyms",
    parameters={
        "transformation": "wordnet-3.0",
        "search": "greedy, weighted saliency",
        "constraints": ["repeat", "stopword"],
        "candidate_order": "sorted",
    },
    build=_pwws,
    paper="Ren et al., ACL 2019",
)


@lru_cache(maxsize=1)
def _textfooler_stopwords() -> frozenset[str]:
    """The stopwords of TextFooler's code, which TextAttack holds inside its recipe: read from an attack it builds."""
    import numpy as np
    from textattack.attack_recipes import TextFoolerJin2019
    from textattack.constraints.pre_transformation import StopwordModification
    from textattack.models.wrappers import ModelWrapper
    from textattack.shared import WordEmbedding, utils

    class Nothing(ModelWrapper):  # type: ignore[misc]
        model = None

        def __call__(self, text_input_list: Any, **_: Any) -> Any:
            raise NotImplementedError

    key = "textattack_counterfitted_GLOVE_embedding"
    before = utils.GLOBAL_OBJECTS.get(key)
    utils.GLOBAL_OBJECTS[key] = WordEmbedding(np.zeros((1, 1), np.float32), {}, {})  # or it is downloaded
    try:
        attack = TextFoolerJin2019.build(Nothing())
    finally:
        utils.GLOBAL_OBJECTS.pop(key) if before is None else utils.GLOBAL_OBJECTS.update({key: before})
    (found,) = (c for c in attack.pre_transformation_constraints if isinstance(c, StopwordModification))
    return frozenset(found.stopwords)


def _textfooler(name: str, *, vectors: str = VECTORS, sentences: str = "use") -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.constraints.semantics import WordEmbeddingDistance
        from textattack.search_methods import GreedyWordSwapWIR
        from textattack.transformations import WordSwapEmbedding

        from textadv.constraints import AskedPartOfSpeech, AskedSentenceEncoder

        embedding = parts.embedding(vectors)
        constraints = [RepeatModification(), StopwordModification(stopwords=_textfooler_stopwords())]
        if vectors != NEIGHBORS:
            constraints.append(WordEmbeddingDistance(embedding, min_cos_sim=0.5))
        constraints.append(AskedPartOfSpeech(parts.tagger(), allow_verb_noun_swap=True))
        constraints.append(
            AskedSentenceEncoder(
                parts.sentence_encoder(sentences),
                threshold=0.840845057,
                metric="angular",
                compare_against_original=False,
                window_size=15,
                skip_text_shorter_than_window=True,
            )
        )
        swap = WordSwapEmbedding(max_candidates=50, embedding=embedding)
        return Attack(parts.goal_function(), constraints, swap, GreedyWordSwapWIR("delete"))

    return Recipe(
        name=name,
        swaps="words for neighbours in word vectors",
        parameters={
            "transformation": f"50 neighbours, {vectors}",
            "search": "greedy, deletion importance",
            "constraints": [
                "repeat",
                "textfooler stopwords",
                *([] if vectors == NEIGHBORS else [f"word cosine >= 0.5, {vectors}"]),
                "part of speech, nltk, noun-verb",
                f"sentence angular >= 0.840845057, {sentences}, window 15, short texts skipped, against previous",
            ],
        },
        build=build,
        artifacts=(vectors, sentences, "nltk-tagger"),
        paper="Jin et al., AAAI 2020",
    )


TEXTFOOLER = _textfooler("textfooler")
TEXTFOOLER_GLOVE_MINILM = _textfooler("textfooler+glove+minilm", vectors=GLOVE, sentences="minilm")
TEXTFOOLER_GLOVE_USE_NUMPY = _textfooler("textfooler+glove+use-numpy", vectors=GLOVE, sentences="use-numpy")
TEXTFOOLER_NEIGHBORS_MINILM = _textfooler("textfooler+neighbors+minilm", vectors=NEIGHBORS, sentences="minilm")


def _tf_adj(name: str, *, vectors: str = VECTORS, sentences: str = "sbert-bert-nli", grammar: bool = True) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.constraints.semantics import WordEmbeddingDistance
        from textattack.search_methods import GreedyWordSwapWIR
        from textattack.transformations import WordSwapEmbedding

        from textadv.constraints import AskedGrammar, AskedSentenceEncoder

        embedding = parts.embedding(vectors)
        constraints = [
            RepeatModification(),
            StopwordModification(stopwords=_textfooler_stopwords()),
            WordEmbeddingDistance(embedding, min_cos_sim=0.9),
            AskedSentenceEncoder(
                parts.sentence_encoder(sentences),
                threshold=0.98,
                metric="cosine",
                compare_against_original=False,
                window_size=15,
                skip_text_shorter_than_window=False,
            ),
        ]
        if grammar:
            constraints.append(AskedGrammar(parts.grammar_errors()))
        swap = WordSwapEmbedding(max_candidates=50, embedding=embedding)
        return Attack(parts.goal_function(), constraints, swap, GreedyWordSwapWIR("delete"))

    return Recipe(
        name=name,
        swaps="words for neighbours in word vectors",
        parameters={
            "transformation": f"50 neighbours, {vectors}",
            "search": "greedy, deletion importance",
            "constraints": [
                "repeat",
                "textfooler stopwords",
                f"word cosine >= 0.9, {vectors}",
                f"sentence cosine >= 0.98, {sentences}, window 15, against previous",
                *(["grammar errors not increased, languagetool"] if grammar else []),
            ],
        },
        build=build,
        artifacts=(vectors, sentences, *(["languagetool"] if grammar else [])),
        paper="Morris et al., Findings of EMNLP 2020",
    )


TF_ADJ = _tf_adj("tf-adj")
TF_ADJ_GLOVE_MINILM_NOGRAMMAR = _tf_adj(
    "tf-adj+glove+minilm+nogrammar", vectors=GLOVE, sentences="minilm", grammar=False
)


def _a2t(name: str, *, vectors: str = VECTORS, sentences: str = "sbert-distilbert-stsb") -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import (
            MaxModificationRate,
            RepeatModification,
            StopwordModification,
        )
        from textattack.constraints.semantics import WordEmbeddingDistance
        from textattack.search_methods import GreedyWordSwapWIR
        from textattack.transformations import WordSwapEmbedding

        from textadv.components import longest_text
        from textadv.constraints import AskedPartOfSpeech, AskedSentenceEncoder

        embedding = parts.embedding(vectors)
        constraints = [
            RepeatModification(),
            StopwordModification(),
            AskedPartOfSpeech(parts.tagger(), allow_verb_noun_swap=False),
            MaxModificationRate(max_rate=0.1, min_threshold=4),
            AskedSentenceEncoder(parts.sentence_encoder(sentences), threshold=0.9, metric="cosine"),
            WordEmbeddingDistance(embedding, min_cos_sim=0.8),
        ]
        search = GreedyWordSwapWIR("gradient", truncate_words_to=longest_text(parts.model()))
        swap = WordSwapEmbedding(max_candidates=20, embedding=embedding)
        return Attack(parts.goal_function(), constraints, swap, search)

    return Recipe(
        name=name,
        swaps="words for neighbours in word vectors",
        parameters={
            "transformation": f"20 neighbours, {vectors}",
            "search": "greedy, gradient importance without dropout",
            "constraints": [
                "repeat",
                "stopword",
                "part of speech, nltk",
                "modification rate <= 0.1, at least 4",
                f"sentence cosine >= 0.9, {sentences}",
                f"word cosine >= 0.8, {vectors}",
            ],
        },
        build=build,
        artifacts=(vectors, sentences, "nltk-tagger"),
        paper="Yoo and Qi, Findings of EMNLP 2021",
    )


A2T = _a2t("a2t")
A2T_GLOVE_MINILM = _a2t("a2t+glove+minilm", vectors=GLOVE, sentences="minilm")


def _hotflip(name: str, *, vectors: str = VECTORS) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.constraints.semantics import WordEmbeddingDistance
        from textattack.search_methods import BeamSearch

        from textadv.components import WordLevelGradientSwap
        from textadv.constraints import AskedPartOfSpeech

        constraints = [
            RepeatModification(),
            StopwordModification(),
            MaxWordsPerturbed(max_num_words=2),
            WordEmbeddingDistance(parts.embedding(vectors), min_cos_sim=0.8),
            AskedPartOfSpeech(parts.tagger()),
        ]
        swap = WordLevelGradientSwap(parts.model(), top_n=1)
        return Attack(parts.goal_function(), constraints, swap, BeamSearch(beam_width=10))

    return Recipe(
        name=name,
        swaps="words for others by gradient; word CNN and LSTM victims only",
        parameters={
            "transformation": "gradient, best 1, without dropout",
            "search": "beam of 10",
            "constraints": [
                "repeat",
                "stopword",
                "at most 2 words",
                f"word cosine >= 0.8, {vectors}",
                "part of speech, nltk, noun-verb",
            ],
        },
        build=build,
        artifacts=(vectors, "nltk-tagger"),
        paper="Ebrahimi et al., ACL 2018",
    )


HOTFLIP = _hotflip("hotflip")
HOTFLIP_GLOVE = _hotflip("hotflip+glove", vectors=GLOVE)


def _kuleshov(name: str, *, vectors: str = VECTORS, language_model: bool = True) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.constraints.semantics.sentence_encoders import ThoughtVector
        from textattack.search_methods import GreedySearch
        from textattack.transformations import WordSwapEmbedding

        from textadv.constraints import AskedCausalLM

        embedding = parts.embedding(vectors)
        constraints = [
            RepeatModification(),
            StopwordModification(),
            MaxWordsPerturbed(max_percent=0.5),
            ThoughtVector(embedding=embedding, threshold=0.2, metric="max_euclidean"),
        ]
        if language_model:
            constraints.append(AskedCausalLM(*parts.causal_lm("gpt2"), max_log_prob_diff=2.0))
        swap = WordSwapEmbedding(max_candidates=15, embedding=embedding)
        return Attack(parts.goal_function(), constraints, swap, GreedySearch())

    return Recipe(
        name=name,
        swaps="words for neighbours in word vectors",
        parameters={
            "transformation": f"15 neighbours, {vectors}",
            "search": "greedy",
            "constraints": [
                "repeat",
                "stopword",
                "at most 50 % of the words",
                f"thought vector distance <= 0.2, {vectors}",
                *(["log-probability difference <= 2, gpt2"] if language_model else []),
            ],
            "goal": "the chosen one (TextAttack's stops when p(label) < 0.7, be the label changed or not)",
        },
        build=build,
        artifacts=(vectors, *(["gpt2"] if language_model else [])),
        paper="Kuleshov et al., 2018",
    )


KULESHOV = _kuleshov("kuleshov")
KULESHOV_GLOVE_NOLM = _kuleshov("kuleshov+glove+nolm", vectors=GLOVE, language_model=False)
