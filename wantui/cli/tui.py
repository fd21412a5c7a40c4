"""Start the terminal application. Textual reads environment variables on import, so they are set first."""

import gc
import importlib
import locale
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wantui.cli.output import echo, report_locked_queue
from wantui.errors import SHORTAGE_ADVICE, UserError

LOW_BANDWIDTH_VARIABLES = {"TEXTUAL_FPS": "5", "TEXTUAL_SMOOTH_SCROLL": "0"}
COLOUR_SYSTEMS = ("auto", "standard", "256", "truecolor", "windows")
"""Values of TEXTUAL_COLOR_SYSTEM that Textual supports."""
START_THREAD_COUNT = 8
"""Number of threads that the application starts before its first paint."""


def _check_threads() -> None:
    """Refuse to open the application if the system does not start its threads: it would end with a traceback.

    Raises:
        UserError: the system starts too few threads.
    """
    can_end = threading.Event()
    started_threads: list[threading.Thread] = []
    try:
        for _ in range(START_THREAD_COUNT):
            thread = threading.Thread(target=can_end.wait, daemon=True)
            thread.start()
            started_threads.append(thread)
    except RuntimeError:
        raise UserError(
            f"cannot open the application: it needs {START_THREAD_COUNT} more threads, but the system starts only "
            f"{len(started_threads)}. {SHORTAGE_ADVICE}"
        ) from None
    finally:
        can_end.set()
        for thread in started_threads:
            thread.join()


def _check_textual_driver(driver_name: str) -> None:
    """Refuse a driver that Textual cannot load.

    Args:
        driver_name: module:Class.

    Raises:
        UserError: the class does not exist or is not a driver.
    """
    from textual.driver import Driver

    module_name, _, class_name = driver_name.partition(":")
    try:
        driver_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, ValueError, TypeError, AttributeError):
        driver_class = None
    if not (isinstance(driver_class, type) and issubclass(driver_class, Driver)):
        raise UserError(
            f"cannot draw with TEXTUAL_DRIVER={driver_name!r}: it is not a Textual driver. Unset TEXTUAL_DRIVER"
        )


@contextmanager
def _disable_pydantic_plugins() -> Iterator[None]:
    """Keep pydantic from searching all installed packages for plugins while the first screen is imported.

    Modules that are imported after the first paint, and programs that wantui starts, may have plugins.
    """
    name = "PYDANTIC_DISABLE_PLUGINS"
    is_set = name in os.environ
    os.environ.setdefault(name, "__all__")
    try:
        yield
    finally:
        if not is_set:
            del os.environ[name]


def _prepare_terminal() -> None:
    """Reject standard streams that are not a terminal, and let Textual ask the terminal for its size."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("cannot open the application: this is not a terminal. `wantui --help` lists other commands")
    if not sys.stderr.isatty():  # Textual draws on it, so the screen would stay blank
        raise UserError("cannot open the application: it draws on stderr, which is not a terminal. Start it without 2>")
    # If COLUMNS and LINES are set, Textual uses them instead of the size of the terminal, and misses every resize.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def _check_colour_system() -> None:
    """Reject a value of TEXTUAL_COLOR_SYSTEM that Textual does not know."""
    colour_system = os.environ.get("TEXTUAL_COLOR_SYSTEM", "auto")
    if colour_system not in COLOUR_SYSTEMS:
        known_systems = ", ".join(COLOUR_SYSTEMS)
        raise UserError(
            f"cannot draw with TEXTUAL_COLOR_SYSTEM={colour_system!r}. Unset it, or set one of: {known_systems}"
        )


def run_application(low_bandwidth: bool, captures_mouse: bool, batch: Path | None = None, batch_note: str = "") -> None:
    """Run the terminal application until the user quits, then exit.

    Args:
        batch: batch folder to open in the library; None starts in Compose.
        batch_note: notification about the opened batch.

    Raises:
        UserError: stdin, stdout or stderr is not a terminal, or the queue or the settings cannot be used.
    """
    is_in_browser = "TEXTUAL_DRIVER" in os.environ  # set by `wantui serve`
    if not is_in_browser:
        _prepare_terminal()
    _check_colour_system()
    gc.disable()  # until the first paint: imported objects stay alive, and scanning them takes a fifth of the start
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("ESCDELAY", "50")
    if low_bandwidth:
        for name, value in LOW_BANDWIDTH_VARIABLES.items():
            os.environ.setdefault(name, value)
    if is_in_browser:
        _check_textual_driver(os.environ["TEXTUAL_DRIVER"])
    _check_threads()

    with _disable_pydantic_plugins():
        from wantui.engine.queue_opening import open_queue
        from wantui.queue.state_dir import find_state_directory
        from wantui.tui.app import WantuiApp
        from wantui.tui.settings import load_settings
        from wantui.tui.settings_watcher import read_settings_state

    settings_state = read_settings_state()  # before reading: a change during the start is then detected later
    settings = load_settings()
    state_dir = find_state_directory()
    queue, queue_notes = open_queue(state_dir, on_locked=report_locked_queue)
    queue.close()
    if locale.getpreferredencoding(False).upper().replace("-", "") != "UTF8":
        queue_notes.append(
            "the locale of this terminal is not UTF-8. If lines look broken, set LANG=C.UTF-8 before starting wantui"
        )
    app = WantuiApp(
        state_dir,
        settings,
        tuple(queue_notes),
        low_bandwidth,
        opened_batch=batch,
        opened_batch_note=batch_note,
        settings_state=settings_state,
    )
    app.run(mouse=captures_mouse)
    if app.return_code:
        echo("wantui crashed; the engine is still running. If the terminal looks broken, run: reset", err=True)
    sys.exit(app.return_code or 0)
