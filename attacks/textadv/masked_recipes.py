"""Recipes that let a masked language model propose words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textadv.recipes import Recipe

if TYPE_CHECKING:
    from textadv.parts import Parts

MINILM_MLM = "minilm-masked-lm"


def _bae(name: str, *, masked_lm: str = "bert-base-uncased", sentences: str = "use") -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.search_methods import GreedyWordSwapWIR

        from textadv.constraints import AskedPartOfSpeech, AskedSentenceEncoder
        from textadv.masked_words import AskedMaskedSwap

        swap = AskedMaskedSwap(max_candidates=50, min_confidence=0.0, **parts.masked_lm(masked_lm))
        constraints = [
            RepeatModification(),
            StopwordModification(),
            AskedPartOfSpeech(parts.tagger(), allow_verb_noun_swap=True),
            AskedSentenceEncoder(
                parts.sentence_encoder(sentences),
                threshold=0.936338023,
                metric="cosine",
                compare_against_original=True,
                window_size=15,
                skip_text_shorter_than_window=True,
            ),
        ]
        return Attack(parts.goal_function(), constraints, swap, GreedyWordSwapWIR("delete"))

    return Recipe(
        name=name,
        swaps="words for a masked LM's predictions",
        parameters={
            "transformation": f"50 predictions, {masked_lm}",
            "search": "greedy, deletion importance",
            "constraints": [
                "repeat",
                "stopword",
                "part of speech, nltk, noun-verb",
                f"sentence cosine >= 0.936338023, {sentences}, window 15, short texts skipped",
            ],
        },
        build=build,
        artifacts=(masked_lm, sentences, "nltk-tagger"),
        paper="Garg and Ramakrishnan, EMNLP 2020",
    )


BAE = _bae("bae")
BAE_MINILM_MLM_MINILM = _bae("bae+minilm-mlm+minilm", masked_lm=MINILM_MLM, sentences="minilm")


def _bert_attack(name: str, *, masked_lm: str = "bert-base-uncased", sentences: str = "use") -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.overlap import MaxWordsPerturbed
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.search_methods import GreedyWordSwapWIR

        from textadv.constraints import AskedSentenceEncoder
        from textadv.masked_words import BoundedBertAttackSwap

        swap = BoundedBertAttackSwap(max_candidates=8, **parts.masked_lm(masked_lm))
        constraints = [
            RepeatModification(),
            StopwordModification(),
            MaxWordsPerturbed(max_percent=0.4),
            AskedSentenceEncoder(
                parts.sentence_encoder(sentences),
                threshold=0.2,
                metric="cosine",
                compare_against_original=True,
                window_size=None,
            ),
        ]
        return Attack(parts.goal_function(), constraints, swap, GreedyWordSwapWIR("unk"))

    return Recipe(
        name=name,
        swaps="sub-words for a masked LM's predictions",
        parameters={
            "transformation": f"8 predictions a sub-word, {masked_lm}",
            "most_combinations_a_word": 4096,
            "search": "greedy, masking importance",
            "constraints": [
                "repeat",
                "stopword",
                "at most 40 % of the words",
                f"sentence cosine >= 0.2, {sentences}, whole text",
            ],
        },
        build=build,
        artifacts=(masked_lm, sentences),
        paper="Li et al., EMNLP 2020",
    )


BERT_ATTACK = _bert_attack("bert-attack")
BERT_ATTACK_MINILM_MLM_MINILM = _bert_attack("bert-attack+minilm-mlm+minilm", masked_lm=MINILM_MLM, sentences="minilm")


def _clare(name: str, *, masked_lm: str = "distilroberta-base", sentences: str = "use", nltk: bool = False) -> Recipe:
    def build(parts: Parts) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import RepeatModification, StopwordModification
        from textattack.search_methods import GreedySearch
        from textattack.transformations import CompositeTransformation

        from textadv.constraints import AskedSentenceEncoder
        from textadv.masked_words import AskedMaskedInsertion, AskedMaskedMerge, AskedMaskedSwap

        model = parts.masked_lm(masked_lm)
        transformation = CompositeTransformation(
            [
                AskedMaskedSwap(max_candidates=50, min_confidence=5e-4, **model),
                AskedMaskedInsertion(max_candidates=50, min_confidence=0.0, **model),
                AskedMaskedMerge(parts.tagger(), max_candidates=50, min_confidence=5e-3, **model),
            ]
        )
        constraints = [
            RepeatModification(),
            StopwordModification(),
            AskedSentenceEncoder(
                parts.sentence_encoder(sentences),
                threshold=0.7,
                metric="cosine",
                compare_against_original=True,
                window_size=15,
                skip_text_shorter_than_window=True,
            ),
        ]
        return Attack(parts.goal_function(), constraints, transformation, GreedySearch())

    return Recipe(
        name=name,
        swaps="words for a masked LM's predictions; inserts words; merges two into one",
        parameters={
            "transformation": f"50 predictions each, {masked_lm}; parts of speech by {'nltk' if nltk else 'flair'}",
            "search": "greedy",
            "constraints": [
                "repeat",
                "stopword",
                f"sentence cosine >= 0.7, {sentences}, window 15, short texts skipped",
            ],
        },
        build=build,
        artifacts=(masked_lm, sentences, "nltk-tagger" if nltk else "flair-upos"),
        paper="Li et al., NAACL 2021",
    )


CLARE = _clare("clare")
CLARE_NLTK = _clare("clare+nltk", nltk=True)
CLARE_MINILM_MLM_MINILM_NLTK = _clare(
    "clare+minilm-mlm+minilm+nltk", masked_lm=MINILM_MLM, sentences="minilm", nltk=True
)
