"""wantui run: make the videos of a template, or what is missing of a batch."""

import json
import shutil
import signal
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wantui.cli.options import DEFAULT_CONFIG, batch_options, plan, read_template, show_warnings
from wantui.cli.tables import bytes_in_words
from wantui.errors import UserError, user_path

if TYPE_CHECKING:
    from wantui.planning import Batch
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import Manifest

SPARE_BYTES = 20_000_000
"""Room to leave on the disk beyond the estimate."""


@click.command("run")
@batch_options
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="BATCH_DIR",
    help="Make only what is missing in this batch folder; template and config are optional then, and must agree.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    resume: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make the videos of a template.

    Prints the batch folder on stdout; progress goes to stderr. Exit code 0: all done, 1: some videos failed, 2: wrong
    usage or config, 3: no such GPU, 130: interrupted.
    """
    from wantui.storage.atomic import one_writer
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    text = read_template(template, template_file)
    given = config is not None or any(value not in (None, ()) for value in options.values())
    if resume is not None:
        read_manifest(BatchFolder(resume))  # says what is wrong with it before it is held
        with one_writer(resume):
            _make(*_open_batch(resume, text, config, given, options), as_json, new=False)
    if text is None:
        raise click.UsageError('give a template: -t "a [red|blue] circle"')
    batch = plan(config, text, **options)
    folder, manifest = _new_batch(batch, announce_default=config is None)
    with one_writer(folder.root):
        _make(folder, manifest, batch.config.settings.model_settings.device, as_json, new=True)


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


def _make(folder: "BatchFolder", manifest: "Manifest", device: str, as_json: bool, new: bool) -> NoReturn:
    from wantui.cli.progress import reporter, summary

    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    names = [variation.id for variation in manifest.variations]
    resume = f"wantui run --resume {folder.root}"
    try:
        # torch takes seconds to import: say something first.
        click.echo(f"{len(manifest.videos)} videos in {folder.root}", err=True)
        from wantui.engine.run import run_batch
        from wantui.generation.load import NotLoaded

        with reporter(as_json, names) as shown, closing(run_batch(folder, manifest, device)) as events:
            for event in events:
                shown.show(event)
                if interrupted:
                    # Python drops an exception that a signal raises inside a destructor.
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        done = manifest.counts().get("done", 0)
        click.echo(f"interrupted: {done} of {len(manifest.videos)} videos are done; go on with\n  {resume}", err=True)
        sys.exit(130)
    except NotLoaded:
        if new:
            shutil.rmtree(folder.root)
        raise
    except UserError as error:
        click.echo(f"wantui: {error}\nwhat is missing is made by\n  {resume}", err=True)
        sys.exit(error.exit_code)
    failed = [video for video in manifest.videos if video.state == "failed"]
    done = manifest.counts().get("done", 0)
    if failed:
        click.echo(f"{done} of {len(manifest.videos)} videos done, {len(failed)} failed:", err=True)
        for video in failed:
            click.echo(f"  {summary(names, video)}", err=True)
        click.echo(f"try those again with\n  {resume}", err=True)
    else:
        click.echo(f"{done} of {len(manifest.videos)} videos done", err=True)
    click.echo(
        json.dumps({"event": "end", "folder": str(folder.root), **manifest.counts()}) if as_json else folder.root
    )
    sys.exit(1 if failed else 0)
