"""Verify the manifest, journal, clips, contact sheets, captures and U-turns of a batch folder; report each by name."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wantui import __version__
from wantui.captures import CAPTURES
from wantui.config import ConfigError
from wantui.config.document import convert_to_plain_value, parse_yaml_document
from wantui.config.dump import dump_settings_values
from wantui.json_files import (
    UnreadableFileError,
    is_refused_by_system,
    parse_json,
    read_json_object,
    read_regular_file,
)
from wantui.planning import Recipe
from wantui.storage.information_file import InformationFileError, list_information_paths, read_information
from wantui.storage.layout import WRITTEN_FOLDERS, BatchFolder
from wantui.storage.locks import MANIFEST_LOCK_FILE, VIDEO_LOCK_FILE
from wantui.storage.manifest import MAX_MANIFEST_BYTES, Manifest, VideoEntry, has_wrong_checksum, read_manifest
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.marks import read_marks
from wantui.storage.mp4 import ClipError
from wantui.storage.recorded_files import RecordedFileError, read_recorded_frames, verify_recorded_file
from wantui.storage.uturn_file import (
    UTurnFileError,
    get_uturn_index_path,
    make_uturn_paths,
    read_uturn_frames,
    read_uturn_state,
    read_uturns,
)
from wantui.storage.video_files import LinkedFolderError
from wantui.storage.zarr_group import CaptureError, verify_capture

CAPTURE_FILE_KEYS = frozenset(kind.file_key for kind in CAPTURES)
BATCH_SUBFOLDERS = ("configs", *WRITTEN_FOLDERS, "logs", "analysis", "reports", "exports")
"""Names of the folders inside a batch folder."""


@dataclass(frozen=True)
class CheckedItem:
    """Result of verifying one of a batch's items."""

    batch_folder: Path
    video_name: str
    """Variation and seed; empty for an item that belongs to the batch itself."""
    path: Path
    damage: str = ""
    """Description of the damage; empty if the item is intact."""
    is_verified: bool = True
    """True if the item has a checksum; files of earlier versions have none, and can only be read."""
    is_unreadable: bool = False
    """True if the system refuses to read the item, for example because of its permissions; its content may be
    intact."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON output."""
        return {
            "batch": str(self.batch_folder),
            "video": self.video_name,
            "path": str(self.path),
            "damage": self.damage,
            "is_verified": self.is_verified,
            "is_unreadable": self.is_unreadable,
        }


def is_batch_folder(folder: Path) -> bool:
    """Return whether a folder contains a manifest, or other files of a batch whose manifest is missing."""
    batch = BatchFolder(folder)
    locks = (folder / MANIFEST_LOCK_FILE, folder / VIDEO_LOCK_FILE)
    for path in (batch.manifest_path, batch.journal_path, *locks, *batch.list_preserved_files()):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # `check_batch` reports that the folder cannot be read
            return True
        return True
    return False


def check_batch(folder: Path) -> Iterator[CheckedItem]:
    """Verify a batch folder; yield each item as soon as it is read."""
    batch = BatchFolder(folder)
    try:
        manifest = read_manifest(batch)
    except ManifestError as error:
        yield _make_failed_item(folder, "", batch.manifest_path, error)
        return
    yield _check_manifest(batch)
    for fault in manifest.faults:
        yield CheckedItem(folder, "", batch.journal_path, fault, is_unreadable=fault == manifest.refusal_reason)
    marks = read_marks(batch)
    for fault in marks.faults:
        yield CheckedItem(folder, "", batch.marks_path, fault, is_unreadable=marks.is_refused)
    for preserved_file in batch.list_preserved_files():
        yield CheckedItem(folder, "", preserved_file, _explain_preserved_file(preserved_file))
    for link in _find_linked_folders(folder):
        yield CheckedItem(folder, "", link, str(LinkedFolderError(link)))
    yield from _check_configs(batch, manifest)
    for path in list_information_paths(folder):
        yield _check_information(folder, path)
    yield from _check_uturns(folder, manifest)
    for entry in manifest.videos:
        if entry.state == "done":
            yield from _check_video(batch, manifest, entry)


def _check_manifest(batch: BatchFolder) -> CheckedItem:
    """Compare batch.json with its checksum; a manifest that was edited by hand remains readable."""
    try:
        document = read_json_object(batch.manifest_path, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return CheckedItem(batch.root, "", batch.manifest_path, f"{batch.manifest_path} is missing")
    except UnreadableFileError as error:
        return _make_failed_item(batch.root, "", batch.manifest_path, error)
    if has_wrong_checksum(document):
        damage = (
            f"{batch.manifest_path} has changed since wantui wrote it (SHA-256). If nobody edited it, it is damaged. "
            "Restore it from a backup. The next change of the batch saves this file as batch.edited.json"
        )
        return CheckedItem(batch.root, "", batch.manifest_path, damage)
    return CheckedItem(batch.root, "", batch.manifest_path, is_verified=document.get("checksum", "") != "")


def _explain_preserved_file(preserved_file: Path) -> str:
    if preserved_file.name.startswith("marks."):
        return (
            f"{preserved_file.name} is the former marks.json, parts of which were unreadable; wantui kept it when a "
            "video was marked. Set the missing marks again, then remove it"
        )
    if preserved_file.suffix == ".json":
        return (
            f"another program changed batch.json. wantui kept the changed file as {preserved_file.name} before it "
            f"wrote batch.json again. If the change was intended, remove {preserved_file.name}"
        )
    return (
        f"{preserved_file.name} is a journal with unreadable lines, so batch.json may not list every finished "
        f"video. Generate the missing videos with `wantui run --resume`, then remove {preserved_file.name}"
    )


def _find_linked_folders(folder: Path) -> Iterator[Path]:
    """Yield the symbolic links among the folders that wantui writes to; link targets are not searched."""
    for subfolder_name in BATCH_SUBFOLDERS:
        if (folder / subfolder_name).is_symlink():
            yield folder / subfolder_name
            continue
        for child in sorted((folder / subfolder_name).glob("prompt_*")):
            if child.is_symlink():
                yield child
            else:
                yield from (cell_folder for cell_folder in sorted(child.glob("cell_*")) if cell_folder.is_symlink())


def _check_configs(batch: BatchFolder, manifest: Manifest) -> Iterator[CheckedItem]:
    """Compare the config, template and variations files with the manifest, which has no checksums of these files."""
    variations = [entry.model_dump() for entry in manifest.variations]
    expected: tuple[tuple[Path, Callable[[str], Any], str], ...] = (
        (batch.config_path, _parse_yaml, dump_settings_values(manifest.config)),
        (batch.template_path, str, manifest.template + "\n"),
        (batch.variations_path, parse_json, json.dumps(variations)),
    )
    for path, parse_text, expected_text in expected:
        is_unreadable = False
        try:
            is_same = parse_text(read_regular_file(path).decode()) == parse_text(expected_text)
            damage = "" if is_same else f"{path} is damaged: it differs from {batch.manifest_path.name}"
        except (FileNotFoundError, NotADirectoryError):
            damage = f"{path} is missing"
        except UnreadableFileError as error:
            damage, is_unreadable = str(error), is_refused_by_system(error)
        except (ConfigError, ValueError) as error:  # of UTF-8, YAML or JSON
            damage = f"{path} is damaged: {str(error).removeprefix(f'{path}: ')}"
        yield CheckedItem(batch.root, "", path, damage, is_unreadable=is_unreadable)


def _check_information(folder: Path, path: Path) -> CheckedItem:
    try:
        read_information(path)
    except InformationFileError as error:
        return _make_failed_item(folder, "", path, error)
    return CheckedItem(folder, "", path)


def _check_uturns(folder: Path, manifest: Manifest) -> Iterator[CheckedItem]:
    """Compare the files of the U-turns with the SHA-256 in their index, and decode them."""
    try:
        entries = read_uturns(folder)
    except UTurnFileError as error:
        yield _make_failed_item(folder, "", get_uturn_index_path(folder), error)
        return
    video_name_by_id = {video.id: manifest.make_video_title(video) for video in manifest.videos}
    for entry in entries:
        video_name = video_name_by_id.get(entry.source, "")
        for kind, path in make_uturn_paths(folder, entry).items():
            try:
                if kind == "clip":
                    for _ in read_uturn_frames(folder, entry):
                        pass
                else:
                    read_uturn_state(folder, entry)
                yield CheckedItem(folder, video_name, path, is_verified=kind in entry.sha256)
            except (ClipError, UTurnFileError) as error:
                yield _make_failed_item(folder, video_name, path, error)


def _parse_yaml(text: str) -> dict[str, Any]:
    return {key: convert_to_plain_value(value) for key, value in parse_yaml_document(text, "").values.items()}


def _check_video(batch: BatchFolder, manifest: Manifest, entry: VideoEntry) -> Iterator[CheckedItem]:
    video_name = manifest.make_video_title(entry)
    recipe: Recipe | None = entry.recipe
    if manifest.wantui == __version__ and entry.recipe.digest[: len(entry.id)] != entry.id:
        # Only for this version: in other versions the recipe may have had other fields when the digest was computed.
        recipe = None  # the captures are not to blame
        yield CheckedItem(
            batch.root, video_name, batch.manifest_path, f"its recipe in {batch.manifest_path} does not match its id"
        )
    if "clip" not in entry.files:
        yield CheckedItem(batch.root, video_name, batch.manifest_path, "it is recorded as done but has no clip")
    for kind, relative_path in entry.files.items():
        path = batch.root / relative_path
        try:
            if kind in CAPTURE_FILE_KEYS:
                yield CheckedItem(batch.root, video_name, path, is_verified=verify_capture(path, recipe))
                continue
            if kind == "clip":
                for _ in read_recorded_frames(path, entry):
                    pass
            else:
                verify_recorded_file(path, entry.sha256.get(kind))
            yield CheckedItem(batch.root, video_name, path, is_verified=kind in entry.sha256)
        except (CaptureError, ClipError, RecordedFileError) as error:
            yield _make_failed_item(batch.root, video_name, path, error)


def _make_failed_item(batch_folder: Path, video_name: str, path: Path, error: Exception) -> CheckedItem:
    return CheckedItem(batch_folder, video_name, path, str(error), is_unreadable=is_refused_by_system(error))
