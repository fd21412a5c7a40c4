"""analysis/information_WORD.json: the information gap of a batch's videos, as `wantui score` measured it.

There is one file for each generic word. It contains the SHA-256 of its other fields, like batch.json.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wantui.atomic_files import write_text_atomically
from wantui.checksums import compute_document_checksum
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.json_files import UnreadableFileError, describe_first_validation_error, parse_json, read_json_object
from wantui.storage.layout import make_safe_folder_name
from wantui.storage.locks import lock_manifest
from wantui.storage.video_files import make_parent_folders

MAX_INFORMATION_BYTES = 256 << 20
FILE_PREFIX = "information_"
MAX_NAME_LENGTH = 60
"""Maximum characters of a generic word in the name of its file; longer words are cut, and end in a digest."""
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]


class InformationFileError(UserError):
    """Raised for a damaged file, or a file of a different measurement; the text gives the remedy."""


class _FileSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelEntry(_FileSection):
    """One noise level of the quadrature."""

    sigma: FiniteNumber
    weight: FiniteNumber
    """Factor of the squares in the integral, in nats."""
    is_in_window: bool


class ScoreEntry(_FileSection):
    """Sums of squared velocity differences of one video, one at each noise level.

    The sums are over all latent values, and averaged over the draws of noise.
    """

    prompt: str
    word: str
    """Word of the prompt that was replaced."""
    generic_prompt: str
    latents_sha256: str
    """SHA-256 of the measured latents in float32."""
    device: str
    squared_gaps: list[FiniteNumber]
    """|v_c - v_0|^2."""
    pointwise_gains: list[FiniteNumber]
    """|v_0 - v*|^2 - |v_c - v*|^2, where v* is noise minus video."""
    squared_errors: list[FiniteNumber]
    """|v_c - v*|^2."""


class InformationFile(_FileSection):
    """Content of one generic word's information file."""

    format: Literal[1] = 1
    wantui: str
    generic: str
    draws: Annotated[int, Field(ge=1)]
    """Draws of noise at each level."""
    levels: list[LevelEntry]
    videos: dict[str, ScoreEntry]
    """Values by video id."""

    @model_validator(mode="after")
    def check_lengths(self) -> "InformationFile":
        """Reject entries that do not have one value for each level."""
        for video_id, entry in self.videos.items():
            for values in (entry.squared_gaps, entry.pointwise_gains, entry.squared_errors):
                if len(values) != len(self.levels):
                    raise ValueError(
                        f"{video_id} has {format_count(len(values), 'value')} instead of {len(self.levels)}"
                    )
        return self

    def has_same_measurement(self, other: "InformationFile") -> bool:
        """Return whether the values of two files were measured in the same way, so that they can be merged."""
        return (self.generic, self.draws, self.levels) == (other.generic, other.draws, other.levels)


def get_information_path(batch_folder: Path, generic: str) -> Path:
    """Return the path of a generic word's information file in a batch folder."""
    name = make_safe_folder_name(generic)
    if name != generic:  # other words could give the same name
        name = f"{name[:MAX_NAME_LENGTH]}-{hashlib.sha256(generic.encode()).hexdigest()[:8]}"
    return batch_folder / "analysis" / f"{FILE_PREFIX}{name}.json"


def list_information_paths(batch_folder: Path) -> list[Path]:
    """Return the paths of all of a batch's information files, ordered by name."""
    return sorted((batch_folder / "analysis").glob(f"{FILE_PREFIX}*.json"))


def _write_information(batch_folder: Path, content: InformationFile) -> Path:
    """Replace the file atomically; return its path.

    Raises:
        OSError: the file cannot be written.
        LinkedFolderError: the folder is a symbolic link.
    """
    path = get_information_path(batch_folder, content.generic)
    make_parent_folders(batch_folder, path)
    document = parse_json(content.model_dump_json())
    document["checksum"] = compute_document_checksum(document)
    write_text_atomically(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    return path


def read_information(path: Path) -> InformationFile | None:
    """Return the content of an information file; None if the file does not exist.

    Raises:
        InformationFileError: the file is damaged.
    """
    try:
        document: dict[str, Any] = read_json_object(path, MAX_INFORMATION_BYTES)
    except FileNotFoundError:
        return None
    except UnreadableFileError as error:
        raise InformationFileError(str(error)) from error
    if document.get("checksum") != compute_document_checksum(document):
        raise InformationFileError(
            f"{path} is damaged: its SHA-256 does not match. Restore it from a backup, or remove it and measure again"
        )
    del document["checksum"]
    try:
        return InformationFile.model_validate(document)
    except ValidationError as error:
        raise InformationFileError(f"{path} is damaged: {describe_first_validation_error(error)}") from None


def reject_other_measurement(path: Path, stored: InformationFile | None, content: InformationFile) -> None:
    """Reject a stored file to which the values of `content` cannot be added.

    Raises:
        InformationFileError: it was measured in another way.
    """
    if stored is None or stored.has_same_measurement(content):
        return
    start = min(level.sigma for level in stored.levels if level.is_in_window)
    raise InformationFileError(
        f"{path} was measured with {format_count(stored.draws, 'draw')} at {len(stored.levels)} other noise levels "
        f"(its window starts below sigma {start:.4g}). Use its --window and --draws, or replace its values with --fresh"
    )


def merge_information(batch_folder: Path, content: InformationFile, replaces_other: bool = False) -> Path:
    """Add the videos to the file, and return its path.

    Several processes may measure videos of one batch, so the batch is locked, and the file is read again.

    Args:
        replaces_other: replace a file of another measurement.

    Raises:
        OSError: the file cannot be written.
        InformationFileError: the file is damaged, or belongs to another measurement.
        LinkedFolderError: the folder is a symbolic link.
    """
    with lock_manifest(batch_folder):
        path = get_information_path(batch_folder, content.generic)
        stored = read_information(path)
        if not replaces_other:
            reject_other_measurement(path, stored, content)
        if stored is not None and stored.has_same_measurement(content):
            content = content.model_copy(update={"videos": {**stored.videos, **content.videos}})
        return _write_information(batch_folder, content)
