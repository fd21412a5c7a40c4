"""Summaries of a word's attention map: a few numbers for each step.

A map a(f, y, x) is the attention of each position of the video to the word; q = a / sum(a) is its distribution.
Attention is not attribution: a position may attend to a word without using its value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.storage.attention_maps import AttentionMapsError, StoredAttentionMaps

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WordCurves:
    """One word over the stored steps; NaN at a step in which no block computed attention."""

    name: str
    text: str
    tokens: tuple[str, ...]
    """Texts of its tokens."""
    sigmas: Floats
    """[s]."""
    mass: Floats
    """[s] mean of a over all positions: the share of all attention that goes to the word."""
    entropy: Floats
    """[s] - sum q ln q / ln(places): 1 is even, 0 is one place."""
    centre: Floats
    """[s, frames, (x, y)] mean place under q in each frame, from 0 (left, top) to 1."""
    spread: Floats
    """[s, frames] root mean square distance from the centre, in the same unit."""


def word_curves(maps: StoredAttentionMaps, name: str) -> WordCurves:
    """Return the curves of one marked word.

    Raises:
        AttentionMapsError: no such word.
    """
    if name not in maps.words:
        raise AttentionMapsError(
            f"no map of {name!r} is stored; there are {', '.join(maps.words) or 'none of any word'}"
        )
    word, a = maps.words[name], maps.mean(name)
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


def overlap(maps: StoredAttentionMaps, one: str, other: str) -> Floats:
    """Return [s] sum of sqrt(q p) over all positions (Bhattacharyya): 1 for equal distributions, 0 for disjoint
    ones."""
    a, b = maps.mean(one), maps.mean(other)
    both = np.sqrt(a * b).sum((1, 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):  # a word of weight 0 has no attention, and lies nowhere
        return np.asarray(both / np.sqrt(a.sum((1, 2, 3)) * b.sum((1, 2, 3))))


def mean_of_known(values: Floats) -> float:
    """Return the mean of the values that are no NaN; NaN where all are."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def over_steps(maps: StoredAttentionMaps, name: str) -> Floats:
    """Return the mean over the steps that have a map, [frames, height, width]; NaN where none has one."""
    each = maps.mean(name)
    is_known = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_known, each, 0).sum(0) / is_known.sum(0))
