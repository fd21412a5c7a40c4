"""Read the tensors of a GGUF file, with bounds that the library's reader lacks."""

from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

MAX_ARRAY_LENGTH = 1 << 21
"""Maximum number of values in an array of the metadata; the largest arrays are vocabularies."""
ARRAY_LENGTH_OFFSET = 4
"""Offset of an array's length in bytes, after its value type."""


class BoundedGGUFReader(GGUFReader):
    """Reader that rejects values beyond the end of the file, and arrays that take hours to read.

    Raises:
        ValueError: see above. The library's reader takes such values for empty values: it accepts a damaged file,
            and repeats reading nothing 2**60 times for the length of an array.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        values = super()._get(offset, dtype, count, override_order)
        if len(values) != int(count):
            raise ValueError(f"a value at byte {int(offset):,} lies beyond the end of the file")
        return values

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            length = int(self._get(orig_offs + ARRAY_LENGTH_OFFSET, np.uint64)[0])
            if length > MAX_ARRAY_LENGTH:
                raise ValueError(f"an array of its metadata has {length:,} values, more than {MAX_ARRAY_LENGTH:,}")
        return super()._get_field_parts(orig_offs, raw_type)
