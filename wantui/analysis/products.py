"""Inner products of stored states, in float64, with a bounded part of them in memory."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.trajectory import Floats

BLOCK_BYTES = 1 << 29
"""Of states in float32 that are held at a time while a Gram matrix is made from stored latents."""
CHUNK = 1 << 13
"""Values of each state that are multiplied at a time; so many stay in a processor's caches."""
PART = 17
"""States that are read at a time."""


class StateBuffer:
    """Memory for states, taken once and used for one video after the other."""

    def __init__(self) -> None:
        self.values = np.empty(0, dtype=np.float32)

    def rows(self, n: int, dimension: int) -> NDArray[np.float32]:
        """[n, dimension], holding whatever was there before."""
        if self.values.size < n * dimension:
            self.values = np.empty(n * dimension, dtype=np.float32)
        return self.values[: n * dimension].reshape(n, dimension)


def gram_of(states: Any, n: int, dimension: int, buffer: StateBuffer | None = None) -> Floats:
    """Inner products of n stored states, in float64; some are held in memory, and the others go by.

    The next states are read while those before are multiplied.

    Args:
        states: states[i] is the i-th one, an array of any shape.
    """
    gram = np.zeros((n, n))
    fit = BLOCK_BYTES // (4 * dimension)
    several = n if fit >= n else max(1, fit - 2 * PART)
    rows = (buffer or StateBuffer()).rows(n if several == n else several + 2 * PART, dimension)
    held, passing = rows[:several], (rows[several : several + PART], rows[several + PART :])
    with ThreadPoolExecutor(1) as reader:
        for first in range(0, n, several):
            parts = [range(start, min(start + PART, n)) for start in range(first, n, PART)]
            places = [
                held[part.start - first : part.stop - first]
                if part.stop - first <= several
                else passing[turn % 2][: len(part)]
                for turn, part in enumerate(parts)
            ]
            coming = reader.submit(_fill, places[0], states, parts[0])
            for turn, part in enumerate(parts):
                coming.result()
                if turn + 1 < len(parts):
                    coming = reader.submit(_fill, places[turn + 1], states, parts[turn + 1])
                if part.start - first < several < part.stop - first:  # part of it is held, part goes by
                    held[part.start - first :] = places[turn][: several - (part.start - first)]
                known = min(several, part.stop - first)
                products = _products(held[:known], places[turn])
                gram[first : first + known, part.start : part.stop] = products
                gram[part.start : part.stop, first : first + known] = products.T
    return gram


def _fill(into: NDArray[np.float32], states: Any, which: range) -> None:
    for place, index in enumerate(which):
        into[place] = np.asarray(states[index]).ravel()


def _products(left: NDArray[np.float32], right: NDArray[np.float32]) -> Floats:
    found = np.zeros((len(left), len(right)))
    for start in range(0, left.shape[1], CHUNK):
        one, other = (part[:, start : start + CHUNK].astype(np.float64) for part in (left, right))
        found += one @ other.T
    return found
