"""What recipes are built from: the victim, the goal, and models that need artifacts, each loaded once.

Every model is behind an oracle, so that attacks which are in flight together share its batches and its memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from harness.text.gradients import token_gradients
from harness.text.victims import Victim, weights_hash
from textadv.answers import AnswerFile
from textadv.artifacts import find_artifact
from textadv.goals import Goal
from textadv.joining import Oracle
from textadv.runtime import load_textattack

Loaded = TypeVar("Loaded")


class Parts:
    """The parts of attacks on one victim.

    Args:
        victim: The classifier under attack.
        goal: What the attacks want.
        artifacts: A folder with artifacts, looked into first (`--artifacts`).
        answers: What the victim and sentence encoders answered to earlier attacks; None to remember nothing.

    Attributes:
        queries: The oracle of the victim's probabilities.
        hashes: Content hashes of the artifacts that were loaded, by name.
    """

    def __init__(
        self,
        victim: Victim,
        goal: Goal | None = None,
        *,
        artifacts: Path | None = None,
        answers: AnswerFile | None = None,
    ) -> None:
        load_textattack()
        self.victim = victim
        self.goal = goal or Goal()
        self.artifacts = artifacts
        self._answers = answers
        self.hashes: dict[str, str] = {}
        self._loaded: dict[tuple[str, str], Any] = {}
        self._oracles: list[Oracle[Any, Any]] = []
        self._read: dict[bytes, Any] = {}
        self.queries: Oracle[str, Any] = self._oracle(self._probabilities)
        self._gradients = self._oracle(lambda texts: token_gradients(victim, texts), remember=False)
        evasion = self.goal.evasion
        self._scores = self._oracle(evasion.score) if evasion else None

    def _oracle(self, answer: Callable[[Any], Any], **options: bool) -> Oracle[Any, Any]:
        made: Oracle[Any, Any] = Oracle(answer, **options)
        self._oracles.append(made)
        return made

    def _probabilities(self, texts: Sequence[str]) -> list[Any]:
        """The victim's probabilities, from one forward for texts that it reads alike.

        An uncased victim reads variants of case alike, and every unknown word. Their scores tie, and must do so to the
        last digit: which of them an attack takes is then decided by their order, as in TextAttack.
        """
        encoded = self.victim.tokenizer(list(texts), truncation=True, max_length=self.victim.max_length)["input_ids"]
        # A digest: the ids of a long text would take more memory than all the rest.
        inputs = [hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest() for ids in encoded]
        new = {key: text for key, text in zip(inputs, texts, strict=True) if key not in self._read}
        unread = list(new.values())
        found = self._recalled(
            lambda: f"{self.victim.hash} {self.victim.dtype}",
            list(new),
            lambda places: self.victim.read([unread[place] for place in places]).probabilities,
        )
        self._read.update(zip(new, found, strict=True))
        return [self._read[key] for key in inputs]

    def _recalled(
        self, model: Callable[[], str], questions: Sequence[bytes], answer: Callable[[list[int]], Iterable[Any]]
    ) -> list[Any]:
        """Answers from the file, where there is one; only then is `model` asked for its identity."""
        if self._answers is None:
            return list(answer(list(range(len(questions)))))
        return self._answers.recall(model(), questions, answer)

    def forget(self) -> None:
        """Drop all remembered answers."""
        self._read.clear()
        for oracle in self._oracles:
            oracle.forget()

    def model(self) -> Any:
        """The victim as TextAttack's model wrapper."""
        from textadv.components import AskedVictim

        return AskedVictim(self.victim, self.queries.ask, self._gradients.ask)

    def goal_function(self) -> Any:
        """A new goal function on the victim."""
        return self.goal.build(self.model(), score=self._scores.ask if self._scores else None)

    def with_goal(self, attack: Any) -> Any:
        """An attack that TextAttack built, with the goal of these parts."""
        from textattack import Attack

        constraints = [*attack.pre_transformation_constraints, *attack.constraints]
        return Attack(self.goal_function(), constraints, attack.transformation, attack.search_method)

    def embedding(self, name: str) -> Any:
        """Word vectors, or a table of neighbours, as TextAttack's word embedding."""
        from textadv import vectors

        def load(folder: Path) -> Any:
            if name == "counterfitted-neighbors":
                table = vectors.NeighbourTable.load(folder)
                self.hashes[name] = table.hash
                return vectors.embedding(table)
            words = vectors.load_vectors(folder)
            self.hashes[name] = words.hash
            return vectors.embedding(words)

        return self._load("embedding", name, load)

    def sentence_encoder(self, name: str) -> Callable[[Sequence[str]], Sequence[Any]]:
        """Asks a sentence encoder: n texts in, n vectors out."""

        def load(folder: Path) -> Any:
            from textadv.sentence_encoders import load_sentence_encoder

            encoder = load_sentence_encoder(name, folder, device=str(self.victim.device))
            self.hashes[name] = encoder.hash

            def encode(texts: Sequence[str]) -> list[Any]:
                asked = [text.encode() for text in texts]
                return self._recalled(
                    lambda: encoder.hash, asked, lambda places: encoder.encode([texts[place] for place in places])
                )

            return self._oracle(encode).ask

        return self._load("sentences", name, load)  # type: ignore[no-any-return]

    def masked_lm(self, name: str) -> dict[str, Any]:
        """A masked language model and its tokenizer, as TextAttack's transformations take them."""
        from textadv.masked_words import AskedMaskedLM, UnpaddedTokenizer

        def load(folder: Path) -> Any:
            from harness.text.masked_lm import MaskedLanguageModel

            model = MaskedLanguageModel.load(folder, device=str(self.victim.device))
            self.hashes[name] = model.hash
            # Not remembered: a text is masked at a word once, and an answer is as long as the vocabulary.
            oracle = self._oracle(lambda asked: model.logits(*zip(*asked, strict=True)), remember=False)
            asked = AskedMaskedLM(oracle.ask, model.config, model.tokenizer)
            return {"masked_language_model": asked, "tokenizer": UnpaddedTokenizer(model.tokenizer)}

        return self._load("masked", name, load)

    def tagger(self) -> Callable[[Sequence[tuple[str, ...]]], Sequence[tuple[str, ...]]]:
        """Asks NLTK's part-of-speech tagger: n word sequences in, n sequences of universal tags out."""

        def load(folder: Path) -> Any:
            return self._oracle(_universal_tagger(folder), joined=False).ask

        return self._load("tagger", "nltk-tagger", load)  # type: ignore[no-any-return]

    def grammar_errors(self) -> Callable[[Sequence[str]], Sequence[int]]:
        """Asks LanguageTool: n texts in, the number of errors in each out."""

        def load(folder: Path) -> Any:
            import os

            import language_tool_python

            os.environ["LTP_PATH"] = str(folder)  # or it downloads one
            tool = language_tool_python.LanguageTool("en-US")
            return self._oracle(lambda texts: [len(tool.check(text)) for text in texts], joined=False).ask

        return self._load("grammar", "languagetool", load)  # type: ignore[no-any-return]

    def causal_lm(self, name: str) -> tuple[Callable[[Sequence[tuple[int, ...]]], Sequence[Any]], Any]:
        """Asks a causal language model for the logits after n prefixes of token ids; and its tokenizer."""

        def load(folder: Path) -> Any:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
            model.to(self.victim.device).eval()
            self.hashes[name] = weights_hash(model, tokenizer)

            def after(prefixes: Sequence[tuple[int, ...]]) -> list[Any]:
                with torch.inference_mode():
                    asked = [torch.tensor([ids], device=self.victim.device) for ids in prefixes]
                    return [model(ids).logits[0, -1].float().cpu() for ids in asked]

            return self._oracle(after, remember=False).ask, tokenizer

        return self._load("causal", name, load)  # type: ignore[no-any-return]

    def _load(self, kind: str, name: str, load: Callable[[Path], Loaded]) -> Loaded:
        if (kind, name) not in self._loaded:
            self._loaded[kind, name] = load(find_artifact(name, self.artifacts))
        return self._loaded[kind, name]  # type: ignore[no-any-return]


@lru_cache(maxsize=2)
def _universal_tagger(folder: Path) -> Callable[[Sequence[tuple[str, ...]]], list[tuple[str, ...]]]:
    import nltk
    from nltk.tag.mapping import map_tag
    from nltk.tag.perceptron import PerceptronTagger

    if str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))
    tagger = PerceptronTagger()

    def tag(asked: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return [tuple(map_tag("en-ptb", "universal", found) for _, found in tagger.tag(list(words))) for words in asked]

    return tag
