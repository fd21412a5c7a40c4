"""U-turns of a batch's videos: clips, projected final latents, and the index `analysis/uturns/uturns.json`."""

import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wantui.atomic_files import atomic_write, write_text_atomically
from wantui.checksums import compute_file_sha256
from wantui.errors import UserError
from wantui.json_files import (
    UnreadableFileError,
    describe_first_validation_error,
    read_json_object,
    read_regular_file,
)
from wantui.storage.locks import lock_manifest, try_lock_video, unlock_video
from wantui.storage.mp4 import Frame, read_frames
from wantui.storage.recorded_files import RecordedFileError, RecordedFileProblem, verify_recorded_file

INDEX_NAME = "uturns.json"
MAX_INDEX_BYTES = 64 << 20
MAX_STATE_BYTES = 1 << 20
UTURN_LOCK_OFFSET = 1 << 32
"""Offset of the U-turn locks in the batch's lock file, above the video locks."""
_ADVICE_BY_PROBLEM: dict[RecordedFileProblem, str] = {
    "missing": "Run `wantui commitment uturn` again",
    "not-regular": "Move it out of the batch folder, and run `wantui commitment uturn` again",
    "unreadable": "Make it readable",
    "changed": "Delete it, and run `wantui commitment uturn` again",
}
"""Advice for a file of a U-turn that cannot be used."""


class UTurnFileError(UserError):
    """Raised for an unreadable index of U-turns, and for a file that belongs to a different U-turn."""


class UTurnEntry(BaseModel):
    """One U-turn: the final latents of a video, noised again and denoised with the generic prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str
    """ID of the video whose final latents were noised."""
    source_sha256: str | None
    """SHA-256 of these latents."""
    generic_prompt: str
    evaluation: Annotated[int, Field(ge=1)]
    """First evaluation of the continued denoising, from 0."""
    sigma: Annotated[float, Field(gt=0, lt=1)]
    """Noise level to which the latents were noised."""
    sha256: dict[str, str] = {}
    """SHA-256 of the files by kind: clip and state."""

    @property
    def id(self) -> str:
        """Return the name of the U-turn's files, unique in the batch for one generic prompt."""
        return f"{self.source}_evaluation_{self.evaluation:03d}"


class UTurnIndex(BaseModel):
    """All U-turns of a batch."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    uturns: list[UTurnEntry] = []


def get_uturn_folder(batch_folder: Path) -> Path:
    """Return the folder of a batch's U-turns, which need not exist."""
    return batch_folder / "analysis" / "uturns"


def get_uturn_index_path(batch_folder: Path) -> Path:
    """Return the path of a batch's U-turn index, which need not exist."""
    return get_uturn_folder(batch_folder) / INDEX_NAME


def make_uturn_clip_path(batch_folder: Path, entry: UTurnEntry) -> Path:
    """Return the path of a U-turn clip."""
    return get_uturn_folder(batch_folder) / f"{entry.id}.mp4"


def make_uturn_paths(batch_folder: Path, entry: UTurnEntry) -> dict[str, Path]:
    """Return the paths of a U-turn's files by kind: its clip, and its state (the projected final latents)."""
    state_path = get_uturn_folder(batch_folder) / f"{entry.id}.npy"
    return {"clip": make_uturn_clip_path(batch_folder, entry), "state": state_path}


def check_uturn_paths(batch_folder: Path, entries: Iterable[UTurnEntry]) -> None:
    """Reject U-turns whose files cannot be written because folders have their names, before hours are spent on them.

    Raises:
        UserError: a folder has the name of a clip or state.
    """
    for entry in entries:
        for path in make_uturn_paths(batch_folder, entry).values():
            if path.is_dir():
                raise UserError(f"cannot write {path}: it is a folder. Move it out of the batch folder")


def read_uturns(batch_folder: Path) -> list[UTurnEntry]:
    """Return the U-turns of a batch; empty if none were generated.

    Raises:
        UTurnFileError: the index is damaged.
    """
    path = get_uturn_index_path(batch_folder)
    try:
        return UTurnIndex.model_validate(read_json_object(path, MAX_INDEX_BYTES)).uturns
    except FileNotFoundError:
        return []
    except ValidationError as error:
        raise UTurnFileError(
            f"cannot read {path}: {describe_first_validation_error(error)}. Move it away, and run "
            "`wantui commitment uturn` again"
        ) from None
    except UnreadableFileError as error:
        if isinstance(error.__cause__, NotADirectoryError):  # a file is in the place of a folder
            return []
        raise UTurnFileError(f"cannot read {path}: {error}") from None


def add_uturn(batch_folder: Path, entry: UTurnEntry) -> None:
    """Add a U-turn with complete files and their SHA-256 to the index.

    Drop its earlier entry, and entries without files.

    Several processes may generate U-turns of one batch, so the batch is locked, and the index is read again.

    Raises:
        OSError: a file cannot be read, or the index cannot be written.
        UTurnFileError: the index is damaged.
    """
    digest_by_kind = {kind: compute_file_sha256(path) for kind, path in make_uturn_paths(batch_folder, entry).items()}
    entry = entry.model_copy(update={"sha256": digest_by_kind})
    with lock_manifest(batch_folder):
        others = (other for other in read_uturns(batch_folder) if other.id != entry.id)
        kept = [other for other in others if has_uturn_files(batch_folder, other)]
        text = UTurnIndex(uturns=[*kept, entry]).model_dump_json(indent=1)
        write_text_atomically(get_uturn_index_path(batch_folder), text)


@contextmanager
def try_lock_uturn(batch_folder: Path, entry: UTurnEntry) -> Iterator[bool]:
    """Lock the files of a U-turn against other processes; yield False if another process is writing them.

    Raises:
        OSError: the lock file cannot be opened.
    """
    lock_index = UTURN_LOCK_OFFSET + zlib.crc32(entry.id.encode())
    if not try_lock_video(batch_folder, lock_index):
        yield False
        return
    try:
        yield True
    finally:
        unlock_video(batch_folder, lock_index)


def write_uturn_state(batch_folder: Path, entry: UTurnEntry, state: NDArray[np.float32]) -> None:
    """Write the projection [k] of a U-turn's final latents.

    Raises:
        OSError: it cannot be written.
    """
    state_path = make_uturn_paths(batch_folder, entry)["state"]
    with atomic_write(state_path) as partial_path, partial_path.open("wb") as file:
        np.save(file, state, allow_pickle=False)


def has_uturn_files(batch_folder: Path, entry: UTurnEntry) -> bool:
    """Return whether the clip and the state of a U-turn exist."""
    return all(path.is_file() for path in make_uturn_paths(batch_folder, entry).values())


def read_uturn_frames(batch_folder: Path, entry: UTurnEntry) -> Iterator[Frame]:
    """Verify the clip of a U-turn, and yield its frames, uint8 [height, width, rgb].

    Raises:
        ClipError: it cannot be decoded.
        UTurnFileError: it is missing, or is not the recorded clip.
    """
    yield from read_frames(_verify_uturn_file(batch_folder, entry, "clip"))


def read_uturn_state(batch_folder: Path, entry: UTurnEntry) -> NDArray[np.float64]:
    """Return the projection [k] of a U-turn's final latents.

    Raises:
        UTurnFileError: it is missing or damaged.
    """
    path = _verify_uturn_file(batch_folder, entry, "state")
    try:
        state = np.load(io.BytesIO(read_regular_file(path, MAX_STATE_BYTES)), allow_pickle=False)
    except (OSError, ValueError, EOFError, UnreadableFileError) as error:
        raise UTurnFileError(f"cannot read {path}: {error}. {_ADVICE_BY_PROBLEM['changed']}") from error
    if state.ndim != 1 or not np.isfinite(state).all():
        raise UTurnFileError(f"cannot use {path}: its projection is not finite. {_ADVICE_BY_PROBLEM['changed']}")
    return np.asarray(state, dtype=np.float64)


def _verify_uturn_file(batch_folder: Path, entry: UTurnEntry, kind: str) -> Path:
    """Return the path of a U-turn file, after checking that it is the recorded one.

    Raises:
        UTurnFileError: it is missing, cannot be read, or is not the recorded one.
    """
    path = make_uturn_paths(batch_folder, entry)[kind]
    try:
        verify_recorded_file(path, entry.sha256.get(kind))
    except RecordedFileError as error:
        raise UTurnFileError(f"{error.reason}. {_ADVICE_BY_PROBLEM[error.problem]}") from error
    return path
