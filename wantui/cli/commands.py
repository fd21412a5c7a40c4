"""Click classes of all commands and groups: they refuse an option that is given twice."""

from collections import Counter

import click


class Command(click.Command):
    """A command that refuses repeated options, of which click would silently use the last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(order).items():
            if count > 1 and isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag):
                advice = "; write alternatives as [red|blue]" if parameter.name == "template" else ""
                ctx.fail(f"{parameter.opts[-1]} is given {count} times. Give it once{advice}")
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
