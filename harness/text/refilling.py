"""Words of a text hidden one at a time, and what a masked language model would put there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.text.edits import mask_words
from harness.text.masked_lm import MaskedLanguageModel
from harness.text.words import find_words

if TYPE_CHECKING:
    import torch

# Any short word: what follows it in the decoder's output shows whether a token begins a word.
_ANCHOR = "a"


class Refiller:
    """What a masked language model puts in a word's place.

    A word, with all its tokens, gives way to one mask token, so one token has to be a word in itself: those that are
    special, go on a word, or are punctuation are passed over. A text longer than the model takes is cut on both sides
    of the mask, as evenly as the text allows.

    Args:
        lm: The masked LM; its tokenizer need not be the victim's.
    """

    def __init__(self, lm: MaskedLanguageModel) -> None:
        import torch

        self.lm = lm
        self._words = _whole_words(lm)
        usable = torch.zeros(lm.config.vocab_size, dtype=torch.bool)
        usable[[number for number in self._words if number < len(usable)]] = True
        self._unusable = ~usable.to(lm.device)
        self._numbers: dict[str, list[int]] = {}
        for number, word in self._words.items():
            self._numbers.setdefault(word.casefold(), []).append(number)

    def words(self, texts: Sequence[str], positions: Sequence[int], count: int) -> list[list[str]]:
        """The likeliest words at one position of each of n texts, but for the word that stands there.

        Args:
            texts: n texts; one may stand there several times.
            positions: The position of a word in each, among `find_words`.
            count: How many words are wanted.

        Returns:
            n lists of at most `count` words, the likeliest first; none is the word itself, whatever its case.
        """
        sequences, places = [], []
        hidden = [find_words(text)[position] for text, position in zip(texts, positions, strict=True)]
        mask = self.lm.tokenizer.mask_token
        masked = [mask_words(text, [position], mask) for text, position in zip(texts, positions, strict=True)]
        if not masked:
            return []
        encoded = self.lm.tokenizer(masked, return_offsets_mapping=True, verbose=False)
        for ids, offsets, word in zip(encoded["input_ids"], encoded["offset_mapping"], hidden, strict=True):
            # The text may hold the mask token itself, too; RoBERTa's takes in the space before it.
            place = next(
                i
                for i, (number, (start, end)) in enumerate(zip(ids, offsets, strict=True))
                if number == self.lm.tokenizer.mask_token_id and start <= word.start < end
            )
            cut, at = _around(ids, offsets, place, self.lm.max_length)
            sequences.append(cut)
            places.append([at])
        answers = self.lm.logits(sequences, places)
        return [self._likeliest(told[0], word.text, count) for told, word in zip(answers, hidden, strict=True)]

    def _likeliest(self, logits: torch.Tensor, word: str, count: int) -> list[str]:
        import torch

        logits = logits.masked_fill(self._unusable, -torch.inf)
        logits[self._numbers.get(word.casefold(), [])] = -torch.inf
        values, numbers = torch.topk(logits, min(count, len(logits)))
        return [
            self._words[number]
            for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
            if value > -float("inf")
        ]


def _whole_words(lm: MaskedLanguageModel) -> dict[int, str]:
    """The tokens that are one word in themselves."""
    backend = lm.tokenizer.backend_tokenizer
    anchor = lm.tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
    before = backend.decode(anchor, skip_special_tokens=False) + " "
    numbers = sorted(set(range(len(lm.tokenizer))) - set(lm.tokenizer.all_special_ids))
    found = {}
    decoded = backend.decode_batch([[*anchor, number] for number in numbers], skip_special_tokens=False)
    for number, text in zip(numbers, decoded, strict=True):
        word = text.removeprefix(before)
        # Look-alikes of letters, such as a backtick, are words where an attack wrote them, and none to propose.
        if word != text and [part.text for part in find_words(word)] == [word] and word.strip("`˗×"):  # noqa: RUF001
            found[number] = word
    return found


def _around(ids: Sequence[int], offsets: Sequence[tuple[int, int]], place: int, limit: int) -> tuple[list[int], int]:
    """At most `limit` tokens around a place, special tokens at both ends kept, and where the place is among them."""
    real = [i for i, (start, end) in enumerate(offsets) if end > start]
    first, last = real[0], real[-1] + 1
    room = limit - first - (len(ids) - last)
    start = min(max(first, place - room // 2), max(first, last - room))
    end = min(last, start + room)
    return [*ids[:first], *ids[start:end], *ids[last:]], first + place - start
