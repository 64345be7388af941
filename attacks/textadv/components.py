"""The victim and word swaps as TextAttack wants them. Import only after `textadv.runtime.load_textattack`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from textattack.models.wrappers import ModelWrapper
from textattack.transformations import WordSwapHomoglyphSwap
from textattack.transformations.word_swaps.word_swap import WordSwap
from textattack.transformations.word_swaps.word_swap_gradient_based import WordSwapGradientBased

from harness.core.errors import ConfigurationError
from harness.text.gradients import TokenGradients
from harness.text.synonyms import candidates
from harness.text.victims import Victim


class AskedVictim(ModelWrapper):  # type: ignore[misc]
    """A victim whose probabilities and gradients are asked through oracles.

    Args:
        victim: The classifier.
        probabilities: From n texts to n rows of class probabilities.
        gradients: From n texts to their token gradients.
    """

    def __init__(
        self,
        victim: Victim,
        probabilities: Callable[[Sequence[str]], Sequence[Any]],
        gradients: Callable[[Sequence[str]], Sequence[TokenGradients]],
    ) -> None:
        self.model = victim.model
        self.tokenizer = victim.tokenizer
        self.max_length = victim.max_length
        self._probabilities = probabilities
        self._gradients = gradients

    def __call__(self, text_input_list: Sequence[str], **_: Any) -> torch.Tensor:
        """From n texts to (n, classes) float64 probabilities."""
        return torch.from_numpy(np.stack([np.asarray(row) for row in self._probabilities(text_input_list)]))

    def get_grad(self, text_input: str) -> dict[str, Any]:
        """The gradient at one text's tokens.

        TextAttack's own wrapper reads it with dropout on, so that it is another each time; here dropout is off.
        """
        (found,) = self._gradients([text_input])
        return {"ids": found.ids, "gradient": found.gradient}

    def _tokenize(self, inputs: Sequence[str]) -> list[list[str]]:
        encoded = self.tokenizer(list(inputs), truncation=True, max_length=self.max_length)["input_ids"]
        return [self.tokenizer.convert_ids_to_tokens(ids) for ids in encoded]


class SortedWordNetSwap(WordSwap):  # type: ignore[misc]
    """Swap a word for its WordNet synonyms, in sorted order.

    TextAttack's own swap returns `list(set(...))`, whose order follows Python's hash seed; an uncased victim
    makes case variants exact ties, so that order decides rows. It also asks the network for data when built.
    """

    def _get_replacement_words(self, word: str) -> list[str]:
        return candidates(word)


class HomoglyphSwap(WordSwapHomoglyphSwap):  # type: ignore[misc]
    """TextAttack's swap of a character for one that looks alike.

    The wheel of TextAttack 0.3.11 lacks a list that the constructor reads at its end, for another attack: without it
    TextBugger cannot be built.
    """

    def __init__(self) -> None:
        with suppress(FileNotFoundError):
            super().__init__()
        assert self.homos


class WordLevelGradientSwap(WordSwapGradientBased):  # type: ignore[misc]
    """HotFlip's swap on victims that read one token a word.

    TextAttack takes its own LSTM only; what it needs is that the i-th token is the i-th word.

    Raises:
        ConfigurationError: The victim reads sub-words.
    """

    def __init__(self, model_wrapper: AskedVictim, top_n: int = 1) -> None:
        tokenizer = model_wrapper.tokenizer
        if type(tokenizer.backend_tokenizer.model).__name__ != "WordLevel":
            raise ConfigurationError(
                "HotFlip flips whole words, and this victim reads sub-words.",
                "Use a word CNN or LSTM: harness victim train --encoder wordcnn|lstm.",
            )
        self.model_wrapper = model_wrapper
        self.model = model_wrapper.model
        self.tokenizer = _WordTokenizer(tokenizer)
        self.top_n = top_n
        self.is_black_box = False


class _WordTokenizer:
    def __init__(self, tokenizer: Any) -> None:
        self.pad_token_id = tokenizer.pad_token_id
        self.convert_id_to_word = tokenizer.convert_ids_to_tokens


def longest_text(model: AskedVictim) -> int:
    """How many words TextAttack's A2T orders by gradient: no more than the victim has room for."""
    positions = getattr(model.model.config, "max_position_embeddings", math.inf)
    positions = math.inf if positions < 0 else positions  # XLNet, without a table, says -1
    return int(min(1024, model.tokenizer.model_max_length, positions - 2))
