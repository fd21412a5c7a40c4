"""wantui sheet: the clips of a batch in a labelled grid, as a picture (PNG) and a clip (MP4)."""

import sys
from pathlib import Path

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.options import print_warnings
from wantui.cli.output import echo
from wantui.cli.progress_line import open_progress_line
from wantui.cli.selection_options import add_cell_width_option, add_selection_options, add_where_option
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count

SUFFIXES = (".png", ".mp4")


@click.command("sheet", cls=WantuiCommand)
@click.argument("batch", type=BATCH_FOLDER_TYPE)
@click.option(
    "-o",
    "--output",
    type=PATH_TYPE,
    help="PNG or MP4 file to write.  [default: both, sheet.png and sheet.mp4 in BATCH/exports]",
)
@add_cell_width_option
@add_selection_options
@add_where_option
@click.option("--rows", "rows", default="", help="Row axes, comma-separated.  [default: all axes not in columns]")
@click.option("--columns", "columns", default="", help="Column axes.  [default: first swept setting, or seed]")
def command(
    batch: Path,
    output: Path | None,
    cell_width: int | None,
    variation_ids: tuple[str, ...],
    seeds: tuple[int, ...],
    settings: tuple[str, ...],
    rows: str,
    columns: str,
) -> None:
    """Draw the clips of BATCH in a labelled grid: a row per variation, a column per seed.

    In a batch with a sweep, a column shows a value of the first swept setting, and each other axis adds rows. Axes are
    variation, seed and the names of swept settings.

    A PNG shows the middle frame of each clip; an MP4 plays all clips in sync. Videos that are not done are shown by
    their state. Unreadable clips are reported on stderr; the exit code is then 1.
    """
    from wantui.gallery.batch_grid import read_batch_grid
    from wantui.gallery.sheet import write_sheet_clip, write_sheet_picture
    from wantui.paths import check_output_folder
    from wantui.storage.layout import BatchFolder, check_command_output
    from wantui.storage.manifest_file import list_edit_warnings
    from wantui.storage.video_files import make_parent_folders

    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise UserError(f"-o: cannot write {output}: its name must end in {' or '.join(SUFFIXES)}")
    if output is not None:
        check_command_output(output)
    grid = read_batch_grid(batch, variation_ids, seeds, settings, rows, columns)
    print_warnings(list_edit_warnings(BatchFolder(batch)))
    targets = [output] if output is not None else [batch / "exports" / f"sheet{suffix}" for suffix in SUFFIXES]
    if output is None and not grid.clips():
        raise UserError(f"cannot draw a sheet of {batch}: no selected video is finished")
    unreadable: dict[str, None] = {}
    for target in targets:
        check_output_folder(target.parent, target=target)
        make_parent_folders(batch if target.is_relative_to(batch) else target.parent, target)
        write = write_sheet_clip if target.suffix.lower() == ".mp4" else write_sheet_picture
        try:
            with open_progress_line() as line:
                line.show_phase(f"drawing {target}: {format_count(len(grid.clips()), 'clip')}")
                sheet = write(grid, target, cell_width)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}. Choose another file with -o") from None
        unreadable.update(dict.fromkeys(sheet.unreadable))
        echo(target)
    for reason in (*grid.faults, *unreadable):
        echo(reason, err=True)
    if unreadable or grid.faults:
        sys.exit(1)
