"""Results of comparing recomputed attention with the model's kernel and with float64, block by block.

Each block is checked at its first evaluation. A process that resumes a video takes over what was found before it, so
that a resumed capture has the same record as one of a single process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

BLOCKS = "blocks"
"""Key of the record of single blocks in the attribute of a capture."""


class BlockCheck(BaseModel):
    """Result of the check of one block of a transformer in one pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    output_error: float
    """|recomputed - kernel's| / |kernel's| of the attention output."""
    weighted_error: float
    """The same error of the output with the weights of words, against float64; 0 where none are applied."""
    map_error: float
    """Largest relative error of a column against the softmax over all positions."""
    padding_merged: bool = Field(validation_alias=AliasChoices("padding_merged", "pads_taken_together"))
    """True if one column served for all padding; earlier versions stored it as `pads_taken_together`."""


@dataclass
class SelfCheck:
    """Results of the checks of all blocks that have been evaluated."""

    blocks: dict[str, BlockCheck] = field(default_factory=dict)
    """Errors by transformer, pass and number of the block, such as "transformer cond 0"."""
    earlier: Mapping[str, BlockCheck] = field(default_factory=dict)
    """Results of the processes that started the video."""

    def add(self, key: str, check: BlockCheck) -> None:
        """Record what was found at a block; what an earlier process found at its first evaluation stays."""
        self.blocks[key] = self.earlier.get(key, check)

    def resume(self, attribute: Any) -> None:
        """Take over the record of an earlier process from the attribute of a capture; other versions have none."""
        stored = attribute.get(BLOCKS) if isinstance(attribute, dict) else None
        if not isinstance(stored, dict):
            return
        try:
            self.earlier = {str(key): BlockCheck.model_validate(check) for key, check in stored.items()}
        except ValidationError:  # an attribute that was damaged is no record; every block is checked again
            return
        self.blocks.update(self.earlier)

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
    def collapsed(self) -> bool:
        """Return whether padding could be merged in every block."""
        return all(check.padding_merged for check in self.blocks.values())

    def to_attribute(self) -> dict[str, Any]:
        """Return the record as JSON has it: the largest errors, and those of each block."""
        return {
            "output_error": self.output_error,
            "weighted_error": self.weighted_error,
            "map_error": self.map_error,
            "padding_merged": self.collapsed,
            BLOCKS: {key: self.blocks[key].model_dump() for key in sorted(self.blocks)},
        }
