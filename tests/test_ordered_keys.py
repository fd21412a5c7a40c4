"""Keys that arrive together, as over a slow connection, take effect in the order in which they were typed."""

import asyncio

import pytest
from textual.app import App, ComposeResult
from textual.events import Key
from textual.widget import Widget

from wantui.tui.screens.yaml_editor import YamlText
from wantui.tui.widgets.line_input import LineInput
from wantui.tui.widgets.template_editor import TemplateEditor

pytestmark = pytest.mark.terminal

CHARACTER_BY_KEY = {"space": " "}


class OneWidgetApp(App[None]):
    """Application with one focused widget."""

    def __init__(self, widget: Widget) -> None:
        super().__init__()
        self.widget = widget

    def compose(self) -> ComposeResult:
        yield self.widget

    def on_mount(self) -> None:
        self.widget.focus()


def read_after_keys(widget: LineInput | TemplateEditor | YamlText, keys: list[str]) -> str:
    """Return the text of a widget after keys that were all there before the first was handled."""

    async def run() -> str:
        app = OneWidgetApp(widget)
        async with app.run_test() as pilot:
            for key in keys:
                app.post_message(Key(key, CHARACTER_BY_KEY.get(key, key if len(key) == 1 else None)))
            await pilot.pause()
            await pilot.pause()
            return widget.value if isinstance(widget, LineInput) else widget.text

    return asyncio.run(run())


@pytest.mark.parametrize("widget_type", [LineInput, TemplateEditor, YamlText])
@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([*"abcd", *["backspace"] * 4, *"xy"], "xy"),
        ([*"ab", "left", "c"], "acb"),
        ([*"ab", "home", "c", "end", "d"], "cabd"),
        ([*"ab", "space", *"cd", "ctrl+w", "e"], "ab e"),
    ],
)
def test_keys_take_effect_in_the_order_in_which_they_were_typed(
    widget_type: type[LineInput | TemplateEditor | YamlText], keys: list[str], text: str
) -> None:
    assert read_after_keys(widget_type(), keys) == text
