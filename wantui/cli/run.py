"""wantui run: queue the batch of a template, or the missing videos of a batch, and follow it to its end."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_detach_option
from wantui.cli.options import (
    DEFAULT_CONFIG,
    add_batch_options,
    add_resume_option,
    open_queue_for_command,
    plan_batch_from_options,
    print_warnings,
    read_template,
)
from wantui.cli.output import echo, print_json, report_locked_queue
from wantui.cli.types import PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import expand_user_path

if TYPE_CHECKING:
    from wantui.config.settings import Settings
    from wantui.planning import Batch
    from wantui.queue.new_folders import FolderCallback
    from wantui.queue.queue import Queue
    from wantui.queue.state_dir import StateDirectory
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import Manifest, VideoEntry

LOCATION_SETTINGS = ("output_dir", "batch_name", "use_timestamp")
"""Settings that only determine the path of a new batch folder."""
FIXED_BATCH_SETTINGS = (
    "memory_settings.plan",
    "model_settings.gpus_per_video",
    "prompt_settings.generic_words",
    "primary_metric",
    "output_permissions",
    *LOCATION_SETTINGS,
)
"""Settings that are fixed when a batch is created, and that its recipes do not contain."""


@click.command("run", cls=WantuiCommand)
@add_batch_options
@add_resume_option
@add_detach_option
@click.option(
    "--logs", "log_folder", type=PATH_TYPE, help="Log folder of a new engine.  [default: logs in the state directory]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event on stdout.")
def command(
    config: str | None,
    template: str | None,
    template_file: Path | None,
    resume_folder: Path | None,
    detaches: bool,
    log_folder: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate the videos of a template.

    Queues the batch for the background engine and follows its progress; Ctrl-C detaches. Prints the batch folder on
    stdout and progress on stderr.

    Exit code 0: all done or cancelled, 1: some videos failed, 2: wrong usage or config, 3: no such GPU or no engine,
    130: detached.
    """
    from wantui.batches.enqueue import check_device_exists, check_fp8_available, enqueue_batch, find_missing_videos
    from wantui.engine.control import create_logs_folder, find_engine_process_id
    from wantui.queue.new_folders import record_new_folder
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.write_checks import reject_unwritable_batch

    template_text = read_template(template, template_file)
    if template_text is None and resume_folder is None:
        raise click.UsageError('--template is missing. Give one: -t "a [red|blue] circle"')
    state_dir = find_state_directory()
    queue = open_queue_for_command(state_dir)
    if find_engine_process_id(state_dir.directory) is None:
        create_logs_folder(state_dir, log_folder)  # now, before anything is queued for an engine that cannot start
    is_new = resume_folder is None
    folder: BatchFolder | None = None
    try:  # another process may lock the queue for a while: Ctrl-C must work here too
        with record_new_folder(state_dir.directory) as record:
            if resume_folder is not None:
                folder, manifest, device = open_batch_to_resume(resume_folder, template_text, config, options)
                reject_unwritable_batch(folder)
                check_device_exists(state_dir, device, report_locked_queue)
            else:
                assert template_text is not None
                folder, manifest, device = _create_batch(state_dir, config, template_text, options, record)
            last_seq = queue.read_last_event_seq()
            missing_videos = find_missing_videos(folder, manifest)
            if not is_new:
                check_fp8_available(state_dir, device, (video.recipe for _, video in missing_videos))
            _warn_of_slow_cpu(state_dir, device, missing_videos)
            batch_id = enqueue_batch(queue, folder, manifest, device, missing_videos, is_new)
        if batch_id is None:
            _report_complete_batch(folder, manifest, as_json)
        try:
            _follow_queued_batch(queue, batch_id, len(missing_videos), last_seq, log_folder, detaches, as_json)
        except UserError:
            if is_new:
                _remove_refused_batch(queue, batch_id, folder, manifest)
            raise
    except KeyboardInterrupt:
        if folder is None:
            raise
        _report_interrupted_run(queue, folder.root.resolve())


def _report_complete_batch(folder: "BatchFolder", manifest: "Manifest", as_json: bool) -> NoReturn:
    """Report that a batch outside the queue has no missing video; print its folder, and exit."""
    from wantui.cli.follow import format_relative_path

    shown_folder = format_relative_path(folder.root.resolve())
    echo(f"{format_count(len(manifest.videos), 'video')} done, no video is missing in {shown_folder}", err=True)
    if as_json:
        print_json({"event": "end", "folder": str(shown_folder), **manifest.count_states()}, indent=None)
    else:
        echo(shown_folder)
    sys.exit(0)


def _create_batch(
    state_dir: "StateDirectory",
    config: str | None,
    template_text: str,
    options: dict[str, Any],
    record: "FolderCallback",
) -> tuple["BatchFolder", "Manifest", str]:
    """Plan a new batch and create its folder; also return its device."""
    from wantui.batches.batch_folders import create_batch_folder
    from wantui.batches.enqueue import fit_batch_to_machine

    batch = plan_batch_from_options(config, template_text, **options)
    device = batch.config.settings.model_settings.device
    batch = fit_batch_to_machine(state_dir, batch, report_locked_queue)
    print_warnings(batch.warnings)
    if config is None:
        echo(f"config: {DEFAULT_CONFIG} (the default; choose another with -c)", err=True)
    return *create_batch_folder(batch, record), device


def _report_interrupted_run(queue: "Queue", batch_folder: Path) -> NoReturn:
    """Report whether the batch in a folder is in the queue, and how to continue; exit with code 130."""
    from wantui.cli.follow import format_relative_path, report_detached

    queued_batch = next(
        (row for row in queue.list_batches() if row.folder == batch_folder and row.unfinished_count), None
    )
    if queued_batch is not None:  # the interrupt came just after the batch was queued
        report_detached(queue, queued_batch.id)
    shown_folder = format_relative_path(batch_folder)
    echo(f"interrupted: {shown_folder} is not in the queue. Queue it: wantui run --resume {shown_folder}", err=True)
    sys.exit(130)


def open_batch_to_resume(
    batch_folder: Path, template: str | None, config: str | None, options: dict[str, Any]
) -> tuple["BatchFolder", "Manifest", str]:
    """Return the batch in a folder and its device.

    Raises:
        UserError: the template or the options belong to another batch.
    """
    from wantui.planning.batch import drop_cells
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.manifest_file import list_manifest_warnings

    folder = BatchFolder(batch_folder)
    manifest = read_manifest(folder)
    print_warnings(list_manifest_warnings(folder, manifest))
    if template is not None and template != manifest.template:
        raise UserError(f"cannot resume {batch_folder}: its template is\n  {manifest.template}\nnot\n  {template}")
    if config is None and all(value in (None, ()) for value in options.values()):
        return folder, manifest, str(manifest.config["model_settings"]["device"])
    if config is None and not os.path.lexists(folder.config_path):
        raise UserError(
            f"cannot apply options to {batch_folder}: its settings ({folder.config_path}) are missing. Omit the "
            "options to resume it unchanged, or give its original config with -c"
        )
    # Without a config, the options override the stored settings of the batch.
    batch = plan_batch_from_options(str(folder.config_path) if config is None else config, manifest.template, **options)
    if manifest.sweep is not None and batch.sweep is not None:  # cells left out when the batch was created stay out
        batch = drop_cells(batch, {skipped.label: skipped.reason for skipped in manifest.sweep.skipped})
    _refuse_changed_recipes(batch_folder, manifest, batch)
    _refuse_changed_settings(batch_folder, manifest, batch.config.settings, _list_location_options(options))
    return folder, manifest, batch.config.settings.model_settings.device


def _refuse_changed_recipes(batch_folder: Path, manifest: "Manifest", batch: "Batch") -> None:
    """Refuse options under which the recipes of a stored batch would change."""
    from wantui.batches.batch_folders import refuse_unsupported_batch
    from wantui.planning import pin_revision

    refuse_unsupported_batch(batch)
    planned_recipes = [video.recipe for video in batch.videos]
    # The batch may have stored a branch name because no commit was known yet: compare the commit that it resolves to.
    pinned_revision = pin_revision(batch.model, manifest.videos[0].recipe.revision)
    stored_recipes = [
        video.recipe if batch.model.is_local else video.recipe.model_copy(update={"revision": pinned_revision})
        for video in manifest.videos
    ]
    if len(planned_recipes) != len(stored_recipes):
        stored_count = format_count(len(stored_recipes), "video")
        raise UserError(
            f"cannot resume {batch_folder}: it has {stored_count}, but these options give {len(planned_recipes)}"
        )
    for new_recipe, stored_recipe in zip(planned_recipes, stored_recipes, strict=True):
        if new_recipe.speed == stored_recipe.speed:  # a later calibration does not apply to a batch that has started
            new_recipe = new_recipe.model_copy(update={"magnitudes": stored_recipe.magnitudes})
        for field_name in type(new_recipe).model_fields:
            new_value, stored_value = getattr(new_recipe, field_name), getattr(stored_recipe, field_name)
            if new_value != stored_value:
                raise _make_changed_value_error(
                    batch_folder, _find_setting_name(field_name, stored_value, new_value), stored_value, new_value
                )


def _find_setting_name(recipe_field: str, stored_value: Any, new_value: Any) -> str:
    """Return the key of the setting behind a recipe field; for controls and captures, the changed sections."""
    from wantui.analysis.setting_values import RECIPE_FIELDS_BY_PATH, TRANSFORMER_FILE_PATH
    from wantui.captures import CAPTURES
    from wantui.controls import CONTROLS

    if recipe_field == "controls":
        kinds = [kind for kind in CONTROLS if stored_value.get(kind.name) != new_value.get(kind.name)]
        return ", ".join(kind.section_key or kind.name for kind in kinds)
    if recipe_field == "capture":
        sections_by_field = {kind.name: kind.section_key for kind in CAPTURES}
        names = [
            name for name in type(new_value).model_fields if getattr(stored_value, name) != getattr(new_value, name)
        ]
        return ", ".join(dict.fromkeys(sections_by_field.get(name, "latent_analysis_settings") for name in names))
    paths_by_field = {field: path for path, field in RECIPE_FIELDS_BY_PATH.items()}
    other_paths = {"seed": "model_settings.seed", "transformer_file": TRANSFORMER_FILE_PATH}
    return (paths_by_field | other_paths).get(recipe_field, recipe_field)


def _list_location_options(options: dict[str, Any]) -> set[str]:
    """Return the settings of LOCATION_SETTINGS that command-line options set, regardless of the config."""
    overridden_keys = {override.partition("=")[0].strip() for override in options["overrides"]}
    return {key for key in LOCATION_SETTINGS if key in overridden_keys or options.get(key) is not None}


def _refuse_changed_settings(
    batch_folder: Path, manifest: "Manifest", settings: "Settings", location_options: set[str]
) -> None:
    """Refuse options that change settings outside the recipes of a stored batch: such options would have no effect.

    A config may have other LOCATION_SETTINGS, because options may have overridden them when the batch was created.
    """
    default_settings, new_settings = (each.model_dump(mode="json") for each in (type(settings)(), settings))
    for key in FIXED_BATCH_SETTINGS:
        if key in LOCATION_SETTINGS and key not in location_options:
            continue
        section, _, name = key.rpartition(".")
        default_value, new_value = (
            values[section][name] if section else values[name] for values in (default_settings, new_settings)
        )
        stored_section = manifest.config.get(section, {}) if section else manifest.config
        stored_value = stored_section.get(name, default_value)
        if key == "memory_settings.plan":
            stored_value = manifest.memory_plan  # in its current spelling
        is_same_folder = key == "output_dir" and expand_user_path(new_value).resolve() == batch_folder.resolve().parent
        if new_value != stored_value and not is_same_folder:
            raise _make_changed_value_error(batch_folder, key, stored_value, new_value)


def _make_changed_value_error(batch_folder: Path, name: str, stored_value: object, new_value: object) -> UserError:
    is_plain = all(isinstance(value, str | int | float | None) for value in (stored_value, new_value))
    difference = (
        f"its {name} is {_format_value(stored_value)}, but these options give {_format_value(new_value)}"
        if is_plain
        else f"these options would change its {name}"
    )
    return UserError(f"cannot resume {batch_folder}: {difference}. Omit the options to resume with the stored settings")


def _format_value(value: object) -> str:
    """Format a value of a setting as users write it; None as "not set"."""
    return "not set" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _warn_of_slow_cpu(
    state_dir: "StateDirectory", device: str, missing_videos: "Sequence[tuple[int, VideoEntry]]"
) -> None:
    """Print a warning if videos would take hours because they run on a CPU."""
    from wantui.batches.batch_cost import find_slow_cpu_warning
    from wantui.batches.enqueue import can_use_gpu

    if missing_videos and not can_use_gpu(state_dir, device):
        warning = find_slow_cpu_warning(missing_videos[0][1].recipe, len(missing_videos))
        print_warnings(() if warning is None else (warning,))


def _follow_queued_batch(
    queue: "Queue",
    batch_id: int,
    missing_count: int,
    last_seq: int,
    log_folder: Path | None,
    detaches: bool,
    as_json: bool,
) -> NoReturn:
    from wantui.cli.follow import follow_batch, format_relative_path, report_batch_end, report_detached

    try:  # the batch is queued now: Ctrl-C detaches and leaves it in the queue
        batch = queue.get_batch(batch_id)
        assert batch is not None
        videos_text = format_count(missing_count, "video") if missing_count else "no video is missing"
        echo(f"batch {batch_id}: {videos_text} in {format_relative_path(batch.folder)}", err=True)
        # An engine is needed even if another one generated all videos: this queue has yet to record them as done.
        if missing_count or batch.unfinished_count:
            _ensure_engine(queue, log_folder)
        if detaches:
            _advise_and_exit(queue, batch_id, batch.folder, missing_count, as_json)
        report_batch_end(queue, follow_batch(queue, batch, last_seq, as_json), as_json)
    except KeyboardInterrupt:
        report_detached(queue, batch_id)


def _remove_refused_batch(queue: "Queue", batch_id: int, folder: "BatchFolder", manifest: "Manifest") -> None:
    """Remove a new batch that was refused before its first video, for example because its weights are missing."""
    from wantui.batches.batch_folders import remove_claimed_files

    batch = queue.get_batch(batch_id)
    if batch is not None and not batch.unfinished_count and not any(folder.root.rglob("*.mp4")):
        queue.remove_batch(batch_id)
        # Without a timestamp in its name, the user may have created the folder: keep the folder itself.
        remove_claimed_files(folder, removes_root=bool(manifest.config.get("use_timestamp", True)))


def _ensure_engine(queue: "Queue", log_folder: Path | None) -> None:
    """Start the engine unless one is running; print its warnings, and where its logs are."""
    from wantui.cli.follow import format_relative_path
    from wantui.engine.control import ensure_engine
    from wantui.queue.state_dir import StateDirectory

    engine, was_started = ensure_engine(StateDirectory(queue.path.parent), log_folder, None, report_locked_queue)
    print_warnings(tuple(engine.list_warnings()))
    if was_started:
        logs_text = format_relative_path(engine.logs_folder)
        echo(f"engine started (process {engine.process_id}, logs in {logs_text})", err=True)


def _advise_and_exit(queue: "Queue", batch_id: int, batch_folder: Path, video_count: int, as_json: bool) -> NoReturn:
    """Print how to follow a queued batch, and exit."""
    from wantui.cli.follow import format_relative_path

    folder_text = format_relative_path(batch_folder)
    if (hold := queue.read_hold()) is not None:
        echo(f"the queue is held: {hold.describe()}", err=True)
    if video_count:
        echo(f"follow its progress with\n  wantui watch {batch_id}", err=True)
    if as_json:
        print_json({"event": "detached", "batch": batch_id, "folder": str(folder_text), "videos": video_count}, None)
    else:
        echo(folder_text)
    sys.exit(0)
