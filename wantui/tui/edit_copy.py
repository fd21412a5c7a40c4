"""Copy a batch, or some of its videos, to Compose as the draft of a new batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual.worker import get_current_worker

from wantui.batches.recompose import RecomposedBatch, recompose_batch
from wantui.config import ConfigError, dump_settings, parse_config
from wantui.controls.prompt_schedule import SECTION_KEY
from wantui.errors import UserError
from wantui.prompts.unparse import format_as_template
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry
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


def copy_videos_to_draft(
    screen: BaseScreen, batch_folder: Path, manifest: Manifest, entries: Sequence[VideoEntry]
) -> None:
    """Copy the variations, seeds and settings of some of a batch's videos to Compose; ask before replacing a draft."""

    def read_draft() -> _BatchCopy:
        text = _read_stored_text(BatchFolder(batch_folder).config_path)
        videos_text = f"seed {entries[0].seed}" if len(entries) == 1 else f"{len(entries)} selected videos"
        source_name = f"{batch_folder.name}, {videos_text}"
        if (batch := _recompose_batch(batch_folder, text, manifest, entries)) is not None:
            return _BatchCopy(source_name, dump_settings(batch.settings), batch.template, {}, batch.note)
        recipe = entries[0].recipe
        template = format_as_template(recipe.prompt, [(mark.start, mark.end, mark.weight) for mark in recipe.marks])
        changes = {"model_settings.seed": str(recipe.seed), "videos_per_variation": "1"}
        return _BatchCopy(source_name, text, template, changes)

    videos_text = "this video" if len(entries) == 1 else "these videos"
    _copy_in_background(screen, read_draft, f"cannot compose {videos_text} of {batch_folder} again")


def _recompose_batch(
    batch_folder: Path, text: str, manifest: Manifest, entries: Sequence[VideoEntry]
) -> RecomposedBatch | None:
    """Return a batch with these videos; None for one video that differs from its batch only in seed and prompt.

    Raises:
        UserError: the config cannot be read, or such a batch cannot be written.
    """
    is_single = len(entries) == 1 and entries[0].cell is None
    try:
        settings = parse_config(text, batch_folder).settings
    except ConfigError:  # Compose shows its problems
        if is_single:
            return None
        raise
    if is_single and settings.seeds is None and not getattr(settings, SECTION_KEY).active_schedule:
        return None
    return recompose_batch(settings, manifest, entries)


@dataclass(frozen=True)
class _BatchCopy:
    """Draft made from a batch or one of its videos."""

    source_name: str
    text: str
    """Text of the config."""
    template: str
    changes: dict[str, str]
    """Changed settings by their path in the config."""
    note: str = ""
    """What the user should know about the draft."""


def _read_stored_text(path: Path) -> str:
    text = read_text_file(path, MAX_STORED_TEXT_BYTES)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _copy_in_background(screen: BaseScreen, read_draft: Callable[[], _BatchCopy], error_text: str) -> None:
    """Read a draft on a background thread, and show it in Compose; a later copy cancels this one."""

    def show_draft(draft: _BatchCopy) -> None:
        if screen.is_current:
            _replace_draft(screen, draft)
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


def _replace_draft(screen: BaseScreen, copy: _BatchCopy) -> None:
    """Replace the draft in Compose, and show it; ask if the draft would be lost."""
    source_name, text, template, changes = copy.source_name, copy.text, copy.template, copy.changes
    app = screen.wantui_app
    drafts = app.drafts

    def replace_draft(is_confirmed: bool | None = True) -> None:
        if not is_confirmed:
            return
        if drafts.template and drafts.template != template:
            drafts.add_to_history(drafts.template)
        drafts.choose_config(f"copy of {source_name}", text, changes)
        drafts.template = template
        app.save_drafts_or_notify()
        screen.post_message(DraftReady())
        if copy.note:
            app.notify(copy.note, severity="warning", timeout=12)

    is_same_draft = (drafts.text, drafts.template, drafts.changes) == (text, template, changes)
    if is_same_draft or not (drafts.template.strip() or drafts.changes or drafts.text is not None):
        replace_draft()
        return
    history_note = " The template stays in the history (ctrl+r)." if drafts.template.strip() else ""
    loss_note = " Changed settings are lost." if drafts.changes or drafts.text is not None else ""
    question = f"Replace the draft in Compose with a copy of {source_name}?{history_note}{loss_note}"
    screen.app.push_screen(Confirm(question, "Replace"), replace_draft)
