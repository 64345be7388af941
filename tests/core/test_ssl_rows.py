from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core import rows
from harness.core.errors import DataError
from harness.core.rows import finish_row, read_rows, write_row

ID = "2e1a5dc48a374f09"


def reading(layer: int = 12, protocol: str = "knn-20", pooling: str = "cls", **top1: Any) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "layer": layer,
        "pooling": pooling,
        "top1": {"value": 0.5, "low": 0.25, "high": 0.75, **top1},
    }


def layer_facts(layer: int = 12, **changes: Any) -> dict[str, Any]:
    facts = {
        "layer": layer,
        "flops": 2_000_000,
        "positive_alignment": 0.5,
        "positive_alignment_l2": 0.25,
        "negative_alignment": 3.5,
        "negative_alignment_l2": 1.5,
        "uniformity": -2.5,
        "rankme": 40.5,
        "feature_std": 0.875,
    }
    return {**facts, **changes}


def make_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "board": "ssl",
        "encoder": "mocov3-sd-0",
        "objective": "mocov3",
        "self_distill": True,
        "arch": "vit_tiny_patch16_224",
        "train_dataset": "cifar10_jpeg",
        "eval_dataset": "cifar10_jpeg",
        "seed": 0,
        "n_train": 50000,
        "n_test": 10000,
        "readings": [reading(11), reading(12)],
        "layers": [layer_facts(11), layer_facts(12)],
        "cost": {"forward_ms_per_item": 1.5, "reading_seconds": 20.5},
        "run": "read-0",
        "protocol": {"temperature": 0.07, "rates": [1, 0.5], "cka": [[1.0, 0.5], [0.5, 1.0]]},
    }
    return copy.deepcopy({**row, **changes})


def test_id_is_pinned_and_leaves_out_cost_and_run() -> None:
    # A change of this literal makes every published row unreadable.
    assert finish_row(make_row())["id"] == ID
    other = make_row(cost={"forward_ms_per_item": None, "reading_seconds": 3}, run="elsewhere")
    assert finish_row(other)["id"] == ID


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "other"},
        {"self_distill": None},
        {"seed": None},
        {"n_test": 9999},
        {"readings": [reading(12), reading(11)]},
        {"readings": [reading(11), reading(12, value=0.5625)]},
        {"layers": [layer_facts(11), layer_facts(12, flops=2_000_001)]},
        {"protocol": {}},
    ],
)
def test_id_follows_everything_else(change: dict[str, Any]) -> None:
    assert finish_row(make_row(**change))["id"] != ID


def test_id_does_not_depend_on_the_type_of_a_number() -> None:
    whole = {"seed": 0.0, "n_train": np.float32(50000), "n_test": np.int64(10000)}
    plain = finish_row(make_row(readings=[reading(value=1.0, high=1.0)], layers=[layer_facts(rankme=40.0)]))
    other = finish_row(
        make_row(
            **whole,
            readings=(reading(layer=np.int32(12), value=1, high=np.float64(1)),),
            layers=(layer_facts(layer=12.0, flops=2e6, rankme=40),),
        )
    )
    assert json.dumps(other, sort_keys=True) == json.dumps(plain, sort_keys=True)
    assert finish_row(other) == other


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from schemas(part)


@pytest.mark.parametrize("board", rows.BOARDS)
def test_schemas_are_sound_and_closed(board: str) -> None:
    schema = rows._schema(board)
    rows._validator(board).check_schema(schema)
    objects = [part for part in schemas(schema) if part.get("type") == "object"]
    # Objects with names of their own say what each holds; only the protocol takes anything.
    assert [part for part in objects if not isinstance(part.get("additionalProperties"), bool | dict)] == [
        schema["properties"]["protocol"]
    ]
    assert not [part for part in objects if part.get("additionalProperties") is True]
    named = [part for part in objects if "properties" in part]
    # Rows may lack what came later: keys of their own, and parts of the cost of detection.
    later = [schema, schema["properties"]["cost"]] if board == "detection" else [schema]
    assert all(set(part["required"]) == set(part["properties"]) for part in named if part not in later)
    assert all(set(part["required"]) <= set(part["properties"]) for part in named)


def test_everything_in_the_schema_is_described() -> None:
    for part in schemas(rows._schema("ssl")):
        for name, place in part.get("properties", {}).items():
            assert place.get("description") or "$ref" in place, name


def test_round_trip_with_nulls(tmp_path: Path) -> None:
    unknown = {"objective": None, "self_distill": None, "train_dataset": None, "seed": None}
    nothing = {key: None for key in layer_facts() if key != "layer"}
    row = make_row(**unknown, layers=[{**nothing, "layer": 12}, layer_facts(11, rankme=math.nan)])
    row["readings"].append(reading(protocol="fewshot-1", low=math.nan, high=None))
    path = write_row(tmp_path, row)
    assert path.parent == tmp_path / "results" / "ssl"
    [read] = read_rows(tmp_path, "ssl")
    assert read == finish_row(row)
    assert read["layers"][1]["rankme"] is None
    assert read["readings"][2]["top1"] == {"value": 0.5, "low": None, "high": None}
    assert read_rows(tmp_path, "detection") == []


def test_rounding_of_bounds_is_forgiven() -> None:
    assert finish_row(make_row(readings=[reading(value=0.75 + 1e-12), reading(11, value=1, low=1, high=1 - 1e-12)]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (make_row(extra=1), r"\$: .*'extra' was unexpected"),
        (make_row(encoder=""), r"\$\.encoder: "),
        (make_row(objective=""), r"\$\.objective: "),
        (make_row(arch=None), r"\$\.arch: "),
        (make_row(self_distill=1), r"\$\.self_distill: "),
        (make_row(seed=0.5), r"\$\.seed: "),
        (make_row(n_train=0), r"\$\.n_train: "),
        (make_row(readings=[]), r"\$\.readings: "),
        (make_row(readings=[reading(0)]), r"\$\.readings\[0\]\.layer: 0"),
        (make_row(readings=[reading(1.5)]), r"\$\.readings\[0\]\.layer: 1\.5"),
        (make_row(readings=[reading(protocol="k-NN 20")]), r"\$\.readings\[0\]\.protocol: "),
        (make_row(readings=[reading(value=1.01)]), r"\$\.readings\[0\]\.top1\.value: 1\.01"),
        (make_row(readings=[reading(value=math.nan)]), r"\$\.readings\[0\]\.top1\.value: None"),
        (make_row(readings=[reading(n=3)]), r"\$\.readings\[0\]\.top1: .*'n' was unexpected"),
        (make_row(readings=[{**reading(), "rate": 1}]), r"\$\.readings\[0\]: .*'rate' was unexpected"),
        (make_row(readings=[reading(value=0.76)]), r"\$\.readings\[0\]\.top1: 0\.76 is not within 0\.25 and 0\.75"),
        (make_row(readings=[reading(11), reading(value=0.2, high=None)]), r"\$\.readings\[1\]\.top1: 0\.2 is not"),
        (
            make_row(readings=[reading(), reading(11), reading()]),
            r"\$\.readings\[2\]: it has the same .* \$\.readings\[0\]",
        ),
        (make_row(layers=[layer_facts(), layer_facts(rankme=1)]), r"\$\.layers\[1\]: it has the same layer as"),
        (make_row(layers=[layer_facts(flops=0.5)]), r"\$\.layers\[0\]\.flops: "),
        (make_row(layers=[layer_facts(uniformity=math.inf)]), r"\$\.layers\[0\]\.uniformity: inf"),
        (make_row(layers=[{"layer": 1}]), r"\$\.layers\[0\]: 'feature_std' is a required property \(7 more\)"),
        (make_row(cost={"forward_ms_per_item": 1}), r"\$\.cost: 'reading_seconds'"),
    ],
)
def test_violations_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_row(tmp_path, row)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new"),
    [('"value": 0.5', '"value": 0.6'), ('"flops": 2000000', '"flops": 2000001'), ('"layer": 11', '"layer": 10')],
)
def test_tampering_is_seen(tmp_path: Path, old: str, new: str) -> None:
    path = write_row(tmp_path, make_row())
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match="changed after it was written"):
        read_rows(tmp_path, "ssl")
