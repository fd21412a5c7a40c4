"""Bundled configs, and the search for a config by name."""

import difflib
import os
from pathlib import Path

from wantui.config.problems import ConfigError, Problem
from wantui.paths import user_path
from wantui.text_files import is_pipe

_IN_PACKAGE = Path(__file__).parent / "presets"
_IN_CHECKOUT = Path(__file__).parents[2] / "configs"


def preset_directory() -> Path:
    """Return the folder of the shipped configs: in the package, or `configs/` of a checkout."""
    return _IN_PACKAGE if _IN_PACKAGE.is_dir() else _IN_CHECKOUT


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_directory().glob("*.yaml"))


def find_config(name: Path | str) -> Path:
    """Return the path of a config: a file or a pipe as it is named, else the preset of that bare name.

    Raises:
        ConfigError: neither exists. A missing file is never created.
    """
    path = user_path(str(name))
    if os.path.isfile(path):  # noqa: PTH113 -- says no, where Path.is_file raises for a name that is too long
        return path
    if is_pipe(path):  # as a shell passes it for `-c <(command)`
        return path
    preset = preset_directory() / f"{name}.yaml"
    if str(name) in preset_names():
        return preset
    if os.path.exists(path):  # noqa: PTH110
        raise ConfigError([Problem(path, None, "", "is not a file, and no preset has that name")])
    close = difflib.get_close_matches(path.stem, preset_names(), n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    message = f"no such file, and no preset of that name.{hint} Presets are {', '.join(preset_names())}"
    raise ConfigError([Problem(path, None, "", message)])
