"""WordNet synonyms with or without NLTK's data: the candidates of a word substitution.

TextAttack's WordNet attacks replace a word by the lemma names of its synsets. They read NLTK's full WordNet,
which has to be downloaded first. A compact table made from WordNet 3.0 (`attacks/make_resources.py`) ships
with this package and gives the same candidates; the user's own NLTK copy is used instead where there is one.
Nothing here downloads anything.
"""

from __future__ import annotations

import functools
import lzma
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Protocol, cast

from harness.text.words import find_words

TABLE_NAME = "wordnet30_synonyms.txt.xz"
TABLE_HEADER = "# WordNet 3.0: synsets and exceptions of each part of speech; ~ marks a lemma of several words"
MULTIWORD_MARK = "~"

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")

# The rules of NLTK's `WordNetCorpusReader._morphy`; its satellite adjectives follow those of "adj".
SUFFIX_RULES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}

# One word of each part of speech: a reader that cannot look these up is not usable.
_PROBES = ("film", "run", "good", "quickly")


class WordNet(Protocol):
    """What this module asks of NLTK's WordNet reader."""

    def synsets(self, lemma: str) -> Sequence[Any]:
        """The synsets of a word, over all parts of speech."""

    def get_version(self) -> str | None:
        """The version of the database."""


def is_candidate(lemma: str) -> bool:
    """Whether TextAttack lets a lemma name replace a word: it leaves out phrases ("ice_cream", "A.D.")."""
    return "_" not in lemma and len(find_words(lemma)) == 1


class _PartOfSpeech:
    """The synsets and the irregular forms of one part of speech."""

    def __init__(self, rules: tuple[tuple[str, str], ...]) -> None:
        self._rules = rules
        self._synsets: list[tuple[str, ...]] = []
        self._index: dict[str, list[int]] = {}
        self._exceptions: dict[str, list[str]] = {}

    def add_synset(self, line: str) -> None:
        number = len(self._synsets)
        candidates = []
        for lemma in line.split(" "):
            if lemma.startswith(MULTIWORD_MARK):
                key = lemma[1:].lower()
            else:
                key = lemma.lower()
                candidates.append(lemma)
            self._index.setdefault(key, []).append(number)
        self._synsets.append(tuple(candidates))

    def add_exception(self, line: str) -> None:
        form, *bases = line.split(" ")
        self._exceptions[form] = bases

    def base_forms(self, form: str) -> Iterator[str]:
        """The form and what it may be inflected from; an irregular form hides the suffix rules."""
        yield form
        if form in self._exceptions:
            yield from self._exceptions[form]
        else:
            for old, new in self._rules:
                if form.endswith(old):
                    yield form[: -len(old)] + new

    def lemma_names(self, form: str) -> Iterator[str]:
        for base in self.base_forms(form):
            for number in self._index.get(base, ()):
                yield from self._synsets[number]


class SynonymTable:
    """The candidates that WordNet 3.0 gives for a word, read from a compact table.

    Args:
        text: A table as `attacks/make_resources.py` writes it.

    Raises:
        ValueError: The text is not such a table.
    """

    def __init__(self, text: str) -> None:
        header, _, body = text.partition("\n")
        if header != TABLE_HEADER:
            raise ValueError(f"not a synonym table: it begins with {header[:80]!r}")
        self._parts = {name: _PartOfSpeech(SUFFIX_RULES[name]) for name in PARTS_OF_SPEECH}
        add: Callable[[str], None] | None = None
        for line in body.splitlines():
            if line.startswith("["):
                name, _, kind = line.strip("[]").partition(" ")
                part = self._parts[name]
                add = part.add_synset if kind == "synsets" else part.add_exception
            elif add is None:
                raise ValueError("not a synonym table: a line stands before the first section")
            else:
                add(line)

    @classmethod
    @functools.lru_cache(maxsize=1)
    def load(cls) -> SynonymTable:
        """The table that ships with this package; it is read once a process."""
        file = resources.files("harness.text").joinpath("resources", TABLE_NAME)
        return cls(lzma.decompress(file.read_bytes()).decode("utf-8"))

    def synonyms(self, word: str) -> list[str]:
        """The single-word lemma names of all synsets of `word`, sorted, without `word` itself.

        The comparison with `word` heeds case, as TextAttack's does: "Film" has the candidate "film".
        """
        form = word.lower()
        found = {name for part in self._parts.values() for name in part.lemma_names(form)}
        found.discard(word)
        return sorted(found)


@functools.lru_cache(maxsize=65_536)
def shipped_synonyms(word: str) -> tuple[str, ...]:
    """The synonyms of a word in lower case, sorted, without the word itself.

    From the shipped table whatever else is there, so that what is computed with them is the same on every machine.
    """
    form = word.lower()
    return tuple(sorted({name.lower() for name in SynonymTable.load().synonyms(form)} - {form}))


def find_wordnet() -> WordNet | None:
    """NLTK's reader over the user's own WordNet, or None where there is no usable copy.

    A copy that is there but cannot be read gives a warning, once a process.
    """
    try:
        import nltk.data
    except ImportError:
        return None
    # The reader seeks in files that it keeps open; a forked process would share their positions.
    return _open_wordnet(os.getpid(), tuple(str(path) for path in nltk.data.path))


def synonym_source() -> str:
    """Where `candidates` looks words up, for a run's record: "nltk-wordnet-3.0" or "table-wordnet-3.0"."""
    wordnet = _usable_wordnet()
    return "table-wordnet-3.0" if wordnet is None else f"nltk-wordnet-{wordnet.get_version()}"


def candidates(word: str) -> list[str]:
    """Sorted replacements for `word`, from the user's NLTK WordNet if there is one, else from the table."""
    wordnet = _usable_wordnet()
    if wordnet is not None:
        try:
            return wordnet_candidates(wordnet, word)
        except Exception as error:  # noqa: BLE001 - a damaged file fails in as many ways as its reader has steps
            _unusable.add(id(wordnet))
            _warn_unusable(error)
    return SynonymTable.load().synonyms(word)


def wordnet_candidates(wordnet: WordNet, word: str) -> list[str]:
    """What TextAttack's `WordSwapWordNet` takes from an NLTK reader for `word`, sorted."""
    names: Iterable[str] = {name for synset in wordnet.synsets(word) for name in synset.lemma_names()}
    return sorted(name for name in names if name != word and is_candidate(name))


# Readers that opened well and failed later. `_open_wordnet` keeps them alive, so an id stays theirs.
_unusable: set[int] = set()


def _usable_wordnet() -> WordNet | None:
    wordnet = find_wordnet()
    return None if id(wordnet) in _unusable else wordnet


@functools.cache
def _open_wordnet(process: int, paths: tuple[str, ...]) -> WordNet | None:
    root = _find_root(paths)
    if root is None:
        return None
    # A reader of our own rather than `nltk.corpus.wordnet`, which is shared with whatever else uses NLTK.
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the multilingual data are not given, which is meant
            reader = cast(WordNet, WordNetCorpusReader(root, None))
            empty = [word for word in _PROBES if not wordnet_candidates(reader, word)]
        if empty:
            raise ValueError(f"no synonyms for {empty[0]!r}")
        if reader.get_version() != "3.0":  # other candidates under the same recipe's name
            raise ValueError(f"it is WordNet {reader.get_version()}, not 3.0")
    except Exception as error:  # noqa: BLE001 - as in `candidates`
        _warn_unusable(error)
        return None
    return reader


def _find_root(paths: tuple[str, ...]) -> Any:
    """The folder, or the folder inside a zip file, of the WordNet in NLTK's data paths; or None."""
    from nltk.data import FileSystemPathPointer, ZipFilePathPointer, find

    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            root = find(name, list(paths))
        except LookupError:
            continue
        except Exception as error:  # noqa: BLE001 - a damaged zip file; as in `candidates`
            _warn_unusable(error)
            continue
        # `find` also offers a copy in the cache of Hugging Face datasets, which the reader cannot seek in.
        if isinstance(root, FileSystemPathPointer | ZipFilePathPointer):
            return root
    return None


def _warn_unusable(error: Exception) -> None:
    # NLTK's errors of a missing file are a page long.
    reason = " ".join(str(error).split())[:200]
    warnings.warn(
        f"the WordNet in NLTK's data folder cannot be used ({type(error).__name__}: {reason}); "
        "the table that ships with the harness is used instead.",
        RuntimeWarning,
        stacklevel=2,
    )
