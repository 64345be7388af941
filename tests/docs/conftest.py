"""A small world for the documents' stories: whatever their commands read lies at the paths they name, tiny.

`STAND_INS` says what lies where. A command of a document that reads a new path needs a line there.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest

# A source distribution has the tests without the documents.
collect_ignore_glob = [] if (documents.ROOT / "docs").is_dir() else ["test_*.py"]

GOOD = "good great fine warm funny clever moving brilliant charming delightful honest loved enjoyed"
BAD = "bad poor dull tepid awful boring clumsy tedious terrible stupid weak shallow hated"
NEUTRAL = "film movie story plot actor scene picture script music dialogue cast director comedy drama time way end"
ROWS = {"train": 240, "validation": 60, "test": 120}
VICTIM = "path/to/victim"
TEXTS = "path/to/sst2"


class StandIns:
    """Makes stand-ins, each once a session, and puts copies where a story wants them."""

    def __init__(self, home: Path, main: Callable[..., int], victim: Path, tiny_victim: Callable[..., Path]) -> None:
        self.home = home
        self.main = main
        self.victim = victim
        self.encoder = tiny_victim

    def place(self, name: str, folder: Path) -> None:
        """Put the stand-in of `name` at `folder / name`, where there is one and nothing is there."""
        maker = STAND_INS.get(name)
        if maker is None or (folder / name).exists():
            return
        made = self.made(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if made.is_dir() else shutil.copyfile)(made, folder / name)

    def made(self, name: str) -> Path:
        """The stand-in of `name`, made on first use."""
        path = self.home / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            STAND_INS[name](self, path)
        return path

    def run(self, *arguments: Any) -> None:
        assert self.main(*arguments) == 0, arguments

    def attack(self, path: Path, recipe: str, *more: Any) -> None:
        given = ("--dataset", self.made(TEXTS), "--victim", self.made(VICTIM), "--recipe", recipe)
        self.run("attack", "run", *given, *more, "--out", path)

    def detector(self, path: Path, name: str, *more: Any) -> None:
        given = ("--dataset", self.made(TEXTS), "--victim", self.made(VICTIM), "--detector", name)
        self.run("detect", "fit", *given, *more, "--out", path)


def sentences(rows: int, seed: int) -> list[tuple[str, int]]:
    """Random words, and one that tells the label."""
    draw = np.random.default_rng(seed)
    found = {}
    while len(found) < rows:
        label = int(draw.integers(2))
        words = [*draw.choice(NEUTRAL.split(), size=draw.integers(3, 6)), draw.choice((BAD, GOOD)[label].split())]
        found[" ".join(draw.permutation(words))] = label
    return list(found.items())


def text_folder(made: StandIns, path: Path) -> None:
    rows = sentences(sum(ROWS.values()), 0)
    path.mkdir()
    for split, count in ROWS.items():
        with open(path / f"{split}.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label"), *rows[:count]])
        rows = rows[count:]


def text_lines(made: StandIns, path: Path) -> None:
    """New texts, with ids."""
    lines = [{"id": f"review-{n}", "text": text} for n, (text, _) in enumerate(sentences(150, 1))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def pictures(made: StandIns, path: Path) -> None:
    """Two classes of noise, bright and dark."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, high in (("bright", 255), ("dark", 60)):
            (path / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, high, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / label / f"{number}.png")


def victim(made: StandIns, path: Path) -> None:
    shutil.copytree(made.victim, path)


def suite(made: StandIns, path: Path) -> None:
    """What a suite leaves, of one cell: an attack."""
    given = ("--dataset", made.made(TEXTS), "--victim", made.made("runs/minilm-sst2"), "--recipe", "pwws")
    made.run("attack", "run", *given, "--out", path / "attacks" / "sst2-pwws-reg")


def evaluation(made: StandIns, path: Path) -> None:
    protocol = ("--scenario", "s2", "--seeds", "0,1", "--replicates", 20)
    attack = made.made("runs/minilm-sst2-pwws")
    made.run("eval", "detect", "--attacks", attack, "--detector", "mle", "msp", *protocol, "--out", path)


def log(made: StandIns, path: Path) -> None:
    made.run("attack", "export", made.made("runs/attack"), "--out", path)


def ssl_rows(made: StandIns, path: Path) -> None:
    shutil.copytree(documents.ROOT / "leaderboards" / "results" / "ssl", path / "results" / "ssl")


def released_set(made: StandIns, path: Path) -> None:
    shutil.copytree(documents.ROOT / "attacks" / "sets" / "offline", path)


def encoder(*more: str) -> Callable[[StandIns, Path], None]:
    def make(made: StandIns, path: Path) -> None:
        data = made.made("path/to/cifar10")
        given = ("--objective", "mocov3", "--data", data, "--arch", "vit_tiny_patch16_224", "--preset", "tiny")
        made.run("ssl", "train", *given, *more, "--out", path)

    return make


STAND_INS: dict[str, Callable[[StandIns, Path], None]] = {
    VICTIM: victim,
    **dict.fromkeys((TEXTS, "path/to/imdb", "path/to/texts", "path/to/reviews"), text_folder),
    **dict.fromkeys(("path/to/cifar10", "path/to/imagenet", "path/to/images", "path/to/flowers"), pictures),
    "path/to/artifacts": lambda made, path: path.mkdir(),
    "attacks/sets/offline": released_set,
    **dict.fromkeys(("texts.jsonl", "new.jsonl", "clean.jsonl"), text_lines),
    **dict.fromkeys(("runs/minilm-sst2", "path/to/minilm-sst2"), victim),
    **dict.fromkeys(
        ("runs/attack", "runs/pwws", "runs/minilm-sst2-pwws", "runs/my-attack"),
        lambda made, path: made.attack(path, "pwws"),
    ),
    "runs/textfooler": lambda made, path: made.attack(path, "deepwordbug"),
    "runs/offline": suite,
    "textattack-log.csv": log,
    "runs/from-a-log": lambda made, path: made.run(
        *("attack", "import", made.made("textattack-log.csv"), "--recipe", "pwws", "--classes", 2, "--out", path)
    ),
    **dict.fromkeys(("runs/rde", "runs/rde-sst2"), lambda made, path: made.detector(path, "rde", "--components", 20)),
    "runs/msp": lambda made, path: made.detector(path, "msp"),
    "runs/knn": lambda made, path: made.detector(path, "knn"),
    "runs/sst2-s1": evaluation,
    "leaderboards/": ssl_rows,
    **dict.fromkeys(("runs/sd", "runs/byol", "runs/my-encoder"), encoder("--self-distill")),
}


@pytest.fixture(scope="session")
def stand_ins(
    tmp_path_factory: pytest.TempPathFactory, main: Callable[..., int], tiny_victim_folder: Callable[..., Path]
) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins"), main, tiny_victim_folder("bert"), tiny_victim_folder)


def small_loader(load: Callable[[str, str], Any], name: str, folder: Path) -> Callable[[str], Any]:
    """A loader of the stand-in's data under another name."""

    def loader(split: str) -> Any:
        return replace(load(str(folder), split), name=name)

    loader.splits = ("test", "train")  # type: ignore[attr-defined]
    return loader


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch, stand_ins: StandIns) -> None:
    """What a command takes by default is cut to what two cores do in seconds; what a command line asks for stays.

    Cut are the encoder and data that are embedded, timm's models, epochs and batches of presets.
    """
    from harness.core.compat import prepare_torchvision

    prepare_torchvision()
    import timm

    from harness.core.registry import Entry
    from harness.detectors.registry import DETECTORS
    from harness.text import embedded
    from harness.text.datasets import DATASETS, load_dataset
    from harness.text.victims import VICTIMS
    from sdssl import settings
    from sdssl.images import IMAGE_DATASETS, load_images

    monkeypatch.setattr(embedded, "encoder_folder", lambda: stand_ins.encoder("bert", 2, 1))
    small = {name: replace(preset, batch_size=16, epochs=1) for name, preset in settings.PRESETS.items()}
    monkeypatch.setattr(settings, "PRESETS", small)
    for registry, name, data in ((DATASETS, "embedded", TEXTS), (IMAGE_DATASETS, "digits", "path/to/cifar10")):
        loader = small_loader(load_dataset if registry is DATASETS else load_images, name, stand_ins.made(data))
        monkeypatch.setitem(registry._loaded, name, loader)
    # What CONTRIBUTING calls the detector of whoever reads it.
    mine = Entry("my-detector", "harness.detectors.confidence:Energy")
    monkeypatch.setitem(DETECTORS._entries, mine.name, mine)
    for name in VICTIMS.names():
        monkeypatch.setitem(VICTIMS._loaded, name, lambda: stand_ins.made(VICTIM))
    create = timm.create_model

    def create_small(name: str, *positional: Any, pretrained: bool = False, **given: Any) -> Any:
        side = 2 * int(re.search(r"patch(\d+)", name)[1])
        sizes = {"img_size": side, "embed_dim": 24, "num_heads": 2, **given}
        model = create(name, *positional, pretrained=False, **sizes)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, sizes["img_size"], sizes["img_size"])}
        return model

    monkeypatch.setattr(timm, "create_model", create_small)
