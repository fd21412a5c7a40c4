"""Parameter types of options and arguments: paths, numbers, ids, batches."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from wantui.config.speeds import migrate_speed_name
from wantui.errors import UserError
from wantui.paths import expand_user_path
from wantui.typed_text import parse_number

MAX_INTEGER = 2**63 - 1
"""Largest integer that SQLite can store."""
_PLAIN_WORD_PATTERN = re.compile(r"[\w%+:./][\w@%+=:,./-]*")
"""Name that no shell splits, expands or mistakes for an option."""


class UserPath(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """Parameter type of a path, in which `expand_user_path` expands `~` and `$NAME`.

    Args:
        allow_dash: accept "-" unchanged, for stdin or stdout.
    """

    name = "path"

    def __init__(self, allow_dash: bool = False) -> None:
        self.allow_dash = allow_dash

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path) or (self.allow_dash and value == "-"):
            return Path(value)
        try:
            return expand_user_path(value)
        except UserError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_files(incomplete)


class VideoIdPrefix(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """Parameter type of a video id or the start of one; rejects an empty text, with which every id starts."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("the id is empty. Give an id or its first characters", param, ctx)
        return value.strip()


class WholeNumber(click.IntRange):
    """Parameter type of a whole number in a range, parsed by the same rule as `--set` and config files."""

    def __init__(self, minimum: int | None = None, maximum: int | None = None) -> None:
        super().__init__(minimum, maximum)
        if minimum is None and maximum is None:
            self.name = "integer"

    def _describe_range(self) -> str:
        # Without bounds, click would print "x<=None" in the help.
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_parse_number_text(self, value, param, ctx, is_integer=True), param, ctx)


class DecimalNumber(click.types.FloatParamType):
    """Parameter type of a decimal number, parsed by the same rule as `--set` and config files."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_parse_number_text(self, value, param, ctx, is_integer=False), param, ctx)


def _parse_number_text(
    param_type: WholeNumber | DecimalNumber,
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
    *,
    is_integer: bool,
) -> Any:
    """Parse a number from text, and return other values unchanged; click would accept `1_000` and `٣`."""
    if not isinstance(value, str):
        return value
    try:
        return parse_number(value.strip(), is_integer)
    except ValueError as error:
        param_type.fail(str(error), param, ctx)


class BatchReference(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """Parameter type of a batch in the queue: a number, a folder name, or a path."""

    name = "batch"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.isascii() and value.isdecimal():
            if len(value) > len(str(MAX_INTEGER)) or int(value) > MAX_INTEGER:
                self.fail(f"no batch has the number {value[:40]}", param, ctx)
            return value
        try:
            return str(expand_user_path(value))
        except UserError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of the batches in the queue; without a readable queue, files."""
        return _complete_batches(incomplete) or complete_files(incomplete)


class BatchFolderReference(BatchReference):
    """Parameter type of a batch folder: its path, or the number or name of a batch in the queue.

    A path that exists is not looked up in the queue. An unknown name stays a path, which the command rejects.
    """

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Path):
            return value
        word = super().convert(value, param, ctx)
        path = Path(word)
        if os.path.lexists(path) or len(path.parts) > 1:
            return path
        from wantui.cli.output import report_locked_queue
        from wantui.queue.batch_lookup import UnknownBatchError, find_batch_folder
        from wantui.queue.state_dir import locate_state_directory

        try:
            return find_batch_folder(word, locate_state_directory(), report_locked_queue)
        except UnknownBatchError:
            if word.isdecimal():
                raise
            return path


def complete_files(incomplete: str) -> list[CompletionItem]:
    """Return the completion item that makes the shell complete file names."""
    return [CompletionItem(incomplete, type="file")]


def _complete_batches(incomplete: str) -> list[CompletionItem]:
    import sqlite3

    from wantui.queue.batch_lookup import read_batch_folders
    from wantui.queue.state_dir import locate_state_directory

    try:
        names = [folder.name for folder in read_batch_folders(locate_state_directory(), wait_seconds=0.2).values()]
    except (sqlite3.Error, OSError, UserError):  # an error would appear in the middle of the command line
        return []
    return _make_name_items(names, incomplete)


def _make_name_items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return an item for each name that starts with `incomplete`, except names that a shell would split or execute.

    bash inserts an item into the command line unquoted: with a folder named `$(command)`, it would run the command.
    """
    possible_names = dict.fromkeys(name for name in names if name.startswith(incomplete))
    return [CompletionItem(name) for name in possible_names if _PLAIN_WORD_PATTERN.fullmatch(name)]


class ConfigName(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """Parameter type of a preset or config file; `load_config` checks it."""

    name = "config"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from wantui.config.presets import list_preset_names

        return _make_name_items(list_preset_names(), incomplete) or complete_files(incomplete)


class BenchSpeed(click.Choice):  # type: ignore[type-arg]  # not generic in older versions of click
    """Parameter type of a speed that `wantui bench` measures; also accepts the names of earlier versions."""

    def __init__(self) -> None:
        super().__init__(["reference", "fused", "fp8"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(migrate_speed_name(value) if isinstance(value, str) else value, param, ctx)


PATH_TYPE = UserPath()
CONFIG_TYPE = ConfigName()
INTEGER_TYPE = WholeNumber()
BATCH_TYPE = BatchReference()
BATCH_FOLDER_TYPE = BatchFolderReference()
SPEED_TYPE = BenchSpeed()
