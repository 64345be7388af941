"""What all tests share: an environment without network and without the user's caches, and tiny random victims.

The environment is set when pytest imports this file, so before any test module imports torch or transformers, and
through `os.environ`, so that subprocesses inherit it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

CACHE = tempfile.mkdtemp(prefix="palimpsest-tests-")
os.environ["PALIMPSEST_CACHE"] = CACHE
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that spin while they wait make tiny models ten times slower on a machine that is busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parents[1]
MAX_LENGTH = 128
WORDS = (
    "a an the this that it is was are were be been i we you he she they his her of in on at to from with and or but "
    "not no very too so film movie story plot actor actress scene picture script music dialogue performance cast "
    "director comedy drama thriller good great fine warm funny clever moving brilliant charming delightful honest "
    "bad poor dull tepid awful boring clumsy tedious terrible stupid weak shallow long short new old first last "
    "never always often rarely makes made feels felt looks seems tells keeps leaves works fails watch watched love "
    "loved hate hated enjoy enjoyed think thought time way end start minutes hours people audience world life heart"
)

CHROMIUM = "/usr/bin/chromium"
# Nothing that asks the network, as root in a container too.
CHROMIUM_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

HarnessProcess = Callable[..., "subprocess.CompletedProcess[str]"]
OpenPage = Callable[..., Any]
HarnessMain = Callable[..., int]
VictimFolder = Callable[..., Path]


# Files of few and long tests. Two processes take files in this order, and one that began last would be waited for.
LONG_FILES = (
    "textadv/test_ray_workers.py",
    "docs/test_commands.py",
    "sdssl/test_distributed.py",
    "docs/test_add_ons.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts, attack logs and word lists beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"there is no folder of shared data beside the repository ({folder})")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, headless, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}: `just browser` installs it")
    # The driver's event loop occupies the thread, so it lives no longer than a module's tests.
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """`(path, width=1280, height=900, **context)` opens a local file in a context of its own: the Playwright page.

    At the end of the test no page may have written an error to its console, thrown, or asked for anything but itself.
    """
    opened: list[Any] = []
    complaints: list[str] = []

    def open_(path: Path, width: int = 1280, height: int = 900, **context: Any) -> Any:
        page = chromium.new_context(viewport={"width": width, "height": height}, **context).new_page()
        opened.append(page)
        address = path.resolve().as_uri()
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.split("#")[0] != address
                and not request.url.startswith(("data:", "blob:"))
                and complaints.append(f"asked for {request.url}")
            ),
        )
        page.goto(address)
        return page

    yield open_
    for page in opened:
        page.context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def accessibility_faults() -> Callable[[Any], list[str]]:
    """`(page)` runs axe-core over a Playwright page: a line for each violation and the first element that has it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def check(page: Any) -> list[str]:
        found = axe.Axe().run(page).response["violations"]
        return [f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}" for fault in found]

    return check


@pytest.fixture(scope="session")
def words() -> list[str]:
    """The words that the tokenizers of tiny victims know whole."""
    return list(dict.fromkeys(WORDS.split()))


@pytest.fixture(scope="session")
def main() -> HarnessMain:
    """`(*arguments)` runs `harness` in this process, which spares the imports of another: its exit code."""
    import harness.cli

    def run(*arguments: Any) -> int:
        before = sys.argv
        sys.argv = ["harness", *map(str, arguments)]
        try:
            harness.cli.main()
        except SystemExit as left:
            return int(left.code or 0)
        finally:
            sys.argv = before
        return 0

    return run


@pytest.fixture(scope="session")
def harness_process() -> HarnessProcess:
    """`(*arguments, cwd, input=None, env=None)` runs `python -m harness`; `env` is added to the environment."""

    def run(
        *arguments: str | Path, cwd: Path, input: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            [sys.executable, "-m", "harness", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=600,
            **source,
        )

    return run


@pytest.fixture
def run_harness(harness_process: HarnessProcess, tmp_path: Path) -> HarnessProcess:
    """`harness_process` in the test's own `tmp_path`, unless `cwd` says otherwise."""

    def run(
        *arguments: str | Path,
        cwd: Path | None = None,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return harness_process(*arguments, cwd=cwd or tmp_path, input=input, env=env)

    return run


@pytest.fixture(scope="session")
def tiny_victim_folder(tmp_path_factory: pytest.TempPathFactory) -> VictimFolder:
    """`(model_type="bert", num_labels=2, seed=0)` -> the folder of a tiny random classifier that a `Victim` opens.

    Weights are wide enough that its probabilities differ from text to text. A folder is made once a session:
    copy it before changing anything in it.
    """
    made: dict[tuple[str, int, int], Path] = {}

    def make(model_type: str = "bert", num_labels: int = 2, seed: int = 0) -> Path:
        key = (model_type, num_labels, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("victims") / f"tiny-{model_type}-{num_labels}-{seed}"
            _save_tiny_classifier(folder, model_type, num_labels, seed)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_victim(tiny_victim_folder: VictimFolder) -> Any:
    """A tiny random BERT with two classes, loaded on the CPU."""
    from harness.text.victims import Victim

    return Victim.load(str(tiny_victim_folder("bert")), device="cpu")


@pytest.fixture(scope="session")
def tiny_masked_lm_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_victim_folder: VictimFolder
) -> Callable[..., Path]:
    """`(model_type="bert")` -> the folder of a tiny random masked LM with the tokenizer of the tiny victims."""
    made: dict[str, Path] = {}

    def make(model_type: str = "bert") -> Path:
        if model_type not in made:
            folder = tmp_path_factory.mktemp("masked") / f"tiny-{model_type}-mlm"
            shutil.copytree(tiny_victim_folder(model_type), folder)
            import torch
            from transformers import AutoConfig, AutoModelForMaskedLM

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder))
                for name, parameter in model.named_parameters():
                    if name.endswith("bias"):  # they begin at 0, where leaving one out goes unseen
                        torch.nn.init.normal_(parameter, std=0.3)
            model.save_pretrained(folder, safe_serialization=True)
            made[model_type] = folder
        return made[model_type]

    return make


def _save_tiny_classifier(folder: Path, model_type: str, num_labels: int, seed: int) -> None:
    from harness.core.compat import prepare_torchvision

    prepare_torchvision()
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder.mkdir(parents=True)
    tokenizer = _byte_pair_tokenizer(folder) if model_type == "roberta" else _word_piece_tokenizer(folder, model_type)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_LENGTH + 2 if model_type == "roberta" else MAX_LENGTH,
        "num_labels": num_labels,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if model_type == "distilbert":
        sizes |= {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
    else:
        sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        # TextAttack reads gradients with dropout on; without any, they can be compared with ours.
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if model_type == "electra":
        sizes |= {"embedding_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **sizes))
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _word_piece_tokenizer(folder: Path, model_type: str) -> Any:
    from transformers import BertTokenizerFast, DistilBertTokenizerFast, ElectraTokenizerFast

    characters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    vocabulary += [word for word in dict.fromkeys(WORDS.split()) if word not in vocabulary]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    kinds = {"bert": BertTokenizerFast, "distilbert": DistilBertTokenizerFast, "electra": ElectraTokenizerFast}
    return kinds[model_type](vocab_file=str(folder / "vocab.txt"), model_max_length=MAX_LENGTH)


def _byte_pair_tokenizer(folder: Path) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    words = random.Random(0).choices(WORDS.split(), k=4000)
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        [" ".join(words[i : i + 20]) for i in range(0, len(words), 20)],
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    trainer.save_model(str(folder))
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    return RobertaTokenizerFast(str(vocabulary), str(merges), model_max_length=MAX_LENGTH)
