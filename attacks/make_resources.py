"""Make the word resources of `harness.text` and `textadv` from an NLTK data folder.

    python attacks/make_resources.py --nltk-data DIR

DIR is an NLTK data folder with `corpora/wordnet` (the `dict` files of WordNet 3.0; Debian's `wordnet-base`
has them too) and `corpora/stopwords/english`. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.text.synonyms import MULTIWORD_MARK, PARTS_OF_SPEECH, TABLE_HEADER, TABLE_NAME, is_candidate

STOPWORDS = Path("corpora/stopwords/english")
LICENSE_NAME = "LICENSE.wordnet"
TEXT, TEXTADV = Path("harness/text/resources"), Path("attacks/textadv/resources")
VERSION = "3.0"

# A lemma may end in a syntactic marker: "galore(ip)".
_MARKER = re.compile(r"\([^()]*\)$")


class ResourceError(Exception):
    """An input folder that cannot be used."""


def _data_lines(path: Path) -> Iterator[str]:
    """The lines of a WordNet file without the licence at its head, whose lines begin with a space."""
    with path.open(encoding="utf-8") as handle:
        yield from (line for line in handle if not line.startswith(" "))


def read_license(wordnet: Path) -> str:
    """The licence at the head of a WordNet data file, without its line numbers.

    Raises:
        ResourceError: There is none, or it is that of another version.
    """
    lines = []
    with (wordnet / "data.noun").open(encoding="utf-8") as handle:
        for line in handle:
            if not line.startswith(" "):
                break
            lines.append(re.sub(r"^ +\d+ ?", "", line).rstrip())
    text = "\n".join(lines).strip() + "\n"
    if f"WordNet {VERSION} Copyright" not in text:
        raise ResourceError(f"{wordnet} does not hold WordNet {VERSION}")
    return text


def read_synsets(wordnet: Path, part: str) -> Iterator[frozenset[str]]:
    """The lemma names of each synset of a part of speech, without syntactic markers.

    Raises:
        ResourceError: The index files lead to other words than the data files name.
    """
    index: dict[int, set[str]] = defaultdict(set)
    for line in _data_lines(wordnet / f"index.{part}"):
        fields = line.split()
        for offset in fields[-int(fields[2]) :]:
            index[int(offset)].add(fields[0])
    for line in _data_lines(wordnet / f"data.{part}"):
        fields = line.split()
        count = int(fields[3], 16)
        lemmas = frozenset(_MARKER.sub("", lemma) for lemma in fields[4 : 4 + 2 * count : 2])
        # NLTK goes from a word to its synsets by the index; the table does so by the lemmas of the synset.
        if {lemma.lower() for lemma in lemmas} != index[int(fields[0])]:
            raise ResourceError(f"index.{part} and data.{part} disagree about synset {fields[0]}")
        yield lemmas


def useful_synsets(synsets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """The synsets that a union of candidates needs, in a fixed order.

    A synset without a single-word lemma gives no candidate, and one within another gives no further one.
    """
    kept: list[frozenset[str]] = []
    holders: dict[str, list[int]] = defaultdict(list)
    for lemmas in sorted(set(synsets), key=lambda lemmas: (-len(lemmas), sorted(lemmas))):
        if not any(is_candidate(lemma) for lemma in lemmas):
            continue
        if set.intersection(*(set(holders[lemma]) for lemma in lemmas)):
            continue
        for lemma in lemmas:
            holders[lemma].append(len(kept))
        kept.append(lemmas)
    return sorted(kept, key=_names)


def _names(lemmas: frozenset[str]) -> list[str]:
    return sorted(lemmas, key=lambda lemma: (lemma.lower(), lemma))


def _table_line(lemmas: frozenset[str]) -> str:
    return " ".join(lemma if is_candidate(lemma) else MULTIWORD_MARK + lemma for lemma in _names(lemmas))


def read_exceptions(wordnet: Path, part: str) -> dict[str, list[str]]:
    """Irregular forms and what they are inflected from; as in NLTK, the last line of a form counts."""
    lines = (line.split() for line in _data_lines(wordnet / f"{part}.exc"))
    return {form: bases for form, *bases in lines}


def make_table(wordnet: Path) -> str:
    """The whole table: for each part of speech its synsets, then its irregular forms."""
    lines = [TABLE_HEADER]
    for part in PARTS_OF_SPEECH:
        lines.append(f"[{part} synsets]")
        lines.extend(_table_line(lemmas) for lemmas in useful_synsets(read_synsets(wordnet, part)))
        lines.append(f"[{part} exceptions]")
        # Also those whose base form is not in the table: an irregular form hides the suffix rules.
        lines.extend(" ".join([form, *bases]) for form, bases in sorted(read_exceptions(wordnet, part).items()))
    return "\n".join(lines) + "\n"


def make_resources(nltk_data: Path, out: Path) -> list[Path]:
    """Write all resources where they lie in a checkout, under `out`, and return their paths."""
    wordnet = nltk_data / "corpora" / "wordnet"
    contents = {
        TEXTADV / "nltk_data" / STOPWORDS: (nltk_data / STOPWORDS).read_bytes(),
        TEXT / LICENSE_NAME: read_license(wordnet).encode("utf-8"),
        TEXT / TABLE_NAME: lzma.compress(
            make_table(wordnet).encode("utf-8"), check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME
        ),
    }
    for name, content in contents.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return [out / name for name in contents]


def main() -> None:
    """Read the arguments, write the resources, and say how large they are."""
    parser = argparse.ArgumentParser(description="Make the shipped word resources from an NLTK data folder.")
    parser.add_argument(
        "--nltk-data",
        type=Path,
        required=True,
        help="folder with corpora/wordnet and corpora/stopwords/english",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parents[1],
        help="checkout to write to (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        paths = make_resources(arguments.nltk_data, arguments.out)
    except (OSError, ResourceError) as error:
        parser.error(str(error))
    for path in paths:
        print(f"{path.stat().st_size:>9,} bytes  {path}")


if __name__ == "__main__":
    main()
