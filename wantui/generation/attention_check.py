"""Results of comparing recomputed attention with the model's kernel and with float64, block by block.

Each block is checked at its first evaluation. A process that resumes a video takes over the earlier results, so that a
resumed capture has the same record as an uninterrupted one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

BLOCKS_KEY = "blocks"
"""Key of the results by block in a capture's attribute."""


class BlockCheck(BaseModel):
    """Result of the check of one block of a transformer in one pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    output_error: float
    """Relative error of the recomputed attention output against the kernel's output."""
    weighted_error: float
    """Relative error of the output with word weights against float64; 0 without weights."""
    map_error: float
    """Largest relative error of a column against the softmax over all text positions."""
    padding_merged: bool = Field(validation_alias=AliasChoices("padding_merged", "pads_taken_together"))
    """True if one column represents all padding; earlier versions stored it as `pads_taken_together`."""


@dataclass
class SelfCheck:
    """Results of the checks of all blocks that have been evaluated."""

    blocks: dict[str, BlockCheck] = field(default_factory=dict)
    """Results by transformer, pass and block number, such as "transformer cond 0"."""
    earlier_blocks: Mapping[str, BlockCheck] = field(default_factory=dict)
    """Results of the processes that generated earlier steps of the video."""

    def add(self, key: str, check: BlockCheck) -> None:
        """Record the result for a block, unless an earlier process recorded one."""
        self.blocks[key] = self.earlier_blocks.get(key, check)

    def restore(self, attribute: Any) -> None:
        """Take over the record of an earlier process from a capture's attribute; ignore an unknown format."""
        stored = attribute.get(BLOCKS_KEY) if isinstance(attribute, dict) else None
        if not isinstance(stored, dict):
            return
        try:
            self.earlier_blocks = {str(key): BlockCheck.model_validate(check) for key, check in stored.items()}
        except ValidationError:  # a damaged attribute: check every block again
            return
        self.blocks.update(self.earlier_blocks)

    @property
    def output_error(self) -> float:
        """Return the largest error over blocks."""
        return max((check.output_error for check in self.blocks.values()), default=0.0)

    @property
    def weighted_error(self) -> float:
        """Return the largest error over blocks."""
        return max((check.weighted_error for check in self.blocks.values()), default=0.0)

    @property
    def map_error(self) -> float:
        """Return the largest error over blocks."""
        return max((check.map_error for check in self.blocks.values()), default=0.0)

    @property
    def is_padding_merged(self) -> bool:
        """Return whether padding could be merged in every block."""
        return all(check.padding_merged for check in self.blocks.values())

    def to_attribute(self) -> dict[str, Any]:
        """Return the record as JSON values: the largest errors, and the results by block."""
        return {
            "output_error": self.output_error,
            "weighted_error": self.weighted_error,
            "map_error": self.map_error,
            "padding_merged": self.is_padding_merged,
            BLOCKS_KEY: {key: self.blocks[key].model_dump() for key in sorted(self.blocks)},
        }
