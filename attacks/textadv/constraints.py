"""TextAttack constraints whose models are asked through oracles. Import only after `load_textattack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from textattack.constraints import Constraint
from textattack.constraints.grammaticality import PartOfSpeech
from textattack.constraints.grammaticality.language_models import LanguageModelConstraint
from textattack.constraints.semantics.sentence_encoders import SentenceEncoder
from textattack.shared import utils

# n texts in, n vectors out.
Encode = Callable[[Sequence[str]], Sequence[Any]]
# n word sequences in, n sequences of universal tags out.
Tag = Callable[[Sequence[tuple[str, ...]]], Sequence[tuple[str, ...]]]


class AskedSentenceEncoder(SentenceEncoder):  # type: ignore[misc]
    """TextAttack's sentence-encoder constraint on any encoder."""

    def __init__(self, encode: Encode, **options: Any) -> None:
        super().__init__(**options)
        self._encode = encode
        self.model = self  # TextAttack asks `self.model.encode` for a pair of texts

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        """(n, d) float32 vectors of n sentences."""
        return torch.from_numpy(np.stack([np.asarray(vector) for vector in self._encode(sentences)]))

    def _score_list(self, starting_text: Any, transformed_texts: list[Any]) -> torch.Tensor:
        if not self.skip_text_shorter_than_window:
            return torch.as_tensor(super()._score_list(starting_text, transformed_texts))
        # TextAttack encodes short texts too, and then counts each as the same as the original.
        long = [place for place, text in enumerate(transformed_texts) if len(text.words) >= self.window_size]
        scores = torch.ones(len(transformed_texts))
        if long:
            scores[long] = super()._score_list(starting_text, [transformed_texts[place] for place in long])
        return scores


class AskedPartOfSpeech(PartOfSpeech):  # type: ignore[misc]
    """TextAttack's part-of-speech constraint with NLTK's tagger, which is loaded once and not for every word."""

    def __init__(self, tag: Tag, **options: Any) -> None:
        super().__init__(tagger_type="nltk", **options)
        self._tag = tag

    def _get_pos(self, before_ctx: list[str], word: str, after_ctx: list[str]) -> str:
        words = (*before_ctx, word, *after_ctx)
        (tags,) = self._tag([words])
        return tags[words.index(word)]


class AskedGrammar(Constraint):  # type: ignore[misc]
    """No more grammar errors than the original has.

    Args:
        errors: From n texts to how many errors LanguageTool finds in each.
    """

    def __init__(self, errors: Callable[[Sequence[str]], Sequence[int]]) -> None:
        super().__init__(compare_against_original=True)
        self._errors = errors

    def _check_constraint_many(self, transformed_texts: list[Any], reference_text: Any) -> list[Any]:
        allowed, *found = self._errors([reference_text.text, *(text.text for text in transformed_texts)])
        return [text for text, errors in zip(transformed_texts, found, strict=True) if errors <= allowed]

    def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
        return bool(self._check_constraint_many([transformed_text], reference_text))


class AskedCausalLM(LanguageModelConstraint):  # type: ignore[misc]
    """A swapped word is about as probable after the words before it, as TextAttack's GPT-2 constraint has it.

    Args:
        ask: From n prefixes, as token ids, to n (vocabulary,) vectors of the next token's logits.
        tokenizer: The language model's tokenizer.
        max_log_prob_diff: How much less probable the new word may be, in nats.
    """

    def __init__(
        self, ask: Callable[[Sequence[tuple[int, ...]]], Sequence[torch.Tensor]], tokenizer: Any, **options: Any
    ) -> None:
        super().__init__(**options)
        self._ask = ask
        self._tokenizer = tokenizer

    def get_log_probs_at_index(self, text_list: Sequence[Any], word_index: int) -> Any:
        """The logit of each text's word at `word_index`; texts are equal up to there."""
        prefix = text_list[0].text_until_word_index(word_index)
        if not utils.has_letter(prefix):
            return torch.zeros(len(text_list))
        (logits,) = self._ask([tuple(self._tokenizer.encode(prefix))])
        return [logits[self._tokenizer.encode(text.words[word_index])[0]] for text in text_list]
