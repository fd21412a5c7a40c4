"""Rows of the predicted costs: a name, a value, and beside the value what it consists of or is based on."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from wantui.formatting import format_bytes
from wantui.tui.columns import COLUMN_GAP, append_at
from wantui.tui.plain_names import replace_names
from wantui.tui.plots import draw_styled_bar
from wantui.tui.wrapping import cut_lines, wrap_text

if TYPE_CHECKING:
    from wantui.batches.batch_cost import CostLine

    MakeStyle = Callable[[str], Style]

CHECKED_COSTS = ("memory", "disk")
"""Names of the costs that are compared with what is free."""
NAME_WIDTH = 8
"""Width of the cost names, in cells."""
METER_WIDTH = 16
"""Width of the memory and disk meters, and maximum width of the bars of parts, in cells."""
MIN_METER_SHARE = 0.01
"""Share below which a meter would be an empty line."""
HIGH_SHARE = 0.8
"""Used share of the free memory or disk space at which a meter takes the colour of a warning."""
MAX_VALUE_WIDTH = 34
"""Maximum width of the column of values; longer values extend into the column of notes."""
MIN_NOTE_WIDTH = 24
"""Width of the column of notes below which notes are below their values."""
MIN_BAR_WIDTH = 4


def label_lines(name: str, lines: Sequence[Text]) -> list[Text]:
    """Return lines beside a bold name in the first one."""
    return [
        Text.assemble((f"{'' if index else name:<{NAME_WIDTH}}", Style(bold=True)), line)
        for index, line in enumerate(lines)
    ]


def draw_cost_rows(
    costs: "Sequence[CostLine]", width: int, make_style: "MakeStyle", *, shows_parts: bool
) -> list[Text]:
    """Return the costs with their notes.

    Args:
        shows_parts: draw a line with a bar for each part of a cost.
    """
    width -= NAME_WIDTH
    value_widths = [cell_len(_format_value(cost)) for cost in costs if cost.text != "?"]
    value_width = max((length for length in value_widths if length <= MAX_VALUE_WIDTH), default=0)
    note_column = value_width + len(COLUMN_GAP)
    if width - note_column < MIN_NOTE_WIDTH:
        note_column = 0
    lines = []
    for cost in costs:
        if cost.text == "?":  # the basis says why, and what to do
            value, notes = wrap_text(replace_names(cost.basis), width, Style(dim=True), indent=""), []
        else:
            value = wrap_text(_format_value(cost), width, choose_cost_style(cost, make_style), indent="")
            notes = _draw_notes(cost, width - note_column, make_style, shows_parts=shows_parts)
            if cost.fits and len(notes) == 1 and value_width < sum(line.cell_len for line in value):
                notes = []  # beside this value, there is no room
        lines += label_lines(cost.name, _join_notes(value, notes, note_column, width))
    return lines


def draw_cost_values(costs: "Sequence[CostLine]", width: int, make_style: "MakeStyle") -> list[Text]:
    """Return the costs without notes; a meter stands before the value if there is room."""
    width -= NAME_WIDTH
    lines = []
    for cost in costs:
        if cost.text == "?":
            value = [Text("unknown", Style(dim=True))]
        else:
            value = wrap_text(_format_value(cost), width, choose_cost_style(cost, make_style), indent="")
            if len(value) == 1 and (meter := _draw_meter(cost, width - value[0].cell_len - 2, make_style)):
                value = [Text.assemble(meter, "  ", value[0])]
        lines += label_lines(cost.name, value)
    return lines


def draw_changes(changes: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """Return names and values in columns of equal width."""
    entries = [Text.assemble((name, Style(dim=bool(value))), f" {value}" if value else "") for name, value in changes]
    column_width = max((entry.cell_len for entry in entries), default=0) + len(COLUMN_GAP)
    column_count = max(1, (width + len(COLUMN_GAP)) // column_width)
    lines = []
    for start in range(0, len(entries), column_count):
        line = Text(no_wrap=True)
        for column, entry in enumerate(entries[start : start + column_count]):
            append_at(line, column * column_width, entry)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def choose_cost_style(cost: "CostLine", make_style: "MakeStyle") -> Style:
    """Return the style of a cost: whether it fits, if that is known."""
    if not cost.fits:
        return make_style("text-error")
    return make_style("text-success") if cost.name in CHECKED_COSTS else Style.null()


def _format_value(cost: "CostLine") -> str:
    return f"{'' if cost.fits else '✗ '}{replace_names(cost.text)}"


def _draw_notes(cost: "CostLine", width: int, make_style: "MakeStyle", *, shows_parts: bool) -> list[Text]:
    """Return the meter of a cost, its basis, and its parts."""
    style = Style(dim=True) if cost.fits else make_style("text-error")
    meter = _draw_meter(cost, width, make_style)
    basis = replace_names(cost.basis if cost.short_basis is None else cost.short_basis)
    parts = _draw_parts(cost.parts, width, make_style) if shows_parts else []
    if cost.parts and not shows_parts:
        sizes_text = ", ".join(f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in cost.parts)
        parts = cut_lines(wrap_text(sizes_text, width, Style(dim=True), indent=""), 1, width)
    lines = [line for part in basis.split("; ") if part for line in wrap_text(part, width, style, indent="")]
    return [*([meter] if meter else []), *lines, *parts]


def _draw_parts(parts: Sequence[tuple[str, int]], width: int, make_style: "MakeStyle") -> list[Text]:
    """Return a line for each part: its name, its size, and a bar that shows the size as a share of the largest one."""
    if not parts:
        return []
    sizes = [format_bytes(size) for _, size in parts]
    names = [name.replace("_", " ") for name, _ in parts]
    name_width, size_width = max(map(len, names)), max(map(len, sizes))
    bar_width = min(METER_WIDTH, width - name_width - size_width - 2 * len(COLUMN_GAP))
    largest = max(1, *(size for _, size in parts))
    lines = []
    for name, (_, size), size_text in zip(names, parts, sizes, strict=True):
        line = Text(f"{name:<{name_width}}{COLUMN_GAP}{size_text:>{size_width}}", Style(dim=True), no_wrap=True)
        if bar_width >= MIN_BAR_WIDTH:
            line = Text.assemble(line, COLUMN_GAP, draw_styled_bar(size / largest, bar_width, make_style("accent")))
        lines.append(line)
    return lines


def _draw_meter(cost: "CostLine", width: int, make_style: "MakeStyle") -> Text:
    """Return a meter of the free memory or disk space that a cost takes.

    The meter is empty for a tiny fraction, or without room.
    """
    if cost.used_share is None or cost.used_share < MIN_METER_SHARE or width < METER_WIDTH:
        return Text()
    colour_name = "warning" if cost.fits and cost.used_share >= HIGH_SHARE else "success" if cost.fits else "error"
    return draw_styled_bar(cost.used_share, METER_WIDTH, make_style(colour_name))


def _join_notes(value: list[Text], notes: list[Text], note_column: int, width: int) -> list[Text]:
    """Return a value with its notes: beside it if both fit, otherwise below it."""
    if not notes:
        return value
    *first_lines, last_line = value
    column = max(note_column, last_line.cell_len + len(COLUMN_GAP)) if len(value) == 1 else note_column
    if len(value) == 1 and note_column and column + notes[0].cell_len <= width:
        first_note, *notes = notes
        last_line = Text.assemble(last_line)  # without a style that the note would inherit
        append_at(last_line, column, first_note)
    indent = " " * note_column
    return [*first_lines, last_line, *(Text.assemble(indent, note) for note in notes)]
