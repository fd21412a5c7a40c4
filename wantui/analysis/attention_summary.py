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
    return _build_word_curves(maps, name, *_summarise_maps(maps.read_mean(name)))


def summarise_words(maps: StoredAttentionMaps) -> tuple[list[WordCurves], dict[str, dict[str, Floats]]]:
    """Return the summary curves of all marked words, and the overlap [s] of each word with each other word, by name.

    Overlap is the Bhattacharyya coefficient: the sum of sqrt(q p) over all positions, 1 for equal distributions, 0 for
    disjoint ones. Each map is read once, and only the maps of one step are in memory.

    Raises:
        AttentionMapsError: a map is missing or damaged.
    """
    names, steps = list(maps.words), len(maps.steps)
    if not names:
        return [], {}
    summaries: dict[str, list[tuple[Floats, ...]]] = {name: [] for name in names}
    overlaps = np.empty((steps, len(names), len(names)))
    for step in range(steps):
        roots = []
        for name in names:
            a = maps.read_mean_at_step(name, step)
            summaries[name].append(_summarise_maps(a[None]))
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 of a word of weight 0, which has no attention
                roots.append(np.sqrt(a.ravel() / a.sum()))
        overlaps[step] = np.stack(roots) @ np.stack(roots).T
    curves = [
        _build_word_curves(maps, name, *(np.concatenate(each) for each in zip(*summaries[name], strict=True)))
        for name in names
    ]
    return curves, {
        first: {second: overlaps[:, i, j] for j, second in enumerate(names) if j != i} for i, first in enumerate(names)
    }


def _summarise_maps(a: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return mass, entropy, centre and spread of maps [s, frames, height, width], as in `WordCurves`."""
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
    return a.mean((1, 2, 3)), entropy, centre, spread


def _build_word_curves(
    maps: StoredAttentionMaps, name: str, mass: Floats, entropy: Floats, centre: Floats, spread: Floats
) -> WordCurves:
    word = maps.words[name]
    return WordCurves(name, word["text"], tuple(word["token_texts"]), maps.sigmas, mass, entropy, centre, spread)


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
