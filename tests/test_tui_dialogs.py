"""Dialogs under keys that come faster than they close, and in terminals that have no room for them."""

from pathlib import Path
from typing import Any

import pytest
from dialogs import DIALOGS
from harness_tui import application, run
from textual.screen import ModalScreen
from textual.widgets import Button, OptionList

from wantui.storage.batch_index import BatchSummary
from wantui.tui.dates import format_date
from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.screens.dialogs import Confirm, TextViewer
from wantui.tui.screens.history import TemplateHistory
from wantui.tui.screens.player import Player
from wantui.tui.screens.welcome import Welcome
from wantui.tui.screens.yaml_editor import YamlEditor
from wantui.tui.widgets.batch_picker import BatchPicker

pytestmark = pytest.mark.terminal


def test_second_answer_to_a_dialog_is_ignored() -> None:
    answers: list[bool | None] = []

    async def test() -> None:
        async with application() as it:
            below = it.app.screen
            dialog = Confirm("sure?", "Yes")
            await it.app.push_screen(dialog, answers.append)
            dialog.on_button_pressed(Button.Pressed(dialog.query_one("#yes", Button)))
            dialog.action_answer(False)
            dialog.dismiss(False)
            await it.pilot.pause()
            assert it.app.screen is below
            assert answers == [True]

    run(test)


def test_dismissing_a_covered_dialog_closes_both_dialogs() -> None:
    async def test() -> None:
        async with application() as it:
            below = it.app.screen
            dialog = TextViewer("first", "")
            await it.app.push_screen(dialog)
            await it.app.push_screen(TextViewer("second", ""))
            dialog.dismiss()
            await it.until(lambda: it.app.screen is below)

    run(test)


def test_paging_a_list_without_visible_rows_does_not_crash() -> None:
    async def test() -> None:
        async with application(size=(60, 3)) as it:
            await it.app.push_screen(TemplateHistory(["one", "two"]))
            options = it.app.screen.query_one(OptionList)
            await it.until(lambda: options.options)
            options.styles.display = "block"
            options.styles.height = 0
            options.styles.min_height = 0
            options.styles.border = None
            options.highlighted = 0 if options.options else None
            await it.pilot.pause()
            assert not options.scrollable_content_region
            options.action_page_down()  # type: ignore[no-untyped-call]
            options.action_page_up()  # type: ignore[no-untyped-call]
            assert it.app.is_running

    run(test)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["enter"], False),
        (["escape"], False),
        (["n"], False),
        (["y"], True),
        (["right", "enter"], True),
        (["left", "right", "enter"], False),
        (["tab", "enter"], True),
    ],
)
def test_confirmation_needs_a_choice_of_the_dangerous_button(keys: list[str], answer: bool) -> None:
    answers: list[bool | None] = []

    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.app.push_screen(Confirm("Cancel it?", "Cancel"), answers.append)
            await it.press(*keys)
            await it.until(lambda: answers == [answer])

    run(test)


@pytest.mark.parametrize("dialog_type", [kind for kind in DIALOGS if kind is not Player])
def test_escape_closes_every_dialog_and_its_frame_names_the_key(dialog_type: type[ModalScreen[Any]]) -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            below = it.app.screen
            await it.app.push_screen(DIALOGS[dialog_type]())
            await it.pilot.pause()
            if dialog_type not in (Welcome, YamlEditor):  # their keys are on buttons and in a footer
                assert "esc close" in it.text().lower()
            await it.press("escape")
            await it.until(lambda: it.app.screen is below)

    run(test)


@pytest.mark.parametrize("theme", ["wantui-dark", "wantui-light", "ansi-dark", "ansi-light"])
def test_focused_button_is_reversed(theme: str) -> None:
    async def test() -> None:
        async with application(size=(80, 24), theme=theme) as it:
            await it.app.push_screen(Confirm("Cancel it?", "Cancel"))
            await it.pilot.pause()
            strips = it.app.screen._compositor.render_strips()
            segments = {s.text.strip(): s.style for strip in strips for s in strip if s.style and s.text.strip()}
            assert segments["No (n)"].reverse
            assert not segments["Cancel (y)"].reverse

    run(test)


def summarise(name: str, created: str, template: str, seeds: str, sweep: str = "", **counts: int) -> BatchSummary:
    return BatchSummary(Path(name), created, template, "nano", tuple(counts.items()), "", seeds, sweep)


BATCHES = [
    summarise("one_20261129_000141", "2026-11-29T00:01:41+00:00", "a [red|blue] circle", "42 to 44", done=6),
    summarise("one_20261128_120000", "2026-11-28T12:00:00+00:00", "a star", "7", "cfg_scale 1, 4", done=1, failed=1),
]
"""Two batches of one name."""


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_list_of_batches_to_analyse_shows_date_videos_seeds_and_template(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with application(size=size) as it:
            it.app.push_screen(BatchChooser(BATCHES, [BATCHES[1].folder]))
            await it.until(lambda: "1 batch selected" in it.text())
            lines = it.text().splitlines()
            header = next(line for line in lines if "created" in line)
            rows = [line for line in lines if "[ ]" in line or "[x]" in line]
            for batch, row, videos in zip(BATCHES, rows, ("6", "1/2"), strict=True):
                assert row[header.index("created") :].startswith(format_date(batch.created_at))
                assert row[header.index("seeds") :].startswith(batch.seeds)
                assert row[header.index("sweep") :].startswith(batch.sweep.replace("_", " ") or " ")
                assert size == (80, 24) or row[header.index("template") :].startswith(batch.template[:10])
                assert row[: header.index("seeds")].rstrip().endswith(f" {videos}")
            await it.until(lambda: "1 done, 1 failed" in it.cells("#picked-facts"))
            assert "cfg scale 1, 4" not in it.cells("#picked-facts"), "the row shows it"
            await it.press("up")
            await it.until(lambda: "videos" not in it.cells("#picked-facts"))
            assert all(text not in it.cells("#picked-facts") for text in ("42 to 44", "created")), "the row shows them"
            is_in_facts = BATCHES[0].template in it.cells("#picked-facts")
            assert is_in_facts == (size == (80, 24)), "a wide row shows it in full"

    run(test)


def test_batches_that_differ_only_in_their_time_are_numbered() -> None:
    again = summarise("one_20261130_000141", "2026-11-30T00:01:41+00:00", "a [red|blue] circle", "42 to 44", done=6)

    async def test() -> None:
        async with application(size=(140, 40)) as it:
            it.app.push_screen(BatchChooser([again, *BATCHES], []))
            await it.until(lambda: "0 batches selected" in it.text())
            names = [line.split("[ ]")[1].split("  ")[1].strip() for line in it.text().splitlines() if "[ ]" in line]
            assert names == ["one #2", "one #1", "one"]
            await it.until(lambda: "same as  batch of 29 Nov" in it.cells("#picked-facts"))

    run(test)


def test_words_that_all_templates_have_are_muted() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            it.app.push_screen(BatchChooser(BATCHES, []))
            await it.until(lambda: "0 batches selected" in it.text())
            picker = it.app.screen.query_one(BatchPicker)
            template = picker._draw_template(0)
            (span,) = [span for span in template.spans if span.style == picker.make_colour_style("text-muted")]
            assert template.plain[span.start : span.end].strip() == "a"

    run(test)


def test_chosen_batches_are_marked_by_a_sign_and_not_by_colour_alone() -> None:
    answers: list[list[Path] | None] = []

    async def test() -> None:
        async with application(size=(80, 24)) as it:
            it.app.push_screen(BatchChooser(BATCHES, [BATCHES[1].folder]), answers.append)
            await it.until(lambda: "1 batch selected" in it.text())
            boxes = ["[x]" in line for line in it.text().splitlines() if "[x]" in line or "[ ]" in line]
            assert boxes == [False, True]
            await it.press("up", "space")
            await it.until(lambda: it.text().count("[x]") == 2 and "2 batches selected" in it.text())
            await it.press("enter")
            await it.until(lambda: answers == [[batch.folder for batch in BATCHES]])

    run(test)


def test_batch_under_the_cursor_is_analysed_if_none_is_chosen() -> None:
    answers: list[list[Path] | None] = []

    async def test() -> None:
        async with application(size=(80, 24)) as it:
            it.app.push_screen(BatchChooser(BATCHES, []), answers.append)
            await it.until(lambda: "0 batches selected" in it.text())
            await it.press("down", "enter")
            await it.until(lambda: answers == [[BATCHES[1].folder]])

    run(test)
