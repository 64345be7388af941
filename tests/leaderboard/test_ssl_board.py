from __future__ import annotations

import csv
import io
import os
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.csv_cells import unsafe_cell
from harness.core.errors import DataError
from harness.core.rows import finish_row, write_row
from harness.leaderboard import page as page_module
from harness.leaderboard import sheets
from harness.leaderboard.board import add, build
from harness.leaderboard.curves import Look, Point, Series, draw
from harness.leaderboard.ssl_tables import ssl_groups

HOSTILE = "<script>alert(1)</script>"
LAYERS = (1, 2, 3)


def make_row(top1: Sequence[float] = (0.3, 0.5, 0.4), **changes: Any) -> dict[str, Any]:
    readings = [
        {
            "protocol": protocol,
            "layer": layer,
            "pooling": pooling,
            "top1": {"value": v, "low": v / 2, "high": min(1, 2 * v)},
        }
        for protocol in ("linear", "knn-20", "knn-100")
        for pooling in ("cls", "avg")
        for layer, v in zip(LAYERS, top1, strict=True)
    ]
    numbers = ("positive_alignment", "positive_alignment_l2", "negative_alignment", "negative_alignment_l2")
    known = {name: 1.5 for name in (*numbers, "uniformity", "rankme", "feature_std")}
    row = {
        "board": "ssl",
        "encoder": "run-a",
        "objective": "mocov3",
        "self_distill": True,
        "arch": "vit_tiny",
        "train_dataset": "cifar10",
        "eval_dataset": "digits",
        "seed": 0,
        "n_train": 1000,
        "n_test": 200,
        "readings": readings,
        "layers": [{"layer": layer, "flops": 10**9 * layer, **known} for layer in (1, 3)],
        "cost": {"forward_ms_per_item": 1.25, "reading_seconds": None},
        "run": "read-a",
        "protocol": {},
    }
    return finish_row({**row, **changes})


def many_rows() -> list[dict[str, Any]]:
    own = [
        make_row(objective=objective, self_distill=self_distill, seed=seed, encoder=f"{objective}-{seed}")
        for objective in ("simclr", HOSTILE, "=HYPERLINK(1)")
        for self_distill in (True, False)
        for seed in (0, 1, 10)
    ]
    unknown = {"objective": None, "self_distill": None, "train_dataset": None, "seed": None}
    return own + [make_row(encoder=name, **unknown) for name in ("timm:a", "timm:b")]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    return sheets.to_csv("ssl", rows)


def render(rows: Sequence[dict[str, Any]]) -> str:
    return page_module.render({"ssl": rows})


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# The CSV.


def test_columns_are_pinned() -> None:
    assert ",".join(sheets.COLUMNS["ssl"]) == (
        "objective,self_distill,arch,train_dataset,eval_dataset,protocol,layer,pooling,seed,n_train,n_test,"
        "top1,top1_low,top1_high,flops,forward_ms_per_item,encoder,run,id"
    )


def test_one_line_a_reading() -> None:
    row = make_row(top1=(1 / 3, 0.5, 0.25))
    lines = records(to_csv([row]))
    assert len(lines) == len(row["readings"]) == 18
    # Plain order of texts and numbers: protocol, pooling, layer.
    assert [(line["protocol"], line["pooling"], line["layer"]) for line in lines[:4]] == [
        ("knn-100", "avg", "1"),
        ("knn-100", "avg", "2"),
        ("knn-100", "avg", "3"),
        ("knn-100", "cls", "1"),
    ]
    assert lines[0] == {
        **{"objective": "mocov3", "self_distill": "true", "arch": "vit_tiny", "train_dataset": "cifar10"},
        **{"eval_dataset": "digits", "protocol": "knn-100", "layer": "1", "pooling": "avg", "seed": "0"},
        **{"n_train": "1000", "n_test": "200", "top1": "0.333333", "top1_low": "0.166667", "top1_high": "0.666667"},
        **{"flops": "1000000000", "forward_ms_per_item": "1.25", "encoder": "run-a", "run": "read-a"},
        "id": row["id"],
    }
    # Nothing is known of layer 2 but its readings.
    assert [line["flops"] for line in lines[:3]] == ["1000000000", "", "3000000000"]


def test_unknown_is_empty_and_false_is_false() -> None:
    nothing = {"objective": None, "self_distill": None, "train_dataset": None, "seed": None}
    cost = {"forward_ms_per_item": None, "reading_seconds": 2}
    line = records(to_csv([make_row(**nothing, cost=cost)]))[0]
    assert {line[key] for key in (*nothing, "forward_ms_per_item")} == {""}
    assert records(to_csv([make_row(self_distill=False)]))[0]["self_distill"] == "false"


def test_lines_are_sorted_across_rows() -> None:
    rows = many_rows()
    random.Random(0).shuffle(rows)
    table = pd.read_csv(io.StringIO(to_csv(rows)), dtype={"id": str, "self_distill": str}, keep_default_na=False)
    keys = ["eval_dataset", "train_dataset", "arch", "objective", "self_distill"]
    keys += ["protocol", "pooling", "layer", "seed", "id"]
    table["objective"] = table["objective"].map(unsafe_cell)
    table["seed"] = pd.to_numeric(table["seed"]).fillna(-1)
    assert list(table.index) == list(table.sort_values(keys).index)
    # Lines of different rows alternate: three seeds stand together.
    assert list(table["seed"][-6:]) == [0, 1, 10, 0, 1, 10]


@given(st.text("'=+-@\t\r\n,;\"\\ aé", min_size=1))
def test_texts_survive_the_csv(text: str) -> None:
    names = ("objective", "arch", "train_dataset", "eval_dataset", "encoder", "run")
    for record in records(to_csv([make_row(**dict.fromkeys(names, text))])):
        assert {unsafe_cell(record[name]) for name in names} == {text}
        assert not record["encoder"].startswith(("=", "+", "-", "@", "\t", "\r"))


# The merge.


@settings(max_examples=5, deadline=None)
@given(st.permutations(many_rows()))
def test_any_order_gives_the_same_text(rows: list[dict[str, Any]]) -> None:
    assert to_csv(rows) == to_csv(many_rows())
    assert render(rows) == render(many_rows())


def test_any_order_of_files_gives_the_same_bytes(tmp_path: Path) -> None:
    found = set()
    for attempt in range(2):
        rows = many_rows()
        random.Random(attempt).shuffle(rows)
        for age, row in enumerate(rows):
            os.utime(write_row(tmp_path / str(attempt), row), (age * 1000, age * 1000))
        found.add(tuple(path.read_bytes() for path in build(tmp_path / str(attempt))))
    assert len(found) == 1


def test_a_row_that_was_changed_stops_the_build(tmp_path: Path) -> None:
    files = add(tmp_path, [make_row()])
    assert [path.name for path in files] == ["ssl.csv", "index.html"]
    before = [path.read_bytes() for path in files]
    [path] = (tmp_path / "results" / "ssl").iterdir()
    path.write_text(path.read_text().replace('"value": 0.3', '"value": 0.4', 1))
    with pytest.raises(DataError, match=f"{path.name} .* changed after it was written"):
        build(tmp_path)
    assert [path.read_bytes() for path in files] == before


def test_processes_at_once_end_in_the_same_bytes(tmp_path: Path, write_at_once: Callable[..., Any]) -> None:
    codes = write_at_once(tmp_path, many_rows(), processes=6, every_nth_row=3, build_every=3)
    assert codes == [0] * 6
    names = ("detection.csv", "ssl.csv", "index.html")
    ended = [(tmp_path / name).read_bytes() for name in names]
    assert len(records(ended[1].decode())) == 18 * len(many_rows())
    assert ended == [path.read_bytes() for path in build(tmp_path)]
    assert {path.name for path in tmp_path.iterdir()} == {"results", *names}


# The page.


@pytest.mark.parametrize("key", ["objective", "arch", "train_dataset", "eval_dataset", "encoder", "run"])
@pytest.mark.parametrize("text", [HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "</svg>'&amp;"])
def test_hostile_names_are_text(read_page: Callable[[str], Any], key: str, text: str) -> None:
    outline = read_page(render([make_row(**{key: text}, seed=seed) for seed in (0, 1)]))
    assert not {"img", "link", "iframe"} & {tag for tag, _ in outline.tags}
    assert [attrs for tag, attrs in outline.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    assert not [name for _, attrs in outline.tags for name in attrs if name.startswith("on")]
    assert text in outline.data["pool"]
    assert key in ("run", "encoder") or text in outline.texts or f"{text}, self-distilled" in outline.texts


def test_the_page_is_semantic(read_page: Callable[[str], Any]) -> None:
    page = render(many_rows())
    outline = read_page(page)
    tags = [tag for tag, _ in outline.tags]
    # Two groups, each with its table and those of two pictures.
    assert tags.count("table") == tags.count("caption") == 6
    assert all(attrs.get("scope") for tag, attrs in outline.tags if tag == "th")
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    pictures = [attrs for tag, attrs in outline.tags if attrs.get("role") == "img"]
    assert len(pictures) == 4
    assert all(set(attrs["aria-labelledby"].split()) <= set(ids) for attrs in pictures)
    assert not [attrs for _, attrs in outline.tags if {"src", "action", "style"} & set(attrs)]


def test_last_and_best_layer_of_one_seed() -> None:
    [group] = ssl_groups([make_row()])
    [line] = group.lines
    assert (line.label, line.seeds, line.items) == ("mocov3, self-distilled", "seed 0", ("1,000", "200"))
    assert group.protocols == ("k-NN, k = 20", "Linear probe")
    last, best = ("40.0", "20.0 to 80.0", "layer 3"), ("50.0", "25.0 to 100.0", "layer 2")
    assert [(cell.value, cell.interval, cell.note) for cell in line.cells] == [last, best, last, best]
    assert [sample.ids for sample in group.samples] == [line.ids]


def test_of_equal_layers_the_lowest_is_best() -> None:
    [group] = ssl_groups([make_row(top1=(0.3, 0.4, 0.4))])
    assert group.lines[0].cells[1].note == "layer 2"


def test_seeds_are_averaged_and_baselines_stand_beside() -> None:
    rows = [make_row(top1=(0.3, 0.5, 0.4), seed=0), make_row(top1=(0.3, 0.3, 0.5), seed=1)]
    rows += [make_row(self_distill=False, seed=seed) for seed in (0, 1)] + [make_row(objective="byol")]
    [group] = ssl_groups(rows)
    assert [(line.label, line.seeds) for line in group.lines] == [
        ("byol, self-distilled", "seed 0"),
        ("mocov3, baseline", "mean of seeds 0, 1"),
        ("mocov3, self-distilled", "mean of seeds 0, 1"),
    ]
    # The best layer is that of the mean, and the range is that of the seeds.
    cells = [(cell.value, cell.interval, cell.note) for cell in group.lines[2].cells[:2]]
    assert cells == [("45.0", "40.0 to 50.0", "layer 3")] * 2
    assert len(group.samples) == 5
    assert {line.ids for line in group.samples} == {(row["id"],) for row in rows}
    strokes = {entry.label: (entry.look.colour, entry.look.stroke) for entry in group.legend}
    assert strokes["mocov3, baseline"] == (2, "dashed")
    assert strokes["mocov3, self-distilled"] == (2, "solid")
    assert strokes["byol, self-distilled"] == (1, "solid")


def test_one_seed_twice_is_not_averaged() -> None:
    [group] = ssl_groups([make_row(encoder="b"), make_row(encoder="a"), make_row(encoder="c", seed=1)])
    assert sorted(line.label for line in group.lines) == [f"mocov3, self-distilled, {name}" for name in "abc"]
    assert {line.seeds for line in group.lines} == {"seed 0", "seed 1"}
    assert len({(entry.look.colour, entry.look.mark) for entry in group.legend}) == 3


def test_an_unknown_seed_is_not_averaged() -> None:
    [group] = ssl_groups([make_row(seed=None), make_row(seed=0)])
    assert [line.seeds for line in group.lines] == ["", "seed 0"]


def test_unlike_trainings_and_samples_are_not_averaged() -> None:
    rows = [
        make_row(
            seed=seed, protocol={"encoder": {"preset": "lite", "batch_size": epochs, "hash": seed}}, n_train=n_train
        )
        for seed, epochs, n_train in [(0, 20, 1000), (1, 20, 1000), (2, 100, 1000), (3, 100, 500)]
    ]
    [group] = ssl_groups(rows)
    assert {(line.label.removeprefix("mocov3, self-distilled, "), line.seeds) for line in group.lines} == {
        ("batch size 20, train items 1000", "mean of seeds 0, 1"),
        ("batch size 100, train items 1000", "seed 2"),
        ("batch size 100, train items 500", "seed 3"),
    }


def test_encoders_without_objective_have_their_names() -> None:
    unknown = {"objective": None, "self_distill": None, "train_dataset": None, "seed": None}
    [group] = ssl_groups([make_row(encoder=name, **unknown) for name in ("timm:b", "timm:a")])
    assert [(line.label, line.seeds) for line in group.lines] == [("timm:a", ""), ("timm:b", "")]
    assert group.train_dataset is None
    assert [entry.look.stroke for entry in group.legend] == ["dotted", "dotted"]
    assert group.legend[0].look.colour != group.legend[1].look.colour


def test_a_layer_that_a_seed_lacks_is_not_averaged() -> None:
    less = make_row(seed=1)
    short = [r for r in less["readings"] if r["layer"] != 2 or r["protocol"] != "linear"]
    [group] = ssl_groups([make_row(seed=0), make_row(seed=1, readings=short)])
    knn, linear = group.curves
    assert [layer for layer, _ in knn.layers] == [1, 2, 3]
    assert [layer for layer, _ in linear.layers] == [1, 3]
    assert group.lines[0].cells[3].note == "layer 3"


def test_other_protocols_and_poolings_where_the_usual_ones_are_missing() -> None:
    readings = [
        {"protocol": name, "layer": layer, "pooling": "mean", "top1": {"value": 0.5, "low": None, "high": None}}
        for name in ("fewshot-10", "fewshot-5", "fewshot-1")
        for layer in (4, 9)
    ]
    [group] = ssl_groups([make_row(readings=readings)])
    assert group.pooling == "mean"
    assert group.protocols == ("Few-shot, 1 a class", "Few-shot, 5 a class")
    assert [cell.interval for cell in group.lines[0].cells] == [""] * 4


def test_a_single_layer_is_no_curve() -> None:
    readings = [r for r in make_row()["readings"] if r["layer"] == 3]
    [group] = ssl_groups([make_row(readings=readings)])
    assert group.curves == ()
    assert group.lines[0].cells[0].value == "40.0"
    assert "<figure>" not in render([make_row(readings=readings)])


def test_the_picture_shows_the_numbers() -> None:
    page = render([make_row(top1=(0.3, 0.5, 0.4), seed=0), make_row(top1=(0.5, 0.5, 0.6), seed=1)])
    [knn, _] = (ET.fromstring(text) for text in re.findall(r'<svg class="curve".*?</svg>', page, re.DOTALL))
    assert knn.findtext("title") == "k-NN, k = 20: top-1 accuracy by layer"
    told = "mocov3, self-distilled: 40.0 at layer 1 and 50.0 at layer 3, highest 50.0 at layer 2."
    assert knn.findtext("desc") == told
    ticks = {text.text: float(text.get("y", "nan")) for text in knn.findall("text") if text.get("dy")}
    assert list(ticks) == ["30", "35", "40", "45", "50", "55", "60"]
    places = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", knn.find("g/path").get("d"))]
    assert places == pytest.approx([ticks["40"], ticks["50"], ticks["50"]])
    band = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", knn.find("path").get("d"))]
    wanted = ["50", "50", "60", "40", "50", "30"]
    assert band == pytest.approx([ticks[text] for text in wanted])


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9)
)
def test_pictures_hold_everything(points: list[tuple[int, float, float, float]]) -> None:
    own = {layer: sorted(values) for layer, *values in points}
    line = tuple(Point(layer, value, low, high) for layer, (low, value, high) in sorted(own.items()))
    picture = draw([Series("a", Look(0, 0, "solid"), line)])
    for path in (picture.drawn[0].line, picture.drawn[0].band):
        for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path):
            assert picture.left <= float(x) <= picture.right
            assert picture.top <= float(y) <= picture.bottom
    assert picture.x_ticks[0].text == str(line[-1].layer)
    assert 2 <= len(picture.y_ticks) <= 8
    assert len({tick.text for tick in picture.y_ticks}) == len(picture.y_ticks)
    assert 1 <= len(picture.x_ticks) <= 13
