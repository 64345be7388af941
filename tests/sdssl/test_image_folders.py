from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import DataError, MissingFileError
from sdssl import image_dataset
from sdssl.images import CorruptImageError, available_splits, load_images, usable


def plant(root: Path, *names: str) -> None:
    """Write a small picture at each path; its pixels follow from the path."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(hashlib.sha256(name.encode()).digest()[:3])
        kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
        Image.new("RGB", (5, 4), colour).save(path, kind)


def names_of(root: Path, split: str) -> list[str]:
    dataset = load_images(str(root), split)
    return [dataset.image_name(i) for i in range(len(dataset))]


def test_splits_of_class_folders(tmp_path: Path) -> None:
    plant(tmp_path, "train/dog/b.png", "train/dog/a.PNG", "train/cat/deep/er/x.Jpg", "train/ant/1.webp.png")
    plant(tmp_path, "val/dog/1.jpeg", "test/cat/1.bmp", "test/dog/2.png")
    assert available_splits(str(tmp_path)) == ["test", "train", "validation"]
    train = load_images(str(tmp_path), "train")
    assert train.label_names == ["ant", "cat", "dog"]
    assert names_of(tmp_path, "train") == [
        "train/ant/1.webp.png",
        "train/cat/deep/er/x.Jpg",
        "train/dog/a.PNG",
        "train/dog/b.png",
    ]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 2, 2]
    assert train.labels.dtype == np.int64
    assert train.name == tmp_path.name
    assert str(tmp_path) not in str(train.source)
    # Classes keep their numbers where a split lacks some; "val" and "dev" ask for the same.
    for split in ("validation", "val", "dev"):
        validation = load_images(str(tmp_path), split)
        assert validation.split == "validation"
        assert validation.labels is not None
        assert validation.labels.tolist() == [2]
        assert validation.num_classes == 3
    test = load_images(str(tmp_path), "test")
    assert test.labels is not None
    assert test.labels.tolist() == [1, 2]
    colour = hashlib.sha256(b"test/dog/2.png").digest()[:3]
    assert np.asarray(test.image(1))[0, 0].tolist() == list(colour)


def test_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat/1.png", "test/cat/1.png", "test/emu/1.png")
    with pytest.raises(DataError, match=r"1 classes that the train split of .* lacks: emu"):
        load_images(str(tmp_path), "test")


def test_a_folder_without_splits_serves_train_only(tmp_path: Path) -> None:
    # One class is called "train", as in CIFAR-100.
    plant(tmp_path, "train/1.png", "bus/1.png", "bus/2.png")
    assert available_splits(str(tmp_path)) == ["train"]
    dataset = load_images(str(tmp_path), "train")
    assert dataset.label_names == ["bus", "train"]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    for split in ("test", "validation"):
        with pytest.raises(DataError, match="has no splits") as error:
            load_images(str(tmp_path), split)
        assert "test folder" in error.value.hint


@pytest.mark.parametrize("where", ["", "train/"])
def test_flat_images_have_no_labels(tmp_path: Path, where: str) -> None:
    plant(tmp_path, f"{where}b.jpg", f"{where}a.png")
    dataset = load_images(str(tmp_path), "train")
    assert dataset.labels is None
    assert dataset.label_names is None
    assert dataset.num_classes == 0
    assert [dataset.image_name(i) for i in range(2)] == [f"{where}a.png", f"{where}b.jpg"]
    assert dataset.take([1]).labels is None
    with pytest.raises(DataError):
        load_images(str(tmp_path), "test")


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat/1.png", "train/preview.png")
    with pytest.raises(DataError, match="1 images beside its class folders"):
        load_images(str(tmp_path), "train")


def test_other_files_are_passed_over_and_broken_images_count(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "a/2.png", ".hidden/3.png", "a/.4.png", "a/.cache/5.png", "__MACOSX/a/6.png")
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/3.png").write_bytes(b"no image")
    (tmp_path / "a/4.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "a/5.png")
    dataset = load_images(str(tmp_path), "train")
    assert [dataset.image_name(i) for i in range(len(dataset))] == ["a/1.png", "a/2.png", "a/3.png", "a/4.png"]
    assert dataset.label_names == ["a"]
    for index, reason in ((2, "no image of a known format"), (3, "there is no image")):
        with pytest.raises(CorruptImageError, match=reason) as error:
            dataset.image(index)
        assert error.value.name == f"a/{index + 1}.png"
    image, used, corrupt = usable(dataset, 2)
    assert (used, corrupt) == (0, ["a/3.png", "a/4.png"])
    assert image.tobytes() == dataset.image(0).tobytes()
    assert len(dataset.hash) == 64


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    plant(tmp_path, "store/1.png", "data/train/a/1.png")
    (tmp_path / "data/train/b").symlink_to(tmp_path / "store")
    (tmp_path / "data/train/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/train/a/self").symlink_to(".")
    assert names_of(tmp_path / "data", "train") == ["train/a/1.png", "train/b/1.png"]


def test_names_that_are_not_utf8_can_be_read(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png")
    try:
        os.rename(os.fsencode(tmp_path / "a"), os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    except OSError:
        pytest.skip("this file system has no such names")
    dataset = load_images(str(tmp_path), "train")
    assert dataset.image(0).size == (5, 4)
    assert dataset.label_names == ["caf\\xe9"]
    assert dataset.image_name(0) == "caf\\xe9/1.png"


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/1.png", "val/a/1.png", "valid/a/1.png")
    with pytest.raises(DataError, match="two folders for split 'validation'"):
        load_images(str(tmp_path), "train")


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_images(str(tmp_path / "gone"), "train")
    with pytest.raises(DataError, match="holds no images") as error:
        load_images(str(tmp_path), "train")
    assert "train.parquet" in error.value.hint
    plant(tmp_path, "train/a/1.png")
    with pytest.raises(DataError, match="no split 'test'"):
        load_images(str(tmp_path), "test")


def hash_of(encoded: list[bytes], labels: list[int]) -> str:
    parts = [len(data).to_bytes(8, "little") + data for data in encoded]
    parts += [label.to_bytes(8, "little") for label in labels]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_hash_is_of_content_and_labels(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/1.png", "train/b/1.png", "train/b/2.png")
    dataset = load_images(str(tmp_path), "train")
    files = [(tmp_path / dataset.image_name(i)).read_bytes() for i in range(3)]
    assert dataset.source["hash_of"] == "content"
    assert dataset.hash == hash_of(files, [0, 1, 1])
    assert dataset.take([2, 0]).hash == hash_of([files[2], files[0]], [1, 0])
    (tmp_path / "train/b").rename(tmp_path / "train/c")
    assert load_images(str(tmp_path), "train").hash == dataset.hash
    (tmp_path / "train/c/2.png").write_bytes(files[0])
    assert load_images(str(tmp_path), "train").hash != dataset.hash


def test_the_hash_of_a_large_folder_is_of_names_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_dataset, "HASHED_CONTENT", 100)
    plant(tmp_path, "train/a/1.png", "train/b/1.png", "train/b/2.png")

    def fresh() -> str:
        dataset = load_images(str(tmp_path), "train")
        assert dataset.source["hash_of"] == "names and sizes"
        return dataset.hash

    first = fresh()
    path = tmp_path / "train/b/2.png"
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    assert fresh() == first
    path.write_bytes(data + b"x")
    assert fresh() != first
    path.write_bytes(data)
    path.rename(tmp_path / "train/b/3.png")
    assert fresh() != first
