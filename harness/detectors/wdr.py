"""Word-level differential reaction: how the logits react when one word is hidden, read by a trained classifier.

From Mosca, Agarwal, Rando Ramirez and Groh, *"That Is a Suspicious Reaction!": Interpreting Logits Variation to Detect
NLP Adversarial Attacks*, ACL 2022 (arXiv 2204.04636).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.base import Arrays, Bools, DetectorInfo, Floats, QueryDetector, texts_of
from harness.detectors.states import Array, Layout, bad_state
from harness.text.edits import mask_words, unknown_word
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words

MINIMUM = 10  # training texts of each kind
# Those of the published XGBoost that scikit-learn's gradient boosting has as well.
_BOOSTING = {
    "n_estimators": 29,
    "max_depth": 3,
    "learning_rate": 0.34281802,
    "subsample": 0.61460966,
    "max_features": 0.64,  # columns: 0.739 a tree x 0.872 a level
    "min_samples_leaf": 5,  # for a least sum of Hessians, which scikit-learn does not know
}


class WDR(QueryDetector):
    """WDR: gradient-boosted trees on the logits' reactions to hiding each word.

    With y the prediction on x and x_i the text without word i (the unknown token stands there), the reaction is
    WDR(i) = f(x_i)_y - max over c != y of f(x_i)_c. Reactions are put in the order of the words' impact,
    f(x)_y - f(x_i)_y, the largest first, and padded with zeros to `length`; the score is the probability of
    "adversarial" that the classifier gives that vector. It has to be trained on an attack: `fit_adversarial`.

    Where it departs from the paper: its best classifier is XGBoost; here scikit-learn's gradient boosting stands for
    it, with the published settings as far as it has them. The trees are kept as arrays and evaluated from them.

    Args:
        length: Words that are hidden in turn, the text's first ones, and entries of the vector; 512 in the paper.
        seed: Seed of the boosting, which draws rows and columns.

    Raises:
        ConfigurationError: `length` is not positive.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="wdr",
        title="WDR",
        paper="Mosca et al., ACL 2022",
        year=2022,
        reads="perturbed texts",
        forwards_per_text=None,
        cost="L + 1",
        adversarial_texts="trains",
        scores_words=True,
    )
    layout: ClassVar[Layout | None] = {
        "prior": Array("float64", (1,)),
        "roots": Array("int64", ("trees",)),
        "left": Array("int64", ("nodes",)),
        "right": Array("int64", ("nodes",)),
        "feature": Array("int64", ("nodes",)),
        "threshold": Array("float64", ("nodes",)),
        "value": Array("float64", ("nodes",)),
    }

    def __init__(self, length: int = 512, seed: int = 0) -> None:
        super().__init__()
        if length < 1:
            raise ConfigurationError(f"wdr reads at least one word of a text, not {length}.")
        self.length = length
        self.seed = seed

    def fit_adversarial(self, outputs: VictimOutputs, adversarial: Bools) -> Self:
        """Train the classifier on validation rows of an attack.

        Raises:
            DataError: Fewer than 10 clean or 10 adversarial texts.
        """
        from sklearn.ensemble import GradientBoostingClassifier

        wanted = np.asarray(adversarial, dtype=bool)
        fewest = min(int(wanted.sum()), int((~wanted).sum()))
        if fewest < MINIMUM:
            raise DataError(
                f"wdr is trained on at least {MINIMUM} clean and {MINIMUM} adversarial texts; "
                f"it was given {int((~wanted).sum())} and {int(wanted.sum())}."
            )
        boosting = GradientBoostingClassifier(**_BOOSTING, random_state=self.seed)
        boosting.fit(self._vectors(outputs), wanted)
        share = float(wanted.mean())
        self._arrays = _pack(
            np.log(share / (1 - share)), [tree.tree_ for tree in boosting.estimators_[:, 0]], boosting.learning_rate
        )
        return self

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts by the classifier's probability, from 0 to 1.

        Raises:
            NotFittedError: It was not trained on an attack.
        """
        if not self._arrays:
            raise NotFittedError(
                "the detector 'wdr' was not trained: it needs adversarial texts.", "Call fit_adversarial first."
            )
        scores: Floats = 1 / (1 + np.exp(-_evaluate(self._arrays, self._vectors(outputs))))
        return scores

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """Minus each word's reaction: above 0 where hiding the word turns the prediction. It needs no training.

        Words after the first `length` are not asked about and get the lowest score of their text.
        """
        found = []
        for text, label in zip(texts_of(outputs), outputs.predictions, strict=True):
            _, reactions = self._reactions(text, int(label))
            scores = np.full(len(find_words(text)), -reactions.max(initial=-np.inf))
            scores[: len(reactions)] = -reactions
            found.append(scores)
        return found

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"length": self.length, "seed": self.seed}

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        own = np.arange(len(arrays["value"]))
        # A child stands behind its parent, a leaf is its own: so no walk down a tree goes on for ever.
        for side, other in (("left", "right"), ("right", "left")):
            child, leaf = arrays[side], arrays[other] == own
            if (child < own).any() or (child >= len(own)).any() or ((child == own) & ~leaf).any():
                raise bad_state(self.info.name, f"{side} does not lead down a tree")
        for name, most in (("roots", len(own)), ("feature", self.length)):
            if (arrays[name] < 0).any() or (arrays[name] >= most).any():
                raise bad_state(self.info.name, f"{name} points beyond its end")

    def _vectors(self, outputs: VictimOutputs) -> Floats:
        """(n, length) reactions in the order of impact."""
        texts = texts_of(outputs)
        vectors = np.zeros((len(texts), self.length))
        for row, (text, label) in enumerate(zip(texts, outputs.predictions, strict=True)):
            left, reactions = self._reactions(text, int(label))
            # f(x)_y is the same for all words of a text: the largest impact is the least that is left of the logit.
            vectors[row, : len(reactions)] = reactions[np.argsort(left, kind="stable")]
        return vectors

    def _reactions(self, text: str, label: int) -> tuple[Floats, Floats]:
        """For each word of a text: what is left of the predicted class's logit without it, and the reaction."""
        words = min(len(find_words(text)), self.length)
        hidden = _hidden_word(self.victim)
        # A text at a time: its forwards do not depend on the texts beside it.
        logits = self.victim.read([mask_words(text, [i], hidden) for i in range(words)]).logits
        assert logits is not None
        others = np.delete(logits, label, axis=1)
        return logits[:, label], logits[:, label] - others.max(axis=1)


def _hidden_word(victim: Victim) -> str:
    """The unknown token, as in the paper; where there is none, what else hides a word."""
    return unknown_word(victim)


def _pack(prior: float, trees: list[Any], rate: float) -> Arrays:
    """Boosted trees as flat arrays: node numbers run on from tree to tree, a leaf is its own child.

    Args:
        prior: Log-odds before the first tree.
        trees: scikit-learn's trees.
        rate: Learning rate, multiplied into the leaves.
    """
    sizes = [tree.node_count for tree in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    children = {}
    for side in ("left", "right"):
        parts = [getattr(tree, f"children_{side}") for tree in trees]
        children[side] = np.concatenate(
            [np.where(part < 0, np.arange(len(part)), part) + root for part, root in zip(parts, roots, strict=True)]
        ).astype(np.int64)
    return {
        "prior": np.array([prior], np.float64),
        "roots": roots,
        **children,
        "feature": np.maximum(np.concatenate([tree.feature for tree in trees]), 0).astype(np.int64),
        "threshold": np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
        "value": rate * np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float64),
    }


def _evaluate(arrays: Arrays, vectors: Floats) -> Floats:
    """(n,) log-odds of packed trees for (n, length) vectors."""
    read = vectors.astype(np.float32)  # thresholds were placed between float32 values
    rows = np.arange(len(read))
    total = np.full(len(read), arrays["prior"][0])
    for root in arrays["roots"]:
        node = np.full(len(read), root)
        while True:
            low = read[rows, arrays["feature"][node]] <= arrays["threshold"][node]
            child = np.where(low, arrays["left"][node], arrays["right"][node])
            if np.array_equal(child, node):
                break
            node = child
        total += arrays["value"][node]
    return total
