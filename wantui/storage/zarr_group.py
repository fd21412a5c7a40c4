"""Zarr groups that appear under their name only once they are complete, with checksums that are verified on reading.

The attribute `checksums` of a published group holds the CRC-32 of each of its files by relative path (chunks and the
`zarr.json` of each array), and under `zarr.json` that of the root's metadata without this one entry. Groups of
versions before 0.2 have none, and are read unverified.
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

from wantui.atomic_files import remove, sync, write_text
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
    """Stored captures that are missing, damaged or of an unknown form; the text names the file and the reason."""


def open_group_for_writing(path: Path, mode: Literal["w", "r+"]) -> Any:
    """Open a group for writing; all-zero chunks are written too."""
    import zarr

    from wantui.storage.local_store import BatchFolderStore

    zarr.config.set({"array.write_empty_chunks": True})
    return zarr.open_group(BatchFolderStore(path), mode=mode)


def reopen_group_for_writing(partial: Path) -> Any:
    """Open a group that an earlier process began.

    Raises:
        IncompleteCaptureError: it holds something other than files and folders, such as a symbolic link, or a pipe,
            whose reader would wait for ever: it is not what that process wrote.
        Exception: of zarr, where it is missing or damaged.
    """
    if (odd := _find_special_file(partial)) is not None:
        raise IncompleteCaptureError(f"{odd} is not a regular file")
    # zarr renames each chunk from a file like this; a process that was killed meanwhile left one behind.
    for leftover in partial.rglob("*.partial"):
        leftover.unlink()
    return open_group_for_writing(partial, "r+")


@contextmanager
def raise_capture_error(path: Path) -> Iterator[None]:
    """Turn any error of reading a damaged group into a CaptureError that names it.

    zarr and its codecs have no common error type: TypeError, MetadataValidationError, RuntimeError, IndexError and
    others come out of damaged files.
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


def _describe_error(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.partition("\n")[0] or type(error).__name__


def open_capture(path: Path) -> Any:
    """Open a published group for reading; each chunk is verified when it is read.

    Raises:
        CaptureError: part of it is missing, or its metadata are damaged.
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
            raise CaptureError(f"{path} is an array of zarr, and must be a group")
        checksums = _read_checksums(path, root)
        nodes = _list_nodes(path, checksums)
        import zarr

        from wantui.storage.verified_store import VerifiedStore

        group = zarr.open_group(store=VerifiedStore(path, checksums, _mismatch_error), mode="r")
        arrays = [name for name in nodes if hasattr(group[name], "shape")]
        for name in arrays:
            if missing := _describe_missing_chunks(path, name, group[name].metadata):
                raise CaptureError(f"{missing}; copy it again")
        for name in checksums or ():
            if not (path / name).is_file():  # a folder of that name would leave out the whole array
                raise CaptureError(f"{path / name} is missing, or not a regular file; copy it again")
        return group, arrays, checksums


def verify_capture(path: Path) -> bool:
    """Read all of a published group; return whether it has checksums, which earlier versions did not write.

    Raises:
        CaptureError: part of it is missing or damaged.
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
    return CaptureError(f"{path} is damaged: its bytes are not those that were written (CRC-32); copy it again")


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
    """Return the names of all groups and arrays below a group, by their metadata files, which are verified."""
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
    """Raise what hinders a walk, which else leaves out a folder that may not be entered."""
    raise error


def _read_node_type(file: Path, metadata: dict[str, Any]) -> str:
    kind = metadata.get("node_type")
    if kind not in ("array", "group") or metadata.get("zarr_format") != 3:
        raise CaptureError(f"{file} is damaged: it describes neither a group nor an array of zarr format 3")
    return str(kind)


def _describe_missing_chunks(path: Path, name: str, metadata: Any) -> str | None:
    """Return which chunks of an array are missing, in words: they would be read as zeros. None if all are there.

    Files are not counted, because a stray one (.DS_Store) would hide a missing chunk. Of a sharded array each shard is
    looked for, which is what its chunk grid is made of.
    """
    grid = [-(-length // chunk) for length, chunk in zip(metadata.shape, _file_shape(metadata), strict=True)]
    wanted, there = math.prod(grid), _list_regular_files(path / name)
    # Damaged metadata can ask for more chunks than could be listed: so many files there are not, either.
    missing = wanted - len(there)
    if missing <= 0:
        missing = sum(metadata.encode_chunk_key(position) not in there for position in product(*map(range, grid)))
    return f"{missing} of the {wanted:,} chunks of {path / name} are missing" if missing > 0 else None


def _file_shape(metadata: Any) -> Sequence[int]:
    """Return the shape of what a file holds: a chunk, or a shard of a sharded array."""
    grid = getattr(metadata, "chunk_grid", None)
    return tuple(grid.chunk_shape if grid is not None else metadata.chunks)


def _list_regular_files(folder: Path) -> set[str]:
    regular = set()
    for parent, _, files in os.walk(folder, onerror=_raise_walk_error):
        for file in files:
            path = Path(parent) / file
            if path.is_file():  # a FIFO in the place of a chunk would be waited for
                regular.add(path.relative_to(folder).as_posix())
    return regular


def array_crc(values: NDArray[Any], before: int = 0) -> int:
    """Return the CRC-32 of an array's bytes, continued from that of the preceding bytes."""
    return zlib.crc32(np.ascontiguousarray(values).data, before)


def constant_crc(partial: Path, growing: Collection[str], derived: Collection[str] = ()) -> int:
    """Return the CRC-32 of the parts of a group that do not change while a video is rendered.

    These are the metadata of its arrays, and the values of those that are complete from the beginning.

    Args:
        growing: arrays that are written step by step, by path; their values do not count.
        derived: arrays that are written at the end.
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
    """Put a complete group under its final name, with the checksums of its files.

    Raises:
        CaptureError: it holds something that is neither a file nor a folder, which no writer made, or lacks a chunk.
    """
    if (odd := _find_special_file(partial)) is not None:
        raise CaptureError(f"cannot complete {path}: {odd} is neither a file nor a folder. Make the video again")
    _refuse_missing_chunks(partial, path)
    _write_checksums(partial)
    for part in (*partial.rglob("*"), partial):
        sync(part)
    remove(path)
    partial.rename(path)
    sync(path.parent)


def _refuse_missing_chunks(partial: Path, path: Path) -> None:
    """Refuse a group from which files were removed while it was written: checksums, computed later, would miss it.

    Raises:
        CaptureError: names what is missing.
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
            raise CaptureError(f"cannot complete {path}: {missing}. Make the video again: wantui queue retry")


def _find_special_file(partial: Path) -> Path | None:
    """Return a part of a group that is neither a regular file nor a folder: no writer creates one."""
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
    write_text(partial / METADATA_FILE, json.dumps(root, indent=1))


def is_published(partial: Path, path: Path, recipe: Recipe) -> bool:
    """Return whether the previous process ended between its last capture and the record of the video.

    Recipes are compared as values: an earlier version may have stored the same one in another format.
    """
    if partial.exists() or not path.exists():
        return False
    return parse_recipe(open_capture(path).attrs["recipe"]) == recipe
