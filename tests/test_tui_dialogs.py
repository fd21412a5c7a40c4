"""Dialogs under keys that come faster than they close, and in terminals that have no room for them."""

from pathlib import Path

import pytest
from harness_tui import AppUnderTest, application, run
from textual.widgets import Button, OptionList

from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.screens.dialogs import Confirm, TextViewer
from wantui.tui.screens.history import History

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


@pytest.mark.parametrize("kind", ["history", "batches"])
def test_paging_a_list_without_visible_rows_does_not_crash(kind: str) -> None:
    async def opened(it: AppUnderTest) -> None:
        dialog = History(["one", "two"]) if kind == "history" else BatchChooser([Path("one"), Path("two")], [])
        await it.app.push_screen(dialog)

    async def test() -> None:
        async with application(size=(60, 3)) as it:
            await opened(it)
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
