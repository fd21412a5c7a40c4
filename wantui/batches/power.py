"""Smallest effects that the planned seeds of a batch can detect, for each grouping of `wantui analyze --by`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from wantui.analysis.power import (
    GROUP_COUNTS,
    MIN_SEEDS,
    POWER,
    compute_min_pair_p,
    find_detectable_effect,
)
from wantui.formatting import format_count, format_percent
from wantui.planning import BatchPreview

_SIZE_KEYS = {"width", "height", "frames"}
"""Settings that change the noise of a seed, so that videos that differ in them are not paired by seed."""

MAX_BRACKET_TITLE_LENGTH = 24
"""Maximum length of the options that name a bracket, in characters."""


@dataclass(frozen=True)
class GroupingPower:
    """A grouping of the videos of a batch, and the smallest effect that its seeds can detect."""

    grouping: str
    """Value of `wantui analyze --by`."""
    title: str
    """Name for people: the options of a bracket, such as "red|blue", or the grouping."""
    group_count: int
    seed_count: int
    d_z: float | None
    """Smallest d_z that is detected for a group pair with a power of 0.8; None with fewer than MIN_SEEDS seeds."""

    @property
    def pair_count(self) -> int:
        return self.group_count * (self.group_count - 1) // 2

    @property
    def min_p(self) -> float:
        """Return the smallest p that a pair of groups can have."""
        return compute_min_pair_p(self.seed_count)


def list_grouping_powers(preview: BatchPreview) -> list[GroupingPower]:
    """Return the groupings of a batch into 2 to 50 groups, with the smallest effects that their seeds can detect.

    Empty if the batch stores no trajectories to compare.
    """
    capture = preview.first_recipe.capture
    if not capture.geometry and not capture.latents:
        return []
    seed_count = len(preview.seeds)
    return [
        GroupingPower(
            grouping,
            _name_grouping(preview, grouping),
            group_count,
            seed_count,
            find_detectable_effect(seed_count, group_count),
        )
        for grouping, group_count in _count_groups(preview).items()
        if 2 <= group_count <= GROUP_COUNTS[-1]
    ]


def _count_groups(preview: BatchPreview) -> dict[str, int]:
    """Return the number of groups by grouping: of each bracket, of the variations, and of each swept setting."""
    brackets = sorted({choice.bracket_number for variation in preview.variations for choice in variation.choices})
    counts = {str(bracket): len(_list_options(preview, bracket)) for bracket in brackets}
    if len(brackets) > 1:
        counts["variation"] = len(preview.variations)
    if preview.sweep is None:
        return counts
    name_by_path = preview.sweep.name_by_path
    for axis in preview.sweep.axes:
        path = axis.paths[0]
        if not any(axis_path.rpartition(".")[2] in _SIZE_KEYS for axis_path in axis.paths):
            cells = preview.sweep.cells
            values = {json.dumps(cell.values[path], default=str) if path in cell.values else "" for cell in cells}
            counts[name_by_path[path]] = len(values)
    return counts


def describe_power(powers: Sequence[GroupingPower]) -> tuple[str, str, tuple[str, ...]]:
    """Return the smallest effects of groupings in one line, their range, and the clauses of their basis.

    All are empty without groupings.
    """
    if not powers:
        return "", "", ()
    found = [power for power in powers if power.d_z is not None]
    if not found:
        seeds_text = format_count(powers[0].seed_count, "seed")
        verb = "detects" if powers[0].seed_count == 1 else "detect"
        text = f"{seeds_text} {verb} no difference between groups; at least {MIN_SEEDS} are needed"
        return text, f"{seeds_text} {verb} none; {MIN_SEEDS} needed", (f"smallest possible p {powers[0].min_p:.4g}",)
    found.sort(key=lambda power: power.group_count)  # groupings of equal size stay in order
    parts = []
    for group_count, equal_powers in groupby(found, key=lambda power: power.group_count):
        same_size = list(equal_powers)
        names = " or ".join(power.title for power in same_size)
        groups_text = names if group_count == 2 else f"{names}, {group_count} groups"
        parts.append(f"{same_size[0].d_z:.2g} SD ({groups_text})")
    clauses = (
        f"found in {format_percent(POWER)} of batches",
        "SD: standard deviation, over seeds, of the difference between two groups",
    )
    smallest, largest = (f"{choose(power.d_z or 0.0 for power in found):.2g}" for choose in (min, max))
    range_text = f"{smallest} SD" if smallest == largest else f"{smallest} to {largest} SD"
    start = f"{format_count(found[0].seed_count, 'seed')} detect"
    return f"{start} {', '.join(parts)}", f"{start} {range_text}", clauses


def _name_grouping(preview: BatchPreview, grouping: str) -> str:
    if not grouping.isdecimal():
        return grouping
    options = "|".join(_list_options(preview, int(grouping)))
    return options if options.strip("|") and len(options) <= MAX_BRACKET_TITLE_LENGTH else f"bracket {grouping}"


def _list_options(preview: BatchPreview, bracket: int) -> list[str]:
    """Return the options of a bracket, each once; variations that lack it, because it is nested, form no group."""
    return list(
        dict.fromkeys(
            choice.text
            for variation in preview.variations
            for choice in variation.choices
            if choice.bracket_number == bracket
        )
    )
