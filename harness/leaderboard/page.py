"""The leaderboards' page: one static file with no script and nothing to fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from harness.core.rows import Row
from harness.leaderboard.detection_tables import detection_groups
from harness.leaderboard.ssl_tables import ssl_groups


def render(rows: Mapping[str, Sequence[Row]]) -> str:
    """The page of some finished rows.

    Args:
        rows: Board -> its rows, in any order; a board that is not there has none.

    Returns:
        A self-contained HTML document; it depends on nothing but the rows.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        detection=detection_groups(rows.get("detection", ())),
        ssl=ssl_groups(rows.get("ssl", ())),
        n_rows=sum(map(len, rows.values())),
    )


def _template(name: str) -> str:
    return resources.files("harness.leaderboard").joinpath(name).read_text(encoding="utf-8")
