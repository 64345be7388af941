"""The set of the suite `offline` in `attacks/sets`: whole, opened by `datasets`, and of the corpora that it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.evaluation.suites import OFFLINE, plan_suite
from harness.text.adversarial import read_rows
from harness.text.release.description import checked_file, read_description
from harness.text.release.restoring import restore_attacks
from harness.text.victims import Victim

SET = Path(__file__).resolve().parents[3] / "attacks" / "sets" / "offline"
CORPORA = sorted(
    {facts["dataset"]["name"] for facts in read_description(SET)["configurations"].values()} if SET.is_dir() else ()
)

pytestmark = pytest.mark.skipif(not SET.is_dir(), reason="the set lies in a checkout only")


def test_it_is_whole_and_every_configuration_opens(tmp_path: Path) -> None:
    import datasets

    configurations = read_description(SET)["configurations"]
    assert set(datasets.get_dataset_config_names(str(SET))) == set(configurations)
    for name, facts in configurations.items():
        assert facts["texts"] == "withheld"
        loaded = datasets.load_dataset(str(SET), name, cache_dir=str(tmp_path))
        assert {split: len(rows) for split, rows in loaded.items()} == {
            split: part["rows"] for split, part in facts["splits"].items()
        }
        for part in facts["splits"].values():
            checked_file(SET, part)


def test_its_attacks_are_those_of_the_suite() -> None:
    texts = {
        (dataset.name, family.recipe): min(dataset.texts, family.most_texts or dataset.texts)
        for dataset in OFFLINE.datasets
        for family in OFFLINE.families
    }
    for facts in read_description(SET)["configurations"].values():
        assert facts["counts"]["rows"] == texts[facts["dataset"]["name"], facts["recipe"]["name"]]
        assert facts["goal"]["min_confidence"] in (None, 0.9)
        assert facts["victim"]["hash"] == Victim.load(facts["victim"]["name"], device="cpu").hash


def restored_steps(folder: Path) -> list[str]:
    """The configurations that the suite would restore from a set, of its 32 attacks."""
    attacks = [step for step in plan_suite(OFFLINE, Path("grid"), attack_set=folder) if step.kind == "attack"]
    assert len(attacks) == 32
    made = {step.arguments[:2] for step in attacks}
    assert made <= {("attack", "run"), ("attack", "restore")}
    restores = [step.arguments for step in attacks if step.arguments[1] == "restore"]
    for arguments in restores:
        assert arguments[2:4] == (str(folder), "--dataset")
    return sorted(arguments[arguments.index("--config") + 1] for arguments in restores)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("run", "texts"), 7),
        (("run", "max_length"), 64),
        (("seed",), 1),
        (("victim", "name"), "minilm"),
        (("goal", "query_limit"), 100),
    ],
)
def test_the_suite_restores_what_is_its_own(place: tuple[str, ...], value: object, tmp_path: Path) -> None:
    description = json.loads((SET / "release.json").read_text())
    names = sorted(description["configurations"])
    assert restored_steps(SET) == names
    assert len(names) == 32  # all of them: nothing is attacked again
    shutil.copytree(SET, tmp_path / "set")
    changed = description["configurations"][names[0]]
    for key in place[:-1]:
        changed = changed[key]
    changed[place[-1]] = value
    (tmp_path / "set" / "release.json").write_text(json.dumps(description))
    assert restored_steps(tmp_path / "set") == names[1:]


@pytest.mark.parametrize("dataset", CORPORA)
def test_its_texts_come_back_from_the_corpus(dataset: str, shared_data: Path, tmp_path: Path) -> None:
    restored = restore_attacks(SET, tmp_path / "runs", dataset=str(shared_data / "text" / dataset))
    assert restored
    configurations = read_description(SET)["configurations"]
    for one in restored:
        assert (one.missing, one.moved, one.other_labels) == ([], 0, 0)
        counts = configurations[one.name]["counts"]
        assert (len(one.rows), len(one.withheld)) == (counts["rows"] - counts["withheld"], counts["withheld"])
        manifest = json.loads((one.folder / "manifest.json").read_text())
        assert manifest["status"] == "complete"
        assert manifest["sources"]["victim"] == one.rows[0].victim  # found by its name, with nothing said
        assert len(read_rows(one.folder)) == len(one.rows)
