"""Percentages and margins of metrics near 1 are of the distance from 1: straightness agrees with detour."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wantui.analysis.differences import Difference, compare_group_pairs, compute_pair_effects
from wantui.analysis.dose_response import DoseResponse, compute_dose_response, find_doses
from wantui.analysis.group import Group
from wantui.analysis.groups import group_videos
from wantui.analysis.metrics import METRICS, describe_ratio_origins
from wantui.analysis.statistics import count_pairs_needed
from wantui.analysis.verdicts import Verdict, is_within_margin, judge_difference
from wantui.analysis.video import Video

NOISE = np.random.default_rng(3).normal(size=(14, 2)) * 1e-4


def compare(metric: str, values: NDArray[np.float64]) -> tuple[Difference, Verdict]:
    """Return the difference and the verdict of two groups from values [seeds, 2]."""
    cell_values = values[:, None, :, None]
    effects = compute_pair_effects(cell_values, [(0, 1)])
    groups = [Group("first", ()), Group("second", ())]
    (difference,) = compare_group_pairs(groups, [metric], cell_values, [(0, 1)], 0.05, effects)
    p = difference.paired_effect.p
    return difference, judge_difference(difference, values[:, :1], values[:, 1:], p, float("nan"), 0.05, 1)


@pytest.mark.parametrize("shift", [0.0, 0.0002, 0.004])
def test_straightness_and_detour_give_the_same_answer(shift: float) -> None:
    straightness = np.array([0.98, 0.98 - shift]) + NOISE
    direct, direct_verdict = compare("straightness", straightness)
    complement, complement_verdict = compare("detour", 1 - straightness)
    assert direct.relative_difference == pytest.approx(-complement.relative_difference)
    assert (direct.relative_low, direct.relative_high) == pytest.approx(
        (-complement.relative_high, -complement.relative_low)
    )
    assert direct.seeds_needed == complement.seeds_needed
    assert direct_verdict.kind == complement_verdict.kind


def test_path_that_is_twice_as_bent_is_not_alike() -> None:
    straightness = np.array([0.99, 0.98]) + NOISE
    difference, verdict = compare("straightness", straightness)
    assert difference.relative_difference == pytest.approx(0.5, abs=0.01)  # of the second path's 0.02
    assert verdict.kind == "differs"
    assert "within the equivalence margin" not in verdict.verdict_text
    assert " % of the distance from 1 (95 % interval" in verdict.verdict_text


def test_alike_and_needed_seeds_name_the_distance() -> None:
    _, verdict = compare("effective_dimension", np.array([1.02, 1.02]) + NOISE)
    assert verdict.kind == "alike"
    assert "alike in effective_dimension, within 5 % of the distance from 1" in verdict.verdict_text
    loud = np.array([1.02, 1.02]) + 30 * NOISE
    difference, verdict = compare("effective_dimension", loud)
    deviation = (loud[:, 0] - loud[:, 1]).std(ddof=1)
    assert difference.seeds_needed == count_pairs_needed(0.05 * (loud[:, 1].mean() - 1) / deviation)
    assert f"5 % of the distance from 1, about {difference.seeds_needed} seeds" in verdict.verdict_text


def test_equal_values_at_the_origin_are_alike_and_unequal_ones_are_not() -> None:
    assert is_within_margin("straightness", np.ones(8), np.ones(8), 0.05)
    assert not is_within_margin("straightness", np.ones(8) - NOISE[:8, 0] ** 2, np.ones(8), 0.05)
    assert is_within_margin("turning", np.zeros(8), np.zeros(8), 0.05)
    assert not is_within_margin("turning", np.abs(NOISE[:8, 0]), np.zeros(8), 0.05)


def respond(folder: Path, metric: str, values: NDArray[np.float64]) -> DoseResponse:
    """Return the dose-response of a metric from values [seeds, doses]."""
    videos = [
        replace(Video(folder, 0, "", "", "", {}, seed), setting_values={"generation.cfg_scale": dose})
        for dose in (2.0, 4.0, 6.0)
        for seed in range(len(values))
    ]
    groups = group_videos(videos, "cfg_scale")
    doses = find_doses(groups, "cfg_scale")
    assert doses is not None
    return compute_dose_response(groups, doses, [metric], values[:, None, :, None], 0.05)


@pytest.mark.parametrize(("drift", "kind"), [(0.0, "flat"), (0.0001, "cannot tell")])
def test_flat_response_of_straightness_equals_that_of_detour(tmp_path: Path, drift: float, kind: str) -> None:
    # 0.0004 from the first to the last dose: 0.04 % of 0.98, but 2 % of the distance from 1; the noise adds 5 %.
    noise = np.random.default_rng(5).normal(size=(8, 3)) * (1e-4 if not drift else 2e-3)
    straightness = 0.98 + noise + drift * np.array([0, 2, 4])
    direct = respond(tmp_path, "straightness", straightness)
    complement = respond(tmp_path, "detour", 1 - straightness)
    assert direct.verdict_kind == complement.verdict_kind == kind
    assert direct.trends[0].relative_slope == pytest.approx(-complement.trends[0].relative_slope)
    assert " % of the distance from 1" in direct.verdict_text
    assert " % of the mean" in complement.verdict_text


def test_sentence_names_the_metrics_that_count_from_1() -> None:
    near_one = [name for name, metric in METRICS.items() if metric.ratio_origin]
    assert near_one == ["straightness", "chord_alignment", "first_pc_variance", "effective_dimension", "commitment"]
    assert describe_ratio_origins(["spread", "straightness", "brightness", "commitment", "straightness"]) == (
        "percentages of straightness, commitment are of the distance from 1"
    )
    assert describe_ratio_origins(["length", "spread"]) == ""
