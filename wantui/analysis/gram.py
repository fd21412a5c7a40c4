"""Inner products of stored states, in float64, with a bounded part of them in memory."""

from collections.abc import Callable, Sequence
from threading import Condition, Lock

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.trajectory import Floats, NoGeometryError
from wantui.storage.state_reader import Row

HELD_BYTES = 13 << 26
"""Bytes of float32 states in memory at a time, over all videos."""
MAX_ROWS = 1 << 14
"""States that are held at a time, however small they are: each has an entry in a list."""
MAX_VALUES = 1 << 26
"""Largest number of values of a state: 16 times those of 81 frames at 720p."""
MAX_STATES = 1 << 12
"""Largest number of states of a video; 1,000 steps that evaluate twice have 2,000."""
CHUNK = 1 << 13
"""Values of each state that are multiplied at a time; they fit into a processor's caches."""
AT_ONCE = 4
"""States that are asked for together: zarr reads them at the same time, which hides how long a disk takes to answer."""
PART = 8
"""States read at a time, besides the buffered ones, of a video that does not fit into the buffer."""


class StateBuffer:
    """Memory for states, shared by videos: while one is multiplied, the next one is read.

    Only one video is read at a time, and gets its memory before any after it: none waits for ever.
    """

    def __init__(self) -> None:
        self.values = np.empty((0, 0), dtype=np.float32)
        self.free: list[int] = []
        self.reading, self.changed = Lock(), Condition()

    def begin(self, dimension: int) -> None:
        """Provide rows of a video's state size before it is read, once rows of another size are free again."""
        with self.changed:
            if self.values.shape[1] != dimension:
                self.changed.wait_for(lambda: len(self.free) == len(self.values))
                rows = min(MAX_ROWS, max(2, HELD_BYTES // (4 * dimension)))
                self.values = np.empty((rows, dimension), dtype=np.float32)
                self.free = list(range(len(self.values)))

    def take(self) -> int:
        """Return the number of an unused row; wait for one if all are used."""
        with self.changed:
            self.changed.wait_for(lambda: bool(self.free))
            return self.free.pop()

    def give_back(self, rows: Sequence[int]) -> None:
        """Free rows that `take` returned."""
        with self.changed:
            self.free.extend(rows)
            self.changed.notify_all()


Read = Callable[[range, Sequence[Row]], None]
"""Writes some states into rows of [dimension] float32."""


def gram_of(read: Read, n: int, dimension: int, held: StateBuffer) -> Floats:
    """Return the inner products of n stored states, [n, n] float64; several threads may call it with the same `held`.

    A video with more states than fit is read more than once.

    Raises:
        NoGeometryError: the states have no values, or they are too large or too many for any memory to hold.
        Exception: of `read`.
    """
    if dimension < 1:
        raise NoGeometryError("its states have no values")
    if dimension > MAX_VALUES:
        raise NoGeometryError(f"its states have {dimension:,} values each, and at most {MAX_VALUES:,} are analysed")
    if n > MAX_STATES:
        raise NoGeometryError(f"it has {n:,} states, and at most {MAX_STATES:,} are analysed")
    gram = np.zeros((n, n))
    rows: list[int] = []
    try:
        with held.reading:
            held.begin(dimension)
            fit = len(held.values)
            several = n if n <= fit else max(1, fit - PART)
            for first in range(0, n, several):
                _read(read, range(first, min(first + several, n)), held, rows)
                if several == n:
                    break
                stop = first + len(rows)
                gram[first:stop, first:stop] = _products(held.values, rows, rows)
                for start in range(stop, n, fit - several):
                    passing: list[int] = []
                    try:
                        _read(read, range(start, min(start + fit - several, n)), held, passing)
                        products = _products(held.values, rows, passing)
                    finally:
                        held.give_back(passing)
                    gram[first:stop, start : start + len(passing)] = products
                    gram[start : start + len(passing), first:stop] = products.T
                held.give_back(rows)
                rows = []
        if several == n:
            gram = _products(held.values, rows, rows)
    finally:
        held.give_back(rows)
    return gram


def _read(read: Read, which: range, held: StateBuffer, rows: list[int]) -> None:
    """Read states, and record in `rows` the row of each."""
    for start in range(which.start, which.stop, AT_ONCE):
        some = range(start, min(start + AT_ONCE, which.stop))
        for _ in some:
            rows.append(held.take())
        read(some, [held.values[row] for row in rows[-len(some) :]])


def _products(values: NDArray[np.float32], left: Sequence[int], right: Sequence[int]) -> Floats:
    products = np.zeros((len(left), len(right)))
    for start in range(0, values.shape[1], CHUNK):
        one = _part(values, left, start)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are refused by name in what comes out
            products += one @ (one if right is left else _part(values, right, start)).T
    return products


def _part(values: NDArray[np.float32], rows: Sequence[int], start: int) -> Floats:
    part = values[:, start : start + CHUNK]
    wide = np.empty((len(rows), part.shape[1]))
    for index, row in enumerate(rows):
        wide[index] = part[row]
    return wide
