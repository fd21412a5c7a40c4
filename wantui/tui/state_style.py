"""How a state is shown: a glyph, a word and a colour, never a colour alone. One table for all screens."""

from collections.abc import Mapping
from dataclasses import dataclass

from wantui.formatting import printable
from wantui.queue.records import BatchRow, VideoRow


@dataclass(frozen=True)
class StateStyle:
    """Of one state."""

    glyph: str
    word: str
    colour: str
    """A name of the theme's."""


LOOKS = {
    "queued": StateStyle("·", "waiting", "foreground"),
    "running": StateStyle("▶", "running", "accent"),
    "done": StateStyle("✓", "done", "success"),
    "failed": StateStyle("✗", "failed", "error"),
    "cancelled": StateStyle("−", "cancelled", "foreground"),
    "partly": StateStyle("◐", "partly", "warning"),
    "interrupted": StateStyle("!", "interrupted", "warning"),
    "paused": StateStyle("‖", "paused", "warning"),
}


def state_style(state: str) -> StateStyle:
    """Return how a state is shown; unknown states are shown by name."""
    return LOOKS.get(state) or StateStyle("?", printable(state), "warning")


def state_of_counts(counts: Mapping[str, int]) -> str:
    """Return the state of a batch, from the number of its videos in each state.

    A batch of which nothing is left to make is failed if a video failed, done or cancelled if all its videos are, and
    otherwise partly made.
    """
    found = {state for state, count in counts.items() if count}
    for state in ("running", "interrupted", "queued", "failed"):
        if state in found:
            return state
    if found <= {"done"}:
        return "done"
    return "cancelled" if found == {"cancelled"} else "partly"


def batch_state(batch: BatchRow, has_engine: bool) -> str:
    """Return the state of a batch on the queue."""
    if batch.paused and batch.unfinished:
        return "paused"
    state = state_of_counts(batch.counts)
    return "interrupted" if state == "running" and not has_engine else state


def video_state(video: VideoRow, has_engine: bool) -> str:
    """Return the state of a video on the queue; without an engine, "running" is what the last one was making."""
    return "interrupted" if video.state == "running" and not has_engine else video.state
