"""wantui queue: what is on it, in which order, and what is done about it."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from wantui.cli.options import open_queue_for_command
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.types import BATCH, INTEGER, MAX_NUMBER, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.queue.queue import Queue
    from wantui.queue.records import BatchRow

PAGE = 50
MAX_PAGE = 1_000_000_000
"""Largest number of a page; the database has no row numbers beyond 2**63."""
MAX_FAILURES_SHOWN = 3
"""Ended batches with failed videos that `queue ls` names."""


@click.group("queue")
def command() -> None:
    """Show and change the queue. BATCH is a number from `ls`, or a folder."""


@command.command("ls")
@click.option("--all", "everything", is_flag=True, help="Include finished batches.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(everything: bool, as_json: bool) -> None:
    """List the batches in queue order."""
    from wantui.batches.eta import format_left, queue_etas
    from wantui.queue.states import batch_state, state_word

    queue = open_queue_for_command()
    batches = [batch for batch in queue.batches(-1) if everything or batch.unfinished]
    held = queue.held()
    has_engine, etas = _has_engine(queue), queue_etas(queue).batches
    if as_json:
        rows = [
            asdict(batch)
            | {
                "folder": str(batch.folder),
                "state": batch_state(batch, has_engine),
                "eta_seconds": etas.get(batch.id),
            }
            for batch in batches
        ]
        print_json({"held": held.reason if held else None, "batches": rows})
        return
    if held is not None:
        echo(f"held: {held.reason}. Resume with: wantui queue resume", err=True)
    if not batches:
        echo("nothing is left to make" + ("" if everything else "; --all shows finished batches"), err=True)
    if not everything:
        _print_failures([batch for batch in queue.batches(-1) if not batch.unfinished and batch.counts.get("failed")])
    if not batches:
        return
    lines = [("batch", "state", "done", "videos", "failed", "ETA", "name")]
    for batch in batches:
        done, failed = batch.counts.get("done", 0), batch.counts.get("failed", 0)
        state = state_word(batch_state(batch, has_engine))
        eta = format_left(etas[batch.id]) if batch.id in etas else ""
        lines.append((str(batch.id), state, str(done), str(batch.total), str(failed), eta, batch.name))
    print_columns(*lines)


def _print_failures(ended: "list[BatchRow]") -> None:
    """Name the batches that are no longer listed but have failed videos, and where to read their errors."""
    for batch in ended[-MAX_FAILURES_SHOWN:]:
        echo(
            f"failed: {format_count(batch.counts['failed'], 'video')} of batch {batch.id} ({batch.name}). "
            f"Errors: wantui queue show {batch.id}; again: wantui queue retry {batch.id}; "
            f"forget it: wantui queue remove {batch.id}",
            err=True,
        )
    if len(ended) > MAX_FAILURES_SHOWN:
        echo(f"and videos of {len(ended) - MAX_FAILURES_SHOWN} earlier batches failed: wantui queue ls --all", err=True)


def _has_engine(queue: "Queue") -> bool:
    """Return whether an engine runs; without one, "running" is the last engine's interrupted work."""
    from wantui.engine.control import engine_process

    return engine_process(queue.path.parent) is not None


@command.command("show")
@click.argument("batch", type=BATCH)
@click.option(
    "--page", default=1, show_default=True, type=WholeNumber(1, MAX_PAGE), help=f"Page to show, of {PAGE} videos each."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all videos.")
def show(batch: str, page: int, as_json: bool) -> None:
    """List the videos of a batch."""
    from wantui.queue.records import shown_number

    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    videos = queue.videos(row.id) if as_json else queue.videos(row.id, PAGE, (page - 1) * PAGE)
    if not _has_engine(queue):
        videos = [replace(video, state="interrupted") if video.state == "running" else video for video in videos]
    if as_json:
        shown = [video.as_json() for video in videos]
        print_json(asdict(row) | {"folder": str(row.folder), "videos": shown})
        return
    echo(f"batch {row.id} in {row.folder}, device {row.device}", err=True)
    lines = [("video", "state", "step", "seconds", "what", "error")]
    for video in videos:
        timed = video.seconds is not None and video.state in ("running", "done")
        seconds = f"{video.seconds:.1f}" if timed else ""
        step = f"{video.step}/{video.steps}" if video.state in ("running", "interrupted") and video.step else ""
        lines.append((str(shown_number(video.number)), video.state, step, seconds, video.title, video.error or ""))
    print_columns(*lines)
    pages = -(-row.total // PAGE)
    if pages > 1:
        echo(f"page {page} of {pages}", err=True)


@command.command("pause")
@click.argument("batch", required=False, type=BATCH)
def pause(batch: str | None) -> None:
    """Pause the queue or one BATCH; running videos stop after the current step."""
    queue = open_queue_for_command()
    if batch is None:
        queue.hold("paused", "it was paused")
        echo("the queue is paused", err=True)
    else:
        row = queue.find_batch(batch)
        if not row.unfinished:
            echo(f"{_why_unchanged(queue, row, None)}, and only batches with unfinished videos can be paused", err=True)
            return
        queue.pause_batch(row.id, True)
        echo(f"batch {row.id} is paused", err=True)


@command.command("resume")
@click.argument("batch", required=False, type=BATCH)
def resume(batch: str | None) -> None:
    """Resume the queue or one BATCH after a pause or a crash."""
    from wantui.engine.control import find_engine

    queue = open_queue_for_command()
    held = queue.held()
    if batch is None:
        queue.resume()
        echo("queue resumed" if held is not None else "the queue is not held", err=True)
        paused = [str(row.id) for row in queue.batches(-1) if row.paused and row.unfinished]
        if paused:
            echo(f"still paused: batch {', '.join(paused)}. Resume one with: wantui queue resume BATCH", err=True)
    else:
        row = queue.find_batch(batch)
        queue.pause_batch(row.id, False)
        if not row.unfinished:
            echo(f"{_why_unchanged(queue, row, None)}, and nothing of it is left to resume", err=True)
            return
        echo(f"batch {row.id} resumed" if row.paused else f"batch {row.id} is not paused", err=True)
        if held is not None:
            echo(f"the queue is held: {held.reason}. Resume with: wantui queue resume", err=True)
    if find_engine(queue.path.parent) is None:
        echo("no engine is running. Start one: wantui engine start", err=True)


@command.command("move")
@click.argument("batch", type=BATCH)
@click.argument("to", metavar="up|down|top|bottom|before")
@click.argument("other", required=False, type=BATCH)
def move(batch: str, to: str, other: str | None) -> None:
    """Move BATCH up or down by one, to the top or the bottom, or before OTHER."""
    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    before = _order(queue)
    if to == "before" and other is not None:
        queue.move(row.id, queue.find_batch(other).id)
    elif to in ("up", "down", "top", "bottom") and other is None:
        queue.move(row.id, to)  # type: ignore[arg-type]
    else:
        raise click.UsageError("move BATCH up, down, top, bottom, or before OTHER")
    order = _order(queue)
    if not row.unfinished:
        echo(f"{_why_unchanged(queue, row, None)}, and only unfinished batches can be moved", err=True)
    elif order == before:
        echo(f"nothing changed: batch {row.id} was there already", err=True)
    if order:
        echo(f"order: {', '.join(map(str, order))}", err=True)


def _order(queue: "Queue") -> list[int]:
    return [row.id for row in queue.batches(-1) if row.unfinished]


@command.command("cancel")
@click.argument("batch", type=BATCH)
@click.argument("video", required=False, type=INTEGER)
def cancel(batch: str, video: int | None) -> None:
    """Cancel a batch, or one VIDEO of it (its number in `show`); finished videos stay."""
    from wantui.storage.manifest_store import ManifestStore

    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    _check_number(queue, row, video)
    numbers, running = queue.cancel(row.id, None if video is None else video - 1)
    more = ""
    if running:
        more = f", and {running} that run stop at their next step"
        if not _has_engine(queue):
            more = f", and {running} that ran when the last engine ended will be when one starts: wantui engine start"
    # Before the manifest is written, which takes seconds for 10,000 videos.
    echo(f"{format_count(len(numbers), 'video')} cancelled{more}", err=True)
    if not numbers and not running:
        echo(f"{_why_unchanged(queue, row, video)}, and only videos that are not made yet can be cancelled", err=True)
    try:
        ManifestStore.of(row.folder).cancel(numbers)
    except (OSError, UserError) as error:
        echo(f"warning: the batch folder does not say so: {error}", err=True)


@command.command("retry")
@click.argument("batch", type=BATCH)
@click.argument("video", required=False, type=INTEGER)
def retry(batch: str, video: int | None) -> None:
    """Queue failed and cancelled videos again."""
    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    _check_number(queue, row, video)
    count = queue.retry(row.id, None if video is None else video - 1)
    echo(f"queued again: {format_count(count, 'video')}", err=True)
    if not count:
        echo(f"{_why_unchanged(queue, row, video)}, and only failed or cancelled videos can be retried", err=True)


@command.command("remove")
@click.argument("batch", type=BATCH)
def remove(batch: str) -> None:
    """Remove a batch from the queue; its folder stays."""
    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    queue.remove(row.id)
    echo(f"batch {row.id} is off the queue; {row.folder} stays", err=True)


def _why_unchanged(queue: "Queue", row: "BatchRow", video: int | None) -> str:
    """Return which states a batch's videos, or one of them, are in, as in "batch 1 has 2 done"."""
    if video is not None:
        queued = queue.video_numbered(row.id, video - 1)
        return f"video {video} of batch {row.id} is {'no longer on the queue' if queued is None else queued.state}"
    now = queue.batch(row.id)
    counts = {} if now is None else now.counts
    return (
        f"batch {row.id} has {', '.join(f'{count} {state}' for state, count in sorted(counts.items())) or 'no videos'}"
    )


def _check_number(queue: "Queue", row: "BatchRow", video: int | None) -> None:
    """Refuse a number that no queued video has: a resumed batch has only its missing videos on the queue.

    Raises:
        UserError: names the numbers.
    """
    from wantui.queue.reader import describe_numbers

    if video is None or (1 <= video <= MAX_NUMBER and queue.video_numbered(row.id, video - 1) is not None):
        return
    numbers = describe_numbers([queued.number + 1 for queued in queue.videos(row.id)])
    raise UserError(f"batch {row.id} has no video {video} on the queue. It has {numbers or 'none'}")
