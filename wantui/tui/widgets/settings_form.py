"""Form of a config: one line per setting, and an explanation of the selected one."""

from dataclasses import dataclass

from rich.style import Style
from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from wantui.config import Config
from wantui.config.fields import FormField, get_setting_value, list_form_fields
from wantui.tui.content import make_content
from wantui.tui.widgets.line_input import HiddenLineInput
from wantui.tui.widgets.virtual_list import VirtualList


@dataclass(frozen=True)
class _Heading:
    """Title of a config section."""

    title: str


class SettingsForm(Vertical):
    """Form of a config that posts `Changed` to request a change; its parent calls `show_config` or `show_error`."""

    DEFAULT_CSS = """
    SettingsForm { height: 1fr; }
    SettingsForm Input { display: none; margin-left: 1; background: $boost; }
    SettingsForm Input.-open { display: block; }
    SettingsForm Static { height: auto; max-height: 5; margin-left: 1; color: $text-muted; }
    SettingsForm Static.-error { color: $text-error; }
    """

    @dataclass
    class Changed(Message):
        """The user entered or is typing a value."""

        key: str
        value: str
        """Text as typed."""
        is_final: bool
        """True if the value was submitted, False while it is being typed."""

    field_list = getters.query_one("#fields", VirtualList)
    value_input = getters.query_one("#value", Input)
    explanation = getters.query_one("#about", Static)

    def __init__(self) -> None:
        super().__init__()
        self.config: Config | None = None
        self.changed_keys: set[str] = set()
        self.value_error: str | None = None
        self.entries: list[FormField | _Heading] = []
        section = "?"
        for field in list_form_fields():
            if field.section != section:
                section = field.section
                self.entries.append(_Heading(section.removesuffix("_settings").replace("_", " ") or "batch"))
            self.entries.append(field)

    def compose(self) -> ComposeResult:
        yield VirtualList(id="fields")
        yield HiddenLineInput(id="value", compact=True)
        yield Static("", markup=False, id="about")

    @property
    def is_editing(self) -> bool:
        return self.value_input.has_class("-open")

    def show_config(self, config: Config, changed_keys: set[str]) -> None:
        """Show a config; keys in `changed_keys` differ from the file."""
        self.config, self.changed_keys = config, changed_keys
        self.field_list.fill_rows(len(self.entries), self._draw_entry)
        self._show_explanation()

    def show_error(self, error: str | None) -> None:
        """Show why the typed value is invalid; None clears the error."""
        self.value_error = error
        self._show_explanation()

    def close_accepted_input(self) -> None:
        """Close the input after its value was accepted."""
        self._close_input()

    def _draw_entry(self, index: int, width: int) -> Text:
        entry = self.entries[index]
        if isinstance(entry, _Heading):
            return Text(f"{entry.title}", self.field_list.make_colour_style("primary") + Style(bold=True))
        assert self.config is not None
        name_width = 20 if width >= 40 else 14
        name = entry.name if len(entry.name) <= name_width else entry.name[: name_width - 1] + "…"
        line = Text(f"{'*' if entry.key in self.changed_keys else ' '} {name:<{name_width}} ")
        line.append(
            _format_value(get_setting_value(self.config, entry.key)), Style(bold=entry.key in self.changed_keys)
        )
        return line

    def _get_current_field(self) -> FormField | None:
        entry = self.entries[self.field_list.cursor]
        return entry if isinstance(entry, FormField) else None

    def _show_explanation(self) -> None:
        field, explanation = self._get_current_field(), self.explanation
        explanation.set_class(self.value_error is not None, "-error")
        if self.value_error is not None:
            explanation.update(make_content(f"✗ {self.value_error}", keep_lines=True))
        elif field is None:
            explanation.update("")
        else:
            hint = {"flag": "space changes it", "choice": "space or arrows change it"}.get(field.kind, "enter edits it")
            explanation.update(make_content(f"{field.help}\n{field.valid_values}; {hint}", keep_lines=True))

    @on(VirtualList.Highlighted, "#fields")
    def _handle_field_highlighted(self) -> None:
        if self.is_editing:
            self._close_input()
        self.value_error = None
        self._show_explanation()

    @on(VirtualList.Chosen, "#fields")
    def _edit_current_field(self) -> None:
        field = self._get_current_field()
        if field is None or self.config is None:
            return
        if field.kind in ("flag", "choice"):
            self._cycle_choice(1)
            return
        value = get_setting_value(self.config, field.key)
        self.value_input.add_class("-open")
        self.value_input.value = "" if value is None else _format_editable(value)
        self.screen.set_focus(self.value_input)

    def key_space(self) -> None:
        if self.field_list.has_focus:
            self._cycle_choice(1)

    def key_right(self) -> None:
        if self.field_list.has_focus:
            self._cycle_choice(1)

    def key_left(self) -> None:
        if self.field_list.has_focus:
            self._cycle_choice(-1)

    def _cycle_choice(self, step: int) -> None:
        """Request the next or previous choice of the selected setting, or toggle a flag."""
        field = self._get_current_field()
        if field is None or self.config is None:
            return
        value = get_setting_value(self.config, field.key)
        if field.kind == "flag":
            self.post_message(self.Changed(field.key, "false" if value else "true", is_final=True))
        elif field.kind == "choice":
            index = field.choices.index(str(value)) if str(value) in field.choices else 0
            self.post_message(
                self.Changed(field.key, field.choices[(index + step) % len(field.choices)], is_final=True)
            )

    @on(Input.Changed, "#value")
    def _handle_value_typed(self, event: Input.Changed) -> None:
        field = self._get_current_field()
        if self.is_editing and field is not None:
            self.post_message(self.Changed(field.key, event.value, is_final=False))

    @on(Input.Submitted, "#value")
    def _handle_value_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        field = self._get_current_field()
        if field is not None:
            self.post_message(self.Changed(field.key, event.value, is_final=True))

    def cancel_edit(self) -> bool:
        """Discard the value being typed; return whether there was one."""
        if not self.is_editing:
            return False
        self._close_input()
        return True

    def _close_input(self) -> None:
        had_focus = self.value_input.has_focus
        self.value_input.remove_class("-open")
        self.value_error = None
        self._show_explanation()
        if had_focus:
            self.screen.set_focus(self.field_list)


def _format_editable(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _format_value(value: object) -> str:
    if value is None:
        return "(empty)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _format_editable(value) or '""'
