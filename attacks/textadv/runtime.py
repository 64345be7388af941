"""Import TextAttack without its side effects.

TextAttack's import asks NLTK's servers for data, fails where the English stopwords are missing, marks its set-up
as done even when it failed, and with `TA_CACHE_DIR` set moves the caches of every other library. Here it is
imported once, late, with a cache folder of our own that is marked as set up, and with the shipped stopwords as
the last place NLTK looks; the environment is as it was afterwards.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError
from harness.core.files import atomic_writer, cache_folder

# All that TextAttack's import sets: the first five because TA_CACHE_DIR is given.
_VARIABLES = (
    "TA_CACHE_DIR",
    "TFHUB_CACHE_DIR",
    "PYTORCH_TRANSFORMERS_CACHE",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TOKENIZERS_PARALLELISM",
    "WANDB_SILENT",
)
_CHINESE = re.compile("[\u4e00-\u9fff]")
_SET_UP_MARK = "post_install_check_3"
# TextAttack joins and splits the parts of a text at `<SPLIT>`, and fails on a text that holds it; no text holds this.
SPLIT_MARK = "\ue000<SPLIT>\ue000"


@lru_cache(maxsize=1)
def load_textattack() -> ModuleType:
    """Import and return `textattack`; takes some seconds the first time.

    Raises:
        ConfigurationError: TextAttack is not installed.
    """
    version = textattack_version()
    prepare_torchvision()
    # These read their cache folders at import: they must not see TextAttack's.
    import datasets  # noqa: F401
    import nltk
    import transformers  # noqa: F401

    folder = cache_folder(f"textattack-{version}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SET_UP_MARK).touch()
    nltk.data.path.append(str(_private_stopwords(folder)))
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ["TA_CACHE_DIR"] = str(folder)
    try:
        import textattack
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    textattack.shared.AttackedText.SPLIT_TOKEN = SPLIT_MARK
    for module in (textattack.shared.attacked_text, textattack.shared.utils, textattack.shared.utils.strings):
        module.words_from_text = remembered_words(module.words_from_text)
    # It warns that it does not know the victim's class, which is a plain function on purpose.
    logging.getLogger("textattack").setLevel(logging.ERROR)
    textattack.shared.utils.logger.setLevel(logging.ERROR)
    return textattack  # type: ignore[no-any-return]


def remembered_words(find: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """TextAttack's `words_from_text`, which it calls for every word of every candidate, with a memory.

    The words of a text are those of its parts between white space, but for Chinese, which is left to TextAttack. Equal
    words share one string, which is most of what a candidate takes.

    Args:
        find: TextAttack's function.

    Returns:
        A function with the same results.
    """

    @lru_cache(maxsize=2**16)
    def of_part(part: str) -> tuple[str, ...]:
        return tuple(map(sys.intern, find(part)))

    def words_from_text(s: str, words_to_ignore: Sequence[str] = ()) -> list[str]:
        if words_to_ignore or _CHINESE.search(s):
            return find(s, list(words_to_ignore))
        return [word for part in s.split() for word in of_part(part)]

    return words_from_text


def _private_stopwords(folder: Path) -> Path:
    """Copy the shipped stopwords to where NLTK accepts them.

    NLTK refuses data in folders that others may write to, as a package folder may be.
    """
    name = Path("corpora", "stopwords", "english")
    shipped = (resources.files("textadv") / "resources" / "nltk_data").joinpath(*name.parts).read_bytes()
    target = folder / "nltk_data" / name
    if not target.is_file() or target.read_bytes() != shipped:
        with atomic_writer(target) as handle:
            handle.write(shipped)
    for place in (target, *list(target.parents)[:3]):
        place.chmod(0o644 if place == target else 0o755)
    return folder / "nltk_data"


def textattack_version() -> str:
    """The installed version, without importing TextAttack; results differ between versions.

    Raises:
        ConfigurationError: TextAttack is not installed.
    """
    try:
        return metadata.version("textattack")
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            "attacks need TextAttack, which is not installed.",
            'Install it: pip install "palimpsest[attack]".',
        ) from error
