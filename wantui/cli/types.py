"""Types of options and arguments: paths, numbers, batches."""

from pathlib import Path
from typing import Any

import click

from wantui.config.speeds import speed_slug
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


class VideoId(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """The id of a video, or the start of one; rejects an empty one, which every id starts with."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("the id is empty; give an id, or the start of one", param, ctx)
        return value.strip()


class WholeNumber(click.IntRange):
    """A whole number, read from text by the rule of `--set` and config files; a range as of `click.IntRange`."""

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        super().__init__(least, most)
        if least is None and most is None:
            self.name = "integer"

    def _describe_range(self) -> str:
        # Without bounds click's own says "x<=None" in the help.
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_number(self, value, param, ctx, is_whole=True), param, ctx)


class Number(click.types.FloatParamType):
    """A decimal number, read from text by the rule of `--set` and config files."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_number(self, value, param, ctx, is_whole=False), param, ctx)


def _number(
    kind: "WholeNumber | Number",
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
    *,
    is_whole: bool,
) -> Any:
    """Return the number that a text means, and other values as they are; click's own types take `1_000` and `٣`."""
    if not isinstance(value, str):
        return value
    from wantui.config.values import number_from_text  # pydantic comes with it, which --help need not wait for

    try:
        return number_from_text(value.strip(), is_whole)
    except ValueError as error:
        kind.fail(str(error), param, ctx)


class BatchName(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """A batch on the queue: its number, the name of its folder, or a path."""

    name = "batch"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.isascii() and value.isdecimal():
            if len(value) > len(str(MAX_NUMBER)) or int(value) > MAX_NUMBER:
                self.fail(f"no batch has the number {value[:40]}", param, ctx)
            return value
        try:
            return str(user_path(value))
        except UserError as error:
            self.fail(str(error), param, ctx)


class MeasuredSpeed(click.Choice):  # type: ignore[type-arg]  # not generic in older versions of click
    """A speed that `wantui bench` measures; takes the names of earlier versions too."""

    def __init__(self) -> None:
        super().__init__(["reference", "fused"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(speed_slug(value) if isinstance(value, str) else value, param, ctx)


PATH = UserPath()
INTEGER = WholeNumber()
BATCH = BatchName()
SPEED = MeasuredSpeed()
