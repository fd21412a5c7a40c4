"""Serialisation of decodability and variance shares to JSON."""

from collections.abc import Sequence
from typing import Any

from wantui.analysis.decodability import Decodability
from wantui.analysis.level_states import LevelStates
from wantui.analysis.variance_shares import VarianceShares
from wantui.json_values import to_json_values


def build_decodability_record(grouping: str, level_states: LevelStates, pairs: Sequence[Decodability]) -> Any:
    """Return the JSON record of the decodability of all group pairs."""
    record = _build_level_record(grouping, level_states) | {
        "pairs": [
            {
                "first": pair.first_group,
                "second": pair.second_group,
                "accuracy": pair.accuracy,
                "low": pair.low,
                "high": pair.high,
                "chance_low": pair.chance_low,
                "chance_high": pair.chance_high,
                "p": pair.p,
                "mean_accuracy": pair.mean_accuracy,
                "mean_p": pair.pair_p,
                "least_p": pair.min_attainable_p,
                "halfway": pair.halfway_sigma,
                "halfway_low": pair.halfway_interval[0],
                "halfway_high": pair.halfway_interval[1],
                "kind": "differs" if pair.is_decodable else "cannot tell",
                "text": pair.describe(),
            }
            for pair in pairs
        ]
    }
    return to_json_values(record)


def build_shares_record(grouping: str, level_states: LevelStates, variance_shares: VarianceShares) -> Any:
    """Return the JSON record of the variance shares."""
    record = _build_level_record(grouping, level_states) | {
        "total": variance_shares.total,
        "shares": dict(variance_shares.shares_by_effect),
        "chance_mean": variance_shares.chance_mean,
        "chance_high": variance_shares.chance_high,
        "p": variance_shares.p,
        "mean_group_share": variance_shares.mean_group_share,
        "mean_p": variance_shares.mean_p,
        "least_p": variance_shares.min_attainable_p,
        "permutations": variance_shares.permutation_count,
        "text": variance_shares.describe(),
    }
    return to_json_values(record)


def _build_level_record(grouping: str, level_states: LevelStates) -> dict[str, Any]:
    return {
        "by": grouping,
        "groups": level_states.group_names,
        "seeds": level_states.seeds,
        "phrasings": level_states.phrasing_count,
        "sigma": level_states.sigmas,
        "excluded": [{"video": name, "reason": reason} for name, reason in level_states.exclusion_reasons],
    }
