"""Thread that reads tui.yaml again whenever it changes."""

import threading
from collections.abc import Callable

from wantui.errors import UserError
from wantui.file_state import MISSING_FILE, FileState, read_file_state
from wantui.formatting import format_error
from wantui.tui.settings import TuiSettings, find_settings_path, load_settings

POLL_SECONDS = 2.0
"""Seconds between two checks of the file."""
SETTLE_SECONDS = 0.2
"""Seconds for which the file must be unchanged before it is read, because an editor may still be writing it."""


class SettingsWatcher:
    """Watcher of tui.yaml; publishes new settings, or the reason why they are invalid, from its thread.

    Args:
        publish_settings: called with the settings after each valid change.
        publish_error: called with the reason after each invalid change.
        known_state: state of the file from before the application read it; by default, its present state.
    """

    def __init__(
        self,
        publish_settings: Callable[[TuiSettings], None],
        publish_error: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
        known_state: FileState | None = None,
    ) -> None:
        self.publish_settings, self.publish_error, self.poll_seconds = publish_settings, publish_error, poll_seconds
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="settings", daemon=True)
        self._state = known_state or read_settings_state()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end without waiting for it, because the disk that it reads may hang."""
        self._stop_requested.set()

    def _watch(self) -> None:
        while not self._stop_requested.wait(self.poll_seconds):
            state = read_settings_state()
            if state == self._state:
                continue
            while not self._stop_requested.wait(SETTLE_SECONDS):
                previous, state = state, read_settings_state()
                if state == previous:
                    break
            self._state = state
            try:
                settings = load_settings()
            except (UserError, OSError) as error:
                self.publish_error(format_error(error))
            else:
                self.publish_settings(settings)


def read_settings_state() -> FileState:
    """Return the state of tui.yaml; `MISSING_FILE` if there is none, or if its path in the environment is invalid."""
    try:
        return read_file_state(find_settings_path())
    except UserError:
        return MISSING_FILE
