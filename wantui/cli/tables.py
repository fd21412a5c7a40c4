"""Tables and numbers for people."""

import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table


def print_table(table: "Table") -> None:
    """Print to stdout; a pipe gets the full width of the text, and no spaces at the ends of lines."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(width=10_000, highlight=False)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain_table(*columns: str) -> "Table":
    """A table without frames, as command-line programs print them."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_columns(*rows: tuple[str, ...]) -> None:
    """Print rows to stdout in columns as wide as they need; the first is the header.

    Without Rich, whose import would take most of the time that listing a queue takes.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def print_line(text: str, indent: int = 0) -> None:
    """Print to stdout; on a terminal, long lines break between words and go on under their `indent`-th column."""
    if sys.stdout.isatty():
        text = click.wrap_text(text, shutil.get_terminal_size().columns, subsequent_indent=" " * indent)
    click.echo(text)


def add_row(table: "Table", *cells: str) -> None:
    """Add a row of plain text: brackets and colons in it are what they are, and no markup."""
    from rich.text import Text

    table.add_row(*map(Text, cells))
