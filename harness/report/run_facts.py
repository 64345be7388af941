"""How a run was made: its command, versions, git state, hardware and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.document import Block, Code, Fold, Paragraph, Section, Table


def facts_section(config_file: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Section:
    """The last section of every page.

    Args:
        config_file: The run's `config.yaml`, shown as it is.
        config: What it says.
        manifest: The run's manifest.
    """
    told = manifest.get("command_line")
    command: Block = (
        Code("Command", str(told))
        if told
        else Paragraph(f"Made by harness {config['command']}; the run does not hold its options as they were typed.")
    )
    rows = [[name, value] for name, value in _made(manifest)]
    versions = [[str(name), str(value)] for name, value in sorted(manifest.get("versions", {}).items())]
    outputs = [[str(name), str(value)] for name, value in sorted(manifest.get("outputs", {}).items())]
    return Section(
        "made",
        "How it was made",
        [
            command,
            Table("The run and the machine", ["Fact", "Value"], rows, words=True),
            Fold(
                "Versions",
                [Table("Versions of what the results depend on", ["package", "version"], versions, words=True)],
            ),
            Fold("Configuration", [Code("config.yaml", config_file.read_text(encoding="utf-8"))]),
            Fold("Files of the run", [Table("SHA-256 of what the run made", ["file", "hash"], outputs, words=True)]),
        ],
    )


def _made(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("Run", str(manifest.get("run", ""))), ("Finished", str(manifest.get("finished", "")))]
    for name, key in (("Wall time of the last session", "wall_seconds"), ("Time on the device", "device_seconds")):
        if isinstance(manifest.get(key), int | float):
            found.append((name, f"{manifest[key]:,.1f} s"))
    if manifest.get("seeds"):
        found.append(("Seeds", ", ".join(map(str, manifest["seeds"]))))
    git = manifest.get("git")
    if isinstance(git, Mapping):
        found.append(
            ("Git commit", f"{git.get('commit')}{', with changes that are not committed' * bool(git.get('dirty'))}")
        )
    else:
        found.append(("Git commit", "not known: it ran from an installed package"))
    names = {"processor": "Processor", "cores": "Cores", "torch_threads": "Threads of PyTorch"}
    names |= {"machine": "Machine", "accelerator": "Accelerator"}
    hardware = manifest.get("hardware", {})
    found += [(name, str(hardware[key])) for key, name in names.items() if hardware.get(key)]
    return [(name, value) for name, value in found if value]
