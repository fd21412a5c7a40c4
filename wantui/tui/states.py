"""How a state is shown: a glyph, a word and a colour, never a colour alone."""

from dataclasses import dataclass

from wantui.queue.rows import BatchRow


@dataclass(frozen=True)
class Look:
    """Of one state."""

    glyph: str
    word: str
    colour: str
    """A name of the theme's."""


LOOKS = {
    "queued": Look("·", "waiting", "foreground"),
    "running": Look("▶", "running", "accent"),
    "done": Look("✓", "done", "success"),
    "failed": Look("✗", "failed", "error"),
    "cancelled": Look("−", "cancelled", "foreground"),
    "interrupted": Look("!", "interrupted", "warning"),
    "paused": Look("‖", "paused", "warning"),
    "ended": Look("✓", "ended", "success"),
}


def look(state: str) -> Look:
    return LOOKS[state]


def batch_state(batch: BatchRow) -> str:
    """The one word that tells most of a batch."""
    if not batch.unfinished:
        return "failed" if batch.counts.get("failed") else "ended"
    if batch.paused:
        return "paused"
    if batch.counts.get("running"):
        return "running"
    return "interrupted" if batch.counts.get("interrupted") else "queued"
