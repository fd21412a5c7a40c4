"""Copy a batch, or one of its videos, to Compose as the draft of a new batch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual.worker import get_current_worker

from wantui.config import ConfigError, dump_settings, parse_config
from wantui.errors import UserError
from wantui.planning.sweep import extract_cell_settings
from wantui.prompts.unparse import format_as_template
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest
from wantui.text_files import TextFileError, read_text_file
from wantui.tui.messages import DraftReady
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm

MAX_STORED_TEXT_BYTES = 16 << 20
"""Maximum size in bytes of the template or config of a batch that is copied."""


def copy_batch_to_draft(screen: BaseScreen, batch_folder: Path) -> None:
    """Copy the template and config of a batch folder to Compose; ask before replacing a draft."""

    def read_draft() -> _BatchCopy:
        stored_batch = BatchFolder(batch_folder)
        text = _read_stored_text(stored_batch.config_path)
        return _BatchCopy(batch_folder.name, text, _read_stored_text(stored_batch.template_path).rstrip("\n"), {})

    _copy_in_background(screen, read_draft, f"cannot read template and config of {batch_folder}")


def copy_video_to_draft(screen: BaseScreen, batch_folder: Path, entry: VideoEntry) -> None:
    """Copy the prompt, seed and config of one video to Compose; ask before replacing a draft."""

    def read_draft() -> _BatchCopy:
        text, recipe = _read_stored_text(BatchFolder(batch_folder).config_path), entry.recipe
        template = format_as_template(recipe.prompt, [(mark.start, mark.end, mark.weight) for mark in recipe.marks])
        changes = {"model_settings.seed": str(entry.seed), "videos_per_variation": "1"}
        if (cell_text := _make_cell_config(batch_folder, text, entry)) is not None:
            text, changes = cell_text, {}
        return _BatchCopy(f"{batch_folder.name}, seed {entry.seed}", text, template, changes)

    _copy_in_background(screen, read_draft, f"cannot read the config of {batch_folder}")


def _make_cell_config(batch_folder: Path, text: str, entry: VideoEntry) -> str | None:
    """Return the config of one video of a batch with a sweep or a list of seeds; None if its seed alone differs.

    Raises:
        UserError: the manifest or the config cannot be read.
    """
    try:
        settings = parse_config(text, batch_folder).settings
    except ConfigError:  # Compose shows its problems
        if entry.cell is None:
            return None
        raise
    if settings.seeds is None and entry.cell is None:
        return None
    cell = read_manifest(BatchFolder(batch_folder)).find_cell(entry)
    return dump_settings(extract_cell_settings(settings, {} if cell is None else cell.values, entry.seed))


@dataclass(frozen=True)
class _BatchCopy:
    """Draft made from a batch or one of its videos."""

    source_name: str
    text: str
    """Text of the config."""
    template: str
    changes: dict[str, str]
    """Changed settings by their path in the config."""


def _read_stored_text(path: Path) -> str:
    text = read_text_file(path, MAX_STORED_TEXT_BYTES)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _copy_in_background(screen: BaseScreen, read_draft: Callable[[], _BatchCopy], error_text: str) -> None:
    """Read a draft on a background thread, and show it in Compose; a later copy cancels this one."""

    def show_draft(draft: _BatchCopy) -> None:
        if screen.is_current:
            _replace_draft(screen, draft.source_name, draft.text, draft.template, draft.changes)
        else:
            text = f"{draft.source_name} was not copied: another screen or dialog was opened while it was read"
            screen.notify(text, severity="warning")

    def copy() -> None:
        worker = get_current_worker()
        try:
            draft = read_draft()
        except (TextFileError, UserError, ValueError) as error:
            if not worker.is_cancelled:
                screen.call_later(screen.notify, f"{error_text}: {error}", severity="error")
            return
        if not worker.is_cancelled:
            screen.call_later(show_draft, draft)

    screen.run_worker(copy, "copy to Compose", thread=True, exclusive=True, group="copy", exit_on_error=False)


def _replace_draft(screen: BaseScreen, source_name: str, text: str, template: str, changes: dict[str, str]) -> None:
    """Replace the draft in Compose, and show it; ask if the draft would be lost."""
    app = screen.wantui_app
    drafts = app.drafts

    def replace_draft(is_confirmed: bool | None = True) -> None:
        if not is_confirmed:
            return
        if drafts.template and drafts.template != template:
            drafts.add_to_history(drafts.template)
        drafts.config, drafts.text, drafts.template = f"copy of {source_name}", text, template
        drafts.changes = dict(changes)
        app.save_drafts_or_notify()
        screen.post_message(DraftReady())

    is_same_draft = (drafts.text, drafts.template, drafts.changes) == (text, template, changes)
    if is_same_draft or not (drafts.template.strip() or drafts.changes or drafts.text is not None):
        replace_draft()
        return
    history_note = " The template stays in the history (ctrl+r)." if drafts.template.strip() else ""
    loss_note = " Changed settings are lost." if drafts.changes or drafts.text is not None else ""
    question = f"Replace the draft in Compose with a copy of {source_name}?{history_note}{loss_note}"
    screen.app.push_screen(Confirm(question, "Replace"), replace_draft)
