"""Summaries of a word's attention map, a few numbers per step.

A map a(f, y, x) is the attention of each latent position to the word; q = a / sum(a) is its distribution.
Attention is not attribution: a position may attend to a word without using its value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WordCurves:
    """Summary curves of one word over s stored steps; NaN at steps where no block computed attention."""

    name: str
    text: str
    tokens: tuple[str, ...]
    """Texts of the word's tokens."""
    sigmas: Floats
    """[s] noise levels."""
    mass: Floats
    """[s] mean of a over all positions: the word's share of all attention."""
    entropy: Floats
    """[s] - sum q ln q / ln(positions): 1 if attention is even, 0 if it is at one position."""
    centre: Floats
    """[s, frames, (x, y)] mean position under q in each frame, from 0 (left, top) to 1."""
    spread: Floats
    """[s, frames] root mean square distance from the centre, in units of the frame's sides."""


def compute_word_curves(maps: StoredAttentionMaps, name: str) -> WordCurves:
    """Return the summary curves of one marked word.

    Raises:
        AttentionMapsError: no map of the word is stored.
    """
    if name not in maps.words:
        raise AttentionMapsError(f"no map of {name!r} is stored. Stored maps: {', '.join(maps.words) or 'none'}")
    word, a = maps.words[name], maps.read_mean(name)
    total = a.sum((1, 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = a / total[:, None, None, None]
        entropy = -np.where(q > 0, q * np.log(q), np.where(np.isnan(q), np.nan, 0)).sum((1, 2, 3)) / np.log(a[0].size)
        in_frame = a.sum((2, 3))
        y, x = ((np.arange(size) + 0.5) / size for size in a.shape[2:])
        centre = np.stack([(a * x).sum((2, 3)), (a * y[:, None]).sum((2, 3))], axis=2) / in_frame[..., None]
        from_centre = (x - centre[..., 0, None]) ** 2, (y - centre[..., 1, None]) ** 2
        squares = from_centre[0][:, :, None, :] + from_centre[1][:, :, :, None]
        spread = np.sqrt((a * squares).sum((2, 3)) / in_frame)
    tokens = tuple(word["token_texts"])
    return WordCurves(name, word["text"], tokens, maps.sigmas, a.mean((1, 2, 3)), entropy, centre, spread)


def compute_attention_overlap(maps: StoredAttentionMaps, first_word: str, second_word: str) -> Floats:
    """Return [s] the Bhattacharyya coefficient of two words: the sum of sqrt(q p) over all positions, 1 for equal
    distributions, 0 for disjoint ones."""
    a, b = maps.read_mean(first_word), maps.read_mean(second_word)
    both = np.sqrt(a * b).sum((1, 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 of a word of weight 0, which has no attention
        return np.asarray(both / np.sqrt(a.sum((1, 2, 3)) * b.sum((1, 2, 3))))


def average_finite(values: Floats) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def average_over_steps(maps: StoredAttentionMaps, name: str) -> Floats:
    """Return the mean map over the steps with a map, [frames, height, width]; NaN if no step has one."""
    each = maps.read_mean(name)
    is_known = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_known, each, 0).sum(0) / is_known.sum(0))
