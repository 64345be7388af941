"""TextAttack components of ours. Import only after `textadv.runtime.load_textattack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from textattack.goal_functions import UntargetedClassification
from textattack.models.wrappers import ModelWrapper
from textattack.transformations.word_swaps.word_swap import WordSwap

from textadv.synonyms import candidates

QUERY_BATCH = 128
# What an attack needs of a victim: n texts in, an (n, classes) array of probabilities out.
ProbabilityFunction = Callable[[Sequence[str]], Any]


class SortedWordNetSwap(WordSwap):  # type: ignore[misc]
    """Swap a word for its WordNet synonyms, in sorted order.

    TextAttack's own swap returns `list(set(...))`, whose order follows Python's hash seed; an uncased victim
    makes case variants exact ties, so that order decides rows. It also asks the network for data when built.
    """

    def _get_replacement_words(self, word: str) -> list[str]:
        return candidates(word)


class ProbabilityWrapper(ModelWrapper):  # type: ignore[misc]
    """A victim's probability function as TextAttack wants it."""

    def __init__(self, predict: ProbabilityFunction) -> None:
        self.model = predict

    def __call__(self, text_input_list: Sequence[str], **_: Any) -> torch.Tensor:
        """From n texts to (n, classes) float64 probabilities."""
        return torch.as_tensor(self.model(list(text_input_list)), dtype=torch.float64)


def untargeted(model: ProbabilityFunction) -> Any:
    """The untargeted goal: any label but the gold one."""
    return UntargetedClassification(ProbabilityWrapper(model), model_batch_size=QUERY_BATCH)
