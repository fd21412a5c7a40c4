"""Glyph, word and colour of each state, for all screens; a state never differs by colour alone."""

from dataclasses import dataclass, replace

from wantui.queue.states import describe_state


@dataclass(frozen=True)
class StateStyle:
    """Appearance of one state."""

    glyph: str
    state_word: str
    colour_name: str
    """Name of a theme colour."""


STYLES_BY_STATE = {
    "queued": ("·", "foreground"),
    "running": ("▶", "accent"),
    "done": ("✓", "success"),
    "failed": ("✗", "error"),
    "cancelled": ("−", "foreground"),
    "partly": ("◐", "warning"),
    "interrupted": ("!", "warning"),
    "paused": ("‖", "warning"),
    "held": ("‖", "warning"),
}
"""Glyph and colour by state."""
DECODING_WORD = "decoding"
"""Word for a running video after its last step."""


def get_video_style(state: str, step_number: int, step_count: int) -> StateStyle:
    """Return the style of a video's state; after its last step, a running video has the style of decoding."""
    style = get_state_style(state)
    is_decoding = state == "running" and 0 < step_count <= step_number
    return replace(style, state_word=DECODING_WORD) if is_decoding else style


def get_state_style(state: str) -> StateStyle:
    """Return the style of a state; an unknown state is shown by its name."""
    glyph, colour = STYLES_BY_STATE.get(state, ("?", "warning"))
    return StateStyle(glyph, describe_state(state), colour)
