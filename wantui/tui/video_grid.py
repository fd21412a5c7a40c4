"""Grid of a batch's videos: a row for each variation, a square for each video below its seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from wantui.formatting import escape_unprintable
from wantui.tui.columns import COLUMN_GAP, append_at
from wantui.tui.plain_names import replace_names
from wantui.tui.series_colours import assign_series_colours

if TYPE_CHECKING:
    from wantui.planning import BatchPreview
    from wantui.tui.player.clips import PlayerClip

MAX_ROWS = 12
"""Maximum number of rows in the grid of a played batch."""
MAX_NAME_WIDTH = 24
"""Maximum width of variation names, in cells."""
SQUARE, PLAYED_SIGN = "■", "▶"
SEED_HEADER = "seed"


@dataclass(frozen=True)
class GridRow:
    """One line of a grid."""

    names: tuple[Text, ...]
    """Texts before the squares, one for each column of names."""
    signs: Sequence[Text]
    """Squares of each seed."""
    note: str = ""
    """Text after the squares."""


def draw_planned_videos(
    preview: "BatchPreview",
    width: int,
    make_style: Callable[[str], Style],
    cell_texts: Mapping[str, str],
    max_height: int,
) -> list[Text]:
    """Return the grid of a draft's videos; empty if it does not fit.

    A sweep has a row for each variation of each cell, or if these are too many, one for each cell, with a square for
    each variation.

    Args:
        cell_texts: text for each cell of a sweep, by its label.
    """
    seeds, cell_count, variation_count = preview.seeds, len(preview.cells), len(preview.variations)
    # Drawing a row takes time: count thousands of variations instead of drawing them.
    has_variation_rows = cell_count * variation_count < max_height
    has_cell_rows = preview.sweep is not None and cell_count < max_height and variation_count * len(seeds) <= width
    if len(seeds) > width or not (has_variation_rows or has_cell_rows):
        return []
    names = [variation.id for variation in preview.variations]
    colours = assign_series_colours(names)
    styled_names = [(escape_unprintable(name), make_style(colours.get(name, "accent"))) for name in names]
    if preview.sweep is None:
        rows = [GridRow((Text(name, style),), [Text(SQUARE, style)] * len(seeds)) for name, style in styled_names]
        return _draw_grid((SEED_HEADER,), rows, seeds, width, max_height)
    heading, labels = _label_cells(preview)
    notes = [cell_texts.get(cell.label, "") for cell in preview.cells]
    arrangements: list[tuple[tuple[str, ...], list[GridRow]]] = []
    if has_variation_rows and len(names) > 1:
        variation_rows = [
            GridRow(
                (Text("" if number else label), Text(name, style)),
                [Text(SQUARE, style)] * len(seeds),
                "" if number else note,
            )
            for label, note in zip(labels, notes, strict=True)
            for number, (name, style) in enumerate(styled_names)
        ]
        arrangements.append(((heading, SEED_HEADER), variation_rows))
    if has_cell_rows:
        squares = Text().join(Text(SQUARE, style) for _, style in styled_names)
        cell_rows = [
            GridRow((Text(label),), [squares] * len(seeds), note) for label, note in zip(labels, notes, strict=True)
        ]
        arrangements.append(((heading,), cell_rows))
    for (headers, rows), has_notes in product(arrangements, (True, False)):
        shown_rows = rows if has_notes else [replace(row, note="") for row in rows]
        if grid := _draw_grid(headers, shown_rows, seeds, width, max_height):
            return grid
    return []


def _label_cells(preview: "BatchPreview") -> tuple[str, list[str]]:
    """Return the name of the swept setting and its value in each cell; no name if several settings are swept."""
    assert preview.sweep is not None
    setting_names = list(preview.sweep.name_by_path.values())
    labels = [cell.label for cell in preview.cells]
    if len(setting_names) == 1:
        return replace_names(setting_names[0]), [label.removeprefix(f"{setting_names[0]} ") for label in labels]
    return "", list(map(replace_names, labels))


def draw_played_batch(
    clips: "Sequence[PlayerClip]", played: "PlayerClip", width: int, make_style: Callable[[str], Style]
) -> list[Text]:
    """Return the grid of a batch's clips, with the played clip as a triangle.

    The grid is empty if the batch has one clip, or if the grid does not fit.
    """
    if len(clips) < 2:
        return []
    signs_by_place: dict[tuple[str, int], Text] = {}
    for clip in clips:
        style = make_style(clip.colour_name)
        signs = signs_by_place.setdefault((clip.variation_id, clip.recipe.seed), Text(style=style))
        signs.append(*((PLAYED_SIGN, Style(bold=True)) if clip == played else (SQUARE, Style(dim=True))))
    style_by_name = {clip.variation_id: make_style(clip.colour_name) for clip in clips}
    seeds = sorted({seed for _, seed in signs_by_place})
    rows = [
        GridRow((Text(escape_unprintable(name), style),), [signs_by_place.get((name, seed), Text()) for seed in seeds])
        for name, style in style_by_name.items()
    ]
    return _draw_grid((SEED_HEADER,), rows, seeds, width, MAX_ROWS + 1)


def _draw_grid(
    headers: tuple[str, ...], rows: Sequence[GridRow], seeds: Sequence[int], width: int, max_height: int
) -> list[Text]:
    """Return a header with the seeds, and the rows; empty if they do not fit.

    Args:
        headers: header of each name column.
    """
    header_style = Style(dim=True)
    header = GridRow(
        tuple(Text(text, header_style) for text in headers), [Text(str(seed), header_style) for seed in seeds]
    )
    lines = [header, *rows]
    name_widths = [max(name.cell_len for name in column) for column in zip(*(row.names for row in lines), strict=True)]
    sign_width = max(sign.cell_len for row in lines for sign in row.signs)
    notes_width = max(cell_len(row.note) for row in rows)
    columns = [0]
    for column_width in (*name_widths, *[sign_width] * len(seeds)):
        columns.append(columns[-1] + column_width + len(COLUMN_GAP))
    used_width = columns[-1] + notes_width if notes_width else columns[-1] - len(COLUMN_GAP)
    if len(lines) > max_height or max(name_widths) > MAX_NAME_WIDTH or used_width > width:
        return []

    def draw_row(row: GridRow) -> Text:
        line = Text(no_wrap=True, end="")
        for column, text in zip(columns, (*row.names, *row.signs), strict=False):
            append_at(line, column, text)
        if row.note:
            append_at(line, columns[-1], Text(row.note, Style(dim=True)))
        return line

    return list(map(draw_row, lines))
