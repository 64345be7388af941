"""TextAttack's masked-LM transformations, their model asked through an oracle. Import after `load_textattack`.

TextAttack pads every text to 512 tokens, computes a logit for every token of the vocabulary at every position to read
one position, and makes a tensor of every token to look at the first hundred. Here the same words come of the
positions that are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from textattack.shared import utils
from textattack.transformations import WordInsertionMaskedLM, WordMergeMaskedLM, WordSwapMaskedLM
from textattack.transformations.word_merges.word_merge_masked_lm import find_merge_index

from textadv.constraints import Tag

# BERT-Attack's sub-word combinations grow with (candidates) ** (sub-words): a word of ten would take a billion.
MOST_COMBINATIONS = 4096

# A text's token ids, and the positions whose predictions are wanted; None for all.
MaskedQuestion = tuple[tuple[int, ...], tuple[int, ...] | None]
AskMasked = Callable[[Sequence[MaskedQuestion]], Sequence[torch.Tensor]]


class AskedMaskedLM:
    """A masked language model, asked through an oracle, in the place where TextAttack keeps its model.

    Args:
        ask: From n questions to n (positions, vocabulary) float32 logits.
        config: The model's configuration.
        tokenizer: Its tokenizer.
    """

    def __init__(self, ask: AskMasked, config: Any, tokenizer: Any) -> None:
        self.config = config
        self._ask = ask
        self._tokenizer = tokenizer
        self._word_of: dict[tuple[int, bool], str] = {}

    def to(self, _: Any) -> AskedMaskedLM:
        """Stay where it is: the oracle knows its device."""
        return self

    def eval(self) -> AskedMaskedLM:
        """Nothing to do: the oracle's model is in evaluation mode."""
        return self

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> tuple[list[torch.Tensor]]:
        """Logits of n texts at all their positions."""
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        return ([*self._ask([(tuple(ids), None) for ids in rows])],)

    def words_at_mask(
        self, texts: Sequence[str], *, max_length: int, max_candidates: int, min_confidence: float
    ) -> list[list[str]]:
        """The most probable words at the first mask of each text, as TextAttack's transformations choose them.

        Args:
            texts: n texts with a mask; one whose mask is cut off has no words.
            max_length: Tokens a text may have.
            max_candidates: Words that are wanted of each.
            min_confidence: Probability a word must have.
        """
        if not texts:
            return []
        mask = self._tokenizer.mask_token_id
        encoded = self._tokenizer(list(texts), max_length=max_length, truncation=True)["input_ids"]
        questions = {i: (tuple(ids), (ids.index(mask),)) for i, ids in enumerate(encoded) if mask in ids}
        answers = dict(zip(questions, self._ask(list(questions.values())), strict=True))
        found: list[list[str]] = []
        for i in range(len(texts)):
            candidates = self._ranked(answers[i][0], min_confidence, questions[i][1][0] == 1) if i in answers else ()
            found.append(list(itertools.islice(candidates, max_candidates)))
        return found

    def _ranked(self, logits: torch.Tensor, min_confidence: float, first: bool) -> Iterator[str]:
        probabilities = torch.softmax(logits, dim=0)
        ranked = torch.argsort(probabilities, descending=True)
        enough = (probabilities >= min_confidence)[ranked]
        for ids, likely in zip(torch.split(ranked, 256), torch.split(enough, 256), strict=True):
            for number, is_likely in zip(ids.tolist(), likely.tolist(), strict=True):
                if not is_likely:
                    return
                if word := self._word(number, first):
                    yield word

    def _word(self, number: int, first: bool) -> str:
        """A token as a word; empty where it is none."""
        if (number, first) not in self._word_of:
            word = self._tokenizer.convert_ids_to_tokens(number)
            if utils.check_if_subword(word, self.config.model_type, first):
                word = utils.strip_BPE_artifacts(word, self.config.model_type)
            usable = utils.is_one_word(word) and not utils.check_if_punctuations(word)
            self._word_of[number, first] = word if usable else ""
        return self._word_of[number, first]


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


def _settings(transformation: Any) -> dict[str, Any]:
    return {name: getattr(transformation, name) for name in ("max_length", "max_candidates", "min_confidence")}


class AskedMaskedSwap(WordSwapMaskedLM):  # type: ignore[misc]
    """BAE's swap: a word for what the model puts in its place."""

    def __init__(self, **options: Any) -> None:
        super().__init__(method="bae", **options)

    def _bae_replacement_words(self, current_text: Any, indices_to_modify: Sequence[int]) -> list[list[str]]:
        mask = self._lm_tokenizer.mask_token
        texts = [current_text.replace_word_at_index(index, mask).text for index in indices_to_modify]
        words: list[list[str]] = self._language_model.words_at_mask(texts, **_settings(self))
        return words


class AskedMaskedInsertion(WordInsertionMaskedLM):  # type: ignore[misc]
    """CLARE's insertion of a word that the model puts between two."""

    def _get_new_words(self, current_text: Any, indices_to_modify: Sequence[int]) -> list[list[str]]:
        mask, window = self._lm_tokenizer.mask_token, self.window_size
        longer = [(index, current_text.insert_text_before_word_index(index, mask)) for index in indices_to_modify]
        texts = [text.text_window_around_index(index, window) for index, text in longer]
        words: list[list[str]] = self._language_model.words_at_mask(texts, **_settings(self))
        return words


class AskedMaskedMerge(WordMergeMaskedLM):  # type: ignore[misc]
    """CLARE's merge of two words into what the model puts in their place.

    Which two is decided by NLTK's part-of-speech tags; TextAttack takes flair's, whose models are pickles.
    """

    def __init__(self, tag: Tag, **options: Any) -> None:
        super().__init__(**options)
        self._tag = tag

    def _get_transformations(self, current_text: Any, indices_to_modify: Any) -> list[Any]:
        (tags,) = self._tag([tuple(current_text.words)])
        places = find_merge_index(list(tags))
        mask, window = self._lm_tokenizer.mask_token, self.window_size
        shorter = [current_text.replace_word_at_index(index, mask).delete_word_at_index(index + 1) for index in places]
        texts = [text.text_window_around_index(index, window) for index, text in zip(places, shorter, strict=True)]
        found: list[Any] = []
        for index, words in zip(places, self._language_model.words_at_mask(texts, **_settings(self)), strict=True):
            kept = [word.strip("Ġ") for word in words]
            kept = [word for word in kept if word != current_text.words[index] and utils.has_letter(word)]
            merged = current_text.delete_word_at_index(index + 1)
            found.extend(merged.replace_word_at_index(index, word) for word in kept)
        return found


class BoundedBertAttackSwap(WordSwapMaskedLM):  # type: ignore[misc]
    """BERT-Attack's swap, which ends.

    For a word of several sub-words TextAttack builds every combination of their candidates and keeps the first that
    are words (the sort by perplexity that follows is without effect in 0.3.11). Here they are built until there are
    enough, and at most `MOST_COMBINATIONS`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(method="bert-attack", **options)

    def _bert_attack_replacement_words(
        self, current_text: Any, index: int, id_preds: torch.Tensor, masked_lm_logits: torch.Tensor
    ) -> list[str]:
        tokenizer = self._lm_tokenizer
        masked = self._encode_text(current_text.replace_word_at_index(index, tokenizer.mask_token).text)
        ids = masked["input_ids"].tolist()[0]
        if tokenizer.mask_token_id not in ids:
            return []  # cut off
        pieces = len(tokenizer.encode(current_text.words[index], add_special_tokens=False))
        if pieces < 2:
            replacements: list[str] = super()._bert_attack_replacement_words(
                current_text, index, id_preds, masked_lm_logits
            )
            return replacements
        start = ids.index(tokenizer.mask_token_id)
        choices = [id_preds[at].tolist() for at in range(start, min(start + pieces, len(id_preds)))]
        products = itertools.islice(itertools.product(*choices), MOST_COMBINATIONS)
        words = ("".join(tokenizer.convert_ids_to_tokens(list(found))).replace("##", "") for found in products)
        return list(itertools.islice(filter(utils.is_one_word, words), self.max_candidates))
