"""Conversion of results to JSON types: a number that is not finite, such as a missing value, becomes null."""

import math
from typing import Any


def to_json_values(value: Any) -> Any:
    """Convert a value, with arrays and nested containers, to JSON types; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a number of numpy
        return to_json_values(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
