"""A zarr group that appears under its name only when it is whole, and can be gone on with after a crash."""

import json
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wantui.planning import Recipe
from wantui.storage.atomic import sync


class NotWhole(Exception):
    """The captures that were begun are not those that were written."""


class ChunksMissing(ValueError):
    """Files of a group are not there, which zarr would read as zeros."""


def open_for_writing(path: Path, mode: Literal["w", "r+"]) -> Any:
    """A group all chunks of which will be written, also those that hold nothing but zeros."""
    import zarr

    zarr.config.set({"array.write_empty_chunks": True})
    return zarr.open_group(path, mode=mode)


def open_whole(path: Path) -> Any:
    """A group to be read.

    Raises:
        ChunksMissing: not all of it is there.
        Exception: of zarr, where it is damaged otherwise.
    """
    import zarr

    group = zarr.open_group(path, mode="r")
    for folder, folders, files in os.walk(path):
        if "zarr.json" not in files:
            continue
        about = json.loads((Path(folder) / "zarr.json").read_text())
        if about["node_type"] != "array":
            continue
        folders.clear()
        sizes = zip(about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"], strict=True)
        wanted = math.prod(-(-length // chunk) for length, chunk in sizes)
        found = sum(len(chunks) for _, _, chunks in os.walk(Path(folder) / "c"))
        if found < wanted:
            raise ChunksMissing(f"{wanted - found} of the {wanted} chunks of {folder} are missing; copy it again")
    return group


def checksum(values: NDArray[Any]) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def publish(partial: Path, path: Path) -> None:
    """Put a group that is whole under its final name."""
    for part in (*partial.rglob("*"), partial):
        sync(part)
    remove(path)
    partial.rename(path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Remove a group, if it is there."""
    if path.exists():
        shutil.rmtree(path)


def is_published(partial: Path, path: Path, recipe: Recipe) -> bool:
    """Whether the process before us ended between its last capture and the record of the video."""
    import zarr

    if partial.exists() or not path.exists():
        return False
    return bool(zarr.open_group(path, mode="r").attrs["recipe"] == recipe.model_dump(mode="json"))
