"""wantui queue: list, pause, reorder, cancel and retry queued batches."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import Group
from wantui.cli.options import open_queue_for_command
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.types import BATCH, INTEGER, MAX_INTEGER, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.queue.queue import Queue
    from wantui.queue.records import BatchRow

PAGE_VIDEOS = 50
"""Videos on a page of `queue show`."""
MAX_PAGE_NUMBER = 1_000_000_000
"""Largest page number; SQLite cannot represent row offsets beyond 2**63."""
MAX_FAILURES_SHOWN = 3
"""Maximum number of finished batches with failed videos that `queue ls` names."""


@click.group("queue", cls=Group)
def command() -> None:
    """Show and change the queue.

    BATCH is a number from `wantui queue ls`, or a folder.
    """


@command.command("ls")
@click.option("--all", "show_all", is_flag=True, help="Include finished batches.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(show_all: bool, as_json: bool) -> None:
    """List the batches in queue order."""
    from wantui.batches.eta import estimate_queue_etas, format_seconds_left
    from wantui.queue.states import batch_state, describe_state

    queue = open_queue_for_command()
    batches = [batch for batch in queue.batches(-1) if show_all or batch.unfinished]
    held = queue.read_hold()
    has_engine, etas = _has_engine(queue), estimate_queue_etas(queue).seconds_by_batch
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
        echo("the queue has no unfinished batches" + ("" if show_all else "; --all lists finished ones"), err=True)
    if not show_all:
        _print_failures([batch for batch in queue.batches(-1) if not batch.unfinished and batch.counts.get("failed")])
    if not batches:
        return
    lines = [("batch", "state", "done", "videos", "failed", "ETA", "name")]
    for batch in batches:
        done, failed = batch.counts.get("done", 0), batch.counts.get("failed", 0)
        state = describe_state(batch_state(batch, has_engine))
        eta = format_seconds_left(etas[batch.id]) if batch.id in etas else ""
        lines.append((str(batch.id), state, str(done), str(batch.total), str(failed), eta, batch.name))
    print_columns(*lines)


def _print_failures(ended: "list[BatchRow]") -> None:
    """Print the finished batches with failed videos, and the commands for them."""
    for batch in ended[-MAX_FAILURES_SHOWN:]:
        echo(
            f"failed: {format_count(batch.counts['failed'], 'video')} of batch {batch.id} ({batch.name}). "
            f"Show errors: wantui queue show {batch.id}; retry: wantui queue retry {batch.id}; "
            f"remove: wantui queue remove {batch.id}",
            err=True,
        )
    if len(ended) > MAX_FAILURES_SHOWN:
        echo(f"videos of {len(ended) - MAX_FAILURES_SHOWN} earlier batches failed too: wantui queue ls --all", err=True)


def _has_engine(queue: "Queue") -> bool:
    """Return whether an engine is running; without one, videos in the state "running" are interrupted."""
    from wantui.engine.control import find_engine_process

    return find_engine_process(queue.path.parent) is not None


@command.command("show")
@click.argument("batch", type=BATCH)
@click.option(
    "--page",
    default=1,
    show_default=True,
    type=WholeNumber(1, MAX_PAGE_NUMBER),
    help=f"Page to show, of {PAGE_VIDEOS} videos each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all videos.")
def show(batch: str, page: int, as_json: bool) -> None:
    """List the videos of a batch, in pages."""
    from wantui.queue.records import display_number

    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    videos = queue.videos(row.id) if as_json else queue.videos(row.id, PAGE_VIDEOS, (page - 1) * PAGE_VIDEOS)
    if not _has_engine(queue):
        videos = [replace(video, state="interrupted") if video.state == "running" else video for video in videos]
    if as_json:
        shown = [video.as_json() for video in videos]
        print_json(asdict(row) | {"folder": str(row.folder), "videos": shown})
        return
    echo(f"batch {row.id} in {row.folder}, device {row.device}", err=True)
    lines = [("video", "state", "step", "seconds", "title", "error")]
    for video in videos:
        has_time = video.seconds is not None and video.state in ("running", "done")
        seconds = f"{video.seconds:.1f}" if has_time else ""
        step = f"{video.step}/{video.steps}" if video.state in ("running", "interrupted") and video.step else ""
        lines.append((str(display_number(video.number)), video.state, step, seconds, video.title, video.error or ""))
    print_columns(*lines)
    pages = -(-row.total // PAGE_VIDEOS)
    if pages > 1:
        echo(f"page {page} of {pages}", err=True)


@command.command("pause")
@click.argument("batch", required=False, type=BATCH)
def pause(batch: str | None) -> None:
    """Pause the queue or one BATCH.

    Running videos stop after the current step.
    """
    queue = open_queue_for_command()
    if batch is None:
        queue.hold("paused", "it was paused")
        echo("the queue is paused", err=True)
    else:
        row = queue.find_batch(batch)
        if not row.unfinished:
            echo(f"{_describe_states(queue, row, None)}; only batches with unfinished videos can be paused", err=True)
            return
        queue.pause_batch(row.id, True)
        echo(f"batch {row.id} is paused", err=True)


@command.command("resume")
@click.argument("batch", required=False, type=BATCH)
def resume(batch: str | None) -> None:
    """Resume the queue after a pause or a crash, or one paused BATCH."""
    from wantui.engine.control import find_engine

    queue = open_queue_for_command()
    held = queue.read_hold()
    if batch is None:
        queue.resume()
        echo("the queue is resumed" if held is not None else "the queue is not held", err=True)
        paused = [str(row.id) for row in queue.batches(-1) if row.paused and row.unfinished]
        if paused:
            echo(f"still paused: batch {', '.join(paused)}. Resume one with: wantui queue resume BATCH", err=True)
    else:
        row = queue.find_batch(batch)
        queue.pause_batch(row.id, False)
        if not row.unfinished:
            echo(f"{_describe_states(queue, row, None)}; only batches with unfinished videos can be resumed", err=True)
            return
        echo(f"batch {row.id} is resumed" if row.paused else f"batch {row.id} is not paused", err=True)
        if held is not None:
            echo(f"the queue is held: {held.reason}. Resume with: wantui queue resume", err=True)
    if find_engine(queue.path.parent) is None:
        echo("no engine is running. Start one: wantui engine start", err=True)


@command.command("move")
@click.argument("batch", type=BATCH)
@click.argument("target", metavar="up|down|top|bottom|before")
@click.argument("other", required=False, type=BATCH)
def move(batch: str, target: str, other: str | None) -> None:
    """Move BATCH up, down, to the top or bottom, or before OTHER."""
    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    old_order = _list_unfinished_ids(queue)
    if target == "before" and other is not None:
        queue.move(row.id, queue.find_batch(other).id)
    elif target in ("up", "down", "top", "bottom") and other is None:
        queue.move(row.id, target)  # type: ignore[arg-type]
    else:
        raise click.UsageError("unknown target. Use: up, down, top, bottom, or before OTHER")
    order = _list_unfinished_ids(queue)
    if not row.unfinished:
        echo(f"{_describe_states(queue, row, None)}; only batches with unfinished videos can be moved", err=True)
    elif order == old_order:
        echo(f"batch {row.id} is already there", err=True)
    if order:
        echo(f"queue order: {', '.join(map(str, order))}", err=True)


def _list_unfinished_ids(queue: "Queue") -> list[int]:
    """Return the ids of the unfinished batches in queue order."""
    return [row.id for row in queue.batches(-1) if row.unfinished]


@command.command("cancel")
@click.argument("batch", type=BATCH)
@click.argument("video", required=False, type=INTEGER)
def cancel(batch: str, video: int | None) -> None:
    """Cancel a batch or one of its videos.

    VIDEO is a number from `wantui queue show`. Finished videos are not affected.
    """
    from wantui.storage.manifest_store import ManifestStore

    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    _check_video_number(queue, row, video)
    numbers, running = queue.cancel(row.id, None if video is None else video - 1)
    running_note = ""
    if running:
        running_note = f"; {format_count(running, 'running video')} will stop after the current step"
        if not _has_engine(queue):
            interrupted = format_count(running, "interrupted video")
            running_note = f"; {interrupted} will be cancelled when an engine starts: wantui engine start"
    # Print this first: writing the manifest takes seconds for 10,000 videos.
    echo(f"{format_count(len(numbers), 'video')} cancelled{running_note}", err=True)
    if not numbers and not running:
        echo(f"{_describe_states(queue, row, video)}; only unfinished videos can be cancelled", err=True)
    try:
        ManifestStore.for_folder(row.folder).cancel_videos(numbers)
    except (OSError, UserError) as error:
        echo(f"warning: cannot record this in the batch folder: {error}", err=True)


@command.command("retry")
@click.argument("batch", type=BATCH)
@click.argument("video", required=False, type=INTEGER)
def retry(batch: str, video: int | None) -> None:
    """Queue failed and cancelled videos again.

    VIDEO is a number from `wantui queue show`.
    """
    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    _check_video_number(queue, row, video)
    count = queue.retry(row.id, None if video is None else video - 1)
    echo(f"queued again: {format_count(count, 'video')}", err=True)
    if not count:
        echo(f"{_describe_states(queue, row, video)}; only failed or cancelled videos can be retried", err=True)


@command.command("remove")
@click.argument("batch", type=BATCH)
def remove(batch: str) -> None:
    """Remove a batch from the queue; its folder stays."""
    queue = open_queue_for_command()
    row = queue.find_batch(batch)
    queue.remove(row.id)
    echo(f"removed batch {row.id} from the queue; its folder stays: {row.folder}", err=True)


def _describe_states(queue: "Queue", row: "BatchRow", video: int | None) -> str:
    """Return the states of the videos of a batch, or of one video, as in "batch 1 has 2 done"."""
    if video is not None:
        queued = queue.video_by_index(row.id, video - 1)
        return f"video {video} of batch {row.id} is {'no longer on the queue' if queued is None else queued.state}"
    current = queue.batch(row.id)
    counts = {} if current is None else current.counts
    return (
        f"batch {row.id} has {', '.join(f'{count} {state}' for state, count in sorted(counts.items())) or 'no videos'}"
    )


def _check_video_number(queue: "Queue", row: "BatchRow", video: int | None) -> None:
    """Refuse a video number that is not on the queue: a resumed batch has only its missing videos there.

    Raises:
        UserError: the batch has no such number; the message lists its numbers.
    """
    from wantui.queue.reader import format_number_ranges

    if video is None or (1 <= video <= MAX_INTEGER and queue.video_by_index(row.id, video - 1) is not None):
        return
    numbers = format_number_ranges([queued.number + 1 for queued in queue.videos(row.id)])
    raise UserError(f"batch {row.id} has no video {video} on the queue. Its numbers: {numbers or 'none'}")
