"""Screen that shows how a video forms: pictures of its stored steps, drawn by a linear fit without a model."""

from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
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
from wantui.tui.terminal.driver import count_pending_writes
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.picture_view import PictureView, fit_picture_size
from wantui.tui.widgets.preview_strip import PreviewStrip
from wantui.tui.widgets.step_changes import StepChanges, StepChangesPanel, choose_changes_width, measure_step_changes
from wantui.tui.worker_errors import WorkerErrorsMixin

if TYPE_CHECKING:
    from wantui.analysis.denoising_states import StateKind
    from wantui.analysis.fitted_steps import FittedStep
    from wantui.tui.pictures import Picture

MAX_STEPS = 24
"""Maximum number of steps that are read and shown, evenly spread."""
STRIP_PICTURE_LINES = (5, 7)
"""Minimum and maximum height of the small pictures in lines: lower ones look alike."""
STEP_ACTIONS = ("pick_step", "play", "move_frame")
"""Actions that need a step."""
NOTE_SEPARATOR = " · "
NOISY_HINT = "press v to show the noisy states"
KIND_TEXTS: "dict[StateKind, str]" = {"clean": "predicted clean state", "noisy": "noisy state"}


class FormingScreen(DialogMixin, WorkerErrorsMixin, ModalScreen[None]):
    """Pictures of one video's steps: a large picture, a strip of small pictures, and the changes between steps."""

    BINDINGS = [*make_bindings("forming")]
    DEFAULT_CSS = """
    FormingScreen { background: $background; }
    FormingScreen #forming-title { height: 2; padding: 0 1; }
    FormingScreen #forming-stage { height: 1fr; }
    FormingScreen PictureView { width: 1fr; height: 1fr; background: $surface; }
    FormingScreen StepChangesPanel { display: none; }
    FormingScreen.-with-changes StepChangesPanel { display: block; }
    FormingScreen PreviewStrip { padding: 0 1; }
    """

    class StepDrawn(Message):
        """The pictures of a step are drawn."""

        def __init__(self, load_number: int, step: "FittedStep") -> None:
            super().__init__()
            self.load_number, self.step = load_number, step

    class LoadingFailed(Message):
        """The steps, or some of them, cannot be drawn."""

        def __init__(self, load_number: int, error: str, has_noisy_states: bool) -> None:
            super().__init__()
            self.load_number, self.error, self.has_noisy_states = load_number, error, has_noisy_states

    picture_view = getters.query_one(PictureView)
    strip = getters.query_one(PreviewStrip)
    title_text = getters.query_one("#forming-title", DiffText)
    changes_panel = getters.query_one(StepChangesPanel)

    def __init__(self, video: SelectedVideo) -> None:
        super().__init__(name="forming")
        self.video = video
        self.kind: StateKind = "clean"
        self.load_number = 0
        """Number of times that steps were loaded; messages of earlier loads are ignored."""
        self.steps: dict[int, FittedStep] = {}
        """Drawn steps by number of evaluations before the state, in order."""
        self.picked_key: int | None = None
        """Key of the shown step; None shows the last drawn one."""
        self.changes: StepChanges | None = None
        """Changes from step to step; None until all steps are read."""
        self.frame_index: int | None = None
        """Index of the shown latent frame; None shows the middle one, as the strip does."""
        self._strip_pictures: dict[int, Picture] = {}
        self.error = ""
        self.has_noisy_states = False
        """True if clean states are missing, but noisy states are stored."""
        self.is_playing = False
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield DiffText(id="forming-title")
        with Horizontal(id="forming-stage"):
            yield PictureView()
            yield StepChangesPanel()
        yield PreviewStrip(picture_lines=STRIP_PICTURE_LINES, spreads=True)
        yield KeyFooter()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the keys for steps until a step is drawn, and the key for the other states if none are stored."""
        if action in STEP_ACTIONS:
            return bool(self.steps)
        return action != "switch_kind" or bool(self.steps) or self.has_noisy_states or self.kind == "noisy"

    def on_mount(self) -> None:
        self._load_kind("clean")

    # Background thread

    @work(thread=True, exclusive=True, group="forming", exit_on_error=False)
    def draw_stored_steps(self, kind: "StateKind", load_number: int) -> None:
        """Read and draw the steps of one kind; choosing another kind, or closing the screen, cancels this."""
        from wantui.analysis.fitted_steps import choose_evenly_spaced_moments, draw_steps, open_video_states

        worker, has_noisy_states = get_current_worker(), False
        try:
            states, clip = open_video_states(self.video)
            has_noisy_states = True
            for step in draw_steps(states, clip, choose_evenly_spaced_moments(states, kind, MAX_STEPS)):
                if worker.is_cancelled:
                    return
                self.post_message(self.StepDrawn(load_number, step))
        except UserError as error:
            self.post_message(self.LoadingFailed(load_number, str(error), has_noisy_states))
        except Exception as error:
            error_text = f"cannot draw the steps: {type(error).__name__}: {error}"
            self.post_message(self.LoadingFailed(load_number, error_text, has_noisy_states))
            raise

    @on(StepDrawn)
    def _add_step(self, message: StepDrawn) -> None:
        if message.load_number == self.load_number:
            step = message.step
            self.steps[step.moment.evaluation] = step
            if len(self.steps) == 1:
                self.refresh_bindings()
            self._strip_pictures[step.moment.evaluation] = step.frames[len(step.frames) // 2]
            if step.moment.step is None:  # the last one
                self.changes = measure_step_changes({key: each.frames for key, each in self.steps.items()})
            self.draw_pictures()

    @on(LoadingFailed)
    def _show_error(self, message: LoadingFailed) -> None:
        if message.load_number == self.load_number:
            self.error, self.has_noisy_states = message.error, message.has_noisy_states
            self.refresh_bindings()
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
        index = self._find_frame_index(step)
        self._divide_stage(step)
        columns, rows = self.picture_view.content_size
        if columns and rows:
            height, width = step.frames[0].shape[:2]
            size = fit_picture_size((width, height), columns, rows)  # so that the view does not scale
            self.picture_view.show_picture(stretch_picture(step.frames[index], size), is_moving=self.is_playing)
        self.changes_panel.show_changes(self.changes, step.moment.evaluation)
        self.strip.show_steps(
            dict(self._strip_pictures),
            step.moment.evaluation,
            {key: _name_noise_level(drawn) for key, drawn in self.steps.items()},
        )
        self._show_title(step, index)

    def _find_frame_index(self, step: "FittedStep") -> int:
        """Return the index of the latent frame to show."""
        return len(step.frames) // 2 if self.frame_index is None else self.frame_index % len(step.frames)

    def _divide_stage(self, step: "FittedStep") -> None:
        """Give the picture the width that it can fill, and the rest to the changes, if these can be measured."""
        height, width = step.frames[0].shape[:2]
        rows = self.picture_view.content_size.height
        picture_width = round(2 * rows * width / height)
        panel_width = choose_changes_width(self.size.width, picture_width)
        self.set_class(panel_width > 0 and not self.error, "-with-changes")
        self.changes_panel.styles.width = panel_width

    def _show_title(self, step: "FittedStep", index: int) -> None:
        """Name the shown state, its frames, and how exact its colours are."""
        recipe = self.video.entry.recipe
        what = f"the video, after {recipe.steps} of {recipe.steps} steps"
        if step.moment.step is not None:
            what = f"{KIND_TEXTS[self.kind]} at {step.moment.label}"
        width = self.title_text.content_size.width
        r2_text = format_share(step.r2, 1)
        fit = f"linear fit, r² {r2_text}"
        colours = f"approximate colours: {fit}"
        full_name, name = _name_latent_frame(index, len(step.frames), recipe.frames)
        candidates = [
            NOTE_SEPARATOR.join(parts)
            for parts in (
                (full_name, SIGMA_NOTE, colours),
                (name, SIGMA_NOTE, colours),
                (name, colours),
                (name, fit),
            )
        ]
        details = next((text for text in candidates if len(text) <= width), candidates[-1])
        if self.error:
            details = f"✗ {self.error}"
        title = Text(f"{self.video.name}: {what}", Style(bold=True))
        self.title_text.show_lines([title, Text(details, Style(dim=not self.error))])

    # Actions

    def _load_kind(self, kind: "StateKind") -> None:
        self.kind, self.steps, self.error = kind, {}, ""
        self.load_number += 1
        self._strip_pictures, self.changes = {}, None
        self.refresh_bindings()
        self.draw_pictures()
        self.draw_stored_steps(kind, self.load_number)

    def action_switch_kind(self) -> None:
        self._load_kind("noisy" if self.kind == "clean" else "clean")

    def action_pick_step(self, offset: int) -> None:
        """Show a different step."""
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
        """Show a different latent frame."""
        step = self.shown_step
        if step is not None:
            self.frame_index = (self._find_frame_index(step) + offset) % len(step.frames)
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
        if not count_pending_writes(self.app):  # otherwise keys would wait for the terminal
            self.action_move_frame(1)

    async def action_help(self) -> None:
        await self.app.run_action("help")

    def action_close(self) -> None:
        self.dismiss(None)


def _name_noise_level(step: "FittedStep") -> str:
    """Describe the noise level of a step, or say that the step is the video."""
    return "end" if step.moment.step is None else f"σ {step.moment.sigma:.2f}"


def _name_latent_frame(index: int, frame_count: int, video_frames: int) -> tuple[str, str]:
    """Name the frames of the video that a latent frame represents, with and without the number of the latent frame.

    The first latent frame represents the first frame; each later latent frame represents an equal number of frames.
    """
    share = (video_frames - 1) // max(1, frame_count - 1)
    first, last = (1, 1) if index == 0 else ((index - 1) * share + 2, index * share + 1)
    name = f"frame {first} of {video_frames}" if first == last else f"frames {first} to {last} of {video_frames}"
    return f"{name} (latent frame {index + 1} of {frame_count})", name
