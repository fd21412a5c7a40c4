"""The sentence about the cost that a command prints before it evaluates a model."""

from wantui.formatting import format_count, format_duration


def describe_pass_cost(pass_count: int, seconds: float | None, basis: str) -> str:
    """Return a text about passes through a model and their predicted time.

    Args:
        seconds: predicted seconds; None if they are unknown because videos were not timed.
        basis: what the seconds include, and what they are predicted from.
    """
    passes_text = format_count(pass_count, "pass", "passes")
    time_text = (
        "time unknown, because not all of these videos were timed"
        if seconds is None
        else f"about {format_duration(seconds)}{basis}"
    )
    return f"{passes_text} through the model, {time_text}, plus loading time"
