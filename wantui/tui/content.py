"""Conversion of untrusted text for Textual's titles, labels and lists."""

from textual.content import Content

from wantui.formatting import escape_unprintable


def make_content(text: str, keep_lines: bool = False) -> Content:
    """Convert text to content without markup and control characters.

    Textual interprets a `str` as markup: `[/x]` in a name would crash the application, and `[@click=app.quit]` would
    become a link.
    """
    return Content(escape_unprintable(text, keep_lines))
