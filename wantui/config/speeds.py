"""Values of `model_settings.speed`, and their names in earlier versions."""

from typing import Literal

SpeedName = Literal["reference", "fused", "fp8", "cached"]
SPEED_BY_FORMER_NAME: dict[str, SpeedName] = {"plain": "reference", "exact": "fused", "fast": "cached"}
"""Speed name in configs, format 1 recipes and benchmark results of earlier versions -> slug."""


def migrate_speed_name(name: str) -> str:
    """Return the slug for a speed name of earlier versions; return any other text unchanged."""
    return SPEED_BY_FORMER_NAME.get(name, name)
