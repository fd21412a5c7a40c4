"""Smallest effects that planned seeds can find, and the warning about too few seeds."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from nano_preview import preview_nano_batch
from scipy import special, stats
from template_batches import load_planned_videos

from wantui.analysis import statistics
from wantui.analysis.differences import compute_family_p
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.matching import match_comparable_groups
from wantui.analysis.power import GROUP_COUNTS, compute_min_pair_p, find_detectable_effect
from wantui.analysis.statistics import compute_min_attainable_p, compute_paired_effect, run_sign_flip_test
from wantui.batches.power import describe_power, list_grouping_powers
from wantui.cli import cli


def find_effect(seed_count: int, group_count: int) -> float:
    d_z = find_detectable_effect(seed_count, group_count)
    assert d_z is not None
    return d_z


def test_six_seeds_find_an_effect_only_if_all_differences_have_one_sign() -> None:
    d_z = find_effect(6, 2)
    equal_sign_share = special.ndtr(d_z) ** 6 + special.ndtr(-d_z) ** 6
    assert 0.8 <= equal_sign_share < 0.81  # the interval of some of these batches contains 0
    assert special.ndtr(1.5) ** 6 < 0.67 < stats.nct.sf(stats.t.ppf(0.975, 5), 5, 1.5 * math.sqrt(6))
    assert find_effect(7, 2) < 1.5 < d_z


@pytest.mark.parametrize("seed_count", [28, 40, 70, 96, 200, 5000])
def test_effects_of_many_seeds_have_the_power_of_the_t_test(seed_count: int) -> None:
    noncentrality = find_effect(seed_count, 2) * math.sqrt(seed_count)
    power = stats.nct.sf(stats.t.ppf(0.975, seed_count - 1), seed_count - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("seed_count", [6, 7, 8, 10, 13, 16])
def test_verdict_on_two_groups_finds_the_detectable_effect_in_four_of_five_batches(seed_count: int) -> None:
    generator = np.random.default_rng(seed_count)
    found_count = 0
    for _ in range(1500):
        effect = compute_paired_effect(generator.standard_normal(seed_count) + find_effect(seed_count, 2))
        found_count += effect.p <= 0.05 and effect.interval_low > 0
    assert found_count / 1500 == pytest.approx(0.8, abs=0.035)  # three standard errors


@pytest.mark.slow
@pytest.mark.parametrize(("seed_count", "group_count"), [(6, 3), (8, 3), (10, 4), (8, 7)])
def test_verdict_on_several_groups_counts_all_pairs(
    seed_count: int, group_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLE_COUNT", 499)
    monkeypatch.setattr(statistics, "MAX_EXACT_PERMUTATIONS", 1000)
    pairs = list(itertools.combinations(range(group_count), 2))
    generator = np.random.default_rng([seed_count, group_count])
    found_count = 0
    for _ in range(400):
        values = generator.standard_normal((seed_count, group_count))
        values[:, 0] += find_effect(seed_count, group_count) * math.sqrt(2)
        pairwise_p = np.zeros((len(pairs), 1))
        pairwise_p[0] = run_sign_flip_test(values[:, 0] - values[:, 1])
        found_count += compute_family_p(values[:, :, None], pairs, pairwise_p)[0, 0] <= 0.05
    assert found_count / 400 == pytest.approx(0.8, abs=0.06)  # three standard errors


def test_more_seeds_find_smaller_effects_and_more_groups_hide_them() -> None:
    effects = np.array([[find_effect(seeds, groups) for groups in range(2, 51)] for seeds in range(6, 130)])
    assert (np.diff(effects, axis=0) < 0).all()
    assert (np.diff(effects, axis=1) > 0).all()


@pytest.mark.parametrize("group_count", [0, 1, 51])
def test_effects_of_a_number_of_groups_outside_the_table_are_refused(group_count: int) -> None:
    with pytest.raises(ValueError, match="2 to 50"):
        find_detectable_effect(8, group_count)


def test_smallest_p_equals_that_of_the_sign_flip_test() -> None:
    assert [compute_min_pair_p(n) for n in range(1, 40)] == [compute_min_attainable_p(n) for n in range(1, 40)]
    assert [n for n in range(1, 40) if find_detectable_effect(n, 2) is None] == [1, 2, 3, 4, 5]


def test_groups_are_those_that_the_analysis_can_form() -> None:
    batch = preview_nano_batch(
        "a [red|blue] [circle|square|star]", seeds="1..8", sweeps="cfg_scale=2,4,6,8; width=128,160+height=128,160"
    )
    powers = {power.grouping: power for power in list_grouping_powers(batch)}
    assert {name: (power.group_count, power.pair_count) for name, power in powers.items()} == {
        "1": (2, 1),
        "2": (3, 3),
        "variation": (6, 15),
        "cfg_scale": (4, 6),
    }
    assert powers["1"].d_z == find_effect(8, 2)
    assert powers["variation"].d_z == find_effect(8, 6)
    text, short_text, clauses = describe_power(list(powers.values()))
    assert text == (
        "8 seeds detect 1.2 SD (red|blue), 1.5 SD (circle|square|star, 3 groups), "
        "1.7 SD (cfg_scale, 4 groups), 2 SD (variation, 6 groups)"
    )
    assert short_text == "8 seeds detect 1.2 to 2 SD"
    assert clauses[0] == "found in 80 % of batches"


def test_baseline_row_is_a_group_of_its_own() -> None:
    batch = preview_nano_batch("a circle", seeds="1..6", sweeps="cfg_scale=2,6", sweeps_baseline="true")
    assert [(power.grouping, power.group_count) for power in list_grouping_powers(batch)] == [("cfg_scale", 3)]


def test_batches_without_groups_or_trajectories_have_no_power() -> None:
    for batch in (
        preview_nano_batch("a circle", videos_per_variation="3"),
        preview_nano_batch("a [red|blue] circle", **{"model_settings.sampler": "lcm", "videos_per_variation": "3"}),
    ):
        assert list_grouping_powers(batch) == []
        assert describe_power([]) == ("", "", ())


@pytest.mark.parametrize(
    ("seeds", "text", "min_p"),
    [
        ("5", "5 seeds detect no difference between groups; at least 6 are needed", "0.0625"),
        ("1", "1 seed detects no difference between groups; at least 6 are needed", "1"),
    ],
)
def test_too_few_seeds_are_part_of_the_plan_and_no_warning(seeds: str, text: str, min_p: str) -> None:
    batch = preview_nano_batch("a [red|blue] circle", videos_per_variation=seeds)
    assert describe_power(list_grouping_powers(batch))[0] == text
    assert describe_power(list_grouping_powers(batch))[2] == (f"smallest possible p {min_p}",)
    assert not any("seed" in warning for warning in batch.warnings)


def test_one_seed_is_answered_with_the_seeds_of_a_significant_difference(tmp_path: Path) -> None:
    videos = load_planned_videos(tmp_path, "a [red|blue] circle", seed_count=1)
    with pytest.raises(
        CannotCompareError,
        match="they share 1 seed, but a comparison needs two, and a significant difference needs at least 6",
    ):
        match_comparable_groups(videos, "1")


def test_preview_shows_the_effect_that_the_seeds_can_find() -> None:
    runner = CliRunner()
    arguments = ["preview", "-c", "nano", "-t", "a [red|blue] circle", "-n"]
    shown = runner.invoke(cli, [*arguments, "6"])
    assert "power: 6 seeds detect 1.8 SD (red|blue)" in " ".join(shown.output.split())
    document = json.loads(runner.invoke(cli, [*arguments, "6", "--json"]).stdout)
    assert document["power"] == [{"by": "1", "groups": 2, "pairs": 1, "min_p": 0.03125, "d_z": find_effect(6, 2)}]
    document = json.loads(runner.invoke(cli, [*arguments, "5", "--json"]).stdout)
    assert document["power"] == [{"by": "1", "groups": 2, "pairs": 1, "min_p": 0.0625, "d_z": None}]
    assert document["warnings"] == []
    for preset in ("nano", "default"):  # their own numbers of seeds are no reason for a warning
        shown = runner.invoke(cli, ["preview", "-c", preset, "-t", "a [red|blue] circle"])
        assert "seeds" not in shown.stderr
        assert re.search(r"power: [23] seeds detect no difference between groups; at least 6 are needed", shown.stdout)


def test_table_covers_the_groups_that_the_analysis_compares() -> None:
    from wantui.analysis.group_errors import MAX_GROUPS

    assert (GROUP_COUNTS[0], GROUP_COUNTS[-1]) == (2, MAX_GROUPS)
