"""Names of the ways to compute a video, and those that earlier versions used."""

from typing import Literal

SpeedName = Literal["reference", "fused", "cached"]
FORMER_SPEEDS: dict[str, SpeedName] = {"plain": "reference", "exact": "fused", "fast": "cached"}
"""Slugs by the names that configs, recipes of format 1 and stored measurements of earlier versions hold."""


def speed_slug(name: str) -> str:
    """Return the slug of a speed that is named as earlier versions did; any other text as it is."""
    return FORMER_SPEEDS.get(name, name)
