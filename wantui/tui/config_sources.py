"""Configs that Compose lists, and the text and changes of the draft's config; without widgets."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from platformdirs import user_config_path

from wantui.config import Config, ConfigError, find_preset_directory, load_config, parse_config
from wantui.config.document import read_config_text
from wantui.config.fields import get_setting_value
from wantui.config.presets import find_config_path
from wantui.config.problems import ConfigProblem
from wantui.config.sweep import resolve_sweep_axes
from wantui.errors import UserError
from wantui.file_state import MISSING_FILE, UNREADABLE_FILE, FileState, read_file_state
from wantui.formatting import format_count
from wantui.json_files import is_refused_by_system
from wantui.paths import expand_user_path
from wantui.tui.drafts import DEFAULT_CONFIG, Drafts


@dataclass(frozen=True)
class ConfigSource:
    """An available config."""

    config_name: str
    """Name or path, as accepted by `wantui run -c`."""
    config_path: Path
    summary: str
    """One-line summary, or the reason why the config is invalid."""
    is_valid: bool
    columns: tuple[str, ...] = ()
    """Model, size, length and steps, as in `SOURCE_COLUMNS`; empty if the config is invalid."""


SOURCE_COLUMNS = ("model", "size", "frames", "steps")
"""Titles of `ConfigSource.columns`."""


def name_config(config_name: str) -> str:
    """Return the name of a preset, or the name of a config file without its folder and suffix."""
    return Path(config_name).stem if "/" in config_name else config_name


def find_user_config_folder() -> Path:
    """Return the folder of the user's configs, used if the working folder has no configs/."""
    return user_config_path("wantui") / "configs"


def find_config_sources() -> list[ConfigSource]:
    """Return all configs: from the working folder, from the user's folder, and the bundled presets."""
    sources: dict[Path, ConfigSource] = {}
    for folder, is_preset in (
        (Path("configs"), False),
        (find_user_config_folder(), False),
        (find_preset_directory(), True),
    ):
        try:
            paths = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        except OSError:
            continue
        for path in paths:
            try:
                resolved_path = path.resolve()
            except (OSError, RuntimeError):  # a symlink loop, before Python 3.13
                resolved_path = path.absolute()
            is_bundled = is_preset or resolved_path.parent == find_preset_directory().resolve()
            if resolved_path not in sources:
                sources[resolved_path] = summarise_config(path.stem if is_bundled else str(path), resolved_path)
    return sorted(
        sources.values(),
        key=lambda source: (source.config_name != DEFAULT_CONFIG, "/" in source.config_name, source.config_name),
    )


def summarise_config(name: str, path: Path) -> ConfigSource:
    """Summarise a config in one line; the summary of an invalid config is its error."""
    try:
        settings = load_config(path).settings
    except ConfigError as error:
        problem = error.problems[0]
        return ConfigSource(name, path, f"line {problem.line}: {problem.text}" if problem.line else problem.text, False)
    except UserError as error:  # the path cannot be used
        return ConfigSource(name, path, str(error), False)
    model, video = settings.model_settings, settings.video_settings
    frame_count = video.frames or (None if video.duration else 81)
    length_text = f"{video.duration:g} s" if frame_count is None else format_count(frame_count, "frame")
    model_name = model.model_id.rpartition("/")[2]
    size_text = f"{video.width}x{video.height}"
    columns = (model_name, size_text, length_text if frame_count is None else f"{frame_count:,}", str(model.steps))
    description = f"{model_name}, {size_text}, {length_text}, {format_count(model.steps, 'step')}"
    return ConfigSource(name, path, description, True, columns)


@dataclass(frozen=True)
class DraftText:
    """YAML of a draft's config as read, without the changes in the form."""

    yaml_text: str
    source: Path | str
    file_path: Path | None = None
    """File of the text; None if it was edited as text."""
    file_state: FileState = MISSING_FILE
    """State of the file when read."""
    error: ConfigError | None = None
    """Error of a file that cannot be read; the text is then empty."""

    def parse_with_changes(self, changes: Mapping[str, str]) -> Config:
        """Parse the config with changes; reads no file.

        Raises:
            ConfigError: lists all errors of the config.
        """
        if self.error is not None:
            raise self.error
        try:
            config = parse_config(self.yaml_text, self.source, [f"{key}={value}" for key, value in changes.items()])
        except ConfigError as error:
            raise ConfigError(_name_settings_pane(error.problems), error.settings) from None
        return replace(
            config,
            warnings=tuple(_name_settings_pane(config.warnings)),
            refusals=tuple(_name_settings_pane(config.refusals)),
        )

    def parse_without_changes(self) -> Config | None:
        """Parse the config without changes; return None if it is invalid without them."""
        try:
            return self.parse_with_changes({})
        except ConfigError:
            return None

    def reload_file(self) -> "DraftText | None":
        """Return a new object if the file changed, None if it was deleted, or otherwise this object.

        A text that was read is kept while the system cannot read the file, such as for lack of descriptors.
        """
        if self.file_path is None or (file_state := read_file_state(self.file_path)) == self.file_state:
            return self
        if file_state == MISSING_FILE:
            return None
        current = read_config_file(self.file_path)
        return self if current.file_state == UNREADABLE_FILE and self.error is None else current


def read_config_file(path: Path) -> DraftText:
    """Read a config file; if this fails, the result contains the error."""
    file_state = read_file_state(path)  # before reading: a change during the read is then detected later
    try:
        return DraftText(read_config_text(path), path, path, file_state)
    except ConfigError as error:
        return DraftText("", path, path, UNREADABLE_FILE if is_refused_by_system(error) else file_state, error)


def read_draft_text(drafts: Drafts) -> DraftText:
    """Read the config of a draft.

    Raises:
        ConfigError: no config has that name, or it is not a usable path.
    """
    if drafts.text is not None:
        return DraftText(drafts.text, drafts.config)
    try:
        path = find_config_path(drafts.config)
    except ConfigError:
        raise
    except UserError as error:  # such as a symlink loop
        raise ConfigError([ConfigProblem("config of the draft", None, "", str(error))]) from None
    return read_config_file(path)


def find_effective_changes(changes: dict[str, str], config: Config, file_config: Config | None) -> dict[str, str]:
    """Return the changes whose value differs from the file's.

    Args:
        config: config with the changes.
        file_config: config without them; None if it is invalid without them (then all changes are returned).
    """
    if file_config is None:
        return changes
    return {
        key: text
        for key, text in changes.items()
        if get_setting_value(file_config, key) != get_setting_value(config, key)
    }


def _name_settings_pane(problems: Sequence[ConfigProblem]) -> list[ConfigProblem]:
    """Return the problems with the settings pane as the source of the changes, instead of the command line."""
    return [replace(problem, source="Settings") if problem.source == "--set" else problem for problem in problems]


def find_replaced_changes(changes: Mapping[str, str], setting_key: str, value: str) -> list[str]:
    """Return the changed settings that a new value replaces: `seeds` lists all seeds and thus gives their number."""
    if setting_key != "seeds" or not value.strip():
        return []
    return [key for key in ("videos_per_variation", "model_settings.seed") if key in changes]


def format_setting_errors(error: ConfigError, setting_key: str) -> str:
    """Return the errors of the setting `setting_key`, or all errors if none concerns it."""
    messages = [problem.message for problem in error.problems if problem.key == setting_key]
    return "; ".join(messages or [str(problem) for problem in error.problems])


def find_size_error(config: Config, setting_key: str) -> str | None:
    """Return why the model cannot generate the width or height of a config; None if it can, or the sweep replaces it.

    Args:
        setting_key: the setting that the user changes; only `video_settings.width` and `.height` are checked.
    """
    if setting_key not in ("video_settings.width", "video_settings.height"):
        return None
    from wantui.models.catalogue import find_model  # slow to import, like the next one
    from wantui.planning.sizes import check_video_size

    settings = config.settings
    if any(path == setting_key for axis in resolve_sweep_axes(settings) for path in axis.paths):
        return None
    try:
        check_video_size(settings.video_settings, find_model(settings.model_settings.model_id))
    except UserError as error:  # also an unknown model, which is not an error of the size
        prefix = f"{setting_key}: "
        return next((line.removeprefix(prefix) for line in str(error).splitlines() if line.startswith(prefix)), None)
    return None


def save_config(path: Path, text: str) -> None:
    """Write a config file, or the file that a symbolic link names.

    Raises:
        UserError: the file cannot be written.
    """
    from wantui.atomic_files import write_text_atomically

    try:
        with suppress(FileNotFoundError):  # a link may name a file that does not exist yet
            path.stat()  # raises for a loop of links, which resolve() returns unchanged since Python 3.13
        write_text_atomically(path.resolve(), text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def resolve_save_path(name: str) -> Path:
    """Return the path for saving a config: a path is kept, a bare name is put in configs/ or the user's folder.

    Raises:
        UserError: the path cannot be used, or is a folder.
    """
    if "/" in name or name in ("~", ".", ".."):
        _reject_folder(expand_user_path(name), is_folder=name.endswith("/"))
    path = expand_user_path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if "/" not in name and not path.is_absolute():  # ~ is an absolute path
        path = (Path("configs") if Path("configs").is_dir() else find_user_config_folder()) / path
    _reject_folder(path)
    return path


def _reject_folder(path: Path, *, is_folder: bool = False) -> None:
    """Reject a path that is a folder, or that the user wrote as one."""
    if is_folder or os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir raises for a folder that may not be entered
        raise UserError(f"cannot save the config as {path}: it is a folder. Add the name of a file")
