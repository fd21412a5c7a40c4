"""Layout of a batch folder. Files have the names of the older system; video numbers count from 1."""

import os
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wantui.captures import CAPTURES, CaptureKind
from wantui.captures.attention import ATTENTION
from wantui.captures.trajectory import TRAJECTORY
from wantui.errors import UserError
from wantui.paths import check_output_file

WRITTEN_FOLDERS = ("videos", *(kind.folder_name for kind in CAPTURES))
"""Names of the folders in a batch folder that workers write to."""
_RESERVED_FOLDERS = (*WRITTEN_FOLDERS, "configs", "logs")
_RESERVED_FILE_PATTERN = re.compile(r"(batch|marks)\..*")
"""Names of the files that wantui writes into a batch folder itself."""
MAX_BATCH_NAME_BYTES = 200
"""Maximum bytes of a batch name: file names may have 255 bytes, and the time stamp and a number need some of them."""
_ALLOWED_UNICODE_CATEGORIES = ("L", "M", "N")
"""First letters of the Unicode categories for letters, the marks that belong to them, and digits."""


@dataclass(frozen=True)
class BatchFolder:
    """Paths in a batch folder; creates nothing on disk."""

    root: Path

    @property
    def manifest_path(self) -> Path:
        return self.root / "batch.json"

    @property
    def journal_path(self) -> Path:
        """Return the path of the journal, which contains the changes since the manifest was written."""
        return self.root / "batch.journal.jsonl"

    @property
    def marks_path(self) -> Path:
        """Return the path of the file with the stars, rejections and notes of the videos."""
        return self.root / "marks.json"

    def find_unused_damaged_marks_path(self) -> Path:
        """Return an unused path for preserving an unreadable marks.json."""
        return self._find_unused_path("marks.damaged", ".json")

    def find_unused_damaged_journal_path(self) -> Path:
        """Return an unused path for preserving a journal with unreadable lines."""
        return self._find_unused_path("batch.journal.damaged", ".jsonl")

    def find_unused_edited_manifest_path(self) -> Path:
        """Return an unused path for preserving an edited manifest before it is replaced."""
        return self._find_unused_path("batch.edited", ".json")

    def _find_unused_path(self, stem: str, suffix: str) -> Path:
        path, number = self.root / f"{stem}{suffix}", 2
        while os.path.lexists(path):
            path = self.root / f"{stem}-{number}{suffix}"
            number += 1
        return path

    def list_preserved_files(self) -> list[Path]:
        """Return the paths of the preserved damaged journals and marks, and of the preserved edited manifests."""
        patterns = ("batch.journal.damaged*.jsonl", "batch.edited*.json", "marks.damaged*.json")
        return sorted(path for pattern in patterns for path in self.root.glob(pattern))

    @property
    def config_path(self) -> Path:
        return self.root / "configs" / "generation_config.yaml"

    @property
    def template_path(self) -> Path:
        return self.root / "configs" / "prompt_template.txt"

    @property
    def variations_path(self) -> Path:
        return self.root / "configs" / "prompt_variations.json"

    def make_clip_path(self, variation: int, number: int, cell_folder: str = "") -> Path:
        """Return the path of the MP4 of the `number`-th video (from 1) of a variation (from 0).

        Args:
            cell_folder: folder name of the video's cell; empty without a sweep.
        """
        return self.root / "videos" / f"prompt_{variation:03d}" / cell_folder / f"video_{number:03d}.mp4"

    def make_sheet_path(self, variation: int, number: int, cell_folder: str = "") -> Path:
        return self.make_clip_path(variation, number, cell_folder).with_suffix(".jpg")

    def make_checkpoint_path(self, variation: int, number: int, cell_folder: str = "") -> Path:
        """Return the path of the file from which an unfinished video resumes."""
        return self.make_clip_path(variation, number, cell_folder).with_suffix(".checkpoint")

    @property
    def log_path(self) -> Path:
        return self.root / "logs" / "batch.log"

    def make_capture_path(self, kind: CaptureKind, variation: int, number: int, cell_folder: str = "") -> Path:
        """Return the path of the zarr group of a video's capture; arguments as `make_clip_path`."""
        return self.root / kind.folder_name / f"prompt_{variation:03d}" / cell_folder / f"vid_{number:03d}.zarr"

    def make_trajectory_path(self, variation: int, number: int, cell_folder: str = "") -> Path:
        """Return the path of the zarr group of a video's trajectory; arguments as `make_clip_path`."""
        return self.make_capture_path(TRAJECTORY, variation, number, cell_folder)

    def make_attention_path(self, variation: int, number: int, cell_folder: str = "") -> Path:
        """Return the path of the zarr group of a video's attention maps; arguments as `make_clip_path`."""
        return self.make_capture_path(ATTENTION, variation, number, cell_folder)


def choose_batch_folder(output_dir: Path, name: str, created_at: datetime | None) -> BatchFolder:
    """Return the folder of a new batch; append `created_at` to the name unless it is None."""
    name = make_safe_folder_name(name)
    time_stamp = f"_{created_at:%Y%m%d_%H%M%S}" if created_at else ""
    folder = output_dir / f"{name}{time_stamp}"
    suffix_number = 2
    while created_at and os.path.lexists(
        folder
    ):  # False without permission to look: creating the folder then reports the reason
        folder = output_dir / f"{name}{time_stamp}_{suffix_number}"
        suffix_number += 1
    return BatchFolder(folder)


def make_safe_folder_name(name: str) -> str:
    """Return a name that every file system accepts: letters and digits of any script, and _ for all other runs."""
    composed_name = unicodedata.normalize("NFC", name)
    allowed_text = "".join(
        c if c in "_-" or unicodedata.category(c)[0] in _ALLOWED_UNICODE_CATEGORIES else "\0" for c in composed_name
    )
    safe_name = re.sub("\0+", "_", allowed_text).strip("_")
    # Cut between characters, but not before a combining mark, which belongs to the preceding letter.
    short_name = safe_name.encode()[:MAX_BATCH_NAME_BYTES].decode(errors="ignore")
    while (
        len(short_name) < len(safe_name) and short_name and unicodedata.category(safe_name[len(short_name)])[0] == "M"
    ):
        short_name = short_name[:-1]
    return short_name.strip("_") or "batch"


def check_command_output(path: Path, *, may_be_device: bool = False) -> None:
    """Reject an output file that a command cannot or must not write, before it spends hours on the content.

    A missing parent folder is refused too, as by other programs: a misspelt path would create a folder unnoticed. Only
    the output folders of a batch are created. (An option that names a folder for several files creates it.)

    Args:
        may_be_device: whether the command writes into a pipe or device.

    Raises:
        UserError: names the file and the reason.
    """
    creates_folders = is_output_folder_of_batch(path.absolute().parent)
    check_output_file(path, creates_folders=creates_folders, may_be_device=may_be_device)
    reject_output_over_batch_file(path)


def is_output_folder_of_batch(folder: Path) -> bool:
    """Return whether a folder, which may not exist yet, is where a batch keeps exports and results."""
    return folder.name in ("analysis", "exports") and BatchFolder(folder.parent).manifest_path.is_file()


def reject_output_over_batch_file(path: Path) -> None:
    """Reject an output path that would overwrite a file of a batch, such as a clip or batch.json.

    Raises:
        UserError: the path names an existing file of a batch.
    """
    if not path.exists():
        return
    path = path.resolve()
    for folder in path.parents:
        if not BatchFolder(folder).manifest_path.is_file():
            continue
        first, *others = path.relative_to(folder).parts
        if first in _RESERVED_FOLDERS if others else _RESERVED_FILE_PATTERN.fullmatch(first):
            raise UserError(f"cannot write {path}: it is a file of the batch {folder.name}. Choose another name")
