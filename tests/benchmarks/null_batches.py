"""Rates of p up to 0.05 on a real batch without a difference: permuted groups, and disjoint seeds of one prompt."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from benchmarks.simulated_nulls import STATE_TESTS, compute_metric_p, use_fewer_exchanges
from numpy.typing import NDArray

from wantui.analysis.clusters import run_cluster_test
from wantui.analysis.conditions import select_videos_by_condition
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.final_states import load_group_states
from wantui.analysis.groups import MatchedGroups, group_videos
from wantui.analysis.level_states import load_level_states
from wantui.analysis.loading import read_batch_videos
from wantui.analysis.matching import match_comparable_groups
from wantui.analysis.metrics import CURVES, METRICS
from wantui.analysis.statistics import draw_within_seed_permutations
from wantui.analysis.video import Video
from wantui.formatting import format_share

FloatArray = NDArray[np.float64]
CURVE_NAME = "velocity"
MIN_PERMUTED_SEEDS, MIN_DISJOINT_SEEDS = 6, 12
"""Minimum number of seeds: six pairs of videos can give p below 0.05."""


def load_values(videos: list[Video], grouping: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return final states [groups, seeds, phrasings, k], metrics [groups, seeds, phrasings, metrics], and curves.

    Metrics that a video lacks are left out.
    """
    level_states = load_level_states(videos, grouping)
    matched_groups, _ = match_comparable_groups(videos, grouping)
    metrics = np.stack([_arrange(matched_groups, g, _collect_metrics) for g in range(len(matched_groups.groups))])
    curves = np.stack([_arrange(matched_groups, g, _collect_curve) for g in range(len(matched_groups.groups))])
    is_complete = np.isfinite(metrics).all((0, 1, 2))
    return level_states.states[:, :, :, -1].astype(np.float64), metrics[..., is_complete], curves


def _arrange(matched_groups: MatchedGroups, group_index: int, collect: Callable[[Video], FloatArray]) -> FloatArray:
    """Return the values of the videos of a group, [seeds, phrasings, values]."""
    group = matched_groups.groups[group_index]
    values = np.stack([collect(video) for video in group.videos])
    return values.reshape(len(matched_groups.seeds), -1, values.shape[-1])


def _collect_metrics(video: Video) -> FloatArray:
    return np.array([video.compute_metric(name) for name in METRICS])


def _collect_curve(video: Video) -> FloatArray:
    assert video.trajectory is not None
    return CURVES[CURVE_NAME](video.trajectory)[1]


def run_tests(states: FloatArray, metrics: FloatArray, curves: FloatArray) -> dict[str, float]:
    """Return p of each test, from values [groups, seeds, phrasings, ...]."""
    first, second = curves[0].mean(1), curves[1].mean(1)
    clusters = run_cluster_test(first - second).clusters
    p_by_test = {name: compute_p(states) for name, compute_p in STATE_TESTS.items()}
    p_by_test[f"one of {metrics.shape[-1]} metrics: max-T"] = compute_metric_p(metrics.mean(2).transpose(1, 0, 2))
    p_by_test[f"curve of {CURVE_NAME}: clusters"] = min((cluster.p for cluster in clusters), default=1.0)
    return p_by_test


def draw_permuted(videos: list[Video], grouping: str, run_count: int) -> Iterator[dict[str, float]]:
    """Yield p of each test with the groups of each seed permuted, all phrasings of a seed together.

    If there are few enough permutations, all are tried, so that the rates have no error.
    """
    values = load_values(videos, grouping)
    group_count, seed_count = values[0].shape[:2]
    if seed_count < MIN_PERMUTED_SEEDS:
        raise click.ClickException(f"the groups share {seed_count} seeds, but {MIN_PERMUTED_SEEDS} are needed")
    for order in draw_within_seed_permutations(seed_count, group_count, run_count):
        yield run_tests(*(array[order.T, np.arange(seed_count)] for array in values))


def draw_disjoint(videos: list[Video], run_count: int) -> Iterator[dict[str, float]]:
    """Yield p of each test between two halves of the seeds of one variation after another, paired at random."""
    values = []
    for group in group_videos(videos, "variation"):
        if len(group.videos) < MIN_DISJOINT_SEEDS:
            raise click.ClickException(
                f"{group.name} has {len(group.videos)} videos, but {MIN_DISJOINT_SEEDS} are needed. Choose one cell of "
                "a sweep with --where"
            )
        _, states, reasons = load_group_states(group)
        if reasons:
            raise click.ClickException(f"{group.name}: {next(iter(reasons.values()))}")
        metrics, curves = (
            np.stack([collect(v) for v in group.videos]) for collect in (_collect_metrics, _collect_curve)
        )
        metrics = metrics[:, np.isfinite(metrics).all(0)]
        values.append([array[:, None] for array in (states[:, -1].astype(np.float64), metrics, curves)])
    random = np.random.default_rng(2)
    for run in range(run_count):
        arrays = values[run % len(values)]
        half = len(arrays[0]) // 2
        order = random.permutation(len(arrays[0]))
        yield run_tests(*(np.stack([array[order[:half]], array[order[half : 2 * half]]]) for array in arrays))


def print_rates(folder: Path, grouping: str | None, conditions: tuple[str, ...], run_count: int) -> None:
    """Print the share of runs in which each test has p up to 0.05, with permuted groups or with disjoint seeds.

    Args:
        grouping: grouping whose labels are permuted; None to compare disjoint seeds.
    """
    videos = select_videos_by_condition([video for video in read_batch_videos(folder) if video.trajectory], conditions)
    draws = draw_disjoint(videos, run_count) if grouping is None else draw_permuted(videos, grouping, run_count)
    with use_fewer_exchanges():
        runs = list(draws)
    click.echo(f"{len(runs)} runs\n")
    click.echo("| test | share of runs with p up to 0.05 |\n|---|---|")
    for name in runs[0]:
        click.echo(f"| {name} | {format_share(float(np.mean([run[name] <= SIGNIFICANCE_LEVEL for run in runs])), 1)} |")
