"""Frames of panes that name keys, as tui.yaml may have changed them."""

from typing import TYPE_CHECKING

from textual.containers import Vertical
from textual.content import Content
from textual.dom import DOMNode
from textual.widget import Widget
from textual.widgets import Input, TextArea

from wantui.formatting import escape_unprintable
from wantui.tui.actions import iterate_actions
from wantui.tui.content import set_titles
from wantui.tui.key_names import format_key_name

_KEY_NAMES_BY_ACTION = {action.id: action.key_names for action in iterate_actions()}


def find_key_names(node: DOMNode, action_id: str) -> str:
    """Return the comma-separated keys of an action, which tui.yaml may have changed."""
    return node.app._keymap.get(action_id, _KEY_NAMES_BY_ACTION[action_id])


def find_key(node: DOMNode, action_id: str) -> str:
    """Return the first key of an action as texts show it, such as `F5`."""
    return format_key_name(find_key_names(node, action_id).split(",")[0].strip())


def find_usable_key(node: DOMNode, action_id: str) -> str:
    """Return the first key of an action that works now, as texts show it: text fields take all but function keys."""
    keys = [key.strip() for key in find_key_names(node, action_id).split(",")]
    if isinstance(node.app.focused, Input | TextArea):
        keys = [key for key in keys if "+" in key or (key.startswith("f") and key[1:].isdigit())] or keys
    return format_key_name(keys[0])


if TYPE_CHECKING:
    _Base = Widget
else:
    _Base = object  # a base of Widget would make lists with the mixin unable to have the focus


class KeyTitleMixin(_Base):
    """Mixin for panes whose frame shows a title, and the key that moves the focus there."""

    key_action_id = ""
    """Action whose key the frame shows."""
    key_title = ""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.draw_frame())
        self.draw_frame()

    def set_key_title(self, action_id: str, title: str) -> None:
        """Show the key of an action and a title in the frame."""
        self.key_action_id, self.key_title = action_id, title
        if self.is_attached:
            self.draw_frame()

    def draw_frame(self) -> None:
        """Draw the key and the title, unless they are shown already; the key map of the user may have changed."""
        key = find_key(self, self.key_action_id)
        parts = (key, "bold $footer-key-foreground"), f" {escape_unprintable(self.key_title)}"
        set_titles(self, Content.assemble(*parts))


class KeyTitledPane(KeyTitleMixin, Vertical):
    """Pane of several widgets whose frame shows a title and its key."""

    def __init__(self, pane_id: str, action_id: str, title: str) -> None:
        super().__init__(id=pane_id, classes="pane")
        self.set_key_title(action_id, title)
