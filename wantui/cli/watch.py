"""wantui watch: follow a batch from anywhere; any number may at once."""

import click

from wantui.cli.types import BATCH


@click.command("watch")
@click.argument("batch", required=False, type=BATCH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(batch: str | None, as_json: bool) -> None:
    """Follow BATCH (number or folder; the first unfinished one when not given) to its end.

    Ctrl-C stops following; the batch continues.
    """
    from wantui.cli.follow import follow, leave, report_end
    from wantui.cli.options import open_queue_for_command
    from wantui.errors import UserError

    queue = open_queue_for_command()
    if batch is None:
        unfinished = [row for row in queue.batches(-1) if row.unfinished]
        if not unfinished:
            raise UserError("nothing on the queue is left to make; wantui queue ls shows what was")
        row = unfinished[0]
    else:
        row = queue.find_batch(batch)
    try:
        report_end(queue, follow(queue, row, queue.last_seq(), as_json), as_json)
    except KeyboardInterrupt:
        leave(queue, row.id)
