"""The commands when all is well: what they print, write and read back."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import harness
from harness.cli import tables
from harness.cli.evaluate import spread
from harness.text.adversarial import COLUMNS, read_rows
from harness.text.words import find_words

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of splits; labels say nothing, which is all that a random victim can do with them."""
    folder = tmp_path_factory.mktemp("data") / "reviews"
    folder.mkdir()
    draw = np.random.default_rng(1)
    for split, rows in (("train", 160), ("test", 60)):
        with open(folder / f"{split}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["text", "label"])
            writer.writerows([" ".join(draw.choice(WORDS, size=3 + i % 5)), i % 2] for i in range(rows))
    return folder


@pytest.fixture(scope="module")
def attack(
    main: Callable[..., int], data: Path, tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("attack") / "run"
    assert main("attack", "run", "--dataset", data, "--victim", tiny_victim_folder(), "--out", out) == 0
    return out


def test_version_and_help_need_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys, harness.cli\nsys.argv = ['harness', sys.argv[1]]\n"
        "try:\n    harness.cli.main()\nfinally:\n    print([m for m in ('torch', 'transformers', 'pandas', "
        "'textattack', 'sklearn', 'datasets') if m in sys.modules])"
    )
    for flag, said in (("--version", f"palimpsest {harness.__version__}"), ("--help", "eval")):
        found = subprocess.run(
            [sys.executable, "-c", script, flag], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert said in found.stdout
        assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("attacks", {"pwws"}),
        ("datasets", {"imdb", "ag_news", "sst2", "yelp_polarity", "embedded"}),
    ],
)
def test_list(main: Callable[..., int], kind: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("list", kind) == 0
    lines = capsys.readouterr().out.splitlines()
    assert names <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 2 for line in lines if not line.startswith(" "))  # each with a description


def test_list_of_detectors_is_a_table_of_what_they_say(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.detectors.registry import DETECTORS

    assert main("list", "detectors") == 0
    rows: list[list[str]] = []
    for line in capsys.readouterr().out.splitlines():
        cells = [cell.strip() for cell in line.split("\u2502")[1:-1]]
        if cells and cells[0]:
            rows.append(cells)
        elif cells:  # a cell that took more than one line
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
    told = {row[0]: row for row in rows}
    assert set(told) == set(DETECTORS.names())
    for name in DETECTORS.names():
        info = DETECTORS.get(name).info
        assert told[name][2:] == [
            *(info.reads, info.cost, info.adversarial_texts, "yes" if info.scores_words else "", info.paper)
        ]


def test_list_of_attacks_says_what_they_do_hold_and_need(
    main: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("words.txt", "vectors.safetensors", "facts.json"):
        (tmp_path / "counterfitted-glove").mkdir(exist_ok=True)
        (tmp_path / "counterfitted-glove" / name).write_text("{}")
    assert main("list", "attacks", "--artifacts", tmp_path) == 0
    told = capsys.readouterr().out
    blocks = {block.split()[0]: block for block in re.split(r"\n(?=\S)", told)}
    assert "swaps: words for WordNet synonyms" in blocks["pwws"]
    assert "holds: repeat; stopword" in blocks["pwws"]
    assert "needs: nothing more" in blocks["pwws"]
    assert "counterfitted-glove (here)" in blocks["iga+glove"]
    assert "counter-fitted-vectors (missing)" in blocks["iga"]
    assert "cannot run: " in blocks["pso"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("eval detect --detector a b --seeds 0", "eval detect --detector a --detector b --seeds 0"),
        ("eval detect --attacks x y --detector a", "eval detect --attacks x --attacks y --detector a"),
        ("eval detect --detector a --detector b c", "eval detect --detector a --detector b --detector c"),
        ("eval detect --detector=a b", "eval detect --detector=a b"),
        ("eval detect --seeds 0 1", "eval detect --seeds 0 1"),
        ("eval detect --detector", "eval detect --detector"),
        ("attack show --detector a b", "attack show --detector a b"),
        ("", ""),
    ],
)
def test_spread(given: str, wanted: str) -> None:
    assert spread(given.split()) == wanted.split()


def test_attack_prints_the_figures_of_its_rows(
    main: Callable[..., int], attack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("attack", "show", attack) == 0
    said = capsys.readouterr().out
    rows = read_rows(attack)
    counts = [sum(row.result == kind for row in rows) for kind in ("success", "failure", "skipped")]
    assert len(rows) == 60
    assert min(counts[0], counts[2]) > 0
    assert "pwws on reviews (test), victim tiny-bert-2-0" in said
    assert f"{counts[0]} / {counts[1]} / {counts[2]}" in said
    assert f"{100 * counts[0] / (counts[0] + counts[1]):.1f}%" in said
    changed = [len(row.changed_positions) / len(row.original_text.split()) for row in rows if row.result == "success"]
    assert f"{100 * np.mean(changed):.1f}%" in said
    assert f"{np.mean([row.queries for row in rows if row.result != 'skipped']):.1f}" in said


def coloured_words(line: str, code: str) -> list[str]:
    return [part.split("\x1b[0m")[0] for part in line.split(f"\x1b[{code}m")[1:]]


def test_examples_show_the_changed_words_in_colour(
    main: Callable[..., int], attack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forced = dict(force_terminal=True, color_system="standard", highlight=False, width=10_000)
    monkeypatch.setattr(tables, "console", lambda: Console(**forced))
    assert main("attack", "show", attack, "--examples", "3") == 0
    said = capsys.readouterr().out
    wins = [row for row in read_rows(attack) if row.result == "success"]
    for row in wins[:3]:
        before, after = ([word.text for word in find_words(text)] for text in (row.original_text, row.perturbed_text))
        changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        at = next(i for i, line in enumerate(said.splitlines()) if row.id in line)
        original, perturbed = said.splitlines()[at + 1 : at + 3]
        assert coloured_words(original, "1;32") == [before[i] for i in changed]
        assert coloured_words(perturbed, "1;31") == [after[i] for i in changed]
    assert not any(row.id in said for row in wins[3:])


def test_every_changed_word_is_coloured_and_nothing_is_markup(
    attack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forced = Console(force_terminal=True, color_system="standard", highlight=False, width=10_000)
    monkeypatch.setattr(tables, "console", lambda: forced)
    texts = {
        "original_text": "[red]A film, a 'good' plot: 😀 good!",
        "perturbed_text": "[red]A movie, a 'fine' plot: 😀 good!",
    }
    forced.file = sys.stdout
    tables.print_example(replace(read_rows(attack)[0], **texts))
    original, perturbed = capsys.readouterr().out.splitlines()[-2:]
    assert coloured_words(original, "1;32") == ["film", "good"]
    assert coloured_words(perturbed, "1;31") == ["movie", "fine"]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in (original, perturbed)]
    assert plain == list(texts.values())


def test_examples_are_plain_where_there_is_no_terminal(
    main: Callable[..., int], attack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("attack", "show", attack, "--examples", "1") == 0
    said = capsys.readouterr().out
    row = next(row for row in read_rows(attack) if row.result == "success")
    assert "\x1b" not in said
    assert row.original_text in said
    assert row.perturbed_text in said


def test_export_and_import_again(
    main: Callable[..., int], attack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(attack)
    assert main("attack", "export", attack, "--out", tmp_path / "log.jsonl") == 0
    assert f"{len(rows)} rows" in capsys.readouterr().out
    assert main("attack", "import", tmp_path / "log.jsonl", "--out", tmp_path / "jsonl") == 0
    assert read_rows(tmp_path / "jsonl") == rows

    assert main("attack", "export", attack, "--out", tmp_path / "log.csv") == 0
    facts = ["--dataset", "reviews", "--split", "test", "--recipe", "pwws", "--victim", "tiny", "--classes", "2"]
    assert main("attack", "import", tmp_path / "log.csv", *facts, "--out", tmp_path / "csv") == 0
    again = read_rows(tmp_path / "csv")
    # A CSV log has no room for these; two classes give the probabilities back.
    lost = {"victim", "victim_hash", "seed", "textattack_version", "recipe_parameters"}
    close = {"original_probabilities", "perturbed_probabilities"}
    kept = {*COLUMNS} - lost - close
    for row, back in zip(rows, again, strict=True):
        assert {name: getattr(back, name) for name in kept} == {name: getattr(row, name) for name in kept}
        for name in close:
            assert getattr(back, name) == pytest.approx(getattr(row, name), abs=1e-12)
        assert (back.victim, back.victim_hash, back.seed) == ("tiny", None, None)
    manifest = json.loads((tmp_path / "csv" / "manifest.json").read_text())
    assert (manifest["status"], manifest["texts"]) == ("complete", len(rows))
    assert main("attack", "show", tmp_path / "csv") == 0


def test_a_log_of_textattack_itself(
    main: Callable[..., int], shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = shared_data / "attack_logs" / "bert-base-uncased-sst2_pwws.csv"
    assert main("attack", "import", log, "--recipe", "pwws", "--dataset", "sst2", "--out", tmp_path / "run") == 0
    with open(log, encoding="utf-8", newline="") as handle:
        kinds = [line["result_type"] for line in csv.DictReader(handle)]
    counts = [kinds.count(kind) for kind in ("Successful", "Failed", "Skipped")]
    assert " / ".join(map(str, counts)) in capsys.readouterr().out


def test_sources_lead_back_to_data_and_victim(attack: Path, data: Path, tiny_victim_folder: Any) -> None:
    manifest = json.loads((attack / "manifest.json").read_text())
    assert manifest["sources"]["victim"] == str(tiny_victim_folder())
    assert manifest["sources"]["dataset"]["spec"] == str(data)
    # ... and the rows say nothing of where they lie.
    for column in pq.read_table(attack / "adversarial.parquet").columns:
        assert not [value for value in column.to_pylist() if isinstance(value, str) and str(data.parent) in value]


def test_fit_again_and_score_wherever_the_victim_is(
    main: Callable[..., int], data: Path, tiny_victim_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    victim, out = tmp_path / "victim", tmp_path / "rde"
    shutil.copytree(tiny_victim_folder(), victim)
    fit = ["detect", "fit", "--dataset", data, "--victim", victim, "--detector", "rde-empirical", "--components", 4]
    assert main(*fit, "--out", out) == 0
    state = (out / "state.safetensors").read_bytes()
    assert main(*fit, "--out", out) == 0
    assert "fitted already" in capsys.readouterr().out
    (tmp_path / "in.txt").write_text("a good film\na bad film\n")
    assert main("detect", "score", out, tmp_path / "in.txt", "--out", tmp_path / "1.csv") == 0
    victim.rename(tmp_path / "moved")
    capsys.readouterr()
    assert main("detect", "score", out, tmp_path / "in.txt") == 2
    assert "error: there is no victim folder" in capsys.readouterr().err
    moved = ["--victim", tmp_path / "moved"]
    assert main("detect", "score", out, tmp_path / "in.txt", *moved, "--out", tmp_path / "2.csv") == 0
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert (out / "state.safetensors").read_bytes() == state


def test_fit_takes_a_spec_and_keeps_it(
    main: Callable[..., int], data: Path, tiny_victim_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    fit = ["detect", "fit", "--dataset", data, "--victim", tiny_victim_folder(), "--seed", 2, "--out", tmp_path / "rde"]
    spec = "rde-empirical: rows=40, components=4"
    assert main(*fit, "--detector", spec, "--components", 5) == 0
    config = yaml.safe_load((tmp_path / "rde" / "config.yaml").read_text())
    assert config["detector"] == "rde-empirical:components=4,rows=40"
    known = json.loads((tmp_path / "rde" / "detector.json").read_text())
    assert known["detector"] == "rde-empirical"
    assert known["parameters"] == config["parameters"] == {"layer": 3, "components": 4, "rows": 40, "seed": 2}
    assert "detector_version" not in config
    assert main(*fit, "--detector", "rde-empirical:components=4,rows=40") == 0
    assert "fitted already" in capsys.readouterr().out
    assert main(*fit, "--detector", "rde-empirical:components=4,rows=41") == 2
    assert "made by another configuration (detector: rde-empirical:components=4" in capsys.readouterr().err
    (tmp_path / "in.txt").write_text("a good film\n")
    assert main("detect", "score", tmp_path / "rde", tmp_path / "in.txt") == 0


def test_a_detector_that_reads_another_model_is_fitted_by_its_hint(
    main: Callable[..., int], data: Path, tiny_victim_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    import torch
    from transformers import AutoConfig, ElectraForPreTraining

    marks = tmp_path / "marks"
    shutil.copytree(tiny_victim_folder("electra"), marks)
    with torch.random.fork_rng(devices=[]):
        ElectraForPreTraining(AutoConfig.from_pretrained(marks)).save_pretrained(marks, safe_serialization=True)
    fit = ["detect", "fit", "--dataset", data, "--victim", tiny_victim_folder(), "--out", tmp_path / "guard"]
    assert main(*fit, "--detector", "rtd-guard") == 2
    assert "rtd-guard:discriminator=FOLDER" in capsys.readouterr().err
    given = ["--calibration", data, "--calibration-limit", 20]
    assert main(*fit, "--detector", f"rtd-guard:discriminator={marks}", *given) == 0
    assert "calibrated on 20 clean texts" in capsys.readouterr().out


def test_a_new_version_of_a_detector_is_another_fit(
    main: Callable[..., int],
    data: Path,
    tiny_victim_folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import dataclasses

    from harness.detectors.confidence import MSP

    fit = ["detect", "fit", "--dataset", data, "--victim", tiny_victim_folder(), "--detector", "msp"]
    assert main(*fit, "--out", tmp_path / "1") == 0
    monkeypatch.setattr(MSP, "info", dataclasses.replace(MSP.info, version=2))
    capsys.readouterr()
    assert main(*fit, "--out", tmp_path / "1") == 2
    assert "made by another configuration (detector_version: (absent) -> 2)" in capsys.readouterr().err
    assert main(*fit, "--out", tmp_path / "2") == 0
    monkeypatch.setattr(MSP, "info", dataclasses.replace(MSP.info, version=3))
    assert main(*fit, "--out", tmp_path / "2") == 2
    assert "(detector_version: 2 -> 3)" in capsys.readouterr().err


def test_scores_go_to_standard_output_alone(
    main: Callable[..., int], data: Path, tiny_victim_folder: Any, run_harness: Any, tmp_path: Path
) -> None:
    fit = ["detect", "fit", "--dataset", data, "--victim", tiny_victim_folder(), "--detector", "msp"]
    assert main(*fit, "--out", tmp_path / "msp") == 0
    found = run_harness("detect", "score", tmp_path / "msp", "-", input="a good film\na bad film, é\n")
    assert found.returncode == 0, found.stderr
    lines = list(csv.DictReader(found.stdout.splitlines()))
    assert [line["id"] for line in lines] == ["0", "1"]
    for line in lines:
        assert float(line["score"]) == pytest.approx(1 - float(line["probability"]), abs=1e-12)
    assert "2 texts scored" in found.stderr


def test_eval_takes_several_detectors_and_attacks(
    main: Callable[..., int], attack: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--scenario", "s2", "--seeds", "0,1", "--replicates", "10", "--components", "4"]
    given = ["eval", "detect", "--attacks", attack, attack, "--detector", "rde-empirical", "msp", *fast]
    board = tmp_path / "board"
    assert main(*given, "--out", tmp_path / "run", "--leaderboard", board) == 0
    said = capsys.readouterr().out
    assert said.count("RDE(-MCD)") >= 2
    assert said.count("MSP") >= 2
    rows = [row for entry in json.loads((tmp_path / "run" / "results.json").read_text()) for row in entry["rows"]]
    assert len(rows) == 2 * 2 * 2  # attacks, detectors, seeds
    assert main("eval", "sample", "--attacks", attack, "--scenario", "s2", "--seeds", "0,1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_victim_info(main: Callable[..., int], tiny_victim_folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.text.victims import Victim

    folder = tiny_victim_folder("bert", 3)
    assert main("victim", "info", folder) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("max length", "length").splitlines())
    assert told["labels"] == "0 LABEL_0, 1 LABEL_1, 2 LABEL_2"
    assert told["layers"] == "3 x 32"
    assert told["length"] == "128 tokens"
    assert told["hash"] == Victim.load(str(folder)).hash


def test_an_attack_again_is_printed_and_not_made(
    main: Callable[..., int], attack: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manifest = json.loads((attack / "manifest.json").read_text())
    sources = manifest["sources"]
    given = ["--dataset", sources["dataset"]["spec"], "--victim", sources["victim"]]
    rows = (attack / "adversarial.parquet").read_bytes()
    assert main("attack", "run", *given, "--out", attack) == 0
    assert "complete already" in capsys.readouterr().out
    assert json.loads((attack / "manifest.json").read_text()) == manifest
    assert main("attack", "run", *given, "--out", tmp_path / "elsewhere") == 0
    assert (tmp_path / "elsewhere" / "adversarial.parquet").read_bytes() == rows
