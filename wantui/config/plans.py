"""Names of memory plans; `wantui.planning.memory_plan` defines them."""

from typing import Literal

PlanName = Literal[
    "auto",
    "resident",
    "encode-first",
    "offload",
    "stream",
    "tiled",
    "offload-tiled",
    "stream-tiled",
    "sequential",
    "small-tiles",
]
OLDER_NAMES = {
    "everything resident": "resident",
    "text encoder first": "encode-first",
    "one part at a time": "offload",
    "streamed blocks": "stream",
    "tiled decode": "tiled",
    "one part at a time, tiled decode": "offload-tiled",
    "streamed blocks, tiled decode": "stream-tiled",
    "sequential offload, small tiles": "sequential",
    "small tiles": "small-tiles",
}
"""Slugs by the names that configs and manifests of earlier versions hold."""


def plan_slug(name: str) -> str:
    """Return the slug of a plan that is named as earlier versions did; any other text as it is."""
    return OLDER_NAMES.get(name, name)
