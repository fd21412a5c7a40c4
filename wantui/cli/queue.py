"""wantui queue: list, pause, reorder, cancel and retry queued batches."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.options import open_queue_for_command
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.cli.types import BATCH_TYPE, INTEGER_TYPE, MAX_INTEGER, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count, format_number_ranges, join_and_shorten

if TYPE_CHECKING:
    from wantui.queue.queue import Queue
    from wantui.queue.records import BatchRow

VIDEOS_PER_PAGE = 50
"""Videos on a page of `queue show`."""
MAX_PAGE_NUMBER = 1_000_000_000
"""Largest page number; SQLite cannot represent row offsets beyond 2**63."""
MAX_ORDER_LENGTH = 20
"""Maximum number of batches that are listed in their new order."""
MAX_FAILED_BATCHES_SHOWN = 3
"""Maximum number of finished batches with failed videos that `queue ls` names."""


@click.group("queue", cls=WantuiGroup)
def command() -> None:
    """Show and change the queue.

    BATCH is a number from `wantui queue ls`, or a folder.
    """


@command.command("ls")
@click.option("--all", "show_all", is_flag=True, help="Include finished batches.")
@add_json_option
def list_batches(show_all: bool, as_json: bool) -> None:
    """List the batches in queue order."""
    from wantui.batches.eta import estimate_queue_etas, format_seconds_left
    from wantui.queue.states import describe_batch_holds, describe_state, find_displayed_batch_state

    queue = open_queue_for_command()
    _report_recording_error(queue)
    all_batches = queue.list_batches()
    batches = [batch for batch in all_batches if show_all or batch.unfinished_count]
    hold = queue.read_hold()
    has_engine, eta_by_batch = _has_running_engine(queue), estimate_queue_etas(queue).seconds_by_batch
    if as_json:
        batch_records = [
            batch.as_json()
            | {
                "state": find_displayed_batch_state(batch, has_engine),
                "eta_seconds": eta_by_batch.get(batch.id),
            }
            for batch in batches
        ]
        print_json({"held": hold.reason if hold else None, "batches": batch_records})
        return
    if hold is not None:
        echo(f"held: {hold.describe()}", err=True)
    for line in describe_batch_holds(batches):
        echo(line, err=True)
    if not batches:
        echo("the queue has no unfinished batches" + ("" if show_all else "; --all lists finished batches"), err=True)
    if not show_all:
        _print_failed_batches(
            [batch for batch in all_batches if not batch.unfinished_count and batch.counts.get("failed")]
        )
    if not batches:
        return
    table_rows = [("batch", "state", "done", "videos", "failed", "ETA", "name")]
    for batch in batches:
        done_count, failed_count = batch.counts.get("done", 0), batch.counts.get("failed", 0)
        state_text = describe_state(find_displayed_batch_state(batch, has_engine))
        eta_text = format_seconds_left(eta_by_batch[batch.id]) if batch.id in eta_by_batch else ""
        table_rows.append(
            (
                str(batch.id),
                state_text,
                str(done_count),
                str(batch.video_count),
                str(failed_count),
                eta_text,
                batch.name,
            )
        )
    print_columns(*table_rows)


def _report_recording_error(queue: "Queue") -> None:
    """Report if the queue cannot be written: the states printed below are then outdated, and no video advances."""
    if (fault := queue.explain_unwritable_queue()) is not None:
        echo(f"warning: {fault}", err=True)


def _print_failed_batches(failed_batches: "list[BatchRow]") -> None:
    """Print the finished batches with failed videos, and commands to inspect, retry or remove them."""
    for batch in failed_batches[-MAX_FAILED_BATCHES_SHOWN:]:
        echo(
            f"failed: {format_count(batch.counts['failed'], 'video')} of batch {batch.id} ({batch.name}). "
            f"Show errors: wantui queue show {batch.id}; retry: wantui queue retry {batch.id}; "
            f"remove: wantui queue remove {batch.id}",
            err=True,
        )
    if len(failed_batches) > MAX_FAILED_BATCHES_SHOWN:
        echo(
            f"videos of {len(failed_batches) - MAX_FAILED_BATCHES_SHOWN} earlier batches failed too: wantui queue ls "
            "--all",
            err=True,
        )


def _has_running_engine(queue: "Queue") -> bool:
    """Return whether an engine is running; without one, videos in the state "running" are interrupted."""
    from wantui.engine.control import find_engine_process_id

    return find_engine_process_id(queue.path.parent) is not None


@command.command("show")
@click.argument("batch", type=BATCH_TYPE)
@click.option(
    "--page",
    "page_number",
    default=1,
    show_default=True,
    type=WholeNumber(1, MAX_PAGE_NUMBER),
    help=f"Page to show; a page has {VIDEOS_PER_PAGE} videos.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all videos.")
def show_batch(batch: str, page_number: int, as_json: bool) -> None:
    """List the videos of a batch, in pages."""
    from wantui.queue.records import to_display_number
    from wantui.queue.states import describe_batch_holds

    queue = open_queue_for_command()
    _report_recording_error(queue)
    batch_row = queue.find_batch(batch)
    videos = (
        queue.list_videos(batch_row.id)
        if as_json
        else queue.list_videos(batch_row.id, VIDEOS_PER_PAGE, (page_number - 1) * VIDEOS_PER_PAGE)
    )
    if not _has_running_engine(queue):
        videos = [replace(video, state="interrupted") if video.state == "running" else video for video in videos]
    if as_json:
        video_records = [video.as_json() for video in videos]
        print_json(batch_row.as_json() | {"videos": video_records})
        return
    echo(f"batch {batch_row.id} in {batch_row.folder}, device {batch_row.device}", err=True)
    for line in describe_batch_holds([batch_row]):
        echo(line, err=True)
    table_rows = [("video", "state", "step", "seconds", "title", "error")]
    for video in videos:
        has_time = video.seconds is not None and video.state in ("running", "done")
        seconds_text = f"{video.seconds:.1f}" if has_time else ""
        step_text = f"{video.step}/{video.steps}" if video.state in ("running", "interrupted") and video.step else ""
        table_rows.append(
            (str(to_display_number(video.number)), video.state, step_text, seconds_text, video.title, video.error or "")
        )
    print_columns(*table_rows)
    page_count = -(-batch_row.video_count // VIDEOS_PER_PAGE)
    if page_count > 1:
        echo(f"page {page_number} of {page_count}", err=True)


@command.command("pause")
@click.argument("batch", required=False, type=BATCH_TYPE)
def pause_queue_or_batch(batch: str | None) -> None:
    """Pause the queue or one BATCH.

    Running videos stop after the current step.
    """
    queue = open_queue_for_command()
    if batch is None:
        queue.hold_queue("paused", "it was paused")
        echo("queue paused", err=True)
    else:
        batch_row = queue.find_batch(batch)
        if not batch_row.unfinished_count:
            echo(
                f"{_describe_video_states(queue, batch_row, None)}; only batches with unfinished videos can be paused",
                err=True,
            )
            return
        queue.set_batch_paused(batch_row.id, True)
        echo(f"batch {batch_row.id} paused", err=True)


@command.command("resume")
@click.argument("batch", required=False, type=BATCH_TYPE)
def resume_queue_or_batch(batch: str | None) -> None:
    """Resume the queue after a pause or a crash, or resume one BATCH that is paused or on hold."""
    queue = open_queue_for_command()
    hold = queue.read_hold()
    if batch is None:
        held_batches = queue.list_held_batches()
        queue.resume_queue()
        echo("queue resumed" if hold is not None else "the queue is not held", err=True)
        for batch_row in held_batches:
            echo(f"batch {batch_row.id} resumed", err=True)
        paused_ids = [
            str(batch_row.id) for batch_row in queue.list_batches() if batch_row.paused and batch_row.unfinished_count
        ]
        if paused_ids:
            echo(f"still paused: batch {', '.join(paused_ids)}. Resume one with: wantui queue resume BATCH", err=True)
    else:
        batch_row = queue.find_batch(batch)
        queue.set_batch_paused(batch_row.id, False)
        if not batch_row.unfinished_count:
            echo(
                f"{_describe_video_states(queue, batch_row, None)}; only batches with unfinished videos can be resumed",
                err=True,
            )
            return
        outcome_text = "resumed" if batch_row.is_stopped else "is not paused"
        echo(f"batch {batch_row.id} {outcome_text}", err=True)
        if hold is not None:
            echo(f"the queue is held: {hold.describe()}", err=True)
    if not _has_running_engine(queue):
        echo("no engine is running. Start one: wantui engine start", err=True)


@command.command("move")
@click.argument("batch", type=BATCH_TYPE)
@click.argument("destination", metavar="up|down|top|bottom|before")
@click.argument("other_batch", metavar="[OTHER]", required=False, type=BATCH_TYPE)
def move_batch(batch: str, destination: str, other_batch: str | None) -> None:
    """Move BATCH up, down, to the top or bottom, or before OTHER."""
    queue = open_queue_for_command()
    batch_row = queue.find_batch(batch)
    old_order = _list_unfinished_batch_ids(queue)
    if destination == "before" and other_batch is not None:
        queue.move_batch(batch_row.id, queue.find_batch(other_batch).id)
    elif destination in ("up", "down", "top", "bottom") and other_batch is None:
        queue.move_batch(batch_row.id, destination)  # type: ignore[arg-type]
    else:
        raise click.UsageError("unknown destination. Use: up, down, top, bottom, or before OTHER")
    new_order = _list_unfinished_batch_ids(queue)
    if not batch_row.unfinished_count:
        echo(
            f"{_describe_video_states(queue, batch_row, None)}; only batches with unfinished videos can be moved",
            err=True,
        )
    elif new_order == old_order:
        echo(f"batch {batch_row.id} is already there", err=True)
    if new_order:
        echo(f"queue order: {join_and_shorten(list(map(str, new_order)), MAX_ORDER_LENGTH)}", err=True)


def _list_unfinished_batch_ids(queue: "Queue") -> list[int]:
    """Return the ids of the unfinished batches in queue order."""
    return [row.id for row in queue.list_batches() if row.unfinished_count]


@command.command("cancel")
@click.argument("batch", type=BATCH_TYPE)
@click.argument("video_number", metavar="[VIDEO]", required=False, type=INTEGER_TYPE)
def cancel_videos(batch: str, video_number: int | None) -> None:
    """Cancel a batch or one of its videos.

    VIDEO is a number from `wantui queue show`. Finished videos are not affected.
    """
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest_store import ManifestStore

    queue = open_queue_for_command()
    batch_row = queue.find_batch(batch)
    _check_video_number(queue, batch_row, video_number)
    cancelled_indices, running_count = queue.cancel_videos(
        batch_row.id, None if video_number is None else video_number - 1
    )
    running_note = ""
    if running_count:
        running_note = f"; {format_count(running_count, 'running video')} will stop after the current step"
        if not _has_running_engine(queue):
            interrupted_text = format_count(running_count, "interrupted video")
            running_note = f"; {interrupted_text} will be cancelled when an engine starts: wantui engine start"
    # Print this first: writing the manifest takes seconds for 10,000 videos.
    echo(f"{format_count(len(cancelled_indices), 'video')} cancelled{running_note}", err=True)
    if not cancelled_indices and not running_count:
        echo(
            f"{_describe_video_states(queue, batch_row, video_number)}; only unfinished videos can be cancelled",
            err=True,
        )
    # Record earlier cancellations too, which a full disk or a killed command may have kept out of the manifest.
    all_cancelled_indices = [
        video.number
        for video in queue.list_videos(batch_row.id)
        if video.state == "cancelled" and (video_number is None or video.number == video_number - 1)
    ]
    try:
        with open_progress_line() as line:
            line.show_phase(
                f"recording {format_count(len(all_cancelled_indices), 'cancelled video')} in {batch_row.folder}"
            )
            ManifestStore(BatchFolder(batch_row.folder)).end_videos(all_cancelled_indices, "cancelled")
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        echo(
            f"warning: cannot record the cancellation in the batch folder {batch_row.folder}: {reason}. Once this is "
            f"fixed, repeat the command: wantui queue cancel {batch_row.id}",
            err=True,
        )


@command.command("retry")
@click.argument("batch", type=BATCH_TYPE)
@click.argument("video_number", metavar="[VIDEO]", required=False, type=INTEGER_TYPE)
def retry_videos(batch: str, video_number: int | None) -> None:
    """Put failed and cancelled videos back into the queue.

    VIDEO is a number from `wantui queue show`.
    """
    queue = open_queue_for_command()
    batch_row = queue.find_batch(batch)
    _check_video_number(queue, batch_row, video_number)
    queued_count = queue.retry_videos(batch_row.id, None if video_number is None else video_number - 1)
    echo(f"queued again: {format_count(queued_count, 'video')}", err=True)
    if not queued_count:
        echo(
            f"{_describe_video_states(queue, batch_row, video_number)}; only failed or cancelled videos can be retried",
            err=True,
        )


@command.command("remove")
@click.argument("batch", type=BATCH_TYPE)
def remove_batch(batch: str) -> None:
    """Remove a batch from the queue; its folder stays."""
    queue = open_queue_for_command()
    batch_row = queue.find_batch(batch)
    queue.remove_batch(batch_row.id)
    echo(f"removed batch {batch_row.id} from the queue; its folder is kept: {batch_row.folder}", err=True)


def _describe_video_states(queue: "Queue", batch_row: "BatchRow", video_number: int | None) -> str:
    """Return the states of the videos of a batch, or of one video, as in "batch 1 has 2 done"."""
    if video_number is not None:
        queued_video = queue.find_video(batch_row.id, video_number - 1)
        return (
            f"video {video_number} of batch {batch_row.id} is "
            f"{'no longer in the queue' if queued_video is None else queued_video.state}"
        )
    current_row = queue.get_batch(batch_row.id)
    count_by_state = {} if current_row is None else current_row.counts
    states_text = ", ".join(f"{count} {state}" for state, count in sorted(count_by_state.items()))
    return f"batch {batch_row.id} has {states_text or 'no videos'}"


def _check_video_number(queue: "Queue", batch_row: "BatchRow", video_number: int | None) -> None:
    """Reject a video number that is not in the queue, which contains only the missing videos of a resumed batch.

    Raises:
        UserError: the batch has no such number; the message lists its numbers.
    """

    if video_number is None or (
        1 <= video_number <= MAX_INTEGER and queue.find_video(batch_row.id, video_number - 1) is not None
    ):
        return
    number_ranges = format_number_ranges([queued_video.number + 1 for queued_video in queue.list_videos(batch_row.id)])
    raise UserError(
        f"batch {batch_row.id} has no video {video_number} in the queue. Its video numbers: {number_ranges or 'none'}"
    )
