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

from wantui.atomic_files import publish_folder, write_text_atomically
from wantui.errors import UserError, find_shortage
from wantui.json_files import UnreadableFileError, read_json_object, read_regular_file
from wantui.planning import Recipe
from wantui.planning.recipe import parse_recipe
from wantui.storage.output_errors import is_outage
from wantui.storage.recipe_differences import describe_recipe_mismatch
from wantui.storage.zarr_import import import_zarr

METADATA_FILE_NAME = "zarr.json"
CHECKSUMS_ATTRIBUTE = "checksums"
CrcsByPath = Mapping[str, int]
"""CRC-32 by path relative to the group."""


class PartialCaptureError(Exception):
    """Raised if a partial capture differs from what was written."""


class CaptureError(UserError):
    """Raised for a stored capture that is missing, damaged or of unknown format; the text names file and reason."""


def open_group_for_writing(path: Path, mode: Literal["w", "r+"]) -> Any:
    """Open a group for writing; all-zero chunks are written too."""
    zarr = import_zarr()
    from wantui.storage.batch_folder_store import BatchFolderStore

    zarr.config.set({"array.write_empty_chunks": True})
    return zarr.open_group(BatchFolderStore(path), mode=mode)


def reopen_group_for_writing(partial_folder: Path) -> Any:
    """Open a partial group that an earlier process started.

    Raises:
        PartialCaptureError: the group contains something else than files and folders, such as a symbolic link, or a
            pipe, on which reading would block.
        Exception: any zarr error, if the group is missing or damaged.
    """
    if (special_file := _find_special_file(partial_folder)) is not None:
        raise PartialCaptureError(f"{special_file} is not a regular file")
    # zarr writes each chunk to such a file and renames it; a killed process leaves one behind.
    for leftover_file in partial_folder.rglob("*.partial"):
        leftover_file.unlink()
    return open_group_for_writing(partial_folder, "r+")


@contextmanager
def convert_to_capture_error(path: Path) -> Iterator[None]:
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
def convert_to_partial_capture_error(partial_folder: Path) -> Iterator[None]:
    """Convert any error of reopening a partial capture inside the block to a PartialCaptureError.

    zarr and its codecs have no common error type, and the video can always start again.

    Raises:
        Exception: the file system is full, protected or unreachable, or memory, threads or file descriptors are
            lacking; the capture may be intact.
    """
    try:
        yield
    except PartialCaptureError:
        raise
    except Exception as error:
        if is_outage(error, partial_folder.parent):
            raise
        raise PartialCaptureError(f"{partial_folder.name} cannot be read ({type(error).__name__}: {error})") from None


def _describe_error(error: Exception) -> str:
    error = find_shortage(error) or error
    text = getattr(error, "strerror", None) or str(error)
    return text.partition("\n")[0] or type(error).__name__


def open_capture(path: Path, recipe: Recipe | None = None) -> Any:
    """Open a published group for reading; each chunk is verified when it is read.

    Args:
        recipe: recipe of the video that the group must belong to; None if unknown.

    Raises:
        CaptureError: a part of the group is missing, its metadata are damaged, or it belongs to another video.
    """
    return _open_verified_group(path, recipe)[0]


def open_capture_arrays(path: Path, recipe: Recipe | None = None) -> tuple[Any, dict[str, Any]]:
    """Open a published group as `open_capture` does; return the group and its opened arrays by name.

    Raises:
        CaptureError: see `open_capture`.
    """
    return _open_verified_group(path, recipe)[:2]


def _open_verified_group(path: Path, recipe: Recipe | None) -> tuple[Any, dict[str, Any], CrcsByPath | None]:
    """Return the group, its arrays by name, and its checksums."""
    with convert_to_capture_error(path):
        if not (path / METADATA_FILE_NAME).exists():
            missing_path = path / METADATA_FILE_NAME if path.exists() else path
            raise CaptureError(f"{missing_path} is missing. Restore it from the original batch folder")
        root_metadata = read_json_object(path / METADATA_FILE_NAME)
        if _read_node_type(path / METADATA_FILE_NAME, root_metadata) != "group":
            raise CaptureError(f"{path} is a zarr array instead of a group")
        crcs_by_path = _read_checksums(path, root_metadata)
        node_names = _list_node_names(path, crcs_by_path)
        zarr = import_zarr()
        from wantui.storage.verified_store import VerifiedStore, list_members

        group = zarr.open_group(store=VerifiedStore(path, crcs_by_path, _make_mismatch_error), mode="r")
        nodes_by_name = list_members(group)  # all at once: zarr waits for its thread at each call
        # `or` instead of `in` would ask each subgroup for its length, which lists its folder.
        nodes = {name: nodes_by_name[name] if name in nodes_by_name else group[name] for name in node_names}
        arrays_by_name = {name: node for name, node in nodes.items() if hasattr(node, "shape")}
        for name, array in arrays_by_name.items():
            if missing_chunks := _describe_missing_chunks(path, name, array.metadata):
                raise CaptureError(f"{missing_chunks}. Copy {path / name} again from the original batch folder")
        for name in crcs_by_path or ():
            if not (path / name).is_file():  # zarr would silently skip an array whose zarr.json is a folder
                raise CaptureError(
                    f"{path / name} is missing, or not a regular file. Copy it again from the original batch folder"
                )
        if recipe is not None:
            _reject_group_of_different_video(path, group, recipe)
        return group, arrays_by_name, crcs_by_path


def _reject_group_of_different_video(path: Path, group: Any, recipe: Recipe) -> None:
    """Reject a group of another video.

    Groups have the same names in every batch, and a copied group passes its own checksums.

    Raises:
        CaptureError: the group was recorded with another recipe.
    """
    stored_values = group.attrs.get("recipe")
    if stored_values is None or (stored_recipe := parse_recipe(stored_values)) == recipe:
        return
    raise CaptureError(describe_recipe_mismatch(path, stored_recipe, recipe))


def verify_capture(path: Path, recipe: Recipe | None = None) -> bool:
    """Read and verify a complete published group; return whether it has checksums (before 0.2 it has none).

    Args:
        recipe: recipe of the video that the group must belong to; None if unknown.

    Raises:
        CaptureError: a part of the group is missing or damaged, or it belongs to another video.
    """
    _, arrays_by_name, crcs_by_path = _open_verified_group(path, recipe)
    for name, array in arrays_by_name.items():
        with convert_to_capture_error(path / name):
            if not array.ndim:
                array[()]
                continue
            for start in range(0, array.shape[0], array.chunks[0]):
                array[start : start + array.chunks[0]]
    return crcs_by_path is not None


def _make_mismatch_error(path: Path) -> CaptureError:
    return CaptureError(f"{path} is damaged: its CRC-32 does not match. Copy it again from the original batch folder")


def _read_checksums(path: Path, root_metadata: dict[str, Any]) -> dict[str, int] | None:
    attributes = root_metadata.get("attributes")
    crcs_by_path = attributes.get(CHECKSUMS_ATTRIBUTE) if isinstance(attributes, dict) else None
    if crcs_by_path is None:
        return None
    if not isinstance(crcs_by_path, dict) or not all(type(value) is int for value in crcs_by_path.values()):
        raise CaptureError(f"{path / METADATA_FILE_NAME} is damaged: its checksums are not numbers")
    if zlib.crc32(_encode_without_own_checksum(root_metadata)) != crcs_by_path.get(METADATA_FILE_NAME):
        raise _make_mismatch_error(path / METADATA_FILE_NAME)
    return {name: value for name, value in crcs_by_path.items() if name != METADATA_FILE_NAME}


def _encode_without_own_checksum(root_metadata: dict[str, Any]) -> bytes:
    attributes = dict(root_metadata["attributes"])
    attributes[CHECKSUMS_ATTRIBUTE] = {
        name: value for name, value in attributes[CHECKSUMS_ATTRIBUTE].items() if name != METADATA_FILE_NAME
    }
    return json.dumps({**root_metadata, "attributes": attributes}, sort_keys=True).encode()


def _list_node_names(path: Path, crcs_by_path: CrcsByPath | None) -> list[str]:
    """Return the names of all groups and arrays inside a group, after verifying their metadata files."""
    node_names = []
    for folder, folders, files in os.walk(path, onerror=_raise_walk_error):
        if METADATA_FILE_NAME not in files or Path(folder) == path:
            continue
        file = Path(folder) / METADATA_FILE_NAME
        name = Path(folder).relative_to(path).as_posix()
        if crcs_by_path is not None and zlib.crc32(read_regular_file(file)) != crcs_by_path.get(
            f"{name}/{METADATA_FILE_NAME}"
        ):
            raise _make_mismatch_error(file)
        if _read_node_type(file, read_json_object(file)) == "array":
            folders.clear()
        node_names.append(name)
    return sorted(node_names)


def _raise_walk_error(error: OSError) -> NoReturn:
    """Raise an error of `os.walk`, which otherwise skips folders that may not be entered."""
    raise error


def _read_node_type(file: Path, metadata: dict[str, Any]) -> str:
    node_type = metadata.get("node_type")
    if node_type not in ("array", "group") or metadata.get("zarr_format") != 3:
        raise CaptureError(f"{file} is damaged: it describes neither a group nor an array of zarr format 3")
    return str(node_type)


def _describe_missing_chunks(path: Path, array_name: str, metadata: Any) -> str | None:
    """Describe the missing chunks of an array, which zarr would read as zeros; None if all chunks exist.

    Chunks are looked up by name instead of counting files, because a stray file (.DS_Store) would hide a missing chunk.
    For a sharded array, the chunk grid consists of shards.
    """
    chunk_grid = [
        -(-length // chunk) for length, chunk in zip(metadata.shape, _compute_file_shape(metadata), strict=True)
    ]
    expected_count, existing_files = math.prod(chunk_grid), _list_regular_files(path / array_name)
    # Compare the counts first: damaged metadata can name more chunks than can be enumerated.
    missing_count = expected_count - len(existing_files)
    if missing_count <= 0:
        missing_count = sum(
            metadata.encode_chunk_key(position) not in existing_files for position in product(*map(range, chunk_grid))
        )
    if missing_count <= 0:
        return None
    verb = "is" if missing_count == 1 else "are"
    return f"{missing_count} of the {expected_count:,} chunks of {path / array_name} {verb} missing"


def _compute_file_shape(metadata: Any) -> Sequence[int]:
    """Return the shape of the values in one file: a chunk, or a shard of a sharded array."""
    chunk_grid = getattr(metadata, "chunk_grid", None)
    return tuple(chunk_grid.chunk_shape if chunk_grid is not None else metadata.chunks)


def _list_regular_files(folder: Path) -> set[str]:
    relative_paths = set()
    for parent, _, files in os.walk(folder, onerror=_raise_walk_error):
        for file in files:
            path = Path(parent) / file
            if path.is_file():  # reading a FIFO in the place of a chunk would block
                relative_paths.add(path.relative_to(folder).as_posix())
    return relative_paths


def compute_array_crc(values: NDArray[Any], preceding_crc: int = 0) -> int:
    """Return the CRC-32 of an array's bytes, continued from the CRC-32 of preceding bytes."""
    return zlib.crc32(np.ascontiguousarray(values).data, preceding_crc)


def compute_crc_of_constant_parts(
    partial_folder: Path, growing_arrays: Collection[str], derived_arrays: Collection[str] = ()
) -> int:
    """Return the CRC-32 of a group's parts that do not change while a video is rendered.

    These are the metadata of all arrays, and the values of the arrays that are complete from the start.

    Args:
        growing_arrays: paths of arrays that are written step by step; their values are left out.
        derived_arrays: paths of arrays that are written at the end; they are left out completely.
    """
    crc = 0
    for file in sorted(file for file in partial_folder.rglob("*") if file.is_file()):
        name = file.relative_to(partial_folder).as_posix()
        is_value = any(name.startswith(f"{array}/c/") for array in growing_arrays)
        if name == METADATA_FILE_NAME or is_value or any(name.startswith(f"{array}/") for array in derived_arrays):
            continue
        crc = zlib.crc32(file.read_bytes(), zlib.crc32(name.encode(), crc))
    return crc


def publish_group(partial_folder: Path, path: Path) -> None:
    """Store the checksums of a complete group, and rename it to its final name.

    Raises:
        CaptureError: a chunk is missing, or the group contains something else than files and folders.
    """
    if (special_file := _find_special_file(partial_folder)) is not None:
        raise CaptureError(
            f"cannot complete {path}: {special_file} is neither a file nor a folder. "
            "Generate the video again: wantui queue retry"
        )
    _reject_missing_chunks(partial_folder, path)
    _write_checksums(partial_folder)
    publish_folder(partial_folder, path)


def _reject_missing_chunks(partial_folder: Path, path: Path) -> None:
    """Reject a group from which files were removed while it was written: its new checksums would not reveal that.

    Raises:
        CaptureError: describes the missing chunks.
    """
    zarr = import_zarr()
    from wantui.storage.batch_folder_store import BatchFolderStore

    group = zarr.open_group(BatchFolderStore(partial_folder), mode="r")
    for name, node in group.members(max_depth=None):
        if (
            isinstance(node, zarr.Array)
            and node.ndim
            and (missing_chunks := _describe_missing_chunks(partial_folder, name, node.metadata))
        ):
            raise CaptureError(
                f"cannot complete {path}: {missing_chunks}. Generate the video again: wantui queue retry"
            )


def _find_special_file(partial_folder: Path) -> Path | None:
    """Return a path in a group that is neither a regular file nor a folder, or None; wantui writes no such files."""
    for part in (partial_folder, *partial_folder.rglob("*")):
        mode = part.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return part
    return None


def _write_checksums(partial_folder: Path) -> None:
    root_metadata = read_json_object(partial_folder / METADATA_FILE_NAME)
    crcs_by_path = {
        file.relative_to(partial_folder).as_posix(): zlib.crc32(file.read_bytes())
        for file in sorted(partial_folder.rglob("*"))
        if file.is_file() and file != partial_folder / METADATA_FILE_NAME
    }
    root_metadata.setdefault("attributes", {})[CHECKSUMS_ATTRIBUTE] = crcs_by_path
    crcs_by_path[METADATA_FILE_NAME] = zlib.crc32(_encode_without_own_checksum(root_metadata))
    write_text_atomically(partial_folder / METADATA_FILE_NAME, json.dumps(root_metadata, indent=1))


def is_group_published(partial_folder: Path, path: Path, recipe: Recipe) -> bool:
    """Return whether an earlier process published this group, although it ended before it recorded the video.

    Recipes are compared as values, because an earlier version may have stored the same recipe in another format.
    """
    if partial_folder.exists() or not path.exists():
        return False
    return parse_recipe(open_capture(path).attrs["recipe"]) == recipe
