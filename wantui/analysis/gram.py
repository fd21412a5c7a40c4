"""Gram matrices of stored states, in float64, with a bounded number of states in memory."""

from collections.abc import Callable, Sequence
from threading import Condition, Lock

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.trajectory import Floats, NoGeometryError
from wantui.storage.state_reader import Row

BUFFER_BYTES = 13 << 26
"""Bytes of the buffer for float32 states, shared by all videos."""
MAX_ROWS = 1 << 14
"""Maximum number of states in the buffer, however small; each has an entry in a list."""
MAX_VALUES = 1 << 26
"""Maximum number of values of a state: 16 times that of 81 frames at 720p."""
MAX_STATES = 1 << 12
"""Maximum number of states of a video; 1,000 steps of Heun's method have 2,000."""
CHUNK_VALUES = 1 << 13
"""Number of values of each state that are multiplied at a time; they capacity into CPU caches."""
STATES_PER_READ = 4
"""Number of states per read; zarr reads them concurrently, which hides disk latency."""
OVERFLOW_ROWS = 8
"""Number of buffer rows for passing states, if a video does not capacity into the buffer."""


class StateBuffer:
    """Buffer of states, shared by videos: while one video is multiplied, the next one is read.

    Only one video is read at a time, and only that video acquires rows. So two videos never wait for each other.
    """

    def __init__(self) -> None:
        self.values = np.empty((0, 0), dtype=np.float32)
        self.free: list[int] = []
        self.reading, self.changed = Lock(), Condition()

    def allocate(self, dimension: int) -> None:
        """Provide rows for states of `dimension` values; waits until rows of a different size are released."""
        with self.changed:
            if self.values.shape[1] != dimension:
                self.changed.wait_for(lambda: len(self.free) == len(self.values))
                rows = min(MAX_ROWS, max(2, BUFFER_BYTES // (4 * dimension)))
                self.values = np.empty((rows, dimension), dtype=np.float32)
                self.free = list(range(len(self.values)))

    def acquire_row(self) -> int:
        """Return the index of a free row; waits until there is one."""
        with self.changed:
            self.changed.wait_for(lambda: bool(self.free))
            return self.free.pop()

    def release_rows(self, rows: Sequence[int]) -> None:
        """Free rows returned by `acquire_row`."""
        with self.changed:
            self.free.extend(rows)
            self.changed.notify_all()


ReadStates = Callable[[range, Sequence[Row]], None]
"""Function that reads some states into rows of [dimension] float32."""


def compute_gram(read: ReadStates, n: int, dimension: int, buffer: StateBuffer) -> Floats:
    """Return the inner products of n stored states, [n, n] float64.

    Several threads may share one buffer. A video with more states than the buffer has rows is read more than once.

    Raises:
        NoGeometryError: the states are empty, too large or too many.
        Exception: any error of `read`.
    """
    if dimension < 1:
        raise NoGeometryError("its states have no values")
    if dimension > MAX_VALUES:
        raise NoGeometryError(f"its states have {dimension:,} values each, more than the maximum of {MAX_VALUES:,}")
    if n > MAX_STATES:
        raise NoGeometryError(f"it has {n:,} states, more than the maximum of {MAX_STATES:,}")
    gram = np.zeros((n, n))
    rows: list[int] = []
    try:
        with buffer.reading:
            buffer.allocate(dimension)
            capacity = len(buffer.values)
            block = n if n <= capacity else max(1, capacity - OVERFLOW_ROWS)
            for first in range(0, n, block):
                _read_states(read, range(first, min(first + block, n)), buffer, rows)
                if block == n:
                    break
                stop = first + len(rows)
                gram[first:stop, first:stop] = _multiply_rows(buffer.values, rows, rows)
                for start in range(stop, n, capacity - block):
                    passing: list[int] = []
                    try:
                        _read_states(read, range(start, min(start + capacity - block, n)), buffer, passing)
                        products = _multiply_rows(buffer.values, rows, passing)
                    finally:
                        buffer.release_rows(passing)
                    gram[first:stop, start : start + len(passing)] = products
                    gram[start : start + len(passing), first:stop] = products.T
                buffer.release_rows(rows)
                rows = []
        if block == n:
            gram = _multiply_rows(buffer.values, rows, rows)
    finally:
        buffer.release_rows(rows)
    return gram


def _read_states(read: ReadStates, which: range, buffer: StateBuffer, rows: list[int]) -> None:
    """Read states into the buffer, and append their row indices to `rows`."""
    for start in range(which.start, which.stop, STATES_PER_READ):
        some = range(start, min(start + STATES_PER_READ, which.stop))
        for _ in some:
            rows.append(buffer.acquire_row())
        read(some, [buffer.values[row] for row in rows[-len(some) :]])


def _multiply_rows(values: NDArray[np.float32], left: Sequence[int], right: Sequence[int]) -> Floats:
    products = np.zeros((len(left), len(right)))
    for start in range(0, values.shape[1], CHUNK_VALUES):
        left_chunk = _read_chunk_as_float64(values, left, start)
        with np.errstate(invalid="ignore", over="ignore"):  # build_trajectory refuses NaN and infinity
            products += left_chunk @ (left_chunk if right is left else _read_chunk_as_float64(values, right, start)).T
    return products


def _read_chunk_as_float64(values: NDArray[np.float32], rows: Sequence[int], start: int) -> Floats:
    part = values[:, start : start + CHUNK_VALUES]
    wide = np.empty((len(rows), part.shape[1]))
    for index, row in enumerate(rows):
        wide[index] = part[row]
    return wide
