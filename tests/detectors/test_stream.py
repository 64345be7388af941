import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.csv_cells import unsafe_cell
from harness.core.errors import DataError, HarnessError, MissingFileError
from harness.detectors import stream
from harness.detectors.base import Detector
from harness.detectors.decisions import Calibration
from harness.detectors.mle import MLE
from harness.detectors.rde import RDEEmpirical
from harness.detectors.stream import OUTPUT_COLUMNS, ScoreSummary, score_stream
from harness.text.victims import Victim

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, size=3 + i % 9)) for i in range(20)]
TEXTS[4] = 'He said "well, no": a, b; c'
TEXTS[7] = "NA"
TEXTS[9] = "1.50"
TEXTS[11] = "=2+3"
TEXTS[13] = "é 😀 \u2028 good\x0cfilm\x85"
IDS = [f"r{i}" for i in range(20)]
IDS[2] = "a,b"
IDS[5] = "007"
IDS[6] = "=1+1"
IDS[8] = "ü \u2028 \r x"


@pytest.fixture(scope="module")
def victim(tiny_victim_folder: Any) -> Victim:
    """One text a forward, so that a score does not depend on the batch it is in, not by the last bit."""
    return Victim.load(str(tiny_victim_folder()), device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def detector(victim: Victim) -> Detector:
    texts = [" ".join(np.random.default_rng(100 + i).choice(WORDS, size=6)) for i in range(60)]
    outputs = victim.read(texts, [-1])
    return RDEEmpirical(victim.layer(-1), components=4).fit(outputs, np.arange(60) % 2)


def expected(detector: Detector, victim: Victim, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    """What the contract says, with the whole input read at once."""
    outputs = victim.read(texts, detector.layers)
    scores = detector.score(outputs)
    return [
        {"label": int(p.argmax()), "probability": float(p.max()), "score": float(s)}
        for p, s in zip(outputs.probabilities, scores, strict=True)
    ]


def write_input(path: Path, texts: list[str] = TEXTS, ids: list[str] | None = None, name: str = "text") -> Path:
    rows = [{"id": i, name: t} for i, t in zip(ids, texts, strict=True)] if ids else [{name: t} for t in texts]
    if path.suffix == ".txt":
        path.write_bytes("".join(t + "\n" for t in texts).encode())
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        path.write_bytes("".join(line + "\n" for line in lines).encode())
    else:
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def parse_csv(text: str) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [
        {
            "id": unsafe_cell(r["id"]),
            "label": int(r["label"]),
            "probability": float(r["probability"]),
            "score": float(r["score"]),
        }
        for r in rows
    ]


def read_scores(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = path.read_bytes().decode()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return parse_csv(text)


def numbered(rows: list[dict[str, Any]], ids: list[str] | None = None) -> list[dict[str, Any]]:
    return [{"id": ids[i] if ids else str(i), **row} for i, row in enumerate(rows)]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".CSV"])
def test_every_input_gives_the_scores_of_the_detector(
    suffix: str, detector: Detector, victim: Victim, tmp_path: Path
) -> None:
    source = write_input(tmp_path / f"in{suffix.lower()}").rename(tmp_path / f"in{suffix}")
    summary = score_stream(detector, victim, str(source), str(tmp_path / "out.jsonl"))
    assert summary == ScoreSummary(20, 0)
    assert read_scores(tmp_path / "out.jsonl") == numbered(expected(detector, victim))


def test_standard_input_and_output(
    detector: Detector, victim: Victim, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = "\ufeff" + "\r\n".join(TEXTS)  # a byte order mark, Windows' line ends, no line end at the end
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data.encode())))
    assert score_stream(detector, victim, "-", "-").texts == 20
    assert parse_csv(capsys.readouterr().out) == numbered(expected(detector, victim))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_output_reads_back_the_same(suffix: str, detector: Detector, victim: Victim, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", ids=IDS)
    out = tmp_path / "new" / "folder" / f"out{suffix}"
    score_stream(detector, victim, str(source), str(out))
    rows = read_scores(out)
    assert rows == numbered(expected(detector, victim), IDS)
    assert [list(row) for row in rows] == [list(OUTPUT_COLUMNS)] * 20
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # nothing temporary is left


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_ids_and_columns_by_name(suffix: str, detector: Detector, victim: Victim, tmp_path: Path) -> None:
    source = write_input(tmp_path / f"in{suffix}", ids=IDS, name="review")
    out = tmp_path / "out.parquet"
    score_stream(detector, victim, str(source), str(out), text_column="review")
    assert [row["id"] for row in read_scores(out)] == IDS
    score_stream(detector, victim, str(source), str(out), text_column="review", id_column="absent")
    assert [row["id"] for row in read_scores(out)] == [str(i) for i in range(20)]


def test_numbers_stand_for_ids_that_are_missing(detector: Detector, victim: Victim, tmp_path: Path) -> None:
    lines = [{"id": 12, "text": "a film"}, {"id": None, "text": "a film"}, {"text": "a film"}, {"id": 0, "text": "x"}]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    score_stream(detector, victim, str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv"))
    assert [row["id"] for row in read_scores(tmp_path / "out.csv")] == ["12", "1", "2", "0"]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_chunks_cannot_be_seen(
    rows: int, suffix: str, detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 3)
    texts = [*TEXTS[: rows - 1], "film " * 300]
    source = write_input(tmp_path / f"in{suffix}", texts, IDS[:rows])
    summary = score_stream(detector, victim, str(source), str(tmp_path / f"out{suffix}"))
    assert summary == ScoreSummary(rows, 1)
    found = read_scores(tmp_path / f"out{suffix}")
    wanted = numbered(expected(detector, victim, texts), IDS)
    # A matrix product of another size may round its last digits another way.
    np.testing.assert_allclose([r.pop("score") for r in found], [r.pop("score") for r in wanted], rtol=1e-9)
    assert found == wanted


def test_truncated_texts_are_counted_over_all_chunks(
    detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 3)
    texts = ["film " * (300 if i in (0, 4, 5, 7) else 3) for i in range(8)]
    source = write_input(tmp_path / "in.txt", texts)
    assert score_stream(detector, victim, str(source), str(tmp_path / "out.csv")) == ScoreSummary(8, 4)


def test_memory_is_bounded_by_the_chunk(
    detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 3)
    sizes: list[int] = []
    read = victim.read
    monkeypatch.setattr(victim, "read", lambda texts, layers: (sizes.append(len(texts)), read(texts, layers))[1])
    score_stream(detector, victim, str(write_input(tmp_path / "in.txt")), str(tmp_path / "out.csv"))
    assert sizes == [3] * 6 + [2]


def test_a_long_cell_of_a_csv_file_is_read(detector: Detector, victim: Victim, tmp_path: Path) -> None:
    texts = ["a film", "good film " * 20_000]  # beyond the csv module's own limit of 128 KiB
    source = write_input(tmp_path / "in.csv", texts)
    assert score_stream(detector, victim, str(source), str(tmp_path / "out.csv")).texts == 2


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1).filter(str.strip)
CELLS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(CELLS, min_size=1, max_size=5), suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]))
def test_any_text_arrives_as_it_is(texts: list[str], suffix: str, tmp_path: Path) -> None:
    source = write_input(tmp_path / f"any{suffix}", texts, texts)
    assert list(stream._read(str(source), "text", "id")) == [(t, t) for t in texts]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(LINES, min_size=1, max_size=5))
def test_any_line_arrives_as_it_is(texts: list[str], tmp_path: Path) -> None:
    source = write_input(tmp_path / "any.txt", texts)
    first = texts[0].removeprefix("\ufeff")  # at the beginning of a file it is a mark and no text
    assert [text for _, text in stream._read(str(source), "text", "id")] == [first, *texts[1:]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    identity=st.text(st.characters(exclude_categories=["Cs"])), suffix=st.sampled_from([".csv", ".jsonl", ".parquet"])
)
def test_any_id_reads_back(identity: str, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"any{suffix}"
    row = {"id": identity, "label": 1, "probability": 0.1 + 0.2, "score": -1e-300}
    with stream._writer(str(out)) as write:
        write(row)
    assert read_scores(out) == [row]


def calibrated(scores: Any, fpr: float = 0.3) -> Calibration:
    return Calibration(np.sort(np.asarray(scores, dtype=float)), fpr, None, {})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_calibrated_detector_decides(
    suffix: str, detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 7)
    scores = [row["score"] for row in expected(detector, victim)]
    held = calibrated(scores[:9])
    out = tmp_path / f"out{suffix}"
    summary = score_stream(detector, victim, str(write_input(tmp_path / "in.jsonl")), str(out), calibration=held)
    if suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(out.read_bytes().decode(), newline="")))
    else:
        rows = read_scores(out)
    assert [list(row) for row in rows] == [["id", "label", "probability", "score", "p_value", "decision"]] * 20
    for row in rows:
        p = (1 + sum(c >= float(row["score"]) for c in held.scores)) / 10
        assert float(row["p_value"]) == p
        assert row["decision"] == ("adversarial" if p <= 0.3 else "clean")
    flagged = sum(row["decision"] == "adversarial" for row in rows)
    assert summary == ScoreSummary(20, 0, flagged)
    assert 0 < flagged < 20


def test_with_too_few_calibration_texts_all_is_clean(detector: Detector, victim: Victim, tmp_path: Path) -> None:
    source, out = write_input(tmp_path / "in.txt"), tmp_path / "out.jsonl"
    summary = score_stream(detector, victim, str(source), str(out), calibration=calibrated([-1e9], 0.3))
    assert summary.flagged == 0
    assert {(row["p_value"], row["decision"]) for row in read_scores(out)} == {(0.5, "clean")}


def test_a_detector_that_asks_is_attached(victim: Victim, tmp_path: Path) -> None:
    from harness.detectors.sharpness import Sharpness

    summary = score_stream(Sharpness(), victim, str(write_input(tmp_path / "in.txt")), str(tmp_path / "out.csv"))
    assert summary.texts == 20


# --- bad input -----------------------------------------------------------------------------------------------------


def put(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def put_parquet(rows: list[dict[str, Any]], schema: Any = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "in.parquet")
        return folder / "in.parquet"

    return make


def corrupt_parquet(folder: Path) -> Path:
    path = put_parquet([{"text": f"a film {i}"} for i in range(2000)])(folder)
    data = bytearray(path.read_bytes())
    data[20:2000] = bytes(1980)
    path.write_bytes(bytes(data))
    return path


GOOD = b"a good film\n" * 4  # a whole chunk and one more come before what is wrong
BAD_INPUT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda folder: folder / "no.txt", "there is no file"),
    "a folder": (lambda folder: folder, "there is no file"),
    "unknown type": (put("in.xlsx", b"text\na\n"), "cannot read texts from"),
    "0 bytes txt": (put("in.txt", b""), "there are no texts in"),
    "0 bytes jsonl": (put("in.jsonl", b""), "there are no texts in"),
    "0 bytes csv": (put("in.csv", b""), "there are no texts in"),
    "0 bytes parquet": (put("in.parquet", b""), "not a readable Parquet file"),
    "header only csv": (put("in.csv", b"id,text\n"), "there are no texts in"),
    "no rows parquet": (put_parquet([], pa.schema([("text", pa.string())])), "there are no texts in"),
    "blank line txt": (put("in.txt", GOOD + b"\n"), "text 4 of .* is empty"),
    "white space txt": (put("in.txt", GOOD + " \u3000\n".encode()), "text 4 of .* is empty"),
    "not UTF-8 txt": (put("in.txt", GOOD + b"caf\xe9\n"), "line 5 of .* is not UTF-8"),
    "not UTF-8 csv": (put("in.csv", b"text\n" + GOOD + b"caf\xe9\n"), "is not UTF-8"),
    "not UTF-8 tsv": (put("in.tsv", b"text\n" + GOOD + b"caf\xe9\n"), "line 6 of .* is not UTF-8"),
    "not UTF-8 jsonl": (put("in.jsonl", b'{"text": "caf\xe9"}\n'), "line 1 of .* is not UTF-8"),
    "UTF-16 csv": (put("in.csv", "text\na film\n".encode("utf-16")), "is not UTF-8"),
    "no column csv": (put("in.csv", b"id,review\n1,a\n"), "no column 'text'; it has: id, review"),
    "no column parquet": (put_parquet([{"id": 1, "review": "a"}]), "no column 'text'; it has: id, review"),
    "no column jsonl": (put("in.jsonl", b'{"review": "a"}\n'), "no column 'text'; it has: review"),
    "null jsonl": (put("in.jsonl", b'{"text": "a"}\n{"text": null}\n'), "text 1 of .* is empty"),
    "NaN jsonl": (put("in.jsonl", b'{"text": "a"}\n{"text": NaN}\n'), "text 1 of .* is empty"),
    "number jsonl": (put("in.jsonl", b'{"text": "a"}\n{"text": 7}\n'), "text 1 of .* is no text but int"),
    "surrogate jsonl": (put("in.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n'), "text 1 of .* no valid Unicode"),
    "not JSON": (put("in.jsonl", b'{"text": "a"}\n{"text": "a"\n'), "line 2 of .* is not JSON"),
    "deep JSON": (put("in.jsonl", b'{"text": "a"}\n' + b"[" * 100_000), "line 2 of .* is not JSON"),
    "array JSON": (put("in.jsonl", b'["a"]\n'), "line 1 of .* is not a JSON object"),
    "empty csv": (put("in.csv", b"id,text\n1,a\n2,\n"), "text 1 of .* is empty"),
    "null parquet": (put_parquet([{"text": "a"}, {"text": None}]), "text 1 of .* is empty"),
    "NaN parquet": (put_parquet([{"text": float("nan")}]), "text 0 of .* is empty"),
    "number parquet": (put_parquet([{"text": 3}]), "text 0 of .* is no text but int"),
    "corrupt parquet": (corrupt_parquet, "in.parquet"),
    "unquoted comma": (put("in.csv", b"id,text\n1,good\n2,good, bad\n"), "3 cells instead of 2 in the row at line 3"),
    "short row": (put("in.csv", b"id,text\n1,good\n2\n"), "1 cells instead of 2 in the row at line 3"),
    "open quote": (put("in.csv", b'text\ngood\n"bad\n'), "is not valid CSV: unexpected end of data"),
    "stray quote": (put("in.csv", b'text\n"good" film\n'), "is not valid CSV"),
    "two columns of one name": (put("in.csv", b"text,text\na,b\n"), "two columns of the same name"),
    "extra tab": (put("in.tsv", b"id\ttext\n1\tgood\tbad\n"), "3 cells instead of 2 in the row at line 2"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_told_and_leaves_no_file(
    name: str, detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 3)
    make, message = BAD_INPUT[name]
    source = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(HarnessError, match=message) as found:
        score_stream(detector, victim, str(source), str(tmp_path / "out.csv"))
    assert "\n" not in found.value.message
    assert sorted(tmp_path.iterdir()) == before


def test_an_earlier_output_stays_when_the_input_turns_bad(
    detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 3)
    source = put("in.txt", GOOD + b"\n")(tmp_path)
    for suffix in (".csv", ".jsonl", ".parquet"):
        out = tmp_path / f"out{suffix}"
        out.write_bytes(b"earlier")
        with pytest.raises(DataError, match="is empty"):
            score_stream(detector, victim, str(source), str(out))
        assert out.read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("out", ["out.xlsx", "out", "folder.csv", "in.txt", "../in/in.txt"])
def test_an_unusable_output_is_told_before_any_forward(
    out: str, detector: Detector, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = write_input(folder / "in.txt")
    data = source.read_bytes()
    (folder / "folder.csv").mkdir()
    forwards = victim.forwards
    with pytest.raises(HarnessError):
        score_stream(detector, victim, str(source), str(folder / out))
    assert victim.forwards == forwards
    assert source.read_bytes() == data
    shutil.rmtree(folder / "folder.csv")
    assert [path.name for path in folder.iterdir()] == ["in.txt"]


def test_a_missing_input_is_a_missing_file(detector: Detector, victim: Victim, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no file"):
        score_stream(detector, victim, str(tmp_path / "no.csv"), "-")


def test_a_detector_that_gives_nan_is_named(victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = MLE(victim.layer(-1))
    monkeypatch.setattr(broken, "score", lambda outputs: np.full(len(outputs.probabilities), np.nan))
    with pytest.raises(DataError, match="'mle' gave NaN"):
        score_stream(broken, victim, str(write_input(tmp_path / "in.txt")), str(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_an_id_that_is_a_formula_is_marked_in_csv(tmp_path: Path, detector: Detector, victim: Victim) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "=1+1", "text": "a film"}) + "\n")
    score_stream(detector, victim, str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("'=1+1,")
