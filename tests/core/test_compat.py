"""CPU torch beside the packaged torchvision, each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREPARE = "from harness.core.compat import prepare_torchvision; library = prepare_torchvision()"


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def broken() -> bool:
    """Whether torchvision cannot be imported as it is; skips where it is absent."""
    if run("import importlib.util, sys; sys.exit(importlib.util.find_spec('torchvision') is None)").returncode:
        pytest.skip("torchvision is not installed")
    return run("import torchvision").returncode != 0


def test_torchvision_imports_where_it_did_not(broken: bool) -> None:
    if not broken:
        pytest.skip("torchvision imports as it is")
    assert "torchvision::nms does not exist" in run("import torchvision").stderr
    imported = run(PREPARE, "import torchvision, torchvision.transforms", "print(torchvision.__version__)")
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.strip()


def test_a_torchvision_that_works_is_left_alone(broken: bool) -> None:
    if broken:
        pytest.skip("torchvision cannot be imported as it is")
    assert run(PREPARE, "assert library is None", "import torchvision").returncode == 0


def test_calling_it_again_is_free(broken: bool) -> None:
    done = run(PREPARE, "assert prepare_torchvision() is library", "import torchvision", "prepare_torchvision()")
    assert done.returncode == 0, done.stderr


def test_nothing_happens_without_torchvision() -> None:
    hide = (
        "import sys, importlib.util as u",
        "find = u.find_spec",
        "u.find_spec = lambda name, package=None: None if name == 'torchvision' else find(name, package)",
    )
    done = run(*hide, PREPARE, "assert library is None", "assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_importing_the_module_imports_no_torch() -> None:
    done = run("import sys, harness.core.compat", "assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr
