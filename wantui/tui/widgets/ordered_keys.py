"""Mixin for widgets that edit text: keys take effect in the order in which they were typed."""

from typing import TYPE_CHECKING

from textual.events import Key
from textual.widget import Widget

if TYPE_CHECKING:
    _Base = Widget
else:
    _Base = object


class OrderedKeysMixin(_Base):
    """Mixin that applies keys in the order in which they were typed: bindings run as soon as their keys arrive.

    Textual inserts printable keys at once, but lets a bound key, such as backspace, bubble up to the application before
    its action runs. Keys that arrive together, as over a slow connection, would be applied in another order
    (Textual issue 6605).
    """

    async def _on_key(self, event: Key) -> None:
        for namespace, bindings in self.screen._modal_binding_chain:
            if namespace is not self:
                continue
            for binding in bindings.key_to_bindings.get(event.key, ()):
                if not binding.priority and await self.app.run_action(binding.action, self):
                    event.stop()
                    event.prevent_default()
                    return
