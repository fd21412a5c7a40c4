"""wantui gallery: a page that plays the clips of a batch in sync."""

import sys
from pathlib import Path

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.options import print_warnings
from wantui.cli.output import echo
from wantui.cli.progress_line import open_progress_line
from wantui.cli.selection_options import add_selection_options, add_where_option
from wantui.cli.types import BATCH_FOLDER_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count


@click.command("gallery", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@add_selection_options
@add_where_option
@click.option("--rows", "rows", default="", help="Row axes when the page opens, comma-separated.")
@click.option("--columns", "columns", default="", help="Column axis when the page opens.")
def command(
    batch: Path,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    settings: tuple[str, ...],
    rows: str,
    columns: str,
) -> None:
    """Write gallery.html into BATCH: all clips in sync, with filters and recipes.

    The page opens from disk in any browser, without a server or a network. To share it, copy the batch folder, or
    gallery.html and the folder `videos`.
    """
    from wantui.gallery.batch_grid import read_batch_grid
    from wantui.gallery.page import PAGE_FILE, write_gallery
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest_file import list_edit_warnings
    from wantui.storage.write_checks import explain_write_error

    grid = read_batch_grid(batch, variation_ids, seeds, settings, rows, columns)
    print_warnings(list_edit_warnings(BatchFolder(batch)))
    target = batch / PAGE_FILE
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder. Rename it, and try again")
    try:
        with open_progress_line() as line:
            line.show_phase(f"writing {target}: {format_count(len(grid.clips()), 'clip')}")
            page = write_gallery(grid, target)
        echo(page)
    except OSError as error:
        raise UserError(explain_write_error(error, target)) from None
    for fault in grid.faults:
        echo(fault, err=True)
    if grid.faults:
        sys.exit(1)
