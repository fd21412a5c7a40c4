"""Composing a batch on the screen: config, settings, template, variations, cost, and putting it on the queue."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import only_queued
from harness_screens import go_to
from harness_tui import AppUnderTest, application, run
from rich.text import Text
from textual.widget import Widget
from textual.widgets import Input

from wantui.batches.batch_cost import CostLine
from wantui.batches.enqueue import enqueue_new_batch
from wantui.config import ConfigError, load_config
from wantui.planning import Recipe, plan_batch, preview_batch
from wantui.prompts.highlighting import highlight_template
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.tui import video_grid
from wantui.tui.app import WantuiApp
from wantui.tui.compose_data import BatchPreviewed, BatchQueued, MachineExamined, compute_preview
from wantui.tui.config_sources import DraftText
from wantui.tui.cost_rows import METER_WIDTH, NAME_WIDTH
from wantui.tui.drafts import DRAFTS_FILE, Drafts, load_drafts, save_drafts
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.dialogs import Confirm, InputDialog, TextViewer
from wantui.tui.screens.history import TemplateHistory
from wantui.tui.screens.monitor import MonitorScreen
from wantui.tui.screens.welcome import Welcome
from wantui.tui.screens.yaml_editor import YamlEditor
from wantui.tui.settings import TuiSettings
from wantui.tui.settings_changes import apply_settings
from wantui.tui.video_grid import GridRow
from wantui.tui.widgets.cost_pane import CostDetails
from wantui.tui.widgets.settings_form import SettingsForm
from wantui.tui.widgets.virtual_list import VirtualList

pytestmark = pytest.mark.terminal


@pytest.fixture(autouse=True)
def _no_engine() -> Iterator[None]:
    """What is put on the queue stays there."""
    with only_queued():
        yield


def test_template_is_expanded_while_typed_with_tokens_and_cost() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a [red|blue] (circle)")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview and len(screen.preview.variations) == 2)
            await it.until(lambda: "4 = 2 variations x 2 seeds" in it.cells("#cost DiffText"))
            shown = it.text()
            assert "a red circle" in shown
            assert "(circle) = ▁cir·cle" in shown
            assert "unknown until a video of this model" in it.cells("#cost DiffText")
            assert "disk" in it.cells("#cost DiffText")

    run(test)


def test_keys_after_queueing_do_not_change_the_template() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: "press F5 to queue 2 videos" in it.cells("#cost DiffText"))
            await it.press("f5")
            await it.until(lambda: "✓ batch 1 is queued; 2: queue, 3: progress" in it.cells("#cost DiffText"))
            assert it.app.focused is screen.config_pane.config_list
            assert "t: next template" in " ".join(it.cells("#cost DiffText").split())
            await it.press("2")
            assert it.app.screen.name == "queue"
            assert screen.template_editor.text == "a red circle"

    run(test)


def test_template_typed_while_a_batch_is_queued_keeps_the_focus() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            await it.paste(" at night")
            it.app.screen.post_message(BatchQueued("a red circle", False, "", 1, 2, "folder"))
            await it.until(lambda: "✓ batch 1 is queued; F2: queue, F3: progress" in it.cells("#cost DiffText"))
            assert it.app.focused is screen.template_editor

    run(test)


def test_empty_template_comes_back_with_undo() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.press("t")
            await it.paste("a red circle\nat night")
            await it.press("escape", "ctrl+n")
            assert screen.template_editor.text == ""
            assert it.app.focused is screen.template_editor
            await it.press(*"ab", "ctrl+n", "ctrl+z")
            assert screen.template_editor.text == "ab"
            await it.press("ctrl+z", "ctrl+z")
            assert screen.template_editor.text == "a red circle\nat night"
            assert it.app.drafts.history[:2] == ["ab", "a red circle\nat night"]

    run(test)


def test_variations_show_the_prompts_of_a_schedule() -> None:
    overrides = [
        "prompt_schedule_settings.schedule={50%: 'a ([ring|star]:2)'}",
        "sweeps=prompt_schedule_settings.enabled=no,yes",
    ]
    preview = preview_batch(load_config("nano", overrides), "a [red|red] circle")

    async def test() -> None:
        async with application() as it:
            await it.press("t")
            screen = it.screen(ComposeScreen)
            screen.variations.show_preview(preview, None)
            await it.until(lambda: "a red circle → a star" in it.text())
            rows = [line for line in it.text().splitlines() if "a red circle →" in line]
            assert len(rows) == 4
            assert ["=" in row for row in rows] == [False, False, True, True], "equal prompts at all moments"
            screen.set_focus(screen.variations)
            await it.press("enter")
            await it.until(lambda: isinstance(it.app.screen, TextViewer))
            assert "at 50%: a ring" in it.text()
            assert "marked:  (ring) x2" in it.text()

    run(test)


def test_template_error_is_described_and_highlighted() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a [red|blue circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.template_editor.error_position == 2)
            assert "'[' is never closed" in it.text()
            await it.press("f5")
            assert "cannot queue the batch: '[' is never closed" in it.notifications()
            assert not Path("outputs").exists()
            await it.paste("]")
            await it.until(lambda: screen.preview is not None)
            assert screen.template_editor.error_position is None

    run(test)


def test_equal_variations_are_flagged() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a [red|red] circle")
            await it.until(lambda: "= red a red circle" in it.text())

    run(test)


def test_one_key_queues_the_batch() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a [red|blue] circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            await it.press("f5")
            await it.until(lambda: "4 videos in outputs/nano_" in it.notifications())
            queue = Queue(find_state_directory().directory)
            (batch,) = queue.list_batches()
            assert batch.video_count == 4
            manifest = read_manifest(BatchFolder(batch.folder))
            assert manifest.template == "a [red|blue] circle"
            await it.until(lambda: "0/4 videos" in it.text())
            await it.press("ctrl+r")
            await it.until(lambda: isinstance(it.app.screen, TemplateHistory))

    run(test)


def test_batch_that_cannot_be_generated_is_refused_and_leaves_nothing() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "attention_analysis_settings.store_attention")
            await it.press("space", "t")
            await it.paste("a circle")
            await it.until(lambda: "marks no word" in it.cells("#cost DiffText"))
            await it.press("f5")
            await it.until(lambda: "cannot generate this batch" in it.notifications())
            assert not Queue(find_state_directory().directory).list_batches()
            assert not list(Path("outputs").glob("*"))

    run(test)


def test_setting_is_validated_while_typed_and_applied_only_if_valid() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.steps")
            screen = it.screen(ComposeScreen)
            assert "Number of denoising steps" in it.text()
            assert "at most 1,000" in it.text()
            await it.press("enter")
            screen.config_pane.settings_form.value_input.value = "0"
            await it.until(
                lambda: (
                    screen.config_pane.settings_form.value_error
                    and "greater than or equal to 1" in screen.config_pane.settings_form.value_error
                )
            )
            await it.press("enter")
            assert screen.config is not None
            assert screen.config.settings.model_settings.steps == 20
            screen.config_pane.settings_form.value_input.value = "33"
            await it.pilot.pause()
            await it.press("enter")
            await it.until(lambda: screen.config and screen.config.settings.model_settings.steps == 33)
            assert "(1 changed)" in it.text()
            assert it.app.drafts.changes == {"model_settings.steps": "33"}

    run(test)


def test_space_bar_changes_flags_and_choices_and_text_is_literal() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "latent_analysis_settings.store_latents")
            await it.press("space")
            screen = it.screen(ComposeScreen)
            assert screen.config is not None
            assert screen.config.settings.latent_analysis_settings.store_latents
            await go_to(it, "model_settings.sampler")
            await it.press("space")
            assert screen.config.settings.model_settings.sampler == "unipc-3"
            await go_to(it, "prompt_settings.negative_prompt")
            await it.press("enter")
            screen.config_pane.settings_form.value_input.value = 'yes: [no] "1.5'
            await it.pilot.pause()
            await it.press("enter")
            assert screen.config.settings.prompt_settings.negative_prompt == 'yes: [no] "1.5'

    run(test)


def test_moving_the_cursor_discards_a_half_typed_value() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.seed")
            await it.press("enter")
            screen = it.screen(ComposeScreen)
            screen.config_pane.settings_form.value_input.value = "7"
            screen.config_pane.settings_form.field_list.cursor += 1
            await it.pilot.pause()
            assert not screen.config_pane.settings_form.is_editing
            assert it.app.drafts.changes == {}

    run(test)


def test_repeated_key_queues_once_and_history_preserves_the_draft() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            await it.press("f5", "f5", "f5")
            await it.until(lambda: "2 videos in outputs" in it.notifications())
            await it.pilot.pause(0.3)
            assert len(Queue(find_state_directory().directory).list_batches()) == 1
            screen.template_editor.text = "a template that was not queued"
            await it.press("ctrl+r")
            await it.until(lambda: isinstance(it.app.screen, TemplateHistory))
            await it.press("enter")
            await it.until(lambda: screen.template_editor.text == "a red circle")
            assert "a template that was not queued" in it.app.drafts.history

    run(test)


def test_yaml_editor_reports_a_deleted_config_file() -> None:
    async def test() -> None:
        Path("configs").mkdir()
        mine = Path("configs/mine.yaml")
        mine.write_text("model_settings:\n  model_id: nano\n")
        save_drafts(find_state_directory().directory, Drafts(welcomed=True, config=str(mine)))
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            mine.unlink()
            await it.press("y")
            await it.until(lambda: isinstance(it.app.screen, YamlEditor))
            assert "was deleted" in it.notifications()

    run(test)


def test_draft_is_restored_at_the_next_start() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a [big|small] star")
            await go_to(it, "model_settings.seed")
            await it.press("enter")
            it.screen(ComposeScreen).config_pane.settings_form.value_input.value = "7"
            await it.pilot.pause()
            await it.press("enter")
            await it.until(lambda: load_drafts(find_state_directory().directory).changes)
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config and screen.preview)
            assert screen.template_editor.text == "a [big|small] star"
            assert screen.config is not None
            assert screen.config.settings.model_settings.seed == 7

    run(test)


def test_unreadable_drafts_are_moved_aside(tmp_path: Path) -> None:
    save_drafts(tmp_path, Drafts(template="a star"))
    assert load_drafts(tmp_path).template == "a star"
    (tmp_path / DRAFTS_FILE).write_text("{ half a fi")
    assert load_drafts(tmp_path).template == ""
    assert (tmp_path / "tui.damaged.json").read_text() == "{ half a fi"


def test_saving_a_config_asks_before_overwriting() -> None:
    async def test() -> None:
        Path("configs").mkdir()
        async with application() as it:
            await go_to(it, "videos_per_variation")
            await it.press("enter")
            screen = it.screen(ComposeScreen)
            screen.config_pane.settings_form.value_input.value = "9"
            await it.pilot.pause()
            await it.press("enter", "ctrl+s")
            await it.until(lambda: isinstance(it.app.screen, InputDialog))
            await it.paste("mine")
            await it.press("enter")
            await it.until(lambda: Path("configs/mine.yaml").exists())
            assert yaml.safe_load(Path("configs/mine.yaml").read_text())["videos_per_variation"] == 9
            await it.until(lambda: it.app.drafts.config == "configs/mine.yaml")
            assert it.app.drafts.changes == {}
            await it.press("ctrl+s")
            await it.paste("mine")
            await it.press("enter")
            await it.until(lambda: isinstance(it.app.screen, Confirm))
            await it.press("n")
            await it.until(lambda: isinstance(it.app.screen, InputDialog))
            await it.press("escape")
            await it.until(lambda: isinstance(it.app.screen, ComposeScreen))

    run(test)


def test_config_edited_on_disk_is_reloaded() -> None:
    async def test() -> None:
        Path("configs").mkdir()
        mine = Path("configs/mine.yaml")
        mine.write_text("model_settings:\n  model_id: nano\n  steps: 5\n")
        save_drafts(find_state_directory().directory, Drafts(welcomed=True, config=str(mine)))
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config and screen.config.settings.model_settings.steps == 5)
            time.sleep(0.02)
            mine.write_text("model_settings:\n  model_id: nano\n  steps: 6\n")
            await it.press("escape", "2", "1")
            await it.until(lambda: screen.config and screen.config.settings.model_settings.steps == 6)
            assert "changed on disk" in it.notifications()
            mine.unlink()
            await it.press("escape", "2", "1")
            await it.until(lambda: "was deleted" in it.notifications())
            assert it.app.drafts.text is not None
            assert "steps: 6" in it.app.drafts.text

    run(test)


def test_missing_or_invalid_config_is_reported() -> None:
    async def test() -> None:
        save_drafts(find_state_directory().directory, Drafts(welcomed=True, config="configs/gone.yaml"))
        Path("configs").mkdir()
        Path("configs/broken.yaml").write_text("model_settings:\n  stepps: 5\n")
        async with application() as it:
            await it.until(lambda: "using nano instead" in it.notifications())
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config_pane.sources)
            place = [source.config_name for source in screen.config_pane.sources].index("configs/broken.yaml")
            assert not screen.config_pane.sources[place].is_valid
            it.app.screen.query_one("#configs", VirtualList).focus()
            it.app.screen.query_one("#configs", VirtualList).cursor = place
            await it.pilot.pause()
            await it.press("enter")
            await it.until(lambda: "did you mean model_settings.steps" in it.notifications())

    run(test)


def test_config_edited_as_yaml_is_applied_only_if_valid() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("y")
            editor = await it.until(lambda: isinstance(it.app.screen, YamlEditor) and it.app.screen)
            from textual.widgets import TextArea

            editor.query_one(TextArea).text = "model_settings:\n  model_id: nano\n  step: 5\n"
            await it.until(lambda: "line 3" in it.text() or ":3: " in it.text())
            await it.press("ctrl+s")
            assert isinstance(it.app.screen, YamlEditor)
            editor.query_one(TextArea).text = "model_settings:\n  model_id: nano\n  steps: 5\n"
            await it.pilot.pause()
            await it.press("ctrl+s")
            await it.until(lambda: screen.config and screen.config.settings.model_settings.steps == 5)

    run(test)


def test_large_paste_is_accepted_and_too_many_variations_are_refused() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a circle and " * 8000)
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            assert len(screen.template_editor.text) == 13 * 8000
            screen.template_editor.text = "[a|b]" * 20
            await it.until(lambda: "1,048,576 variations" in it.text())
            assert screen.preview is None

    run(test)


def test_ten_thousand_variations_can_be_scrolled_to_the_end() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.press("t")
            await it.paste("[" + "|".join(f"v{i}" for i in range(100)) + "] and [" + "|".join("abcdefghij" * 10) + "]")
            await it.until(lambda: screen.preview and len(screen.preview.variations) == 10_000)
            await it.until(lambda: "Variations: 10,000" in it.text())
            rows = it.app.screen.query_one("#variations", VirtualList)
            rows.focus()
            await it.press("end")
            assert rows.cursor == 9999
            await it.until(lambda: "v99 and j" in it.text())

    run(test)


@pytest.mark.parametrize("sweeps", ["", "cfg_scale=1,2"])
def test_preview_of_many_variations_draws_no_row_that_cannot_fit(monkeypatch: pytest.MonkeyPatch, sweeps: str) -> None:
    rows: list[GridRow] = []

    def make_row(*values: Any) -> GridRow:
        rows.append(GridRow(*values))
        return rows[-1]

    monkeypatch.setattr(video_grid, "GridRow", make_row)

    async def test() -> None:
        save_drafts(find_state_directory().directory, Drafts(changes={"sweeps": sweeps} if sweeps else {}))
        async with application(size=(80, 24)) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("[" + "|".join(f"v{i}" for i in range(500)) + "] and [" + "|".join("abcdefghij") + "]")
            await it.until(lambda: screen.preview and len(screen.preview.variations) == 5_000)
            assert len(rows) <= 24

    run(test)


def test_cost_pane_draws_each_part_once_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("a [red|blue|green] [circle|square|star]")
            preview = await it.until(lambda: screen.preview)
            drawn: list[str] = []
            pane, draw_costs = screen.cost_pane, screen.cost_pane._draw_cost_lines

            def record_costs(width: int, details: CostDetails) -> list[Text]:
                drawn.append(details)
                return draw_costs(width, details)

            monkeypatch.setattr(pane, "_draw_cost_lines", record_costs)
            monkeypatch.setattr(pane.cost_text, "show_lines", lambda _: drawn.append("lines"))
            screen.post_message(BatchPreviewed(preview, cost_lines=pane.cost_lines))
            await it.pilot.pause()
            assert drawn.count("lines") == 1
            assert len(drawn) == len(set(drawn)) > 2
            drawn.clear()
            screen.post_message(MachineExamined(preview, ["no disk"]))
            await it.until(lambda: screen.preview and screen.preview.refusals)
            assert drawn.count("lines") == 1

    run(test)


def test_first_start_offers_a_demo_batch() -> None:
    async def test() -> None:
        async with application(welcomed=False) as it:
            await it.until(lambda: isinstance(it.app.screen, Welcome))
            await it.press("enter")
            await it.until(lambda: isinstance(it.app.screen, MonitorScreen))
            (batch,) = Queue(find_state_directory().directory).list_batches()
            assert batch.video_count == 12
            await it.until(lambda: load_drafts(find_state_directory().directory).welcomed)

    run(test)


def test_first_start_after_batches_from_the_command_line_offers_no_demo(tmp_path: Path) -> None:
    batch = plan_batch(load_config("nano", [f"output_dir={tmp_path}"]), "a red circle")
    enqueue_new_batch(find_state_directory(), batch)

    async def test() -> None:
        async with application(welcomed=False) as it:
            await it.until(lambda: it.app.snapshot.batches)
            await it.pilot.pause()
            assert [type(screen) for screen in it.app.screen_stack] == [ComposeScreen]

    run(test)


@pytest.mark.parametrize(
    ("template", "tokens"),
    [
        ("a [b|c]", ["[:bracket", "|:bar", "]:bracket"]),
        (r"\[a\]", [r"\[:escape", r"\]:escape"]),
        ("(ab:1.5)", ["(:mark", "a:mark", "b:mark", ":1.5:weight", "):mark"]),
        ("a [b", ["[:bracket"]),
        ("1:2", []),
    ],
)
def test_editor_highlights_brackets_marks_weights_and_escapes(template: str, tokens: list[str]) -> None:
    assert [f"{template[a:b]}:{kind}" for a, b, kind in highlight_template(template)] == tokens


ODD = "__color__ <lora:x:0.8> BREAK (16:9) (at 3:00) circle"


def shows_all(text: str, messages: tuple[str, ...]) -> bool:
    """Whether wrapped text contains all messages."""
    return all(" ".join(message.split()) in " ".join(text.split()) for message in messages)


def test_whole_template_is_shown_after_its_pane_becomes_narrower() -> None:
    template = "a large [red|blue] circle moving left over a dark background"

    async def test() -> None:
        async with application(size=(80, 24), starts_in_template=True) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.paste(template)
            wide = await it.until(lambda: screen.preview and screen.template_editor.size.width)
            await it.press("escape")
            await it.until(lambda: screen.template_editor.size.width < wide)
            await it.until(lambda: read_region(it, screen.template_editor).split() == template.split())

    run(test)


def read_region(it: AppUnderTest, widget: Widget) -> str:
    """Return the part of the screen that a widget covers."""
    region = widget.region
    lines = it.text().split("\n")[region.y : region.bottom]
    return "\n".join(line[region.x : region.right] for line in lines)


def test_costs_that_are_higher_than_the_pane_are_cut() -> None:
    async def test() -> None:
        sweeps = "cfg_scale=1,2; flow_shift=1,2; steps=4,5"
        save_drafts(find_state_directory().directory, Drafts(changes={"sweeps": sweeps, "videos_per_variation": "7"}))
        async with application(size=(80, 20)) as it:
            await it.until(lambda: it.screen(ComposeScreen).config)
            await it.press("t")
            await it.paste("a [red|blue] [circle|square|star]")
            await it.until(lambda: "videos  336 = 6 x 8 x 7 seeds" in it.cells("#cost DiffText"))
            assert "w all details" in it.text()

    run(test)


@pytest.mark.parametrize(("size", "shows_cells"), [((140, 40), True), ((80, 24), False)])
def test_cost_of_each_cell_is_shown_where_it_fits(size: tuple[int, int], shows_cells: bool) -> None:
    async def test() -> None:
        save_drafts(find_state_directory().directory, Drafts(changes={"sweeps": "cfg_scale=1,2,4,8"}))
        async with application(size=size) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("a [red|blue] circle")
            await it.until(lambda: screen.preview and screen.preview.video_count == 16)
            await it.until(lambda: "w all details" in it.text())
            row = re.search(r"^ +4 +red .* 4 videos, ", it.cells("#cost DiffText"), re.MULTILINE)
            assert (row is not None) == shows_cells
            await it.press("escape", "w")
            reader = await it.until(lambda: isinstance(it.app.screen, TextViewer) and it.app.screen)
            assert "cfg_scale 4: 4 videos" in reader.text
            assert "(16 videos x " in reader.text

    run(test)


def test_cost_shows_the_effect_that_the_seeds_can_find_or_that_they_are_too_few() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("a red circle")
            await it.until(lambda: screen.preview)
            assert "power" not in it.cells("#cost DiffText")
            await it.press("ctrl+u")
            await it.paste("a [red|blue] circle")
            few = "power 2 seeds detect no difference between groups"
            await it.until(lambda: few in " ".join(it.cells("#cost DiffText").split()))
            await it.press("escape", "s")
            screen.config_pane.settings_form.post_message(
                SettingsForm.Changed("videos_per_variation", "7", is_final=True)
            )
            expected = "power 7 seeds detect 1.4 SD (red|blue)"
            await it.until(lambda: expected in " ".join(it.cells("#cost DiffText").split()))
            assert "no difference" not in it.cells("#cost DiffText")

    run(test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_all_warnings_are_shown_in_a_dialog(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with application(size=size) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste(ODD)
            preview = await it.until(lambda: screen.preview)
            assert len(preview.warnings) > 4
            if size == (80, 24):
                await it.until(lambda: "w all details" in it.text())
            else:
                await it.until(lambda: shows_all(it.cells("#cost DiffText"), preview.warnings))
            await it.press("escape", "w")
            reader = await it.until(lambda: isinstance(it.app.screen, TextViewer) and it.app.screen)
            for warning in preview.warnings:
                assert warning in reader.text
            await it.press("escape")
            assert isinstance(it.app.screen, ComposeScreen)

    run(test)


def test_warnings_key_without_warnings_is_explained() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("w")
            assert "the draft has no warnings" in it.notifications()

    run(test)


def test_invalid_config_clears_the_previous_cost() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("a [red|blue] circle")
            await it.until(lambda: "4 = 2 variations" in it.cells("#cost DiffText"))
            it.app.drafts.text = "model_settings:\n  steps: none\n  seed: many\n"
            screen.config_pane.load_config()
            await it.until(lambda: screen.draft_error)
            assert screen.preview is None
            assert not it.cells("#cost DiffText").strip()
            await it.press("f5")
            assert "steps" in it.notifications()
            await it.press("escape", "w")
            reader = await it.until(lambda: isinstance(it.app.screen, TextViewer) and it.app.screen)
            assert "steps" in reader.text
            assert "seed" in reader.text

    run(test)


def test_template_of_a_megabyte_is_refused_with_its_length() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste(("word " * 39_999 + "word\n") * 5)
            await it.until(lambda: "it has 1,000,000 characters" in screen.draft_error)
            await it.press("f5")
            assert "cannot expand the template" in it.notifications()

    run(test)


def test_engine_and_pause_keys_do_not_edit_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    pressed: list[str] = []
    monkeypatch.setattr(WantuiApp, "action_start_engine", lambda _: pressed.append("engine"))
    monkeypatch.setattr(WantuiApp, "action_pause_queue", lambda _: pressed.append("pause"))

    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            await it.press("f6", "f7", "x")
            assert it.screen(ComposeScreen).template_editor.text == "a red circlex"
            assert pressed == ["engine", "pause"]

    run(test)


def test_queueing_into_a_locked_queue_shows_progress_then_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached, freed = threading.Event(), threading.Event()

    def wait_and_fail(*_: object) -> None:
        reached.set()
        freed.wait(20)
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr("wantui.batches.enqueue.enqueue_new_batch", wait_and_fail)

    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            await it.press("f5")
            await it.until(reached.is_set)
            assert "queueing ..." in it.text()
            freed.set()
            await it.until(lambda: "another program has locked it (database is locked)" in it.notifications())
            assert "Nothing was changed; try again." in it.notifications()
            assert "queueing ..." not in it.text()

    run(test)


def test_unexpected_planning_errors_are_shown_as_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        Recipe.model_validate({"prompt": 7})

    monkeypatch.setattr("wantui.planning.preview_batch", refuse)
    state_dir = find_state_directory()
    error = compute_preview(load_config("nano"), "a star", [], None, state_dir).error
    assert error.startswith("cannot plan the batch: the recipe does not accept ")
    assert "model: Field required" in error
    assert "\n" not in error
    assert "pydantic" not in error


def test_frames_of_compose_name_the_keys_of_the_user() -> None:
    async def test() -> None:
        keys = {"compose.template": "f12,t", "compose.warnings": "W", "compose.reset_setting": "Z"}
        async with application(size=(120, 40), keys=keys) as it:
            await it.press("f12")
            await it.paste("a red circle")
            await it.press("escape")
            for title in ("F12 Template", "c Config", "W Cost", "W all details", "Z reset   / find"):
                await it.until(lambda: title in it.text())  # noqa: B023
            apply_settings(it.app, TuiSettings(keys={"compose.configs": "C"}))
            for title in ("t Template", "C Config", "w Cost", "w all details", "r reset   / find"):
                await it.until(lambda: title in it.text())  # noqa: B023
            await it.press("2")
            apply_settings(it.app, TuiSettings(keys={"compose.configs": "D"}))
            await it.press("1")
            await it.until(lambda: "D Config" in it.text())

    run(test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_changed_settings_are_listed_beside_the_cost(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with application(size=size) as it:
            await it.press("t")
            await it.paste("a large red circle moving left over a dark background")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            assert "config" not in it.cells("#cost DiffText")
            screen.config_pane.drafts.changes = {"batch_name": "first", "model_settings.steps": "8"}
            screen.config_pane.load_config()
            await it.until(
                lambda: "config nano steps 8 batch name first" in " ".join(it.cells("#cost DiffText").split())
            )

    run(test)


def test_meter_of_a_cost_leaves_room_for_the_sign_of_an_error() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            pane = it.screen(ComposeScreen).cost_pane
            for fits, text_width in ((True, 22), (False, 20)):
                for excess, has_meter in ((0, True), (1, False)):
                    pane.cost_lines = [CostLine("memory", "x" * (text_width + excess), "", fits, used_share=0.5)]
                    (line,) = pane._draw_cost_lines(NAME_WIDTH + METER_WIDTH + 2 + 22, "values")
                    assert ("━" in line.plain) == has_meter
                    assert line.cell_len <= NAME_WIDTH + METER_WIDTH + 2 + 22

    run(test)


@pytest.mark.parametrize(("share", "has_meter"), [(0.0, False), (0.009, False), (0.01, True), (1.0, True)])
def test_cost_of_less_than_a_hundredth_has_no_meter(share: float, has_meter: bool) -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            pane = it.screen(ComposeScreen).cost_pane
            pane.cost_lines = [CostLine("disk", "1 GB", "", True, used_share=share)]
            (line,) = pane._draw_cost_lines(60, "values")
            assert ("─" in line.plain or "━" in line.plain) == has_meter

    run(test)


def test_invalid_width_is_an_error_at_its_field_with_a_sweep() -> None:
    async def test() -> None:
        save_drafts(find_state_directory().directory, Drafts(changes={"sweeps": "cfg_scale=1,2"}))
        async with application(size=(80, 24)) as it:
            await go_to(it, "video_settings.width")
            form = it.screen(ComposeScreen).config_pane.settings_form
            await it.press("enter")
            form.value_input.value = "130"
            await it.pilot.pause()
            await it.press("enter")
            await it.until(lambda: form.value_error)
            assert form.error_key == "video_settings.width"
            assert form.value_error == "130 is not a multiple of 16; the nearest are 128 or 144"
            assert "video_settings.width" not in it.app.drafts.changes

    run(test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_template_pane_shows_the_whole_reason_why_no_cell_can_be_generated(size: tuple[int, int]) -> None:
    async def test() -> None:
        changes = {"sweeps": "cfg_scale=1,2", "video_settings.width": "130", "video_settings.height": "70"}
        save_drafts(find_state_directory().directory, Drafts(changes=changes))
        async with application(size=size) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("a red circle")
            await it.until(lambda: screen.draft_error)
            await it.pilot.pause()
            shown = " ".join(read_region(it, screen.error_line).split())
            assert "no cell of the sweep can be generated: video_settings.width: 130 is not a multiple" in shown
            assert "the nearest are 64 or 80" in shown

    run(test)


def test_seeds_replaces_a_changed_number_of_videos_and_says_so() -> None:
    async def test() -> None:
        save_drafts(find_state_directory().directory, Drafts(changes={"videos_per_variation": "7"}))
        async with application(size=(140, 40)) as it:
            await it.until(lambda: it.screen(ComposeScreen).config)
            form = it.screen(ComposeScreen).config_pane.settings_form
            await go_to(it, "seeds")
            form.post_message(SettingsForm.Changed("seeds", "1..8", is_final=True))
            await it.until(lambda: it.app.drafts.changes == {"seeds": "1..8"})
            assert "seeds replaces your change of videos per variation" in it.notifications()
            await go_to(it, "videos_per_variation")
            form.post_message(SettingsForm.Changed("videos_per_variation", "3", is_final=True))
            await it.until(lambda: form.value_error)
            assert form.value_error == "cannot be combined with seeds (1..8); change or clear seeds instead"

    run(test)


def test_errors_of_other_changed_settings_name_no_option_of_the_command_line() -> None:
    draft_text = DraftText("seeds: 1..8\n", Path("mine.yaml"))
    with pytest.raises(ConfigError, match=r"^Settings: videos_per_variation: cannot be combined with seeds"):
        draft_text.parse_with_changes({"videos_per_variation": "3"})


def test_saving_a_config_keeps_the_dialog_open_with_the_error() -> None:
    async def test() -> None:
        Path("folder").mkdir()
        Path("mine.yaml").write_text("{}")
        async with application() as it:
            await it.until(lambda: it.screen(ComposeScreen).config)
            await it.press("escape", "ctrl+s")
            dialog = await it.until(lambda: isinstance(it.app.screen, InputDialog) and it.app.screen)
            for path, error in (("./folder", "it is a folder"), ("mine.yaml/x", "Not a directory")):
                field = dialog.query_one(Input)
                field.value = path
                await it.press("enter")
                await it.until(lambda text=error: text in it.text())  # type: ignore[misc]
                assert it.app.screen is dialog
                assert field.value == path
            assert not Path("folder.yaml").exists()
            field.value = "./mine"
            await it.press("enter")
            await it.until(lambda: isinstance(it.app.screen, Confirm))
            await it.press("n")
            await it.until(lambda: it.app.screen is dialog)
            await it.press("enter")
            await it.until(lambda: isinstance(it.app.screen, Confirm))
            await it.press("y")
            await it.until(lambda: it.app.drafts.config == "mine.yaml")
            await it.until(lambda: isinstance(it.app.screen, ComposeScreen))
            assert Path("mine.yaml").read_text() != "{}"

    run(test)
