"""Limit on pasted text: the layout of millions of characters would block the application for minutes."""

from textual.events import Paste
from textual.widget import Widget

MAX_PASTE_LENGTH = 1_000_000
"""Maximum characters of a paste; equal to the limit for template and config files."""
MAX_PASTED_LINE_LENGTH = 200_000
"""Maximum characters of a pasted line: the editors lay out the whole line again at every key."""


MAX_INPUT_LENGTH = 20_000
"""Maximum characters of a one-line input after a paste: it measures its whole text several times at every key."""


def refuse_large_paste(widget: Widget, event: Paste, input_length: int | None = None) -> bool:
    """Return whether a paste is too large; if so, discard it and notify the user.

    Args:
        input_length: length of the text of a one-line input after the paste.
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
    widget.app.notify(
        f"cannot paste {reason}. Nothing was changed; "
        "paste less, or pass a file on the command line: wantui run --template-file, --config.",
        severity="error",
        timeout=12,
    )
    return True
