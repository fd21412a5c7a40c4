"""Click classes of all commands and groups: no repeated options, suggestions for unknown commands."""

import difflib
import sys
from collections import Counter

import click

from wantui.cli.streams import allow_closed_output
from wantui.formatting import shorten_text

COMMANDS_BY_OTHER_NAME = {
    "compare": ["analyze --compare"],
    "delete": ["queue remove"],
    "generate": ["run"],
    "list": ["queue ls", "library ls"],
    "play": ["open"],
    "rm": ["queue remove"],
    "version": ["--version"],
}
"""Commands by the names that they have in other programs."""
TYPO_SIMILARITY = 0.75
"""Smallest similarity (`difflib`) of a mistyped command: "validate", a command of a group, is no mistyped "ablate"."""


class WantuiCommand(click.Command):
    """A command that rejects a repeated option, of which click would silently use only the last value.

    If it has a template, the error about an argument without an option says how to write one.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # the shell completes a line that may still be wrong
            return super().parse_args(ctx, args)
        _, extra_arguments, parsed_parameters = self.make_parser(ctx).parse_args(args=list(args))
        if self.get_help_option(ctx) in parsed_parameters:
            extra_arguments, parsed_parameters = [], []  # the help is shown in any case
        if extra_arguments and any(parameter.name == "template" for parameter in self.params):
            text = shorten_text(" ".join(extra_arguments))
            ctx.fail(f"unexpected argument {text!r}. Write a template as -t 'a [red|blue] circle', a config as -c NAME")
        for parameter, use_count in Counter(parsed_parameters).items():
            if use_count > 1 and isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag):
                advice = "; write alternatives as [red|blue]" if parameter.name == "template" else ""
                ctx.fail(f"{parameter.opts[-1]} is given {use_count} times. Give it once{advice}")
        with allow_closed_output(sys.stdout):
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit  # only the help is printed while arguments are parsed


class WantuiGroup(click.Group):
    """A group of WantuiCommands that suggests similar names for an unknown command."""

    command_class = WantuiCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with allow_closed_output(sys.stdout):
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit  # only the help or the version is printed while arguments are parsed

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-")) and self.get_command(ctx, name) is None:
            names = self.list_commands(ctx)
            similar = [known for known in names if known.startswith(name)]
            similar = similar or (COMMANDS_BY_OTHER_NAME.get(name, []) if ctx.parent is None else [])
            similar = similar or difflib.get_close_matches(name, names, cutoff=TYPO_SIMILARITY)
            similar = similar or self._find_subcommands(ctx, name) or difflib.get_close_matches(name, names)
            advice = f"did you mean {' or '.join(similar)}?" if similar else f"the commands are {', '.join(names)}."
            ctx.fail(f"no such command {name!r}; {advice}")
        return super().resolve_command(ctx, args)

    def _find_subcommands(self, ctx: click.Context, name: str) -> list[str]:
        """Return "group name" for each group that has a command of this name."""
        groups = {known: self.get_command(ctx, known) for known in self.list_commands(ctx)}
        return [
            f"{known} {name}"
            for known, group in groups.items()
            if isinstance(group, click.Group) and name in group.list_commands(ctx)
        ]
