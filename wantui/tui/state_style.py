"""Glyph, word and colour of each state, never a colour alone. One table for all screens."""

from dataclasses import dataclass

from wantui.queue.states import state_word


@dataclass(frozen=True)
class StateStyle:
    """Appearance of one state."""

    glyph: str
    word: str
    colour: str
    """Name of a colour of the theme."""


STYLES = {
    "queued": ("·", "foreground"),
    "running": ("▶", "accent"),
    "done": ("✓", "success"),
    "failed": ("✗", "error"),
    "cancelled": ("−", "foreground"),
    "partly": ("◐", "warning"),
    "interrupted": ("!", "warning"),
    "paused": ("‖", "warning"),
}
"""Glyph and colour by state."""


def state_style(state: str) -> StateStyle:
    """Return how a state is shown; unknown states are shown by name."""
    glyph, colour = STYLES.get(state, ("?", "warning"))
    return StateStyle(glyph, state_word(state), colour)
