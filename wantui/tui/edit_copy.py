"""Copy a batch, or one of its videos, to Compose as the draft of a new batch."""

from pathlib import Path

from wantui.prompts.unparse import format_as_template
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry
from wantui.tui.messages import DraftReady
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm


def copy_batch_to_draft(screen: BaseScreen, batch_folder: Path) -> None:
    """Copy the template and config of a batch folder to Compose; ask before replacing a draft."""
    stored_batch = BatchFolder(batch_folder)
    try:
        text = stored_batch.config_path.read_text(encoding="utf-8")
        template = stored_batch.template_path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        screen.notify(f"cannot read template and config of {batch_folder}: {error}", severity="error")
        return
    _replace_draft(screen, batch_folder.name, text, template, {})


def copy_video_to_draft(screen: BaseScreen, batch_folder: Path, entry: VideoEntry) -> None:
    """Copy the prompt, seed and config of one video to Compose; ask before replacing a draft."""
    try:
        text = BatchFolder(batch_folder).config_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        screen.notify(f"cannot read the config of {batch_folder}: {error}", severity="error")
        return
    recipe = entry.recipe
    template = format_as_template(recipe.prompt, [(mark.start, mark.end, mark.weight) for mark in recipe.marks])
    changes = {"model_settings.seed": str(entry.seed), "videos_per_variation": "1"}
    _replace_draft(screen, f"{batch_folder.name}, seed {entry.seed}", text, template, changes)


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
