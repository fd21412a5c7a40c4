"""Limit on pasted text: the layout of millions of characters would block the application for minutes."""

from textual.events import Paste
from textual.widget import Widget

MAX_PASTE_LENGTH = 1_000_000
"""Maximum characters of a paste; equal to the limit for template and config files."""


def refuse_large_paste(widget: Widget, event: Paste) -> bool:
    """Return whether a paste is too large; if so, discard it and notify the user."""
    if len(event.text) <= MAX_PASTE_LENGTH:
        return False
    event.prevent_default()
    event.stop()
    widget.app.notify(
        f"cannot paste {len(event.text):,} characters: the limit is {MAX_PASTE_LENGTH:,}. Nothing was changed; "
        "paste less, or pass a file on the command line: wantui run --template-file, --config.",
        severity="error",
        timeout=12,
    )
    return True
