"""Archives from elsewhere: what is plain comes out as it went in, everything else is refused."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError
from textadv.unpacking import Bounds, unpack

BOUNDS = Bounds(bytes=50_000_000)
NAMES = st.text(st.sampled_from("abcXYZ019 ._-é电🎬"), min_size=1, max_size=12).filter(lambda name: name.strip(". "))
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=2000), min_size=1, max_size=8
).filter(lambda tree: not any(f"{other}/".startswith(f"{name}/") for name in tree for other in tree if name != other))


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MAKERS: dict[str, Callable[..., Path]] = {"zip": zipped, "tar.gz": tarred}
kinds = pytest.mark.parametrize("kind", list(MAKERS))


def found(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refuse(archive: Path, kind: str, why: str, bounds: Bounds = BOUNDS) -> None:
    """The archive is refused, and nothing of it lies outside of the target."""
    target = archive.parent / "inner" / "target"
    with pytest.raises(DataError, match=why):
        unpack(archive, kind, target, bounds)
    outside = [path for path in archive.parent.rglob("*") if path.is_file() and not path.is_relative_to(target)]
    assert outside == [archive]
    assert not [path for path in archive.parent.rglob("*") if path.is_symlink()]


@kinds
@settings(max_examples=25, deadline=None)
@given(tree=TREES)
def test_plain_trees_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, kind: str, tree: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("unpack")
    unpack(MAKERS[kind](folder / "archive", *tree.items()), kind, folder / "target", BOUNDS)
    assert found(folder / "target") == tree


def test_folders_come_out_and_modes_are_harmless(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("empty")
        info = zipfile.ZipInfo("run.sh")
        info.external_attr = (stat.S_IFREG | 0o4777) << 16
        archive.writestr(info, b"#!")
    before = os.umask(0)
    try:
        unpack(tmp_path / "a.zip", "zip", tmp_path / "target", BOUNDS)
    finally:
        os.umask(before)
    assert (tmp_path / "target" / "empty").is_dir()
    assert stat.S_IMODE((tmp_path / "target" / "run.sh").stat().st_mode) == 0o644


def test_a_single_file_comes_out(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"vectors"))
    unpack(tmp_path / "a.gz", "gz", tmp_path / "inner" / "a.txt", BOUNDS)
    assert (tmp_path / "inner" / "a.txt").read_bytes() == b"vectors"


@kinds
@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/out", "//out", "..", "C:/out", "C:out", "..\\out", "\\\\host\\out", "a/../b"]
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    refuse(MAKERS[kind](tmp_path / "archive", ("fine", b"1"), (name, b"2")), kind, "leads out of the folder")


def test_a_name_that_is_cut_at_a_nul_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", ("fineXshown", b"1"))
    path.write_bytes(path.read_bytes().replace(b"fineX", b"fine\0"))
    refuse(path, "zip", "leads out of the folder")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"],
    ids=["symlink", "hard link", "character device", "block device", "fifo", "unknown"],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("entry")
    info.type, info.linkname = kind, "../../out"
    path = tarred(tmp_path / "archive", ("fine", b"1"), (info, b""), ("entry/through", b"2"))
    refuse(path, "tar.gz", "'entry' is a link or a device")


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK], ids=lambda kind: f"{kind:o}"
)
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("entry")
    info.external_attr = (kind | 0o777) << 16
    refuse(zipped(tmp_path / "archive", (info, b"../../out")), "zip", "'entry' is a link or a device")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", ("secret", b"1"))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    refuse(path, "zip", "'secret' is encrypted")


@kinds
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a")], ids=str)
def test_two_members_of_one_name_are_refused(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    refuse(MAKERS[kind](tmp_path / "archive", (names[0], b"1"), (names[1], b"2")), kind, "one name")


@kinds
def test_a_bomb_is_refused(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / "archive", ("zeros", bytes(30_000_000)))
    assert path.stat().st_size < 100_000
    refuse(path, kind, "more|longer")
    written = sum(len(content) for content in found(tmp_path / "inner").values())
    assert written <= 10_000_000
    unpack(path, kind, tmp_path / "fine", Bounds(bytes=30_000_000, ratio=10_000))


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(gzip.compress(bytes(30_000_000)))
    with pytest.raises(DataError, match="more comes out"):
        unpack(tmp_path / "archive", "gz", tmp_path / "inner" / "target" / "a", BOUNDS)


@kinds
def test_what_is_too_large_is_refused(tmp_path: Path, kind: str) -> None:
    members = [(f"{number}", random.Random(number).randbytes(60_000)) for number in range(10)]
    path = MAKERS[kind](tmp_path / "archive", *members)
    refuse(path, kind, "more|longer", Bounds(bytes=599_999))
    unpack(path, kind, tmp_path / "fine", Bounds(bytes=600_000))


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", ("large", bytes(30_000_000)))
    data = path.read_bytes()
    size = (30_000_000).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    refuse(path, "zip", "damaged|more comes out")
    assert sum(len(content) for content in found(tmp_path / "inner").values()) <= 10


@kinds
def test_too_many_members_are_refused(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / "archive", *((str(number), b"") for number in range(31)))
    refuse(path, kind, "more than 30 members", Bounds(bytes=1000, members=30))
    unpack(path, kind, tmp_path / "fine", Bounds(bytes=1000, members=31))


def test_a_huge_header_fills_no_memory(tmp_path: Path) -> None:
    """A pax header of some hundred MB of zeros takes next to nothing in the archive."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 200_000_000
    with gzip.open(tmp_path / "archive", "wb", compresslevel=1) as archive:
        archive.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(200):
            archive.write(bytes(1_000_000))
    refuse(tmp_path / "archive", "tar.gz", "longer than it should be", Bounds(bytes=10**10, ratio=10**9))


@kinds
def test_a_cut_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / "archive", ("a", random.Random(1).randbytes(3000)), ("b", b"2" * 3000))
    data = path.read_bytes()
    for cut in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:cut])
        with pytest.raises(DataError):
            unpack(path, kind, tmp_path / f"target-{cut}", BOUNDS)


def test_a_tar_with_a_broken_header_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "archive", ("a", b"1"), ("b", b"2"))
    data = bytearray(gzip.decompress(path.read_bytes()))
    assert data[1024] == ord("b")
    data[1024] ^= 1
    path.write_bytes(gzip.compress(data))
    refuse(path, "tar.gz", "does not end where it should")


@kinds
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, kind: str, data: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = MAKERS[kind](folder / "archive", ("a/b", b"1" * 300), ("c", b"2" * 50))
    content = bytearray(path.read_bytes() if kind == "zip" else gzip.decompress(path.read_bytes()))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = value
    path.write_bytes(content if kind == "zip" else gzip.compress(content))
    with suppress(DataError):
        unpack(path, kind, folder / "inner" / "target", BOUNDS)
    for place in folder.rglob("*"):
        assert place == path or place == folder / "inner" or place.is_relative_to(folder / "inner" / "target")
        assert not place.is_symlink()
        assert place.is_file() or place.is_dir()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "gz"])
def test_what_is_no_archive_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(b"<html>Please log in to this network</html>")
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path / "archive", kind, tmp_path / "target", BOUNDS)
