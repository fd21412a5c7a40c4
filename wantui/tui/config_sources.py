"""The draft of a batch: which config, what was changed in it, and the template. No widgets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_config_path

from wantui.config import Config, ConfigError, load_config, parse_config, preset_directory
from wantui.config.document import read_text
from wantui.config.fields import get_value
from wantui.config.presets import find_config
from wantui.errors import UserError
from wantui.paths import expand_user_path
from wantui.tui.drafts import Drafts


@dataclass(frozen=True)
class ConfigSource:
    """A config that can be chosen."""

    name: str
    """Name as `wantui run -c` takes it."""
    path: Path
    summary: str
    """One line; of a file that cannot be used, why."""
    is_valid: bool


def user_config_folder() -> Path:
    """Return the folder of a user's own configs, for use without a configs/ in the working folder."""
    return user_config_path("wantui") / "configs"


def find_sources() -> list[ConfigSource]:
    """Return all configs: the working folder's, the user's, the bundled ones."""
    sources: dict[Path, ConfigSource] = {}
    for folder, is_preset in ((Path("configs"), False), (user_config_folder(), False), (preset_directory(), True)):
        try:
            paths = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        except OSError:
            continue
        for path in paths:
            try:
                real = path.resolve()
            except (OSError, RuntimeError):  # a circle of links
                real = path.absolute()
            preset = is_preset or real.parent == preset_directory().resolve()
            if real not in sources:
                sources[real] = summarise_config(path.stem if preset else str(path), real)
    return sorted(sources.values(), key=lambda source: (source.name != "nano", "/" in source.name, source.name))


def summarise_config(name: str, path: Path) -> ConfigSource:
    """Return a config in one line; an unusable one is listed with its fault, and hides no other."""
    try:
        settings = load_config(path).settings
    except UserError as error:
        return ConfigSource(name, path, str(error).splitlines()[0].removeprefix(f"{path}:").strip(), False)
    model, video = settings.model_settings, settings.video_settings
    length = f"{video.frames} frames" if video.frames else f"{video.duration:g} s" if video.duration else "81 frames"
    short = model.model_id.rpartition("/")[2]
    return ConfigSource(name, path, f"{short}, {video.width}x{video.height}, {length}, {model.steps} steps", True)


def modification_time(path: Path) -> float | None:
    """Return the modification time of a file; None if it is deleted."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


@dataclass(frozen=True)
class DraftText:
    """YAML of a draft's config as it was read, without what was changed in the form."""

    text: str
    source: Path | str
    path: Path | None = None
    """File that it was read from; None where it was edited as text."""
    changed: float | None = None
    """Modification time of the file when it was read."""
    error: ConfigError | None = None
    """Why the file cannot be read; the text is then empty."""

    def config(self, changes: Mapping[str, str]) -> Config:
        """Return the config with some settings changed; no file is read.

        Raises:
            ConfigError: all that is wrong with it.
        """
        if self.error is not None:
            raise self.error
        return parse_config(self.text, self.source, [f"{key}={value}" for key, value in changes.items()])

    def config_without_changes(self) -> Config | None:
        """Return the config without any change; None where it can only be used with changes."""
        try:
            return self.config({})
        except ConfigError:
            return None

    def reload(self) -> "DraftText | None":
        """Return this text if its file is unchanged, the new content if it changed, or None if the file is deleted."""
        if self.path is None or (now := modification_time(self.path)) == self.changed:
            return self
        return None if now is None else read_file(self.path)


def read_file(path: Path) -> DraftText:
    """Read a config's file; one that cannot be read is a text with an error."""
    changed = modification_time(path)  # before it is read: what changes it meanwhile is then seen
    try:
        return DraftText(read_text(path), path, path, changed)
    except ConfigError as error:
        return DraftText("", path, path, changed, error)


def read_draft(drafts: Drafts) -> DraftText:
    """Read the config of a draft.

    Raises:
        ConfigError: there is no config of that name.
    """
    if drafts.text is not None:
        return DraftText(drafts.text, drafts.config)
    return read_file(find_config(drafts.config))


def effective_changes(changes: dict[str, str], config: Config, file_config: Config | None) -> dict[str, str]:
    """Return the changes that make a difference: a setting that was set back to the config's own value is none.

    Args:
        config: with the changes.
        file_config: without them; None where it can only be used with its changes.
    """
    if file_config is None:
        return changes
    return {key: text for key, text in changes.items() if get_value(file_config, key) != get_value(config, key)}


def format_setting_errors(error: ConfigError, key: str) -> str:
    """Return the errors that a form shows next to the setting `key`."""
    messages = [problem.message for problem in error.problems if problem.key == key]
    return "; ".join(messages or [str(problem) for problem in error.problems])


def save_config(path: Path, text: str) -> None:
    """Write a config under a name.

    Raises:
        UserError: it cannot be written.
    """
    from wantui.atomic_files import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def resolve_save_path(name: str) -> Path:
    """Return where a config is saved: a path as it is, a bare name in configs/ or among the user's own."""
    written = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    path = expand_user_path(written)
    if path.is_absolute() or len(path.parts) > 1:
        return path
    return (Path("configs") if Path("configs").is_dir() else user_config_folder()) / path
