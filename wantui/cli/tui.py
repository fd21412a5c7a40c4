"""The terminal application, as started by `wantui` alone. Variables that Textual reads on import are set first."""

import gc
import importlib
import locale
import os
import sys

from wantui.cli.output import echo
from wantui.errors import UserError

LOW_BANDWIDTH = {"TEXTUAL_FPS": "5", "TEXTUAL_SMOOTH_SCROLL": "0"}
COLOUR_SYSTEMS = ("auto", "standard", "256", "truecolor", "windows")
"""Values of TEXTUAL_COLOR_SYSTEM that can be drawn with."""


def _check_driver(name: str) -> None:
    """Refuse a driver that Textual cannot load.

    Args:
        name: as in module:Class.

    Raises:
        UserError: there is no such class.
    """
    from textual.driver import Driver

    module, _, symbol = name.partition(":")
    try:
        driver = getattr(importlib.import_module(module), symbol)
    except (ImportError, ValueError, TypeError, AttributeError):
        driver = None
    if not (isinstance(driver, type) and issubclass(driver, Driver)):
        raise UserError(f"cannot draw with TEXTUAL_DRIVER={name!r}: it is no driver of Textual. Unset TEXTUAL_DRIVER")


def start(low_bandwidth: bool, mouse: bool) -> None:
    """Run it until the user leaves.

    Raises:
        UserError: there is no terminal, or queue or settings cannot be used.
    """
    in_browser = "TEXTUAL_DRIVER" in os.environ  # which `wantui serve` sets
    if not in_browser and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("this is no terminal; `wantui --help` lists the commands that need none")
    if not in_browser:
        # Textual prefers COLUMNS and LINES to the size of the terminal, and would then miss every resize.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    colours = os.environ.get("TEXTUAL_COLOR_SYSTEM", "auto")
    if colours not in COLOUR_SYSTEMS:
        choices = ", ".join(COLOUR_SYSTEMS)
        raise UserError(f"cannot draw with TEXTUAL_COLOR_SYSTEM={colours!r}. Unset it, or set one of: {choices}")
    gc.disable()  # until the first paint: what imports make stays, and looking through it takes a fifth of the start
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("ESCDELAY", "50")
    if low_bandwidth:
        for name, value in LOW_BANDWIDTH.items():
            os.environ.setdefault(name, value)
    if in_browser:
        _check_driver(os.environ["TEXTUAL_DRIVER"])

    from wantui.engine.control import open_queue
    from wantui.queue.state_dir import state_place
    from wantui.tui.app import WantuiApp
    from wantui.tui.settings import load_settings

    settings = load_settings()
    state_dir = state_place()
    queue, notes = open_queue(state_dir)
    queue.close()
    if locale.getpreferredencoding(False).upper().replace("-", "") != "UTF8":
        notes.append("this terminal's locale is not UTF-8: if lines look broken, export LANG=C.UTF-8 before wantui")
    app = WantuiApp(state_dir, settings, tuple(notes), low_bandwidth)
    app.run(mouse=mouse)
    if app.return_code:
        echo("wantui crashed; the engine is still running. If the terminal looks broken, run: reset", err=True)
    sys.exit(app.return_code or 0)
