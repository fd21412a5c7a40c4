"""wantui demo: generate, analyse and open a small batch, from nothing."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.output import echo, print_wrapped_line
from wantui.cli.types import PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.planning import Batch
    from wantui.queue.queue import Queue

PHASE_COUNT = 3


@click.command("demo", cls=WantuiCommand)
@click.option(
    "-o", "--output-dir", type=PATH_TYPE, help="Parent folder of the batch folder.  [default: from the config]"
)
@click.option("--fresh", "makes_new_batch", is_flag=True, help="Generate a new batch, even if one is finished.")
@click.option("--no-open", "only_prints_paths", is_flag=True, help="Print the paths instead of opening the library.")
@click.pass_context
def command(context: click.Context, output_dir: Path | None, makes_new_batch: bool, only_prints_paths: bool) -> None:
    """Generate a first batch with nano on the CPU, analyse it, and open it in the library.

    Generates twelve videos of a red or blue circle, overlays the attention map of the word `circle` on the first clip,
    and compares the two colours. Needs neither a network nor a GPU. An unfinished demo is continued, and a finished one
    is reused. Prints the result of the comparison on stdout; without a terminal, the paths too.

    Exit code 0: done, 1: some videos failed, 130: detached.
    """
    from wantui.analysis.loading import read_batches
    from wantui.batches.demo import compare_demo_groups, describe_demo_answer, draw_demo_overlay, plan_demo_batch

    folder = _generate_demo_batch(plan_demo_batch(output_dir), makes_new_batch)
    try:
        _show_phase(2, "draw the attention to the word `circle` over the first clip")
        videos = read_batches([folder]).videos
        overlay_path = draw_demo_overlay(videos)
        _show_phase(3, "compare red with blue, paired by seed")
        comparison, report_path = compare_demo_groups(videos)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder}: {error.strerror or error}. Choose another folder with -o"
        ) from None
    for line in describe_demo_answer(comparison):
        print_wrapped_line(line, indent=2)
    shown_paths = [_format_path(path) for path in (folder, overlay_path, report_path)]
    opens_library = sys.stdin.isatty() and sys.stdout.isatty() and not only_prints_paths
    for label, path in zip(("batch", "overlay", "report"), shown_paths, strict=True):
        echo(f"{label}: {path}", err=opens_library)
    if opens_library:
        from wantui.batches.demo import summarise_demo_answer
        from wantui.cli.tui import run_application
        from wantui.tui.plain_names import replace_names

        options = context.find_root().params
        run_application(
            options["low_bandwidth"],
            captures_mouse=not options["no_mouse"],
            batch=folder.resolve(),
            batch_note=f"{replace_names(summarise_demo_answer(comparison))}\nA: shows the numbers",
        )
    echo(f"open it with\n  wantui open {shown_paths[0]}", err=True)


def _generate_demo_batch(batch: "Batch", makes_new_batch: bool) -> Path:
    """Generate the batch, or the videos that an earlier demo left missing; return its folder."""
    from wantui.batches.batch_folders import create_batch_folder
    from wantui.batches.demo import find_demo_folder
    from wantui.batches.enqueue import check_device_exists, enqueue_batch, find_missing_videos
    from wantui.cli.options import open_queue_for_command
    from wantui.queue.new_folders import record_new_folder
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.manifest import read_manifest
    from wantui.storage.write_checks import reject_unwritable_batch

    folder = None if makes_new_batch else find_demo_folder(batch)
    if folder is not None and not find_missing_videos(folder, read_manifest(folder)):
        echo(f"reusing {_format_path(folder.root)} (wantui demo --fresh generates a new batch)", err=True)
        return folder.root
    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    with record_new_folder(state_dir.directory) as record:
        check_device_exists(state_dir, batch.config.settings.model_settings.device)
        is_new = folder is None
        if folder is None:
            folder, manifest = create_batch_folder(batch, record)
        else:
            manifest = read_manifest(folder)
            reject_unwritable_batch(folder)
        last_seq = queue.read_last_event_seq()
        missing_videos = find_missing_videos(folder, manifest)
        device = str(manifest.config["model_settings"]["device"])
        batch_id = enqueue_batch(queue, folder, manifest, device, missing_videos, is_new)
        assert batch_id is not None  # videos are missing
    verb = "generate" if is_new else "continue with"
    _show_phase(
        1,
        f"{verb} {format_count(len(missing_videos), 'video')} in {_format_path(folder.root)}: {batch.template}",
    )
    _follow_demo(queue, batch_id, last_seq)
    return folder.root


def _follow_demo(queue: "Queue", batch_id: int, last_seq: int) -> None:
    """Show the progress of the batch until it ends; exit if it is not complete."""
    from wantui.cli.follow import follow_batch
    from wantui.engine.control import ensure_engine
    from wantui.queue.state_dir import StateDirectory

    try:
        batch_row = queue.get_batch(batch_id)
        assert batch_row is not None
        ensure_engine(StateDirectory(queue.path.parent), None)
        batch_row = follow_batch(queue, batch_row, last_seq, as_json=False)
    except KeyboardInterrupt:
        _report_interrupted_demo(queue, batch_id)
    if batch_row.counts.get("done") != sum(batch_row.counts.values()):
        errors = {video.error or video.state for video in queue.list_videos(batch_id) if video.state != "done"}
        raise _UnfinishedDemoError(
            f"cannot finish the demo: {'; '.join(sorted(errors))}. Try again: wantui demo. Check this machine: "
            "wantui doctor"
        )


class _UnfinishedDemoError(UserError):
    """Raised if a video of the demo failed or was cancelled."""

    exit_code = 1


def _report_interrupted_demo(queue: "Queue", batch_id: int) -> NoReturn:
    from wantui.cli.follow import report_detached

    echo("the demo continues in the background. Follow it again: wantui demo", err=True)
    report_detached(queue, batch_id)


def _show_phase(number: int, text: str) -> None:
    echo(f"[{number}/{PHASE_COUNT}] {text}", err=True)


def _format_path(path: Path) -> Path:
    from wantui.cli.follow import format_relative_path

    return format_relative_path(path)
