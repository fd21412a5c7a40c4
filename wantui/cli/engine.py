"""wantui engine: start, stop and inspect the background process that runs the queue."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import Group
from wantui.cli.options import open_queue_for_command, show_warnings
from wantui.cli.output import echo, print_json
from wantui.cli.types import PATH, WholeNumber
from wantui.formatting import format_count, format_duration

if TYPE_CHECKING:
    from wantui.engine.control import Engine
    from wantui.queue.records import Hold, VideoRow, WorkerRow

LOGS_OPTION = click.option("--logs", type=PATH, help="Log folder.  [default: logs in the state directory]")
WORKERS_OPTION = click.option(
    "--workers", type=WholeNumber(1, 64), metavar="N", help="Number of CPU workers.  [default: one worker per GPU]"
)


@click.group("engine", cls=Group)
def command() -> None:
    """Manage the background process that runs the queue."""


@command.command("start")
@LOGS_OPTION
@WORKERS_OPTION
def start(logs: Path | None, workers: int | None) -> None:
    """Start the engine, unless one is running."""
    from wantui.engine.control import ensure_engine
    from wantui.queue.state_dir import find_state_directory

    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    engine, started = ensure_engine(state_dir, logs, workers)
    show_warnings(tuple(engine.warnings()))
    outcome = "engine started" if started else "an engine is already running"
    echo(f"{outcome}: process {engine.process}, logs in {engine.logs}", err=True)
    held = queue.read_hold()
    if held is not None:
        echo(f"the queue is held: {held.reason}. Resume with: wantui queue resume", err=True)


@command.command("stop")
@click.option("--now", is_flag=True, help="Stop immediately, and discard the current step.")
def stop(now: bool) -> None:
    """Stop the engine after the current step.

    Running videos resume from there when the engine starts again.
    """
    from wantui.engine.control import stop_engine
    from wantui.queue.state_dir import find_state_directory

    process = stop_engine(find_state_directory().directory, now)
    echo("no engine is running" if process is None else f"engine stopped (process {process})", err=True)


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show the engine and its running videos.

    Exit code 0: an engine is running, 3: no engine is running.
    """
    from wantui.engine.control import find_engine
    from wantui.queue.state_dir import describe_recording_fault, find_state_directory

    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    engine, hold, running = find_engine(state_dir.directory), queue.read_hold(), queue.list_running_videos()
    workers = queue.workers() if engine else []
    if as_json:
        print_json(
            {
                "process": engine.process if engine else None,
                "logs": str(engine.logs) if engine else None,
                "uptime": engine.uptime if engine else None,
                "held": hold.reason if hold else None,
                "workers": [asdict(worker) for worker in workers],
                "running": [video.as_json() for video in running] if engine else [],
                "interrupted": [] if engine else [video.as_json() for video in running],
            }
        )
    else:
        _print_status(engine, hold, workers, running, describe_recording_fault(state_dir.directory))
    sys.exit(0 if engine else 3)


def _print_status(
    engine: "Engine | None",
    hold: "Hold | None",
    workers: "list[WorkerRow]",
    running: "list[VideoRow]",
    recording_error: str | None,
) -> None:
    from wantui.queue.waiting import describe_starting_worker

    if engine is None:
        echo("no engine is running. Start one: wantui engine start")
    else:
        uptime = "" if engine.uptime is None else f"up {format_duration(engine.uptime)}, "
        echo(f"engine: process {engine.process}, {uptime}wantui {engine.version}, logs in {engine.logs}")
        for warning in engine.warnings():
            echo(f"note: {warning}")
    if recording_error is not None:
        echo(f"note: {recording_error}")
    if hold is not None:
        automatic = " (it resumes automatically once that is fixed)" if hold.kind in ("disk", "folder") else ""
        echo(f"held: {hold.reason}{automatic}. Resume with: wantui queue resume")
    for worker in workers:
        if worker.state == "starting":
            echo(f"starting: {describe_starting_worker(worker)}")
    # Without an engine nothing runs: the last engine left these videos in the state "running".
    state = "running" if engine else "interrupted"
    for video in running:
        where = f", {video.worker}" if engine else " when the engine ended"
        echo(f"{state}: batch {video.batch}, {video.title}, step {video.step}/{video.steps}{where}")


@command.command("run")
@LOGS_OPTION
@WORKERS_OPTION
@click.option("--drain", is_flag=True, help="Exit when no video is left that can be generated.")
@click.option("--batch", type=PATH, help="Batch folder; its missing videos are queued first.")
@click.option(
    "--share",
    default="1/1",
    metavar="K/N",
    show_default=True,
    help="Shard of the batch: every N-th video from the K-th.",
)
def run(logs: Path | None, workers: int | None, drain: bool, batch: Path | None, share: str) -> None:
    """Run the engine in the foreground.

    For systemd, containers, cron and batch schedulers. Exit code 1 with --drain: some videos are unfinished.
    """
    from wantui.batches.enqueue import Shard, enqueue_missing_videos
    from wantui.engine.control import NoEngineError, find_engine, find_logs_folder, open_queue
    from wantui.engine.supervisor import run_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    state_dir, shard = find_state_directory(), Shard.parse(share)
    if batch is None and share != "1/1":
        raise click.UsageError("--share needs a batch. Name its folder with --batch")
    if batch is not None:
        folder = BatchFolder(batch.absolute())
        queued = enqueue_missing_videos(state_dir, folder, read_manifest(folder), shard)
        missing = queued.video_count if queued else 0
        echo(f"queued {format_count(missing, 'missing video')} of {batch}, share {shard}", err=True)
    if not run_engine(state_dir, find_logs_folder(state_dir, logs), workers, drain):
        engine = find_engine(state_dir.directory)
        raise NoEngineError(f"an engine is already running (process {engine.process if engine else 'unknown'})")
    with open_queue(state_dir)[0] as queue:
        held = queue.read_hold()
        unfinished = sum(batch.unfinished for batch in queue.batches(-1))
    if drain and unfinished:
        reason = f": the queue is held: {held.reason}" if held is not None else ""
        echo(f"{format_count(unfinished, 'unfinished video')}{reason}", err=True)
        sys.exit(1)
