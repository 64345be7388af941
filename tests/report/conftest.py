"""Finished runs of each kind, tiny, and a reader of pages that is a parser and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.core.files import hash_file
from harness.core.runs import Run
from harness.evaluation.detection import EvaluationSettings
from harness.evaluation.runs import EvaluationRequest, run_evaluation
from harness.text.adversarial import ROWS_FILE, AdversarialRow, compare_words, write_rows
from harness.text.datasets import row_id
from harness.text.victims import Victim

WORDS = ("good", "bad", "film", "plot", "actor", "scene", "story", "dull", "clever", "slow", "never", "warm", "boring")
# What could leave its place in a page; each stands in texts, in names and in class names.
HOSTILE = (
    "<script>window.ran = 'text'</script>",
    "</script></style></title></textarea><img src=x onerror=\"window.ran='image'\">",
    '"\'><svg onload="window.ran=1"><b>bold</b>',
    "{{ 7 * 7 }} {% raw %} &lt;i&gt; &#60;u&#62; <!-- a comment",
    "\u202eright to left\u202c \u2067isolated",
    "NUL\x00 bell\x07 escape\x1b[31m delete\x7f",
    "\n\nlone\nnew\r\nlines\rand\ttabs\u2028and\u2029",
    "zero\u200bwidth soft\u00adhyphen \ufeff mark",
)
_VOID = {"meta", "br", "line", "path"}


class Page(HTMLParser):
    """Tags, tables and texts of a page; fails where a tag is not closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][1][-1].append("")
        elif tag == "small":
            self.handle_data(" | ")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "caption" in self.open:
            self.tables[-1] = (self.tables[-1][0] + data, self.tables[-1][1])
        elif {"th", "td"} & set(self.open):
            self.tables[-1][1][-1][-1] += data

    def table(self, caption: str) -> list[list[str]]:
        """The rows of the one table whose caption holds some words, headers among them."""
        (found,) = [rows for told, rows in self.tables if caption in told]
        return found


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Page]:
    """`(path)` -> the page, parsed."""
    return lambda path: Page(path.read_text(encoding="utf-8"))


def sentences(n: int, seed: int, extra: tuple[str, ...] = ("",)) -> list[str]:
    """n different sentences, each with one of some extras inside."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(n):
        words = [*draw.choice(WORDS, size=draw.integers(3, 9)), str(i)]
        words.insert(1, extra[i % len(extra)])
        found.append(" ".join(filter(None, words)))
    return found


class Evaluation:
    """A tiny victim's attack, made up and so without cost, and evaluations of it."""

    def __init__(self, root: Path, victim_folder: Path, extra: tuple[str, ...] = ("",), name: str = "toy") -> None:
        self.victim_folder, self.data, self.attack = victim_folder, root / "data", root / "attack"
        victim = Victim.load(str(victim_folder))
        self.data.mkdir(parents=True)
        train = sentences(160, 1)
        frame = pd.DataFrame({"text": train, "label": victim.read(train).predictions})
        frame.loc[:1, "label"] = [0, 1]
        frame.to_csv(self.data / "train.csv", index=False)
        texts, spare = sentences(160, 2, extra), sentences(600, 3, extra)
        read = victim.read(texts)
        pools: dict[int, list[tuple[str, list[float]]]] = {0: [], 1: []}
        after = victim.read(spare)
        for text, label, sure in zip(spare, after.predictions.tolist(), after.probabilities.tolist(), strict=True):
            pools[label].append((text, sure))
        draw = np.random.default_rng(0)
        rows = []
        for i, text in enumerate(texts):
            predicted, sure = int(read.predictions[i]), read.probabilities[i].tolist()
            result = "skipped" if i % 8 == 7 else "success" if draw.random() < 0.7 else "failure"
            label = 1 - predicted if result == "skipped" else predicted
            pool = pools[1 - predicted] if result == "success" else pools[predicted]
            changed, said = (text, sure) if result == "skipped" else pool[i % len(pool)]
            positions, percent = compare_words(text, changed)
            rows.append(
                AdversarialRow(
                    id=row_id(text, name, i),
                    dataset=name,
                    split="test",
                    index=i,
                    label=label,
                    original_text=text,
                    perturbed_text=changed,
                    changed_positions=positions,
                    original_output=predicted,
                    perturbed_output=int(np.argmax(said)),
                    original_score=1 - sure[label],
                    perturbed_score=1 - said[label],
                    original_probabilities=sure,
                    perturbed_probabilities=said,
                    result=result,
                    goal="untargeted",
                    min_confidence=None,
                    recipe=f"made up {extra[0]}".strip(),
                    recipe_parameters="{}",
                    victim=victim.name,
                    victim_hash=victim.hash,
                    queries=3 + i % 40,
                    words_changed_percent=percent,
                    seed=0,
                    textattack_version=None,
                )
            )
        self.rows = rows
        with Run(self.attack, "attack run", {"name": name}) as run:
            write_rows(run.path(ROWS_FILE), rows)
            run.finish([ROWS_FILE], sources={"victim": str(victim_folder), "dataset": {"spec": str(self.data)}})

    def evaluate(self, out: Path, detectors: tuple[str, ...] = ("msp", "mle"), **settings: Any) -> Path:
        """A finished `eval detect` run."""
        chosen = EvaluationSettings(**{"replicates": 40, "seeds": (0, 1), "scenario": "s1", **settings})
        run_evaluation(EvaluationRequest([self.attack], detectors, {}, chosen), out)
        return out


@pytest.fixture(scope="session")
def evaluation(tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An attack of harmless texts."""
    return Evaluation(tmp_path_factory.mktemp("report"), tiny_victim_folder())


@pytest.fixture(scope="session")
def evaluated(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `eval detect` with detectors of two layers."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    return evaluation.evaluate(out, ("msp", "mle", "knn:layer=1", "knn:layer=3"))


@pytest.fixture(scope="session")
def hostile(tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(attack, evaluation) with hostile texts, recipe, dataset, class and detector names."""
    root = tmp_path_factory.mktemp("hostile")
    victim = shutil.copytree(tiny_victim_folder(), root / "victim")
    facts = json.loads((victim / "config.json").read_text())
    facts["id2label"] = {"0": HOSTILE[0] + HOSTILE[4], "1": HOSTILE[1]}
    facts["label2id"] = {name: int(key) for key, name in facts["id2label"].items()}
    (victim / "config.json").write_text(json.dumps(facts))
    made = Evaluation(root, victim, HOSTILE, name=f"data {HOSTILE[1]}")
    run = made.evaluate(root / "evaluated", validation_fraction=0.0, scenario="s2")
    # No registry has such a name; a results file that somebody hands on may.
    results = json.loads((run / "results.json").read_text())
    for mean, name in zip(results[0]["mean_over_seeds"].values(), HOSTILE[1:], strict=False):
        mean["title"] = name
    results[0]["notes"].extend(HOSTILE)
    rewrite(run, "results.json", json.dumps(results))
    return made.attack, run


def rewrite(run: Path, name: str, text: str) -> None:
    """Change an output of a run, as whoever hands on a run may, manifest and all."""
    (run / name).write_text(text, encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["outputs"][name] = hash_file(run / name)
    (run / "manifest.json").write_text(json.dumps(manifest))
