"""The benchmark that compares rules for skipped steps: its simulation of SeaCache against diffusers."""

import itertools

import pytest
import torch
from benchmarks.cache_rules import RULES, Rule, choose_threshold, compute_change, simulate_rule
from diffusers.hooks.sea_cache import SeaCacheContextState, SeaCacheSharedState, _SeaCacheForwardMetadata

pytestmark = pytest.mark.torch

STEP_COUNT = 50


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.schedule is None], ids=lambda rule: rule.name)
@pytest.mark.parametrize("threshold", [0.05, 0.2, 1.0])
def test_simulated_seacache_computes_the_steps_that_diffusers_computes(rule: Rule, threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    moves = 0.01 * torch.randn(STEP_COUNT, 4, 3, 2, 2, generator=generator).cumsum(0)
    indicators = torch.randn(4, 3, 2, 2, generator=generator) + moves.cumsum(0)
    shared, state = SeaCacheSharedState(), SeaCacheContextState()
    expected = []
    for index, indicator in enumerate(indicators):
        metadata = _SeaCacheForwardMetadata(index, 0.5, STEP_COUNT)
        is_computed = shared.resolve_gate(state, metadata, [indicator], rule.build_config(threshold, STEP_COUNT))
        state.consecutive_cached = 0 if is_computed else state.consecutive_cached + 1
        expected.append(is_computed)
    changes = [compute_change(now, before) for before, now in itertools.pairwise(indicators)]
    assert simulate_rule(rule, changes, threshold) == expected
    assert 0 < sum(expected) < STEP_COUNT


def test_a_threshold_is_chosen_by_the_budget() -> None:
    rule = RULES[2]
    changes = [0.1] * (STEP_COUNT - 1)
    threshold = choose_threshold(26, lambda value: sum(simulate_rule(rule, changes, value)))
    assert sum(simulate_rule(rule, changes, threshold)) == 26  # every second step, and the last
    assert 0.1 < threshold <= 0.2
