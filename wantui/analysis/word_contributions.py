"""Contributions of marked words to the cross-attention, summarised as curves over the noise level.

The contribution of a word at a position is the norm of what its tokens add to the output of the cross-attention
(`wantui.generation.word_contributions`). Norms of vectors do not add up: the shares of all words need not sum to 1.
This is attribution of one output to words; it does not show dominance.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.captures.contributions import OUTPUT_NAME
from wantui.planning import Recipe
from wantui.storage.zarr_group import convert_to_capture_error, open_capture


@dataclass(frozen=True)
class ContributionCurves:
    """Contribution of one word over s stored steps; NaN at steps whose prompt lacks the word."""

    map_name: str
    word_text: str
    token_texts: tuple[str, ...]
    sigmas: FloatArray
    """[s] noise levels."""
    contribution: FloatArray
    """[s] mean over blocks and positions of the norm of what the word adds."""
    share: FloatArray
    """[s] contribution / mean norm of the complete output without its bias."""
    share_by_block: FloatArray
    """[s, blocks] the same for each block; one column if the video stores the mean over blocks."""


def read_contribution_curves(path: Path, recipe: Recipe | None = None) -> list[ContributionCurves]:
    """Return the curves of each of a video's words.

    Args:
        recipe: recipe of the video; None if unknown.

    Raises:
        CaptureError: the contributions are missing or damaged, or belong to another video.
    """
    group = open_capture(path, recipe)
    with convert_to_capture_error(path):
        words: dict[str, Any] = dict(group.attrs["words"])
        sigmas = np.asarray(group["sigmas"][:], dtype=np.float64)
        means = {name: _average_positions(group[name], len(sigmas)) for name in (*words, OUTPUT_NAME)}
        output = means[OUTPUT_NAME]
        with np.errstate(divide="ignore", invalid="ignore"):
            return [
                ContributionCurves(
                    name,
                    str(words[name]["text"]),
                    tuple(map(str, words[name]["token_texts"])),
                    sigmas,
                    _average_blocks(means[name]),
                    _average_blocks(means[name]) / _average_blocks(output),
                    means[name] / output,
                )
                for name in words
            ]


def _average_positions(array: Any, step_count: int) -> FloatArray:
    """Return the means [s, blocks] of an array [s, blocks, frames, height, width], one step in memory at a time."""
    if array.ndim != 5 or array.shape[0] != step_count:
        raise ValueError(f"{array.path} has the shape {array.shape}, but {step_count} steps are listed")
    return np.stack([np.asarray(array[step], dtype=np.float64).mean((1, 2, 3)) for step in range(step_count)])


def _average_blocks(values: FloatArray) -> FloatArray:
    """Return the means [s] of values [s, blocks] over the blocks that a step cache did not skip (NaN)."""
    is_known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_known, values, 0).sum(1) / is_known.sum(1))
