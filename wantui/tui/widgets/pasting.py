"""A bound on pasted text: laying out millions of characters would block every key for minutes."""

from textual.events import Paste
from textual.widget import Widget

MAX_PASTE = 1_000_000
"""Maximum characters of an accepted paste; templates and configs in files may be as large."""


def refuse_large_paste(widget: Widget, event: Paste) -> bool:
    """Return whether a paste is too large; if so, notify, and the paste changes nothing."""
    if len(event.text) <= MAX_PASTE:
        return False
    event.prevent_default()
    event.stop()
    widget.app.notify(
        f"cannot paste {len(event.text):,} characters: at most {MAX_PASTE:,} are taken. Nothing was changed; "
        "paste less, or name a file on the command line: wantui run --template-file, --config.",
        severity="error",
        timeout=12,
    )
    return True
