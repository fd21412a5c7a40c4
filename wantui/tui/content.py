"""The one way to show text of any origin in a title, label or list of Textual's."""

from textual.content import Content

from wantui.formatting import escape_unprintable


def to_content(text: str, keep_lines: bool = False) -> Content:
    """Return text as content without markup, in which there is nothing that a terminal obeys.

    A plain `str` is markup to Textual: `[/x]` in a name would end the application, `[@click=app.quit]` be a link.
    """
    return Content(escape_unprintable(text, keep_lines))
