"""Suites: whole grids of datasets, attacks, victims, detectors and seeds, as the commands that make them.

A suite is a list of steps, and a step is a `harness` command with a run folder: what `--suite` runs can be run by hand,
one line at a time, and is resumed like any run. Folders are named alike in every run of a suite:

    OUT/attacks/DATASET-FAMILY-GOAL
    OUT/cells/DATASET-FAMILY-GOAL-SCENARIO[-dear]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import ConfigurationError, UnknownNameError

ONE_FORWARD = ("rde", "rde-empirical", "rde-linear", "mle", "msp", "entropy", "energy", "maxlogit")
GEOMETRY = ("mahalanobis", "rmd", "knn", "lid", "rmd:layer=all", "knn:layer=all")
FEW_FORWARDS = ("palimpsest", "fgws")
# Backward passes and other models cost as much as many forwards.
DEAR = ("gradmask", "sharpness", "ppl", "rtd-guard", "rsv", "addmu", "wdr", "mlmd", "gradmlmd")

Kind = Literal["attack", "cell"]


@dataclass(frozen=True)
class Step:
    """One command of a suite.

    Attributes:
        kind: What it makes.
        name: The last part of its folder.
        arguments: What follows `harness`.
        folder: Its run folder.
        cell: Of a cell: dataset, family, goal, victim, scenario.
        needs: Folders that must be finished before.
    """

    kind: Kind
    name: str
    arguments: tuple[str, ...]
    folder: Path
    cell: dict[str, str] = field(default_factory=dict)
    needs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Family:
    """A family of attacks: a recipe, and how many texts it attacks at most."""

    name: str
    recipe: str
    most_texts: int | None = None


@dataclass(frozen=True)
class SuiteDataset:
    """A dataset of a suite: name, how many texts are attacked (None for all), tokens a text may have, its victims.

    Victims are hub ids, or names in `harness.text.victims.VICTIMS`.
    """

    name: str
    texts: int | None
    max_length: int
    victims: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A grid.

    Attributes:
        name: What `--suite` calls it.
        datasets: With their victims.
        families: Of attacks.
        goals: Name -> the confidence with which the victim has to be wrong; None for just wrong.
        attack_arguments: Further arguments of all attacks.
        detectors: Those that are scored on all texts of all seeds.
        dear: Those that cost more, scored on one small sample in a cell of their own, with the references.
        scenarios: Of the cells.
        evaluation_arguments: Further arguments of all cells.
        dear_arguments: Further arguments of cells of dear detectors.
        left_out: (dataset, family) pairs that are no cells.
    """

    name: str
    datasets: tuple[SuiteDataset, ...]
    families: tuple[Family, ...]
    goals: dict[str, float | None]
    attack_arguments: tuple[str, ...]
    detectors: tuple[str, ...]
    dear: tuple[str, ...]
    scenarios: tuple[str, ...]
    evaluation_arguments: tuple[str, ...] = ()
    dear_arguments: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def _published(dataset: str) -> tuple[str, ...]:
    return tuple(f"textattack/{model}-{dataset}" for model in ("bert-base-uncased", "roberta-base"))


OFFLINE = Suite(
    name="offline",
    datasets=(
        SuiteDataset("sst2", 600, 128, ("minilm-lora-sst2",)),
        SuiteDataset("ag_news", 200, 128, ("minilm-lora-ag_news",)),
        SuiteDataset("imdb", 100, 128, ("minilm-lora-imdb",)),
        SuiteDataset("mr", 300, 128, ("minilm-lora-mr",)),
    ),
    families=(
        Family("pwws", "pwws"),
        Family("textfooler", "textfooler+glove+minilm"),
        Family("deepwordbug", "deepwordbug"),
        Family("bae", "bae+minilm-mlm+minilm", 300),
    ),
    goals={"reg": None, "far": 0.9},
    # In fp32, though bf16 halves the time: not every processor has it.
    attack_arguments=("--threads", "1"),
    detectors=(*ONE_FORWARD, *GEOMETRY, *FEW_FORWARDS),
    dear=("rde", "msp", "palimpsest", *DEAR),
    scenarios=("s1", "matched"),
    evaluation_arguments=(*("--seeds", "0,1,2", "--validation-fraction", "0.3"), *("--train-limit", "4000", "--words")),
    dear_arguments=(
        *("--seeds", "0", "--validation-fraction", "0.3", "--train-limit", "4000"),
        *("--target", "50", "--dear-texts", "50", "--same-texts"),
    ),
)
RDE_2022 = Suite(
    name="rde-2022",
    datasets=(
        SuiteDataset("imdb", 10_000, 512, _published("imdb")),
        SuiteDataset("ag_news", 7_600, 256, _published("ag-news")),
        SuiteDataset("sst2", 1_821, 64, _published("SST-2")),
        SuiteDataset("yelp_polarity", 5_000, 512, _published("yelp-polarity")),
    ),
    families=(
        Family("textfooler", "textfooler"),
        Family("pwws", "pwws"),
        Family("bae", "bae"),
        Family("tf-adj", "tf-adj"),
    ),
    goals={"reg": None},
    attack_arguments=(),
    detectors=("rde", "rde-empirical", "mle", "msp", "ppl", "fgws", "palimpsest"),
    dear=(),
    scenarios=("s1", "s2"),
    evaluation_arguments=("--seeds", "0,1,2"),
    left_out=(("sst2", "tf-adj"),),
)
SUITES = {suite.name: suite for suite in (OFFLINE, RDE_2022)}


def get_suite(name: str) -> Suite:
    """A suite by name.

    Raises:
        UnknownNameError: There is no such suite.
    """
    if name not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    return SUITES[name]


def plan_suite(
    suite: Suite,
    out: Path,
    *,
    data: Path | None = None,
    artifacts: Path | None = None,
    attack_set: Path | None = None,
    only: tuple[str, ...] = (),
    detectors: tuple[str, ...] = (),
    dear: bool = True,
) -> list[Step]:
    """The steps of a suite, in an order in which each finds what it needs.

    Args:
        suite: The grid.
        out: The folder of all its runs.
        data: A folder with a folder a dataset; None to take datasets by their registered names.
        artifacts: External files of the recipes, looked into first.
        attack_set: A released set; attacks of the suite that it holds are restored instead of made.
        only: Parts of cell names; a cell is kept if its name holds one of them. All where there are none.
        detectors: Instead of the suite's own.
        dear: Whether cells of dear detectors are among the steps.

    Raises:
        ConfigurationError: No cell has such a name.
        HarnessError: The set is no sound one.
    """
    released = {} if attack_set is None else _released(attack_set)
    attacks: dict[str, Step] = {}
    cells: list[Step] = []
    for dataset in suite.datasets:
        source = str(data / dataset.name) if data is not None else dataset.name
        for victim in dataset.victims:
            tag = "" if len(dataset.victims) == 1 else f"-{victim.rpartition('/')[2]}"
            for family in suite.families:
                if (dataset.name, family.name) in suite.left_out:
                    continue
                for goal, wanted in suite.goals.items():
                    name = f"{dataset.name}{tag}-{family.name}-{goal}"
                    folder = out / "attacks" / name
                    known = released.get(_identity(dataset, family, wanted, victim))
                    arguments = (
                        _attack(suite, dataset, family, victim, source, wanted, artifacts)
                        if known is None
                        else ("attack", "restore", str(attack_set), "--dataset", source, "--config", known)
                    )
                    attacks[name] = Step("attack", name, (*arguments, "--out", str(folder)), folder)
                    about = {"dataset": dataset.name, "family": family.name, "goal": goal, "victim": victim}
                    cells += _cells(suite, name, folder, out, about, detectors, dear)
    kept = [cell for cell in cells if not only or any(part in cell.name for part in only)]
    if not kept:
        raise ConfigurationError(
            f"no cell of the suite {suite.name!r} is called like {', '.join(only)}.",
            f"Cells are called like {cells[0].name}.",
        )
    wanted_attacks = {folder for cell in kept for folder in cell.needs}
    return [*(step for step in attacks.values() if step.folder in wanted_attacks), *kept]


def _attack(
    suite: Suite,
    dataset: SuiteDataset,
    family: Family,
    victim: str,
    source: str,
    confidence: float | None,
    artifacts: Path | None,
) -> tuple[str, ...]:
    texts = _texts(dataset, family)
    arguments = [*("attack", "run", "--dataset", source, "--victim", victim, "--recipe", family.recipe)]
    arguments += ["--split", "test", *(() if texts is None else ("--limit", str(texts)))]
    arguments += ["--max-length", str(dataset.max_length), *suite.attack_arguments]
    arguments += [] if confidence is None else ["--min-confidence", str(confidence)]
    arguments += [] if artifacts is None else ["--artifacts", str(artifacts)]
    return tuple(arguments)


def _texts(dataset: SuiteDataset, family: Family) -> int | None:
    return min((n for n in (dataset.texts, family.most_texts) if n is not None), default=None)


def _identity(dataset: SuiteDataset, family: Family, confidence: float | None, victim: str) -> tuple[Any, ...]:
    """What makes an attack of a suite the one of a released set."""
    return dataset.name, family.recipe, confidence, victim, _texts(dataset, family), dataset.max_length


def _released(folder: Path) -> dict[tuple[Any, ...], str]:
    """The names of a set's configurations, by what `_identity` says of an attack."""
    from harness.text.release.description import read_description

    found: dict[tuple[Any, ...], str] = {}
    for name, facts in read_description(folder)["configurations"].items():
        run, goal = facts["run"], facts["goal"]
        plain = goal["name"] == "untargeted" and not any(
            goal[key] for key in ("evaded", "query_limit", "seconds_limit", "target_class")
        )
        if plain and list(facts["splits"]) == ["test"] and facts["seed"] == 0:
            of = (facts["dataset"]["name"], facts["recipe"]["name"], goal["min_confidence"], facts["victim"]["name"])
            found[(*of, run.get("texts"), run.get("max_length"))] = name
    return found


def _cells(
    suite: Suite,
    name: str,
    attack: Path,
    out: Path,
    about: dict[str, str],
    detectors: tuple[str, ...],
    dear: bool,
) -> list[Step]:
    found = []
    for scenario in suite.scenarios:
        groups = [("", detectors or suite.detectors, suite.evaluation_arguments)]
        if dear and suite.dear and scenario == suite.scenarios[0]:
            groups.append(("-dear", suite.dear, suite.dear_arguments))
        for suffix, chosen, more in groups:
            folder = out / "cells" / f"{name}-{scenario}{suffix}"
            arguments = ("eval", "detect", "--attacks", str(attack), "--detector", *chosen, "--scenario", scenario)
            cell = {**about, "scenario": scenario, "group": "dear" if suffix else "all"}
            found.append(
                Step("cell", folder.name, (*arguments, *more, "--out", str(folder)), folder, cell, needs=(attack,))
            )
    return found
