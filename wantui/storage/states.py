"""Stored states: read straight from their files where these hold nothing but them, and by zarr otherwise."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]


class StoredStates:
    """The states of one video.

    Args:
        array: of zarr, [n, channels, frames, height, width].
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dimension = math.prod(array.shape[1:])
        self.folder = _folder_of_plain_files(array)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def read(self, which: range, rows: Sequence[Row]) -> None:
        """Write some states into rows of [dimension] float32.

        Raises:
            Exception: of zarr, where they are damaged.
        """
        if not all(self._read_file(index, row) for index, row in zip(which, rows, strict=True)):
            for row, state in zip(rows, np.asarray(self.array[which.start : which.stop]), strict=True):
                row[:] = state.ravel()

    def _read_file(self, index: int, row: Row) -> bool:
        """Whether a state could be had from a file of its own, of just its size."""
        if self.folder is None:
            return False
        key = self.array.metadata.encode_chunk_key((index, *(0,) * (self.array.ndim - 1)))
        try:
            with (self.folder / key).open("rb", buffering=0) as file:
                whole = file.readinto(row.view(np.uint8)) == row.nbytes and not file.read(1)
                # States are read once, and are many: the kernel needs no second copy, nor to give up others' for it.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return whole
        except OSError:
            return False


def _folder_of_plain_files(array: Any) -> Path | None:
    """Where each state is a file of its little-endian float32 values; None where it is not so."""
    from zarr.codecs import BytesCodec
    from zarr.storage import LocalStore

    codecs: Sequence[Any] = getattr(array.metadata, "codecs", ())
    plain = len(codecs) == 1 and isinstance(codecs[0], BytesCodec) and array.dtype == np.dtype("<f4")
    if not plain or not isinstance(array.store, LocalStore) or array.chunks != (1, *array.shape[1:]):
        return None
    if codecs[0].endian is None or codecs[0].endian.value != "little":
        return None
    return Path(array.store.root) / array.path
