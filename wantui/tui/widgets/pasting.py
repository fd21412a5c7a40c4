"""Limit on pasted text: the layout of millions of characters would block the application for minutes."""

import math
import re
import time
from weakref import WeakKeyDictionary

from textual.events import Paste
from textual.widget import Widget

MAX_PASTE_LENGTH = 1_000_000
"""Maximum characters of a paste; equal to the limit for template and config files."""
MAX_PASTED_LINE_LENGTH = 200_000
"""Maximum characters of a pasted line: the editors lay out the whole line again at every key."""
MAX_INPUT_LENGTH = 20_000
"""Maximum characters of a one-line input: it measures its whole text several times at every key."""
REFUSAL_SECONDS = 12.0
"""Seconds for which a refusal is shown."""

_last_refusals: "WeakKeyDictionary[Widget, tuple[str, float]]" = WeakKeyDictionary()
"""Kind of the last refusal of a widget, and its monotonic time in seconds."""


def discard_large_paste(widget: Widget, event: Paste, remedy: str, input_length: int | None = None) -> bool:
    """Return whether a paste is too large; if so, discard it and notify the user.

    Args:
        remedy: what the user can do instead, such as "paste less".
        input_length: text length of a one-line input after the paste.
    """
    longest_line_length = max(map(len, event.text.splitlines()), default=0)
    if len(event.text) > MAX_PASTE_LENGTH:
        reason = f"{len(event.text):,} characters: the limit is {MAX_PASTE_LENGTH:,}"
    elif input_length is not None and input_length > MAX_INPUT_LENGTH:
        reason = f"here: the line would have {input_length:,} characters, and the limit is {MAX_INPUT_LENGTH:,}"
    elif longest_line_length > MAX_PASTED_LINE_LENGTH:
        reason = f"a line of {longest_line_length:,} characters: the limit is {MAX_PASTED_LINE_LENGTH:,}"
    else:
        return False
    event.prevent_default()
    event.stop()
    notify_refusal(widget, f"cannot paste {reason}. It was left out; {remedy}")
    return True


def notify_refusal(widget: Widget, message: str) -> None:
    """Notify the user of text that a widget rejected; only once if a long paste arrives in several parts."""
    now, kind = time.monotonic(), re.sub(r"[\d,]+", "", message)
    last_kind, last_seconds = _last_refusals.get(widget, ("", -math.inf))
    _last_refusals[widget] = kind, now
    if kind == last_kind and now - last_seconds < REFUSAL_SECONDS:
        return
    widget.app.notify(f"{message}.", severity="error", timeout=REFUSAL_SECONDS)
