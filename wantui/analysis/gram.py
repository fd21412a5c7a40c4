"""Gram matrices of stored states, in float64, with a bounded number of states in memory."""

from collections.abc import Callable, Sequence
from threading import Condition, Lock

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray
from wantui.analysis.trajectory import NoGeometryError
from wantui.storage.state_reader import StateRow

BUFFER_BYTES = 13 << 26
"""Bytes of the buffer for float32 states, shared by all videos."""
MAX_BUFFER_ROWS = 1 << 14
"""Maximum number of states in the buffer, however small; each has an entry in a list."""
MAX_STATE_VALUES = 1 << 26
"""Maximum number of values per state: 16 times the number for 81 frames at 720p."""
MAX_VIDEO_STATES = 1 << 12
"""Maximum number of states per video; 1,000 steps of Heun's method have 2,000."""
CHUNK_VALUES = 1 << 13
"""Number of values per state that are multiplied at a time; the chunks fit into CPU caches."""
STATES_PER_READ = 4
"""Number of states per read; zarr reads them concurrently, which hides disk latency."""
OVERFLOW_ROWS = 8
"""Number of buffer rows for the other states if a video does not fit into the buffer."""


class StateBuffer:
    """Buffer of states, shared by videos: while one video is multiplied, the next one is read.

    Only one video is read at a time, and only that video acquires rows. So two videos never wait for each other.
    """

    def __init__(self) -> None:
        self.values = np.empty((0, 0), dtype=np.float32)
        self.free_rows: list[int] = []
        self.read_lock, self.rows_changed = Lock(), Condition()

    def allocate_rows(self, dimension: int) -> None:
        """Provide rows for states of `dimension` values; waits until rows of a different size are released."""
        with self.rows_changed:
            if self.values.shape[1] != dimension:
                self.rows_changed.wait_for(lambda: len(self.free_rows) == len(self.values))
                row_count = min(MAX_BUFFER_ROWS, max(2, BUFFER_BYTES // (4 * dimension)))
                self.values = np.empty((row_count, dimension), dtype=np.float32)
                self.free_rows = list(range(len(self.values)))

    def acquire_row(self) -> int:
        """Return the index of a free row; waits until there is one."""
        with self.rows_changed:
            self.rows_changed.wait_for(lambda: bool(self.free_rows))
            return self.free_rows.pop()

    def release_rows(self, rows: Sequence[int]) -> None:
        """Free rows returned by `acquire_row`."""
        with self.rows_changed:
            self.free_rows.extend(rows)
            self.rows_changed.notify_all()


ReadStates = Callable[[range, Sequence[StateRow]], None]
"""Function that reads some states into rows of [dimension] float32."""


def compute_gram(read_states: ReadStates, state_count: int, dimension: int, buffer: StateBuffer) -> FloatArray:
    """Return the inner products of n stored states, [n, n] float64.

    Several threads may share one buffer. A video with more states than the buffer has rows is read more than once.

    Raises:
        NoGeometryError: the states are empty, too large or too many.
        Exception: any error of `read_states`.
    """
    if dimension < 1:
        raise NoGeometryError("its states contain no values")
    if dimension > MAX_STATE_VALUES:
        raise NoGeometryError(
            f"its states have {dimension:,} values each, more than the maximum of {MAX_STATE_VALUES:,}"
        )
    if state_count > MAX_VIDEO_STATES:
        raise NoGeometryError(f"it has {state_count:,} states, more than the maximum of {MAX_VIDEO_STATES:,}")
    gram = np.zeros((state_count, state_count))
    rows: list[int] = []
    try:
        with buffer.read_lock:
            buffer.allocate_rows(dimension)
            row_capacity = len(buffer.values)
            block_size = state_count if state_count <= row_capacity else max(1, row_capacity - OVERFLOW_ROWS)
            for first in range(0, state_count, block_size):
                _buffer_states(read_states, range(first, min(first + block_size, state_count)), buffer, rows)
                if block_size == state_count:
                    break
                stop = first + len(rows)
                gram[first:stop, first:stop] = _multiply_rows(buffer.values, rows, rows)
                for start in range(stop, state_count, row_capacity - block_size):
                    overflow_rows: list[int] = []
                    try:
                        _buffer_states(
                            read_states,
                            range(start, min(start + row_capacity - block_size, state_count)),
                            buffer,
                            overflow_rows,
                        )
                        products = _multiply_rows(buffer.values, rows, overflow_rows)
                    finally:
                        buffer.release_rows(overflow_rows)
                    gram[first:stop, start : start + len(overflow_rows)] = products
                    gram[start : start + len(overflow_rows), first:stop] = products.T
                buffer.release_rows(rows)
                rows = []
        if block_size == state_count:
            gram = _multiply_rows(buffer.values, rows, rows)
    finally:
        buffer.release_rows(rows)
    return gram


def _buffer_states(read_states: ReadStates, state_range: range, buffer: StateBuffer, rows: list[int]) -> None:
    """Read states into the buffer, and append their row indices to `rows`."""
    for start in range(state_range.start, state_range.stop, STATES_PER_READ):
        chunk = range(start, min(start + STATES_PER_READ, state_range.stop))
        for _ in chunk:
            rows.append(buffer.acquire_row())
        read_states(chunk, [buffer.values[row] for row in rows[-len(chunk) :]])


def _multiply_rows(values: NDArray[np.float32], left_rows: Sequence[int], right_rows: Sequence[int]) -> FloatArray:
    products = np.zeros((len(left_rows), len(right_rows)))
    for start in range(0, values.shape[1], CHUNK_VALUES):
        left_chunk = _copy_chunk_as_float64(values, left_rows, start)
        with np.errstate(invalid="ignore", over="ignore"):  # build_trajectory refuses NaN and infinity
            products += (
                left_chunk
                @ (left_chunk if right_rows is left_rows else _copy_chunk_as_float64(values, right_rows, start)).T
            )
    return products


def _copy_chunk_as_float64(values: NDArray[np.float32], rows: Sequence[int], start: int) -> FloatArray:
    chunk = values[:, start : start + CHUNK_VALUES]
    float64_chunk = np.empty((len(rows), chunk.shape[1]))
    for index, row in enumerate(rows):
        float64_chunk[index] = chunk[row]
    return float64_chunk
