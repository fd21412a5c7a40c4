"""Copy the template and config of a batch to Compose, as the draft of a new batch."""

from pathlib import Path

from wantui.storage.layout import BatchFolder
from wantui.tui.messages import DraftReady
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm


def copy_batch_to_draft(screen: BaseScreen, batch_folder: Path) -> None:
    """Copy the template and config of a batch folder to Compose; ask before replacing a draft."""
    stored_batch = BatchFolder(batch_folder)
    app = screen.wantui_app
    try:
        text = stored_batch.config_path.read_text(encoding="utf-8")
        template = stored_batch.template_path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        screen.notify(f"cannot read template and config of {batch_folder}: {error}", severity="error")
        return
    drafts = app.drafts

    def replace_draft(is_confirmed: bool | None = True) -> None:
        if not is_confirmed:
            return
        if drafts.template and drafts.template != template:
            drafts.add_to_history(drafts.template)
        drafts.config, drafts.text, drafts.changes, drafts.template = f"copy of {batch_folder.name}", text, {}, template
        app.save_drafts_or_notify()
        screen.post_message(DraftReady())

    is_same_draft = (drafts.text, drafts.template, drafts.changes) == (text, template, {})
    if is_same_draft or not (drafts.template.strip() or drafts.changes or drafts.text is not None):
        replace_draft()
        return
    history_note = " The template stays in the history (ctrl+r)." if drafts.template.strip() else ""
    loss_note = " Changed settings are lost." if drafts.changes or drafts.text is not None else ""
    question = f"Replace the draft in Compose with a copy of {batch_folder.name}?{history_note}{loss_note}"
    screen.app.push_screen(Confirm(question, "Replace"), replace_draft)
