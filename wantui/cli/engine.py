"""wantui engine: start, stop and inspect the background process that runs the queue."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.options import open_queue_for_command, print_warnings
from wantui.cli.output import echo, print_json, report_locked_queue
from wantui.cli.types import PATH_TYPE, WholeNumber
from wantui.formatting import format_count, format_duration

if TYPE_CHECKING:
    from wantui.engine.control import Engine
    from wantui.queue.queue import Queue
    from wantui.queue.records import Hold, VideoRow, WorkerRow

LOGS_OPTION = click.option(
    "--logs", "log_folder", type=PATH_TYPE, help="Log folder.  [default: logs in the state directory]"
)
WORKERS_OPTION = click.option(
    "--workers",
    "worker_count",
    type=WholeNumber(1, 64),
    metavar="N",
    help="Start N workers on the CPU, and none on GPUs.  [default: one worker per GPU]",
)


@click.group("engine", cls=WantuiGroup)
def command() -> None:
    """Manage the background process that runs the queue."""


@command.command("start")
@LOGS_OPTION
@WORKERS_OPTION
def start_background_engine(log_folder: Path | None, worker_count: int | None) -> None:
    """Start the engine, unless one is running."""
    from wantui.engine.control import ensure_engine
    from wantui.queue.state_dir import find_state_directory

    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    engine, was_started = ensure_engine(state_dir, log_folder, worker_count, report_locked_queue)
    print_warnings(tuple(engine.list_warnings()))
    outcome_text = "engine started" if was_started else "an engine is already running"
    echo(f"{outcome_text}: process {engine.process_id}, logs in {engine.logs_folder}", err=True)
    hold = queue.read_hold()
    if hold is not None:
        echo(f"the queue is held: {hold.describe()}", err=True)


@command.command("stop")
@click.option("--now", "is_immediate", is_flag=True, help="Stop immediately, and discard the current step.")
def stop_background_engine(is_immediate: bool) -> None:
    """Stop the engine after the current step.

    Running videos resume from there when the engine starts again.
    """
    from wantui.engine.control import stop_engine
    from wantui.queue.state_dir import find_state_directory

    stopped_process = stop_engine(find_state_directory().directory, is_immediate)
    echo("no engine is running" if stopped_process is None else f"engine stopped (process {stopped_process})", err=True)


@command.command("status")
@add_json_option
def show_engine_status(as_json: bool) -> None:
    """Show the engine and its running videos.

    Exit code 0: an engine is running, 3: no engine is running.
    """
    from wantui.engine.control import find_engine
    from wantui.queue.state_dir import find_state_directory

    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    engine = find_engine(state_dir.directory, report_locked_queue)
    hold, running_videos = queue.read_hold(), queue.list_running_videos()
    worker_rows = queue.list_workers() if engine else []
    if as_json:
        print_json(
            {
                "process": engine.process_id if engine else None,
                "logs": str(engine.logs_folder) if engine else None,
                "uptime": engine.uptime_seconds if engine else None,
                "held": hold.reason if hold else None,
                "workers": [asdict(worker) for worker in worker_rows],
                "running": [video.as_json() for video in running_videos] if engine else [],
                "interrupted": [] if engine else [video.as_json() for video in running_videos],
            }
        )
    else:
        _print_engine_status(queue, engine, hold, worker_rows, running_videos)
    sys.exit(0 if engine else 3)


def _print_engine_status(
    queue: "Queue",
    engine: "Engine | None",
    hold: "Hold | None",
    worker_rows: "list[WorkerRow]",
    running_videos: "list[VideoRow]",
) -> None:
    from wantui.engine.control import find_engine_process_id
    from wantui.queue.states import describe_batch_holds
    from wantui.queue.waiting import describe_starting_worker

    if engine is None:
        starting_id = find_engine_process_id(queue.path.parent)
        echo(
            "no engine is running. Start one: wantui engine start"
            if starting_id is None
            else f"engine: process {starting_id} is starting"
        )
    else:
        uptime_text = "" if engine.uptime_seconds is None else f"up {format_duration(engine.uptime_seconds)}, "
        echo(f"engine: process {engine.process_id}, {uptime_text}wantui {engine.version}, logs in {engine.logs_folder}")
        for warning in engine.list_warnings():
            echo(f"note: {warning}")
    if (unwritable_reason := queue.explain_unwritable_queue()) is not None:
        echo(f"note: {unwritable_reason}")
    if hold is not None:
        echo(f"held: {hold.describe()}")
    for line in describe_batch_holds(queue.list_held_batches()):
        echo(line)
    for worker in worker_rows:
        if worker.state == "starting":
            echo(f"starting: {describe_starting_worker(worker)}")
    # Without an engine nothing runs: the last engine left these videos in the state "running".
    state_text = "running" if engine else "interrupted"
    for video in running_videos:
        location_text = f", {video.worker}" if engine else " when the engine ended"
        echo(f"{state_text}: batch {video.batch}, {video.title}, step {video.step}/{video.steps}{location_text}")


@command.command("run")
@LOGS_OPTION
@WORKERS_OPTION
@click.option("--drain", "exits_when_drained", is_flag=True, help="Exit when no queued video is left.")
@click.option("--batch", "batch_folder", type=PATH_TYPE, help="Batch folder; its missing videos are queued first.")
@click.option(
    "--share",
    "share_text",
    default="1/1",
    metavar="K/N",
    show_default=True,
    help="Share of the batch: every N-th video, starting with the K-th.",
)
def run_foreground_engine(
    log_folder: Path | None,
    worker_count: int | None,
    exits_when_drained: bool,
    batch_folder: Path | None,
    share_text: str,
) -> None:
    """Run the engine in the foreground.

    For systemd, containers, cron and batch schedulers. Exit code 1 with --drain: some videos are unfinished.
    """
    from wantui.batches.enqueue import Shard, enqueue_missing_videos
    from wantui.engine.control import NoEngineError, create_logs_folder, find_engine_process_id
    from wantui.engine.process import run_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.queue.states import describe_batch_holds
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    state_dir, shard = find_state_directory(), Shard.parse(share_text)
    if batch_folder is None and share_text != "1/1":
        raise click.UsageError("--share needs a batch. Name its folder with --batch")
    if batch_folder is not None:
        folder = BatchFolder(batch_folder.absolute())
        enqueued_batch = enqueue_missing_videos(state_dir, folder, read_manifest(folder), shard)
        missing_count = enqueued_batch.video_count if enqueued_batch else 0
        echo(f"queued {format_count(missing_count, 'missing video')} of {batch_folder}, share {shard}", err=True)
    if not run_engine(state_dir, create_logs_folder(state_dir, log_folder), worker_count, exits_when_drained):
        process_id = find_engine_process_id(state_dir.directory) or "unknown"
        raise NoEngineError(f"an engine is already running (process {process_id})")
    queue = open_queue_for_command(state_dir)
    hold = queue.read_hold()
    unfinished_count = sum(batch.unfinished_count for batch in queue.list_batches())
    hold_lines = describe_batch_holds(queue.list_held_batches())
    if exits_when_drained and unfinished_count:
        hold_text = f": the queue is held: {hold.reason}" if hold is not None else ""
        echo(f"{format_count(unfinished_count, 'unfinished video')}{hold_text}", err=True)
        for line in hold_lines:
            echo(line, err=True)
        sys.exit(1)
