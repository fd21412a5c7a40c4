"""Bytes that a terminal gets while nothing happens, under every dialog, and while a batch runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import step_done
from dialogs import DIALOGS, counted_bytes, dialog_types
from harness_screens import RECIPE, claim
from harness_tui import application, run, run_together
from rich.cells import cell_len
from textual.app import ComposeResult
from textual.geometry import Offset, Size
from textual.screen import ModalScreen
from textual.widgets import Static

from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.tui.terminal.sent_cells import SentCellsApp

pytestmark = pytest.mark.terminal

SECONDS = 1.5
"""Seconds that a screen is watched: longer than a blink, an animation and a second of the clock take."""
FEW = 32
"""Bytes of the terminal's title, which may change once."""


def test_byte_counts_cover_every_dialog() -> None:  # T1
    assert set(DIALOGS) == dialog_types()


def test_dialogs_send_nothing_while_nothing_happens() -> None:  # T1
    sent: dict[str, str] = {}

    async def test(kind: type[ModalScreen[Any]]) -> None:
        async with application() as it:
            it.app.push_screen(DIALOGS[kind]())
            await it.until(lambda: isinstance(it.app.screen, kind))
            await it.pilot.pause(0.7)
            with counted_bytes(it.app) as written:
                it.app.screen.refresh()
                await it.until(lambda: len("".join(written)) > 1000)  # what is drawn is counted
                written.clear()
                await asyncio.sleep(SECONDS)
            sent[kind.__name__] = "".join(written)

    run_together(test, DIALOGS)
    assert len(sent) == len(DIALOGS)
    assert {name: text for name, text in sent.items() if len(text) > FEW} == {}


def test_dialogs_send_nothing_while_a_batch_runs_below_them() -> None:  # T1
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(0, "red", RECIPE, 20)])
    running = claim(queue)
    sent: dict[str, str] = {}
    watched = asyncio.Barrier(len(DIALOGS) + 1)

    async def record_steps() -> None:
        await watched.wait()
        for step in range(5):
            queue.record_step(running, step_done(step, 20, 0.25, 1 - step / 20, norm=1.0, velocity=1.5))
            await asyncio.sleep(SECONDS / 5)

    async def watch(kind: type[ModalScreen[Any]]) -> None:
        async with application() as it:
            await it.press("3")
            await it.until(lambda: "worker-0" in it.text())
            it.app.push_screen(DIALOGS[kind]())
            await it.until(lambda: isinstance(it.app.screen, kind))
            await it.pilot.pause(0.7)
            with counted_bytes(it.app) as written:
                await watched.wait()
                await it.until(lambda: it.app.snapshot.running_videos[0].step == 5)
                await asyncio.sleep(SECONDS / 5)
            sent[kind.__name__] = "".join(written)
            it.app.pop_screen()
            await it.until(lambda: "5/20" in it.text())

    run_together(lambda kind: record_steps() if kind is None else watch(kind), [None, *DIALOGS])
    queue.close()
    assert len(sent) == len(DIALOGS)
    assert {name: text for name, text in sent.items() if len(text) > FEW} == {}


def test_screen_is_redrawn_when_a_dialog_closes() -> None:  # T1
    async def test() -> None:
        async with application(size=(120, 40)) as it:
            await it.press("2", "question_mark")
            queue = Queue(find_state_directory().directory)
            queue.add_batch(Path("kiss").absolute(), "auto", [NewVideo(0, "red", RECIPE, 20)])
            await it.until(lambda: it.app.snapshot.batches)
            await it.pilot.resize_terminal(80, 24)
            await it.press("escape")
            await it.until(lambda: "kiss" in it.text())
            assert max(map(len, it.text().splitlines())) <= 80

    run(test)


def test_screens_send_nothing_while_nothing_happens() -> None:
    sent: dict[str, str] = {}

    async def test(number: str) -> None:
        async with application(gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()  # the machine's memory does change
            await it.press(number)
            await it.pilot.pause(1.5)
            with counted_bytes(it.app) as written:
                await asyncio.sleep(SECONDS)
            sent[it.app.screen.name or ""] = "".join(written)

    run_together(test, "12345")
    assert len(sent) == 5
    assert {name: text for name, text in sent.items() if len(text) > FEW} == {}


def test_monitor_of_a_running_video_without_progress_sends_nothing() -> None:  # T1
    folder = Path("one").absolute()
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "batch.log").write_text("loading the model\n")
    queue = Queue(find_state_directory().directory)
    queue.add_batch(folder, "auto", [NewVideo(0, "red", RECIPE, 20)])
    claim(queue)

    async def test() -> None:
        async with application(gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()
            await it.press("3")
            await it.until(lambda: "Log: batch.log" in it.text() and "loading the model" in it.text())
            await it.pilot.pause(1.5)
            with counted_bytes(it.app) as written:
                await asyncio.sleep(2 * SECONDS)
            assert "".join(written) == ""

    run(test)
    queue.close()


def test_update_without_changed_cells_sends_nothing_but_moves_of_the_text_cursor() -> None:  # T1
    async def test() -> None:
        async with application() as it:
            it.app.gpu_monitor.stop()
            await it.pilot.pause(1.5)
            with counted_bytes(it.app) as written:
                it.app.screen.refresh()
                await it.until(lambda: len("".join(written)) > 1000)
                written.clear()
                it.app.screen.refresh()
                await it.pilot.pause(0.5)
                assert "".join(written) == ""
                it.app.cursor_position = it.app.cursor_position + Offset(1, 0)
                it.app.screen.refresh()
                await it.until(lambda: "".join(written))
                assert re.fullmatch(r"\x1b\[\d+;\d+H", "".join(written))

    run(test)


def apply_output(grid: list[list[str]], output: str) -> None:
    """Write what a terminal gets into a grid of characters, as a terminal does that knows only cursor positions."""
    row = column = 0
    for match in re.finditer(r"\x1b\[(\d+);(\d+)H|\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|(.)", output, re.DOTALL):
        if match[1]:
            row, column = int(match[1]) - 1, int(match[2]) - 1
        elif match[3]:
            assert match[3] != "\n"
            for character in (match[3], *[""] * (cell_len(match[3]) - 1)):
                # Textual turns off line wrap: a terminal puts what does not fit into its last column and row.
                grid[min(row, len(grid) - 1)][min(column, len(grid[0]) - 1)] = character
                column += 1


def make_grid(text: str, size: tuple[int, int]) -> list[list[str]]:
    """Return the characters of a screen by cell; the second cell of a wide character is empty."""
    lines = [
        [cell for character in line for cell in (character, *[""] * (cell_len(character) - 1))]
        for line in text.splitlines()
    ]
    return [[*line, *" " * (size[0] - len(line))] for line in [*lines, *[[]] * (size[1] - len(lines))]]


def test_changed_cells_alone_update_the_terminal_correctly() -> None:
    size = (120, 40)
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(i, f"red 圆圈 {i}", RECIPE, 20) for i in range(2)])
    running = claim(queue)

    async def test() -> None:
        async with application(size=size, gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()
            await it.press("3")
            await it.until(lambda: "圆圈 0" in it.text())
            await it.pilot.pause(1.2)
            grid = make_grid(it.text(), size)
            with counted_bytes(it.app) as written:
                for step in range(6):
                    queue.record_step(running, step_done(step, 20, 0.25 + step, 1 - step / 20, norm=1.0 + step))
                    await it.until(lambda: f"{step + 1}/20" in it.text())  # noqa: B023
                    await it.pilot.pause(0.3)
            apply_output(grid, "".join(written))
            assert grid == make_grid(it.text(), size)

    run(test)
    queue.close()


def test_terminal_shows_every_screen_and_dialog_that_is_visited() -> None:
    size = (120, 40)
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(i, f"red 圆圈 {i}", RECIPE, 20) for i in range(2)])
    queue.close()

    async def test() -> None:
        async with application(size=size, gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()
            grid = make_grid("", size)
            with counted_bytes(it.app) as written:
                for key in ("2", "question_mark", "escape", "ctrl+p", "escape", "3", "4", "5", "2", "1"):
                    await it.press(key)
                    await it.pilot.pause(0.5)
                    apply_output(grid, "".join(written))
                    written.clear()
                    assert grid == make_grid(it.text(), size), f"after {key}"

    run(test)


@pytest.mark.parametrize("number", "2345")
def test_first_visit_of_a_screen_sends_each_cell_about_once(number: str) -> None:
    """It is laid out two or three times, and Textual sent it as often."""

    async def test() -> None:
        async with application(size=(140, 40), gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()
            await it.pilot.pause(0.5)
            with counted_bytes(it.app) as written:
                await it.press(number)
                await it.pilot.pause(0.7)
            texts = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07", "", "".join(written))
            assert cell_len(texts) < 1.4 * 140 * 40

    run(test)


@pytest.mark.parametrize("key", ["", "ctrl+l"])
def test_terminal_is_redrawn_after_another_program_has_written_to_it(key: str) -> None:
    size = (120, 40)

    async def test() -> None:
        async with application(size=size, gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()
            await it.press("2")
            await it.pilot.pause(0.5)
            grid = make_grid("", size)
            with counted_bytes(it.app) as written:
                if key:
                    await it.press(key)
                else:
                    it.app.app_resume_signal.publish(it.app)
                await it.pilot.pause(0.5)
            apply_output(grid, "".join(written))
            assert grid == make_grid(it.text(), size)

    run(test)


class OneRow(SentCellsApp):
    CSS = "Static { text-wrap: nowrap; text-overflow: clip; height: 1; }"

    def compose(self) -> ComposeResult:
        yield Static("abcdefghijkl")


def test_cells_that_were_drawn_for_a_larger_terminal_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = Size(12, 2), Size(8, 2)

    async def test() -> None:
        app = OneRow()
        async with app.run_test(size=large) as pilot:
            lay_out = app._check_resize

            def draw_before_layout() -> None:
                """Draw an update in the moment between the report of the new size and the layout for it."""
                app.screen._compositor._dirty_regions.add(large.region)
                app.screen._compositor_refresh()
                lay_out()

            monkeypatch.setattr(app, "_check_resize", draw_before_layout)
            grid = make_grid("", small)
            with counted_bytes(app) as written:
                await pilot.resize_terminal(*small)
                await pilot.pause(0.5)
            apply_output(grid, "".join(written))
            assert grid == make_grid("abcdefgh", small)

    run(test)


def test_changed_row_sends_its_changed_cells_only() -> None:
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(0, "red " * 20, RECIPE, 20)])
    running = claim(queue)

    async def test() -> None:
        async with application(size=(140, 40), gpu_panel="hidden") as it:
            it.app.gpu_monitor.stop()
            await it.press("3")
            queue.record_step(running, step_done(0, 20, 0.25, 0.9, norm=1.0))
            await it.until(lambda: "1/20" in it.text())
            await it.pilot.pause(1.2)
            with counted_bytes(it.app) as written:
                queue.record_step(running, step_done(1, 20, 0.25, 0.9, norm=1.0))
                await it.until(lambda: "2/20" in it.text())
            output = "".join(written)
            assert "2" in output
            assert "red" not in output
            assert "Running" not in output

    run(test)
    queue.close()
