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
PLAN_BY_FORMER_NAME = {
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
"""Plan name in configs and manifests of earlier versions -> slug."""


def migrate_plan_name(name: str) -> str:
    """Return the slug for a plan name of earlier versions; return any other text unchanged."""
    return PLAN_BY_FORMER_NAME.get(name, name)
