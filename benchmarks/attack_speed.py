"""Attack speed against TextAttack 0.3.11 as it is installed: the same victim, texts and recipes, in turn, in one run.

The peer is TextAttack's own recipe, wrapper (which pads to `--max-length`) and tagger, one example after the other;
its downloads are replaced by the same stand-ins. Outcomes are compared text by text. The third time is that of the
victim's forwards alone: the same distinct queries, all known beforehand, in length-sorted batches.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from textattack_peers import Downloads, textattack_recipe

from harness.core.errors import HarnessError
from harness.text.datasets import TextDataset, load_dataset, row_id
from harness.text.gradients import token_gradients
from harness.text.victims import Victim
from textadv.artifacts import find_artifact, is_here
from textadv.engine import SHARD_SIZE
from textadv.plan import AttackPlan
from textadv.recipes import RECIPES
from textadv.runtime import load_textattack
from textadv.sentence_encoders import load_sentence_encoder
from textadv.shards import ShardWorker, seed_generators
from textadv.vectors import load_vectors

# Outcome of one text: result, perturbed text, queries.
Outcome = tuple[str, str, int]
# Per text: the texts of each call of the goal function and their scores.
Calls = dict[str, list[tuple[list[str], list[float]]]]
TIE = 1e-6


def main() -> None:
    """Attack the same texts with both and print times, ratios, outcomes that differ, and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="pwws,textfooler+glove+minilm,bae+minilm-mlm+minilm")
    parser.add_argument("--dataset", default="embedded")
    parser.add_argument("--victim", default="embedded")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--max-length", type=int, help="tokens the victim takes and TextAttack pads to; else its own")
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--bf16", action="store_true", help="run ours in bf16 as well, where the CPU has it")
    parser.add_argument("--quick-peer", action="store_true", help="a peer without padding that keeps its tagger")
    options = parser.parse_args()
    load_textattack()
    texts = load_dataset(options.dataset, "test").sample(options.texts, 0)
    for name in options.recipes.split(","):
        missing = [one for one in RECIPES.get(name).artifacts if not is_here(one, options.artifacts)]
        if missing:
            print(f"{name}: left out, {', '.join(missing)} missing")
            continue
        compare(name, texts, options)


def compare(name: str, texts: TextDataset, options: Any) -> None:
    """One recipe on both engines, shard by shard in turn, so that a busy machine disturbs both alike."""
    plan = AttackPlan(options.victim, name, max_length=options.max_length, artifacts=options.artifacts)
    victim = plan.load_victim()
    worker = plan.build(victim)
    seconds: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    gaps: list[float] = []
    asked = 0

    def measure(engine: str, compute: Any) -> Any:
        spent, grown, found = measured(compute)
        seconds[engine] += spent
        memory[engine] = max(memory[engine], grown)
        return found

    with textattack_engine(name, victim, options) as attack:
        for shard in shards_of(texts):
            with logged_calls() as calls_ours, queries_of(victim) as queries:
                ours += measure("palimpsest", lambda shard=shard: attack_ours(worker, shard))
            measure("forwards alone", lambda queries=queries: victim.read(queries))
            with logged_calls() as calls_theirs:
                theirs += measure("textattack", lambda shard=shard: attack_theirs(attack, shard))
            asked += len(queries)
            gaps += [largest_gap(calls_ours[text], calls_theirs[text]) for text in shard.texts]
    differing = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    print(f"{name} on {len(texts)} texts of {texts.name}, {asked} distinct queries; {peer_of(victim, options)}")
    for engine in ("palimpsest", "textattack"):
        speed = len(texts) / seconds[engine]
        print(f"  {engine:15}{seconds[engine]:9.1f} s {speed:9.3f} texts/s   peak memory {memory[engine]:+.0f} MB")
    print(f"  {'forwards alone':15}{seconds['forwards alone']:9.1f} s")
    print(f"  {name} {seconds['textattack'] / seconds['palimpsest']:.1f}x TextAttack")
    print(f"  {seconds['palimpsest'] / seconds['forwards alone']:.2f} x the time of the forwards alone")
    print(f"  same result, text and queries: {len(texts) - len(differing)} of {len(texts)}")
    for i in differing:
        why = (
            f"a tie: all scores before agree within {gaps[i]:.0e}"
            if gaps[i] <= TIE
            else f"scores differ by {gaps[i]:.0e}"
        )
        print(f"    text {texts.indices[i]}: {ours[i]} / {theirs[i]} ({why})")
    if options.bf16:
        in_bf16(plan, texts, ours, seconds["textattack"])


def in_bf16(plan: AttackPlan, texts: TextDataset, reference: Sequence[Outcome], peer: float) -> None:
    """Ours with the victim in bf16."""
    try:
        worker = replace(plan, dtype="bf16").build()
    except HarnessError as error:
        print(f"  bf16: left out, {error.message}")
        return
    seconds, _, found = measured(lambda: [one for shard in shards_of(texts) for one in attack_ours(worker, shard)])
    results = sum(one[0] != other[0] for one, other in zip(found, reference, strict=True))
    same = sum(one == other for one, other in zip(found, reference, strict=True))
    print(f"  bf16{'':11}{seconds:9.1f} s   {peer / seconds:.1f}x TextAttack in fp32")
    print(f"  bf16 against fp32: {results} other results, {len(found) - same} other outcomes in all")


def shards_of(texts: TextDataset) -> list[TextDataset]:
    """The texts as the engine cuts them."""
    return [texts.take(range(at, min(at + SHARD_SIZE, len(texts)))) for at in range(0, len(texts), SHARD_SIZE)]


def attack_ours(worker: ShardWorker, texts: TextDataset) -> list[Outcome]:
    """Result, text and queries of each text."""
    found = worker.attack(texts)
    assert all(text.row for text in found), next(text.traceback for text in found if not text.row)
    return [(text.row.result, text.row.perturbed_text, text.row.queries) for text in found if text.row]


def peer_of(victim: Victim, options: Any) -> str:
    """What the peer does that decides its speed."""
    return "TextAttack pads to its longest" if options.quick_peer else f"TextAttack pads to {victim.max_length} tokens"


@contextmanager
def textattack_engine(name: str, victim: Victim, options: Any) -> Iterator[Any]:
    """TextAttack's attack, built and ready."""
    from textattack.models.wrappers import HuggingFaceModelWrapper

    from textadv.components import AskedVictim

    victim.tokenizer.model_max_length = victim.max_length
    wrapper: Any = HuggingFaceModelWrapper(victim.model, victim.tokenizer)
    if options.quick_peer:
        wrapper = AskedVictim(
            victim, lambda batch: victim.read(batch).probabilities, lambda batch: token_gradients(victim, batch)
        )
    with textattack_recipe(name, wrapper, downloads(name, options)) as attack, tagger_of(options):
        yield attack


def attack_theirs(attack: Any, texts: TextDataset) -> list[Outcome]:
    """Result, text and queries of each text, one after the other."""
    kinds = {"Successful": "success", "Failed": "failure", "Maximized": "maximized", "Skipped": "skipped"}
    found = []
    for text, label, index in zip(texts.texts, texts.labels.tolist(), texts.indices.tolist(), strict=True):
        attack.clear_cache()
        seed_generators(0, row_id(text, texts.name, index))
        result = attack.attack(text, label)
        kind = kinds[type(result).__name__.removesuffix("AttackResult")]
        found.append((kind, result.perturbed_result.attacked_text.tokenizer_input, result.num_queries))
    return found


def downloads(name: str, options: Any) -> Downloads:
    """The stand-ins of a recipe's name, as TextAttack's downloads."""
    needed = RECIPES.get(name).artifacts
    given: dict[str, Any] = {}
    if "counterfitted-glove" in needed:
        vectors = load_vectors(find_artifact("counterfitted-glove", options.artifacts))
        given |= {"words": vectors.words, "matrix": vectors.matrix}
    if "minilm" in needed:
        given["encode"] = load_sentence_encoder("minilm", find_artifact("minilm", options.artifacts)).encode
    if "minilm-masked-lm" in needed:
        given["masked_lm"] = find_artifact("minilm-masked-lm", options.artifacts)
    return Downloads(**given)


@contextmanager
def tagger_of(options: Any) -> Iterator[None]:
    """NLTK's tagger where the artifacts have it; as NLTK ships it, it is loaded anew for every call."""
    import nltk

    place = str(find_artifact("nltk-tagger", options.artifacts)) if is_here("nltk-tagger", options.artifacts) else ""
    with mock.patch.object(nltk.data, "path", [*nltk.data.path, *filter(None, [place])]):
        if not (options.quick_peer and place):
            yield
            return
        tagger = nltk.tag._get_tagger("eng")
        with mock.patch.object(nltk.tag, "_get_tagger", return_value=tagger):
            yield


@contextmanager
def logged_calls() -> Iterator[Calls]:
    """What goal functions are asked, and the scores they give."""
    from textattack.goal_functions import GoalFunction

    calls: Calls = defaultdict(list)
    whole = GoalFunction.get_results

    def logged(self: Any, asked: list[Any], check_skip: bool = False) -> Any:
        results, over = whole(self, asked, check_skip)
        scores = [float(result.score) for result in results]
        calls[self.initial_attacked_text.text].append(([one.text for one in asked], scores))
        return results, over

    with mock.patch.object(GoalFunction, "get_results", logged):
        yield calls


def largest_gap(
    ours: Sequence[tuple[list[str], list[float]]], theirs: Sequence[tuple[list[str], list[float]]]
) -> float:
    """The largest difference of scores up to the call where two searches part."""
    largest = 0.0
    for (asked, scores), (other, others) in zip(ours, theirs, strict=False):
        if asked != other:
            break
        largest = max([largest, *np.abs(np.subtract(scores, others))])
    return largest


@contextmanager
def queries_of(victim: Victim) -> Iterator[list[str]]:
    """The texts a victim reads, in order."""
    queries: list[str] = []
    read = victim.read

    def noted(texts: Sequence[str], layers: Sequence[int] = ()) -> Any:
        queries.extend(texts)
        return read(texts, layers)

    with mock.patch.object(victim, "read", noted):
        yield queries


def measured(compute: Any) -> tuple[float, float, Any]:
    """Seconds, growth of the peak memory in MB (Linux; else NaN), and what was computed."""
    before = _peak(reset=True)
    started = time.perf_counter()
    found = compute()
    return time.perf_counter() - started, _peak() - before, found


def _peak(*, reset: bool = False) -> float:
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
