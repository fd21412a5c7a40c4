"""A zarr group that appears under its name only when it is whole, and can be gone on with after a crash."""

import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.planning import Recipe
from wantui.storage.atomic import sync


class NotWhole(Exception):
    """The captures that were begun are not those that were written."""


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
