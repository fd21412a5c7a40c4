"""Draft of the next batch, earlier templates and theme, stored in the state directory on every change."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from wantui.atomic_files import atomic_write
from wantui.config import format_yaml_scalar
from wantui.file_state import read_file_state
from wantui.json_files import UnreadableFileError, read_json
from wantui.storage.locks import lock_by_file

DEFAULT_CONFIG = "nano"
"""Preset of the first draft."""
DRAFTS_FILE = "tui.json"
DRAFTS_LOCK_FILE = "tui.lock"
"""Name of `DRAFTS_FILE`'s lock file."""
MAX_LOCK_SECONDS = 1.0
"""Maximum time to wait while another application saves; the screen is frozen meanwhile."""
DRAFTS_FORMAT = 2
"""Format of tui.json; format 1 had no `format` key and stored changes as YAML values."""
MAX_HISTORY_LENGTH = 200
"""Maximum number of stored templates."""
MAX_HISTORY_TEMPLATE_LENGTH = 100_000
"""Maximum characters of a stored template."""


class Drafts(BaseModel):
    """Content of tui.json."""

    format: int = DRAFTS_FORMAT
    welcomed: bool = False
    config: str = DEFAULT_CONFIG
    """Preset name or file path."""
    text: str | None = None
    """Edited YAML, which replaces the YAML of `config`; None if it was not edited."""
    changes: dict[str, str] = {}
    """Settings changed in the form: value as text by `section.key`."""
    template: str = ""
    history: list[str] = []
    """Queued templates, latest first."""
    theme: str | None = None

    def choose_config(self, config: str, text: str | None = None, changes: Mapping[str, str] | None = None) -> None:
        """Replace the config, its edited YAML, and the settings changed in the form."""
        self.config, self.text, self.changes = config, text, dict(changes or {})

    def add_to_history(self, template: str) -> None:
        """Add a template to the front of the history, unless it is blank or too long."""
        if template.strip() and len(template) <= MAX_HISTORY_TEMPLATE_LENGTH:
            self.history = [template, *(old for old in self.history if old != template)][:MAX_HISTORY_LENGTH]


def read_drafts(path: Path) -> Drafts:
    """Read a drafts file.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError, UnreadableFileError, ValueError, AttributeError, RecursionError: the file cannot be read.
    """
    values = read_json(path)
    if isinstance(values, dict) and "format" not in values:
        values["changes"] = {key: format_yaml_scalar(value) for key, value in values.get("changes", {}).items()}
    drafts = Drafts.model_validate(values)
    if drafts.format > DRAFTS_FORMAT:
        raise ValueError(f"it has format {drafts.format}, written by a later version of wantui")
    return drafts


UNREADABLE_ERRORS = (OSError, UnreadableFileError, ValueError, AttributeError, RecursionError)
"""Errors of `read_drafts`, except that the file does not exist."""


def load_drafts(state_directory: Path, notes: list[str] | None = None) -> Drafts:
    """Read the stored drafts; an unreadable file is renamed to tui.damaged.json and replaced by defaults.

    Args:
        notes: list to which a message about an unreadable file is added.
    """
    path = state_directory / DRAFTS_FILE
    try:
        return read_drafts(path)
    except FileNotFoundError:
        return Drafts()
    except UNREADABLE_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        kept = path.with_suffix(".damaged.json")
        message = f"cannot read the drafts and the history of templates: {reason}. "
        try:
            path.replace(kept)
            message += f"They start empty; the file is now {kept}"
        except OSError as failure:
            message += (
                f"They start empty, and cannot move {path} aside: {failure.strerror or failure}. Move it yourself"
            )
        if notes is not None:
            notes.append(message)
        return Drafts()


def save_drafts(state_directory: Path, drafts: Drafts) -> None:
    """Write the drafts atomically.

    Raises:
        OSError: the file cannot be written.
    """
    path = state_directory / DRAFTS_FILE
    with atomic_write(path, path.with_name(f"{path.name}.{os.getpid()}.partial")) as partial:
        partial.write_text(drafts.model_dump_json(indent=1), encoding="utf-8")
        partial.chmod(0o600)


class DraftStore:
    """Drafts of one application in a file that several applications share.

    An application that changed nothing saves nothing, because it would replace newer drafts of another application.

    Attributes:
        notes: messages for the user about the file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / DRAFTS_FILE
        self.notes: list[str] = []
        # Another application can save meanwhile. Its drafts are merged only if the state is not newer than the content.
        self._file_state = read_file_state(self.path)
        self.drafts = load_drafts(directory, self.notes)
        self._saved = self.drafts.model_copy(deep=True)
        self._was_changed = False
        self._is_saving = False

    def save(self, is_last: bool = False) -> None:
        """Save the drafts if this application changed them.

        If a signal handler saves while the lock is held, the interrupted call saves for it. If another application
        stops while it saves, this one saves without the lock after `MAX_LOCK_SECONDS`.

        Args:
            is_last: the application exits; a template of another application then moves to the history.

        Raises:
            OSError, ValueError: the file cannot be written.
        """
        is_changed = self.drafts != self._saved
        self._was_changed |= is_changed
        if not is_changed and not (is_last and self._was_changed and read_file_state(self.path) != self._file_state):
            return
        if self._is_saving:
            return
        self._is_saving = True
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with lock_by_file(self.directory / DRAFTS_LOCK_FILE, MAX_LOCK_SECONDS):
                if read_file_state(self.path) != self._file_state:
                    self._merge_other_history(with_template=is_last)
                save_drafts(self.directory, self.drafts)
                self._saved, self._file_state = self.drafts.model_copy(deep=True), read_file_state(self.path)
        finally:
            self._is_saving = False

    def _merge_other_history(self, with_template: bool) -> None:
        """Add the history of another application to the history and, if requested, add its template."""
        try:
            others = read_drafts(self.path)
        except UNREADABLE_ERRORS:  # deleted or damaged meanwhile
            return
        own = self.drafts.history
        self.drafts.history = [*own, *(text for text in others.history if text not in own)][:MAX_HISTORY_LENGTH]
        if with_template and others.template.strip() and others.template != self.drafts.template:
            self.drafts.add_to_history(others.template)
