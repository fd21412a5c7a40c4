"""Panel beside the only clip of the player: what is played, its marks and settings, its place in the batch,
and a strip of its frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.message import Message
from textual.worker import get_current_worker

from wantui.formatting import NO_BREAK_SPACE, escape_unprintable, format_bytes, format_count
from wantui.storage.marks import VideoMark
from wantui.tui.facts import GENERATION_FACT, Fact, draw_facts
from wantui.tui.film_strip import draw_film_strip, find_sheet_number, label_sheet_frames
from wantui.tui.pane_titles import find_key
from wantui.tui.pictures import read_sheet_frames
from wantui.tui.player.clips import PlayerClip
from wantui.tui.settings_rows import format_label
from wantui.tui.video_grid import draw_played_batch
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.matrix_cells import NOTE, REJECT, STAR
from wantui.tui.worker_errors import WorkerErrorsMixin
from wantui.tui.wrapping import cut_middle, wrap_text

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MIN_PANEL_WIDTH, MAX_PANEL_WIDTH = 26, 64
"""Minimum and maximum width of the panel, in cells; with less room there is none."""
MIN_STRIP_LINES, MAX_STRIP_LINES = 4, 8
"""Minimum and maximum height of the frame strip, including the line of frame numbers."""


@dataclass(frozen=True)
class PanelLayout:
    """Parts of the panel that need more lines."""

    has_batch: bool
    """Whether the panel has the facts about the batch and its machine."""
    has_file: bool
    has_gaps: bool
    """Whether blank lines are around the prompt."""
    strip_height: int
    """Least height of the strip, in lines."""


PANEL_LAYOUTS = (
    PanelLayout(has_batch=True, has_file=True, has_gaps=True, strip_height=MAX_STRIP_LINES),
    PanelLayout(has_batch=False, has_file=True, has_gaps=True, strip_height=MAX_STRIP_LINES),
    PanelLayout(has_batch=False, has_file=True, has_gaps=True, strip_height=MIN_STRIP_LINES),
    PanelLayout(has_batch=False, has_file=False, has_gaps=True, strip_height=MIN_STRIP_LINES),
    PanelLayout(has_batch=False, has_file=False, has_gaps=False, strip_height=MIN_STRIP_LINES),
)
"""Layouts of the panel, the largest one first."""


def choose_facts_width(size: tuple[int, int], aspect_ratio: float) -> int:
    """Return the width of the panel beside a clip in cells; 0 if the clip leaves no room for a panel.

    Args:
        size: columns and rows of the player's stage.
        aspect_ratio: width of the clip divided by its height.
    """
    columns, rows = size
    free_width = columns - round(2 * rows * aspect_ratio)
    return min(free_width, MAX_PANEL_WIDTH) if free_width >= MIN_PANEL_WIDTH else 0


class ClipFacts(WorkerErrorsMixin, DiffText):
    """Panel of facts about one clip: what it is, where it is in its batch, and a strip of its frames."""

    @dataclass
    class StripRead(Message):
        """The contact sheet of a clip was read."""

        clip: PlayerClip
        frames: "Sequence[Picture]"
        """Frames of the sheet; empty if it is unreadable."""

    DEFAULT_CSS = """
    ClipFacts { height: 1fr; padding: 1 1 0 2; }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._shown: tuple[PlayerClip, Sequence[PlayerClip], VideoMark | None] | None = None
        self._strip: ClipFacts.StripRead | None = None
        """Strip that was read last."""
        self._frame_index = self._marked_number = 0
        """Index of the current frame; number, from 0, of the strip's frame that is marked for it."""

    def show_clip(self, clip: PlayerClip, batch_clips: Sequence[PlayerClip], mark: VideoMark | None) -> None:
        """Show a clip.

        Args:
            batch_clips: clips of the batch, in the order in which they are played; empty without a batch.
            mark: marks of the clip; None if it cannot be marked here.
        """
        self._shown = clip, batch_clips, mark
        if not self.content_size.width:
            return
        self._draw()
        is_read = self._strip is not None and self._strip.clip == clip
        if clip.sheet_path is not None and not is_read and not getattr(self.app, "is_low_bandwidth", False):
            self._read_contact_sheet(clip, clip.sheet_path, self.content_size.width)

    def mark_frame(self, frame_index: int) -> None:
        """Mark the frame of the strip that shows the current part of the clip."""
        self._frame_index = frame_index
        if self._shown is None or self._strip is None or self._strip.clip != self._shown[0]:
            return
        number = find_sheet_number(self._strip.clip.recipe.frames, frame_index)
        if number != self._marked_number:
            self._marked_number = number
            self._draw()

    @work(thread=True, exclusive=True, group="strip", exit_on_error=False)
    def _read_contact_sheet(self, clip: PlayerClip, sheet_path: Path, width: int) -> None:
        """Read the contact sheet of a clip on a background thread."""
        max_size = (2 * width, 4 * MAX_STRIP_LINES)
        frames = read_sheet_frames(sheet_path, clip.recipe.frames, max_size)
        if not get_current_worker().is_cancelled:
            self.post_message(self.StripRead(clip, frames))

    @on(StripRead)
    def _show_strip(self, message: StripRead) -> None:
        self._strip = message
        if self._shown is not None and self._shown[0] == message.clip:
            self._draw()

    def _draw(self) -> None:
        """Draw the facts, and below them what fits: the grid of the batch, the clips before and after, the strip."""
        assert self._shown is not None, "a clip is shown"
        clip, batch_clips, mark = self._shown
        width, height = self.content_size
        blocks = [block for block in self._list_blocks(clip, batch_clips, width) if block]
        blocks_height = sum(1 + len(block) for block in blocks)
        has_strip = clip.sheet_path is not None
        for layout in PANEL_LAYOUTS:
            lines = self._draw_facts(clip, batch_clips, mark, width, layout)
            strip_height = (1 + layout.strip_height) * has_strip
            if len(lines) + blocks_height + strip_height <= height:
                break
        else:
            blocks = blocks[:1]  # a strip tells more than the titles of the clips before and after
        for block in blocks:
            if block and len(lines) + 1 + len(block) <= height:
                lines += [Text(""), *block]
        strip = self._strip
        strip_height = min(MAX_STRIP_LINES, height - len(lines) - 1)
        if strip is not None and strip.clip == clip and strip.frames and strip_height >= MIN_STRIP_LINES:
            labels = label_sheet_frames(clip.recipe.frames)
            self._marked_number = find_sheet_number(clip.recipe.frames, self._frame_index)
            marked_style = self.make_colour_style("accent") + Style(bold=True, reverse=True)
            drawn = draw_film_strip(strip.frames, labels, width, strip_height, self._marked_number, marked_style)
            lines += [Text(""), *drawn]
        self.show_lines(lines)

    def _draw_facts(
        self,
        clip: PlayerClip,
        batch_clips: Sequence[PlayerClip],
        mark: VideoMark | None,
        width: int,
        layout: PanelLayout,
    ) -> list[Text]:
        from wantui.planning.guidance_plan import describe_guidance  # slow to import

        muted, recipe = self.make_colour_style("text-muted"), clip.recipe
        lines = wrap_text(clip.title, width, self.make_colour_style(clip.colour_name) + Style(bold=True), indent="")
        if clip in batch_clips:
            position = f"video {batch_clips.index(clip) + 1} of {len(batch_clips)}"
            full_position = f"{position} of {clip.batch_name}"
            lines.append(Text(full_position if len(full_position) <= width else position, muted))
        gap = [Text("")] * layout.has_gaps
        lines += [*gap, *wrap_text(escape_unprintable(recipe.prompt), width, indent="")]
        if mark is not None:
            lines += [*gap, *self._draw_marks(mark, width)]
        length_text = f"{format_count(recipe.frames, 'frame')} at {recipe.fps} fps".replace(" ", NO_BREAK_SPACE)
        facts = [
            Fact("model", recipe.model),
            Fact("size", f"{recipe.width}x{recipe.height}, {length_text}"),
            Fact("sampling", f"{format_count(recipe.steps, 'step')} of {recipe.sampler}"),
            Fact("cfg scale", describe_guidance(recipe)),
            Fact("seed", "" if f"seed {recipe.seed}" in clip.title else str(recipe.seed)),
            Fact(GENERATION_FACT, f"{clip.seconds:.1f} s" if clip.seconds else ""),
            Fact("on disk", format_bytes(clip.byte_count) if layout.has_file and clip.byte_count is not None else ""),
            Fact("file", Path(*clip.path.parts[-3:]).as_posix() if layout.has_file else ""),
            *(Fact(format_label(field.name), field.value) for field in clip.video_fields if layout.has_batch),
        ]
        return [*lines, Text(""), *draw_facts([fact for fact in facts if fact.value], width)]

    def _list_blocks(self, clip: PlayerClip, batch_clips: Sequence[PlayerClip], width: int) -> list[list[Text]]:
        """Return the grid of the batch, and the clips before and after the shown clip, with their keys."""
        if clip not in batch_clips:
            return []
        index = batch_clips.index(clip)
        neighbours = []
        for action_id, other_index in (("player.previous", index - 1), ("player.next", index + 1)):
            if 0 <= other_index < len(batch_clips):
                other = batch_clips[other_index]
                line = Text.assemble(
                    (f"{find_key(self, action_id)}  ", self.make_colour_style("accent") + Style(bold=True)),
                    ("next      " if other_index > index else "previous  ", Style(dim=True)),
                )
                title = Text(other.title, self.make_colour_style(other.colour_name))
                neighbours.append(line.append_text(cut_middle(title, width - line.cell_len)))
        return [draw_played_batch(batch_clips, clip, width, self.make_colour_style), neighbours]

    def _draw_marks(self, mark: VideoMark, width: int) -> list[Text]:
        """Return the marks, or that there are none."""
        lines = [Text(f"{STAR} starred", self.make_colour_style("accent"))] if mark.star else []
        lines += [Text(f"{REJECT} rejected", self.make_colour_style("error"))] if mark.reject else []
        if mark.note:
            lines += wrap_text(f"{NOTE} {escape_unprintable(mark.note)}", width, self.make_colour_style("accent"))
        keys = f"{find_key(self, 'player.star')} stars, {find_key(self, 'player.reject')} rejects"
        return lines or wrap_text(f"no verdict: {keys}", width, self.make_colour_style("text-muted"))
