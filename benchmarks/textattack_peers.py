"""TextAttack's own recipes, for comparison: its classes and wrapper, with only their downloads replaced.

What they would fetch comes from the same folders as ours, and sets of candidates are sorted, for their order follows
Python's hash seed. Everything else (padding, batches, one example at a time, NLTK's tagger) is as TextAttack ships it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


@dataclass(frozen=True)
class Downloads:
    """What stands in for TextAttack's downloads.

    Attributes:
        words: The words of the word vectors.
        matrix: (n, d) float32, their vectors.
        encode: From n texts to (n, d) sentence vectors.
        masked_lm: Folder of a masked language model.
        gpt2: Folder of a causal language model.
    """

    words: Sequence[str] = ()
    matrix: Any = None
    encode: Callable[[Sequence[str]], Any] | None = None
    masked_lm: Path | None = None
    gpt2: Path | None = None


@contextmanager
def textattack_recipe(name: str, wrapper: Any, given: Downloads) -> Iterator[Any]:
    """TextAttack's attack of a recipe of ours (`textfooler+glove+minilm` -> TextFooler), the goal plainly untargeted.

    Args:
        name: The name of the recipe.
        wrapper: The victim, such as TextAttack's `HuggingFaceModelWrapper`.
        given: What stands in for downloads.

    Yields:
        A `textattack.Attack`; it is usable inside the block only.
    """
    from textattack import Attack, attack_recipes
    from textattack.goal_functions import InputReduction, UntargetedClassification

    base, _, tags = name.partition("+")
    recipes = {
        "pwws": attack_recipes.PWWSRen2019,
        "textfooler": attack_recipes.TextFoolerJin2019,
        "tf-adj": attack_recipes.TextFoolerJin2019,  # it is no longer among TextAttack's; tightened below
        "bae": attack_recipes.BAEGarg2019,
        "bert-attack": attack_recipes.BERTAttackLi2020,
        "clare": attack_recipes.CLARE2020,
        "a2t": attack_recipes.A2TYoo2021,
        "hotflip": attack_recipes.HotFlipEbrahimi2017,
        "kuleshov": attack_recipes.Kuleshov2017,
        "pruthi": attack_recipes.Pruthi2019,
        "deepwordbug": attack_recipes.DeepWordBugGao2018,
        "textbugger": attack_recipes.TextBuggerLi2018,
        "checklist": attack_recipes.CheckList2020,
        "input-reduction": attack_recipes.InputReductionFeng2018,
        "iga": attack_recipes.IGAWang2019,
        "fast-alzantot": attack_recipes.FasterGeneticAlgorithmJia2019,
        "pso": attack_recipes.PSOZang2020,
    }
    with ExitStack() as stack:
        for replaced in _replacements(given, set(tags.split("+"))):
            stack.enter_context(replaced)
        built = recipes[base].build(wrapper)
        goal = built.goal_function
        if not isinstance(goal, InputReduction):
            goal = UntargetedClassification(wrapper, model_batch_size=goal.batch_size)
        constraints = [*built.pre_transformation_constraints, *built.constraints]
        if base == "tf-adj":
            constraints = _tightened(constraints)
        yield Attack(goal, constraints, built.transformation, built.search_method)


def _tightened(constraints: Sequence[Any]) -> list[Any]:
    """TextFooler's constraints as TF-adj has them, without the grammar check."""
    from textattack.constraints.grammaticality import PartOfSpeech
    from textattack.constraints.semantics import WordEmbeddingDistance
    from textattack.constraints.semantics.sentence_encoders import UniversalSentenceEncoder

    kept = [one for one in constraints if not isinstance(one, (PartOfSpeech, UniversalSentenceEncoder))]
    for one in kept:
        if isinstance(one, WordEmbeddingDistance):
            one.min_cos_sim = 0.9
    sentence = UniversalSentenceEncoder(
        threshold=0.98,
        metric="cosine",
        compare_against_original=False,
        window_size=15,
        skip_text_shorter_than_window=False,
    )
    return [*kept, sentence]


def _replacements(given: Downloads, tags: set[str]) -> Iterator[Any]:
    import textattack
    import torch
    from textattack.constraints.semantics.sentence_encoders import UniversalSentenceEncoder
    from textattack.shared import AttackedText, WordEmbedding, utils
    from textattack.transformations import (
        WordSwapChangeLocation,
        WordSwapChangeName,
        WordSwapHomoglyphSwap,
        WordSwapHowNet,
        WordSwapWordNet,
    )

    from harness.text.synonyms import candidates

    if given.matrix is not None:
        index = {word: number for number, word in enumerate(given.words)}
        # Without a table of neighbours TextAttack 0.3.11 fails: it takes `topk`'s pair for a tensor.
        matrix = torch.as_tensor(np.asarray(given.matrix))
        nearest = np.concatenate([torch.cdist(part, matrix).topk(51, largest=False)[1] for part in matrix.split(512)])
        vectors = WordEmbedding(np.asarray(given.matrix), index, dict(enumerate(given.words)), nearest)
        yield mock.patch.dict(utils.GLOBAL_OBJECTS, textattack_counterfitted_GLOVE_embedding=vectors)

    def nothing(self: Any, *_: Any, **options: Any) -> None:
        textattack.transformations.word_swaps.word_swap.WordSwap.__init__(self)
        self.language, self.max_candidates = "eng", -1

    for swap in (WordSwapWordNet, WordSwapHowNet):
        yield mock.patch.object(swap, "__init__", nothing)
    yield mock.patch.object(WordSwapWordNet, "_get_replacement_words", lambda self, word: candidates(word))
    from_words = textattack.transformations.word_swaps.word_swap.WordSwap._get_transformations
    yield mock.patch.object(WordSwapHowNet, "_get_transformations", from_words)
    yield mock.patch.object(WordSwapHowNet, "_get_replacement_words", lambda self, word: candidates(word))
    yield mock.patch.object(WordSwapHomoglyphSwap, "__init__", _without_the_list(WordSwapHomoglyphSwap.__init__))
    if "noner" in tags:
        for swap in (WordSwapChangeName, WordSwapChangeLocation):
            yield mock.patch.object(swap, "_get_transformations", return_value=[])
    if "nltk" in tags:
        yield mock.patch.object(AttackedText, "pos_of_word_index", _nltk_tag)
    if given.encode is not None:
        encode = given.encode
        yield mock.patch.object(UniversalSentenceEncoder, "encode", lambda self, texts: encode(texts))
        yield mock.patch("textattack.attack_recipes.a2t_yoo_2021.SBERT", _sentence_encoder(encode))
    if given.masked_lm is not None:
        yield from _masked_lm(given.masked_lm)
    if given.gpt2 is not None:
        yield mock.patch("textattack.attack_recipes.kuleshov_2017.GPT2", _language_model(given.gpt2))
    if "nolm" in tags:
        place = "textattack.attack_recipes"
        for recipe in ("kuleshov_2017.GPT2", "faster_genetic_algorithm_jia_2019.LearningToWriteLanguageModel"):
            yield mock.patch(f"{place}.{recipe}", _no_constraint())


def _without_the_list(init: Any) -> Any:
    """The wheel of 0.3.11 lacks a list that this constructor reads at its end, for another attack."""

    def tolerant(self: Any, **options: Any) -> None:
        with suppress(FileNotFoundError):
            init(self, **options)

    return tolerant


def _nltk_tag(text: Any, index: int) -> str:
    import nltk

    return str(nltk.pos_tag(text.words, tagset="universal")[index][1])


def _sentence_encoder(encode: Callable[[Sequence[str]], Any]) -> Any:
    from textattack.constraints.semantics.sentence_encoders import SentenceEncoder

    class Encoder(SentenceEncoder):  # type: ignore[misc]
        def __init__(self, threshold: float, metric: str, model_name: str) -> None:
            super().__init__(threshold=threshold, metric=metric)

        def encode(self, sentences: Sequence[str]) -> Any:
            return encode(sentences)

    return Encoder


def _masked_lm(folder: Path) -> Iterator[Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for place in ("textattack.transformations.word_swaps.word_swap_masked_lm", "transformers"):
        for loader in ("AutoModelForMaskedLM", "AutoModelForCausalLM"):  # CLARE loads its masked LM as a causal one
            if place == "transformers" or loader == "AutoModelForMaskedLM":
                yield mock.patch(f"{place}.{loader}.from_pretrained", return_value=model)
        yield mock.patch(f"{place}.AutoTokenizer.from_pretrained", return_value=tokenizer)


def _language_model(folder: Path) -> Any:
    from textattack.constraints.grammaticality.language_models import GPT2, LanguageModelConstraint
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    class LocalGPT2(GPT2):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            LanguageModelConstraint.__init__(self, **options)
            self.model, self.tokenizer = model, tokenizer

    return LocalGPT2


def _no_constraint() -> Any:
    from textattack.constraints import Constraint

    class Anything(Constraint):  # type: ignore[misc]
        def __init__(self, **_: Any) -> None:
            super().__init__(compare_against_original=True)

        def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
            return True

    return Anything
