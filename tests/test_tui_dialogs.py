"""Dialogs under keys that come faster than they close, and in terminals that have no room for them."""

from pathlib import Path
from typing import Any

import pytest
from dialogs import DIALOGS
from harness_tui import AppUnderTest, application, run
from textual.screen import ModalScreen
from textual.widgets import Button, OptionList

from wantui.tui.screens.choose_batches import BatchChooser
from wantui.tui.screens.dialogs import Confirm, TextViewer
from wantui.tui.screens.history import History
from wantui.tui.screens.player import Player
from wantui.tui.screens.welcome import Welcome
from wantui.tui.screens.yaml_editor import YamlEditor

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


def test_selected_batches_are_marked_by_a_sign_and_not_by_colour_alone() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            it.app.push_screen(BatchChooser([Path("one"), Path("two")], [Path("two")]))
            await it.until(lambda: isinstance(it.app.screen, BatchChooser) and "two" in it.text())
            lines = [line for line in it.text().splitlines() if "▐" in line]
            assert ["X" in line for line in lines] == [False, True]
            await it.press("space")
            await it.until(lambda: it.text().count("X▌") == 2)

    run(test)
