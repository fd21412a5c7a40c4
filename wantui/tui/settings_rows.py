"""Rows of the settings form: settings under the headings of their sections, open choices and errors; no widgets."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wantui.config.fields import FormField, list_form_fields
from wantui.config.flow_values import format_flow_text
from wantui.formatting import escape_unprintable, shorten_text
from wantui.tui.wrapping import wrap_cells

NARROW_NAME_WIDTH, MIN_VALUE_WIDTH = 16, 8
"""Width in cells of the name column in a narrow form, which cuts off longer names, and minimum width of the values in a
wide form, whose name column is as wide as the longest name."""
MAX_DESCRIBED_FIELDS = 6
"""Maximum number of filtered settings that are all described."""
SIGN_WIDTH = 2
"""Cells for the sign of a changed setting, before its name."""
CHANGED_WORD = "changed"
"""Word by which a search finds the changed settings."""
DEFAULT_TEXT, NONE_TEXT = "default", "none"
"""Texts of an empty setting: wantui or the model chooses the value, or there is none."""
SETTINGS_WITHOUT_DEFAULT = frozenset(
    {
        "model_settings.transformer_file",
        "video_settings.duration",
        "prompt_settings.generic_words",
        "guidance_settings.reuse_from",
        "seeds",
        "sweeps",
        "primary_metric",
    }
)
"""Settings that have no effect if they are empty; for other empty settings, wantui or the model chooses a value."""


@dataclass(frozen=True)
class Heading:
    """Title of a config section."""

    title: str


@dataclass(frozen=True)
class ChoiceRow:
    """A choice of the setting above, while its choices are open."""

    field: FormField
    choice: str
    description: str
    """Meaning of the choice; empty if its name says it."""


@dataclass(frozen=True)
class ErrorRow:
    """A line of the reason why the value of the setting above is invalid."""

    text: str
    is_first: bool


SettingsRow = FormField | Heading | ChoiceRow | ErrorRow


def list_settings_rows(
    query: str = "",
    open_key: str | None = None,
    error_key: str | None = None,
    error: str = "",
    width: int = 40,
    changed_keys: Collection[str] = (),
) -> list[SettingsRow]:
    """Return the rows of settings whose name or help has all words of a query; "changed" finds changed settings.

    Args:
        open_key: key of the setting whose choices are open.
        error_key: key of the setting with the error.
        width: cells of a row.
        changed_keys: keys of the changed settings.
    """
    words = query.casefold().split()
    rows: list[SettingsRow] = []
    section = "?"
    for field in list_form_fields():
        title = _format_section(field.section)
        if words and not _contains_words(field, title, words, field.key in changed_keys):
            continue
        if field.section != section:
            section = field.section
            rows.append(Heading(title))
        rows.append(field)
        if field.key == error_key and error:
            rows += _wrap_error(error, width)
        if field.key == open_key:
            rows += [ChoiceRow(field, choice, field.choice_descriptions.get(choice, "")) for choice in field.choices]
    return rows


def _contains_words(field: FormField, title: str, words: Sequence[str], is_changed: bool) -> bool:
    """Return whether the name, section or help of a setting contains all words; the help is read from the source."""
    change = CHANGED_WORD if is_changed else ""
    searched_text = f"{title} {field.name} {format_label(field.name)} {field.help} {change}".casefold()
    return all(word in searched_text for word in words)


def find_best_match(rows: Sequence[SettingsRow], query: str) -> int:
    """Return the index of the first setting whose name has all words of a query, or else of the first setting."""
    words = query.casefold().split()
    names = {i: f"{row.name} {format_label(row.name)}" for i, row in enumerate(rows) if isinstance(row, FormField)}
    return next((i for i, name in names.items() if all(word in name for word in words)), next(iter(names), 0))


def _format_section(section: str) -> str:
    return section.removesuffix("_settings").replace("_", " ") or "batch"


def _wrap_error(error: str, width: int) -> Sequence[ErrorRow]:
    lines = wrap_cells(escape_unprintable(" ".join(error.split())), max(8, width - 4), break_on_hyphens=False)
    return [ErrorRow(line, index == 0) for index, line in enumerate(lines)]


def _format_summary(field: FormField) -> str:
    return " ".join(field.summary.split()).rstrip(".")


def describe_row(row: SettingsRow | None) -> str:
    """Return the help of a row in one sentence."""
    match row:
        case ChoiceRow(field, choice, description):
            return f"{choice}: {description}" if description else f"{_format_summary(field)}: {choice}"
        case FormField(kind="flag" | "choice"):
            return f"{_format_summary(row)} ({row.name})"
        case FormField():
            help_text = f"{_format_summary(row)} ({row.name})"
            return help_text if row.valid_values.startswith("text") else f"{help_text}; {row.valid_values}"
    return ""


def describe_rows(rows: Sequence[SettingsRow], current_row: SettingsRow | None, *, is_filtered: bool) -> str:
    """Return the help of the current row.

    If a filter shows only a few settings, return the help of all of them, the current one first.
    """
    fields = [row for row in rows if isinstance(row, FormField)]
    if not is_filtered or not isinstance(current_row, FormField) or not 1 < len(fields) <= MAX_DESCRIBED_FIELDS:
        return describe_row(current_row)
    others = [f"{format_label(field.name)}: {describe_row(field)}" for field in fields if field != current_row]
    return "\n\n".join([describe_row(current_row), *others])


def format_label(name: str) -> str:
    """Return the name of a setting for people: "cfg scale"; config files and commands write `cfg_scale`."""
    return name.replace("_", " ")


def choose_name_width(width: int) -> int:
    """Return the width of the name column, in cells, in a form of this width."""
    longest = max(len(field.name) for field in list_form_fields())
    return longest if width >= SIGN_WIDTH + longest + 1 + MIN_VALUE_WIDTH else NARROW_NAME_WIDTH


def pad_name(name: str, value_width: int, row_width: int) -> str:
    """Return the label of a setting as wide as its column, or narrower if the value then fits into the row.

    Args:
        value_width: width of the value in cells.
    """
    column_width = choose_name_width(row_width)
    free_width = row_width - SIGN_WIDTH - 1 - value_width
    return shorten_text(format_label(name), column_width).ljust(min(column_width, free_width))


def format_editable_value(value: object) -> str:
    """Return a value as users type it; a mapping or list is one line of YAML."""
    if isinstance(value, dict | tuple | list):
        return format_flow_text(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def format_setting_value(key: str, value: object) -> str:
    """Return the value of a setting as its row shows it."""
    if value is None:
        return NONE_TEXT if key in SETTINGS_WITHOUT_DEFAULT else DEFAULT_TEXT
    if value in ({}, (), []):
        return NONE_TEXT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_editable_value(value) or '""'
