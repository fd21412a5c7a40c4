"""wantui library: list, show, verify and trash batch folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.commands import Group
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.types import PATH
from wantui.errors import UserError
from wantui.formatting import format_count, shorten_text

if TYPE_CHECKING:
    from wantui.storage.batch_index import BatchSummary
    from wantui.storage.manifest import Manifest

MAX_TEMPLATE_LENGTH = 200
"""Longest template in a list of batches, in characters."""

MAX_CLOSED_SHOWN = 3
"""Maximum number of unreadable folders that `library ls` names; it counts the others."""


@click.group("library", cls=Group)
def command() -> None:
    """List, show, verify and trash batch folders."""


@command.command("ls")
@click.argument("folders", nargs=-1, type=PATH)
@click.option("--search", default="", help="Text to find in the name, template or model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(folders: tuple[Path, ...], search: str, as_json: bool) -> None:
    """List the batches in FOLDERS, newest first.  [default: outputs]

    Unreadable batches are also reported on stderr; the exit code is then 1.
    """
    from wantui.storage.batch_index import find_batches, find_inaccessible_folders

    roots = folders or (Path("outputs"),)
    for root in roots:
        if folders and not root.is_dir():
            reason = "it is not a folder" if root.exists() else "no such folder"
            raise UserError(f"cannot list {root}: {reason}")
    batches = find_batches(roots)
    matching = [batch for batch in batches if batch.matches(search)]
    if batches and not matching:
        echo(f"no match for {search!r} in {format_count(len(batches), 'batch', 'batches')}", err=True)
    elif not batches:
        echo(f"no batches in {', '.join(map(str, roots))}", err=True)
    if closed := find_inaccessible_folders(roots):
        omitted_text = ", ..." if len(closed) > MAX_CLOSED_SHOWN else ""
        names = ", ".join(map(str, closed[:MAX_CLOSED_SHOWN])) + omitted_text
        echo(
            f"skipped {format_count(len(closed), 'folder')} (permission denied): {names}",
            err=True,
        )
    _print_batches(matching, as_json)
    damaged = [batch for batch in batches if batch.fault]
    for batch in damaged:
        echo(f"{batch.folder}: {batch.fault}", err=True)
    if damaged:
        sys.exit(1)


def _print_batches(batches: "list[BatchSummary]", as_json: bool) -> None:
    if as_json:
        print_json([vars(batch) | {"folder": str(batch.folder), "counts": dict(batch.counts)} for batch in batches])
        return
    if not batches:
        return
    lines = [("created", "done", "failed", "model", "folder", "template")]
    for batch in batches:
        done = "unreadable" if batch.fault and not batch.counts else f"{batch.count_videos('done')}/{batch.total}"
        template = shorten_text(" ".join(batch.template.split()), MAX_TEMPLATE_LENGTH)
        lines.append(
            (batch.created[:16], done, str(batch.count_videos("failed")), batch.model, str(batch.folder), template)
        )
    print_columns(*lines)


@command.command("show")
@click.argument("folder", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folder: Path, as_json: bool) -> None:
    """List the videos of a batch, with their states and clips.

    Damage to the batch journal is reported on stderr; the exit code is then 1.
    """
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest

    manifest = read_manifest(BatchFolder(folder))
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        _print_videos(manifest)
    for fault in manifest.faults:
        echo(fault, err=True)
    if manifest.faults:
        sys.exit(1)


def _print_videos(manifest: "Manifest") -> None:
    echo(manifest.template, err=True)
    lines = [("variation", "seed", "state", "seconds", "clip")]
    for video in manifest.videos:
        seconds = f"{video.seconds.get('denoise', 0) + video.seconds.get('decode', 0):.1f}" if video.seconds else ""
        detail = video.files.get("clip", video.error or "")
        lines.append((manifest.variations[video.variation].id, str(video.seed), video.state, seconds, detail))
    print_columns(*lines)


@command.command("check")
@click.argument("batches", metavar="BATCH...", nargs=-1, required=True, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print every item as JSON.")
def check(batches: tuple[Path, ...], as_json: bool) -> None:
    """Verify the files of each BATCH against their checksums.

    Reads every manifest and capture, and decodes every clip. Damaged items are printed; the exit code is then 1. Files
    of earlier versions have no checksums: they are read, and counted as unverified. Exit code 2: a BATCH is not a batch
    folder.
    """
    from wantui.storage.batch_check import check_batch, is_batch_folder

    items, others = [], []
    for batch in batches:
        if not is_batch_folder(batch):
            others.append(batch)
            continue
        for item in check_batch(batch):
            items.append(item)
            if item.damage and not as_json:
                prefix = f"{item.batch}: {item.video}" if item.video else str(item.batch)
                echo(f"{prefix}: {item.damage}")
    damaged = sum(bool(item.damage) for item in items)
    unverified = sum(not item.is_verified for item in items)
    if as_json:
        print_json([vars(item) | {"batch": str(item.batch), "path": str(item.path)} for item in items])
    summary = f"{format_count(len(items), 'item')} checked, {damaged:,} damaged"
    if unverified:
        summary += f", {unverified:,} without checksums (made by an earlier version)"
    echo(summary, err=True)
    for other in others:
        reason = "it is not a batch folder: it has no batch.json" if other.is_dir() else "no such folder"
        echo(f"cannot check {other}: {reason}. List the batches in a folder: wantui library ls FOLDER", err=True)
    if damaged or others:
        sys.exit(1 if damaged else 2)


@command.command("trash")
@click.argument("folder", type=PATH)
def trash(folder: Path) -> None:
    """Move a batch folder to the trash, unless it has unfinished videos."""
    from wantui.engine.control import open_queue
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.batch_index import move_to_trash

    with open_queue(find_state_directory())[0] as queue:
        queued = next((batch for batch in queue.batches(-1) if batch.folder == folder.resolve()), None)
        if queued is not None and queued.unfinished:
            raise UserError(f"cannot trash {folder}: it is on the queue. First run: wantui queue cancel {queued.id}")
        move_to_trash(folder)
        if queued is not None:
            queue.remove(queued.id)
    echo(f"moved {folder} to the trash", err=True)
