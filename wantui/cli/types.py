"""Types of options and arguments: paths, batches."""

from pathlib import Path

import click

from wantui.errors import UserError
from wantui.paths import user_path

MAX_NUMBER = 2**63 - 1
"""Largest number that the queue's database holds."""


class UserPath(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """A path as `user_path` resolves it: with `~` and `$NAME`; rejects text that cannot be a path.

    Args:
        allow_dash: take "-" as it is, for stdin or stdout.
    """

    name = "path"

    def __init__(self, allow_dash: bool = False) -> None:
        self.allow_dash = allow_dash

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path) or (self.allow_dash and value == "-"):
            return Path(value)
        try:
            return user_path(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


class BatchName(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """A batch on the queue: its number, the name of its folder, or a path."""

    name = "batch"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.isdecimal():
            if len(value) > len(str(MAX_NUMBER)) or int(value) > MAX_NUMBER:
                self.fail(f"no batch has the number {value[:40]}", param, ctx)
            return value
        try:
            return str(user_path(value))
        except UserError as error:
            self.fail(str(error), param, ctx)


PATH = UserPath()
BATCH = BatchName()
