"""Copy the template and config of a batch to Compose, as the draft of a new batch."""

from pathlib import Path

from wantui.storage.layout import BatchFolder
from wantui.tui.messages import DraftReady
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm


def edit_copy(screen: BaseScreen, folder: Path) -> None:
    """Copy the template and config of a batch folder to Compose; ask before replacing a draft."""
    batch = BatchFolder(folder)
    app = screen.wantui_app
    try:
        text = batch.config.read_text(encoding="utf-8")
        template = batch.template.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        screen.notify(f"cannot read template and config of {folder}: {error}", severity="error")
        return
    drafts = app.drafts

    def replace_draft(confirmed: bool | None = True) -> None:
        if not confirmed:
            return
        if drafts.template and drafts.template != template:
            drafts.add_to_history(drafts.template)
        drafts.config, drafts.text, drafts.changes, drafts.template = f"copy of {folder.name}", text, {}, template
        app.save_drafts_or_notify()
        screen.post_message(DraftReady())

    is_same = (drafts.text, drafts.template, drafts.changes) == (text, template, {})
    if is_same or not (drafts.template.strip() or drafts.changes or drafts.text is not None):
        replace_draft()
        return
    kept = " The template stays in the history (ctrl+r)." if drafts.template.strip() else ""
    lost = " Changed settings are lost." if drafts.changes or drafts.text is not None else ""
    question = f"Replace the draft in Compose with a copy of {folder.name}?{kept}{lost}"
    screen.app.push_screen(Confirm(question, "Replace"), replace_draft)
