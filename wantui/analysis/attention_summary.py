"""Summaries of a word's attention map, a few numbers per step.

A map a(f, y, x) is the attention of each latent position to the word; q = a / sum(a) is its distribution.
Attention is not attribution: a position may attend to a word without using its value.
"""

from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.storage.attention_maps import StoredAttentionMaps


@dataclass(frozen=True)
class WordCurves:
    """Summary curves of one word over s stored steps; NaN at steps where no block computed attention."""

    map_name: str
    word_text: str
    token_texts: tuple[str, ...]
    """Texts of the word's tokens."""
    sigmas: FloatArray
    """[s] noise levels."""
    mass: FloatArray
    """[s] mean of a over all positions: the word's share of all attention."""
    entropy: FloatArray
    """[s] - sum q ln q / ln(positions): 1 if attention is even, 0 if it is at one position."""
    centre: FloatArray
    """[s, frames, (x, y)] mean position under q in each frame, from 0 (left, top) to 1."""
    spread: FloatArray
    """[s, frames] root mean square distance from the centre, in units of the frame's sides."""


def compute_word_curves(maps: StoredAttentionMaps, map_name: str) -> WordCurves:
    """Return the summary curves of one marked word.

    Raises:
        AttentionMapsError: no map of the word is stored.
    """
    maps.reject_missing_word(map_name)
    return _build_word_curves(maps, map_name, *_summarise_maps(maps.read_mean_map(map_name)))


def summarise_all_words(maps: StoredAttentionMaps) -> tuple[list[WordCurves], dict[str, dict[str, FloatArray]]]:
    """Return the summary curves of all marked words, and the overlap [s] of each word with each other word, by name.

    Overlap is the Bhattacharyya coefficient: the sum of sqrt(q p) over all positions, 1 for equal distributions, 0 for
    disjoint ones. Each map is read once, and only the maps of one step are in memory.

    Raises:
        AttentionMapsError: a map is missing or damaged.
    """
    map_names, step_count = list(maps.metadata_by_word), len(maps.evaluations)
    if not map_names:
        return [], {}
    summaries: dict[str, list[tuple[FloatArray, ...]]] = {name: [] for name in map_names}
    overlaps = np.empty((step_count, len(map_names), len(map_names)))
    for step in range(step_count):
        root_distributions = []
        for name in map_names:
            a = maps.read_mean_map_at_step(name, step)
            summaries[name].append(_summarise_maps(a[None]))
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 of a word of weight 0, which has no attention
                root_distributions.append(np.sqrt(a.ravel() / a.sum()))
        overlaps[step] = np.stack(root_distributions) @ np.stack(root_distributions).T
    word_curves = [
        _build_word_curves(
            maps, name, *(np.concatenate(curve_values) for curve_values in zip(*summaries[name], strict=True))
        )
        for name in map_names
    ]
    return word_curves, {
        first_name: {second_name: overlaps[:, i, j] for j, second_name in enumerate(map_names) if j != i}
        for i, first_name in enumerate(map_names)
    }


def _summarise_maps(a: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return mass, entropy, centre and spread of maps [s, frames, height, width], as in `WordCurves`."""
    map_sums = a.sum((1, 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = a / map_sums[:, None, None, None]
        entropy = -np.where(q > 0, q * np.log(q), np.where(np.isnan(q), np.nan, 0)).sum((1, 2, 3)) / np.log(a[0].size)
        frame_sums = a.sum((2, 3))
        y, x = ((np.arange(size) + 0.5) / size for size in a.shape[2:])
        centre = np.stack([(a * x).sum((2, 3)), (a * y[:, None]).sum((2, 3))], axis=2) / frame_sums[..., None]
        squared_offsets = (x - centre[..., 0, None]) ** 2, (y - centre[..., 1, None]) ** 2
        squared_distances = squared_offsets[0][:, :, None, :] + squared_offsets[1][:, :, :, None]
        spread = np.sqrt((a * squared_distances).sum((2, 3)) / frame_sums)
    return a.mean((1, 2, 3)), entropy, centre, spread


def _build_word_curves(
    maps: StoredAttentionMaps,
    map_name: str,
    mass: FloatArray,
    entropy: FloatArray,
    centre: FloatArray,
    spread: FloatArray,
) -> WordCurves:
    word_entry = maps.metadata_by_word[map_name]
    return WordCurves(
        map_name, word_entry["text"], tuple(word_entry["token_texts"]), maps.sigmas, mass, entropy, centre, spread
    )


def average_finite_values(values: FloatArray) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite_values = values[np.isfinite(values)]
    return float(finite_values.mean()) if len(finite_values) else float("nan")


def average_map_over_steps(maps: StoredAttentionMaps, map_name: str) -> FloatArray:
    """Return the mean map over the steps with a map, [frames, height, width]; NaN if no step has one."""
    maps_by_step = maps.read_mean_map(map_name)
    is_computed = ~np.isnan(maps_by_step)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_computed, maps_by_step, 0).sum(0) / is_computed.sum(0))
