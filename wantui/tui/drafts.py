"""Unsent input of the user, and earlier templates: stored in the state directory, on every change."""

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from wantui.atomic_files import atomic_write
from wantui.config import yaml_scalar_text
from wantui.json_files import UnreadableFileError, read_json

DRAFTS_FILE = "tui.json"
DRAFTS_FORMAT = 2
"""Format of tui.json: in the first one, which had no number, changes were YAML."""
MAX_HISTORY = 200
MAX_HISTORY_TEMPLATE = 100_000


class Drafts(BaseModel):
    """The complete content of tui.json."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    format: int = DRAFTS_FORMAT
    welcomed: bool = False
    config: str = "nano"
    """Name of a preset, or path of a file."""
    text: str | None = None
    """YAML that takes the place of the config's, where it was edited as text."""
    changes: dict[str, str] = {}
    """Settings that were changed in the form: section.key to its value as text."""
    template: str = ""
    history: list[str] = []
    """Templates that were queued, the latest first."""
    theme: str | None = None

    def add_to_history(self, template: str) -> None:
        """Put a template first in the history."""
        if len(template) <= MAX_HISTORY_TEMPLATE:
            self.history = [template, *(old for old in self.history if old != template)][:MAX_HISTORY]


def load_drafts(directory: Path) -> Drafts:
    """Read the stored drafts; an unreadable file is quarantined, so that nothing is lost."""
    path = directory / DRAFTS_FILE
    try:
        values = read_json(path)
        if isinstance(values, dict) and "format" not in values:
            values["changes"] = {key: yaml_scalar_text(value) for key, value in values.get("changes", {}).items()}
        return Drafts.model_validate(values)
    except FileNotFoundError:
        return Drafts()
    except (OSError, UnreadableFileError, ValueError, AttributeError, RecursionError):
        with suppress(OSError):  # a folder that cannot be written is said when drafts are saved
            path.replace(path.with_suffix(".damaged.json"))
        return Drafts()


def save_drafts(directory: Path, drafts: Drafts) -> None:
    """Write all of it, or leave what was there.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(directory / DRAFTS_FILE) as partial:
        partial.write_text(drafts.model_dump_json(indent=1), encoding="utf-8")
        partial.chmod(0o600)
