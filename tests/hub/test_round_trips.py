"""From the commands that make attacks, detectors and encoders to the clients that open what was pushed."""

from __future__ import annotations

import csv
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hub_server import Hub

WORDS = ["good", "bad", "film", "story", "warm", "dull", "funny", "poor", "great", "boring"]

RUN = """
import json, sys
import harness.cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["harness", *arguments]
    try:
        harness.cli.main()
    except SystemExit as left:
        assert not left.code, (arguments, left.code)
"""

READ = """
import json
from harness.core.compat import prepare_torchvision
prepare_torchvision()
import datasets, timm, torch
loaded = datasets.load_dataset("my-team/attacks")
model = timm.create_model("hf_hub:my-team/encoder", pretrained=True).eval()
image = torch.arange(3 * 16 * 16, dtype=torch.float32).reshape(1, 3, 16, 16) / 768
with torch.no_grad():
    features = model.forward_features(image)
print(json.dumps({
    "splits": {split: loaded[split].num_rows for split in loaded},
    "typed": {name: str(kind) for name, kind in loaded["test"].features.items()},
    "features": list(features.shape),
    "weights": float(sum(value.double().abs().sum() for value in model.state_dict().values())),
}))
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    draw = random.Random(0)
    for split, count in (("train", 80), ("test", 24)):
        with open(folder / f"{split}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["text", "label"])
            writer.writerows([" ".join([split, *draw.choices(WORDS, k=5)]), k % 2] for k in range(count))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "pictures"
    draw = random.Random(0)
    for k in range(16):
        (folder / "train" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        image = Image.frombytes("RGB", (16, 16), draw.randbytes(3 * 16 * 16))
        image.save(folder / "train" / str(k % 2) / f"{k}.png")
    return folder


def test_what_is_pushed_opens_in_the_clients_that_people_have(
    hub: Hub,
    python: Callable[..., subprocess.CompletedProcess[str]],
    tiny_victim_folder: Callable[..., Path],
    texts: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    victim = str(tiny_victim_folder("bert"))
    data = ["--victim", victim, "--dataset", str(texts)]
    sizes = ["--arch", "vit_tiny_patch16_224", "--image-size", "16", "--patch-size", "8", "--depth", "2"]
    sizes += ["--width", "32", "--heads", "2", "--batch-size", "8", "--epochs", "1", "--preset", "tiny"]
    protocol = ["--scenario", "s2", "--seeds", "0", "--replicates", "20"]
    lines = tmp_path / "lines.txt"
    lines.write_text("a warm film\na dull story\n")
    commands = [
        ["attack", "run", *data, "--recipe", "pwws", "--out", "attack"],
        ["detect", "fit", *data, "--detector", "mle", "--out", "detector"],
        ["ssl", "train", "--objective", "simclr", "--data", str(pictures), *sizes, "--out", "encoder"],
        ["attack", "push", "attack", "my-team/attacks", "--with-texts"],
        ["attack", "push", "attack", "my-team/edits"],
        ["attack", "restore", "hub:my-team/edits", "--dataset", str(texts), "--out", "restored"],
        ["attack", "release", "attack", "--with-texts", "--repo", "my-team/attacks", "--out", "set"],
        ["attack", "push", "set", "my-team/set"],
        ["detect", "push", "detector", "my-team/detector"],
        ["ssl", "push", "encoder", "my-team/encoder"],
        ["detect", "score", "detector", str(lines), "--out", "here.csv"],
        ["detect", "score", "hub:my-team/detector", str(lines), "--victim", victim, "--out", "there.csv"],
        ["eval", "detect", "--attacks", "attack", "--detector", "hub:my-team/detector", *protocol],
    ]
    made = python(RUN, json.dumps(commands))
    assert made.returncode == 0, made.stderr[-3000:]
    assert (tmp_path / "here.csv").read_text() == (tmp_path / "there.csv").read_text()
    rows = [(tmp_path / run / "adversarial.parquet").read_bytes() for run in ("attack", "restored")]
    assert rows[0] == rows[1]
    pushed, released = (hub.repos["dataset", f"my-team/{name}"].commits[-1].files for name in ("attacks", "set"))
    assert pushed == released
    assert "data" in {name.partition("/")[0] for name in pushed}
    weights = safetensors.numpy.load(hub.repos["model", "my-team/encoder"].commits[-1].files["model.safetensors"].data)
    held = sum(np.abs(value.astype(np.float64)).sum() for value in weights.values())
    read = python(READ)
    assert read.returncode == 0, read.stderr[-3000:]
    found = json.loads(read.stdout.splitlines()[-1])
    assert found["splits"] == {"test": 24}
    assert found["typed"]["perturbed_text"] == "Value('string')"
    assert found["features"] == [1, 5, 32]
    assert found["weights"] == pytest.approx(held)
    assert hub.unknown == []
    assert all(repo.private and len(repo.commits) == 2 for repo in hub.repos.values())


def test_a_set_that_was_changed_is_not_published(
    texts: Path, tiny_victim_folder: Callable[..., Path], main: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    attack, made = tmp_path / "attack", tmp_path / "set"
    data = ["--victim", tiny_victim_folder("bert"), "--dataset", texts]
    assert main("attack", "run", *data, "--recipe", "pwws", "--limit", 3, "--out", attack) == 0
    assert main("attack", "release", attack, "--out", made) == 0
    (made / "notes.txt").write_text("mine")
    assert main("attack", "push", made, "me/it", "--with-texts", "--dry-run") == 2
    assert "is made already" in capsys.readouterr().err
    assert main("attack", "push", made, "me/it", "--dry-run") == 0
    listed = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[:-1]]
    (parquet,) = (name for name in listed if name.endswith(".parquet"))
    assert listed == sorted(["DATASHEET.md", "README.md", parquet, "release.json"])
    (made / parquet).write_bytes((made / parquet).read_bytes() + b" ")
    assert main("attack", "push", made, "me/it", "--dry-run") == 2
    assert "is not the file that release.json describes" in capsys.readouterr().err
    (made / parquet).unlink()
    assert main("attack", "push", made, "me/it", "--dry-run") == 2
    assert "has no file data/" in capsys.readouterr().err
