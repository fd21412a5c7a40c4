"""Panel beside the only clip of the player: what is played, its number in the batch, its marks and settings."""

from pathlib import Path

from rich.style import Style
from rich.text import Text

from wantui.formatting import escape_unprintable, format_count
from wantui.planning.guidance_plan import describe_guidance
from wantui.storage.marks import VideoMark
from wantui.tui.facts import Fact, draw_facts
from wantui.tui.pane_titles import find_key
from wantui.tui.player.clips import PlayerClip
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.matrix_cells import NOTE, REJECT, STAR
from wantui.tui.wrapping import wrap_text

MIN_PANEL_WIDTH, MAX_PANEL_WIDTH = 26, 64
"""Limits of the width of the panel, in cells; with less room there is none."""


def choose_panel_width(size: tuple[int, int], aspect_ratio: float) -> int:
    """Return the width of the panel beside a clip in cells; 0 if the clip leaves no room for one.

    Args:
        size: columns and rows of the player's stage.
        aspect_ratio: width of the clip divided by its height.
    """
    columns, rows = size
    free_width = columns - round(2 * rows * aspect_ratio)
    return min(free_width, MAX_PANEL_WIDTH) if free_width >= MIN_PANEL_WIDTH else 0


class ClipFacts(DiffText):
    """Panel of facts about one clip."""

    DEFAULT_CSS = """
    ClipFacts { height: 1fr; padding: 1 1 0 2; }
    """

    def show_clip(self, clip: PlayerClip, clip_number: int | None, clip_count: int, mark: VideoMark | None) -> None:
        """Show a clip.

        Args:
            clip_number: number of the clip in its batch, from 1; None without a batch.
            clip_count: number of clips of the batch.
            mark: marks of the clip; None if it cannot be marked here.
        """
        width = self.content_size.width
        if not width:
            return
        muted, recipe = self.make_colour_style("text-muted"), clip.recipe
        lines = wrap_text(clip.title, width, self.make_colour_style(clip.colour_name) + Style(bold=True), indent="")
        if clip_number is not None:
            lines += wrap_text(f"video {clip_number} of {clip_count} of {clip.batch_name}", width, muted, indent="")
        lines += [Text(""), *wrap_text(escape_unprintable(recipe.prompt), width, indent="")]
        if mark is not None:
            lines += [Text(""), *self._draw_marks(mark, width)]
        facts = [
            Fact("model", recipe.model),
            Fact("size", f"{recipe.width}x{recipe.height}"),
            Fact("length", f"{format_count(recipe.frames, 'frame')} at {recipe.fps} fps"),
            Fact("sampling", f"{format_count(recipe.steps, 'step')} of {recipe.sampler}"),
            Fact("guidance", describe_guidance(recipe).removeprefix("guidance ")),
            Fact("seed", str(recipe.seed)),
            Fact("file", Path(*clip.path.parts[-3:]).as_posix()),
        ]
        self.show_lines([*lines, Text(""), *draw_facts(facts, width)])

    def _draw_marks(self, mark: VideoMark, width: int) -> list[Text]:
        """Return the marks, or the keys that set them."""
        lines = [Text(f"{STAR} starred", self.make_colour_style("accent"))] if mark.star else []
        lines += [Text(f"{REJECT} rejected", self.make_colour_style("error"))] if mark.reject else []
        if mark.note:
            lines += wrap_text(f"{NOTE} {escape_unprintable(mark.note)}", width, self.make_colour_style("accent"))
        if lines:
            return lines
        hint = f"no marks: {find_key(self, 'player.star')} stars, {find_key(self, 'player.reject')} rejects"
        return wrap_text(hint, width, self.make_colour_style("text-muted"), indent="")
