"""All commands: the core's from a static table, the plugins' from their entry points, each imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from potstill import __version__
from potstill.cli.commands import PluginCommand, plugin_commands
from potstill.errors import did_you_mean

COMMANDS = {
    "run": ("run:run", "Run a recipe, or one composed from options: train, evaluate, export."),
    "sweep": ("sweep:sweep", "Run a grid of settings × seeds over one recipe; what is common is trained once."),
    "suite": ("suite:suite", "Fine-tune and measure one encoder on a list of tasks, such as GLUE; tell two apart."),
    "plan": ("plan:plan", "Show what a run would do: stages, plugins, loss terms, sizes; trains nothing."),
    "prepare": ("prepare:prepare", "Tokenize what a run reads, show what it comes to; trains nothing."),
    "evaluate": ("evaluate:evaluate", "Measure a finished model on a data file."),
    "predict": ("predict:predict", "Label texts with a finished model."),
    "export": ("export:export", "Export a finished model through plugins, such as onnx."),
    "time": ("time:time", "Measure latency and size of exported models."),
    "compare": ("compare:compare", "Put two or more runs side by side: settings and metrics."),
    "report": ("report:report", "Write a run folder's report.html again."),
    "schema": ("schema:schema", "Print the recipe's JSON schema, for editors."),
    "env": ("env:env", "Show versions, device, threads and plugins."),
    "plugins": ("plugins:plugins", "List, show, check and make plugins."),
    "recipes": ("recipes:recipes", "List, show and copy the recipes and suites that ship with plugins."),
}
"""name → (module:attribute below `potstill.cli`, one line of help)."""


class Commands(click.Group):
    """Imports a command when it is called; `--help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in plugin_commands() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, attribute = COMMANDS[cmd_name][0].split(":")
            command: click.Command = getattr(import_module(f"potstill.cli.{module}"), attribute)
            return command
        found = plugin_commands().get(cmd_name)
        return found.load() if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            near = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"There is no command '{args[0]}'.{near}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])
        extra = [(name, _help_line(found)) for name, found in plugin_commands().items() if name not in COMMANDS]
        if extra:
            with formatter.section("Commands from plugins"):
                formatter.write_dl(extra)


def _help_line(found: PluginCommand) -> str:
    return f"broken: {found.problem}" if found.problem else found.summary


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="potstill", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere on the line.")
def potstill(**_: Any) -> None:
    """Knowledge distillation of transformer encoders; every algorithm is a plugin.

    \b
    potstill recipes list                      what ships with the plugins
    potstill run recipe.toml --data-root data  train, evaluate, export
    potstill plan recipe.toml                  what that would do
    """
