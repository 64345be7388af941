"""Cards: a README.md with a YAML header, and pages beside it, in which every value that is filled in stays text.

Names of runs, datasets and models are other people's: one may hold quotes, line breaks, `---`, HTML or Markdown. The
header is dumped by YAML's own writer; in the body every value is escaped unless a filter has made it code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from harness.core.errors import ConfigurationError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# What Markdown or HTML would take for more than text, inside a line.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")
_PLACEHOLDER = "ORG/NAME"


class _Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def render_card(package: str, template: str, header: Mapping[str, Any], **values: Any) -> str:
    """A card from a Jinja2 template that lies in a package.

    Args:
        package: As in `render_page`.
        template: As in `render_page`.
        header: The YAML header; entries that are None or empty are left out.
        **values: As in `render_page`.

    Returns:
        The whole card.
    """
    import yaml

    told = {key: value for key, value in header.items() if value not in (None, "", [])}
    # One line an entry, whatever its length: a reader that looks for `---` finds it only at the end.
    front = yaml.safe_dump(told, sort_keys=False, width=2**31 - 1, default_flow_style=False)
    return f"---\n{front}---\n\n{render_page(package, template, **values)}"


def render_page(package: str, template: str, **values: Any) -> str:
    """A page of Markdown from a Jinja2 template that lies in a package.

    Args:
        package: The package, such as "harness.detectors".
        template: The template's file name.
        **values: What the template is given. Its filter `code` shows a value as code, on one line; `fenced` is for a
            line, or a part of one, inside a fence.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: resources.files(package).joinpath(name).read_text(encoding="utf-8")),
        # Not HTML: `finalize` escapes what Markdown, and the HTML in it, would take for more than text.
        autoescape=False,  # noqa: S701
        finalize=_escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "fenced": _fenced}
    return environment.get_template(template).render(**values)


def repository(repo: str | None) -> str:
    """A repository's id for commands on a card; a placeholder where it is not known.

    Raises:
        ConfigurationError: It is no `ORG/NAME`.
    """
    if repo is not None and not _REPOSITORY.fullmatch(repo):
        raise ConfigurationError(f"{repo!r} is no repository of a hub.", "Write it as ORG/NAME.")
    return repo or _PLACEHOLDER


def one_line(value: Any) -> str:
    """Text without line breaks and other control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _escaped(value: Any) -> str:
    return value if isinstance(value, _Markdown) else _SPECIAL.sub(r"\\\1", one_line(value))


def _code(value: Any) -> _Markdown:
    """A value as a code span, with a fence that is longer than any run of backticks in it."""
    text = one_line(value)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    # A span may not be empty, and a backtick at its edge would join the fence.
    pad = " " if not text or longest else ""
    return _Markdown(f"{fence}{pad}{text}{pad}{fence}")


def _fenced(value: Any) -> _Markdown:
    """A value as it stands, on one line that cannot end the fence it is in."""
    return _Markdown(one_line(value).replace("```", "'''"))
