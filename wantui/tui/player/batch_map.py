"""Map of a batch beside a played clip: a square for each clip, in rows of variations and columns of seeds."""

from collections.abc import Callable, Sequence

from rich.style import Style
from rich.text import Text

from wantui.formatting import escape_unprintable
from wantui.tui.player.clips import PlayerClip

MAX_ROWS = 12
"""Maximum number of variations of a map."""
MAX_NAME_WIDTH = 20
"""Maximum width of the names of variations, in cells."""
CLIP_SIGN, PLAYED_SIGN = "■", "▶"
SEED_HEADER = "seed"


def draw_batch_map(
    clips: Sequence[PlayerClip], played: PlayerClip, width: int, make_style: Callable[[str], Style]
) -> list[Text]:
    """Return a header with the seeds, and a line for each variation, with the played clip as a triangle; empty if the
    batch has one clip or does not fit into `width` cells and `MAX_ROWS` lines."""
    names = list(dict.fromkeys(clip.variation_id for clip in clips))
    seeds = sorted({clip.recipe.seed for clip in clips})
    clips_by_place: dict[tuple[str, int], list[PlayerClip]] = {}
    for clip in clips:
        clips_by_place.setdefault((clip.variation_id, clip.recipe.seed), []).append(clip)
    name_width = max(map(len, [SEED_HEADER, *names]), default=0)
    column_width = 2 + max([*(len(str(seed)) for seed in seeds), *map(len, clips_by_place.values())], default=0)
    if len(clips) < 2 or len(names) > MAX_ROWS or name_width > MAX_NAME_WIDTH:
        return []
    if name_width + column_width * len(seeds) > width:
        return []
    header = "".join(f"  {seed:<{column_width - 2}}" for seed in seeds)
    lines = [Text(f"{SEED_HEADER:<{name_width}}{header}".rstrip(), Style(dim=True))]
    for name in names:
        row_clips = [clips_by_place.get((name, seed), []) for seed in seeds]
        style = make_style(next(clip.colour_name for clips_here in row_clips for clip in clips_here))
        line = Text(escape_unprintable(name).ljust(name_width), style, no_wrap=True, end="")
        for clips_here in row_clips:
            line.append("  ")
            for clip in clips_here:
                is_played = clip == played
                line.append(PLAYED_SIGN if is_played else CLIP_SIGN, Style(bold=True) if is_played else Style(dim=True))
            line.append(" " * (column_width - 2 - len(clips_here)))
        lines.append(line)
    return lines
