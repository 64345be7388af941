"""Suites: whole grids of datasets, attacks, victims, detectors and seeds, as the commands that make them.

A suite is a list of steps, and a step is a `harness` command with a run folder: what `--suite` runs can be run by hand,
one line at a time, and is resumed like any run. Folders are named alike in every run of a suite:

    OUT/victims/VICTIM            trained here, or a hub id
    OUT/attacks/DATASET-FAMILY-GOAL
    OUT/cells/DATASET-FAMILY-GOAL-SCENARIO[-dear]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.core.errors import ConfigurationError, UnknownNameError

ONE_FORWARD = ("rde", "rde-empirical", "rde-linear", "mle", "msp", "entropy", "energy", "maxlogit")
GEOMETRY = ("mahalanobis", "rmd", "knn", "lid", "rmd:layer=all", "knn:layer=all")
FEW_FORWARDS = ("palimpsest", "fgws")
# Backward passes and other models cost as much as many forwards.
DEAR = ("gradmask", "sharpness", "ppl", "rtd-guard", "rsv", "addmu", "wdr", "mlmd", "gradmlmd")

Kind = Literal["victim", "attack", "cell"]


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
class SuiteVictim:
    """A victim of a suite: `train` holds the arguments that train it here; without them `name` is a hub id."""

    name: str
    train: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """A family of attacks: a recipe, and how many texts it attacks at most."""

    name: str
    recipe: str
    most_texts: int | None = None


@dataclass(frozen=True)
class SuiteDataset:
    """A dataset of a suite: name, how many texts are attacked (None for all), tokens a text may have, its victims."""

    name: str
    texts: int | None
    max_length: int
    victims: tuple[SuiteVictim, ...]


@dataclass(frozen=True)
class Suite:
    """A grid.

    Attributes:
        name: What `--suite` calls it.
        datasets: With their victims.
        families: Of attacks.
        goals: Name -> further arguments of the attack.
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
    goals: dict[str, tuple[str, ...]]
    attack_arguments: tuple[str, ...]
    detectors: tuple[str, ...]
    dear: tuple[str, ...]
    scenarios: tuple[str, ...]
    evaluation_arguments: tuple[str, ...] = ()
    dear_arguments: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def _minilm(dataset: str, limit: int | None) -> tuple[SuiteVictim, ...]:
    rows = () if limit is None else ("--limit", str(limit))
    # The weights depend on the number of threads: with the machine's own number nobody could make them again.
    train = ("--encoder", "embedded", *rows, "--max-length", "128", "--threads", "1")
    return (SuiteVictim(f"minilm-{dataset}", train),)


def _published(dataset: str) -> tuple[SuiteVictim, ...]:
    return tuple(SuiteVictim(f"textattack/{model}-{dataset}") for model in ("bert-base-uncased", "roberta-base"))


OFFLINE = Suite(
    name="offline",
    datasets=(
        SuiteDataset("sst2", 600, 128, _minilm("sst2", 10_000)),
        SuiteDataset("ag_news", 200, 128, _minilm("ag_news", 8_000)),
        SuiteDataset("imdb", 100, 128, _minilm("imdb", 5_000)),
        SuiteDataset("mr", 300, 128, _minilm("mr", None)),
    ),
    families=(
        Family("pwws", "pwws"),
        Family("textfooler", "textfooler+glove+minilm"),
        Family("deepwordbug", "deepwordbug"),
        Family("bae", "bae+minilm-mlm+minilm", 300),
    ),
    goals={"reg": (), "far": ("--min-confidence", "0.9")},
    # The search asks in bf16, which halves its time; the cells ask every text again in fp32.
    attack_arguments=("--dtype", "bf16", "--threads", "1"),
    detectors=(*ONE_FORWARD, *GEOMETRY, *FEW_FORWARDS),
    dear=("rde", "msp", "palimpsest", *DEAR),
    scenarios=("s1", "matched"),
    evaluation_arguments=(*("--seeds", "0,1,2", "--validation-fraction", "0.3"), *("--train-limit", "4000", "--words")),
    dear_arguments=(
        *("--seeds", "0", "--validation-fraction", "0.3", "--train-limit", "4000"),
        *("--target", "50", "--dear-texts", "50"),
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
    goals={"reg": ()},
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
        only: Parts of cell names; a cell is kept if its name holds one of them. All where there are none.
        detectors: Instead of the suite's own.
        dear: Whether cells of dear detectors are among the steps.

    Raises:
        ConfigurationError: No cell has such a name.
    """
    victims: dict[str, Step] = {}
    attacks: dict[str, Step] = {}
    cells: list[Step] = []
    for dataset in suite.datasets:
        source = str(data / dataset.name) if data is not None else dataset.name
        for victim in dataset.victims:
            tag = "" if len(dataset.victims) == 1 else f"-{victim.name.rpartition('/')[2]}"
            spec, needs = victim.name, tuple[Path, ...]()
            if victim.train:
                folder = out / "victims" / victim.name
                spec, needs = str(folder), (folder,)
                arguments = ("victim", "train", "--dataset", source, *victim.train, "--out", spec)
                victims[victim.name] = Step("victim", victim.name, arguments, folder)
            for family in suite.families:
                if (dataset.name, family.name) in suite.left_out:
                    continue
                for goal, wanted in suite.goals.items():
                    name = f"{dataset.name}{tag}-{family.name}-{goal}"
                    made = _attack(suite, dataset, family, name, spec, source, wanted, out, artifacts, needs)
                    attacks[name] = made
                    about = {"dataset": dataset.name, "family": family.name, "goal": goal, "victim": victim.name}
                    cells += _cells(suite, name, made.folder, out, about, detectors, dear)
    kept = [cell for cell in cells if not only or any(part in cell.name for part in only)]
    if not kept:
        raise ConfigurationError(
            f"no cell of the suite {suite.name!r} is called like {', '.join(only)}.",
            f"Cells are called like {cells[0].name}.",
        )
    wanted_attacks = {folder for cell in kept for folder in cell.needs}
    kept_attacks = [step for step in attacks.values() if step.folder in wanted_attacks]
    wanted_victims = {folder for step in kept_attacks for folder in step.needs}
    return [*(step for step in victims.values() if step.folder in wanted_victims), *kept_attacks, *kept]


def _attack(
    suite: Suite,
    dataset: SuiteDataset,
    family: Family,
    name: str,
    victim: str,
    source: str,
    wanted: tuple[str, ...],
    out: Path,
    artifacts: Path | None,
    needs: tuple[Path, ...],
) -> Step:
    folder = out / "attacks" / name
    texts = min((n for n in (dataset.texts, family.most_texts) if n is not None), default=None)
    arguments = [*("attack", "run", "--dataset", source, "--victim", victim, "--recipe", family.recipe)]
    arguments += ["--split", "test", *(() if texts is None else ("--limit", str(texts)))]
    arguments += ["--max-length", str(dataset.max_length), *suite.attack_arguments, *wanted]
    arguments += [] if artifacts is None else ["--artifacts", str(artifacts)]
    return Step("attack", name, (*arguments, "--out", str(folder)), folder, needs=needs)


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
