"""The dataset card (README.md) and the datasheet of a set, rendered from its description and nothing else."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from harness.core import cards
from harness.core.errors import ConfigurationError
from harness.text.release.corpora import UNKNOWN, Corpus, corpus_of
from harness.text.victims import VICTIMS

CARD_FILE, DATASHEET_FILE = "README.md", "DATASHEET.md"

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")


def check_licence(licence: str | None) -> None:
    """Refuse what is no licence's short name.

    Raises:
        ConfigurationError: It is not one.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ConfigurationError(
            f"{licence!r} is not the short name of a licence.", "Write it as the Hub does, such as cc-by-4.0."
        )


def render_card(description: Mapping[str, Any], repo: str | None, licence: str | None) -> str:
    """The dataset card: a YAML header that `datasets` reads, and what people should know.

    Args:
        description: The content of `release.json`.
        repo: Where the set will be published, as ORG/NAME; None where that is not known.
        licence: The licence of what the set adds to the texts; None where its makers did not say.
    """
    context = _context(description, repo, licence)
    return cards.render_card("harness.text.release", "card.md.j2", _header(context), **context)


def render_datasheet(description: Mapping[str, Any], repo: str | None, licence: str | None) -> str:
    """The datasheet, with the questions of Gebru et al. (2021); arguments as for `render_card`."""
    return cards.render_page("harness.text.release", "datasheet.md.j2", **_context(description, repo, licence))


def attack_command(name: str, facts: Mapping[str, Any]) -> str:
    """The command that makes a configuration's rows; empty where it was imported from a log.

    Folders are named as path/to/NAME: where they lay is nobody's business.
    """
    run, goal = facts["run"], facts["goal"]
    if "shard_size" not in run:
        return ""
    victim = facts["victim"]["name"]
    options: dict[str, Any] = {
        "--dataset": _dataset_argument(facts),
        "--victim": victim if "/" in victim or victim in VICTIMS else f"path/to/{victim}",
        "--recipe": facts["recipe"]["name"],
        "--split": next(iter(facts["splits"])),
        "--limit": run.get("texts"),
        "--seed": facts["seed"],
        "--target-class": goal["target_class"],
        "--min-confidence": goal["min_confidence"],
        "--query-limit": goal["query_limit"],
        "--time-limit": None if goal["seconds_limit"] is None else f"{goal['seconds_limit']:g}s",
        "--evade": "DETECTOR_DIR" if goal["evaded"] else None,
        "--evade-threshold": goal["evaded"].get("threshold") if goal["evaded"] else None,
        "--max-length": run.get("max_length"),
        "--dtype": run.get("dtype"),
        "--batch-size": run.get("batch_size"),
        "--shard-size": run.get("shard_size"),
        "--threads": run.get("threads") or None,
        "--out": f"runs/{name}",
    }
    given = [part for option, value in options.items() if value is not None for part in (option, cards.one_line(value))]
    return shlex.join(["harness", "attack", "run", *given])


def restore_command(name: str, facts: Mapping[str, Any], repo: str | None) -> str:
    """The command that makes a run folder of a configuration, from a set on the Hub or in the folder SET."""
    corpus = ["--dataset", _dataset_argument(facts)] if facts["texts"] == "withheld" else []
    where = f"hub:{repo}" if repo else "SET"
    return shlex.join(["harness", "attack", "restore", where, *corpus, "--config", name, "--out", f"runs/{name}"])


def _dataset_argument(facts: Mapping[str, Any]) -> str:
    name = cards.one_line(facts["dataset"]["name"])
    pinned = (facts["dataset"]["source"] or {}).get("kind") in ("hub", "package")
    return name if pinned else f"path/to/{name}"


def _context(description: Mapping[str, Any], repo: str | None, licence: str | None) -> dict[str, Any]:
    configurations: dict[str, dict[str, Any]] = dict(description["configurations"])
    facts = list(configurations.values())
    corpora = {one["dataset"]["name"]: one["dataset"] for one in facts}
    commands = [(name, attack_command(name, one)) for name, one in configurations.items()]
    totals = {key: sum(one["counts"][key] for one in facts) for key in facts[0]["counts"]}
    return {
        "configurations": configurations,
        "unfinished": description["unfinished"],
        "generator": description["generator"],
        "repo": repo,
        "licence": licence,
        "totals": totals,
        "corpora": corpora,
        "with_texts": [name for name, one in configurations.items() if one["texts"] == "included"],
        "without_texts": [name for name, one in configurations.items() if one["texts"] == "withheld"],
        "recipes": sorted({(one["recipe"]["name"], _json(one["recipe"]["parameters"])) for one in facts}),
        "victims": sorted({(one["victim"]["name"], one["victim"]["hash"] or "not known") for one in facts}),
        "versions": sorted({one["textattack_version"] or "not known" for one in facts}),
        "commands": [command for _, command in commands if command],
        "imported": [name for name, command in commands if not command],
        "restore": restore_command(*next(iter(configurations.items())), repo),
        "first": next(iter(configurations)),
        "first_split": next(iter(facts[0]["splits"])),
        "pretty": f"Adversarial texts: {', '.join(sorted(corpora))}",
        "figure": _figure,
        "percent": _percent,
    }


def _header(context: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML header."""
    corpora: list[Corpus] = [corpus_of(name) for name in sorted(context["corpora"])]
    languages = sorted({corpus.language for corpus in corpora if corpus.language})
    total = context["totals"]["rows"]
    header: dict[str, Any] = {"pretty_name": cards.one_line(context["pretty"])}
    # A licence of what was added says nothing of texts that others wrote.
    if context["licence"] and not context["with_texts"]:
        header["license"] = context["licence"]
    else:
        stated = "source-texts-of-others" if context["with_texts"] else "not-stated"
        header |= {"license": "other", "license_name": stated}
    if languages and UNKNOWN not in corpora:
        header["language"] = languages
    return header | {
        "task_categories": ["text-classification"],
        "size_categories": [next((name for end, name in _SIZES if total < end), "1M<n<10M")],
        "source_datasets": sorted(filter(None, map(_hub_id, context["corpora"].values()))),
        "tags": ["adversarial-examples", "adversarial-attack-detection", "robustness", "textattack", "palimpsest"],
        "configs": [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": part["file"]} for split, part in facts["splits"].items()],
            }
            for name, facts in context["configurations"].items()
        ],
    }


def _hub_id(dataset: Mapping[str, Any]) -> str:
    """Where on the Hub an attacked dataset came from; a folder may hold another edition of the same corpus."""
    source = dataset["source"] or {}
    return str(source["id"]) if source.get("kind") == "hub" and "id" in source else ""


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
