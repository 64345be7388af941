"""`harness eval ssl`: figures against scikit-learn's, rows, pictures, resume, corrupt images, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cli.evaluate import spread
from harness.core.compat import prepare_torchvision

prepare_torchvision()

import timm  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from harness.core.rows import read_rows  # noqa: E402
from sdssl.evaluate import t_interval, wilson_interval  # noqa: E402
from sdssl.hub_reader import open_image_encoder  # noqa: E402

ARGUMENTS = {"img_size": 16, "patch_size": 4, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
CLASSES = ("ant", "bee", "cat")
PER_CLASS = {"train": 20, "test": 8}
QUICK = ("--probe-epochs", 3)


def image_folder(folder: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0, **counts: int) -> Path:
    """Noise with a tint a class, hard enough that no reading is perfect."""
    draw = np.random.default_rng(seed)
    for split, count in {**PER_CLASS, **counts}.items():
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = draw.normal(120, 60, (20, 20, 3)) + draw.normal(0, 25, 3)
                noise[..., number % 3] += 30
                picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
                picture.save(folder / split / name / f"{i:02d}.png")
    return folder


def save_encoder(folder: Path, depth: int = 3, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    arguments = {**ARGUMENTS, "depth": depth}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **arguments)
        # Images must differ more from each other than from what they share, or the votes of k-NN are all equal.
        for name, parameter in model.named_parameters():
            shared = name in ("cls_token", "pos_embed") or name.endswith("bias")
            torch.nn.init.normal_(parameter, std=0.02 if shared else 0.5)
    save_file(model.state_dict(), folder / "encoder.safetensors")
    known = {
        "arch": "vit_tiny_patch16_224",
        "arguments": arguments,
        "image_size": 16,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "num_layers": depth,
        "norm": "shared",
        "objective": "simclr",
        "self_distill": False,
        "dataset": "digits",
        "seed": 4,
        **facts,
    }
    (folder / "encoder.json").write_text(json.dumps(known))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = image_folder(tmp_path_factory.mktemp("data") / "tints")
    (folder / "train" / "bee" / "07.png").write_bytes(b"\x89PNG\r\n")
    (folder / "test" / "ant" / "00.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "simclr-run")


@pytest.fixture(scope="module")
def finished(
    main: Callable[..., int], data: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluation")
    given = ["eval", "ssl", "--encoder", encoder, "--data", data, "--out", folder / "run", *QUICK]
    assert main(*given, "--leaderboard", folder / "board") == 0
    rows = json.loads((folder / "run" / "results.json").read_text())["rows"]
    return {"folder": folder, "arguments": given, "row": rows[0]}


def features(encoder: Path, data: Path, split: str, layer: int, pooling: str) -> tuple[Any, Any]:
    """Read without the store, from files listed by hand; unreadable ones left out."""
    reader = open_image_encoder(str(encoder))
    paths = sorted((data / split).glob("*/*.png"))
    kept = [path for path in paths if path.stat().st_size > 20]
    labels = np.array([CLASSES.index(path.parent.name) for path in kept])
    return reader.read([Image.open(path).convert("RGB") for path in kept], [layer])[layer, pooling], labels


@pytest.mark.parametrize("pooling", ["cls", "avg"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_knn_is_scikit_learns(finished: dict[str, Any], data: Path, encoder: Path, layer: int, pooling: str) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = features(encoder, data, "train", layer, pooling)
    test, wanted = features(encoder, data, "test", layer, pooling)
    for k in (10, 20):
        judge = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
        accuracy = judge.fit(train, labels).score(test, wanted)
        (found,) = (
            reading["top1"]
            for reading in finished["row"]["readings"]
            if (reading["protocol"], reading["layer"], reading["pooling"]) == (f"knn-{k}", layer, pooling)
        )
        assert found["value"] == pytest.approx(accuracy)
        assert 0 <= found["low"] < found["value"] < found["high"] <= 1


def test_the_row(finished: dict[str, Any], data: Path) -> None:
    row = finished["row"]
    named = ("encoder", "objective", "self_distill", "arch", "train_dataset", "eval_dataset", "seed")
    assert [row[key] for key in named] == [
        "simclr-run",
        "simclr",
        False,
        "vit_tiny_patch16_224, 16 px, patch 4, depth 3, width 48, 3 heads",
        "digits",
        "tints",
        4,
    ]
    assert (row["n_train"], row["n_test"]) == (59, 23)
    read = {(r["protocol"], r["layer"], r["pooling"]) for r in row["readings"]}
    protocols = {"knn-10", "knn-20", "linear", "fewshot-1", "fewshot-5", "fewshot-10"}  # k = 100 is beyond the data
    assert read == {(p, layer, pooling) for p in protocols for layer in (1, 2, 3) for pooling in ("cls", "avg")}
    assert [layer["layer"] for layer in row["layers"]] == [1, 2, 3]
    for layer in row["layers"]:
        assert layer["flops"] > 0
        assert min(layer[f"{kind}_alignment"] for kind in ("positive", "negative")) > 0
        assert 0 <= layer["positive_alignment_l2"] <= 4
        assert layer["uniformity"] < 0
        assert 1 <= layer["rankme"] <= 21
    protocol = row["protocol"]
    assert protocol["corrupt"] == {
        "test": {"count": 1, "first": ["test/ant/00.png"]},
        "train": {"count": 1, "first": ["train/bee/07.png"]},
    }
    matrix = np.array(protocol["cka"]["matrix"])
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    assert protocol["knn"]["k"] == [10, 20]
    assert protocol["input"]["image_size"] == 16
    assert set(protocol["linear"]["chosen"]["cls"]) == {"1", "2", "3"}
    assert str(data.parent) not in json.dumps(row)
    assert row["cost"]["forward_ms_per_item"] > 0


def test_geometry_by_hand(finished: dict[str, Any], data: Path, encoder: Path) -> None:
    """The balanced sample is all but two of the test images: the smallest class has seven."""
    assert finished["row"]["protocol"]["geometry"] == {
        "pooling": "cls",
        "items": 21,
        "classes": 3,
        "views": "two augmented views of each item",
    }
    values, labels = features(encoder, data, "test", 3, "cls")
    distances = ((values[:, None] - values[None]) ** 2).sum(axis=-1)
    whole = distances[labels[:, None] != labels[None]].mean()
    assert finished["row"]["layers"][2]["negative_alignment"] == pytest.approx(whole, rel=0.1)


def test_outputs(finished: dict[str, Any]) -> None:
    folder = finished["folder"] / "run"
    manifest = json.loads((folder / "manifest.json").read_text())
    pictures = {f"tints-{kind}.png" for kind in ("layers", "exits", "geometry", "cka", "tsne")}
    assert set(manifest["outputs"]) == {"results.json", "readings.csv", *pictures}
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
    with open(folder / "readings.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert len(lines) == len(finished["row"]["readings"])
    assert float(lines[0]["top1"]) == finished["row"]["readings"][0]["top1"]["value"]
    (row,) = read_rows(finished["folder"] / "board", "ssl")
    assert row["id"] == finished["row"]["id"]
    assert (finished["folder"] / "board" / "ssl.csv").read_text().count("\n") == 1 + len(lines)


def test_a_finished_run_prints_again(
    main: Callable[..., int],
    finished: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sdssl.evaluation_run

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(sdssl.evaluation_run, "evaluate_layers", never)
    assert main(*finished["arguments"]) == 0
    said = capsys.readouterr().out
    assert "simclr-run on tints, pooling cls (59 train, 23 test)" in said
    assert "1 train images cannot be read and are left out (train/bee/07.png)." in said
    assert "k-NN at k = 100, 200 is left out" in said


def test_features_are_reused_by_another_run(
    main: Callable[..., int],
    finished: dict[str, Any],
    encoder: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sdssl.encoders import ImageEncoder

    def never(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(ImageEncoder, "read", never)
    given = ["eval", "ssl", "--encoder", encoder, "--data", data, "--protocol", "knn", "--out", tmp_path / "run"]
    assert main(*given) == 0
    again = json.loads((tmp_path / "run" / "results.json").read_text())["rows"][0]["readings"]
    assert again == [r for r in finished["row"]["readings"] if r["protocol"].startswith("knn")]


def test_the_last_four_class_tokens_and_transfer(main: Callable[..., int], tmp_path: Path, data: Path) -> None:
    deep = save_encoder(tmp_path / "deep", depth=5)
    other = image_folder(tmp_path / "other", ("x", "y"), seed=1, train=12, test=4)
    given = ["eval", "ssl", "--encoder", deep, "--data", data, "--layers", "-1", "--protocol", "linear", *QUICK]
    assert main(*given, "--transfer", other, "--out", tmp_path / "run") == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["eval_dataset"] for row in rows] == ["tints", "other"]
    assert [(r["layer"], r["pooling"]) for r in rows[1]["readings"]] == [(5, "cls"), (5, "avg"), (5, "cls-last4")]
    assert (rows[1]["n_train"], rows[1]["n_test"]) == (24, 8)
    assert (tmp_path / "run" / "other-layers.png").exists()


def test_a_stage_by_stage_network(main: Callable[..., int], tmp_path: Path, data: Path) -> None:
    given = ["eval", "ssl", "--encoder", "timm:resnet10t", "--untrained", "--image-size", 32, "--data", data]
    assert main(*given, "--protocol", "knn", "--layers", "2,-1", "--seed", 3, "--out", tmp_path / "run") == 0
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert (row["encoder"], row["objective"]) == ("timm:resnet10t (untrained, seed 3)", None)
    assert {(r["layer"], r["pooling"]) for r in row["readings"]} == {(2, "avg"), (5, "avg")}


def text_folder(folder: Path) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for split, n in (("train", 40), ("test", 16)):
        lines = ["text,label"]
        lines += [f"the {'good warm' if i % 2 else 'dull bad'} film {draw.integers(9)},{i % 2}" for i in range(n)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_text_encoder_by_the_same_command(main: Callable[..., int], tmp_path: Path, tiny_victim_folder: Any) -> None:
    texts = text_folder(tmp_path / "texts")
    given = ["eval", "ssl", "--encoder", tiny_victim_folder(), "--data", texts, "--out", tmp_path / "run", *QUICK]
    assert main(*given, "--device", "cpu") == 0
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {(r["layer"], r["pooling"]) for r in row["readings"]} == {(n, p) for n in (1, 2, 3) for p in ("cls", "avg")}
    assert all(layer["positive_alignment"] is None for layer in row["layers"])
    assert all(layer["negative_alignment"] > 0 for layer in row["layers"])
    assert row["protocol"]["geometry"]["views"] is None
    assert (row["eval_dataset"], row["arch"], row["n_train"]) == ("texts", "bert", 40)


# --- intervals ---------------------------------------------------------------------------------------------------


def test_wilson_by_hand() -> None:
    n, p, z = 50, 0.9, 1.959963984540054
    centre, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    found = wilson_interval(45, 50)
    assert found["value"] == 0.9
    assert found["low"] == pytest.approx((centre - half) / scale)
    assert found["high"] == pytest.approx((centre + half) / scale)


def test_student_by_hand() -> None:
    found = t_interval(np.array([0.5, 0.6, 0.7]))  # t(0.975, 2) = 4.302653, standard error 0.1 / sqrt 3
    assert found["low"] == pytest.approx(0.6 - 4.302653 * 0.1 / np.sqrt(3), abs=1e-6)
    assert t_interval(np.array([0.9, 1.0, 1.0]))["high"] == 1.0
    assert t_interval(np.array([0.4])) == {"value": 0.4, "low": None, "high": None}


def test_transfer_takes_several() -> None:
    assert spread(["eval", "ssl", "--transfer", "a", "b", "--layers", "-1"]) == [
        *("eval", "ssl", "--transfer", "a", "--transfer", "b", "--layers", "-1")
    ]


# --- what is refused ---------------------------------------------------------------------------------------------


def flat(folder: Path) -> Path:
    image_folder(folder / "made", ("a", "b"), train=2, test=1)
    for split in ("train", "test"):
        (folder / "flat" / split).mkdir(parents=True)
        for number, path in enumerate(sorted((folder / "made" / split).glob("*/*.png"))):
            path.rename(folder / "flat" / split / f"{number}.png")
    return folder / "flat"


def unfit(folder: Path) -> Path:
    run = save_encoder(folder / "unfit")
    state = load_file(run / "encoder.safetensors")
    state["norm.weight"] = torch.zeros(7)
    state["blocks.9.norm1.weight"] = state.pop("blocks.0.norm1.weight")
    save_file(state, run / "encoder.safetensors")
    return run


def extra_class(folder: Path) -> Path:
    made = image_folder(folder / "extra", ("a", "b", "c"), train=3, test=1)
    for path in (made / "train" / "c").iterdir():
        path.unlink()
    return made


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def one_file(folder: Path) -> Path:
    (folder / "reviews.csv").write_text("text,label\n" + "a film,0\nb film,1\n" * 9)
    return folder / "reviews.csv"


Change = Callable[[Path], dict[str, Any]]
CASES: dict[str, tuple[Change, str]] = {
    "layer": (lambda p: {"--layers": 9}, "no layer 9"),
    "layer 0": (lambda p: {"--layers": "0"}, "no layer 0"),
    "protocol": (lambda p: {"--protocol": "knm"}, "no protocol named 'knm'"),
    "pooling": (lambda p: {"--poolings": "max"}, "pooling 'max'"),
    "dataset": (lambda p: {"--data": "digit"}, "no dataset named 'digit'"),
    "path": (lambda p: {"--data": p / "no"}, "no file or folder"),
    "one class": (lambda p: {"--data": image_folder(p / "one", ("a",))}, "fewer than two classes"),
    "no labels": (lambda p: {"--data": flat(p)}, "have no labels"),
    "unseen class": (lambda p: {"--data": extra_class(p)}, "class"),
    "few training images": (lambda p: {"--train-limit": 2}, "class"),
    "patch": (lambda p: {"--image-size": 18}, "a patch of 4 pixels does not divide an image of 18"),
    "weights": (lambda p: {"--encoder": unfit(p)}, r"blocks\.0\.norm1\.weight.*norm\.weight is \[7\], expected \[48\]"),
    "no run": (lambda p: {"--encoder": empty(p)}, "not a run folder"),
    "no encoder": (lambda p: {"--encoder": p / "no"}, "no encoder folder"),
    "hub": (lambda p: {"--encoder": "no-one/no-model"}, "neither a folder nor loadable"),
    "timm": (lambda p: {"--encoder": "timm:vit_tini"}, "no timm model named"),
    "text data": (lambda p: {"--data": text_folder(p / "texts")}, "reads images"),
    "one text file": (lambda p: {"--data": one_file(p)}, "one file without splits"),
    "same data": (lambda p: {"--transfer": "digits", "--data": "digits"}, "named twice"),
    "dtype": (lambda p: {"--dtype": "fp8"}, "no dtype 'fp8'"),
    "max length": (lambda p: {"--max-length": 9}, "--max-length is for texts"),
    "nothing left": (lambda p: {"--poolings": "avg", "--protocol": "knn", "--train-limit": 9}, "no reading"),
}
if not torch.cuda.is_available():
    CASES["gpu"] = (lambda p: {"--device": "cuda"}, "--device cuda")


@pytest.mark.parametrize("name", sorted(CASES))
def test_bad_input(
    main: Callable[..., int], name: str, data: Path, encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, message = CASES[name]
    given = {"--encoder": encoder, "--data": data, "--out": tmp_path / "out", **change(tmp_path)}
    assert main("eval", "ssl", *(value for pair in given.items() for value in pair)) == 2
    said = capfd.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said.err
    import re

    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_refuses_images(
    main: Callable[..., int], data: Path, tiny_victim_folder: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main("eval", "ssl", "--encoder", tiny_victim_folder(), "--data", data, "--out", tmp_path / "out") == 2
    assert "reads no images" in capfd.readouterr().err
    texts = text_folder(tmp_path / "texts")
    assert main("eval", "ssl", "--encoder", "timm:resnet10t", "--untrained", "--data", texts) == 2
    assert "reads images" in capfd.readouterr().err
