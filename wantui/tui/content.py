"""Conversion of untrusted text for Textual's titles, labels and lists."""

from textual.content import Content
from textual.widget import Widget

from wantui.formatting import escape_unprintable


def make_content(text: str, keep_lines: bool = False) -> Content:
    """Convert text to content without markup and control characters.

    Textual interprets a `str` as markup: `[/x]` in a name would crash the application, and `[@click=app.quit]` would
    become a link.
    """
    return Content(escape_unprintable(text, keep_lines))


def set_titles(pane: Widget, title: str | Content | None = None, subtitle: str | Content | None = None) -> None:
    """Set the titles in the border of a pane if they differ, because setting them redraws it; None keeps a title."""
    for name, text in (("border_title", title), ("border_subtitle", subtitle)):
        if text is None:
            continue
        content = text if isinstance(text, Content) else make_content(text)
        if content.markup != getattr(pane, name):
            setattr(pane, name, content)
