"""Form of a config: one line per setting, edited in its line, and an explanation of the selected one."""

from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from wantui.config import Config
from wantui.config.fields import FormField, get_setting_value
from wantui.tui.content import make_content, set_titles
from wantui.tui.settings_rows import (
    DEFAULT_TEXT,
    NONE_TEXT,
    SIGN_WIDTH,
    ChoiceRow,
    ErrorRow,
    Heading,
    SettingsRow,
    describe_rows,
    find_best_match,
    format_editable_value,
    format_label,
    format_setting_value,
    list_settings_rows,
    pad_name,
)
from wantui.tui.sweep_typing import SWEEP_KEY, SweepSuggester, describe_typed_sweep, find_typed_name
from wantui.tui.widgets.line_input import HiddenLineInput, ValueInput
from wantui.tui.widgets.virtual_list import GUTTER_WIDTH, VirtualList
from wantui.tui.wrapping import cut_lines, wrap_text

MAX_SHORT_LIST = 8
"""Maximum number of filtered rows below which the explanation is at once, instead of at the end of the pane."""
MIN_INPUT_WIDTH, MIN_TEXT_WIDTH = 12, 32
"""Minimum cells of the input in a row, and of the input of a text, if the row is wide enough for it and the name."""


class SettingsForm(Vertical):
    """Form of a config that posts `Changed` to request a change; its parent calls `show_config` or `show_error`."""

    DEFAULT_CSS = """
    SettingsForm { height: 1fr; layers: base edit; }
    SettingsForm #filter { display: none; margin-left: 1; }
    SettingsForm #value { display: none; layer: edit; position: absolute; background: $boost; }
    SettingsForm #filter.-open, SettingsForm #value.-open { display: block; }
    SettingsForm #about { height: auto; min-height: 4; max-height: 8; margin-left: 1; color: $text-muted; }
    """

    @dataclass
    class Changed(Message):
        """The user entered or is typing a value."""

        key: str
        value: str
        """Text as typed."""
        is_final: bool
        """True if the value was submitted, False while it is being typed."""

    @dataclass
    class Reset(Message):
        """The user requested the config's value of a setting."""

        key: str

    field_list = getters.query_one("#fields", VirtualList)
    value_input = getters.query_one("#value", Input)
    filter_input = getters.query_one("#filter", Input)
    explanation = getters.query_one("#about", Static)

    def __init__(self) -> None:
        super().__init__()
        self.config: Config | None = None
        self.file_config: Config | None = None
        """Config without the changes in the form; None if it is invalid without them."""
        self.changed_keys: set[str] = set()
        self.value_error: str | None = None
        self.error_key: str | None = None
        self._edited_key: str | None = None
        self.open_key: str | None = None
        """Key of the setting whose choices are listed under its row."""
        self.entries: list[SettingsRow] = list_settings_rows()

    def compose(self) -> ComposeResult:
        yield HiddenLineInput(id="filter", compact=True, placeholder="name, help, or: changed")
        yield VirtualList(id="fields")
        yield ValueInput(id="value", compact=True)
        yield Static("", markup=False, id="about")

    @property
    def is_editing(self) -> bool:
        return self.value_input.has_class("-open")

    def show_config(self, config: Config, changed_keys: set[str], file_config: Config | None = None) -> None:
        """Show a config; keys in `changed_keys` differ from the file, whose config is `file_config`."""
        is_first = self.config is None
        self.config, self.changed_keys, self.file_config = config, changed_keys, file_config
        self._fill_rows()
        if is_first:
            self.field_list.cursor = 1  # the first setting, below the first heading
            self.call_after_refresh(self.field_list.scroll_to, y=0, animate=False)

    def show_error(self, error: str | None, is_final: bool = True) -> None:
        """Show under the row why its value is invalid; None clears the error.

        Args:
            is_final: False while the value is typed; a sweep whose last name is incomplete is then no error.
        """
        if not is_final and self._edited_key == SWEEP_KEY and find_typed_name(self.value_input.value) is not None:
            error = None
        field = self._get_current_field()
        error_key = None if error is None or field is None else field.key
        if (error, error_key) == (self.value_error, self.error_key):
            return
        self.value_error, self.error_key = error, error_key
        self._fill_rows()
        if error is not None:
            error_count = sum(isinstance(entry, ErrorRow) for entry in self.entries)
            self.field_list.show_row(self.field_list.cursor + min(error_count, self.field_list.size.height - 1))

    def close_accepted_input(self) -> None:
        """Close the input and the choices after a value was accepted."""
        self._close_choices()
        self._close_input()

    # Rows

    def _fill_rows(self, selected: SettingsRow | None = None) -> None:
        """Build the rows again, and put the cursor on `selected`, or else on the same row as before."""
        field_list = self.field_list
        selected = selected or self._get_current_row()
        query, width = self.filter_input.value, field_list.row_width or 40
        self.entries = list_settings_rows(
            query, self.open_key, self.error_key, self.value_error or "", width, self.changed_keys
        )
        field_list.empty_text = f"no setting contains {self.filter_input.value!r}; esc: show all"
        is_short = bool(self.filter_input.value) and 0 < len(self.entries) <= MAX_SHORT_LIST
        field_list.styles.height = len(self.entries) if is_short else "1fr"  # the explanation follows a short list
        cursor = self.entries.index(selected) if selected in self.entries else field_list.cursor
        field_list.fill_rows(len(self.entries) if self.config is not None else 0, self._draw_entry)
        field_list.cursor = cursor
        self._place_input()
        self._show_explanation()

    def _draw_entry(self, index: int, width: int) -> Text:
        entry, field_list = self.entries[index], self.field_list
        match entry:
            case Heading(title):
                return Text(title, field_list.make_colour_style("primary") + Style(bold=True))
            case ErrorRow(text, is_first):
                return Text(f"  {'✗' if is_first else ' '} {text}", field_list.make_colour_style("text-error"))
            case ChoiceRow():
                return self._draw_choice(entry)
        return self._draw_field(entry, index, width)

    def _draw_field(self, field: FormField, index: int, width: int) -> Text:
        assert self.config is not None
        is_changed = field.key in self.changed_keys
        line = Text.assemble(("● " if is_changed else "  ", self.field_list.make_colour_style("accent")))
        value_text = format_setting_value(field.key, get_setting_value(self.config, field.key))
        is_edited = self.is_editing and field.key == self._edited_key  # the input covers the column of values
        line.append(f"{pad_name(field.name, 0 if is_edited else cell_len(value_text), width)} ")
        if field.kind in ("flag", "choice") and index == self.field_list.cursor and self.field_list.has_focus:
            value_text = f"‹{value_text}›"
        line.append(value_text, Style(bold=True) if is_changed else Style(dim=value_text in (DEFAULT_TEXT, NONE_TEXT)))
        if is_changed and self.file_config is not None:
            former_text = f"  config: {format_setting_value(field.key, get_setting_value(self.file_config, field.key))}"
            if line.cell_len + cell_len(former_text) <= width:
                line.append(former_text, Style(dim=True))
        return line

    def _draw_choice(self, row: ChoiceRow) -> Text:
        assert self.config is not None
        is_current = str(get_setting_value(self.config, row.field.key)) == row.choice
        line = Text.assemble(
            ("    ● " if is_current else "    ○ ", self.field_list.make_colour_style("accent")),
            (f"{row.choice:<{max(map(len, row.field.choices))}}  ", Style(bold=is_current)),
        )
        line.append(row.description, Style(dim=True))
        return line

    def _get_current_row(self) -> SettingsRow | None:
        cursor = self.field_list.cursor
        return self.entries[cursor] if cursor < len(self.entries) else None

    def _get_current_field(self) -> FormField | None:
        """Return the setting under the cursor, or the setting to which the choice or error under the cursor belongs."""
        row = self._get_current_row()
        if isinstance(row, ErrorRow):
            above = self.entries[: self.field_list.cursor]
            row = next((entry for entry in reversed(above) if isinstance(entry, FormField)), None)
        return row.field if isinstance(row, ChoiceRow) else row if isinstance(row, FormField) else None

    def _show_explanation(self) -> None:
        is_filtered = self.screen.has_class("-high") and bool(self.filter_input.value)
        text = describe_rows(self.entries, self._get_current_row(), is_filtered=is_filtered)
        if self.is_editing and self._edited_key == SWEEP_KEY and self.config is not None:
            text = describe_typed_sweep(self.value_input.value, self.config.settings) or text
        lines = "\n".join(filter(None, (self._describe_cut_value(), text)))
        width = self.explanation.content_size.width
        if self.screen.has_class("-low") and not self.has_focus_within and width:
            lines = "\n".join(line.plain for line in cut_lines(wrap_text(lines, width, indent=""), 3, width))
        set_titles(self.explanation, format_label(field.name) if (field := self._get_current_field()) else "")
        self.explanation.update(make_content(lines, keep_lines=True))

    on_descendant_focus = on_descendant_blur = _show_explanation

    def _describe_cut_value(self) -> str:
        """Return the name and the value of the selected setting if its row is too short for both; otherwise empty."""
        row = self._get_current_row()
        if self.config is None or self.is_editing or not isinstance(row, FormField):
            return ""
        value_text = format_setting_value(row.key, get_setting_value(self.config, row.key))
        width = self.field_list.row_width
        if SIGN_WIDTH + len(pad_name(row.name, cell_len(value_text), width)) + 1 + cell_len(value_text) <= width:
            return ""
        text = f"{format_label(row.name)} = {value_text}"
        if row.key in self.changed_keys and self.file_config is not None:
            text += f" (config: {format_setting_value(row.key, get_setting_value(self.file_config, row.key))})"
        return text

    @on(VirtualList.Highlighted, "#fields")
    def _handle_row_highlighted(self) -> None:
        field = self._get_current_field()
        key = None if field is None else field.key
        if self.open_key not in (None, key):
            self._close_choices()
        is_on_edited_row = isinstance(self._get_current_row(), FormField) and key == self._edited_key
        if self.is_editing and not is_on_edited_row:
            self._close_input()
        if self.value_error is not None and key != self.error_key:
            self.show_error(None)
        self._show_explanation()

    # Editing

    @on(VirtualList.Chosen, "#fields")
    def _edit_current_field(self) -> None:
        row = self._get_current_row()
        if self.config is None:
            return
        if isinstance(row, ChoiceRow):
            self.post_message(self.Changed(row.field.key, row.choice, is_final=True))
        elif isinstance(row, FormField) and row.kind == "flag":
            self._cycle_choice(1)
        elif isinstance(row, FormField) and row.kind == "choice":
            if self.open_key == row.key:
                self._close_choices()
            else:
                self._open_choices(row)
        elif isinstance(row, FormField):
            self._open_input(row)

    def _open_choices(self, field: FormField) -> None:
        assert self.config is not None
        self.open_key = field.key
        self._fill_rows(field)
        self.field_list.show_row(self.field_list.cursor + len(field.choices))
        value = str(get_setting_value(self.config, field.key))
        self.field_list.cursor += 1 + (field.choices.index(value) if value in field.choices else 0)

    def _close_choices(self) -> None:
        if self.open_key is not None:
            row = self._get_current_row()
            self.open_key = None
            self._fill_rows(row.field if isinstance(row, ChoiceRow) else row)

    def _open_input(self, field: FormField) -> None:
        assert self.config is not None
        value = get_setting_value(self.config, field.key)
        self._edited_key = field.key
        self.value_input.suggester = SweepSuggester(self.config.settings) if field.key == SWEEP_KEY else None
        self.value_input.value = "" if value is None else format_editable_value(value)
        self.value_input.add_class("-open")
        self._place_input()
        self._show_explanation()
        self.screen.set_focus(self.value_input)

    def _place_input(self) -> None:
        """Put the input over the value of the edited row."""
        field = self._get_current_field()
        if not self.is_editing or field is None:
            return
        field_list = self.field_list
        width = field_list.size.width
        text_width = 0 if field.kind == "number" else MIN_TEXT_WIDTH
        name_width = len(pad_name(field.name, text_width, field_list.row_width))
        x = GUTTER_WIDTH + min(SIGN_WIDTH + name_width + 1, max(0, width - MIN_INPUT_WIDTH))
        y = field_list.cursor - field_list.scroll_offset.y + (1 if self.filter_input.has_class("-open") else 0)
        self.value_input.styles.offset = (x, y)
        self.value_input.styles.width = max(1, width - x)
        field_list.redraw_changed_rows()

    def on_resize(self) -> None:
        self.call_after_refresh(self._fill_rows)

    @on(VirtualList.VisibleRowsChanged, "#fields")
    def _handle_scrolled(self) -> None:
        self._place_input()

    def key_space(self) -> None:
        if self.field_list.has_focus:
            if isinstance(self._get_current_row(), ChoiceRow):
                self._edit_current_field()
            else:
                self._cycle_choice(1)

    def key_right(self) -> None:
        if self.field_list.has_focus:
            self._cycle_choice(1)

    def key_left(self) -> None:
        if self.field_list.has_focus:
            self._cycle_choice(-1)

    def reset_current_field(self) -> bool:
        """Request the config's value of the setting under the cursor; return whether a setting is under the cursor."""
        field = self._get_current_field()
        if field is None or not self.field_list.has_focus:
            return False
        self.post_message(self.Reset(field.key))
        return True

    def _cycle_choice(self, step: int) -> None:
        """Request the next or previous choice of the selected setting; toggle a flag."""
        field = self._get_current_field()
        if field is None or self.config is None:
            return
        value = get_setting_value(self.config, field.key)
        if field.kind == "flag":
            self.post_message(self.Changed(field.key, "false" if value else "true", is_final=True))
        elif field.kind == "choice":
            index = field.choices.index(str(value)) if str(value) in field.choices else 0
            choice = field.choices[(index + step) % len(field.choices)]
            self.post_message(self.Changed(field.key, choice, is_final=True))

    @on(Input.Changed, "#value")
    def _handle_value_typed(self, event: Input.Changed) -> None:
        if self.is_editing and self._edited_key is not None:
            self.post_message(self.Changed(self._edited_key, event.value, is_final=False))
            self._show_explanation()

    @on(Input.Submitted, "#value")
    def _handle_value_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._edited_key is not None:
            self.post_message(self.Changed(self._edited_key, event.value, is_final=True))

    # The filter

    def open_filter(self) -> None:
        """Show and focus the filter."""
        self.filter_input.add_class("-open")
        self.screen.set_focus(self.filter_input)

    @on(Input.Changed, "#filter")
    def _handle_filter_typed(self) -> None:
        self._fill_rows()
        if self.filter_input.value:  # without a query, the row stays selected
            self.field_list.cursor = find_best_match(self.entries, self.filter_input.value)

    @on(Input.Submitted, "#filter")
    def _handle_filter_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.set_focus(self.field_list)

    def _close_filter(self) -> None:
        row = self._get_current_row()
        self.filter_input.value = ""
        self.filter_input.remove_class("-open")
        self._fill_rows(row)

    def cancel_edit(self) -> bool:
        """Discard the typed value, close the choices, or clear the filter; return whether anything was cancelled."""
        if self.is_editing:
            self._close_input()
            return True
        if self.open_key is not None and self.field_list.has_focus:
            self._close_choices()
            return True
        if self.filter_input.has_class("-open") and (self.filter_input.has_focus or self.field_list.has_focus):
            self.screen.set_focus(self.field_list)
            self._close_filter()
            return True
        return False

    def _close_input(self) -> None:
        had_focus = self.value_input.has_focus
        self.value_input.remove_class("-open")
        self.field_list.redraw_changed_rows()
        self._edited_key = None
        self.show_error(None)
        self._show_explanation()
        if had_focus:
            self.screen.set_focus(self.field_list)
