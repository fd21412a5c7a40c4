"""wantui library: list, show, verify and trash batch folders."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import WantuiGroup
from wantui.cli.common_options import add_json_option
from wantui.cli.options import open_queue_for_command, print_warnings
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE
from wantui.errors import UserError
from wantui.formatting import format_count, join_and_shorten, shorten_text

if TYPE_CHECKING:
    from wantui.storage.batch_index import BatchSummary
    from wantui.storage.manifest import Manifest
    from wantui.storage.marks import BatchMarks, VideoMark

MAX_TEMPLATE_LENGTH = 200
"""Longest template in a list of batches, in characters."""
TIME_LENGTH = len("2026-11-29T01:17")
MAX_NOTE_LENGTH = 60
"""Longest note in a list of videos, in characters."""
MAX_SHOWN_CONTROL_LISTS = 20
"""Maximum number of control lists that `library show` prints; it counts the others."""
MAX_INACCESSIBLE_SHOWN = 3
"""Maximum number of unreadable folders that `library ls` names; it counts the others."""


@click.group("library", cls=WantuiGroup)
def command() -> None:
    """List, show, verify and trash batch folders."""


@command.command("ls")
@click.argument("folders", nargs=-1, type=PATH_TYPE)
@click.option(
    "--search",
    "search_text",
    default="",
    help="Words in names, templates, models, prompts, seeds, samplers or notes, and settings such as cfg_scale=5.",
)
@add_json_option
def list_batch_folders(folders: tuple[Path, ...], search_text: str, as_json: bool) -> None:
    """List the batches in FOLDERS, newest first.  [default: outputs]

    Unreadable batches are also reported on stderr; the exit code is then 1.
    """
    from wantui.storage.batch_index import find_batches, find_inaccessible_folders

    root_folders = folders or (Path("outputs"),)
    for root_folder in root_folders:
        if folders and not root_folder.is_dir():
            reason = "it is not a folder" if root_folder.exists() else "it does not exist"
            raise UserError(f"cannot list {root_folder}: {reason}")
    batches = find_batches(root_folders)
    matching_batches = batches
    if search_text.split():
        from wantui.tui.library.search import select_batches, suggest_setting_names  # imports numpy

        matching_batches = select_batches(search_text, batches)
        if batches and not matching_batches:
            searched_text = f"{search_text!r} in {format_count(len(batches), 'batch', 'batches')}"
            echo(f"no match for {searched_text}{suggest_setting_names(search_text)}", err=True)
    if not batches:
        echo(f"no batches in {', '.join(map(str, root_folders))}", err=True)
    if inaccessible_folders := find_inaccessible_folders(root_folders):
        echo(
            f"skipped {format_count(len(inaccessible_folders), 'folder')} (permission denied): "
            f"{join_and_shorten(inaccessible_folders, MAX_INACCESSIBLE_SHOWN)}",
            err=True,
        )
    _print_batch_summaries(matching_batches, as_json)
    if not folders:
        _print_unlisted_folders(root_folders[0])
    damaged_batches = [batch for batch in batches if batch.fault]
    for batch in damaged_batches:
        echo(f"{batch.folder}: {batch.fault}", err=True)
    if damaged_batches:
        sys.exit(1)


def _print_unlisted_folders(listed_folder: Path) -> None:
    """Print a note about the folders of the queue's batches that are not in the listed folder."""
    import shlex
    import sqlite3

    from wantui.queue.batch_lookup import read_batch_folders
    from wantui.queue.state_dir import locate_state_directory

    try:
        batch_folders = read_batch_folders(locate_state_directory()).values()
    except (UserError, OSError, sqlite3.Error) as error:
        echo(f"note: cannot read which other folders contain batches of the queue: {error}", err=True)
        return
    parents = [folder.parent for folder in batch_folders if folder.is_dir()]
    other_parents = list(dict.fromkeys(parent for parent in parents if parent != listed_folder.resolve()))
    if not other_parents:
        return
    count_text = format_count(sum(parent in other_parents for parent in parents), "batch", "batches")
    command_text = shlex.join(map(str, (listed_folder, *other_parents) if listed_folder.is_dir() else other_parents))
    echo(
        f"note: {count_text} of the queue not in {listed_folder}. List all: wantui library ls {command_text}", err=True
    )


def _print_batch_summaries(batches: "list[BatchSummary]", as_json: bool) -> None:
    if as_json:
        print_json([batch.as_json() for batch in batches])
        return
    if not batches:
        return
    table_rows = [("created", "done", "failed", "model", "folder", "template")]
    for batch in batches:
        done_text = (
            "unreadable"
            if batch.fault and not batch.counts_by_state
            else f"{batch.count_videos('done')}/{batch.video_count}"
        )
        template = shorten_text(" ".join(batch.template.split()), MAX_TEMPLATE_LENGTH)
        table_rows.append(
            (
                _format_local_time(batch.created_at),
                done_text,
                str(batch.count_videos("failed")),
                batch.model,
                str(batch.folder),
                template,
            )
        )
    print_columns(*table_rows)


def _format_local_time(created_at: str) -> str:
    """Return a time in ISO 8601 in local time, to the minute, as in names of batch folders; other text is cut off."""
    try:
        return datetime.fromisoformat(created_at).astimezone().isoformat(timespec="minutes")[:TIME_LENGTH]
    except (ValueError, OverflowError):
        return created_at[:TIME_LENGTH]


@command.command("show")
@click.argument("folder", type=BATCH_FOLDER_TYPE)
@add_json_option
def show_batch_folder(folder: Path, as_json: bool) -> None:
    """List the videos of a batch, with their states, clips, stars, rejections and notes.

    Also print the videos' controls, and each evaluation's guidance, prompts and bends if they change.

    Damage to the batch journal, to marks.json or to a prompt schedule is reported on stderr; the exit code is then 1.
    """
    from wantui.keyframes import KeyframeError
    from wantui.planning.evaluation_prompts import build_evaluation_prompts_attribute
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.manifest_file import list_edit_warnings
    from wantui.storage.marks import read_marks

    manifest, marks = read_manifest(BatchFolder(folder)), read_marks(BatchFolder(folder))
    print_warnings(list_edit_warnings(BatchFolder(folder)))
    faults = [*manifest.faults, *marks.faults]
    if as_json:
        document = manifest.model_dump(mode="json")
        for video, entry in zip(document["videos"], manifest.videos, strict=True):
            video["mark"] = marks.get_mark(entry.id).model_dump()
            try:
                video |= build_evaluation_prompts_attribute(entry.recipe)
            except KeyframeError as error:
                faults.append(f"cannot list the prompts of video {entry.id}: {error}")
        print_json(document)
    else:
        _print_manifest_videos(manifest, marks)
        faults += _print_controls(manifest)
    for fault in faults:
        echo(fault, err=True)
    if faults:
        sys.exit(1)


def _print_manifest_videos(manifest: "Manifest", marks: "BatchMarks") -> None:
    echo(manifest.template, err=True)
    has_marks = bool(marks.marks_by_video)
    has_cells = manifest.sweep is not None
    table_rows = [
        (
            "variation",
            *(["cell"] if has_cells else []),
            "seed",
            "state",
            "seconds",
            *(["mark"] if has_marks else []),
            "clip",
        )
    ]
    for video in manifest.videos:
        seconds_text = f"{video.generation_seconds:.1f}" if video.seconds else ""
        detail_text = video.files.get("clip", video.error or "")
        mark_cells = [_format_mark(marks.get_mark(video.id))] if has_marks else []
        variation_id = manifest.variations[video.variation].id
        cell = manifest.find_cell(video)
        cell_cells = [cell.label] if cell is not None else []
        table_rows.append(
            (variation_id, *cell_cells, str(video.seed), video.state, seconds_text, *mark_cells, detail_text)
        )
    print_columns(*table_rows)


def _print_controls(manifest: "Manifest") -> list[str]:
    """Print the controls of the videos, and the values that change during denoising; return errors.

    Videos that differ only in the seed, or in prompts that no control changes, are shown once.
    """
    from wantui.keyframes import KeyframeError
    from wantui.planning.step_table import build_step_table

    faults, shown = [], set()
    for video in manifest.videos:
        control_rows = tuple(
            (control, name, str(value))
            for control, values in video.recipe.list_control_values().items()
            for name, value in values.items()
        )
        try:
            step_table = build_step_table(video.recipe)
        except KeyframeError as error:
            faults.append(f"cannot show the steps of video {video.id}: {error}")
            step_table = None
        if (not control_rows and step_table is None) or (control_rows, step_table) in shown:
            continue
        shown.add((control_rows, step_table))
        if len(shown) > MAX_SHOWN_CONTROL_LISTS:
            continue
        cell = manifest.find_cell(video)
        has_prompts = step_table is not None and "prompt" in step_table.headers
        names = [manifest.variations[video.variation].id] if has_prompts else []
        names += [] if cell is None else [cell.label]
        echo(f"\ncontrols of {', '.join(names)}:" if names else "\ncontrols:")
        if control_rows:
            print_columns(("control", "setting", "value"), *control_rows)
        if step_table is not None:
            echo()
            print_columns(step_table.headers, *step_table.rows)
    if len(shown) > MAX_SHOWN_CONTROL_LISTS:
        echo(f"\n... and {len(shown) - MAX_SHOWN_CONTROL_LISTS:,} more lists of controls (--json prints all)")
    return faults


def _format_mark(mark: "VideoMark") -> str:
    """Return a mark in one line: "star: the best one"."""
    words = [word for word, is_set in (("star", mark.star), ("reject", mark.reject)) if is_set]
    note = shorten_text(" ".join(mark.note.split()), MAX_NOTE_LENGTH)
    return ": ".join(part for part in (" ".join(words), note) if part)


@command.command("check")
@click.argument("batches", metavar="BATCH...", nargs=-1, required=True, type=BATCH_FOLDER_TYPE)
@click.option("--json", "as_json", is_flag=True, help="Print every item as JSON.")
def check_batch_folders(batches: tuple[Path, ...], as_json: bool) -> None:
    """Verify the files of each BATCH against their checksums.

    Reads every manifest and capture, and decodes every clip. Damaged items, and items that you may not read, are
    printed; the exit code is then 1. Files of earlier versions have no checksums: they are read, and counted as
    unverified. Exit code 2: a BATCH is not a batch folder.
    """
    from wantui.storage.batch_check import check_batch, is_batch_folder
    from wantui.storage.manifest_errors import explain_missing_manifest

    checked_items, other_folders = [], []
    with open_progress_line() as line:
        for batch in batches:
            if not is_batch_folder(batch):
                other_folders.append(batch)
                continue
            line.show_phase(f"checking {batch}")
            for checked_item in check_batch(batch):
                checked_items.append(checked_item)
                if checked_item.damage and not as_json:
                    line.erase()
                    item_prefix = (
                        f"{checked_item.batch_folder}: {checked_item.video_name}"
                        if checked_item.video_name
                        else str(checked_item.batch_folder)
                    )
                    echo(f"{item_prefix}: {checked_item.damage}")
                line.show_count(f"checking {batch}: {format_count(len(checked_items), 'item')} checked")
    unreadable_count = sum(checked_item.is_unreadable for checked_item in checked_items)
    damaged_count = sum(bool(checked_item.damage) for checked_item in checked_items) - unreadable_count
    unverified_count = sum(not checked_item.is_verified for checked_item in checked_items)
    if as_json:
        print_json([checked_item.as_json() for checked_item in checked_items])
    summary_text = f"{format_count(len(checked_items), 'item')} checked, {damaged_count:,} damaged"
    if unreadable_count:
        summary_text += f", {unreadable_count:,} unreadable (their content was not checked)"
    if unverified_count:
        summary_text += f", {unverified_count:,} without checksums (written by an earlier version)"
    echo(summary_text, err=True)
    for other_folder in other_folders:
        reason = explain_missing_manifest(other_folder)
        if other_folder.exists():
            reason = f"it is not a batch folder: {reason}"
        echo(f"cannot check {other_folder}: {reason}. List the batches in a folder: wantui library ls FOLDER", err=True)
    if damaged_count or unreadable_count or other_folders:
        sys.exit(1 if damaged_count or unreadable_count else 2)


@command.command("trash")
@click.argument("folder", type=PATH_TYPE)
def trash_batch_folder(folder: Path) -> None:
    """Move a batch folder to the trash, unless it has unfinished videos."""
    from wantui.storage.batch_index import move_to_trash

    with open_queue_for_command() as queue:
        queued_batch = next((batch for batch in queue.list_batches() if batch.folder == folder.resolve()), None)
        if queued_batch is not None and queued_batch.unfinished_count:
            raise UserError(
                f"cannot trash {folder}: it is in the queue. First run: wantui queue cancel {queued_batch.id}"
            )
        move_to_trash(folder)
        if queued_batch is not None and queue.get_batch(queued_batch.id) is not None:  # it may just have been removed
            queue.remove_batch(queued_batch.id)
    echo(f"moved {folder} to the trash", err=True)
