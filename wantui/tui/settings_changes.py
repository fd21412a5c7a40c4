"""Application of the settings while the application runs."""

import os
from typing import TYPE_CHECKING

from textual.drivers.linux_driver import LinuxDriver

from wantui.tui.settings import TuiSettings
from wantui.tui.terminal.notices import NoticeSupport, detect_notice_support

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def apply_settings(app: "WantuiApp", settings: TuiSettings) -> None:
    """Apply changed settings; those that are read only at startup, such as low_bandwidth, need a restart."""
    previous, app.settings = app.settings, settings
    if previous == settings:
        return
    if previous.theme != settings.theme:
        app.show_first_theme(settings.theme or app.drafts.theme)
    if previous.keys != settings.keys:
        app.set_keymap(settings.keys)
    if previous.gpu_panel != settings.gpu_panel:
        app.gpu_panel_mode = settings.gpu_panel
        app.update_gpu_panel()
    if previous.notifications != settings.notifications:
        detect_notices(app)
    if (previous.preview_seconds > 0) != (settings.preview_seconds > 0):
        switch_automatic_previews(app)
    needs_restart = previous.low_bandwidth != settings.low_bandwidth
    restart_text = "; low_bandwidth takes effect at the next start" if needs_restart else ""
    app.notify(f"tui.yaml was read again{restart_text}", title="settings")


def switch_automatic_previews(app: "WantuiApp") -> None:
    """Switch automatic previews on or off on an open Monitor screen; a new one reads the setting itself."""
    from wantui.tui.screens.monitor_files import MonitorFiles

    try:
        screens = app.get_screen_stack("monitor")
    except KeyError:
        return
    for screen in screens:
        if isinstance(screen, MonitorFiles):
            screen.apply_preview_seconds()


def report_invalid_settings(app: "WantuiApp", reason: str) -> None:
    """Notify that the changed settings are invalid."""
    text = f"cannot use the changed settings: {reason}. Correct the file; until then, the previous settings stay"
    app.notify(text, severity="error", title="settings", timeout=15)


def detect_notices(app: "WantuiApp") -> None:
    """Choose the notices that the terminal gets; a browser (`wantui serve`) gets none."""
    is_terminal = isinstance(app._driver, LinuxDriver)
    app.terminal_notices.change_support(
        detect_notice_support(app.settings.notifications, os.environ) if is_terminal else NoticeSupport()
    )
