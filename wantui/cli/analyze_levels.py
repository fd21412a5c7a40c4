"""Decodability and variance shares over the noise level, for `wantui analyze --decodability` and `--shares`."""

import math
from typing import TYPE_CHECKING

import numpy as np

from wantui.cli.output import echo, print_columns, print_json, print_wrapped_line
from wantui.cli.progress_line import open_progress_line
from wantui.formatting import format_count, format_share

if TYPE_CHECKING:
    from wantui.analysis.decodability import Decodability
    from wantui.analysis.level_states import LevelStates
    from wantui.analysis.variance_shares import VarianceShares
    from wantui.analysis.video import Video

MAX_SHOWN_LEVELS = 16
"""Maximum number of noise levels in a table; JSON lists all."""
MAX_SHOWN_PAIRS = 6
"""Maximum number of group pairs whose curves are printed."""


def print_decodability(videos: "list[Video]", grouping: str, as_json: bool) -> list[str]:
    """Print how accurately groups can be distinguished by noise level; return the names of unreadable videos."""
    from wantui.analysis.calibrated import describe_measure
    from wantui.analysis.decodability import compute_decodability
    from wantui.analysis.serialize_levels import build_decodability_record

    level_states, unguided_states = _load_level_states(videos, grouping)
    with open_progress_line() as line:
        line.show_phase("decoding pairs of groups")
        pairs = compute_decodability(level_states)
        unguided_pairs = [] if unguided_states is None else compute_decodability(unguided_states)
    if as_json:
        record = build_decodability_record(grouping, level_states, pairs)
        unguided_record = (
            None
            if unguided_states is None
            else build_decodability_record(grouping, unguided_states, unguided_pairs) | {"unguided": None}
        )
        print_json(record | {"unguided": unguided_record})
        return list(level_states.unreadable_videos)
    print_wrapped_line(
        "decodability: share of video pairs (same seed and wording) that a linear classifier trained on the other "
        f"seeds assigns to the right groups. Guessing gives 50 %; {describe_measure('decodability', 'decodability')}"
    )
    unguided_by_groups = {(pair.first_group, pair.second_group): pair for pair in unguided_pairs}
    for pair in pairs:
        print_wrapped_line(f"  {pair.describe()}", indent=4)
        if (unguided := unguided_by_groups.get((pair.first_group, pair.second_group))) is not None:
            print_wrapped_line(f"  at cfg_scale 1: {unguided.describe()}", indent=4)
    for pair in pairs[:MAX_SHOWN_PAIRS]:
        _print_pair_curve(pair, unguided_by_groups.get((pair.first_group, pair.second_group)))
    if len(pairs) > MAX_SHOWN_PAIRS:
        echo(f"{len(pairs) - MAX_SHOWN_PAIRS} more pairs not shown; --json lists their curves")
    return list(level_states.unreadable_videos)


def _print_pair_curve(pair: "Decodability", unguided: "Decodability | None") -> None:
    has_unguided = unguided is not None and len(unguided.sigmas) == len(pair.sigmas)
    echo()
    rows = [
        (
            f"{pair.sigmas[level]:.3f}",
            format_share(pair.accuracy[level]),
            *([format_share(unguided.accuracy[level])] if unguided is not None and has_unguided else []),
            f"{format_share(pair.low[level])} to {format_share(pair.high[level])}",
            f"{format_share(pair.chance_low[level])} to {format_share(pair.chance_high[level])}",
            f"{pair.p[level]:.3g}",
        )
        for level in select_shown_levels(len(pair.sigmas))
    ]
    name = f"{pair.first_group} - {pair.second_group}"
    unguided_headers = ["at cfg_scale 1"] if has_unguided else []
    print_columns(("sigma", name, *unguided_headers, "95 % interval", "by chance", "p at this level"), *rows)


def print_variance_shares(videos: "list[Video]", grouping: str, as_json: bool) -> list[str]:
    """Print the variance shares of the states at each noise level; return the names of unreadable videos."""
    from wantui.analysis.calibrated import describe_measure
    from wantui.analysis.serialize_levels import build_shares_record
    from wantui.analysis.variance_shares import compute_variance_shares

    level_states, unguided_states = _load_level_states(videos, grouping)
    with open_progress_line() as line:
        line.show_phase("dividing variance")
        variance_shares = compute_variance_shares(level_states)
        unguided_shares = None if unguided_states is None else compute_variance_shares(unguided_states)
    if as_json:
        record = build_shares_record(grouping, level_states, variance_shares)
        unguided_record = (
            None
            if unguided_states is None or unguided_shares is None
            else build_shares_record(grouping, unguided_states, unguided_shares) | {"unguided": None}
        )
        print_json(record | {"unguided": unguided_record})
        return list(level_states.unreadable_videos)
    print_wrapped_line(variance_shares.describe())
    print_wrapped_line(describe_measure("variance_share", "the share of the groups"))
    echo()
    _print_share_table(variance_shares)
    if unguided_shares is not None:
        echo()
        print_wrapped_line(f"at cfg_scale 1: {unguided_shares.describe()}")
        echo()
        _print_share_table(unguided_shares)
    return list(level_states.unreadable_videos)


def _print_share_table(variance_shares: "VarianceShares") -> None:
    names = variance_shares.varying_effects
    rows = []
    for level in select_shown_levels(len(variance_shares.sigmas)):
        shares = [variance_shares.shares_by_effect[name][level] for name in names]
        rows.append(
            (
                f"{variance_shares.sigmas[level]:.3f}",
                f"{variance_shares.total[level]:.4g}",
                *(_format_share(share) for share in shares),
                f"{_format_share(variance_shares.chance_mean[level])} (up to "
                f"{_format_share(variance_shares.chance_high[level])})",
                f"{variance_shares.p[level]:.3g}",
            )
        )
    print_columns(("sigma", "variance", *variance_shares.effect_titles, "group by chance", "p at this level"), *rows)


def _format_share(share: float) -> str:
    """Format a share in percent; keep a significant digit of a small share, such as one near sigma 1."""
    if math.isnan(share):
        return "-"
    if 0 < share < 1e-5:
        return "<0.001 %"
    return format_share(share, 1) if share == 0 or share >= 0.001 else f"{100 * share:.1g} %"


def select_shown_levels(level_count: int) -> list[int]:
    """Return the indices of at most MAX_SHOWN_LEVELS evenly spread noise levels, including the first and the last."""
    levels = np.linspace(0, level_count - 1, min(level_count, MAX_SHOWN_LEVELS)).round()
    return [int(level) for level in np.unique(levels)]


def _load_level_states(videos: "list[Video]", grouping: str) -> "tuple[LevelStates, LevelStates | None]":
    """Load the states and, if stored, the states at cfg_scale 1; print which videos are left out."""
    from wantui.analysis.level_states import load_guided_and_unguided

    with open_progress_line() as line:
        line.show_phase(f"reading the states of {format_count(len(videos), 'video')}")
        level_states, unguided_states, reason = load_guided_and_unguided(videos, grouping)
    for name, exclusion_reason in level_states.exclusion_reasons:
        echo(f"left out: {name}: {exclusion_reason}", err=True)
    if reason:
        echo(f"warning: {reason}", err=True)
    return level_states, unguided_states
