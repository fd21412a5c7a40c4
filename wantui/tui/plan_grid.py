"""Sketch of the videos of a draft: a row for each variation, a square for each video under its seed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.series_colours import assign_series_colours

if TYPE_CHECKING:
    from wantui.planning import BatchPreview

MAX_ROWS = 12
"""Maximum number of variations in a sketch."""
MAX_NAME_WIDTH = 24
"""Maximum width of the names of variations, in cells."""
SQUARE = "■"


def draw_plan_grid(preview: "BatchPreview", width: int, make_style: Callable[[str], Style]) -> list[Text]:
    """Return a header with the seeds, and a line for each variation with the cells of each seed; empty if it does not
    fit into `width` cells or has more than `MAX_ROWS` variations."""
    names = [variation.id for variation in preview.variations]
    seeds = [str(seed) for seed in preview.seeds]
    cell_count = 1 if preview.sweep is None else len(preview.cells)
    name_width = max(map(len, [*names, "seed"]))
    column_width = max(cell_count, *map(len, seeds))
    if len(names) > MAX_ROWS or name_width > MAX_NAME_WIDTH:
        return []
    if name_width + (2 + column_width) * len(seeds) > width:
        return []
    colours = assign_series_colours(names)
    squares = f"  {SQUARE * cell_count:<{column_width}}" * len(seeds)
    header = Text(f"{'seed':<{name_width}}" + "".join(f"  {seed:<{column_width}}" for seed in seeds), Style(dim=True))
    rows = [
        Text(f"{name:<{name_width}}{squares}", make_style(colours.get(name, "accent")), no_wrap=True) for name in names
    ]
    return [header, *rows]
