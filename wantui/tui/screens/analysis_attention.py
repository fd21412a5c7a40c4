"""Attention view of the Analysis screen: reading it, drawing its pictures, and the keys that choose one."""

from dataclasses import replace

from textual import getters, on, work
from textual.timer import Timer
from textual.widget import Widget

from wantui.analysis.video import Video
from wantui.tui.analysis.attention_film import MEAN_STEP, AttentionFilm, OverlayKey
from wantui.tui.analysis.attention_panel import draw_attention, measure_attention_height
from wantui.tui.analysis.data import AttentionLoaded, OverlayDrawn, draw_overlay_picture, load_video_attention
from wantui.tui.screens.base import BaseScreen
from wantui.tui.widgets.trajectory_details import TrajectoryDetails
from wantui.tui.widgets.trajectory_table import TrajectoryTable

ATTENTION_DELAY_SECONDS = 0.15
"""Time that the cursor must rest on a video before its attention is read."""
MAX_CACHED_PICTURES = 64
"""Maximum number of a film's drawn pictures that are stored."""
FRAME_LINES = 2
"""Lines of a pane's frame."""


class AnalysisAttention(BaseScreen):
    """Base of the Analysis screen that shows the attention to the marked words of the video under the cursor."""

    row_list = getters.query_one("#rows", TrajectoryTable)
    details = getters.query_one(TrajectoryDetails)

    def __init__(self) -> None:
        super().__init__()
        self.attention: AttentionLoaded | None = None
        """Attention of the video that was read last."""
        self.overlay_key = OverlayKey(0, MEAN_STEP, 0)
        self._pictures_by_key: dict[OverlayKey, OverlayDrawn] = {}
        self._shown_picture: OverlayDrawn | None = None
        self._attention_timer: Timer | None = None

    @property
    def current_view(self) -> str:
        """Name of the view that is shown."""
        raise NotImplementedError

    def draw_details(self) -> None:
        """Draw the current view."""
        raise NotImplementedError

    # Background threads

    @work(thread=True, exclusive=True, group="attention", exit_on_error=False)
    def read_attention(self, video: Video, with_frames: bool) -> None:
        """Read frames and attention maps of one video."""
        self.post_message(load_video_attention(video, with_frames))

    @work(thread=True, exclusive=True, group="overlay", exit_on_error=False)
    def draw_overlay(self, film: AttentionFilm, key: OverlayKey) -> None:
        """Draw one picture of the film."""
        self.post_message(draw_overlay_picture(film, key))

    @on(AttentionLoaded)
    def _show_attention(self, message: AttentionLoaded) -> None:
        if message.video is self.row_list.current_row:
            self.attention, self._pictures_by_key, self._shown_picture = message, {}, None
            self.draw_details()

    @on(OverlayDrawn)
    def _show_overlay(self, message: OverlayDrawn) -> None:
        if self.attention is not None and message.film is self.attention.film:
            if len(self._pictures_by_key) >= MAX_CACHED_PICTURES:
                del self._pictures_by_key[next(iter(self._pictures_by_key))]
            self._pictures_by_key[message.key] = message
            self.draw_details()

    # Drawing

    def draw_attention_view(self, video: Video) -> None:
        """Draw the attention of a video, once it is read."""
        if self.attention is None or self.attention.video is not video:
            if self._attention_timer is not None:
                self._attention_timer.stop()
            self._attention_timer = self.set_timer(ATTENTION_DELAY_SECONDS, self._read_current_attention)
            self.details.show_message("reading ...")
            return
        film = self.attention.film
        if film is None:
            self.details.show_message(self.attention.error)
            return
        key = self.overlay_key = film.clamp_key(self.overlay_key)
        if film.frames and key not in self._pictures_by_key:
            self.draw_overlay(film, key)
        else:
            self._shown_picture = self._pictures_by_key.get(key)
        # Until the new picture is drawn, the previous one stays.
        shown = self._shown_picture
        if shown is not None and shown.error:
            self.details.show_message(shown.error)
            return
        canvas = self.details.get_canvas()
        picture = shown.picture if shown is not None else None
        self.details.show_lines(draw_attention(film, key, picture, canvas.width, canvas.height, canvas.get_style))

    def _read_current_attention(self) -> None:
        row = self.row_list.current_row
        if isinstance(row, Video) and self.current_view == "attention":
            self.read_attention(row, with_frames=not self.wantui_app.is_low_bandwidth)

    def measure_height_beside_attention(self, table: Widget) -> int:
        """Return the height that the table can take without shrinking the attention view; 0 in other views."""
        film = None if self.current_view != "attention" or self.attention is None else self.attention.film
        if film is None:
            return 0
        canvas = self.details.get_canvas()
        needed_height = measure_attention_height(film, canvas.width, canvas.get_style) + FRAME_LINES
        return table.outer_size.height + self.details.outer_size.height - needed_height

    # Actions

    def action_next_word(self) -> None:
        """Show the attention to the next marked word."""
        self.move_overlay(word_count=1)

    def action_next_axis(self) -> None:
        """Show the attention by step, by block or by head, as far as the video stores them."""
        if self.current_view != "attention" or self.attention is None or (film := self.attention.film) is None:
            return
        axes = film.list_axes()
        if len(axes) == 1:
            self.notify(
                "these maps are means over blocks and heads. To store a map for each block or head, turn on "
                "'store per block' or 'store per head' in Compose (1, then s)"
            )
            return
        axis = axes[(axes.index(self.overlay_key.axis) + 1) % len(axes)]
        self.overlay_key = replace(self.overlay_key, axis=axis, step_index=MEAN_STEP)
        self.draw_details()

    def action_move_frame(self, count: int) -> None:
        """Show the attention over a different frame."""
        self.move_overlay(frame_count=count)

    def move_overlay(self, word_count: int = 0, step_count: int = 0, frame_count: int = 0) -> None:
        """Choose another word, step or frame of the attention view."""
        if self.current_view != "attention":
            return
        key = self.overlay_key
        self.overlay_key = replace(
            key,
            word_index=key.word_index + word_count,
            step_index=key.step_index + step_count,
            frame_index=key.frame_index + frame_count,
        )
        self.draw_details()
