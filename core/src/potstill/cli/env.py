"""`potstill env`."""

from __future__ import annotations

import os
from typing import Any

import click

from potstill.cli.options import json_option
from potstill.cli.output import say_json


@click.command
@json_option
def env(as_json: bool) -> None:
    """Show versions, device, threads and plugins: what a report of a fault should hold.

    \b
    Example:
      potstill env --json > env.json
    """
    found = facts()
    if as_json:
        say_json(found)
        return
    from potstill.report.table import print_table

    lines = {**found["versions"], **{key: value for key, value in found.items() if key != "versions"}}
    print_table([{"what": key, "value": _text(value)} for key, value in lines.items()], columns=["what", "value"])


def facts() -> dict[str, Any]:
    """What every run records of its surroundings, with the device, the cores and the plugins by name."""
    from accelerate import PartialState

    from potstill.discovery import installed
    from potstill.runfolder import environment

    return {
        **environment(),
        "device": str(PartialState().device),
        "cores": os.cpu_count(),
        "plugins": [f"{found.name} ({found.distribution} {found.version})" for found in installed("potstill.plugins")],
    }


def _text(value: Any) -> str:
    from potstill.report.table import cell

    return "\n".join(value) if isinstance(value, list) else cell("", value)
