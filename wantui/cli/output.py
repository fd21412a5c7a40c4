"""Print text, tables and JSON with terminal control characters escaped.

Every command prints through this module. Names, prompts, errors and paths come from files that others may have
written, and could contain control characters; `escape_unprintable` makes them visible.
"""

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from wantui.cli.streams import allow_closed_output
from wantui.formatting import UNPRINTABLE_PATTERN, escape_unprintable, join_units, split_units
from wantui.json_values import to_json_values

if TYPE_CHECKING:
    from rich.table import Table


CONTINUATION_INDENT = 4
"""Indent of the second and later lines of a table row, in columns."""


def _write_output(text: str, nl: bool = True, err: bool = False) -> None:
    with allow_closed_output(sys.stderr if err else sys.stdout):
        click.echo(text, nl=nl, err=err)


def echo(text: object = "", err: bool = False, nl: bool = True, bold: bool = False) -> None:
    """Print text to stdout or stderr, with control characters escaped except line breaks and tabs."""
    safe_text = escape_unprintable(str(text), keep_lines=True)
    if err and nl and sys.stderr.isatty():
        safe_text = "\n".join(_wrap_line(line, shutil.get_terminal_size().columns) for line in safe_text.split("\n"))
    _write_output(click.style(safe_text, bold=True) if bold else safe_text, nl=nl, err=err)


def report_locked_queue(lock_holder: str) -> None:
    """Report on stderr that a command is waiting for the process that locked the queue."""
    echo(f"waiting for the queue, which is locked by {lock_holder}", err=True)


def echo_written_file(path: Path, is_replaced: bool) -> None:
    """Print to stderr that an output file was written, and whether it replaced a file."""
    echo(f"{'replaced' if is_replaced else 'written'}: {path}", err=True)


def _wrap_line(line: str, terminal_width: int, indent: int = 0) -> str:
    """Wrap a line that is wider than the terminal between words; never split a path."""
    if len(line) <= terminal_width:
        return line
    return textwrap.fill(
        line, terminal_width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def print_json(value: Any, indent: int | None = 1) -> None:
    """Print a value as JSON on stdout; a number that is not finite is null."""
    _write_output(format_json(to_json_values(value), indent, ascii_only=not _has_unicode_encoding(sys.stdout)))


def format_json(value: Any, indent: int | None = 1, ascii_only: bool = False) -> str:
    """Format a value as JSON with control characters escaped; the JSON parses to the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # JSON is ASCII outside of strings, so a match is always inside a string, where \u is an escape.
    return re.sub(r"[^\n\x20-\x7e]", _escape_for_json, text)


def _escape_for_json(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\u{ord(character):04x}" if UNPRINTABLE_PATTERN.match(character) else character


def _has_unicode_encoding(stream: IO[str]) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def print_progress(text: str) -> None:
    """Replace the last line of stderr, if it is a terminal; an empty text ends the line."""
    if sys.stderr.isatty():
        _write_output(f"\r{escape_unprintable(text)}" if text else "", err=True, nl=not text)


def erase_progress(width: int) -> None:
    """Erase a line of `print_progress` with a number of columns."""
    _write_output(f"\r{' ' * width}\r", err=True, nl=False)


def print_table(table: "Table") -> None:
    """Print a table to stdout; in a pipe it is not wrapped and has no trailing spaces."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(width=10_000, highlight=False)
    with console.capture() as console_capture:
        console.print(table)
    echo("\n".join(line.rstrip() for line in console_capture.get().splitlines()))


def create_plain_table(*columns: str) -> "Table":
    """Return a table without borders."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_columns(*rows: tuple[str, ...]) -> None:
    """Print rows to stdout in aligned columns; the first row is the header.

    On a terminal that is too narrow, each row takes several lines, and the columns stay aligned. Rich's tables are
    avoided: their import would take most of the time of `wantui queue ls`.
    """
    safe_rows = [tuple(map(escape_unprintable, row)) for row in rows]
    column_widths = [max(map(_count_cells, column)) for column in zip(*safe_rows, strict=True)]
    terminal_width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    column_lines = _split_columns_into_lines(column_widths, terminal_width)
    for row_number, row in enumerate(safe_rows):
        for line_number, line_columns in enumerate(column_lines):
            cells = [row[column] + " " * (column_widths[column] - _count_cells(row[column])) for column in line_columns]
            line = "  ".join(cells).rstrip()
            if line or line_number == 0:
                echo(
                    _wrap_line(
                        " " * (CONTINUATION_INDENT * (line_number > 0)) + line, terminal_width, 2 * CONTINUATION_INDENT
                    ),
                    bold=row_number == 0,
                )


def _count_cells(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _split_columns_into_lines(column_widths: Sequence[int], terminal_width: int) -> list[list[int]]:
    """Return the indices of the columns on each line of a row."""
    lines: list[list[int]] = [[]]
    used_width = 0
    for column, column_width in enumerate(column_widths):
        if lines[-1] and used_width + 2 + column_width > terminal_width:
            lines.append([])
            used_width = CONTINUATION_INDENT
        used_width += column_width + (2 if lines[-1] else 0)
        lines[-1].append(column)
    return lines


def print_wrapped_line(text: str, indent: int = 0) -> None:
    """Print a line to stdout; on a terminal, wrap it between words and indent its further lines."""
    text = escape_unprintable(text)
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        text = split_units(click.wrap_text(join_units(text), columns, subsequent_indent=" " * indent))
    echo(text)


def add_table_row(table: "Table", *cells: str) -> None:
    """Add a row of plain text, without Rich markup."""
    from rich.text import Text

    table.add_row(*(Text(escape_unprintable(cell)) for cell in cells))
