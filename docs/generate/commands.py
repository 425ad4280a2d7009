"""The page of all commands and options, from click's own objects: what `--help` says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from docs.generate.markdown import fenced, table
from potstill.cli.group import potstill

INTRODUCTION = """\
# Command line

Every command takes `--help`. Exit codes: 0 for success, 2 for what you can mend, 1 for what broke, 130 for an
interrupted run. An error is one sentence; `--debug`, anywhere on the line, shows the traceback instead. Tables are
printed as JSON with `--json`.
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_section(path, command) for path, command in walk(potstill, "potstill"))


def walk(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below `group` with the words that call it."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{path} lists {name} and does not have it"
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from walk(command, f"{path} {name}")


def _section(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    level = "#" * (len(path.split()))
    text = f"\n{level} {path}\n\n{fenced(f'{path} {usage}')}\n{_help(command.help or '')}"
    options = [_row(option) for option in command.params if isinstance(option, click.Option) and not option.hidden]
    return f"{text}\n{table(('option', 'meaning'), options)}" if options else text


def _help(text: str) -> str:
    """click's help as Markdown: what stands after `\\b` is kept line by line, its first line as a caption."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            caption, _, rest = paragraph.removeprefix("\b").strip("\n").partition("\n")
            parts.append(f"{caption}\n\n{fenced(inspect.cleandoc(rest), 'sh')}")
        else:
            parts.append(" ".join(paragraph.split()) + "\n")
    return "\n".join(parts)


def _row(option: click.Option) -> tuple[str, str]:
    record = option.get_help_record(click.Context(click.Command("")))
    names, meaning = record or (" / ".join(option.opts), option.help or "")
    return f"`{names}`", meaning.replace("<", "&lt;")
