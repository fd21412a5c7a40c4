"""wantui watch: follow the progress of a queued batch."""

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.types import BATCH_TYPE


@click.command("watch", cls=WantuiCommand)
@click.argument("batch", required=False, type=BATCH_TYPE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(batch: str | None, as_json: bool) -> None:
    """Follow the progress of BATCH until it ends.

    BATCH is a number or a folder.  [default: the first unfinished batch]

    Ctrl-C stops following; the batch continues.
    """
    from wantui.cli.follow import follow_batch, report_batch_end, report_detached
    from wantui.cli.options import open_queue_for_command
    from wantui.errors import UserError

    queue = open_queue_for_command()
    if batch is None:
        unfinished_rows = [batch_row for batch_row in queue.list_batches() if batch_row.unfinished_count]
        if not unfinished_rows:
            raise UserError("no batch to follow: all batches have ended. List them: wantui queue ls --all")
        batch_row = unfinished_rows[0]
    else:
        batch_row = queue.find_batch(batch)
    try:
        report_batch_end(queue, follow_batch(queue, batch_row, queue.read_last_event_seq(), as_json), as_json)
    except KeyboardInterrupt:
        report_detached(queue, batch_row.id)
