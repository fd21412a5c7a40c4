"""Advice of the analysis for the screen: keys, where the messages name options of the command line."""

import re

KEYS_BY_ADVICE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"Choose another --by", "Press c for another grouping"),
        (
            r"Group by the setting \(--by [^)]*\), or choose videos with equal settings \(--where\)",
            "Press c to group by it",
        ),
        (r"group by (it|one) to compare its values, or choose (?:one|values) with --where", r"c groups by \1"),
        (r"Choose one with --primary", "Choose one on the command line: `wantui analyze --primary`"),
        (
            r"To use another metric, add for example --primary (\w+)",
            r"Another metric is used on the command line: `wantui analyze --compare --primary \1`",
        ),
        (r"Name two brackets or settings, such as --by 1,2", "Press n for another pair"),
        (
            r"generate with --store-attention, or add --scores labels.csv",
            "turn on store_attention in Compose (1, then s); outside labels are read by `wantui analyze --scores`",
        ),
    )
)
"""Patterns of advice for the command line, with the same advice for the screen."""


def name_keys(message: str) -> str:
    """Return a message of the analysis with keys of the screen instead of options of `wantui analyze`."""
    for pattern, replacement in KEYS_BY_ADVICE:
        message = pattern.sub(replacement, message)
    return message
