"""`harness ssl` from the command line: train, demo, bad input; a trained encoder read by a script of its own."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TINY = ["--arch", "vit_tiny_patch16_224", "--preset", "tiny", "--image-size", "8", "--patch-size", "4"]
TINY += ["--depth", "2", "--width", "24", "--heads", "2"]
SMALL = [*TINY, "--batch-size", "16", "--epochs", "1", "--knn-every", "0"]


def picture_folder(folder: Path, per_class: int = 20) -> Path:
    """Two classes of noise, bright and dark."""
    draw = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", 6)):
        for label, high in (("bright", 255), ("dark", 60)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, high, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def trained(main: Callable[..., int], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "byol"
    arguments = ["--objective", "byol", "--self-distill", "--data", pictures, "--seed", 5, "--out", out]
    assert main("ssl", "train", *arguments, *SMALL) == 0
    return out


def test_from_pictures_to_the_leaderboard(
    main: Callable[..., int], trained: Path, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    board = tmp_path / "board"
    arguments = ["--encoder", trained, "--data", pictures, "--leaderboard", board, "--out", tmp_path / "read"]
    assert main("eval", "ssl", *arguments) == 0
    with open(board / "ssl.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert {line["layer"] for line in lines} == {"1", "2"}
    for line in lines:
        assert (line["objective"], line["self_distill"], line["seed"]) == ("byol", "true", "5")
        assert (line["train_dataset"], line["eval_dataset"], line["encoder"]) == ("pictures", "pictures", "byol")
        assert 0 <= float(line["top1_low"]) <= float(line["top1"]) <= float(line["top1_high"]) <= 1
    (row,) = [json.loads(path.read_text()) for path in (board / "results" / "ssl").iterdir()]
    assert row["provenance"]["command"] == shlex.join(["harness", "eval", "ssl", *map(str, arguments)])
    assert row["provenance"]["manifest"]["hardware"]["cores"] == os.cpu_count()
    final = [line for line in lines if line["protocol"] == "knn-10" and line["pooling"] == "avg"]
    assert float(final[-1]["top1"]) > 0.9  # bright and dark pictures are told apart by anything that sees


READER = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
from harness.core.compat import prepare_torchvision
prepare_torchvision()
import timm, torch
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier

run, pictures = map(Path, sys.argv[1:])
facts = json.loads((run / "encoder.json").read_text())
model = timm.create_model(facts["arch"], **facts["arguments"])
model.load_state_dict(load_file(run / "encoder.safetensors"))
model.eval()

def read(split):
    features, labels = [], []
    for label, folder in enumerate(sorted((pictures / split).iterdir())):
        for path in sorted(folder.iterdir()):
            picture = Image.open(path).convert("RGB")
            side = facts["image_size"]
            short = min(picture.size)
            size = [int(side * edge / short) for edge in picture.size]
            picture = picture.resize(size, Image.BICUBIC)
            left, top = (round((edge - side) / 2) for edge in size)
            pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255
            pixels = (pixels - facts["mean"]) / facts["std"]
            tokens = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
            with torch.no_grad():
                tokens = model._pos_embed(model.patch_embed(tokens))
                layers = []
                for block in model.blocks:
                    tokens = block(tokens)
                    layers.append(model.norm(tokens)[0, 0].numpy())
            features.append(layers)
            labels.append(label)
    return np.array(features), np.array(labels)

(train, y), (test, z) = read("train"), read("test")
for layer in range(train.shape[1]):
    weigh = lambda d: np.exp((1 - d) / 0.07)
    peer = KNeighborsClassifier(20, weights=weigh, metric="cosine").fit(train[:, layer], y)
    print(layer + 1, peer.score(test[:, layer], z))
assert not [name for name in sys.modules if name.startswith("sdssl")]
"""


def test_a_script_that_shares_no_code_reads_the_same(
    main: Callable[..., int], trained: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = ["--data", pictures, "--protocol", "knn", "--poolings", "cls", "--out", tmp_path / "read"]
    assert main("eval", "ssl", "--encoder", trained, *arguments) == 0
    script = tmp_path / "reader.py"
    script.write_text(READER)
    done = subprocess.run(
        [sys.executable, str(script), str(trained), str(pictures)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "read" / "results.json").read_text())["rows"]
    ours = {r["layer"]: r["top1"]["value"] for r in row["readings"] if r["protocol"] == "knn-20"}
    theirs = {int(line.split()[0]): float(line.split()[1]) for line in done.stdout.splitlines()}
    assert ours == pytest.approx(theirs)


def test_the_demo(main: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main("ssl", "demo", "--epochs", "1", "--out", "demo") == 0
    out = capsys.readouterr().out
    assert "baseline on digits" in out
    assert "self-distilled on digits" in out
    with open("demo/leaderboard/ssl.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert {line["self_distill"] for line in lines} == {"true", "false"}
    assert {line["layer"] for line in lines} == {str(layer) for layer in range(1, 7)}
    assert Path("demo", "layers.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("kind", ["attacks", "datasets", "detectors", "images", "objectives"])
def test_lists(main: Callable[..., int], kind: str, capsys: Any) -> None:
    assert main("list", kind) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1


Change = Callable[[Path], list[Any]]


def unlabelled(folder: Path) -> list[Any]:
    for split in ("train", "test"):
        (folder / "flat" / split).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "flat" / split / f"{number}.jpg")
    return ["--data", folder / "flat"]


def corrupt(folder: Path) -> list[Any]:
    (folder / "broken" / "train" / "a").mkdir(parents=True)
    for number in range(20):
        (folder / "broken" / "train" / "a" / f"{number}.png").write_bytes(b"x")
    return ["--data", folder / "broken"]


def other_run(folder: Path) -> list[Any]:
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")
    return []


BAD: dict[str, tuple[Change, str]] = {
    "objective": (lambda _: ["--objective", "mocov2"], "there is no objective named 'mocov2'"),
    "model": (lambda _: ["--arch", "vit_tiny_patch16_225"], "there is no timm model named"),
    "no ViT": (lambda _: ["--arch", "resnet18"], "cannot make 'resnet18'"),
    "preset": (lambda _: ["--preset", "huge"], "there is no preset named 'huge'"),
    "patch": (lambda _: ["--patch-size", 3], "a patch of 3 pixels does not divide an image of 8"),
    "layer": (lambda _: ["--layers", "1,7"], "has no layer 7"),
    "layers": (lambda _: ["--layers", "first"], "is not a list of different numbers"),
    "without distillation": (lambda _: ["--layers", "1", "--no-sd"], "do not learn without --self-distill"),
    "batch": (lambda _: ["--batch-size", 64], "40 images are too few for a batch of 64"),
    "parts": (lambda _: ["--accumulate", 16], "fewer than two images a part"),
    "time": (lambda _: ["--time-limit", "soon"], "is no time span"),
    "precision": (lambda _: ["--precision", "fp64"], "there is no precision named 'fp64'"),
    "infinite": (lambda _: ["--weight-decay", "inf"], "--weight-decay inf is not possible"),
    "out": (lambda _: ["--out", "/proc/run"], "cannot be made"),
    "device": (lambda _: ["--device", "cuda:7"], "no such device"),
    "data": (lambda _: ["--data", "missing/folder"], "missing/folder"),
    "name": (lambda _: ["--data", "cifar11"], "cifar11"),
    "column": (lambda folder: ["--image-column", "picture"], "column"),
    "only corrupt": (corrupt, "none of the 20 images"),
    "another folder": (other_run, "is not empty and holds no run"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence_and_a_hint(
    main: Callable[..., int], name: str, pictures: Path, tmp_path: Path, capfd: Any
) -> None:
    change, message = BAD[name]
    arguments = ["--objective", "mocov3", "--self-distill", "--data", pictures, *SMALL, "--out", tmp_path / "run"]
    changed = change(tmp_path)
    if "--no-sd" in changed:
        changed.remove("--no-sd")
        arguments.remove("--self-distill")
    before = sorted(path.name for path in (tmp_path / "run").glob("*"))
    assert main("ssl", "train", *arguments, *changed) == 2
    error = capfd.readouterr().err
    assert message in error, error
    assert "Traceback" not in error
    if name != "only corrupt":  # which shows when the first image is read
        assert sorted(path.name for path in (tmp_path / "run").glob("*")) == before


def test_a_numbered_class_without_images_is_no_obstacle(
    main: Callable[..., int], trained: Path, tmp_path: Path
) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    draw = np.random.default_rng(0)
    folder = tmp_path / "table"
    folder.mkdir()
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "empty", "c"])})
    for split, rows in (("train", 30), ("test", 8)):
        pictures = [Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(rows)]
        table = Dataset.from_dict({"image": pictures, "label": [0, 2] * (rows // 2)}, features=features)
        table.to_parquet(folder / f"{split}.parquet")
    out = tmp_path / "read"
    assert main("eval", "ssl", "--encoder", trained, "--data", folder, "--probe-epochs", 5, "--out", out) == 0
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    assert {reading["protocol"] for reading in row["readings"]} >= {"knn-10", "linear", "fewshot-10"}


def test_an_unsplit_image_folder_is_told_as_such(
    main: Callable[..., int], trained: Path, pictures: Path, tmp_path: Path, capfd: Any
) -> None:
    assert main("eval", "ssl", "--encoder", trained, "--data", pictures / "train", "--out", tmp_path / "read") == 2
    error = capfd.readouterr().err
    assert "csv" not in error
    assert "no split to score on" in error


def test_a_run_goes_on_in_the_precision_it_was_begun_with(
    main: Callable[..., int], pictures: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the hardware for it PyTorch emulates it, too slowly to be offered.
    monkeypatch.setattr("harness.core.devices.bf16_supported", lambda device: True)
    arguments = ["--objective", "simclr", "--data", pictures, *SMALL, "--out", tmp_path / "run"]
    assert main("ssl", "train", *arguments, "--precision", "bf16", "--time-limit", "0.001s") == 0
    assert main("ssl", "train", *arguments) == 0
    assert "trained for 2 steps" in capfd.readouterr().out


def test_unlabelled_images_train_and_are_not_read(main: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    data = unlabelled(tmp_path)
    arguments = ["--objective", "simclr", *data, *SMALL, "--batch-size", 10, "--out", tmp_path / "run"]
    assert main("ssl", "train", *arguments) == 0
    assert main("eval", "ssl", "--encoder", tmp_path / "run", *data, "--out", tmp_path / "read") == 2
    assert "labels" in capfd.readouterr().err


def test_damaged_encoders_are_refused(
    main: Callable[..., int], trained: Path, pictures: Path, tmp_path: Path, capfd: Any
) -> None:
    shutil.copytree(trained, tmp_path / "other")
    facts = json.loads((trained / "encoder.json").read_text())
    facts["arguments"]["embed_dim"] = 32
    (tmp_path / "other" / "encoder.json").write_text(json.dumps(facts))
    arguments = ["--data", pictures, "--out", tmp_path / "read"]
    assert main("eval", "ssl", "--encoder", tmp_path / "other", *arguments) == 2
    error = capfd.readouterr().err
    assert "another architecture" in error
    assert "blocks.0.attn.qkv.bias is [72], expected [96]" in error
    shutil.copytree(trained, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "manifest.json").unlink()
    (tmp_path / "unfinished" / "encoder.json").unlink()
    assert main("eval", "ssl", "--encoder", tmp_path / "unfinished", *arguments) == 2
    assert "finished" in capfd.readouterr().err
