"""The application: state shared by all screens (queue, GPUs, drafts), starting and quitting.

The application is a client like any other: closing it, or losing its terminal, does not affect the engine.
"""

import gc
import importlib
import platform
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Event, InputEvent
from textual.message import Message
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.signal import Signal

from wantui.batches.eta import RECENT_EVENT_COUNT
from wantui.engine import control
from wantui.engine.queue_opening import open_queue
from wantui.errors import UserError
from wantui.file_state import FileState
from wantui.formatting import escape_unprintable, format_error
from wantui.gpu.monitor import GpuMonitor, GpuSample
from wantui.paths import expand_user_path
from wantui.queue.queue import Queue
from wantui.queue.state_dir import StateDirectory
from wantui.tui.actions import SCREEN_TITLES, make_bindings
from wantui.tui.announcements import announce_changes
from wantui.tui.drafts import Drafts, DraftStore
from wantui.tui.messages import (
    AnalyseBatch,
    DraftReady,
    GpuSampled,
    PagesChanged,
    QueueChanged,
    SettingsChanged,
    SettingsInvalid,
    ShowBatch,
)
from wantui.tui.queue_errors import describe_queue_error
from wantui.tui.queue_watcher import QueueSnapshot, QueueWatcher, VideoPages
from wantui.tui.settings import TuiSettings
from wantui.tui.settings_changes import apply_settings, detect_notices, report_invalid_settings
from wantui.tui.settings_watcher import SettingsWatcher
from wantui.tui.terminal.driver import TerminalDriver
from wantui.tui.terminal.exit_watcher import ExitWatcher
from wantui.tui.terminal.keyboard import patch_input
from wantui.tui.terminal.notices import TerminalNotices
from wantui.tui.terminal.sent_cells import SentCellsApp
from wantui.tui.themes import ThemedApp
from wantui.tui.timers import OneShotTimersMixin
from wantui.tui.widgets.gpu_panel import GpuHistory, measure_worker_bytes
from wantui.tui.worker_errors import WorkerErrorsMixin

MAX_LOCK_SECONDS = 0.3
"""Maximum seconds that a key press waits for a locked database."""
POLL_SECONDS, SLOW_POLL_SECONDS = 0.25, 2.0
"""Seconds between two polls of the queue: normally, and with --low-bandwidth."""
NOTE_SECONDS = 15.0
"""Seconds for which a notification of the start is shown."""


def _create_screen(name: str) -> Screen[Any]:
    """Import and create a screen by name when it is first shown."""
    module = importlib.import_module(f"wantui.tui.screens.{name}")
    screen: Screen[Any] = getattr(module, f"{name.capitalize()}Screen")()
    return screen


def _enable_garbage_collection() -> None:
    """Enable garbage collection, excluding the objects that exist now."""
    gc.freeze()
    gc.enable()


class WantuiApp(OneShotTimersMixin, WorkerErrorsMixin, ThemedApp, SentCellsApp):
    """Application with five screens; each is a mode that is created once and keeps its state and dialogs."""

    TITLE = "wantui"
    CSS_PATH = ["app.tcss", "dialog.tcss"]  # a dialog draws its backdrop before the styles of its class are read
    BINDINGS = [*make_bindings("app")]
    MODES = {name: partial(_create_screen, name) for name in SCREEN_TITLES}
    DEFAULT_MODE = "compose"
    COMMAND_PALETTE_BINDING = "ctrl+backslash"  # keeps ctrl+p free for our own action
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (20, "-low"), (32, "-high")]

    def __init__(
        self,
        state_dir: StateDirectory,
        settings: TuiSettings,
        start_notes: tuple[str, ...] = (),
        is_low_bandwidth: bool = False,
        host_name: str | None = None,
        nvml: Any = None,
        opened_batch: Path | None = None,
        opened_batch_note: str = "",
        settings_state: FileState | None = None,
    ) -> None:
        super().__init__()
        self.opened_batch_note, self.opened_batch = opened_batch_note, opened_batch
        """Batch folder that was named on the command line: the application starts in the library."""
        self.state_dir, self.settings = state_dir, settings
        self.is_low_bandwidth = is_low_bandwidth or settings.low_bandwidth
        self.host_name = host_name or platform.node()
        self.draft_store = DraftStore(state_dir.directory)
        self.start_notes = (*start_notes, *self.draft_store.notes)
        self.drafts: Drafts = self.draft_store.drafts
        self.queue = open_queue(state_dir)[0]
        self.queue.db.set_wait_seconds(MAX_LOCK_SECONDS)
        self.snapshot = QueueSnapshot()
        self.announced_one_gpu: set[tuple[int | None, str]] = set()
        """Batch number and reason of each notification about one GPU that was shown."""
        self.gpu_history = GpuHistory()
        self.gpu_panel_mode = settings.gpu_panel
        self._is_starting_engine = self._has_draft_error = False
        self.snapshot_signal: Signal[QueueSnapshot] = Signal(self, "snapshot")
        self.sample_signal: Signal[GpuSample] = Signal(self, "sample")
        self.pages_signal: Signal[VideoPages] = Signal(self, "pages")
        poll_seconds = SLOW_POLL_SECONDS if self.is_low_bandwidth else POLL_SECONDS
        self.start_seq = self.queue.read_last_event_seq()
        """Sequence number of the last event before the application started."""
        self.queue_watcher = QueueWatcher(
            state_dir,
            lambda snapshot: self._post_if_running(QueueChanged(snapshot)),
            lambda pages: self._post_if_running(PagesChanged(pages)),
            poll_seconds,
            max(0, self.start_seq - RECENT_EVENT_COUNT),
        )
        sample_seconds = SLOW_POLL_SECONDS if self.is_low_bandwidth else 1.0
        self.gpu_history.sample_seconds = sample_seconds
        self.gpu_monitor = GpuMonitor(self._publish_sample, sample_seconds, nvml)
        self.gpu_monitor.reads_processes = self.gpu_panel_mode == "large"
        self.settings_watcher = SettingsWatcher(
            lambda settings: self._post_if_running(SettingsChanged(settings)),
            lambda reason: self._post_if_running(SettingsInvalid(reason)),
            known_state=settings_state,
        )
        self.exit_watcher = ExitWatcher(self, lambda: self.save_drafts_or_notify(is_last=True))
        self.terminal_notices = TerminalNotices(self._write_to_terminal)
        self.animation_level = "none"

    def _publish_sample(self, sample: GpuSample) -> None:
        """Post a sample from the thread of the monitor, with the memory of the workers on a machine without a GPU."""
        self._post_if_running(GpuSampled(sample, None if sample.gpus else measure_worker_bytes(self.snapshot)))

    def get_driver_class(self) -> type[Driver]:
        driver = super().get_driver_class()
        if driver is LinuxDriver:
            driver = TerminalDriver
        patch_input(driver)
        return driver

    def _post_if_running(self, message: Message) -> None:
        if self.is_running:
            self.post_message(message)

    @property
    def _background_screens(self) -> list[Screen[Any]]:
        """Return no screens, because a dialog shows a picture of the screen below (`BackdropMixin`)."""
        return []

    # Starting and quitting

    async def on_event(self, event: Event) -> None:
        """Ignore keys and clicks during the exit: the screens that they would open fail without widgets."""
        if not (self._exit and isinstance(event, InputEvent)):
            await super().on_event(event)

    def on_mount(self) -> None:
        self.show_first_theme(self.settings.theme or self.drafts.theme)
        self.set_keymap(self.settings.keys)
        for note in self.start_notes:
            self.notify(note, severity="warning", timeout=NOTE_SECONDS)
        self.exit_watcher.start()
        detect_notices(self)
        self.call_after_refresh(self._start_watching)
        if self.opened_batch is not None:
            self.call_after_refresh(self.on_show_batch, ShowBatch(self.opened_batch, None))
            if self.opened_batch_note:
                self.notify(self.opened_batch_note, title=self.opened_batch.name, timeout=NOTE_SECONDS)
                self.drafts.welcomed = True  # the demo, which the welcome offers, has just been shown
        elif not self.drafts.welcomed and self.start_seq == 0:  # the demo is of no use to whoever has queued a batch
            from wantui.tui.screens.welcome import Welcome

            self.call_after_refresh(self.push_screen, Welcome())

    def _start_watching(self) -> None:
        """Start the threads that read the queue, GPUs and settings, which would delay the first paint."""
        self.queue_watcher.start()
        self.gpu_monitor.start()
        self.settings_watcher.start()
        _enable_garbage_collection()

    def on_unmount(self) -> None:
        self.save_drafts_or_notify(is_last=True)
        self.terminal_notices.clear_progress()
        self.queue_watcher.stop()
        self.gpu_monitor.stop()
        self.settings_watcher.stop()
        self.queue.close()

    def save_drafts_or_notify(self, is_last: bool = False) -> None:
        """Save the drafts; report repeated failures once."""
        try:
            self.draft_store.save(is_last)
        except (OSError, ValueError) as error:
            if not self._has_draft_error:
                self.notify(f"cannot save drafts: {format_error(error)}", severity="warning", timeout=12)
            self._has_draft_error = True
        else:
            self._has_draft_error = False

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Show a toast; show markup and control characters literally, because the text may be untrusted."""
        text = escape_unprintable(message, keep_lines=True)
        super().notify(text, title=escape_unprintable(title), severity=severity, timeout=timeout, markup=False)

    def action_help_quit(self) -> None:
        """Notify that ctrl+c does not quit here."""
        keys = self.settings.keys.get("app.quit", "q,ctrl+q").split(",")
        self.notify(f"press {keys[-1]} to quit; the engine keeps running the queue", title="quit?")

    # Updates

    def on_queue_changed(self, message: QueueChanged) -> None:
        previous, self.snapshot = self.snapshot, message.snapshot
        self.gpu_history.update_worker_memory(message.snapshot)
        new_events = [event for event in message.snapshot.events if event.seq > self.start_seq]
        announce_changes(self, previous, message.snapshot, new_events)
        if new_events:
            self.terminal_notices.show_title(message.snapshot)
        self.terminal_notices.show_progress(message.snapshot)
        self.snapshot_signal.publish(message.snapshot)

    def on_pages_changed(self, message: PagesChanged) -> None:
        self.pages_signal.publish(message.pages)

    def on_gpu_sampled(self, message: GpuSampled) -> None:
        self.gpu_history.add_sample(message.sample, message.worker_bytes)
        self.sample_signal.publish(message.sample)

    def _write_to_terminal(self, text: str) -> None:
        if self._driver is not None and not self.is_headless:
            self._driver.write(text)

    def on_settings_changed(self, message: SettingsChanged) -> None:
        apply_settings(self, message.settings)

    def on_settings_invalid(self, message: SettingsInvalid) -> None:
        report_invalid_settings(self, message.reason)

    # Actions of all screens

    def change_queue(self, apply_change: Callable[[Queue], None]) -> None:
        """Call a function that changes the queue, and report its error.

        This is not a context manager, because a context manager cannot skip its body if opening the queue fails.
        """
        try:
            if self.queue.is_replaced():
                # open_queue could quarantine the database and read those of other hosts: too slow for a key press.
                replacement = Queue(self.state_dir.directory, MAX_LOCK_SECONDS)
                self.queue.close()
                self.queue = replacement
            apply_change(self.queue)
        except (sqlite3.Error, OSError) as error:
            self.notify(describe_queue_error(error), severity="error", timeout=12)
        except UserError as error:
            self.notify(str(error), severity="error", timeout=12)
        finally:
            self.queue_watcher.poll_now()

    def action_go(self, name: str) -> None:
        """Switch to a screen, unless a dialog is open."""
        if len(self.screen_stack) == 1:
            self.show_screen(name)

    def show_screen(self, name: str) -> Screen[Any]:
        """Switch to a screen and return it."""
        self.switch_mode(name)
        return self.screen_stack[0]

    def on_show_batch(self, message: ShowBatch) -> None:
        from wantui.tui.screens.library import LibraryScreen

        screen = self.show_screen("library")
        assert isinstance(screen, LibraryScreen)
        screen.select_batch(message.folder, message.video_index)

    def on_analyse_batch(self, message: AnalyseBatch) -> None:
        from wantui.tui.screens.analysis import AnalysisScreen

        screen = self.show_screen("analysis")
        assert isinstance(screen, AnalysisScreen)
        screen.analyse_batch(message.folder, message.video_index)

    def on_draft_ready(self, message: DraftReady) -> None:
        from wantui.tui.screens.compose import ComposeScreen

        screen = self.show_screen("compose")
        assert isinstance(screen, ComposeScreen)
        self.call_later(screen.show_draft, message.queues_demo)

    def action_leave_field(self) -> None:
        from wantui.tui.screens.base import BaseScreen

        if isinstance(self.screen, BaseScreen):
            self.screen.focus_main_widget()

    async def action_help(self) -> None:
        from wantui.tui.screens.help import Help

        self.push_screen(Help(self.screen.name or "", self.focused))

    def action_gpu_hide(self) -> None:
        self.gpu_panel_mode = "line" if self.gpu_panel_mode == "hidden" else "hidden"
        self.update_gpu_panel()

    def action_gpu_enlarge(self) -> None:
        self.gpu_panel_mode = "line" if self.gpu_panel_mode == "large" else "large"
        self.update_gpu_panel()

    def update_gpu_panel(self) -> None:
        self.gpu_monitor.reads_processes = self.gpu_panel_mode == "large"
        if self.gpu_history.latest_sample is not None:
            self.sample_signal.publish(self.gpu_history.latest_sample)

    def list_library_roots(self) -> list[Path]:
        """Return the folders that may contain batches: folders of the settings and folders of the queue."""
        folders = [expand_user_path(text) for text in self.settings.output_dirs]
        folders += [] if self.opened_batch is None else [self.opened_batch.parent]
        return list(dict.fromkeys([*folders, *(batch.folder.parent for batch in self.snapshot.batches)]))

    def action_pause_queue(self) -> None:
        def pause(queue: Queue) -> None:
            if not queue.is_on_hold():
                queue.hold_queue("paused", "it was paused")
                self.notify("queue paused; running videos stop after the current step")
            else:
                queue.resume_queue()
                self.notify("queue resumed")

        self.change_queue(pause)

    def action_start_engine(self) -> None:
        if self.snapshot.engine is not None:
            self.notify(f"an engine is already running (process {self.snapshot.engine.process_id})")
        else:
            self.run_worker(self.start_engine, thread=True, group="engine", exit_on_error=False)

    @property
    def is_engine_starting(self) -> bool:
        """Return whether this application or another program is starting an engine."""
        return self._is_starting_engine or self.snapshot.starting_process_id is not None

    def start_engine(self, log_folder: Path | None = None) -> None:
        """Start the engine unless one is running, and wait for it; call this from a thread."""
        self._is_starting_engine = True
        try:
            engine, _ = control.ensure_engine(self.state_dir, log_folder)
            for warning in engine.list_warnings():
                self.call_later(self.notify, warning, severity="warning", timeout=20)
        except (UserError, OSError) as error:
            self.call_later(
                self.notify, f"cannot start the engine: {format_error(error)}", severity="error", timeout=20
            )
        finally:
            self._is_starting_engine = False
            self.queue_watcher.poll_now()

    def action_command_palette(self) -> None:
        from wantui.tui.palette import Palette

        if not isinstance(self.screen, Palette):
            self.push_screen(Palette())

    def choose_theme(self, theme: str) -> None:
        """Show a theme, and store it as the user's choice."""
        self.theme = self.drafts.theme = theme
        self.save_drafts_or_notify()
