"""Screen that shows how a video forms: pictures of its stored steps, drawn by a linear fit without a model."""

from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.worker import get_current_worker

from wantui.errors import UserError
from wantui.formatting import format_share
from wantui.storage.video_selection import SelectedVideo
from wantui.tui.actions import make_bindings
from wantui.tui.chart import SIGMA_NOTE
from wantui.tui.dialog import DialogMixin
from wantui.tui.pictures import stretch_picture
from wantui.tui.widgets.diff_text import DiffText, parse_theme_colour
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.picture_view import PictureView, fit_picture_size
from wantui.tui.widgets.preview_strip import PreviewStrip
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.analysis.denoising_states import StateKind
    from wantui.analysis.fitted_steps import FittedStep

MAX_STEPS = 24
"""Maximum number of steps that are read and shown, evenly spread."""
MAX_STRIP_LINES = 7
"""Maximum height of the small pictures in lines."""
FRAME_GAP = 2
"""Cells between two frames side by side."""
NOISY_HINT = "press v to show the noisy states"
KIND_TEXTS: "dict[StateKind, str]" = {"clean": "clean state that the model predicts", "noisy": "noisy state"}


class FormingScreen(DialogMixin, WorkerErrorsMixin, ModalScreen[None]):
    """Pictures of the steps of one video: a large one, and a strip with one of each step."""

    BINDINGS = [*make_bindings("forming")]
    DEFAULT_CSS = """
    FormingScreen { background: $background; }
    FormingScreen #forming-title { height: 2; padding: 0 1; }
    FormingScreen PictureView { height: 1fr; background: $surface; }
    FormingScreen #frame-labels { height: 1; color: $text-muted; }
    FormingScreen PreviewStrip { padding: 0 1; }
    """

    class StepDrawn(Message):
        """The pictures of a step are drawn."""

        def __init__(self, kind: "StateKind", step: "FittedStep") -> None:
            super().__init__()
            self.kind, self.step = kind, step

    class LoadingFailed(Message):
        """The steps, or some of them, cannot be drawn."""

        def __init__(self, kind: "StateKind", error: str, has_noisy_states: bool) -> None:
            super().__init__()
            self.kind, self.error, self.has_noisy_states = kind, error, has_noisy_states

    picture_view = getters.query_one(PictureView)
    strip = getters.query_one(PreviewStrip)
    title_text = getters.query_one("#forming-title", DiffText)

    def __init__(self, video: SelectedVideo) -> None:
        super().__init__(name="forming")
        self.video = video
        self.kind: StateKind = "clean"
        self.steps: dict[int, FittedStep] = {}
        """Drawn steps by number of evaluations before the state, in order."""
        self.picked_key: int | None = None
        """Key of the shown step; None shows the last drawn one."""
        self.frame_index = 0
        self.error = ""
        self.has_noisy_states = False
        """True if the clean states are missing, but noisy ones are stored."""
        self.is_playing = False
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield DiffText(id="forming-title")
        yield PictureView()
        yield DiffText(id="frame-labels")
        yield PreviewStrip(max_picture_lines=MAX_STRIP_LINES, spreads=True)
        yield KeyFooter()

    def on_mount(self) -> None:
        self._load_kind("clean")

    # Background thread

    @work(thread=True, exclusive=True, group="forming", exit_on_error=False)
    def draw_stored_steps(self, kind: "StateKind") -> None:
        """Read and draw the steps of one kind; another kind, or closing the screen, cancels this."""
        from wantui.analysis.fitted_steps import choose_evenly_spaced_moments, draw_steps, open_video_states

        worker, has_noisy_states = get_current_worker(), False
        try:
            states, clip = open_video_states(self.video)
            has_noisy_states = True
            for step in draw_steps(states, clip, choose_evenly_spaced_moments(states, kind, MAX_STEPS)):
                if worker.is_cancelled:
                    return
                self.post_message(self.StepDrawn(kind, step))
        except UserError as error:
            self.post_message(self.LoadingFailed(kind, str(error), has_noisy_states))

    @on(StepDrawn)
    def _add_step(self, message: StepDrawn) -> None:
        if message.kind == self.kind:
            self.steps[message.step.moment.evaluation] = message.step
            self.draw_pictures()

    @on(LoadingFailed)
    def _show_error(self, message: LoadingFailed) -> None:
        if message.kind == self.kind:
            self.error, self.has_noisy_states = message.error, message.has_noisy_states
            self.draw_pictures()

    # Drawing

    @on(PictureView.Resized)
    def _draw_in_new_size(self) -> None:
        self.draw_pictures()

    @property
    def shown_step(self) -> "FittedStep | None":
        """Return the picked step, or the last drawn one."""
        if self.picked_key in self.steps:
            return self.steps[self.picked_key]
        return next(reversed(self.steps.values()), None)

    def draw_pictures(self) -> None:
        """Draw the shown step, the strip and the title."""
        step = self.shown_step
        if step is None:
            self.title_text.show_lines([Text(f"{self.video.name}: {KIND_TEXTS[self.kind]}", Style(bold=True))])
            hint = f"\n\n{NOISY_HINT}" if self.kind == "clean" and self.has_noisy_states else ""
            self.picture_view.show_message(f"{self.error}{hint}" if self.error else "reading ...")
            self.strip.show_steps({}, None)
            return
        shown_frames = [self.frame_index % len(step.frames)]
        columns, rows = self.picture_view.content_size
        if columns and rows:
            height, width = step.frames[0].shape[:2]
            size = fit_picture_size((width, height), columns, rows)  # so that the view does not scale
            count = 1 if self.is_playing else min(len(step.frames), (columns + FRAME_GAP) // (size[0] + FRAME_GAP))
            shown_frames = _spread_frames(self.frame_index, count, len(step.frames))
            self._label_frames(shown_frames, len(step.frames), size[0], columns)
            pictures = [stretch_picture(step.frames[index], size) for index in shown_frames]
            joined = _join_pictures(pictures, self._find_background())
            self.picture_view.show_picture(joined, is_moving=self.is_playing)
        middle = len(step.frames) // 2
        self.strip.show_steps(
            {key: drawn.frames[middle] for key, drawn in self.steps.items()},
            step.moment.evaluation,
            {key: _name_noise_level(drawn) for key, drawn in self.steps.items()},
        )
        step_count = self.video.entry.recipe.steps
        what = f"the video, after step {step_count} of {step_count}"
        if step.moment.step is not None:
            what = f"{KIND_TEXTS[self.kind]} at {step.moment.label}"
        details = f"{SIGMA_NOTE} · approximate colours: {format_share(step.r2, 1)} of those of the clip (linear fit)"
        if self.error:
            details = f"✗ {self.error}"
        title = Text(f"{self.video.name}: {what}", Style(bold=True))
        self.title_text.show_lines([title, Text(details, Style(dim=not self.error))])

    def _label_frames(self, indices: list[int], frame_count: int, width: int, columns: int) -> None:
        """Write the number of each shown frame below it.

        Args:
            width: width of a frame in cells.
            columns: width of the view in cells.
        """
        video_frames = self.video.entry.recipe.frames
        names = [_name_latent_frame(index, frame_count, video_frames, width) for index in indices]
        labels = (" " * FRAME_GAP).join(name.center(width) for name in names)
        self.query_one("#frame-labels", DiffText).show_lines(
            [Text(labels.center(columns).rstrip(), self.title_text.make_colour_style("text-muted"))]
        )

    def _find_background(self) -> tuple[int, int, int]:
        colour = parse_theme_colour(self.app.theme_variables, "surface")
        return (0, 0, 0) if colour is None else colour.rgb

    # Actions

    def _load_kind(self, kind: "StateKind") -> None:
        self.kind, self.steps, self.error = kind, {}, ""
        self.draw_pictures()
        self.draw_stored_steps(kind)

    def action_switch_kind(self) -> None:
        self._load_kind("noisy" if self.kind == "clean" else "clean")

    def action_pick_step(self, offset: int) -> None:
        """Show another step."""
        step = self.shown_step
        if step is not None:
            keys = list(self.steps)
            index = keys.index(step.moment.evaluation) + offset
            self.picked_key = keys[max(0, min(index, len(keys) - 1))]
            self.draw_pictures()

    @on(PreviewStrip.Picked)
    def _pick_clicked_step(self, message: PreviewStrip.Picked) -> None:
        self.picked_key = message.step_number
        self.draw_pictures()

    def action_move_frame(self, offset: int) -> None:
        """Show another latent frame."""
        step = self.shown_step
        if step is not None:
            self.frame_index = (self.frame_index + offset) % len(step.frames)
            self.draw_pictures()

    def action_play(self) -> None:
        """Play the latent frames of the step, or pause."""
        self.is_playing = not self.is_playing
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self.is_playing and (step := self.shown_step) is not None:
            recipe = self.video.entry.recipe
            self._timer = self.set_interval(recipe.frames / recipe.fps / len(step.frames), self._play_next_frame)

    def _play_next_frame(self) -> None:
        if not getattr(self.app._driver, "pending_write_count", 0):  # otherwise keys would wait for the terminal
            self.action_move_frame(1)

    async def action_help(self) -> None:
        await self.app.run_action("help")

    def action_close(self) -> None:
        self.dismiss(None)


def _name_noise_level(step: "FittedStep") -> str:
    """Return the noise level of a step, or that it is the video."""
    return "end" if step.moment.step is None else f"σ {step.moment.sigma:.2f}"


def _name_latent_frame(index: int, frame_count: int, video_frames: int, width: int) -> str:
    """Return the frames of the video that a latent frame stands for, and its own number if there is room.

    The first latent frame stands for the first frame, and each further one for an equal number of frames.
    """
    share = (video_frames - 1) // max(1, frame_count - 1)
    first, last = (1, 1) if index == 0 else ((index - 1) * share + 2, index * share + 1)
    name = f"frame {first} of {video_frames}" if first == last else f"frames {first} to {last} of {video_frames}"
    full_name = f"{name} (latent frame {index + 1} of {frame_count})"
    return full_name if len(full_name) <= width else name


def _spread_frames(first: int, count: int, frame_count: int) -> list[int]:
    """Return `count` frames at equal distances from each other, in the order of the video."""
    count = max(1, count)
    return sorted({(first + number * frame_count // count) % frame_count for number in range(count)})


def _join_pictures(pictures: "list[NDArray[np.uint8]]", background: tuple[int, int, int]) -> "NDArray[np.uint8]":
    """Return pictures of equal size side by side, with gaps in the colour of the background."""
    import numpy as np

    gap = np.full((pictures[0].shape[0], FRAME_GAP, 3), background, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)
