"""wantui run: put the batch of a template on the queue, or what is missing of one, and follow it to its end."""

import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wantui.cli.options import DEFAULT_CONFIG, batch_options, plan, read_template, show_warnings
from wantui.cli.tables import bytes_in_words
from wantui.errors import UserError, user_path

if TYPE_CHECKING:
    from wantui.planning import Batch
    from wantui.queue.queue import Queue
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import Manifest, VideoEntry


class NoSuchDevice(UserError):
    """A device that no worker on this machine has."""

    exit_code = 3


@click.command("run")
@batch_options
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="BATCH_DIR",
    help="Make only what is missing in this batch folder; template and config are optional then, and must agree.",
)
@click.option("--detach", is_flag=True, help="Put it on the queue and return at once.")
@click.option(
    "--logs", type=click.Path(path_type=Path), default="logs", show_default=True, help="Logs of a new engine."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    resume: Path | None,
    detach: bool,
    logs: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Make the videos of a template.

    The batch goes on the queue, and an engine in the background makes it; Ctrl-C leaves it to that. Prints the batch
    folder on stdout; progress goes to stderr. Exit code 0: all done, 1: some videos failed, 2: wrong usage or config,
    3: no such GPU or no engine, 130: detached.
    """
    from wantui.engine.control import open_queue
    from wantui.queue.place import state_place

    text = read_template(template, template_file)
    if text is None and resume is None:
        raise click.UsageError('give a template: -t "a [red|blue] circle"')
    queue, notes = open_queue(state_place())
    show_warnings(tuple(notes))
    if resume is not None:
        given = config is not None or any(value not in (None, ()) for value in options.values())
        folder, manifest, device = _open_batch(resume, text, config, given, options)
        _check_device(device)
    else:
        assert text is not None
        batch = plan(config, text, **options)
        device = batch.config.settings.model_settings.device
        _check_device(device)
        folder, manifest = _new_batch(batch, announce_default=config is None)
    _make(queue, folder, manifest, device, logs, detach, as_json, new=resume is None)


def _check_device(device: str) -> None:
    import os

    from wantui.engine.control import find_engine
    from wantui.engine.supervisor import slots_for
    from wantui.gpu.nvml import look, visible
    from wantui.queue.place import state_place

    engine = find_engine(state_place().directory)
    if engine is not None:
        if device not in engine.devices:
            raise NoSuchDevice(
                f"model_settings.device: {device} is none of those that the engine has: {', '.join(engine.devices)}; "
                "if it is here, wantui engine stop, and the next one will find it"
            )
        return
    report = look()
    gpus = visible(report.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not any(device in slot.devices for slot in slots_for(gpus, None)):
        why = report.reason or f"{len(gpus)} GPUs are visible"
        raise NoSuchDevice(f"model_settings.device: {device} is not here ({why})")


def _new_batch(batch: "Batch", announce_default: bool) -> tuple["BatchFolder", "Manifest"]:
    from wantui.storage.manifest import start_folder

    show_warnings(batch.warnings)
    _refuse(batch)
    if announce_default:
        click.echo(f"config: {DEFAULT_CONFIG} (the default; -c chooses another)", err=True)
    folder = _make_folder(batch)
    try:
        _check_room(folder.root, batch)
        return folder, start_folder(folder, batch)
    except OSError as error:
        shutil.rmtree(folder.root)
        raise _cannot_write(folder, error) from None
    except UserError:
        shutil.rmtree(folder.root)
        raise


def _make_folder(batch: "Batch") -> "BatchFolder":
    """A folder that was not there before, for this batch alone."""
    from wantui.storage.layout import batch_folder

    settings = batch.config.settings
    output_dir = user_path(settings.output_dir)
    now = datetime.now() if settings.use_timestamp else None
    while True:
        folder = batch_folder(output_dir, settings.batch_name or batch.config.name, now)
        try:
            folder.root.mkdir(parents=True)
            return folder
        except FileExistsError:
            if now is not None:  # another run of the same second took the name in between
                continue
            if folder.root.is_dir() and not any(folder.root.iterdir()):
                return folder
            what = "holds a batch already; go on with it by --resume" if folder.manifest.exists() else "exists already"
            raise UserError(f"{folder.root} {what}, or choose another name") from None
        except OSError as error:
            raise _cannot_write(folder, error) from None


def _cannot_write(folder: "BatchFolder", error: OSError) -> UserError:
    return UserError(f"the output folder {folder.root} cannot be written: {error.strerror or error}")


def _check_room(root: Path, batch: "Batch") -> None:
    from wantui.engine.room import SPARE_BYTES
    from wantui.planning import estimate_disk

    needed, free = estimate_disk(batch).total + SPARE_BYTES, shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"the batch may need {bytes_in_words(needed)}, and {root.parent} has {bytes_in_words(free)} free; "
            "choose another --output-dir, fewer videos, or a larger latent_analysis_settings.storage_interval"
        )


def _refuse(batch: "Batch") -> None:
    if batch.refusals:
        raise UserError("this batch cannot be made:\n  " + "\n  ".join(batch.refusals))


def _open_batch(
    root: Path, template: str | None, config: str | None, given: bool, options: dict[str, Any]
) -> tuple["BatchFolder", "Manifest", str]:
    """The batch in a folder, held against whatever was given beside it, and the device to make it on."""
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    folder = BatchFolder(root)
    manifest = read_manifest(folder)
    if template is not None and template != manifest.template:
        raise UserError(f"{root} is the batch of another template:\n  {manifest.template}\nnot of\n  {template}")
    if not given:
        return folder, manifest, str(manifest.config["model_settings"]["device"])
    # Without a config the options are changes to the settings that the batch was begun with.
    batch = plan(config or str(folder.config), manifest.template, **options)
    _compare_recipes(root, manifest, batch)
    return folder, manifest, batch.config.settings.model_settings.device


def _compare_recipes(root: Path, manifest: "Manifest", batch: "Batch") -> None:
    from wantui.planning import pinned_revision

    _refuse(batch)
    planned = [video.recipe for video in batch.videos]
    # A branch that was named before its commit was on this machine stands for that commit now.
    pinned = pinned_revision(batch.model, manifest.videos[0].recipe.revision)
    recorded = [
        video.recipe if batch.model.is_local else video.recipe.model_copy(update={"revision": pinned})
        for video in manifest.videos
    ]
    if len(planned) != len(recorded):
        raise UserError(f"{root} is a batch of {len(recorded)} videos, and these options make {len(planned)}")
    for mine, theirs in zip(planned, recorded, strict=True):
        for field in type(mine).model_fields:
            if getattr(mine, field) != getattr(theirs, field):
                raise UserError(
                    f"{root} was made with {field}: {getattr(theirs, field)}, and these options say "
                    f"{getattr(mine, field)}; leave the options out to go on as it was begun"
                )


def missing_videos(folder: "BatchFolder", manifest: "Manifest") -> list[tuple[int, "VideoEntry"]]:
    """The videos that are not done or whose files are gone, with their index in the manifest."""
    return [
        (index, video)
        for index, video in enumerate(manifest.videos)
        if video.state != "done" or not all((folder.root / path).exists() for path in video.files.values())
    ]


def _make(
    queue: "Queue",
    folder: "BatchFolder",
    manifest: "Manifest",
    device: str,
    logs: Path,
    detach: bool,
    as_json: bool,
    new: bool,
) -> NoReturn:
    from wantui.cli.follow import follow, leave, report_end, shown_path
    from wantui.engine.control import ensure_engine
    from wantui.planning.estimate import model_evaluations
    from wantui.queue.place import Place
    from wantui.queue.rows import NewVideo

    names = [variation.id for variation in manifest.variations]
    missing = missing_videos(folder, manifest)
    seq = queue.last_seq()
    root = folder.root.resolve()
    id_ = queue.add(
        root,
        device,
        [
            NewVideo(
                index,
                f"{names[video.variation]} seed {video.seed}",
                video.recipe.to_json(),
                model_evaluations(video.recipe.sampler, video.recipe.steps),
            )
            for index, video in missing
        ],
        new,
    )
    batch = queue.batch(id_)
    assert batch is not None
    click.echo(f"batch {id_}: {len(missing)} videos in {shown_path(root)}", err=True)
    if missing:
        engine, started = ensure_engine(Place(queue.path.parent), logs.absolute())
        if started:
            click.echo(f"an engine was started (process {engine.process}, logs in {shown_path(engine.logs)})", err=True)
    if detach:
        click.echo(f"follow it with\n  wantui watch {id_}", err=True)
        click.echo(shown_path(root))
        sys.exit(0)
    try:
        report_end(queue, follow(queue, batch, seq, as_json), as_json)
    except KeyboardInterrupt:
        leave(queue, id_)
    except UserError:
        # Nothing could be made at all: there are no weights, say.
        if new and not any(root.rglob("*.mp4")) and (found := queue.batch(id_)) and not found.unfinished:
            queue.remove(id_)
            shutil.rmtree(root)
        raise
