"""Title of the terminal (OSC 0), progress in its taskbar (OSC 9;4), and desktop notifications (OSC 9, OSC 99)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from wantui.formatting import escape_unprintable
from wantui.tui.queue_progress import measure_queue_progress
from wantui.tui.queue_watcher import QueueSnapshot

NoticeMode = Literal["auto", "on", "off"]
MAX_NOTICE_LENGTH = 200
"""Maximum text length of a notification, in characters."""
CLEARED_PROGRESS = "0;0"
RUNNING_STATE, FAILED_STATE, HELD_STATE = 1, 2, 4
"""States of progress in OSC 9;4: normal, error and paused."""


@dataclass(frozen=True)
class NoticeSupport:
    """The kinds of notices that the terminal supports."""

    shows_progress: bool = False
    notification: Literal["osc9", "osc99"] | None = None
    is_in_tmux: bool = False
    """True if sequences must be passed through tmux."""


def detect_notice_support(mode: NoticeMode, environment: Mapping[str, str]) -> NoticeSupport:
    """Return which notices the terminal supports, judged by environment variables.

    A terminal that does not know OSC 9;4 could show it as a notification, so unknown and earlier versions get none,
    unless the mode is `on`. In tmux, which hides the terminal, only the mode `on` sends anything.
    """
    if mode == "off":
        return NoticeSupport()
    support = _detect_terminal(environment)
    if "TMUX" in environment:
        if mode != "on":
            return NoticeSupport()
        return NoticeSupport(True, support.notification or "osc9", is_in_tmux=True)
    if mode == "on" and support == NoticeSupport():
        return NoticeSupport(True, "osc9")
    return support


def _detect_terminal(environment: Mapping[str, str]) -> NoticeSupport:
    program = environment.get("TERM_PROGRAM") or environment.get("LC_TERMINAL", "")
    version = environment.get("TERM_PROGRAM_VERSION") or environment.get("LC_TERMINAL_VERSION", "")
    terminal_type = environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or terminal_type == "xterm-kitty":
        return NoticeSupport(notification="osc99")
    if program == "ghostty" or terminal_type == "xterm-ghostty":
        return NoticeSupport(True, "osc9")
    if program == "WezTerm" or terminal_type == "wezterm":
        return NoticeSupport(_parse_version(version) >= (20250209,), "osc9")
    if program in ("iTerm.app", "iTerm2"):
        return NoticeSupport(_parse_version(version) >= (3, 6, 6), "osc9")
    if "WT_SESSION" in environment or environment.get("ConEmuANSI") == "ON":
        return NoticeSupport(shows_progress=True)
    return NoticeSupport()


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int(number[:10]) for number in re.findall(r"\d+", version.partition("-")[0])[:3])


def format_progress(snapshot: QueueSnapshot) -> str:
    """Return the progress of the queue as parameters of OSC 9;4: state and percent."""
    progress = measure_queue_progress(snapshot)
    if progress is None or snapshot.engine is None:
        return CLEARED_PROGRESS
    has_failure = any(batch.counts.get("failed") for batch in snapshot.batches if batch.unfinished_count)
    state = HELD_STATE if snapshot.hold is not None else FAILED_STATE if has_failure else RUNNING_STATE
    return f"{state};{int(100 * progress.completed_fraction)}"


class TerminalNotices:
    """Sender of title, progress and notifications; sends nothing that did not change.

    Args:
        write: writes to the terminal.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.support = NoticeSupport()
        self._sent_progress = CLEARED_PROGRESS
        self._title = ""

    def change_support(self, support: NoticeSupport) -> None:
        """Use the notices that the terminal supports; remove a shown progress."""
        self.clear_progress()
        self.support = support

    def show_title(self, snapshot: QueueSnapshot) -> None:
        """Show the number of remaining videos in the terminal title, visible from other windows."""
        remaining_count = sum(batch.unfinished_count for batch in snapshot.batches)
        title = f"wantui: {remaining_count} left" if remaining_count else "wantui: all done"
        if title != self._title:
            self._title = title
            self.write(f"\x1b]0;{title}\x07")

    def show_progress(self, snapshot: QueueSnapshot) -> None:
        """Show the progress of the queue, in steps of one percent."""
        self._send_progress(format_progress(snapshot))

    def clear_progress(self) -> None:
        self._send_progress(CLEARED_PROGRESS)

    def _send_progress(self, parameters: str) -> None:
        if self.support.shows_progress and parameters != self._sent_progress:
            self._sent_progress = parameters
            self._send(f"\x1b]9;4;{parameters}\x1b\\")

    def notify(self, text: str) -> None:
        """Show a desktop notification; control characters in the text are escaped."""
        if self.support.notification is None:
            return
        safe_text = f"wantui: {escape_unprintable(text)}"[:MAX_NOTICE_LENGTH]
        command = "99;" if self.support.notification == "osc99" else "9"
        self._send(f"\x1b]{command};{safe_text}\x1b\\")

    def _send(self, sequence: str) -> None:
        if self.support.is_in_tmux:
            sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
        self.write(sequence)
