"""Find the bundled configs (presets), and configs by name."""

import difflib
import os
import re
from pathlib import Path

from wantui.config.problems import ConfigError, ConfigProblem
from wantui.paths import expand_user_path
from wantui.text_files import is_pipe

EXAMPLE_TEMPLATE_PATTERN = re.compile(r"^# Example template: *(\S.*?)[ \t\r]*$", re.MULTILINE)
"""Comment of a config file with a template that suits its model."""
_PACKAGED_PRESETS_FOLDER = Path(__file__).parent / "presets"
_CHECKOUT_PRESETS_FOLDER = Path(__file__).parents[2] / "configs"


def find_preset_directory() -> Path:
    """Return the folder of the presets: inside the package, or `configs/` of a checkout."""
    return _PACKAGED_PRESETS_FOLDER if _PACKAGED_PRESETS_FOLDER.is_dir() else _CHECKOUT_PRESETS_FOLDER


def list_preset_names() -> list[str]:
    return sorted(path.stem for path in find_preset_directory().glob("*.yaml"))


def find_preset_path(name: str) -> Path:
    """Return the path of a preset, even if a file in the working directory has its name."""
    return find_preset_directory() / f"{name}.yaml"


def find_config_path(name: Path | str) -> Path:
    """Return the path of a config: an existing file or pipe, otherwise the preset of this name.

    Raises:
        ConfigError: no file and no preset has this name.
    """
    path = expand_user_path(str(name))
    if os.path.isfile(path):  # noqa: PTH113 -- Path.is_file raises for a name that is too long
        return path
    if is_pipe(path):  # as a shell passes it for `-c <(command)`
        return path
    if str(name) in list_preset_names():
        return find_preset_path(str(name))
    if os.path.exists(path):  # noqa: PTH110
        raise ConfigError([ConfigProblem(path, None, "", "is not a file, and no preset has this name")])
    from wantui.models.catalogue import CATALOGUE  # slow, and only errors need it

    close_names = difflib.get_close_matches(path.stem, list_preset_names(), n=1)
    hint = f" Did you mean {close_names[0]}?" if close_names else ""
    if any(model.name == str(name) for model in CATALOGUE):
        hint = f" {name} is a model: choose it with --set model_settings.model_id={name}."
    message = f"no such file or preset.{hint} Presets: {', '.join(list_preset_names())}"
    raise ConfigError([ConfigProblem(path, None, "", message)])


def find_example_template(yaml_text: str) -> str | None:
    """Return the example template in the comments of a config; None without an example."""
    match = EXAMPLE_TEMPLATE_PATTERN.search(yaml_text)
    return match[1] if match is not None else None
