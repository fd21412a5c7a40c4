"""Results of comparing recomputed attention with the model's kernel and with float64, block by block.

Each block is checked at its first evaluation. A process that resumes a video keeps the earlier results, so that a
resumed capture has the same record as an uninterrupted one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from wantui.generation.controls.word_weights import WordWeights
from wantui.models.text_positions import TEXT_POSITION_COUNT

BLOCKS_KEY = "blocks"
"""Key of the results by block in a capture's attribute."""
CHECKED_POSITION_COUNT = 256
"""Number of evenly spaced video positions at which each block is checked, once per video."""
MAX_OUTPUT_ERROR_BY_DTYPE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Largest relative error of the recomputed attention output against the kernel's, by the model's dtype."""


class CaptureMismatchError(RuntimeError):
    """Raised if the recomputed attention differs from the model's attention; no map is stored."""


def reject_unsupported_shapes(query: Tensor, key: Tensor) -> None:
    """Reject attention other than [1, positions, heads, dim] to all text positions.

    Raises:
        CaptureMismatchError: the message names the shapes.
    """
    if query.shape[0] != 1 or key.shape[1] != TEXT_POSITION_COUNT:
        raise CaptureMismatchError(f"attention of shape {tuple(query.shape)} to {tuple(key.shape)} is not supported")


def choose_checked_positions(query: Tensor) -> Tensor:
    """Return the indices of the checked positions of a query [1, positions, heads, dim], on its device."""
    last_position = query.shape[1] - 1
    positions = torch.linspace(0, last_position, min(CHECKED_POSITION_COUNT, last_position + 1)).round().long()
    return positions.to(query.device)


def compute_exact_logits(query: Tensor, key: Tensor) -> Tensor:
    """Return the logits [heads, positions, 512] float64 of a query [1, positions, heads, dim] and a key of a text."""
    return torch.einsum("nhd,thd->hnt", query[0].double(), key[0].double()) / math.sqrt(query.shape[3])


class BlockCheckResult(BaseModel):
    """Result of checking one transformer block in one pass."""

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
class AttentionCheckResults:
    """Check results of all blocks that have been evaluated."""

    results_by_block: dict[str, BlockCheckResult] = field(default_factory=dict)
    """Results by transformer, pass and block number, such as "transformer cond 0"."""
    earlier_results_by_block: Mapping[str, BlockCheckResult] = field(default_factory=dict)
    """Results of the processes that generated earlier steps of the video."""

    def add_result(self, block_key: str, result: BlockCheckResult) -> None:
        """Record the result for a block, unless an earlier process recorded one."""
        self.results_by_block[block_key] = self.earlier_results_by_block.get(block_key, result)

    def restore_results(self, attribute: Any) -> None:
        """Restore the record of an earlier process from a capture's attribute; ignore an unknown format."""
        stored_results = attribute.get(BLOCKS_KEY) if isinstance(attribute, dict) else None
        if not isinstance(stored_results, dict):
            return
        try:
            self.earlier_results_by_block = {
                str(key): BlockCheckResult.model_validate(check) for key, check in stored_results.items()
            }
        except ValidationError:  # a damaged attribute: check every block again
            return
        self.results_by_block.update(self.earlier_results_by_block)

    @property
    def max_output_error(self) -> float:
        """Return the largest error of the output over blocks."""
        return max((check.output_error for check in self.results_by_block.values()), default=0.0)

    @property
    def max_word_weights_error(self) -> float:
        """Return the largest error over blocks of the output with word weights."""
        return max((check.weighted_error for check in self.results_by_block.values()), default=0.0)

    @property
    def max_map_error(self) -> float:
        """Return the largest error of the maps over blocks."""
        return max((check.map_error for check in self.results_by_block.values()), default=0.0)

    @property
    def is_padding_merged(self) -> bool:
        """Return whether padding could be merged in every block."""
        return all(check.padding_merged for check in self.results_by_block.values())

    def serialize_results(self) -> dict[str, Any]:
        """Return the results as JSON values: the largest errors, and the results of each block."""
        return {
            "output_error": self.max_output_error,
            "weighted_error": self.max_word_weights_error,
            "map_error": self.max_map_error,
            "padding_merged": self.is_padding_merged,
            BLOCKS_KEY: {key: self.results_by_block[key].model_dump() for key in sorted(self.results_by_block)},
        }


def check_word_weights(
    word_weights: WordWeights,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logits: Tensor,
    column_count: int,
) -> float:
    """Check the weighted output at a few positions against a float64 softmax over all positions, and return the error.

    Args:
        logits: of these positions, [heads, positions, 512] float64.
    """
    exact_softmax = (logits + word_weights.build_log_weights(logits.shape[2], logits.device, logits.dtype)).softmax(2)
    expected_output = torch.einsum("hnt,thd->nhd", exact_softmax, value[0].double()).flatten(1)
    weighted_output = torch.cat(
        [
            output_chunk
            for _, output_chunk, _ in word_weights.apply_to_attention(query, key, value, output, column_count)
        ]
    )
    output_error = compute_relative_error(weighted_output.to(output.dtype).double(), expected_output)
    if not output_error <= MAX_OUTPUT_ERROR_BY_DTYPE[output.dtype]:
        raise CaptureMismatchError(
            f"the attention computed for word weights differs from the model's attention by {output_error:.2g} of its "
            f"norm, but rounding in {output.dtype} explains at most {MAX_OUTPUT_ERROR_BY_DTYPE[output.dtype]:g}: "
            "no weights are applied"
        )
    return output_error


def compute_relative_error(computed: Tensor, expected: Tensor) -> float:
    return float((computed - expected).norm() / expected.norm().clamp_min(1e-30))
