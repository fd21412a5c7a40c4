"""Types of arrays, and how many values are processed at once."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
MAX_CHUNK_VALUES = 4_000_000
"""Maximum number of permuted values that are in memory together."""
