"""Clean texts with random words written over, and what word counts say of words: the material of `palimpsest`."""

from __future__ import annotations

import math
import string
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from harness.core.errors import DataError
from harness.detectors.states import Array, Layout, read_words
from harness.text.edits import replace_words
from harness.text.synonyms import shipped_synonyms
from harness.text.words import find_words

KINDS = ("synonym", "word", "typo")
STATISTICS = 14
_BUCKETS = 2**21
_MOST_PIECES = 6
_SHORTEST_MISSPELT = 3

COUNTS: Layout = {
    "words": Array("uint8", ("bytes",)),
    "counts": Array("int64", ("words",)),
    "pairs": Array("int32", (_BUCKETS,)),
}


class CorpusCounts:
    """How often words, and pairs of neighbours, stand in the training texts.

    Args:
        arrays: `words` (UTF-8 bytes, one word a line, sorted), `counts` (int64) and `pairs`, (2**21,) int32 counts of
            pairs of neighbours by their hash.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.words = read_words("palimpsest", arrays)
        self.counts: dict[str, int] = dict(zip(self.words, arrays["counts"].tolist(), strict=True))
        self.pairs = arrays["pairs"]
        self._draw = np.cumsum(np.sqrt(arrays["counts"].astype(np.float64)))
        self._candidates: dict[tuple[str, bool], tuple[str, ...]] = {}

    @staticmethod
    def count(texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The arrays, from clean training texts.

        Raises:
            DataError: They hold no word.
        """
        counts: Counter[str] = Counter()
        pairs = np.zeros(_BUCKETS, np.int32)
        for text in texts:
            words = lower_words(text)
            counts.update(words)
            np.add.at(pairs, _pair_keys(words), 1)
        if not counts:
            raise DataError("palimpsest counts the words of the training texts, and they hold none.")
        names = sorted(counts)
        return {
            "words": np.frombuffer("\n".join(names).encode(), np.uint8),
            "counts": np.array([counts[name] for name in names], np.int64),
            "pairs": pairs,
        }

    def random_word(self, rng: np.random.Generator) -> str:
        """A word of the training texts, drawn in proportion to the root of its count."""
        place = int(np.searchsorted(self._draw, rng.random() * self._draw[-1], "right"))
        return self.words[min(place, len(self.words) - 1)]

    def candidates(self, word: str, *, unseen: bool) -> tuple[str, ...]:
        """What a word in lower case may stand in the place of: those of its synonyms that were counted, sorted.

        Args:
            word: In lower case.
            unseen: Whether it is none of the training texts' words, and may be a misspelt one: then counted words that
                are one edit away are among them.
        """
        if (word, unseen) not in self._candidates:
            found = {name for name in shipped_synonyms(word) if name in self.counts}
            if unseen and len(word) >= _SHORTEST_MISSPELT:
                found |= {name for name in _one_edit_away(word) if name in self.counts}
            self._candidates[word, unseen] = tuple(sorted(found - {word}))
        return self._candidates[word, unseen]

    def likelier(self, word: str) -> str | None:
        """The candidate that was counted most, if more often than the word; of equal ones the last in the alphabet."""
        found = self.candidates(word, unseen=word not in self.counts)
        best = max(found, key=lambda name: (self.counts[name], name), default=word)
        return best if self.counts.get(best, 0) > self.counts.get(word, 0) else None

    def statistics(self, text: str, pieces: NDArray[np.int64], own: str | None = None) -> NDArray[np.float32]:
        """What the counts say of each word of a text.

        Args:
            text: Any text.
            pieces: (words,) tokens of each word.
            own: The training text it was made from, whose own words and pairs are not counted: else no word of a
                training text would be new, as words of other clean texts are.

        Returns:
            (words, 14) float32: of the word, its pairs with either neighbour, its form, and how much likelier than it
            are its candidates, by themselves and between its neighbours.
        """
        words = lower_words(text)
        owns = Counter[str]() if own is None else Counter(lower_words(own))
        own_pairs = Counter[int]() if own is None else Counter(_pair_keys(lower_words(own)))

        def counted(word: str) -> int:
            return max(0, self.counts.get(word, 0) - owns[word])

        def paired(key: int) -> float:
            return math.log1p(max(0, int(self.pairs[key]) - own_pairs[key]))

        count = np.array([*map(counted, words)], np.float64)
        phi = np.log1p(count)
        around = np.array([*map(paired, _pair_keys(words))], np.float64)
        ends, gains = ["", *words, ""], np.zeros((len(words), 4))
        for place, word in enumerate(words):
            if found := self.candidates(word, unseen=bool(count[place] == 0)):
                counts = [*map(counted, found)]
                fits = [paired(_pair_key(ends[place], x)) + paired(_pair_key(x, ends[place + 2])) for x in found]
                gains[place] = (
                    max(0.0, math.log1p(max(counts)) - phi[place]),
                    max(0.0, max(fits) - around[place] - around[place + 1]),
                    math.log1p(len(found)),
                    math.log1p(sum(counts)) - phi[place],
                )
        columns = (
            phi,
            phi**2 / 10,
            count == 0,
            around[:-1],
            around[1:],
            np.minimum(pieces, _MOST_PIECES),
            pieces > 0,
            np.array([word in ENGLISH_STOP_WORDS for word in words]),
            np.array([len(word) / 5 for word in words]),
            np.full(len(words), np.log1p(len(words))),
            *gains.T,
        )
        return np.stack([np.asarray(column, np.float32) for column in columns], axis=1).reshape(-1, STATISTICS)


def lower_words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.text.lower() for word in find_words(text)]


def text_rng(seed: int, text: str, draw: int) -> np.random.Generator:
    """A generator of a text's own, whatever other texts there are."""
    return np.random.default_rng([seed, zlib.crc32(text.encode("utf-8", "surrogatepass")), draw])


def overwrite(
    text: str, share: float, counts: CorpusCounts, rng: np.random.Generator, kinds: Sequence[str] = KINDS
) -> tuple[str, list[int]]:
    """Write over random words of a text, all in one way: synonyms, words of the corpus, or typing errors.

    Args:
        text: A clean text.
        share: Of its words; stop words and single letters stay.
        counts: Where random words come from, also where a word has no synonym.
        rng: What draws.
        kinds: Ways to choose from, of `KINDS`.

    Returns:
        The text and the positions written over; the text itself and none where words would not stay apart.
    """
    kind = kinds[int(rng.integers(len(kinds)))]
    replaced: dict[int, str] = {}
    words = lower_words(text)
    for place, word in enumerate(words):
        if word in ENGLISH_STOP_WORDS or len(word) < 2 or rng.random() > share:
            continue
        if kind == "typo":
            new = _typo(word, rng)
        else:
            synonyms = sorted(shipped_synonyms(word)) if kind == "synonym" else []
            new = synonyms[int(rng.integers(len(synonyms)))] if synonyms else counts.random_word(rng)
        if new != word:
            replaced[place] = new
    changed = replace_words(text, replaced)
    return (changed, sorted(replaced)) if len(find_words(changed)) == len(words) else (text, [])


def _typo(word: str, rng: np.random.Generator) -> str:
    """Two letters swapped, one left out, one changed or one put in."""
    at, letter = int(rng.integers(len(word) - 1)), string.ascii_lowercase[int(rng.integers(26))]
    head, tail = word[:at], word[at:]
    return head + (tail[1] + tail[0] + tail[2:], tail[1:], letter + tail[1:], letter + tail)[int(rng.integers(4))]


def _one_edit_away(word: str) -> Iterator[str]:
    """What a word may have been before two of its letters were swapped, or one was left out, changed or put in."""
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        yield from (head + letter + tail for letter in string.ascii_lowercase)
        if tail:
            yield head + tail[1:]
            yield from (head + letter + tail[1:] for letter in string.ascii_lowercase)
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]


def _pair_keys(words: Sequence[str]) -> list[int]:
    """The keys of the pairs of neighbours, with the ends of the text."""
    return [_pair_key(first, second) for first, second in pairwise(["", *words, ""])]


def _pair_key(first: str, second: str) -> int:
    return zlib.crc32(f"{first} {second}".encode("utf-8", "surrogatepass")) % _BUCKETS
