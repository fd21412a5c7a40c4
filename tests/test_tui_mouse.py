"""Clicks: on rows inside a frame, on cells of a matrix, and on keys of the last line."""

from pathlib import Path

import pytest
from conftest import only_queued
from dialogs import DIALOGS
from harness_screens import add, on
from harness_tui import AppUnderTest, application, run
from textual.events import MouseDown
from textual.widget import Widget

from wantui.queue.queue import Queue
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.dialogs import TextViewer
from wantui.tui.screens.help import Help
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.player import Player
from wantui.tui.screens.queue import QueueScreen

pytestmark = pytest.mark.terminal


async def click(it: AppUnderTest, text: str) -> None:
    """Click on a text where it is on the screen first."""
    lines = it.text().splitlines()
    y = next(number for number, line in enumerate(lines) if text in line)
    await it.pilot.click(offset=(lines[y].index(text), y))
    await it.pilot.pause()


def test_click_selects_the_row_under_the_mouse(queue: Queue) -> None:
    for name in ("first", "second", "third"):
        add(queue, name, 60)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "red seed 44" in it.text())
        for name in ("third", "second", "third"):
            await click(it, f"{name} ")
            assert screen.visible_batches[screen.batch_list.cursor].name == name
        await it.until(lambda: "Videos of third" in it.text() and "red seed 46" in it.text())
        await click(it, "red seed 46")
        assert screen.video_list.cursor == 4
        await it.press("end")
        await it.until(lambda: "red seed 100" in it.text())
        await click(it, "red seed 100")
        assert screen.video_list.cursor == 58
        frame = screen.video_list.region
        for x, y in ((frame.x + 4, frame.y), (frame.x, frame.y + 2), (frame.x + 4, frame.bottom - 1)):
            await it.pilot.click(offset=(x, y))
            assert screen.video_list.cursor == 58, "a click on the frame moves nothing"
        await it.pilot.click(offset=(frame.x + 4, frame.y + 1))
        assert screen.video_list.cursor == 58, "a click on the header moves nothing"

    on("queue", test)


def test_second_click_opens_a_video_in_an_unvisited_library(queue: Queue) -> None:
    add(queue, "first")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "red seed 44" in it.text())
        await click(it, "2  · waiting")
        assert isinstance(it.app.screen, QueueScreen)
        await click(it, "2  · waiting")
        await it.until(lambda: isinstance(it.app.screen, LibraryScreen) and it.app.screen.is_mounted)

    on("queue", test)


@pytest.mark.parametrize("keys", [("o",), ("enter", "enter")])
def test_queue_opens_a_batch_in_an_unvisited_library(queue: Queue, keys: tuple[str, ...]) -> None:
    folder = Path("outputs/broken")
    folder.mkdir(parents=True)
    (folder / "batch.json").write_text("{")
    add(queue, "outputs/other")
    add(queue, str(folder))

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "broken" in it.text())
        await it.press("down", *keys)
        screen = await it.until(lambda: isinstance(it.app.screen, LibraryScreen) and it.app.screen)
        await it.until(lambda: screen.shown_folder == folder.resolve())

    on("queue", test)


def test_click_on_a_footer_key_runs_its_action() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("t")
            await it.paste("a circle")
            for label in ("/ Find", "y YAML", "? Help"):
                if label in it.text().splitlines()[-1]:
                    await click(it, label)
                    await it.press("escape")
            assert screen.template_editor.text == "a circle"
            await it.press("escape")
            await click(it, "/ Find")
            assert it.app.focused is screen.config_pane.settings_form.filter_input
            await it.press("escape")
            await click(it, "? Help")
            await it.until(lambda: isinstance(it.app.screen, Help))

    with only_queued():
        run(test)


def test_screen_handles_each_snapshot_once(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        show_snapshot = screen.show_snapshot

        def counted(snapshot: QueueSnapshot) -> None:
            seen.append(snapshot)
            show_snapshot(snapshot)

        monkeypatch.setattr(screen, "show_snapshot", counted)
        add(queue, "first")
        await it.until(lambda: "first" in it.text())
        await it.pilot.pause(0.3)
        assert len(seen) == len(set(map(id, seen)))

    on("queue", test)


def test_click_below_the_last_row_chooses_nothing(queue: Queue) -> None:
    add(queue, "first", 1)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "red seed 42" in it.text())
        region = screen.video_list.content_region
        await it.pilot.click(offset=(region.x + 3, region.bottom - 1))
        await it.pilot.pause()
        assert isinstance(it.app.screen, QueueScreen)

    on("queue", test)


@pytest.mark.parametrize("where", ["screen", "dialog", "player"])
def test_click_on_a_widget_being_removed_does_not_crash(where: str) -> None:
    async def test() -> None:
        async with application() as it:
            if where != "screen":
                it.app.push_screen(DIALOGS[TextViewer if where == "dialog" else Player]())
            await it.pilot.pause(0.2)
            shown = it.app.screen.query(Widget)
            gone = next(widget for widget in shown if widget.region and widget.allow_select)
            x, y, parent = gone.region.x, gone.region.y, gone._parent
            assert parent is not None
            gone._detach()  # as a toast is, until the screen is drawn again
            it.app.screen._forward_event(MouseDown(gone, x, y, 0, 0, 1, False, False, False, x, y))
            gone._attach(parent)

    with only_queued():
        run(test)
