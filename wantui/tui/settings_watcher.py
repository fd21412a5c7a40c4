"""Thread that reads tui.yaml again whenever it changes."""

import threading
from collections.abc import Callable

from wantui.errors import UserError
from wantui.formatting import format_error
from wantui.tui.settings import TuiSettings, find_settings_path, load_settings

POLL_SECONDS = 2.0
"""Seconds between two looks at the file."""
SETTLE_SECONDS = 0.2
"""Seconds for which the file must be unchanged before it is read, because an editor may still be writing it."""

Signature = tuple[int, int, int] | None
"""Modification time in ns, size in bytes and inode of the file; None if it does not exist."""


class SettingsWatcher:
    """Watcher of tui.yaml; publishes new settings, or the reason why they are invalid, from its thread.

    Args:
        publish_settings: called with the settings after each valid change.
        publish_error: called with the reason after each invalid change.
    """

    def __init__(
        self,
        publish_settings: Callable[[TuiSettings], None],
        publish_error: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.publish_settings, self.publish_error, self.poll_seconds = publish_settings, publish_error, poll_seconds
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="settings", daemon=True)
        self._signature = _read_signature()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Request the end of the thread, without waiting for it: its disk may hang."""
        self._stop_requested.set()

    def _watch(self) -> None:
        while not self._stop_requested.wait(self.poll_seconds):
            signature = _read_signature()
            if signature == self._signature:
                continue
            while not self._stop_requested.wait(SETTLE_SECONDS):
                previous, signature = signature, _read_signature()
                if signature == previous:
                    break
            self._signature = signature
            try:
                settings = load_settings()
            except (UserError, OSError) as error:
                self.publish_error(format_error(error))
            else:
                self.publish_settings(settings)


def _read_signature() -> Signature:
    try:
        status = find_settings_path().stat()
    except (UserError, OSError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
