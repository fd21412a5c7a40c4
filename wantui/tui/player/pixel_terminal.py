"""Playback in pixels on the terminal of this process, which the application lends for it."""

import fcntl
import os
import select
import struct
import sys
import termios
import time
import tty
from collections.abc import Mapping, Sequence
from typing import Any

from textual.app import App
from textual.events import Key

from wantui.errors import UserError
from wantui.tui.dialog_actions import PLAYER_ACTIONS
from wantui.tui.key_names import normalize_key
from wantui.tui.player.clips import PlayerClip
from wantui.tui.player.pixel_player import PixelPlayer, PixelTerminal, TerminalSize
from wantui.tui.player.playback import MAX_FPS, MAX_SLOW_FPS
from wantui.tui.terminal.graphics import DEFAULT_CELL_SIZE, require_graphics_protocol
from wantui.tui.terminal.keyboard import InputDecoder, InputParser
from wantui.tui.terminal.lent_terminal import TerminalNotLentError, lend_terminal

ESCAPE_SECONDS = 0.1
"""Seconds after which an escape character is the key, and not the start of another key."""


class KeyReader:
    """Reader of keys from a file descriptor in raw mode.

    Args:
        keymap: keys of the user by action id; they replace the default keys of other actions.
    """

    def __init__(self, file_descriptor: int, keymap: Mapping[str, str]) -> None:
        self.file_descriptor = file_descriptor
        self.action_by_key = {"ctrl+c": "close"}
        for action in sorted(PLAYER_ACTIONS, key=lambda action: action.id in keymap):
            for key in keymap.get(action.id, action.key_names).split(","):
                self.action_by_key[normalize_key(key.strip())] = action.textual_action
        self._decoder, self._parser = InputDecoder("utf-8"), InputParser(False)

    def wait_for_actions(self, seconds: float) -> Sequence[str]:
        """Wait some seconds for input, and return the actions of the typed keys; close at the end of the input."""
        if not select.select([self.file_descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self.file_descriptor, 1024)
        if not data:
            return ["close"]
        keys = self._parse_keys(data)
        if data.endswith(b"\x1b") and not select.select([self.file_descriptor], [], [], ESCAPE_SECONDS)[0]:
            time.sleep(ESCAPE_SECONDS)
            keys += [event.key for event in self._parser.tick() if isinstance(event, Key)]
        return [self.action_by_key[key] for key in keys if key in self.action_by_key]

    def _parse_keys(self, data: bytes) -> list[str]:
        return [event.key for event in self._parser.feed(self._decoder.decode(data)) if isinstance(event, Key)]


def read_terminal_size(file_descriptor: int) -> TerminalSize:
    """Return the size of a terminal; use assumed values for sizes that the terminal does not report."""
    try:
        reply = fcntl.ioctl(file_descriptor, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        reply = b"\0" * 8
    rows, columns, width, height = struct.unpack("4H", reply)
    rows, columns = rows or 24, columns or 80
    cell_size = (width // columns, height // rows)
    return TerminalSize(columns, rows, cell_size if min(cell_size) > 0 else DEFAULT_CELL_SIZE)


def _play_on_terminal(
    player_clips: Sequence[PlayerClip], batch_clips: Sequence[PlayerClip], app: App[Any]
) -> PlayerClip:
    """Play clips on this process's terminal; return the clip that was shown last (the first of several)."""
    protocol, output = require_graphics_protocol(), sys.__stdout__
    assert output is not None
    file_descriptor = output.fileno()

    def write_bytes(data: bytes) -> None:
        output.buffer.write(data)
        output.flush()

    saved_modes = termios.tcgetattr(0)
    try:
        tty.setcbreak(0)
        modes = termios.tcgetattr(0)
        modes[3] &= ~termios.ISIG  # Ctrl-C is a key like any other
        termios.tcsetattr(0, termios.TCSADRAIN, modes)
        keys = KeyReader(0, app._keymap)
        terminal = PixelTerminal(
            protocol, write_bytes, keys.wait_for_actions, lambda: read_terminal_size(file_descriptor)
        )
        is_slow = getattr(app, "is_low_bandwidth", False)
        player = PixelPlayer(player_clips, batch_clips, terminal, MAX_SLOW_FPS if is_slow else MAX_FPS)
        player.play()
        return player.clips[0]
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved_modes)


def play_clips_in_pixels(
    app: App[Any], clips: Sequence[PlayerClip], batch_clips: Sequence[PlayerClip] = ()
) -> PlayerClip | None:
    """Play clips in pixels until a key closes the player; notify if that is impossible.

    Returns:
        The (first) clip that was shown last, or None.
    """
    try:
        require_graphics_protocol()
        with lend_terminal(app):
            return _play_on_terminal(clips, batch_clips, app)
    except TerminalNotLentError:
        app.notify("cannot play in pixels: no terminal is attached. Press p to play in half blocks", severity="warning")
    except UserError as error:
        app.notify(str(error), severity="error", timeout=12)
    except Exception as error:  # a clip of any origin can fail in any way; the screens must survive it
        app.notify(f"cannot play {clips[0].title} in pixels: {error}. Press p to play in half blocks", severity="error")
    return None
