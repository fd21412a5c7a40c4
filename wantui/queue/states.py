"""States of videos and batches, as the terminal application and all commands show them."""

from collections.abc import Iterable, Mapping

from wantui.formatting import escape_unprintable
from wantui.queue.records import BatchRow

WORDS_BY_STATE = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "partly": "partly done",
    "interrupted": "interrupted",
    "paused": "paused",
    "held": "on hold",
}
"""Displayed word for each state."""


def describe_state(state: str) -> str:
    """Return the displayed word for a state; return an unknown state unchanged."""
    return WORDS_BY_STATE.get(state) or escape_unprintable(state)


def derive_batch_state(counts_by_state: Mapping[str, int]) -> str:
    """Return the state of a batch, from the number of its videos in each state.

    A finished batch is failed if any video failed, done or cancelled if all videos are, and partly done otherwise.
    """
    present_states = {state for state, count in counts_by_state.items() if count}
    for state in ("running", "interrupted", "queued", "failed"):
        if state in present_states:
            return state
    if present_states <= {"done"}:
        return "done"
    return "cancelled" if present_states == {"cancelled"} else "partly"


def find_displayed_batch_state(batch: BatchRow, has_engine: bool) -> str:
    """Return the state of a batch in the queue."""
    if batch.paused and batch.unfinished_count:
        return "paused"
    state = find_displayed_state(derive_batch_state(batch.counts), has_engine)
    return "held" if batch.hold is not None and batch.unfinished_count and state != "running" else state


def describe_batch_holds(batches: Iterable[BatchRow]) -> list[str]:
    """Return a line for each unfinished batch that is on hold itself: the batch, the reason, and what ends the hold."""
    return [
        f"held: batch {batch.id} ({batch.name}): {batch.hold.describe()}"
        for batch in batches
        if batch.hold is not None and batch.unfinished_count
    ]


def find_displayed_state(state: str, has_engine: bool) -> str:
    """Return the displayed state of a video; without an engine, a running video was interrupted."""
    return "interrupted" if state == "running" and not has_engine else state
