"""TextAttack's masked-LM transformations, their model asked through an oracle. Import after `load_textattack`.

TextAttack pads every text to 512 tokens and computes a probability for every token of the vocabulary at every
position, to read one position. Its transformations are used as they are; what they hold as model and tokenizer are the
stand-ins of this module, which pad to the longest text and compute what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

# A text's token ids, and the positions whose predictions are wanted; None for all.
MaskedQuestion = tuple[tuple[int, ...], tuple[int, ...] | None]
AskMasked = Callable[[Sequence[MaskedQuestion]], Sequence[torch.Tensor]]


class AskedMaskedLM:
    """What TextAttack takes for a masked language model.

    Args:
        ask: From n questions to n (positions, vocabulary) float32 logits.
        config: The model's configuration.
        mask_id: Id of the mask token.
        everywhere: Whether all positions are read (BERT-Attack) or the masked one alone (BAE, CLARE).
    """

    def __init__(self, ask: AskMasked, config: Any, mask_id: int, *, everywhere: bool = False) -> None:
        self.config = config
        self._ask = ask
        self._mask_id = mask_id
        self._everywhere = everywhere

    def to(self, _: Any) -> AskedMaskedLM:
        """Stay where it is: the oracle knows its device."""
        return self

    def eval(self) -> AskedMaskedLM:
        """Nothing to do: the oracle's model is in evaluation mode."""
        return self

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> tuple[Any]:
        """Predictions for n texts, at [text, position] or, everywhere, at [text] for all positions."""
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        if self._everywhere:
            return ([*self._ask([(tuple(ids), None) for ids in rows])],)
        # A text whose mask was cut off has no position: TextAttack does not read it.
        places: list[tuple[int, ...]] = [(ids.index(self._mask_id),) if self._mask_id in ids else () for ids in rows]
        masked = [i for i, place in enumerate(places) if place]
        logits = self._ask([(tuple(rows[i]), places[i]) for i in masked])
        return ({(i, places[i][0]): found[0] for i, found in zip(masked, logits, strict=True)},)


class UnpaddedTokenizer:
    """A tokenizer that pads to the longest text of a call, whatever it is told."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        """The encoding of one text or of several, as PyTorch tensors."""
        texts = [text] if isinstance(text, str) else text
        return self._tokenizer(texts, **{**options, "padding": True})
