"""Compose screen: edits config, settings and template, previews variations and cost, and queues the batch."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Static
from textual.worker import get_current_worker

from wantui.config import Config
from wantui.errors import UserError
from wantui.formatting import NO_BREAK_SPACE, format_count
from wantui.tui.actions import make_bindings
from wantui.tui.compose_data import (
    BatchPreviewed,
    BatchQueued,
    MachineExamined,
    compute_preview,
    examine_machine,
    list_remarks,
    read_timed_videos,
)
from wantui.tui.content import make_content
from wantui.tui.pane_titles import KeyTitledPane, find_usable_key
from wantui.tui.queue_errors import describe_queue_error
from wantui.tui.queue_watcher import BATCH_END_EVENTS, QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.terminal.lent_terminal import TerminalNotLentError, lend_terminal
from wantui.tui.widgets.config_pane import ConfigPane
from wantui.tui.widgets.cost_pane import CostPane
from wantui.tui.widgets.template_editor import TemplateEditor
from wantui.tui.widgets.variations import TEMPLATE_HELP, Variations

if TYPE_CHECKING:
    from wantui.planning import BatchPreview, TimedVideo

MIN_QUEUEING_INTERVAL_SECONDS = 1.0
"""Seconds after queueing a batch in which no other is queued: a held key queues once."""
FIRST_STEPS = """\
1 Write a template, or use a config's example: esc, c, enter. History: ctrl+r.
2 Check the variations and the cost.
3 Press F5 to queue the videos. F2: queue, F3: progress, F4: videos, F1: keys."""
MAX_SHORT_ERROR_LINES = 2
"""Maximum lines of an error for which the template pane is high enough."""
PREVIEW_DELAY_SECONDS = 0.05
"""Seconds between the last key and the preview of the template."""


class ComposeScreen(BaseScreen):
    """Config on the left, template on the right; every change is saved."""

    SCREEN_NAME = "compose"
    CSS_PATH = "compose.tcss"
    BINDINGS = [*make_bindings("compose")]
    AUTO_FOCUS = "TemplateEditor"  # otherwise Textual focuses the configs first, and styles both panes twice

    template_editor = getters.query_one(TemplateEditor)
    config_pane = getters.query_one(ConfigPane)
    variations = getters.query_one(Variations)
    cost_pane = getters.query_one(CostPane)
    error_line = getters.query_one("#error", Static)

    def __init__(self) -> None:
        super().__init__()
        self.preview: BatchPreview | None = None
        self.draft_error = ""
        """Error in the template or config; otherwise empty."""
        self.timed_videos: list[TimedVideo] | None = None
        self._preview_timer: Timer | None = None
        self._save_timer: Timer | None = None
        self._is_queueing, self._last_queued_at = False, -MIN_QUEUEING_INTERVAL_SECONDS

    def compose_body(self) -> ComposeResult:
        drafts = self.wantui_app.drafts
        with Horizontal():
            yield ConfigPane(drafts)
            with Vertical(id="right"):
                with KeyTitledPane("template", "compose.template", "Template"):
                    yield TemplateEditor(drafts.template)
                    yield Static("", id="error", markup=False)
                yield Variations()
                yield CostPane()

    @property
    def config(self) -> Config | None:
        """Return the config, or None while the draft is invalid."""
        return self.config_pane.config

    def on_mount(self) -> None:
        self.set_focus(self.template_editor)
        self.config_pane.load_config()
        self.call_after_refresh(self.config_pane.find_config_sources)

    def focus_main_widget(self) -> None:
        """Leave the innermost field (a value, open choices or the filter of the settings); then move to the configs."""
        if not self.config_pane.settings_form.cancel_edit():
            self.set_focus(self.config_pane.config_list)

    # The config

    @on(ConfigPane.Changed)
    def _handle_config_changed(self, message: ConfigPane.Changed) -> None:
        self._save_drafts_soon()
        if message.error:
            self._show_preview(BatchPreviewed(error=message.error), "no preview until the config is corrected")
        else:
            self._preview_soon()

    @on(ConfigPane.Chosen)
    def _insert_example(self, message: ConfigPane.Chosen) -> None:
        """Replace a template that the user has not changed with the example of the chosen config."""
        template = self.template_editor.text.strip()
        if message.example is not None and template in ("", message.previous_example) and template != message.example:
            self.template_editor.text = message.example

    def action_reset_setting(self) -> None:
        if not self.config_pane.settings_form.reset_current_field():
            self.notify("cannot reset a setting: none is selected. Press s to choose one")

    def action_filter_settings(self) -> None:
        self.config_pane.settings_form.open_filter()

    def action_drop_changes(self) -> None:
        self.config_pane.discard_changes()

    def action_save_as(self) -> None:
        self.config_pane.save_as()

    def action_edit_yaml(self) -> None:
        self.config_pane.edit_yaml()

    # The template

    @on(TemplateEditor.Typed)
    def _handle_template_typed(self) -> None:
        self.wantui_app.drafts.template = self.template_editor.text
        self._save_drafts_soon()
        self._preview_soon()

    def _preview_soon(self) -> None:
        if self._preview_timer is not None:
            self._preview_timer.stop()
        self._preview_timer = self.set_timer(PREVIEW_DELAY_SECONDS, self._start_preview)

    def _start_preview(self) -> None:
        if self.config is not None:
            self.preview_draft(self.config, self.template_editor.text)

    @work(thread=True, exclusive=True, group="preview", exit_on_error=False)
    def preview_draft(self, config: Config, template: str) -> None:
        """Expand the draft and predict its cost in a thread."""
        worker, state_dir = get_current_worker(), self.wantui_app.state_dir
        try:
            if self.timed_videos is None:
                self.timed_videos = read_timed_videos(state_dir)
        except Exception as error:
            self.post_message(BatchPreviewed(error=describe_queue_error(error)))
            return
        message = compute_preview(
            config, template, self.timed_videos, self.wantui_app.gpu_history.latest_sample, state_dir
        )
        if worker.is_cancelled:
            return
        self.post_message(message)
        if message.preview is not None:
            examined = examine_machine(message.preview, state_dir)
            if not worker.is_cancelled:
                self.post_message(examined)

    @on(BatchPreviewed)
    def _show_computed_preview(self, message: BatchPreviewed) -> None:
        if self.config is None:  # became invalid during the preview; its error is already shown
            return
        if not self.template_editor.text.strip():
            self._show_preview(BatchPreviewed(), TEMPLATE_HELP)
        else:
            self._show_preview(message, "no preview until the template is corrected")

    @on(MachineExamined)
    def _show_machine_refusals(self, message: MachineExamined) -> None:
        if message.refusals and self.preview is message.preview:
            self.preview = replace(message.preview, refusals=(*message.preview.refusals, *message.refusals))
            self.cost_pane.replace_preview(self.preview, self._describe_next_action())

    def _show_preview(self, message: BatchPreviewed, empty_text: str) -> None:
        """Show the preview of the draft, or the reason of a failure.

        Args:
            empty_text: text shown instead of variations.
        """
        self.preview, self.draft_error = message.preview, message.error
        self._show_error(message.error, message.error_position)
        self.variations.show_preview(message.preview, message.tokenizer_path, empty_text)
        changes = self.config_pane.list_changes()
        self.cost_pane.show_costs(
            message.preview, message.cost_lines, message.cell_texts, changes, self._describe_next_action()
        )

    def _describe_next_action(self) -> tuple[str, str]:
        """Return what the key that queues the batch does, or why it does nothing, and details."""
        if self.preview is None:
            return "" if self.template_editor.text.strip() else FIRST_STEPS, ""
        if self.preview.refusals:
            return "F5 cannot queue this batch: see ✗ above", ""
        return f"press F5 to queue {format_count(self.preview.video_count, 'video')}", "then F2: queue, F3: progress"

    def _show_error(self, error: str, error_position: int | None) -> None:
        self.error_line.display = bool(error)
        if error:
            self.error_line.update(make_content(f"✗ {error}", keep_lines=True))
        is_long = "\n" in error or len(error) > MAX_SHORT_ERROR_LINES * self.template_editor.size.width
        self.query_one("#template").set_class(is_long, "-long-error")
        self.template_editor.mark_error(error_position)

    def action_warnings(self) -> None:
        """Show all warnings and errors of the draft."""
        from wantui.tui.screens.dialogs import TextViewer

        if self.preview is None and not self.draft_error:
            self.notify("the draft has no warnings and no errors")
            return
        messages = [f"✗ {self.draft_error}"] if self.draft_error else []
        if self.preview is not None:
            messages.append(self.cost_pane.format_details())
            messages += list_remarks(self.preview)
        self.app.push_screen(TextViewer("Cost, warnings and errors", "\n\n".join(messages)))

    def action_history(self) -> None:
        from wantui.tui.screens.history import TemplateHistory

        if not self.wantui_app.drafts.history:
            self.notify("no template has been queued yet")
            return

        def replace_template(template: str | None) -> None:
            if template is not None:
                self.wantui_app.drafts.add_to_history(self.template_editor.text)
                self.template_editor.text = template

        self.app.push_screen(TemplateHistory(self.wantui_app.drafts.history), replace_template)

    def action_empty_template(self) -> None:
        """Empty the template and keep it in the history; unlike an assignment to its text, this can be undone."""
        self.wantui_app.drafts.add_to_history(self.template_editor.text)
        self.template_editor.clear()
        self.set_focus(self.template_editor)

    def action_external_editor(self) -> None:
        import click

        try:
            with lend_terminal(self.app):
                edited_template = click.edit(self.template_editor.text, extension=".txt")
        except TerminalNotLentError:
            self.notify("cannot open an editor: no terminal is attached. Edit the template here.", severity="warning")
            return
        except (click.ClickException, UnicodeError, OSError) as error:
            reason = error.message if isinstance(error, click.ClickException) else str(error)
            self.notify(
                f"cannot edit the template: {reason}. Set EDITOR to another editor.",
                severity="error",
                timeout=12,
            )
            return
        if edited_template is not None:
            self.template_editor.text = edited_template.rstrip("\n")

    # The queue

    def action_enqueue(self) -> None:
        if self.preview is None or self.config is None:
            if self.template_editor.text.strip():
                reason = self.draft_error or "the config is invalid"
                self.notify(f"cannot queue the batch: {reason}", severity="error")
                return
            self.notify("cannot queue the batch: the template is empty", severity="warning")
            self.set_focus(self.template_editor)
            return
        if self._is_queueing or time.monotonic() - self._last_queued_at < MIN_QUEUEING_INTERVAL_SECONDS:
            return
        # The current text: the preview may be a key behind.
        config, template = self.config, self.template_editor.text

        def queue_if_confirmed(is_confirmed: bool | None = True) -> None:
            if is_confirmed:
                self._is_queueing = True
                self.cost_pane.border_subtitle = "queueing ..."  # takes seconds while another program locks the queue
                self.queue_batch(config, template, is_demo=False)

        from wantui.batches.batch_cost import find_slow_cpu_warning
        from wantui.tui.screens.dialogs import Confirm

        sample = self.wantui_app.gpu_history.latest_sample
        runs_on_gpu = sample is not None and bool(sample.gpus) and config.settings.model_settings.device != "cpu"
        slow_warning = (
            None if runs_on_gpu else find_slow_cpu_warning(self.preview.first_recipe, self.preview.video_count)
        )
        if slow_warning is None:
            queue_if_confirmed()
        else:
            self.app.push_screen(Confirm(f"{slow_warning}.\n\nQueue it anyway?", "Queue it"), queue_if_confirmed)

    def show_draft(self, queues_demo: bool) -> None:
        """Show the stored draft; if `queues_demo` is set, queue the draft at once as the demo."""
        self.template_editor.text = self.wantui_app.drafts.template
        self.config_pane.load_config()
        if queues_demo and self.config is not None:
            self.queue_batch(self.config, self.wantui_app.drafts.template, is_demo=True)

    @work(thread=True, group="enqueue", exit_on_error=False)
    def queue_batch(self, config: Config, template: str, is_demo: bool) -> None:
        """Create the batch folder, queue the videos, and start the engine if none is running."""
        from wantui.batches.demo import plan_demo_batch
        from wantui.batches.enqueue import enqueue_new_batch  # slow to import
        from wantui.planning import plan_batch

        app = self.wantui_app
        try:
            planned = plan_demo_batch() if is_demo else plan_batch(config, template)
            batch = enqueue_new_batch(app.state_dir, planned)
            self.post_message(BatchQueued(template, is_demo, "", batch.batch_id, batch.video_count, str(batch.folder)))
        except UserError as error:
            self.post_message(BatchQueued(template, is_demo, str(error)))
        except Exception as error:
            self.post_message(BatchQueued(template, is_demo, describe_queue_error(error)))
        else:
            app.start_engine()

    @on(BatchQueued)
    def _handle_batch_queued(self, message: BatchQueued) -> None:
        self._is_queueing = False
        self.cost_pane.update_subtitle()
        if message.error:
            self.notify(message.error, severity="error", title="batch not queued", timeout=20)
            return
        self._last_queued_at = time.monotonic()
        self.wantui_app.drafts.add_to_history(message.template)
        self.wantui_app.save_drafts_or_notify()
        self.wantui_app.queue_watcher.poll_now()
        videos_text = format_count(message.video_count, "video")
        self.notify(
            f"batch {message.batch_number}: {videos_text} in {message.folder}",
            title="batch queued",
            timeout=10,
        )
        if self.template_editor.has_focus and self.template_editor.text == message.template:
            self.set_focus(self.config_pane.config_list)  # the next keys are commands
        actions = {"app.queue": "queue", "app.monitor": "progress", "compose.template": "next template"}
        keys = {find_usable_key(self, action_id): name for action_id, name in actions.items()}
        keys_text = ", ".join(f"{key}:{NO_BREAK_SPACE}{name}" for key, name in keys.items())
        self.cost_pane.show_next_action(f"✓ batch {message.batch_number} is queued; {keys_text}")
        if message.is_demo:
            self.wantui_app.show_screen("monitor")

    # Saving, updates and focus

    def _save_drafts_soon(self) -> None:
        if self._save_timer is None:
            self._save_timer = self.set_timer(0.3, self._save_drafts)

    def _save_drafts(self) -> None:
        self._save_timer = None
        self.wantui_app.save_drafts_or_notify()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        self.config_pane.check_file()
        if any(isinstance(event.payload, BATCH_END_EVENTS) for event in snapshot.events):
            self.timed_videos = None
            self._preview_soon()

    def on_shown(self) -> None:
        self.config_pane.check_file()
        if self.is_mounted and self.timed_videos is not None:
            self.timed_videos = None  # videos may have finished since
            self._preview_soon()

    def action_focus_template(self) -> None:
        self.set_focus(self.template_editor)

    def action_focus_configs(self) -> None:
        self.set_focus(self.config_pane.config_list)

    def action_focus_settings(self) -> None:
        self.set_focus(self.config_pane.settings_form.field_list)

    def action_focus_variations(self) -> None:
        self.set_focus(self.variations)
