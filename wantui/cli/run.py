"""wantui run: queue the batch of a template, or the missing videos of a batch, and follow it to its end."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wantui.cli.commands import Command
from wantui.cli.options import (
    DEFAULT_CONFIG,
    batch_options,
    open_queue_for_command,
    plan_from_options,
    read_template,
    resume_option,
    show_warnings,
)
from wantui.cli.output import echo, print_json
from wantui.cli.types import PATH
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.planning import Batch
    from wantui.queue.queue import Queue
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import Manifest


@click.command("run", cls=Command)
@batch_options
@resume_option
@click.option("--detach", is_flag=True, help="Queue the batch and return immediately.")
@click.option("--logs", type=PATH, help="Log folder of a new engine.  [default: logs in the state directory]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    resume: Path | None,
    detach: bool,
    logs: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate the videos of a template.

    Queues the batch for the background engine and follows its progress; Ctrl-C detaches. Prints the batch folder on
    stdout and progress on stderr.

    Exit code 0: all done, 1: some videos failed, 2: wrong usage or config, 3: no such GPU or no engine, 130: detached.
    """
    from wantui.batches.enqueue import check_device, create_batch
    from wantui.engine.control import find_engine, find_logs_folder
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.locks import refuse_unwritable

    text = read_template(template, template_file)
    if text is None and resume is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    if find_engine(state_dir.directory) is None:
        find_logs_folder(state_dir, logs)  # fails now, before anything is queued for an engine that cannot start
    folder: BatchFolder | None = None
    try:  # another process may lock the queue for a while: Ctrl-C must work here too
        if resume is not None:
            folder, manifest, device = open_batch(resume, text, config, options)
            refuse_unwritable(folder)
            check_device(state_dir, device)
        else:
            assert text is not None
            batch = plan_from_options(config, text, **options)
            device = batch.config.settings.model_settings.device
            check_device(state_dir, device)
            show_warnings(batch.warnings)
            if config is None:
                echo(f"config: {DEFAULT_CONFIG} (the default; choose another with -c)", err=True)
            folder, manifest = create_batch(batch)
        seq = queue.read_last_seq()
        id_, missing = _enqueue(queue, folder, manifest, device, new=resume is None)
        _follow_queued(queue, folder, manifest, id_, missing, seq, logs, detach, as_json, new=resume is None)
    except KeyboardInterrupt:
        if folder is None:
            raise
        _report_interrupted(queue, folder.root.resolve())


def _report_interrupted(queue: "Queue", root: Path) -> NoReturn:
    """Report whether the batch in a folder is on the queue, and how to continue; exit with code 130."""
    from wantui.cli.follow import format_path, report_detached

    queued = next((row for row in queue.batches(-1) if row.folder == root and row.unfinished), None)
    if queued is not None:  # the interrupt came just after the batch was queued
        report_detached(queue, queued.id)
    shown = format_path(root)
    echo(f"interrupted: {shown} is not on the queue. Queue it: wantui run --resume {shown}", err=True)
    sys.exit(130)


def open_batch(
    root: Path, template: str | None, config: str | None, options: dict[str, Any]
) -> tuple["BatchFolder", "Manifest", str]:
    """Return the batch in a folder and its device.

    Raises:
        UserError: the template or the options belong to another batch.
    """
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import is_edited, read_manifest

    folder = BatchFolder(root)
    manifest = read_manifest(folder)
    show_warnings(manifest.faults)
    if is_edited(folder):
        show_warnings(
            (
                f"{folder.manifest} was changed after wantui wrote it (SHA-256), and is used as it is now. If nobody "
                "edited it, it is damaged: restore it from a backup. Verify the batch: wantui library check",
            )
        )
    if template is not None and template != manifest.template:
        raise UserError(f"cannot resume {root}: its template is\n  {manifest.template}\nnot\n  {template}")
    if config is None and all(value in (None, ()) for value in options.values()):
        return folder, manifest, str(manifest.config["model_settings"]["device"])
    if config is None and not os.path.lexists(folder.config):
        raise UserError(
            f"cannot apply options to {root}: its settings ({folder.config}) are missing. Omit the options to resume "
            "it unchanged, or give its original config with -c"
        )
    # Without a config, the options override the stored settings of the batch.
    batch = plan_from_options(str(folder.config) if config is None else config, manifest.template, **options)
    _compare_recipes(root, manifest, batch)
    return folder, manifest, batch.config.settings.model_settings.device


def _compare_recipes(root: Path, manifest: "Manifest", batch: "Batch") -> None:
    """Refuse options under which the recipes of a stored batch would change."""
    from wantui.batches.enqueue import refuse_unsupported_batch
    from wantui.planning import pin_revision

    refuse_unsupported_batch(batch)
    planned = [video.recipe for video in batch.videos]
    # The batch may have stored a branch name because no commit was known yet: compare the commit that it resolves to.
    pinned = pin_revision(batch.model, manifest.videos[0].recipe.revision)
    recorded = [
        video.recipe if batch.model.is_local else video.recipe.model_copy(update={"revision": pinned})
        for video in manifest.videos
    ]
    if len(planned) != len(recorded):
        count = format_count(len(recorded), "video")
        raise UserError(f"cannot resume {root}: it has {count}, and these options give {len(planned)}")
    for new_recipe, stored in zip(planned, recorded, strict=True):
        if new_recipe.speed == stored.speed:  # a later calibration does not apply to a batch that has started
            new_recipe = new_recipe.model_copy(update={"magnitudes": stored.magnitudes})
        for field in type(new_recipe).model_fields:
            if getattr(new_recipe, field) != getattr(stored, field):
                raise UserError(
                    f"cannot resume {root}: its {field} is {getattr(stored, field)}, but these options give "
                    f"{getattr(new_recipe, field)}. Omit the options to resume with the stored settings"
                )


def _enqueue(queue: "Queue", folder: "BatchFolder", manifest: "Manifest", device: str, new: bool) -> tuple[int, int]:
    """Put the missing videos of a batch on the queue; return the batch's number and the number of those videos."""
    from wantui.batches.batch_cost import warn_if_slow_on_cpu
    from wantui.batches.enqueue import can_use_gpu, enqueue_batch, find_missing_videos
    from wantui.queue.state_dir import StateDirectory

    missing = [video for _, video in find_missing_videos(folder, manifest)]
    if missing and not can_use_gpu(StateDirectory(queue.path.parent), device):
        show_warnings(tuple(filter(None, [warn_if_slow_on_cpu(missing[0].recipe, len(missing))])))
    return enqueue_batch(queue, folder, manifest, device, new)


def _follow_queued(
    queue: "Queue",
    folder: "BatchFolder",
    manifest: "Manifest",
    id_: int,
    missing: int,
    seq: int,
    logs: Path | None,
    detach: bool,
    as_json: bool,
    new: bool,
) -> NoReturn:
    from wantui.batches.enqueue import remove_claimed_files
    from wantui.cli.follow import follow, format_path, report_detached, report_end
    from wantui.engine.control import ensure_engine
    from wantui.queue.state_dir import StateDirectory

    root = folder.root.resolve()
    try:  # the batch is queued now: Ctrl-C detaches and leaves it on the queue
        batch = queue.batch(id_)
        assert batch is not None
        echo(f"batch {id_}: {format_count(missing, 'video')} in {format_path(root)}", err=True)
        # An engine is needed even if another one generated all videos: this queue has yet to record them as done.
        if missing or batch.unfinished:
            engine, started = ensure_engine(StateDirectory(queue.path.parent), logs)
            show_warnings(tuple(engine.warnings()))
            if started:
                echo(f"engine started (process {engine.process}, logs in {format_path(engine.logs)})", err=True)
        if detach:
            if (held := queue.read_hold()) is not None:
                echo(f"the queue is held: {held.reason}. Resume with: wantui queue resume", err=True)
            echo(f"follow its progress with\n  wantui watch {id_}", err=True)
            if as_json:
                print_json(
                    {"event": "detached", "batch": id_, "folder": str(format_path(root)), "videos": missing}, None
                )
            else:
                echo(format_path(root))
            sys.exit(0)
        report_end(queue, follow(queue, batch, seq, as_json), as_json)
    except KeyboardInterrupt:
        report_detached(queue, id_)
    except UserError:
        # The batch was refused before its first video (no weights, say): remove it.
        if new and not any(root.rglob("*.mp4")) and (queued := queue.batch(id_)) and not queued.unfinished:
            queue.remove(id_)
            # Without a timestamp in its name, the user may have created the folder: keep the folder itself.
            remove_claimed_files(folder, with_root=bool(manifest.config.get("use_timestamp", True)))
        raise
