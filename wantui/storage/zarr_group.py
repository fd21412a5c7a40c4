"""Zarr groups that get their final name only when complete, with checksums that are verified on reading.

The attribute `checksums` of a published group maps the relative path of each file (chunks and the `zarr.json` of each
array) to its CRC-32; the entry `zarr.json` is the CRC-32 of the root's metadata without this entry. Groups of versions
before 0.2 have no checksums, and are read unverified.
"""

import json
import math
import os
import stat
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from wantui.atomic_files import remove_path, sync_to_disk, write_text_atomically
from wantui.errors import UserError
from wantui.json_files import UnreadableFileError, read_json_object, read_regular_file
from wantui.planning import Recipe
from wantui.planning.recipe import parse_recipe

METADATA_FILE = "zarr.json"
CHECKSUMS_ATTRIBUTE = "checksums"
Checksums = Mapping[str, int]
"""CRC-32 by path relative to the group."""


class IncompleteCaptureError(Exception):
    """Raised if a partial capture differs from what was written."""


class CaptureError(UserError):
    """Raised for a stored capture that is missing, damaged or of unknown format; the text names file and reason."""


def open_group_for_writing(path: Path, mode: Literal["w", "r+"]) -> Any:
    """Open a group for writing; all-zero chunks are written too."""
    import zarr

    from wantui.storage.local_store import BatchFolderStore

    zarr.config.set({"array.write_empty_chunks": True})
    return zarr.open_group(BatchFolderStore(path), mode=mode)


def reopen_group_for_writing(partial: Path) -> Any:
    """Open a partial group that an earlier process started.

    Raises:
        IncompleteCaptureError: the group contains something else than files and folders, such as a symbolic link, or a
            pipe, on which reading would block.
        Exception: any error of zarr, if the group is missing or damaged.
    """
    if (odd := _find_special_file(partial)) is not None:
        raise IncompleteCaptureError(f"{odd} is not a regular file")
    # zarr writes each chunk to such a file and renames it; a killed process leaves one behind.
    for leftover in partial.rglob("*.partial"):
        leftover.unlink()
    return open_group_for_writing(partial, "r+")


@contextmanager
def raise_capture_error(path: Path) -> Iterator[None]:
    """Convert any error of reading a damaged group inside the block to a CaptureError that names the group.

    zarr and its codecs have no common error type: damaged files raise TypeError, MetadataValidationError, RuntimeError,
    IndexError and others.
    """
    try:
        yield
    except UnreadableFileError as error:  # names the file
        raise CaptureError(str(error)) from error
    except UserError:
        raise
    except OSError as error:
        raise CaptureError(f"{error.filename or path} cannot be read: {_describe_error(error)}") from error
    except KeyError as error:
        raise CaptureError(f"{path} cannot be read: it has no {error}") from error
    except Exception as error:
        raise CaptureError(f"{path} cannot be read: {_describe_error(error)}") from error


@contextmanager
def raise_incomplete_capture(partial: Path) -> Iterator[None]:
    """Convert any error of reopening a partial capture inside the block to an IncompleteCaptureError.

    zarr and its codecs have no common error type, and the video can always start again.
    """
    try:
        yield
    except IncompleteCaptureError:
        raise
    except Exception as error:
        raise IncompleteCaptureError(f"{partial.name} cannot be read ({type(error).__name__}: {error})") from None


def _describe_error(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.partition("\n")[0] or type(error).__name__


def open_capture(path: Path) -> Any:
    """Open a published group for reading; each chunk is verified when it is read.

    Raises:
        CaptureError: a part of the group is missing, or its metadata are damaged.
    """
    return _open_verified(path)[0]


def _open_verified(path: Path) -> tuple[Any, list[str], Checksums | None]:
    """Return the group, the names of its arrays, and its checksums."""
    with raise_capture_error(path):
        if not (path / METADATA_FILE).exists():
            absent = path / METADATA_FILE if path.exists() else path
            raise CaptureError(f"{absent} is missing. Restore it from the original batch folder")
        root = read_json_object(path / METADATA_FILE)
        if _read_node_type(path / METADATA_FILE, root) != "group":
            raise CaptureError(f"{path} is a zarr array instead of a group")
        checksums = _read_checksums(path, root)
        nodes = _list_nodes(path, checksums)
        import zarr

        from wantui.storage.verified_store import VerifiedStore

        group = zarr.open_group(store=VerifiedStore(path, checksums, _mismatch_error), mode="r")
        arrays = [name for name in nodes if hasattr(group[name], "shape")]
        for name in arrays:
            if missing := _describe_missing_chunks(path, name, group[name].metadata):
                raise CaptureError(f"{missing}. Copy it again from the original batch folder")
        for name in checksums or ():
            if not (path / name).is_file():  # zarr would silently skip an array whose zarr.json is a folder
                raise CaptureError(
                    f"{path / name} is missing, or not a regular file. Copy it again from the original batch folder"
                )
        return group, arrays, checksums


def verify_capture(path: Path) -> bool:
    """Read and verify a complete published group; return whether it has checksums (before 0.2 it has none).

    Raises:
        CaptureError: a part of the group is missing or damaged.
    """
    group, arrays, checksums = _open_verified(path)
    for name in arrays:
        with raise_capture_error(path / name):
            array = group[name]
            if not array.ndim:
                array[()]
                continue
            for start in range(0, array.shape[0], array.chunks[0]):
                array[start : start + array.chunks[0]]
    return checksums is not None


def _mismatch_error(path: Path) -> CaptureError:
    return CaptureError(f"{path} is damaged: its CRC-32 does not match. Copy it again from the original batch folder")


def _read_checksums(path: Path, root: dict[str, Any]) -> dict[str, int] | None:
    attributes = root.get("attributes")
    checksums = attributes.get(CHECKSUMS_ATTRIBUTE) if isinstance(attributes, dict) else None
    if checksums is None:
        return None
    if not isinstance(checksums, dict) or not all(type(value) is int for value in checksums.values()):
        raise CaptureError(f"{path / METADATA_FILE} is damaged: its checksums are not numbers")
    if zlib.crc32(_encode_without_own_checksum(root)) != checksums.get(METADATA_FILE):
        raise _mismatch_error(path / METADATA_FILE)
    return {name: value for name, value in checksums.items() if name != METADATA_FILE}


def _encode_without_own_checksum(root: dict[str, Any]) -> bytes:
    attributes = dict(root["attributes"])
    attributes[CHECKSUMS_ATTRIBUTE] = {
        name: value for name, value in attributes[CHECKSUMS_ATTRIBUTE].items() if name != METADATA_FILE
    }
    return json.dumps({**root, "attributes": attributes}, sort_keys=True).encode()


def _list_nodes(path: Path, checksums: Checksums | None) -> list[str]:
    """Return the names of all groups and arrays inside a group, after verifying their metadata files."""
    names = []
    for folder, folders, files in os.walk(path, onerror=_raise_walk_error):
        if METADATA_FILE not in files or Path(folder) == path:
            continue
        file = Path(folder) / METADATA_FILE
        name = Path(folder).relative_to(path).as_posix()
        if checksums is not None and zlib.crc32(read_regular_file(file)) != checksums.get(f"{name}/{METADATA_FILE}"):
            raise _mismatch_error(file)
        if _read_node_type(file, read_json_object(file)) == "array":
            folders.clear()
        names.append(name)
    return sorted(names)


def _raise_walk_error(error: OSError) -> NoReturn:
    """Raise an error of `os.walk`, which otherwise skips folders that may not be entered."""
    raise error


def _read_node_type(file: Path, metadata: dict[str, Any]) -> str:
    kind = metadata.get("node_type")
    if kind not in ("array", "group") or metadata.get("zarr_format") != 3:
        raise CaptureError(f"{file} is damaged: it describes neither a group nor an array of zarr format 3")
    return str(kind)


def _describe_missing_chunks(path: Path, name: str, metadata: Any) -> str | None:
    """Describe the missing chunks of an array, which zarr would read as zeros; None if all chunks exist.

    Chunks are looked up by name instead of counting files, because a stray file (.DS_Store) would hide a missing chunk.
    For a sharded array, the chunk grid consists of shards.
    """
    grid = [-(-length // chunk) for length, chunk in zip(metadata.shape, _compute_file_shape(metadata), strict=True)]
    wanted, there = math.prod(grid), _list_regular_files(path / name)
    # Compare the counts first: damaged metadata can name more chunks than can be enumerated.
    missing = wanted - len(there)
    if missing <= 0:
        missing = sum(metadata.encode_chunk_key(position) not in there for position in product(*map(range, grid)))
    return f"{missing} of the {wanted:,} chunks of {path / name} are missing" if missing > 0 else None


def _compute_file_shape(metadata: Any) -> Sequence[int]:
    """Return the shape of the values in one file: a chunk, or a shard of a sharded array."""
    grid = getattr(metadata, "chunk_grid", None)
    return tuple(grid.chunk_shape if grid is not None else metadata.chunks)


def _list_regular_files(folder: Path) -> set[str]:
    regular = set()
    for parent, _, files in os.walk(folder, onerror=_raise_walk_error):
        for file in files:
            path = Path(parent) / file
            if path.is_file():  # reading a FIFO in the place of a chunk would block
                regular.add(path.relative_to(folder).as_posix())
    return regular


def compute_array_crc(values: NDArray[Any], before: int = 0) -> int:
    """Return the CRC-32 of an array's bytes, continued from the CRC-32 of preceding bytes."""
    return zlib.crc32(np.ascontiguousarray(values).data, before)


def compute_constant_crc(partial: Path, growing: Collection[str], derived: Collection[str] = ()) -> int:
    """Return the CRC-32 of the parts of a group that do not change while a video is rendered.

    These are the metadata of all arrays, and the values of the arrays that are complete from the start.

    Args:
        growing: paths of arrays that are written step by step; their values are left out.
        derived: paths of arrays that are written at the end; they are left out completely.
    """
    crc = 0
    for file in sorted(file for file in partial.rglob("*") if file.is_file()):
        name = file.relative_to(partial).as_posix()
        is_value = any(name.startswith(f"{array}/c/") for array in growing)
        if name == METADATA_FILE or is_value or any(name.startswith(f"{array}/") for array in derived):
            continue
        crc = zlib.crc32(file.read_bytes(), zlib.crc32(name.encode(), crc))
    return crc


def publish_group(partial: Path, path: Path) -> None:
    """Store the checksums of a complete group, and rename it to its final name.

    Raises:
        CaptureError: a chunk is missing, or the group contains something else than files and folders.
    """
    if (odd := _find_special_file(partial)) is not None:
        raise CaptureError(
            f"cannot complete {path}: {odd} is neither a file nor a folder. "
            "Generate the video again: wantui queue retry"
        )
    _refuse_missing_chunks(partial, path)
    _write_checksums(partial)
    for part in (*partial.rglob("*"), partial):
        sync_to_disk(part)
    remove_path(path)
    partial.rename(path)
    sync_to_disk(path.parent)


def _refuse_missing_chunks(partial: Path, path: Path) -> None:
    """Refuse a group from which files were removed while it was written: its new checksums would not reveal that.

    Raises:
        CaptureError: describes the missing chunks.
    """
    import zarr

    from wantui.storage.local_store import BatchFolderStore

    group = zarr.open_group(BatchFolderStore(partial), mode="r")
    for name, node in group.members(max_depth=None):
        if (
            isinstance(node, zarr.Array)
            and node.ndim
            and (missing := _describe_missing_chunks(partial, name, node.metadata))
        ):
            raise CaptureError(f"cannot complete {path}: {missing}. Generate the video again: wantui queue retry")


def _find_special_file(partial: Path) -> Path | None:
    """Return a part of a group that is neither a regular file nor a folder, which no writer creates, or None."""
    for part in (partial, *partial.rglob("*")):
        mode = part.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return part
    return None


def _write_checksums(partial: Path) -> None:
    root = read_json_object(partial / METADATA_FILE)
    sums = {
        file.relative_to(partial).as_posix(): zlib.crc32(file.read_bytes())
        for file in sorted(partial.rglob("*"))
        if file.is_file() and file != partial / METADATA_FILE
    }
    root.setdefault("attributes", {})[CHECKSUMS_ATTRIBUTE] = sums
    sums[METADATA_FILE] = zlib.crc32(_encode_without_own_checksum(root))
    write_text_atomically(partial / METADATA_FILE, json.dumps(root, indent=1))


def is_published(partial: Path, path: Path, recipe: Recipe) -> bool:
    """Return whether an earlier process published this group, but ended before it recorded the video.

    Recipes are compared as values, because an earlier version may have stored the same recipe in another format.
    """
    if partial.exists() or not path.exists():
        return False
    return parse_recipe(open_capture(path).attrs["recipe"]) == recipe
