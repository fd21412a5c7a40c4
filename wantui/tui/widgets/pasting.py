"""A bound on what is pasted: laying out millions of characters would keep every key waiting for minutes."""

from textual.events import Paste
from textual.widget import Widget

MAX_PASTE = 1_000_000
"""Characters of the largest paste that is taken; templates and configs of files may be as large."""


def refuse_large_paste(widget: Widget, event: Paste) -> bool:
    """Return whether a paste is too large; it then changes nothing, and why is said."""
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
