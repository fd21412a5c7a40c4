"""Read stored states: directly from their files if each file contains exactly one uncompressed state, otherwise through
zarr."""

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.storage.zarr_group import convert_to_capture_error

StateRow = NDArray[np.float32]


def check_stored_states(steps: NDArray[Any], latents: Any, state_count: int) -> None:
    """Reject arrays that do not describe the stored states of one denoising run.

    Captures without checksums can contain such arrays.

    Args:
        steps: number of model evaluations before each stored state.
        latents: array of the stored states.
        state_count: number of states of the denoising, stored or not.

    Raises:
        ValueError: the latents are not floating-point numbers, or `steps` does not belong to them.
    """
    if latents.dtype.kind != "f":
        raise ValueError(f"its latents are {latents.dtype} instead of floating-point numbers")
    if steps.ndim != 1 or steps.dtype.kind not in "iu" or len(steps) != latents.shape[0]:
        raise ValueError(f"its array `steps` does not list its {latents.shape[0]} stored states")
    indices = steps.astype(np.int64)
    if (np.diff(indices) <= 0).any() or (indices < 0).any() or (indices >= state_count).any():
        raise ValueError(f"its array `steps` must increase and stay between 0 and {state_count - 1}")


class StoredStates:
    """The states of one video.

    Args:
        array: array of an opened capture, [n, channels, frames, height, width].
        state_indices: indices of the states to read; all states by default.
    """

    def __init__(self, array: Any, state_indices: Sequence[int] | None = None) -> None:
        self.array = array
        self.state_indices = range(array.shape[0]) if state_indices is None else state_indices
        self.dimension = math.prod(array.shape[1:])
        self.plain_file_folder = _find_plain_file_folder(array)

    def __len__(self) -> int:
        return len(self.state_indices)

    def read_states(self, positions: range, rows: Sequence[StateRow]) -> None:
        """Read states into rows of [dimension] float32.

        Raises:
            CaptureError: a state is damaged.
        """
        for position, row in zip(positions, rows, strict=True):
            state_index = self.state_indices[position]
            if not self._read_state_file(state_index, row):
                with convert_to_capture_error(self.array.store.root / self.array.path):
                    row[:] = np.asarray(self.array[state_index]).ravel()

    def _read_state_file(self, state_index: int, row: StateRow) -> bool:
        """Read a state from its own file if the file has exactly the expected size; return whether this succeeded."""
        if self.plain_file_folder is None:
            return False
        chunk_key = self.array.metadata.encode_chunk_key((state_index, *(0,) * (self.array.ndim - 1)))
        try:
            with (self.plain_file_folder / chunk_key).open("rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return False
                is_complete = file.readinto(row.view(np.uint8)) == row.nbytes and not file.read(1)
                # Do not keep the file in the page cache: states are large and read only once.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            return False
        if is_complete and hasattr(self.array.store, "verify_file"):
            self.array.store.verify_file(f"{self.array.path}/{chunk_key}", row)
        return is_complete


def _find_plain_file_folder(array: Any) -> Path | None:
    """Return the folder that has one file of little-endian float32 values per state; None for any other layout."""
    from zarr.codecs import BytesCodec
    from zarr.storage import LocalStore

    codecs: Sequence[Any] = getattr(array.metadata, "codecs", ())
    is_plain = len(codecs) == 1 and isinstance(codecs[0], BytesCodec) and array.dtype == np.dtype("<f4")
    if not is_plain or not isinstance(array.store, LocalStore) or array.chunks != (1, *array.shape[1:]):
        return None
    if codecs[0].to_dict().get("configuration") != {"endian": "little"}:
        return None
    return Path(array.store.root) / array.path
