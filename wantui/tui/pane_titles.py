"""Titles of panes that name the key by which the pane gets the focus."""

from textual.content import Content
from textual.widget import Widget

from wantui.formatting import escape_unprintable


def set_key_title(pane: Widget, key: str, title: str) -> None:
    """Show a key and a title in the border of a pane, unless they are shown already."""
    content = Content.assemble((key, "bold $footer-key-foreground"), f" {escape_unprintable(title)}")
    if content.markup != pane.border_title:
        pane.border_title = content
