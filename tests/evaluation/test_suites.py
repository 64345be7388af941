"""Suites: the steps of the grids, and a runner that goes on where a step fails."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import harness.evaluation.suites as suites_module
from harness.core.errors import ConfigurationError, UnknownNameError
from harness.core.runs import Run
from harness.detectors.specs import canonical_spec
from harness.evaluation.suite_report import FilledCell, write_report
from harness.evaluation.suites import (
    OFFLINE,
    RDE_2022,
    SUITES,
    Family,
    Step,
    Suite,
    SuiteDataset,
    get_suite,
    plan_suite,
)
from harness.text.victims import VICTIMS

OUT = Path("grid")


def steps_of(steps, kind):
    """The steps of one kind."""
    return [step for step in steps if step.kind == kind]


def value(step, option):
    """What follows an option of a step's command."""
    return step.arguments[step.arguments.index(option) + 1]


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_every_step_finds_what_it_needs_made_before_it(suite):
    steps = plan_suite(suite, OUT)
    made = set()
    for step in steps:
        assert set(step.needs) <= made, step.name
        made.add(step.folder)
        assert step.name == step.folder.name
        assert value(step, "--out") == str(step.folder)
        assert step.folder.is_relative_to(OUT)
    assert len(made) == len(steps)  # no folder twice
    assert [step.kind for step in steps] == sorted(step.kind for step in steps)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_all_detectors_of_a_suite_are_known_and_named_once(suite):
    for names in (suite.detectors, suite.dear):
        assert len({canonical_spec(name) for name in names}) == len(names)


def test_the_offline_grid():
    steps = plan_suite(OFFLINE, OUT)
    attacks, cells = (steps_of(steps, kind) for kind in ("attack", "cell"))
    names = {
        f"{dataset}-{family}-{goal}"
        for dataset, family, goal in itertools.product(
            ("sst2", "ag_news", "imdb", "mr"), ("pwws", "textfooler", "deepwordbug", "bae"), ("reg", "far")
        )
    }
    assert {value(step, "--threads") for step in attacks} == {"1"}  # or nobody makes the same again
    assert {value(step, "--victim") for step in attacks} == {entry.name for entry in VICTIMS} - {"embedded"}
    assert len(attacks) == 32
    assert {step.name for step in attacks} == names
    assert {step.name for step in cells} == {f"{name}-{end}" for name in names for end in ("s1", "s1-dear", "matched")}
    for step in attacks:
        assert step.arguments[:2] == ("attack", "run")
        assert value(step, "--victim") == f"minilm-lora-{value(step, '--dataset')}"
        assert ("--min-confidence" in step.arguments) == step.name.endswith("far")
        assert value(step, "--split") == "test"
        assert "--dtype" not in step.arguments  # not every processor has another than the usual one
    assert value(next(s for s in attacks if s.name == "sst2-bae-far"), "--limit") == "300"
    assert value(next(s for s in attacks if s.name == "imdb-bae-far"), "--limit") == "100"
    for step in cells:
        assert step.arguments[:2] == ("eval", "detect")
        assert value(step, "--attacks") == str(step.needs[0])
        about = step.cell
        assert step.name.startswith(f"{about['dataset']}-{about['family']}-{about['goal']}-{about['scenario']}")
        assert value(step, "--scenario") == about["scenario"]
        assert (about["group"] == "dear") == step.name.endswith("-dear") == ("--dear-texts" in step.arguments)


def test_the_published_grid():
    steps = plan_suite(RDE_2022, OUT)
    attacks, cells = steps_of(steps, "attack"), steps_of(steps, "cell")
    # 4 datasets x 2 victims x 4 attacks, less TF-adj on SST-2.
    assert len(attacks) == 30
    assert len(cells) == 60
    assert {step.cell["scenario"] for step in cells} == {"s1", "s2"}
    assert not [step.name for step in attacks if "sst2" in step.name and "tf-adj" in step.name]
    victims = {value(step, "--victim") for step in attacks}
    assert len(victims) == 8
    assert all(name.startswith("textattack/") for name in victims)
    assert "imdb-bert-base-uncased-imdb-textfooler-reg" in {step.name for step in attacks}


def test_only_what_is_asked_for_and_what_that_needs():
    steps = plan_suite(OFFLINE, OUT, only=("mr-bae-far-s1",), dear=False)
    assert [step.name for step in steps] == ["mr-bae-far", "mr-bae-far-s1"]
    both = plan_suite(OFFLINE, OUT, only=("mr-bae-far-s1",))
    assert [step.name for step in both][1:] == ["mr-bae-far-s1", "mr-bae-far-s1-dear"]
    assert {step.cell["dataset"] for step in steps_of(plan_suite(OFFLINE, OUT, only=("imdb", "mr-")), "cell")} == {
        *("imdb", "mr")
    }
    with pytest.raises(ConfigurationError, match="called like nowhere") as refused:
        plan_suite(OFFLINE, OUT, only=("nowhere",))
    assert "sst2-pwws-reg-s1" in refused.value.hint


def test_data_artifacts_and_detectors_are_handed_on():
    steps = plan_suite(
        OFFLINE, OUT, data=Path("sets"), artifacts=Path("files"), only=("mr-pwws-reg",), detectors=("msp", "rde")
    )
    attack, cell, dear, *_ = steps
    assert value(attack, "--dataset") == str(Path("sets", "mr"))
    assert value(attack, "--artifacts") == "files"
    at = cell.arguments.index("--detector")
    assert cell.arguments[at : at + 4] == ("--detector", "msp", "rde", "--scenario")
    assert dear.arguments[dear.arguments.index("--detector") + 1 :][: len(OFFLINE.dear)] == OFFLINE.dear


def test_an_unknown_suite_is_named():
    with pytest.raises(UnknownNameError, match="onlin"):
        get_suite("onlin")


def test_a_dry_run_prints_the_commands_and_runs_nothing(main, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("eval", "detect", "--suite", "offline", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    expected = plan_suite(OFFLINE, Path("runs", "offline"))
    assert len(lines) == len(expected) == 32 + 96
    assert all(line.startswith("harness ") for line in lines)
    assert [line.split()[1:] for line in lines] == [list(step.arguments) for step in expected]
    assert not list(tmp_path.iterdir())
    few = ("--only", "mr-pwws-far", "sst2-bae-reg", "--no-dear", "--data", "my sets", "--out", "grid")
    assert main("eval", "detect", "--suite", "offline", "--dry-run", *few) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    assert "'my sets/mr'" in lines[1] or "'my sets/sst2'" in lines[1]  # a shell takes it as it stands
    assert all("grid/" in line for line in lines)


def test_a_suite_makes_its_own_attacks(main, capfd, tmp_path):
    assert main("eval", "detect", "--suite", "offline", "--attacks", tmp_path, "--dry-run") != 0
    assert "--suite makes its own attacks" in capfd.readouterr().err
    assert main("eval", "detect") != 0
    assert "--suite" in capfd.readouterr().err
    assert main("eval", "detect", "--suite", "nothing") != 0
    assert "nothing" in capfd.readouterr().err


@pytest.fixture
def tiny(folders, tmp_path, monkeypatch):
    """A suite of two attacks, of which the first is made already and the second cannot be."""
    victim_folder, data, attack = folders
    attack_folder = attack("for-a-suite")
    fast = ("--seeds", "0", "--replicates", "20", "--target", "40", "--components", "5", "--dear-texts", "4")
    suite = Suite(
        name="tiny",
        datasets=(SuiteDataset(data.name, 10, 128, (str(victim_folder),)),),
        families=(Family("made", "made-up"), Family("lost", "no-such-recipe")),
        goals={"reg": None},
        attack_arguments=(),
        detectors=("rde-empirical", "msp", "mle", "mlmd"),
        dear=("msp", "rtd-guard"),
        scenarios=("s1", "s2"),
        evaluation_arguments=fast,
        dear_arguments=fast,
    )
    monkeypatch.setitem(suites_module.SUITES, "tiny", suite)
    out = tmp_path / "grid"
    (out / "attacks").mkdir(parents=True)
    (out / "attacks" / "toy-made-reg").symlink_to(attack_folder)
    return suite, out, data.parent


def test_a_step_that_fails_is_marked_and_the_others_go_on(tiny, main, capfd, monkeypatch, tmp_path):
    _, out, data = tiny
    started = []

    def fails(arguments, check):
        started.append(arguments)
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr("harness.cli.suites.subprocess", SimpleNamespace(run=fails))
    board = tmp_path / "board"
    asked = ("eval", "detect", "--suite", "tiny", "--out", out, "--data", data, "--leaderboard", board)
    assert main(*asked) == 0
    told = capfd.readouterr()
    assert [arguments[3:5] for arguments in started] == [["attack", "run"]]
    assert "not finished: exit code 2" in told.err
    summary = json.loads((out / "summary.json").read_text())
    # The attack, and three cells that need it.
    assert summary["missing"] == {
        "toy-lost-reg": "exit code 2",
        **{f"toy-lost-reg-{end}": "toy-lost-reg is not there" for end in ("s1", "s1-dear", "s2")},
    }
    assert [(kind["scenario"], kind["goal"], kind["group"]) for kind in summary["kinds"]] == [
        *(("s1", "reg", "all"), ("s1", "reg", "dear"), ("s2", "reg", "all"))
    ]
    rows = json.loads((out / "cells" / "toy-made-reg-s1" / "results.json").read_text())[0]["rows"]
    aucs = {row["detector"]: row["metrics"]["auc"]["value"] for row in rows}
    assert summary["kinds"][0]["cells"] == {"toy-made-reg-s1": pytest.approx(aucs)}
    assert set(aucs) == {"rde-empirical", "msp", "mle"}
    tables = (out / "tables.md").read_text()
    better = aucs["rde-empirical"] > aucs["msp"]
    (line,) = [one for one in tables.partition("By attack")[0].splitlines() if one.startswith("| `rde-empirical`")]
    assert f" {int(better)} of 1, +" in line
    assert "`mlmd` could not be used: " in tables
    assert "| `mlmd` | n/a |" in tables  # the cell is marked, not dropped
    assert "- toy-lost-reg: exit code 2" in tables
    assert "3 cells, 7 rows, 4 steps missing" in told.out
    # MSP has the same row in two cells, which ask the same here.
    written = [json.loads(path.read_text()) for path in (board / "results" / "detection").iterdir()]
    assert len(written) == 6
    commands = {row["provenance"]["command"] for row in written}
    assert all(command.startswith("harness eval detect --attacks ") for command in commands)
    assert {command.rpartition("/")[2] for command in commands} >= {"toy-made-reg-s2"}

    assert main(*asked) == 0  # what is missing is tried again, and the rest says what it said
    assert len(started) == 2
    assert json.loads((out / "summary.json").read_text()) == summary
    again = json.loads((out / "cells" / "toy-made-reg-s1" / "results.json").read_text())[0]["rows"]
    assert [row["id"] for row in again] == [row["id"] for row in rows]
    assert len(list((board / "results" / "detection").iterdir())) == 6


def filled(aucs, folder):
    """Finished cells, of two attack families in turn, of detectors with these AUCs."""
    cells = []
    for number in range(len(next(iter(aucs.values())))):
        about = {"dataset": f"d{number // 2}", "family": ("pwws", "bae")[number % 2]}
        step = Step("cell", f"c{number}", (), folder, {**about, "scenario": "s1", "goal": "reg", "group": "all"})
        means = {
            name: {
                "metrics": {"auc": {"value": values[number]}},
                "trains_on_adversarial_texts": False,
                "cost": {"forwards_per_text": 1.0, "ms_per_text": 1.0},
                "comparisons": [],
            }
            for name, values in aucs.items()
        }
        cells.append(FilledCell(step, [{"detector": "rde", "n_adversarial": 9, "n_clean": 9}], means, {}))
    return cells


def test_equal_means_share_a_rank_though_their_last_bits_differ(tmp_path):
    aucs = {"rde": [0.6, 0.7], "msp": [0.6 + 1e-16, 0.7 + 1e-16], "knn": [0.5, 0.8]}
    assert all(a > b for a, b in zip(aucs["msp"], aucs["rde"], strict=True))
    write_report(tmp_path, filled(aucs, tmp_path), {})
    (kind,) = json.loads((tmp_path / "summary.json").read_text())["kinds"]
    assert kind["average_ranks"] == {"rde": 2.0, "msp": 2.0, "knn": 2.0}


def test_a_report_has_means_by_attack_and_the_signed_rank_test(tmp_path):
    aucs = {
        "palimpsest": [0.9, 0.8, 0.95, 0.85, 0.93, 0.81],
        "msp": [0.7, 0.82, 0.75, 0.88, 0.72, 0.83],
        "rde": [0.6, 0.61, 0.62, 0.63, 0.64, 0.65],
    }
    report = write_report(tmp_path, filled(aucs, tmp_path), {})
    told = (tmp_path / "tables.md").read_text().partition("By attack")[2].splitlines()
    assert "| detector | pwws | bae | p against rde | p against msp |" in told
    # Two are above RDE in all six cells, p = 2 / 2^6, times three tests. Against MSP the three losses have the least
    # ranks, 1.5, 1.5 and 3: of 2^6 signs 15 have a sum of at most 6 (of the ranks 1.5, 1.5, 3, 4.5, 4.5, 6), so p is
    # 30 / 64, and the last in Holm's order.
    assert "| `palimpsest` | 92.7 | 82.0 | 0.094 | 0.47 |" in told
    assert "| `msp` | 72.3 | 84.3 | 0.094 |  |" in told
    assert report.missing == {}


def test_a_cell_of_which_no_detector_can_be_used_is_marked(tiny, main, capfd, monkeypatch):
    _, out, data = tiny
    asked = ("eval", "detect", "--suite", "tiny", "--out", out, "--data", data, "--only", "toy-made")
    assert main(*asked, "--no-dear", "--detector", "mlmd", "rtd-guard") != 0
    said = capfd.readouterr()
    assert "no cell of the suite is finished" in said.err
    assert "no detector could be used; mlmd" in said.err


def test_an_attack_that_is_not_finished_is_not_evaluated(tiny, main, capfd, monkeypatch):
    _, out, data = tiny
    unfinished = out / "attacks" / "toy-lost-reg"
    with pytest.raises(RuntimeError, match="stop"), Run(unfinished, "attack run", {"a": 1}):
        raise RuntimeError("stop")
    ended = SimpleNamespace(returncode=1)
    monkeypatch.setattr("harness.cli.suites.subprocess", SimpleNamespace(run=lambda *_, **__: ended))
    assert main("eval", "detect", "--suite", "tiny", "--out", out, "--data", data, "--no-dear") == 0
    assert "toy-lost-reg is not there" in json.loads((out / "summary.json").read_text())["missing"]["toy-lost-reg-s1"]
