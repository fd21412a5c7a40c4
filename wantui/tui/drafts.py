"""Draft of the next batch, earlier templates and theme, stored in the state directory on every change."""

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from wantui.atomic_files import atomic_write
from wantui.config import format_yaml_scalar
from wantui.json_files import UnreadableFileError, read_json

DRAFTS_FILE = "tui.json"
DRAFTS_FORMAT = 2
"""Format of tui.json; format 1 had no `format` key and stored changes as YAML values."""
MAX_HISTORY_LENGTH = 200
"""Maximum number of stored templates."""
MAX_HISTORY_TEMPLATE_LENGTH = 100_000
"""Maximum characters of a stored template."""


class Drafts(BaseModel):
    """Content of tui.json."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    format: int = DRAFTS_FORMAT
    welcomed: bool = False
    config: str = "nano"
    """Preset name or file path."""
    text: str | None = None
    """Edited YAML, which replaces that of `config`; None if it was not edited."""
    changes: dict[str, str] = {}
    """Settings changed in the form: value as text by `section.key`."""
    template: str = ""
    history: list[str] = []
    """Queued templates, latest first."""
    theme: str | None = None

    def add_to_history(self, template: str) -> None:
        """Add a template to the front of the history."""
        if len(template) <= MAX_HISTORY_TEMPLATE_LENGTH:
            self.history = [template, *(old for old in self.history if old != template)][:MAX_HISTORY_LENGTH]


def load_drafts(state_directory: Path) -> Drafts:
    """Read the stored drafts; an unreadable file is renamed to tui.damaged.json and replaced by defaults."""
    path = state_directory / DRAFTS_FILE
    try:
        values = read_json(path)
        if isinstance(values, dict) and "format" not in values:
            values["changes"] = {key: format_yaml_scalar(value) for key, value in values.get("changes", {}).items()}
        return Drafts.model_validate(values)
    except FileNotFoundError:
        return Drafts()
    except (OSError, UnreadableFileError, ValueError, AttributeError, RecursionError):
        with suppress(OSError):  # saving the drafts reports an unwritable folder
            path.replace(path.with_suffix(".damaged.json"))
        return Drafts()


def save_drafts(state_directory: Path, drafts: Drafts) -> None:
    """Write the drafts atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(state_directory / DRAFTS_FILE) as partial_path:
        partial_path.write_text(drafts.model_dump_json(indent=1), encoding="utf-8")
        partial_path.chmod(0o600)
