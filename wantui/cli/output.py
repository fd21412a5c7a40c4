"""Print text, tables and JSON so that a terminal obeys nothing in them.

Every command prints through this module. Names, prompts, errors and paths come from files that others may have
written; `printable` makes the characters visible that a terminal would otherwise obey.
"""

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from wantui.cli.streams import output_may_close
from wantui.formatting import UNPRINTABLE, printable

if TYPE_CHECKING:
    from rich.table import Table


CONTINUED = 4
"""Columns by which the second line of a row of a table is indented."""


def _write(text: str, nl: bool = True, err: bool = False) -> None:
    with output_may_close(sys.stderr if err else sys.stdout):
        click.echo(text, nl=nl, err=err)


def echo(text: object = "", err: bool = False, nl: bool = True, bold: bool = False) -> None:
    """Print text of any origin to stdout, or to stderr; line breaks and tabs stay."""
    safe = printable(str(text), keep_lines=True)
    if err and nl and sys.stderr.isatty():
        safe = "\n".join(_wrapped(line, shutil.get_terminal_size().columns) for line in safe.split("\n"))
    _write(click.style(safe, bold=True) if bold else safe, nl=nl, err=err)


def _wrapped(line: str, width: int, indent: int = 0) -> str:
    """Wrap a line that is wider than the terminal between words, where a terminal would split them; paths stay in one
    piece."""
    if len(line) <= width:
        return line
    margin = " " * indent
    return textwrap.fill(line, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)


def print_json(value: Any, indent: int | None = 1) -> None:
    """Print plain values as JSON."""
    _write(to_json(value, indent, ascii_only=not _is_unicode(sys.stdout)))


def to_json(value: Any, indent: int | None = 1, ascii_only: bool = False) -> str:
    """Return plain values as JSON in which a terminal obeys nothing, and which reads back to the same values."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # Outside of strings JSON is ASCII, so that what is found here is inside of one, where \u is an escape.
    return re.sub(r"[^\n\x20-\x7e]", _json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\u{ord(character):04x}" if UNPRINTABLE.match(character) else character


def _is_unicode(stream: IO[str]) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def print_progress(text: str) -> None:
    """Replace the last line of stderr, where that is a terminal; an empty text ends the line."""
    if sys.stderr.isatty():
        _write(f"\r{printable(text)}" if text else "", err=True, nl=not text)


def print_table(table: "Table") -> None:
    """Print to stdout; a pipe gets the full width of the text, and no spaces at the ends of lines."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(width=10_000, highlight=False)
    with console.capture() as captured:
        console.print(table)
    echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain_table(*columns: str) -> "Table":
    """Return a table without frames, as command-line programs print them."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_columns(*rows: tuple[str, ...]) -> None:
    """Print rows to stdout in columns as wide as they need; the first is the header.

    Where a terminal is narrower than that, a row takes several lines, and the columns stay under each other. This is
    done without Rich, whose import would take most of the time that listing a queue takes.
    """
    safe = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    lines = _columns_of_lines(widths, columns)
    for number, row in enumerate(safe):
        for index, chosen in enumerate(lines):
            line = "  ".join(row[column].ljust(widths[column]) for column in chosen).rstrip()
            if line or index == 0:
                echo(_wrapped(" " * (CONTINUED * (index > 0)) + line, columns, 2 * CONTINUED), bold=number == 0)


def _columns_of_lines(widths: Sequence[int], width: int) -> list[list[int]]:
    """Return which columns each line of a row holds, on a terminal of some width."""
    lines: list[list[int]] = [[]]
    used = 0
    for column, column_width in enumerate(widths):
        if lines[-1] and used + 2 + column_width > width:
            lines.append([])
            used = CONTINUED
        used += column_width + (2 if lines[-1] else 0)
        lines[-1].append(column)
    return lines


def print_line(text: str, indent: int = 0) -> None:
    """Print to stdout; on a terminal, long lines break between words and go on under their `indent`-th column."""
    text = printable(text)
    if sys.stdout.isatty():
        text = click.wrap_text(text, shutil.get_terminal_size().columns, subsequent_indent=" " * indent)
    echo(text)


def add_row(table: "Table", *cells: str) -> None:
    """Add a row of plain text, in which brackets and colons are not markup."""
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))
