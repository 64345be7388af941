"""The rules of the house: who imports whom, what ships, what starts quickly, what never stands in the source."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"harness": ROOT / "harness", "textadv": ROOT / "attacks" / "textadv", "sdssl": ROOT / "ssl" / "sdssl"}
MAY_IMPORT = {
    "harness.core": set(),
    "harness.text": {"harness.core"},
    "harness.detectors": {"harness.core", "harness.text"},
    "harness.evaluation": {"harness.core", "harness.text", "harness.detectors"},
    "harness.leaderboard": {"harness.core"},
    "harness.report": {"harness.core", "harness.text", "harness.detectors", "harness.evaluation"},
    "harness.hub": {"harness.core"},
    "textadv": {"harness.core", "harness.text"},
    "sdssl": {"harness.core"},
}
ANYTHING = {"harness.cli", "harness.__main__"}
HEAVY = ("torch", "transformers", "textattack", "numpy", "pandas", "sklearn", "datasets", "scipy", "matplotlib")
MAX_LINES = 450

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="the rules of the house are checked in a checkout"
)


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in MODULES.items()}


def part_of(module: str) -> str:
    """The part of the house a module belongs to: a sub-package of `harness`, or a source root's package."""
    return ".".join(module.split(".")[: 2 if module.startswith("harness.") else 1])


def run_time(tree: ast.Module) -> ast.Module:
    """The tree without its `if TYPE_CHECKING:` blocks."""
    return ast.Module(
        [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))], []
    )


def imports(name: str, tree: ast.AST) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Modules of ours that a tree imports, anywhere in it, with the statement."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            # `from package import module` imports the module, `from module import name` does not.
            targets = [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
        else:
            continue
        yield from ((target, node) for target in targets if target.split(".")[0] in SOURCES)


def test_the_scan_sees_the_house() -> None:
    assert {part_of(name) for name in MODULES} >= {*MAY_IMPORT, *ANYTHING, "harness"}
    assert "harness.core.errors" in {target for target, _ in imports("harness.core.files", TREES["harness.core.files"])}


def test_every_part_imports_what_it_may() -> None:
    wrong = []
    for name, tree in TREES.items():
        part = part_of(name)
        if part in ANYTHING:
            continue
        allowed = {part, "harness", *MAY_IMPORT.get(part, set())} if part != "harness" else set()
        for target, node in imports(name, tree):
            if part_of(target) not in allowed:
                wrong.append(f"{MODULES[name]}:{node.lineno} imports {target}")
    assert wrong == []


def test_targets_of_registries_keep_the_rules_too() -> None:
    """Lazy targets `"module:attribute"` are imports by another name."""
    pattern = re.compile(r"(harness|textadv|sdssl)(\.\w+)+:\w+")
    wrong, seen = [], 0
    for name, tree in TREES.items():
        part = part_of(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value):
                seen += 1
                target = node.value.partition(":")[0]
                assert target in MODULES, f"{name}: there is no module {target}"
                if part not in ANYTHING and part_of(target) not in {part, *MAY_IMPORT.get(part, set())}:
                    wrong.append(f"{MODULES[name]}:{node.lineno} names {target}")
    assert wrong == []
    assert seen > 5


def test_modules_import_in_no_circle() -> None:
    """Imports inside functions count; those for the type checker and the lazy targets of a registry do not."""
    graph = {name: {target for target, _ in imports(name, run_time(tree))} - {name} for name, tree in TREES.items()}
    for name, targets in graph.items():
        # A package's __init__ runs before its modules; what it imports of its own is no circle of theirs.
        targets -= {target for target in targets if name.startswith(f"{target}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_source_roots_are_no_packages() -> None:
    assert not (ROOT / "ssl" / "__init__.py").exists()
    assert not (ROOT / "attacks" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "tests" / "ssl").exists()


PROBE = """
import json, ssl, sys
ssl.create_default_context()
import harness, sdssl, textadv
print(json.dumps({name: sys.modules[name].__file__ for name in ("ssl", "harness", "sdssl", "textadv")}))
"""


@pytest.fixture(params=["repository", "a folder with attacks/ and ssl/"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "repository":
        return ROOT
    for name in ("attacks", "ssl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    return tmp_path


def test_no_folder_shadows_a_module(
    place: Path, harness_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # `-c` puts the working folder first on the path, as `-m` does.
    probe = subprocess.run([sys.executable, "-c", PROBE], cwd=place, capture_output=True, text=True, check=False)
    assert probe.returncode == 0, probe.stderr
    found = {name: Path(file) for name, file in json.loads(probe.stdout).items()}
    assert found["ssl"].parent == Path(sysconfig.get_path("stdlib"))
    assert {name: found[name].parent for name in SOURCES} == SOURCES
    helped = harness_process("--help", cwd=place)
    assert helped.returncode == 0, helped.stderr
    assert "attack" in helped.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["attack", "--help"], ["attack", "run", "--help"], ["--version"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from harness.cli import main\n"
        f"sys.argv = ['harness', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as leave:\n    assert not leave.code, leave.code\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "print('heavy:', loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_listing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from harness.cli import main\n"
        "sys.argv = ['harness', 'list']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'textattack'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    (path,) = builder.WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"]
    )
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    (info,) = {name for name in top if name.endswith(".dist-info")}
    assert top == {"harness", "textadv", "sdssl", info}
    assert {name for name in names if name.endswith(".py")} == {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for path in folder.rglob("*.py")
    }
    assert not [name for name in names if name.endswith((".pyc", ".pkl", ".bin", ".pt"))]
    assert any(name.endswith("LICENSE") for name in names if name.startswith(info))


def test_the_wheel_holds_what_is_read_at_run_time(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    data = {
        f"{package}/{path.relative_to(folder).as_posix()}": path
        for package, folder in SOURCES.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert set(data) <= names
    kinds = {
        "harness/core/schemas/detection.json",
        "harness/text/resources/wordnet30_synonyms.txt.xz",
        "textadv/resources/nltk_data/corpora/stopwords/english",
    }
    assert kinds <= set(data)
    assert any(name.endswith(".j2") for name in data)
    for name, path in data.items():
        assert wheel.read(name) == path.read_bytes(), name


def test_the_wheel_declares_the_command(wheel: zipfile.ZipFile) -> None:
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "harness = harness.cli:main" in wheel.read(points).decode()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "builtins.eval", "builtins.exec", "yaml.load"}
UNSAFE_METHODS = {"read_pickle", "unsafe_load", "full_load"}


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What never stands in the source: unsafe deserialisation, evaluation of text, code of others."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        yield from (f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES)
    for name, call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        model = name.endswith(("Model.from_pretrained", "Classification.from_pretrained"))
        yield from (
            f"line {call.lineno}: {name}: {why}"
            for why, found in {
                "evaluates or unpickles": name in UNSAFE_CALLS or name.rpartition(".")[2] in UNSAFE_METHODS,
                "may unpickle": name == "torch.load" and keywords.get("weights_only") != "True",
                "may open pickled weights": model and keywords.get("use_safetensors") != "True",
                "unpickles": keywords.get("allow_pickle", "False") != "False",
                "runs the code of a repository": keywords.get("trust_remote_code", "False") != "False",
                "runs a shell": keywords.get("shell", "False") != "False",
            }.items()
            if found
        )


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import dill as d",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "AutoModel.from_pretrained(x, trust_remote_code=True, use_safetensors=True)",
        "AutoModelForSequenceClassification.from_pretrained(x)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_scan_sees_what_is_forbidden(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


def test_nothing_forbidden_is_in_the_source() -> None:
    assert not list(forbidden(ast.parse("torch.load(p, weights_only=True); model.eval(); yaml.safe_load(t)")))
    extra = [*(ROOT / "attacks").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    trees = {str(MODULES[name]): tree for name, tree in TREES.items()}
    trees |= {str(path): ast.parse(path.read_text(encoding="utf-8")) for path in extra}
    assert [f"{path} {found}" for path, tree in trees.items() for found in forbidden(tree)] == []


def test_files_can_be_read_in_one_sitting() -> None:
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_constraints_are_of_public_versions() -> None:
    path = ROOT / "constraints.txt"
    if not path.is_file():
        pytest.skip("there is no constraints.txt")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line and not line.startswith("#"):
            # A local label such as +cpu is on no index that everybody has.
            assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==[\w.!]+(\s*;.*)?", line), line
