"""Grid of the videos of a batch: a row for each variation, a square for each video below its seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.formatting import escape_unprintable
from wantui.tui.columns import append_at
from wantui.tui.series_colours import assign_series_colours

if TYPE_CHECKING:
    from wantui.planning import BatchPreview
    from wantui.tui.player.clips import PlayerClip

MAX_ROWS = 12
"""Maximum number of variations in a grid."""
MAX_NAME_WIDTH = 24
"""Maximum width of the names of variations, in cells."""
SQUARE, PLAYED_SIGN = "■", "▶"
SEED_HEADER = "seed"


def draw_planned_videos(preview: "BatchPreview", width: int, make_style: Callable[[str], Style]) -> list[Text]:
    """Return the grid of the videos of a draft, with a square for each cell of a sweep; empty if it does not fit."""
    names = [variation.id for variation in preview.variations]
    squares = Text(SQUARE * (1 if preview.sweep is None else len(preview.cells)))
    colours = assign_series_colours(names)
    style_by_name = {name: make_style(colours.get(name, "accent")) for name in names}
    squares_by_place = dict.fromkeys(product(names, preview.seeds), squares)
    return _draw_grid(squares_by_place, preview.seeds, style_by_name, width)


def draw_played_batch(
    clips: "Sequence[PlayerClip]", played: "PlayerClip", width: int, make_style: Callable[[str], Style]
) -> list[Text]:
    """Return the grid of the clips of a batch, with the played one as a triangle; empty if the batch has one clip or
    the grid does not fit."""
    if len(clips) < 2:
        return []
    signs_by_place: dict[tuple[str, int], Text] = {}
    for clip in clips:
        signs = signs_by_place.setdefault((clip.variation_id, clip.recipe.seed), Text())
        signs.append(*((PLAYED_SIGN, Style(bold=True)) if clip == played else (SQUARE, Style(dim=True))))
    style_by_name = {clip.variation_id: make_style(clip.colour_name) for clip in clips}
    return _draw_grid(signs_by_place, sorted({seed for _, seed in signs_by_place}), style_by_name, width)


def _draw_grid(
    signs_by_place: Mapping[tuple[str, int], Text], seeds: Sequence[int], style_by_name: Mapping[str, Style], width: int
) -> list[Text]:
    """Return a header with the seeds, and a line for each variation; empty with more than `MAX_ROWS` variations or
    lines longer than `width` cells.

    Args:
        signs_by_place: a sign for each video, by variation and seed.
        style_by_name: style of each row, by variation.
    """
    name_width = max(map(len, [SEED_HEADER, *style_by_name]))
    column_width = 2 + max(*(len(str(seed)) for seed in seeds), *map(len, signs_by_place.values()))
    if len(style_by_name) > MAX_ROWS or name_width > MAX_NAME_WIDTH or name_width + column_width * len(seeds) > width:
        return []

    def draw_row(name: str, style: Style, signs: Iterable[Text]) -> Text:
        line = Text(escape_unprintable(name), style, no_wrap=True, end="")
        for index, sign in enumerate(signs):
            append_at(line, name_width + 2 + index * column_width, sign)
        return line

    return [
        draw_row(SEED_HEADER, Style(dim=True), (Text(str(seed)) for seed in seeds)),
        *(
            draw_row(name, style, (signs_by_place.get((name, seed), Text()) for seed in seeds))
            for name, style in style_by_name.items()
        ),
    ]
