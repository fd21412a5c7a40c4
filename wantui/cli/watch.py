"""wantui watch: follow the progress of a queued batch."""

import click

from wantui.cli.commands import Command
from wantui.cli.types import BATCH


@click.command("watch", cls=Command)
@click.argument("batch", required=False, type=BATCH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(batch: str | None, as_json: bool) -> None:
    """Follow the progress of BATCH until it ends.

    BATCH is a number or a folder.  [default: the first unfinished batch]

    Ctrl-C stops following; the batch continues.
    """
    from wantui.cli.follow import follow, report_detached, report_end
    from wantui.cli.options import open_queue_for_command
    from wantui.errors import UserError

    queue = open_queue_for_command()
    if batch is None:
        unfinished = [row for row in queue.batches(-1) if row.unfinished]
        if not unfinished:
            raise UserError("no batch to follow: all batches have ended. List them: wantui queue ls --all")
        row = unfinished[0]
    else:
        row = queue.find_batch(batch)
    try:
        report_end(queue, follow(queue, row, queue.read_last_seq(), as_json), as_json)
    except KeyboardInterrupt:
        report_detached(queue, row.id)
