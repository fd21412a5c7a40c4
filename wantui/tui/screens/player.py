"""Player of clips in half blocks: one clip that fills the screen, or several in a grid and in sync."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer

from wantui.formatting import escape_unprintable
from wantui.storage.marks import VideoMark
from wantui.tui.actions import make_bindings
from wantui.tui.dialog import DialogMixin
from wantui.tui.player.clip_labels import describe_clips
from wantui.tui.player.clip_layout import GRID_GAP, arrange_panels
from wantui.tui.player.clips import ClipMarks, MarkField, PlayerClip
from wantui.tui.player.playback import MAX_FPS, MAX_SLOW_FPS
from wantui.tui.player.synced_clips import SyncedClips
from wantui.tui.screens.recipe_viewer import RecipeViewer
from wantui.tui.terminal.driver import count_pending_writes
from wantui.tui.widgets.clip_difference import DifferenceCurve, DifferencePicture
from wantui.tui.widgets.clip_facts import ClipFacts, choose_facts_width
from wantui.tui.widgets.clip_panel import ClipPanel
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.matrix_cells import REJECT, STAR
from wantui.tui.widgets.picture_view import PictureView
from wantui.tui.widgets.playback_bar import PlaybackBar, SeekBar
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MIN_HEIGHT_WITH_PROMPT = 22
"""Minimum height of the screen, in lines, at which the prompt of a single clip is shown below the clip."""
SIDE_MARGIN = 1
"""Columns left and right of compared clips."""
LINES_BELOW_STAGE = 2
"""Lines of the playback bar and of the keys."""
MAX_PENDING_WRITES = 1
"""Maximum number of updates that wait for the terminal when a frame is drawn; otherwise the frame is dropped."""


class ClipChanged(Message):
    """A requested frame, the number of frames, or an error of a clip became known."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ClipChanged)


class Player(DialogMixin, WorkerErrorsMixin, ModalScreen[PlayerClip]):
    """Screen that plays clips in sync; returns the clip that was shown last (the first of several).

    Args:
        clips: one to nine clips.
        batch_clips: clips among which up and down select, if one clip is played.
        clip_marks: marks of these clips; None if they cannot be marked here.
    """

    BINDINGS = [*make_bindings("player")]
    DEFAULT_CSS = """
    Player { background: $background; }
    Player #stage-row { height: 1fr; }
    Player #stage { width: 1fr; height: 1fr; layout: grid; grid-gutter: 0 1; }
    Player ClipFacts { display: none; }
    Player.-with-facts ClipFacts { display: block; }
    Player #prompt { height: 1; padding: 0 1; display: none; }
    Player.-roomy.-single #prompt { display: block; }
    Player PictureView { height: 1fr; }
    Player.-single PictureView { background: $surface; } /* so that the edge of a dark picture is seen */
    Player DifferencePicture, Player DifferenceCurve { display: none; }
    Player.-with-difference DifferencePicture, Player.-with-curve DifferenceCurve { display: block; }
    Player.-with-facts.-roomy #prompt, Player.-single .clip-label,
    Player.-bare .clip-label, Player.-bare .difference-label, Player.-bare PlaybackBar, Player.-bare KeyFooter,
    Player.-bare.-roomy #prompt {
        display: none;
    }
    """

    stage = getters.query_one("#stage", Container)
    playback_bar = getters.query_one(PlaybackBar)
    clip_facts = getters.query_one(ClipFacts)

    def __init__(
        self,
        clips: Sequence[PlayerClip],
        batch_clips: Sequence[PlayerClip] = (),
        clip_marks: ClipMarks | None = None,
    ) -> None:
        super().__init__(name="player")
        self.clip_marks = clip_marks
        self.played = SyncedClips(clips, lambda: self.post_message(ClipChanged()))
        self.playback, self.batch_clips = self.played.playback, list(batch_clips)
        self._shown_facts: tuple[object, ...] | None = None
        """What the panel of facts shows: clip, mark, size of the panel, theme."""
        self._timer: Timer | None = None
        self._last_tick_seconds = 0.0
        self.set_class(len(self.clips) == 1, "-single")

    def compose(self) -> ComposeResult:
        with Horizontal(id="stage-row"):
            with Container(id="stage"):
                for _ in self.clips:
                    yield ClipPanel(is_compared=len(self.clips) > 1)
                if self.can_compare:
                    yield DifferencePicture()
                    yield DifferenceCurve()
            yield ClipFacts(id="clip-facts")
        yield DiffText(id="prompt")
        yield PlaybackBar()
        yield KeyFooter()

    @property
    def clips(self) -> list[PlayerClip]:
        """Return the played clips."""
        return self.played.clips

    @property
    def views(self) -> list[PictureView]:
        return [panel.view for panel in self.query(ClipPanel)]

    @property
    def can_compare(self) -> bool:
        """Return whether the player shows two clips whose frames can be subtracted."""
        shapes = {(each.width, each.height, each.frames, each.fps) for each in (clip.recipe for clip in self.clips)}
        return len(self.clips) == 2 and len(shapes) == 1

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable marks and the selection of other videos while several are compared."""
        if action == "mark":
            return self.clip_marks is not None and len(self.clips) == 1
        if action == "difference":
            return len(self.clips) == 2
        return action != "next" or (len(self.clips) == 1 and self.clips[0] in self.batch_clips)

    def on_mount(self) -> None:
        self._restart_timer()
        for curve in self.query(DifferenceCurve):
            curve.measure_difference(*self.clips)

    def on_unmount(self) -> None:
        self.played.close()

    def on_screen_suspend(self) -> None:
        self._stop_timer()

    def on_screen_resume(self) -> None:
        self._restart_timer()

    def on_resize(self) -> None:
        recipe, (width, height) = self.clips[0].recipe, self.size
        aspect_ratio, is_bare = recipe.width / recipe.height, self.has_class("-bare")
        self.set_class(height >= MIN_HEIGHT_WITH_PROMPT, "-roomy")
        stage_height = height - (0 if is_bare else LINES_BELOW_STAGE)
        panel_count = len(self.clips) + self.has_class("-with-difference")
        has_curve = self.can_compare and not is_bare
        layout = arrange_panels(panel_count, aspect_ratio, width - 2 * SIDE_MARGIN, stage_height, has_curve)
        self.set_class(layout.curve_span > 0, "-with-curve")
        stage = self.stage.styles
        stage.grid_size_columns, stage.grid_rows = layout.columns, layout.grid_rows
        for curve in self.query(DifferenceCurve):
            curve.styles.column_span = max(1, layout.curve_span)
        if len(self.clips) == 1:
            panel_width = choose_facts_width((width, stage_height), aspect_ratio)
            self.set_class(panel_width > 0 and not is_bare, "-with-facts")
            self.clip_facts.styles.width = panel_width
        else:
            # What remains after the division by columns and rows would make the first clips larger than the others.
            spare_columns = (width - 2 * SIDE_MARGIN - GRID_GAP * (layout.columns - 1)) % layout.columns
            spare_rows = 0 if layout.panel_rows else stage_height % layout.rows
            stage.padding = (0, SIDE_MARGIN + spare_columns, spare_rows, SIDE_MARGIN)

    @on(PictureView.Resized)
    def _decode_for_new_size(self) -> None:
        for view, buffer in zip(self.views, self.played.buffers, strict=True):
            if view.content_size.area:
                buffer.set_max_size((view.content_size.width, 2 * view.content_size.height))
        self.call_after_refresh(self.draw_frames)

    def on_clip_changed(self) -> None:
        self.played.update_count()
        if not self.playback.is_playing or any(view.picture is None for view in self.views):
            self.draw_frames()

    # Time

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _restart_timer(self) -> None:
        """Start the timer with the current speed; a paused player has no timer."""
        self._stop_timer()
        self._last_tick_seconds = time.monotonic()
        if self.playback.is_playing:
            max_fps = MAX_SLOW_FPS if getattr(self.app, "is_low_bandwidth", False) else MAX_FPS
            self._timer = self.set_interval(1 / min(max_fps, self.playback.fps * self.playback.speed), self._tick)

    def _tick(self) -> None:
        """Show the frames that are due, unless the terminal has not taken the last frames: keys would wait for them."""
        if count_pending_writes(self.app) > MAX_PENDING_WRITES:
            return
        now = time.monotonic()
        elapsed_seconds, self._last_tick_seconds = now - self._last_tick_seconds, now
        self.advance(elapsed_seconds)

    def advance(self, elapsed_seconds: float) -> None:
        """Show the frames that are due; the clock waits until all clips have decoded theirs."""
        self.played.update_count()
        playback, previous_index = self.playback, self.playback.frame_index
        frames = self.played.advance(elapsed_seconds)
        if frames is None:
            return
        if not playback.is_playing:
            self._stop_timer()
        if playback.frame_index != previous_index or not playback.is_playing:
            self._draw_frames(frames)

    # Drawing

    @on(DifferenceCurve.Measured)
    def draw_frames(self) -> None:
        """Draw the decoded frames at the position, and the control line."""
        self._draw_frames(self.played.request_frames())

    def _draw_frames(self, frames: "Sequence[Picture | None]") -> None:
        for frame, view, buffer in zip(frames, self.views, self.played.buffers, strict=True):
            if frame is not None:
                view.show_picture(frame, is_moving=self.playback.is_playing)
            elif buffer.has_failed:
                view.show_message(buffer.error)
        for panel, clip, label in zip(self.query(ClipPanel), self.clips, self.played.labels, strict=True):
            panel.show_label(clip, label, self._list_mark_symbols(clip))
        prompt = Text(escape_unprintable(self.clips[0].recipe.prompt), Style(dim=True), no_wrap=True)
        self.query_one("#prompt", DiffText).show_lines([prompt])
        self._show_difference(frames)
        has_chart = any(curve.display and curve.bar_width for curve in self.query(DifferenceCurve))
        self.playback_bar.show_playback(self.playback, self._make_title(), has_scrub_bar=not has_chart)
        self._show_facts()

    def _show_difference(self, frames: "Sequence[Picture | None]") -> None:
        """Show the difference of two clips in the shown frame."""
        for curve, picture in zip(self.query(DifferenceCurve), self.query(DifferencePicture), strict=True):
            curve.show_frame(self.playback.frame_index)
            if not self.has_class("-with-difference"):
                continue
            if curve.difference is None:
                picture.show_message(curve.message_text)
            else:
                index, is_moving = self.playback.frame_index, self.playback.is_playing
                picture.show_frame(curve.difference, index, frames, is_moving=is_moving)

    def _show_facts(self) -> None:
        """Show what is known about the only clip in the panel beside it, unless there is no room for the panel."""
        if not self.has_class("-with-facts"):
            return
        self.clip_facts.mark_frame(self.playback.frame_index)
        clip = self.clips[0]
        mark = None if self.clip_marks is None else self.clip_marks.find(clip)
        shown_facts = (clip, mark, self.clip_facts.content_size, self.app.theme)
        if shown_facts == self._shown_facts:  # as in most frames of a playback
            return
        self._shown_facts = shown_facts
        self.clip_facts.show_clip(clip, self.batch_clips, mark)

    def _list_mark_symbols(self, clip: PlayerClip) -> str:
        """Return the symbols of a clip's marks."""
        mark = VideoMark() if self.clip_marks is None else self.clip_marks.find(clip)
        return " ".join([STAR] * mark.star + [REJECT] * mark.reject)

    def _make_title(self) -> str:
        damaged = next((buffer for buffer in self.played.buffers if buffer.error and buffer.frame_count), None)
        if damaged is not None:
            return f"✗ damaged after frame {damaged.frame_count}"
        if self.has_class("-with-facts"):  # which have the title
            return ""
        return describe_clips(self.clips, self.batch_clips, self._list_mark_symbols(self.clips[0]))

    # Actions

    def action_pause(self) -> None:
        for buffer in self.played.buffers:
            buffer.retry()
        self.playback.toggle_pause()
        self._show_change()

    def action_step(self, frame_count: int) -> None:
        self.playback.step(frame_count)
        self._show_change()

    def action_first(self) -> None:
        self._seek(0)

    def action_last(self) -> None:
        self._seek(self.playback.last_index)

    def action_speed(self, step: int) -> None:
        self.playback.change_speed(step)
        self._show_change()

    def action_loop(self) -> None:
        self.playback.is_looping = not self.playback.is_looping
        self._show_change()

    def action_mark(self, field: MarkField) -> None:
        """Star or reject the video, or undo this."""
        if self.clip_marks is not None:
            self.clip_marks.toggle(self.clips[0], field)
            self.draw_frames()

    def action_difference(self) -> None:
        """Show or hide the difference picture of two clips."""
        if not self.can_compare:
            self.notify("no difference: the clips differ in size, number of frames or frames per second")
            return
        self.toggle_class("-with-difference")
        self.on_resize()

    def action_bare(self) -> None:
        self.toggle_class("-bare")
        self.on_resize()

    def action_next(self, step: int) -> None:
        """Play the next (1) or previous (-1) clip of the batch."""
        index = self.batch_clips.index(self.clips[0]) + step
        if not 0 <= index < len(self.batch_clips):
            self.notify("this is the last video of the batch" if step > 0 else "this is the first video of the batch")
            return
        self._play_clip(self.batch_clips[index])

    def _play_clip(self, clip: PlayerClip) -> None:
        """Play another clip instead of the only one."""
        self.played.replace_by(clip)
        self.views[0].show_message("")  # the previous picture would stay under the new title
        self._restart_timer()
        self._decode_for_new_size()

    def action_recipe(self) -> None:
        clips, facts = (self.clips, ()) if len(self.clips) > 1 else ((), self.clips[0].video_fields)
        titled_recipes = [(label, clip.recipe) for label, clip in zip(self.played.labels, self.clips, strict=True)]
        self.app.push_screen(RecipeViewer(titled_recipes, clips=clips, facts=facts))

    def action_pixels(self) -> None:
        """Play the same clips in pixels."""
        from wantui.tui.player.pixel_terminal import play_clips_in_pixels

        self._stop_timer()
        last_clip = play_clips_in_pixels(self.app, self.clips, self.batch_clips)
        if last_clip is not None and last_clip != self.clips[0]:
            self._play_clip(last_clip)
        self._restart_timer()

    async def action_help(self) -> None:
        await self.app.run_action("help")

    def action_close(self) -> None:
        self.dismiss(self.clips[0])

    def _seek(self, index: int) -> None:
        self.playback.seek(index)
        self._show_change()

    @on(SeekBar.SeekRequested)
    def _seek_to_fraction(self, message: SeekBar.SeekRequested) -> None:
        self._seek(round(message.share * self.playback.last_index))

    @on(PlaybackBar.StateClicked)
    def _toggle_pause(self) -> None:
        self.action_pause()

    def _show_change(self) -> None:
        self._restart_timer()
        self.draw_frames()
