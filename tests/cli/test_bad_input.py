"""Whatever a user gets wrong: exit code 2, one sentence, mostly a hint, no traceback, and nothing left behind."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness.cli

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")


def sentences(n: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=3 + i % 5)) for i in range(n)]


def to_csv(path: Path, rows: list[tuple[str, Any]], header: str = "text,label") -> Path:
    path.write_text("".join(line + "\n" for line in [header, *(f"{text},{label}" for text, label in rows)]))
    return path


@dataclass
class Ground:
    """What the cases stand on: shared read-only folders, and a folder of the case's own."""

    folder: Path
    victims: Callable[..., Path]
    reviews: Path
    attack: Path
    imported: Path
    rde: Path
    msp: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def victim(self) -> Path:
        return self.victims()

    def put(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def parquet(self, **columns: list[Any]) -> Path:
        path = self.folder / "data.parquet"
        pq.write_table(pa.table(columns), path)
        return path

    def csv(self, *rows: tuple[str, Any], header: str = "text,label") -> Path:
        return to_csv(self.folder / "data.csv", list(rows), header)

    def attack_run(self, *more: Any, dataset: Any = None, victim: Any = None) -> list[Any]:
        data, model = dataset or self.reviews, victim or self.victim
        return ["attack", "run", "--dataset", data, "--victim", model, "--out", self.out, *more]

    def fit(self, detector: str, *more: Any, dataset: Any = None) -> list[Any]:
        given = ["--dataset", dataset or self.reviews, "--victim", self.victim, "--out", self.out]
        return ["detect", "fit", "--detector", detector, *given, *more]

    def score(self, source: Any, *more: Any, detector: Path | None = None, out: str = "out.csv") -> list[Any]:
        return ["detect", "score", detector or self.msp, source, "--out", self.folder / out, *more]

    def evaluate(self, attack: Any, *more: Any, detector: str = "msp") -> list[Any]:
        return ["eval", "detect", "--attacks", attack, "--detector", detector, "--out", self.out, *more]


@pytest.fixture(scope="module")
def shared(
    main: Callable[..., int], tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ground")
    victim = tiny_victim_folder()
    reviews = to_csv(folder / "reviews.csv", [(text, i % 2) for i, text in enumerate(sentences(60))])
    found = {name: folder / name for name in ("attack", "imported", "rde", "msp")}
    common = ["--dataset", reviews, "--victim", victim]
    assert main("attack", "run", *common, "--limit", 20, "--out", found["attack"]) == 0
    log = folder / "log.csv"
    assert main("attack", "export", found["attack"], "--out", log) == 0
    assert main("attack", "import", log, "--dataset", "reviews", "--out", found["imported"]) == 0
    fit = ["detect", "fit", *common, "--detector"]
    assert main(*fit, "rde-empirical", "--components", 4, "--out", found["rde"]) == 0
    assert main(*fit, "msp", "--out", found["msp"]) == 0
    return {"reviews": reviews, **found}


@pytest.fixture
def ground(shared: dict[str, Path], tiny_victim_folder: Any, tmp_path: Path) -> Ground:
    return Ground(tmp_path, tiny_victim_folder, **shared)


def copy_of(ground: Ground, folder: Path, *without: str) -> Path:
    """A copy of a folder in the case's own, without some of its files."""
    copy = ground.folder / f"copy-of-{folder.name}"
    shutil.copytree(folder, copy)
    for name in without:
        (copy / name).unlink()
    return copy


def folder_of_splits(ground: Ground) -> Path:
    folder = ground.folder / "splits"
    folder.mkdir()
    shutil.copy(ground.reviews, folder / "train.csv")
    return folder


def taken(ground: Ground, kind: str) -> list[Any]:
    if kind == "file":
        ground.out.write_text("mine")
    elif kind == "folder":
        ground.out.mkdir()
        (ground.out / "thesis.tex").write_text("mine")
    elif kind == "run":
        shutil.copytree(ground.attack, ground.out)
    else:
        (ground.folder / "file").write_text("mine")
        return ground.attack_run("--out", ground.folder / "file" / "run")
    return ground.attack_run()


def one_class(ground: Ground) -> Path:
    return ground.csv(("a film", 0), ("b film", 0), ("c film", 0))


def only_pickled(ground: Ground) -> Path:
    folder = copy_of(ground, ground.victim, "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    return folder


def headless(ground: Ground) -> Path:
    from safetensors.torch import load_file, save_file

    folder = copy_of(ground, ground.victim)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# name -> (arguments, what the error says, what the hint says or "" for none)
Case = tuple[Callable[[Ground], list[Any]], str, str]
CASES: dict[str, Case] = {
    # names
    "recipe": (lambda g: g.attack_run("--recipe", "pwsw"), "no recipe named 'pwsw'", "Did you mean pwws"),
    "dataset": (lambda g: g.attack_run(dataset="imbd"), "no dataset named 'imbd'", "Did you mean imdb?"),
    "detector": (lambda g: g.fit("rdee"), "no detector named 'rdee'", "Did you mean rde"),
    "evaluated detector": (lambda g: g.evaluate(g.attack, detector="mps"), "no detector named 'mps'", "mean msp?"),
    "scenario": (lambda g: g.evaluate(g.attack, "--scenario", "s3"), "no scenario named 's3'", "s1"),
    "list": (lambda g: ["list", "attack"], "named 'attack'", "Did you mean attacks?"),
    # datasets
    "no data file": (lambda g: g.attack_run(dataset=g.folder / "no.csv"), "no file or folder", "existing path"),
    "no split": (lambda g: g.attack_run(dataset=folder_of_splits(g)), "no split 'test'", "It has: train"),
    "0 rows": (lambda g: g.attack_run(dataset=g.csv()), "data.csv is empty", "at least one"),
    "0 bytes csv": (lambda g: g.attack_run(dataset=g.put("data.csv", "")), "data.csv is empty", "at least one"),
    "0 bytes jsonl": (lambda g: g.attack_run(dataset=g.put("data.jsonl", "")), "data.jsonl is empty", "at least one"),
    "0 bytes parquet": (
        lambda g: g.attack_run(dataset=g.put("data.parquet", "")),
        "not a readable Parquet file",
        "Write it again",
    ),
    "0 rows parquet": (
        lambda g: g.attack_run(dataset=g.parquet(text=pa.array([], pa.string()), label=pa.array([], pa.int64()))),
        "data.parquet is empty",
        "at least one",
    ),
    "no text column": (
        lambda g: g.attack_run(dataset=g.csv(("a", 0), header="review,label")),
        "no text column .*'review', 'label'",
        "--text-column",
    ),
    "no such column": (
        lambda g: g.attack_run("--text-column", "review"),
        "no column 'review'; its columns are 'text', 'label'",
        "--text-column",
    ),
    "no label column": (
        lambda g: g.attack_run("--label-column", "y"),
        "no column 'y'; its columns are 'text', 'label'",
        "--label-column",
    ),
    "label 7": (
        lambda g: g.attack_run(dataset=g.csv(("a film", 0), ("b film", 7))),
        "don't match the victim: the data has label 7, .* knows 0 to 1",
        "the dataset that the victim was trained on",
    ),
    "not UTF-8": (
        lambda g: g.attack_run(dataset=g.put("data.csv", b"text,label\ncaf\xe9,0\n")),
        "data.csv is not UTF-8",
        "Convert it",
    ),
    "empty text csv": (
        lambda g: g.attack_run(dataset=g.csv(("a film", 0), ("", 1), (" ", 1))),
        r"2 missing or empty texts .*first at row 1",
        "Fill or remove",
    ),
    "null text parquet": (
        lambda g: g.attack_run(dataset=g.parquet(text=["a film", None], label=[0, 1])),
        r"1 missing or empty texts .*first at row 1",
        "Fill or remove",
    ),
    "NaN texts parquet": (
        lambda g: g.attack_run(dataset=g.parquet(text=[float("nan")], label=[0])),
        "1 missing or empty texts",
        "Fill or remove",
    ),
    "NaN label parquet": (
        lambda g: g.attack_run(dataset=g.parquet(text=["a", "b"], label=[0.0, float("nan")])),
        "1 missing labels",
        "Fill or remove",
    ),
    "the engine's mark": (
        lambda g: g.attack_run(dataset=g.csv(("a\ue000<SPLIT>\ue000film", 0), ("a film", 1))),
        "text 0 of 'data' holds",
        "Remove it",
    ),
    # victims
    "no victim folder": (lambda g: g.attack_run(victim="./no-victim"), "no victim folder ./no-victim", "victim train"),
    "no hub victim": (lambda g: g.attack_run(victim="nobody/nothing"), "neither a folder nor loadable", "spelling"),
    "an empty victim folder": (lambda g: g.attack_run(victim=g.folder), "config.json is missing", ""),
    "pickled weights": (lambda g: g.attack_run(victim=only_pickled(g)), "no weights in safetensors", "never loaded"),
    "no head": (lambda g: g.attack_run(victim=headless(g)), "no trained classification head", "Fine-tune"),
    "one label": (lambda g: g.attack_run(victim=g.victims("bert", 1)), "has 1 label: it is a regressor", "two labels"),
    "max length": (lambda g: g.attack_run("--max-length", 129), r"--max-length 129 is outside .*3 to 128", ""),
    "dtype": (lambda g: g.attack_run("--dtype", "fp8"), "no dtype 'fp8'", "fp32"),
    "no such victim to describe": (lambda g: ["victim", "info", "./no"], "no victim folder ./no", "victim train"),
    "no encoder": (
        lambda g: ["victim", "train", "--encoder", "./no", "--dataset", g.reviews, "--out", g.out],
        "no encoder folder ./no",
        "Give a folder",
    ),
    "one class to train on": (
        lambda g: ["victim", "train", "--encoder", g.victim, "--dataset", one_class(g), "--out", g.out],
        "fewer than two classes",
        "label column",
    ),
    # --out
    "out is a file": (lambda g: taken(g, "file"), "out is a file, not a folder", "another --out"),
    "out is somebody's folder": (lambda g: taken(g, "folder"), "holds no run .thesis.tex is in it", "empty folder"),
    "out is another run": (lambda g: taken(g, "run"), r"another configuration \(.*texts: 20 -> 60", "another --out"),
    "out lies in a file": (lambda g: taken(g, "below a file"), "file/run cannot be made: Not a directory", "path"),
    # detect fit
    "rde, few rows": (lambda g: g.fit("rde"), "more training rows than components: it has 60 rows and 100", "--comp"),
    "rde, few rows of a class": (
        lambda g: g.fit("rde", "--components", 31),
        "at least 32 training rows of each class.*class 0 has 30",
        "more training texts",
    ),
    "mle, few rows": (lambda g: g.fit("mle"), "at least 33 training rows .*class 0 has 30", "more training texts"),
    "a parameter it has not": (lambda g: g.fit("msp", "--components", 3), "'msp' takes no components", "It takes: no"),
    "a parameter of a spec": (lambda g: g.fit("msp:components=3"), "'msp' takes no components", "It takes: no"),
    "a value of a spec": (
        lambda g: g.fit("rde:components=abc"),
        "'rde' cannot be made: its parameter components is 'abc'",
        "a whole number",
    ),
    "not a spec": (lambda g: g.fit("knn:k"), "'knn:k' is not how a detector is named", "NAME:PARAMETER=VALUE"),
    "a spec of no detector": (lambda g: g.fit("rdee:rows=9"), "no detector named 'rdee'", "rde"),
    "layer": (lambda g: g.fit("rde", "--layer", 4), "has no layer 4", r"0 \(embeddings\) to 3"),
    # detect score
    "no detector": (lambda g: g.score(g.put("in.txt", "a\n"), detector=g.folder), "no fitted detector", "detect fit"),
    "a detector folder that is not there": (
        lambda g: g.score(g.put("in.txt", "a\n"), detector=g.folder / "no"),
        "no fitted detector",
        "detect fit",
    ),
    "other weights": (
        lambda g: g.score(g.put("in.txt", "a\n"), "--victim", g.victims("bert", 2, 1), detector=g.rde),
        "is not the one that the detector in .* was fitted on",
        "--victim",
    ),
    "no input": (lambda g: g.score(g.folder / "in.txt"), "there is no file", ".jsonl"),
    "empty input": (lambda g: g.score(g.put("in.txt", "")), "there are no texts in", ""),
    "not UTF-8 txt": (lambda g: g.score(g.put("in.txt", b"ok\ncaf\xe9\n")), "line 2 of .* is not UTF-8", "Save"),
    "not UTF-8 score csv": (lambda g: g.score(g.put("in.csv", b"text\ncaf\xe9\n")), "in.csv is not UTF-8", "Save"),
    "NaN in jsonl": (lambda g: g.score(g.put("in.jsonl", '{"text": NaN}\n')), "text 0 of .* is empty", "Remove it"),
    "empty in jsonl": (lambda g: g.score(g.put("in.jsonl", '{"text": ""}\n')), "text 0 of .* is empty", "Remove it"),
    "no score column": (
        lambda g: g.score(g.put("in.csv", "id,review\n1,a\n")),
        "no column 'text'; it has: id, review",
        "--text-column",
    ),
    "output type": (lambda g: g.score(g.put("in.txt", "a\n"), out="out.xls"), "cannot write scores", ".parquet"),
    # eval
    "seeds, a word": (lambda g: g.evaluate(g.attack, "--seeds", "0,one"), "--seeds '0,one'", "0,1,2"),
    "seeds, none": (lambda g: g.evaluate(g.attack, "--seeds", ""), "--seeds ''", "0,1,2"),
    "seeds, twice": (lambda g: g.evaluate(g.attack, "--seeds", "1,01"), "--seeds '1,01'", "0,1,2"),
    "seeds, below 0": (lambda g: g.evaluate(g.attack, "--seeds=-1"), "--seeds '-1'", "0,1,2"),
    "seeds, superscript": (lambda g: g.evaluate(g.attack, "--seeds", "²"), "--seeds '²'", "0,1,2"),
    "unfinished attack": (
        lambda g: g.evaluate(copy_of(g, g.attack, "manifest.json")),
        "is not finished",
        "attack run` command again",
    ),
    "no run folder": (
        lambda g: g.evaluate(g.folder),
        "is not a run folder",
        "Give a folder that `harness attack` made.",
    ),
    "nothing there": (
        lambda g: g.evaluate(g.folder / "no"),
        "is not a run folder",
        "Give a folder that `harness attack` made.",
    ),
    "another command's run": (lambda g: g.evaluate(g.rde), "made by `harness detect fit`, not by `harness attack`", ""),
    "imported, no victim": (lambda g: g.evaluate(g.imported), "does not say which victim", "Pass --victim"),
    "imported, no dataset": (
        lambda g: g.evaluate(g.imported, "--victim", g.victim, detector="rde"),
        "does not say which dataset",
        "Pass --dataset",
    ),
    "another victim": (
        lambda g: g.evaluate(g.attack, "--victim", g.victims("bert", 2, 1)),
        "is not the one that was attacked",
        "attacked victim",
    ),
    "sample of nothing": (lambda g: ["eval", "sample", "--attacks", g.folder], "no adversarial rows", "attack run"),
    # logs
    "nothing to show": (lambda g: ["attack", "show", g.folder], "no adversarial rows", "attack run"),
    "no rows to show": (lambda g: ["attack", "show", g.reviews], "is not a file of adversarial rows", ""),
    "no log": (lambda g: ["attack", "import", g.folder / "no.csv", "--out", g.out], "no attack log", ""),
    "an empty log": (lambda g: ["attack", "import", g.put("log.jsonl", ""), "--out", g.out], "log.jsonl is empty", ""),
    "not a log": (lambda g: ["attack", "import", g.reviews, "--out", g.out], "not a TextAttack log", "--log-to-csv"),
    "log into a folder": (
        lambda g: ["attack", "export", g.attack, "--out", folder_of_splits(g).rename(g.folder / "x.csv")],
        "/x.csv cannot be used: Is a directory",
        "another path",
    ),
    "log type": (
        lambda g: ["attack", "export", g.attack, "--out", g.folder / "out.txt"],
        "as '.txt'",
        ".csv or .jsonl",
    ),
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    main: Callable[..., int], name: str, ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    import re

    import transformers

    transformers.logging.set_verbosity_error()
    make, message, hint = CASES[name]
    arguments = make(ground)
    monkeypatch.chdir(ground.folder)
    before, made = snapshot(ground.folder), sorted(ground.folder.rglob("*"))
    capfd.readouterr()
    assert main(*arguments) == 2
    said = capfd.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    hints = [line for line in said.err.splitlines() if line.startswith("hint: ")]
    assert len(errors) == 1, said.err
    assert re.search(message, errors[0]), errors[0]
    assert len(hints) == bool(hint)
    assert not hint or re.search(hint, hints[0]), hints[0]
    assert "Traceback" not in said.err + said.out
    assert snapshot(ground.folder) == before
    assert sorted(ground.folder.rglob("*")) == made


def test_the_real_command_does_the_same(ground: Ground, run_harness: Any) -> None:
    found = run_harness(*ground.attack_run("--recipe", "pwsw"))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "error: there is no recipe named 'pwsw'.\nhint: Did you mean pwws or pso?\n"


# --- what is no error ------------------------------------------------------------------------------------------


def test_truncated_texts_are_counted(main: Callable[..., int], ground: Ground, capfd: Any) -> None:
    long = "the film and " * 100
    data = ground.csv(("a good film", 0), (long, 0), ("a bad film", 1), ("the " * 200, 1))
    assert main(*ground.attack_run("--max-length", 64, dataset=data)) == 0
    assert "2 of 4 texts are longer than 64 tokens and were cut." in capfd.readouterr().out
    assert json.loads((ground.out / "manifest.json").read_text())["truncated"] == 2
    assert main(*ground.score(ground.put("in.txt", f"a good film\n{long}\n"))) == 0
    said = capfd.readouterr().err
    assert "2 texts scored" in said
    assert "1 of 2 texts are longer than 128 tokens and were cut" in said


def test_an_imported_log_is_evaluated_with_a_victim(main: Callable[..., int], ground: Ground, capfd: Any) -> None:
    wanted = ["--victim", ground.victim, "--seeds", "0", "--replicates", "10", "--scenario", "s2"]
    assert main(*ground.evaluate(ground.imported, *wanted)) == 0
    assert "MSP" in capfd.readouterr().out


# --- faults that are ours --------------------------------------------------------------------------------------


def test_an_unexpected_error_keeps_its_traceback(
    main: Callable[..., int], ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from textadv.shards import ShardWorker

    def fault(*_: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(ShardWorker, "attack", fault)
    with pytest.raises(ZeroDivisionError) as found:  # Python prints it and leaves with 1
        main(*ground.attack_run())
    log = (ground.out / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "ZeroDivisionError: a fault of ours" in log
    assert "in fault\n" in log
    assert found.value.__notes__ == [f"The traceback is kept in {ground.out / 'run.log'}."]
    assert "error: " not in capfd.readouterr().err
    monkeypatch.undo()
    assert main(*ground.attack_run()) == 0  # and the run goes on once the fault is mended


def test_an_unexpected_os_error_is_not_taken_for_the_users(
    main: Callable[..., int], ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textadv.shards import ShardWorker

    def fault(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ShardWorker, "attack", fault)
    with pytest.raises(OSError, match="Input/output error"):
        main(*ground.attack_run())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/x"), "error: no space left on the device.\nhint: Free some space"),
        (OSError(122, "Disk quota exceeded"), "error: no space left on the device.\nhint: Free some space"),
        (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y cannot be used: Permission denied.\nhint: "),
    ],
)
def test_the_machines_refusals_are_told_in_a_sentence(
    main: Callable[..., int],
    error: OSError,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(harness.cli, "app", fail)
    assert main("list", "attacks") == 2
    assert capsys.readouterr().err.startswith(said)


def test_an_interrupted_run_says_how_to_go_on(
    main: Callable[..., int], ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    import textadv.shards

    whole = textadv.shards.make_row
    seen: list[int] = []

    def stop(*arguments: Any, **facts: Any) -> Any:
        seen.append(facts["index"])
        if len(seen) == 6:
            raise KeyboardInterrupt
        return whole(*arguments, **facts)

    monkeypatch.setattr(textadv.shards, "make_row", stop)
    assert main(*ground.attack_run("--limit", 9, "--shard-size", 4)) == 130
    assert "interrupted; run the same command again to resume." in capfd.readouterr().err
    assert main(*ground.attack_run("--limit", 9, "--shard-size", 4)) == 0
    assert len(set(seen[:4])) == 4
    assert len(set(seen[6:])) == 5
    assert not set(seen[:4]) & set(seen[6:])  # the finished shard is not done again


def test_an_unencodable_terminal_stops_nothing(ground: Ground, run_harness: Any) -> None:
    source = ground.put("in.jsonl", json.dumps({"id": "é😀", "text": "a film"}))
    found = run_harness("detect", "score", ground.msp, source, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert found.returncode == 0, found.stderr
    assert "\\xe9\\U0001f600,0," in found.stdout or "\\xe9\\U0001f600,1," in found.stdout


def test_standard_input_that_is_empty(
    main: Callable[..., int], ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    assert main("detect", "score", ground.msp, "-") == 2
    said = capsys.readouterr()
    assert "error: there are no texts in standard input." in said.err
    assert said.out == ""
