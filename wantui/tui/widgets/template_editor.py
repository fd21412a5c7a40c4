"""Template editor with syntax highlighting and a mark on the first error."""

from rich.style import Style
from textual.message import Message
from textual.widget import Widget
from textual.widgets import TextArea
from textual.widgets.text_area import TextAreaTheme

from wantui.tui.content import set_titles
from wantui.tui.pane_titles import find_key
from wantui.tui.widgets.diff_text import make_colour_style
from wantui.tui.widgets.text_editing import TextEditorMixin

MAX_HIGHLIGHTED_LENGTH = 20_000
"""Maximum characters of a highlighted template; highlighting a longer one would delay typing."""

SYNTAX = "[a|b] varies   (word) marks"


class TemplateEditor(TextEditorMixin, TextArea):
    """Text area that highlights the template grammar.

    `[a|b]` lists options, `(word)` marks a word, `(word:1.5)` marks and weights it, `\\[` is a literal character.
    """

    HELP = """\
    ## The template

    `[a|b]` one variation for each option, `(word)` a marked word, `(word:1.5)` marked and weighted,
    `\\[` the character itself.
    """
    DEFAULT_CSS = """
    TemplateEditor { height: 1fr; border: none; padding: 0; background: $background; }
    TemplateEditor:focus { border: none; }
    """

    error_position: int | None = None
    """Index of the invalid character; None if the template is valid."""

    class Typed(Message):
        """The user changed the template."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text, soft_wrap=True, tab_behavior="focus", show_line_numbers=False)
        self.cursor_blink = False
        self.move_cursor(self.document.end)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the text area's F6 and F7 (select text): the application uses them for engine and pause."""
        return action not in ("select_line", "select_all") and super().check_action(action, parameters)

    def on_mount(self) -> None:
        self._apply_theme()
        self.app.theme_changed_signal.subscribe(self, lambda _: self._apply_theme())

    def on_resize(self) -> None:
        self._show_keys()

    def watch_has_focus(self, has_focus: bool) -> None:
        """Show the keys for the new state of the focus; during a blur event, the editor would still have the focus."""
        super().watch_has_focus(has_focus)
        self._show_keys()

    def _show_keys(self) -> None:
        """Name the syntax in the frame of the pane; with the focus, also the keys for which there is room."""
        if isinstance(self.parent, Widget):
            keys = ["esc leave", f"{find_key(self, 'compose.empty')} empty"] if self.has_focus else []
            while keys and len("   ".join([*keys, SYNTAX])) + 2 > self.size.width:
                keys.pop()
            set_titles(self.parent, subtitle="   ".join([*keys, SYNTAX]))

    def _apply_theme(self) -> None:
        base_style = Style()
        self.register_theme(
            TextAreaTheme(
                "template",
                syntax_styles={
                    "bracket": base_style + make_colour_style(self.app, "accent") + Style(bold=True),
                    "bar": base_style + make_colour_style(self.app, "accent") + Style(bold=True),
                    "mark": base_style + make_colour_style(self.app, "success") + Style(bold=True),
                    "weight": base_style + make_colour_style(self.app, "success"),
                    "escape": Style(dim=True),
                    "error": make_colour_style(self.app, "error") + Style(reverse=True),
                },
            )
        )
        self.theme = "template"
        self._build_highlight_map()
        self.refresh()

    def mark_error(self, position: int | None) -> None:
        """Mark an invalid character; None removes the mark."""
        if position != self.error_position:
            self.error_position = position
            self._build_highlight_map()
            self.refresh()

    def _build_highlight_map(self) -> None:
        """Rebuild the highlights after a change of the text; columns count UTF-8 bytes."""
        self._line_cache.clear()
        self._highlights.clear()
        text = self.text
        if not text or len(text) > MAX_HIGHLIGHTED_LENGTH:
            return
        from wantui.prompts.highlighting import highlight_template  # slow to import, and not needed without a template

        spans: list[tuple[int, int, str]] = list(highlight_template(text))
        if self.error_position is not None:
            position = min(self.error_position, len(text) - 1)
            spans.append((position, position + 1, "error"))
        lines = text.split("\n")
        line_starts = [0]
        for line in lines:
            line_starts.append(line_starts[-1] + len(line) + 1)
        row = 0
        for start, end, kind in sorted(spans, key=lambda span: span[0]):
            while start >= line_starts[row + 1]:
                row += 1
            line = lines[row]
            first_byte = len(line[: start - line_starts[row]].encode())
            end_byte = len(line[: end - line_starts[row]].encode())
            self._highlights[row].append((first_byte, end_byte, kind))

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self.post_message(self.Typed())
