"""wantui run: put the batch of a template on the queue, or what is missing of one, and follow it to its end."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wantui.cli.options import (
    DEFAULT_CONFIG,
    batch_options,
    open_queue_for_command,
    plan,
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


@click.command("run")
@batch_options
@resume_option
@click.option("--detach", is_flag=True, help="Queue the batch and return at once.")
@click.option("--logs", type=PATH, help="Folder for the logs of a new engine.  [default: beside the queue]")
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
    """Make the videos of a template.

    The batch is queued, and a background engine makes it; Ctrl-C detaches from it. Prints the batch folder on stdout
    and progress on stderr. Exit code 0: all done, 1: some videos failed, 2: wrong usage or config,
    3: no such GPU or no engine, 130: detached.
    """
    from wantui.batches.enqueue import check_device, new_batch
    from wantui.engine.control import find_engine, logs_folder
    from wantui.queue.state_dir import state_place
    from wantui.storage.locks import refuse_unwritable

    text = read_template(template, template_file)
    if text is None and resume is None:
        raise click.UsageError('give a template: -t "a [red|blue] circle"')
    state_dir = state_place()
    queue = open_queue_for_command(state_dir)
    if find_engine(state_dir.directory) is None:
        logs_folder(state_dir, logs)  # before anything is queued for an engine that could not start
    if resume is not None:
        folder, manifest, device = open_batch(resume, text, config, options)
        refuse_unwritable(folder)
        check_device(state_dir, device)
    else:
        assert text is not None
        batch = plan(config, text, **options)
        device = batch.config.settings.model_settings.device
        check_device(state_dir, device)
        show_warnings(batch.warnings)
        folder, manifest = new_batch(batch)
        if config is None:
            echo(f"config: {DEFAULT_CONFIG} (the default; -c chooses another)", err=True)
    _make(queue, folder, manifest, device, logs, detach, as_json, new=resume is None)


def open_batch(
    root: Path, template: str | None, config: str | None, options: dict[str, Any]
) -> tuple["BatchFolder", "Manifest", str]:
    """Return the existing batch in a folder, checked against the other arguments, and the device to use."""
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest, was_edited

    folder = BatchFolder(root)
    manifest = read_manifest(folder)
    show_warnings(manifest.faults)
    if was_edited(folder):
        show_warnings(
            (
                f"{folder.manifest} was changed since wantui wrote it (SHA-256), and is taken as it is now. If nobody "
                "edited it, it is damaged: restore it from a backup. wantui library check verifies the whole batch",
            )
        )
    if template is not None and template != manifest.template:
        raise UserError(f"{root} is the batch of another template:\n  {manifest.template}\nnot of\n  {template}")
    if config is None and all(value in (None, ()) for value in options.values()):
        return folder, manifest, str(manifest.config["model_settings"]["device"])
    if config is None and not os.path.lexists(folder.config):
        raise UserError(
            f"cannot apply options to {root}: its settings ({folder.config}) are missing. Leave the options out to "
            "continue it as it was begun, or name the config that it was made with: -c"
        )
    # Without a config the options are changes to the settings that the batch was begun with.
    batch = plan(str(folder.config) if config is None else config, manifest.template, **options)
    _compare_recipes(root, manifest, batch)
    return folder, manifest, batch.config.settings.model_settings.device


def _compare_recipes(root: Path, manifest: "Manifest", batch: "Batch") -> None:
    from wantui.batches.enqueue import refuse
    from wantui.planning import pinned_revision

    refuse(batch)
    planned = [video.recipe for video in batch.videos]
    # A branch that was named before its commit was on this machine stands for that commit now.
    pinned = pinned_revision(batch.model, manifest.videos[0].recipe.revision)
    recorded = [
        video.recipe if batch.model.is_local else video.recipe.model_copy(update={"revision": pinned})
        for video in manifest.videos
    ]
    if len(planned) != len(recorded):
        raise UserError(
            f"{root} is a batch of {format_count(len(recorded), 'video')}, these options make {len(planned)}"
        )
    for mine, theirs in zip(planned, recorded, strict=True):
        if mine.speed == theirs.speed:  # how the model was calibrated then holds for the whole batch
            mine = mine.model_copy(update={"magnitudes": theirs.magnitudes})
        for field in type(mine).model_fields:
            if getattr(mine, field) != getattr(theirs, field):
                raise UserError(
                    f"{root} was made with {field}: {getattr(theirs, field)}, and these options say "
                    f"{getattr(mine, field)}; leave the options out to continue with the stored ones"
                )


def _make(
    queue: "Queue",
    folder: "BatchFolder",
    manifest: "Manifest",
    device: str,
    logs: Path | None,
    detach: bool,
    as_json: bool,
    new: bool,
) -> NoReturn:
    from wantui.batches.batch_cost import cpu_warning
    from wantui.batches.enqueue import enqueue, may_use_gpu, missing_videos, remove_begun
    from wantui.cli.follow import follow, leave, report_end, shown_path
    from wantui.engine.control import ensure_engine
    from wantui.queue.state_dir import StateDirectory

    root = folder.root.resolve()
    try:  # the queue may be locked for a while
        seq = queue.last_seq()
        left = [video for _, video in missing_videos(folder, manifest)]
        if left and not may_use_gpu(StateDirectory(queue.path.parent), device):
            show_warnings(tuple(filter(None, [cpu_warning(left[0].recipe, len(left))])))
        id_, missing = enqueue(queue, folder, manifest, device, new)
        batch = queue.batch(id_)
        assert batch is not None
        echo(f"batch {id_}: {format_count(missing, 'video')} in {shown_path(root)}", err=True)
    except KeyboardInterrupt:
        shown = shown_path(root)
        echo(f"interrupted before {shown} was queued. Queue it: wantui run --resume {shown}", err=True)
        sys.exit(130)
    try:  # from here on the batch is on the queue, and Ctrl-C leaves it there
        row = queue.batch(id_)
        # Also videos that another engine has made: ours is still to take note of them.
        if missing or (row is not None and row.unfinished):
            engine, started = ensure_engine(StateDirectory(queue.path.parent), logs)
            show_warnings(tuple(engine.warnings()))
            if started:
                echo(f"an engine was started (process {engine.process}, logs in {shown_path(engine.logs)})", err=True)
        if detach:
            if (held := queue.held()) is not None:
                echo(f"the queue is held: {held.reason}. Resume with: wantui queue resume", err=True)
            echo(f"follow it with\n  wantui watch {id_}", err=True)
            if as_json:
                print_json(
                    {"event": "detached", "batch": id_, "folder": str(shown_path(root)), "videos": missing}, None
                )
            else:
                echo(shown_path(root))
            sys.exit(0)
        report_end(queue, follow(queue, batch, seq, as_json), as_json)
    except KeyboardInterrupt:
        leave(queue, id_)
    except UserError:
        # Nothing could be made at all: there are no weights, say.
        if new and not any(root.rglob("*.mp4")) and (queued := queue.batch(id_)) and not queued.unfinished:
            queue.remove(id_)
            # Without a time stamp the folder may be one that the user had made.
            remove_begun(folder, with_root=bool(manifest.config.get("use_timestamp", True)))
        raise
