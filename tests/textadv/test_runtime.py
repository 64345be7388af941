import inspect
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError
from textadv import runtime

# Every way out of the process raises; what was tried is told even where somebody swallows the error.
FENCE = """
import json, os, socket, sys
tried = []
def refuse(name):
    def fail(*arguments, **_):
        tried.append(f"{name} {arguments[1:] or arguments}")
        raise OSError(f"the test forbids {name}")
    return fail
socket.socket.connect = refuse("connect")
socket.socket.connect_ex = refuse("connect_ex")
socket.socket.sendto = refuse("sendto")
socket.getaddrinfo = refuse("getaddrinfo")
socket.create_connection = refuse("create_connection")
before = dict(os.environ)
"""

LOAD = """
import types
import numpy as np
from textadv.runtime import load_textattack
from textadv.parts import Parts
from textadv.recipes import RECIPES
module = load_textattack()
after = dict(os.environ)
class Stub:
    model, max_length = None, 9
    def tokenizer(self, texts, **_):
        return {"input_ids": [list(map(ord, text)) for text in texts]}
    def read(self, texts):
        return types.SimpleNamespace(probabilities=np.array([[0.9, 0.1] if "good" in t else [0.2, 0.8] for t in texts]))
attack = RECIPES.get("pwws").build(Parts(Stub()))
result = attack.attack("a good film and the rest of it", 0)
again = load_textattack() is module
print(json.dumps({
    "tried": tried,
    "changed": {k: [before.get(k), after.get(k)] for k in {*before, *after} if before.get(k) != after.get(k)},
    "result": type(result).__name__,
    "again": again,
}))
"""


def in_a_bare_home(script: str, home: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = ("PATH", "OMP_NUM_THREADS", "PYTHONPATH", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {
        "HOME": str(home),
        "NLTK_DATA": str(home / "nltk"),
        "PALIMPSEST_CACHE": str(home / "ours"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=home,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("given", [False, True], ids=["bare", "with the user's variables"])
def test_loading_asks_nobody_and_leaves_no_trace(given: bool, tmp_path: Path) -> None:
    (tmp_path / "nltk").mkdir()
    variables = {}
    if given:
        places = ("HF_HOME", "XDG_CACHE_HOME", "TA_CACHE_DIR", "TFHUB_CACHE_DIR")
        variables = {name: str(tmp_path / name.lower()) for name in places} | {"TOKENIZERS_PARALLELISM": "false"}
    found = in_a_bare_home(FENCE + LOAD, tmp_path, **variables)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert told["tried"] == []
    # What torch, transformers and scikit-learn set is theirs.
    changed = {k: v for k, v in told["changed"].items() if not k.startswith(("KMP_", "TORCHINDUCTOR_"))}
    assert changed == {}
    assert told["result"] == "SuccessfulAttackResult"
    assert told["again"]
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    # Libraries below may leave caches of their own; TextAttack and NLTK leave nothing outside our folder.
    strangers = {name for name in written if "textattack" in name.lower() or "nltk" in name.lower()}
    version = metadata.version("textattack")
    assert {name for name in strangers if not name.startswith(f"ours/textattack-{version}/")} == set()
    assert f"ours/textattack-{version}/nltk_data/corpora/stopwords/english" in strangers
    assert not (tmp_path / ".cache" / "textattack").exists()
    assert not list((tmp_path / "nltk").iterdir())


@pytest.mark.slow
def test_the_fence_would_see_textattacks_own_import(tmp_path: Path) -> None:
    """Without our loading, TextAttack's import does what the test above says ours does not."""
    script = FENCE + (
        "from harness.core.compat import prepare_torchvision; prepare_torchvision()\n"
        "try:\n    import textattack\nexcept BaseException as error: print(type(error).__name__)\n"
        "print(json.dumps(tried))"
    )
    found = in_a_bare_home(script, tmp_path)
    assert json.loads(found.stdout.splitlines()[-1]) != []
    assert (tmp_path / ".cache" / "textattack").exists()


def test_an_attack_without_textattack_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(runtime.metadata, "version", missing)
    for call in (runtime.textattack_version, runtime.load_textattack.__wrapped__):
        with pytest.raises(ConfigurationError, match="TextAttack, which is not installed") as found:
            call()
        assert "palimpsest[attack]" in found.value.hint


def test_a_damaged_copy_of_the_stopwords_is_mended(tmp_path: Path) -> None:
    folder = runtime._private_stopwords(tmp_path)
    words = folder / "corpora" / "stopwords" / "english"
    whole = words.read_bytes()
    assert b"\nthe\n" in whole
    words.write_bytes(whole[:10])
    (folder / "corpora").chmod(0o777)
    assert runtime._private_stopwords(tmp_path) == folder
    assert words.read_bytes() == whole
    # NLTK refuses folders that others may write to.
    assert all(not place.stat().st_mode & 0o022 for place in (words, *list(words.parents)[:3]))


@given(
    st.text(alphabet=st.sampled_from("ab'-_*@.,! \t\n\u00a0\u2028é1\u0251\u13ce😀电\u200b\u0301"), max_size=40)
    | st.text(max_size=30)
)
@settings(max_examples=300, deadline=None)
def test_remembered_words_are_textattacks(text: str) -> None:
    runtime.load_textattack()
    from textattack.shared.utils import strings

    original = inspect.getclosurevars(strings.words_from_text).nonlocals["find"]
    assert original.__module__.endswith("strings")
    assert strings.words_from_text(text) == original(text)
    assert strings.words_from_text(text, ["a"]) == original(text, ["a"])
