"""Colours of variations and groups, which are the same on every screen."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wantui.prompts.expand import Variation
    from wantui.storage.manifest import VariationEntry

SERIES_COLOURS = ("orange", "teal", "pink", "yellow", "violet", "green", "red", "blue")
"""Colours in the order in which names get them; the last is near the accent of the interface."""
OTHER_COLOUR_WORDS = {"purple": "violet", "cyan": "teal", "turquoise": "teal", "magenta": "pink", "golden": "yellow"}
"""Further words for these colours."""
DARK_SERIES = ("#f0a35e", "#4cc3c9", "#e58fc8", "#dcc65a", "#b394f4", "#6fcf97", "#f2706f", "#4aa5f5")
"""Values of `SERIES_COLOURS`, in its order, on a dark background."""
LIGHT_SERIES = ("#a8530a", "#0b7285", "#b0307f", "#7d6500", "#6f3fc7", "#1f7a3f", "#c0282d", "#1f5fc4")
"""Values of `SERIES_COLOURS`, in its order, on a light background."""
ANSI_SERIES = (
    "ansi_yellow",
    "ansi_cyan",
    "ansi_magenta",
    "ansi_bright_yellow",
    "ansi_bright_magenta",
    "ansi_green",
    "ansi_red",
    "ansi_blue",
)
"""Values of `SERIES_COLOURS`, in its order, from the palette of the terminal."""
_WORD_PATTERN = re.compile(r"[a-z]+")


def make_series_variables(*, is_dark: bool, is_ansi: bool) -> dict[str, str]:
    """Return the theme variables of the colours."""
    colours = ANSI_SERIES if is_ansi else DARK_SERIES if is_dark else LIGHT_SERIES
    return {f"series-{name}": colour for name, colour in zip(SERIES_COLOURS, colours, strict=True)}


def assign_variation_colours(variations: "Iterable[Variation | VariationEntry]") -> dict[str, str]:
    """Return the theme variable for each variation's colour, by variation id; empty for a single variation."""
    return assign_series_colours([variation.id for variation in variations])


def assign_series_colours(names: Sequence[str]) -> dict[str, str]:
    """Return the theme variable of each name's colour, given all names in the order of the batch.

    A name that contains the word of a colour gets that colour, so that the word red is not blue. The others get the
    next free colour. If there are more names than colours, names share colours. A single name gets none.
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) < 2:
        return {}
    chosen: dict[str, str] = {}
    for name in distinct:
        words = _WORD_PATTERN.findall(name.lower())
        named = next((colour for word in words if (colour := OTHER_COLOUR_WORDS.get(word, word)) in SERIES_COLOURS), "")
        if named and named not in chosen.values():
            chosen[name] = named
    free = [colour for colour in SERIES_COLOURS if colour not in chosen.values()]
    unnamed = [name for name in distinct if name not in chosen]
    for index, name in enumerate(unnamed):
        chosen[name] = free[index] if index < len(free) else SERIES_COLOURS[index % len(SERIES_COLOURS)]
    return {name: f"series-{chosen[name]}" for name in distinct}
