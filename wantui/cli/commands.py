"""Click classes of all commands and groups: repeated options are refused, and `--help | head` is no error."""

import sys
from collections import Counter

import click

from wantui.cli.streams import allow_closed_output


class SingleUseOptionCommand(click.Command):
    """A command that refuses a repeated option; click would silently use only the last value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, parsed_parameters = self.make_parser(ctx).parse_args(args=list(args))
        if self.get_help_option(ctx) in parsed_parameters:
            parsed_parameters = []  # the help is shown in any case
        for parameter, use_count in Counter(parsed_parameters).items():
            if use_count > 1 and isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag):
                advice = "; write alternatives as [red|blue]" if parameter.name == "template" else ""
                ctx.fail(f"{parameter.opts[-1]} is given {use_count} times. Give it once{advice}")
        with allow_closed_output(sys.stdout):
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit  # only the help is printed while arguments are parsed


class SingleUseOptionGroup(click.Group):
    """A group of commands that refuse repeated options."""

    command_class = SingleUseOptionCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with allow_closed_output(sys.stdout):
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit  # only the help or the version is printed while arguments are parsed
