"""The leaderboards' page: one static file with nothing to fetch, whose tables a script makes from the packed rows.

Without scripts it shows plain tables of means, the layer curves and the average ranks.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from harness.core.rows import BOARDS, Row
from harness.leaderboard.detection_tables import detection_groups, detection_lines
from harness.leaderboard.packing import pack
from harness.leaderboard.rank_pictures import rank_pictures
from harness.leaderboard.sheets import LATER_KEYS
from harness.leaderboard.ssl_tables import Group, Line, ssl_groups

# In this order: each uses what stands before it.
SCRIPTS = (
    "dom",
    "store",
    "numbers",
    "table",
    "filters",
    "facts",
    "row_sections",
    "row_dialog",
    "scatter",
    "detection",
    "ssl",
    "main",
)


def render(rows: Mapping[str, Sequence[Row]]) -> str:
    """The page of some finished rows.

    Args:
        rows: Board -> its rows, in any order; a board that is not there has none.

    Returns:
        A self-contained HTML document; it depends on nothing but the rows.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = _read("page.css")
    # In a function: names such as `name` and `open` are the window's own.
    script = "".join(["(() => {\n", '"use strict";\n', *(_read(f"{name}.js") for name in SCRIPTS), "})();\n"])
    curves = ssl_groups(rows.get("ssl", ()))
    return environment.get_template("page.html.j2").render(
        detection=detection_groups(rows.get("detection", ())),
        ranks=rank_pictures(rows.get("detection", ())),
        ssl=curves,
        n_rows=sum(map(len, rows.values())),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        data=_json(_data(rows, curves)),
    )


def _data(rows: Mapping[str, Sequence[Row]], groups: Sequence[Group]) -> dict[str, Any]:
    """What the script reads; rows are named by their place among all packed rows."""
    ordered = [row for board in BOARDS for row in sorted(rows.get(board, ()), key=lambda row: str(row["id"]))]
    places = {row["id"]: place for place, row in enumerate(ordered)}
    complete = [{**LATER_KEYS, **row} if row["board"] == "detection" else row for row in ordered]
    bundles = detection_lines(rows.get("detection", ()))
    return {
        **pack(complete),
        "detection": [[places[row["id"]] for row in bundle] for bundle in bundles],
        "ssl": [
            {
                "protocols": group.protocols,
                "pooling": group.pooling,
                "looks": {entry.label: [entry.look.colour, entry.look.stroke] for entry in group.legend},
                "lines": [_line(line, places) for line in group.lines],
                "samples": [_line(line, places) for line in group.samples],
            }
            for group in groups
        ],
    }


def _line(line: Line, places: Mapping[str, int]) -> dict[str, Any]:
    return {
        "label": line.label,
        "rows": [places[id] for id in line.ids],
        "points": [
            [[p.layer, *(float(f"{v:.6g}") for v in (p.value, p.low, p.high)), line.flops.get(p.layer)] for p in points]
            for points in line.points
        ],
    }


def _json(value: Any) -> str:
    """JSON that may stand in a script element: no `<` could close it or open a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    # Lines that only JavaScript sees end nothing in JSON, but stray ones would confuse whoever reads the source.
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files("harness.leaderboard").joinpath(name).read_text(encoding="utf-8")
