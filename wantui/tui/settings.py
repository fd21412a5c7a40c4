"""Appearance and key bindings of the application, read from tui.yaml, which only the user creates."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_config_path
from pydantic import Field, field_validator

from wantui.config.user_files import UserSettings, read_user_settings
from wantui.errors import UserError
from wantui.paths import expand_user_path
from wantui.tui.actions import ACTIONS_BY_SCREEN, iterate_actions
from wantui.tui.key_names import is_key_name, normalize_key, suggest_key
from wantui.typed_text import BOOLEAN_BY_WORD

SETTINGS_PATH_VARIABLE = "WANTUI_TUI_CONFIG"
"""Environment variable with the path of another file."""


class TuiSettings(UserSettings):
    """Content of tui.yaml."""

    theme: str | None = None
    """Name of a theme; `ansi-dark` and `ansi-light` use the terminal's own 16 colours."""
    keys: dict[str, str] = {}
    """Keys by action name, such as `queue.cancel: x`; commas separate several keys."""
    gpu_panel: Literal["line", "large", "hidden"] = "line"
    """Initial state of the GPU panel."""
    output_dirs: list[str] = ["outputs"]
    """Folders that the library scans for batches, in addition to the folders of the queue."""
    bell: bool = True
    """Ring the terminal's bell when a batch ends."""
    notifications: Literal["auto", "on", "off"] = "auto"
    """Progress in the taskbar and desktop notifications: if the terminal is known to support them, always, or never."""
    low_bandwidth: bool = False
    """Same as --low-bandwidth: slower updates, pictures only on request."""
    preview_seconds: Annotated[float, Field(ge=0)] = 15.0
    """Seconds between two previews of a running video, less for short videos; 0 shows previews only on request."""

    @field_validator("notifications", mode="before")
    @classmethod
    def _read_boolean_words(cls, value: object) -> object:
        """Return `on` and `off` also for YAML's other words for booleans."""
        is_on = BOOLEAN_BY_WORD.get(value.lower()) if isinstance(value, str) else None
        return value if is_on is None else "on" if is_on else "off"


def find_settings_path() -> Path:
    """Return the path of the file: from the environment, or in the user's configuration folder.

    Raises:
        UserError: the environment variable contains an invalid path, or names a missing file.
    """
    variable_value = os.environ.get(SETTINGS_PATH_VARIABLE)
    if not variable_value:
        return user_config_path("wantui") / "tui.yaml"
    try:
        path = expand_user_path(variable_value)
    except UserError as error:
        raise UserError(f"{SETTINGS_PATH_VARIABLE}: {error}") from None
    if not os.path.lexists(path):
        raise UserError(
            f"{SETTINGS_PATH_VARIABLE}: cannot read {path}: no such file. Write it, or unset {SETTINGS_PATH_VARIABLE}"
        )
    return path


def load_settings() -> TuiSettings:
    """Read the settings; return the defaults if the file does not exist.

    Raises:
        UserError: the file is invalid; names the key and the nearest valid one.
    """
    path = find_settings_path()
    if not os.path.lexists(path):
        return TuiSettings()
    settings = read_user_settings(path, TuiSettings)
    try:
        check_keys(settings.keys)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for folder in settings.output_dirs:
        try:
            expand_user_path(folder)
        except UserError as error:
            raise UserError(f"{path}: output_dirs: {error}") from None
    return settings


def check_keys(keys: Mapping[str, str]) -> None:
    """Check a key map.

    Raises:
        UserError: an action or a key does not exist, or two actions of one screen have the same key.
    """
    names = [action.id for action in iterate_actions()]
    for name, text in keys.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"keys.{name}: no such action{hint}")
        for key in text.split(","):
            if not is_key_name(key.strip()):
                raise UserError(f"keys.{name}: no key is named {key.strip()!r}; {suggest_key(key)}")
    for actions in ACTIONS_BY_SCREEN.values():
        used: dict[str, str] = {}
        for action in actions:
            for key in keys.get(action.id, action.key_names).split(","):
                other = used.setdefault(normalize_key(key.strip()), action.id)
                if other != action.id:
                    raise UserError(
                        f"keys: {key.strip()!r} is the key of {other} and of {action.id}. Choose another key for one"
                    )
