"""What goes wrong around the screens: a queue that cannot be read, pastes, sizes, drafts that would be lost."""

import asyncio
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Wantui, batch, only_queued, step_done
from harness_screens import RECIPE, add, claim, on
from harness_tui import AppUnderTest, application, engine_announced, run
from textual.widgets import Input, TextArea

from wantui.engine.control import acquire_engine_lock, publish_engine_info
from wantui.queue.events import BatchAdded, VideoDone
from wantui.queue.queue import Queue
from wantui.queue.reader import QueueReader
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.queue.states import derive_batch_state
from wantui.tui.app import WantuiApp
from wantui.tui.plots import draw_centred_picture
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.dialogs import Confirm, InputDialog
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.player import Player
from wantui.tui.screens.queue import QueueScreen
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.line_input import join_lines
from wantui.tui.widgets.picture_view import PictureView
from wantui.tui.widgets.playback_bar import PlaybackBar

pytestmark = pytest.mark.terminal

READS = (
    "list_batches",
    "get_batch",
    "list_videos",
    "read_video_page",
    "list_running_videos",
    "read_hold",
    "list_events",
    "list_workers",
    "list_finished_videos",
    "count_unfinished_videos_before",
)


def break_reads(patch: pytest.MonkeyPatch) -> None:
    """Let every question to the queue end as on a disk that fails."""

    def fail(*_: Any, **__: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    for name in READS:
        patch.setattr(QueueReader, name, fail)


def test_unreadable_queue_is_reported_and_screens_stay_usable(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:  # B2
    add(queue, "many", 1000)
    queue.record_failure(claim(queue), "it broke")
    claim(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "red seed 44" in it.text())
        break_reads(monkeypatch)
        monkeypatch.setattr(WantuiApp, "action_start_engine", lambda _: None)  # a retry would start a real one
        queue.emit_event(BatchAdded())
        await it.until(lambda: "disk I/O error" in it.text())
        await it.press("enter", "end", "pageup", "home", "escape", "J", "p", "r", "a", "a", "x", "y", "f7")
        for screen in "3451234512":
            await it.press(screen)
            await it.pilot.resize_terminal(100, 30)
            await it.pilot.resize_terminal(120, 40)
        assert it.app.is_running
        monkeypatch.undo()
        await it.until(lambda: "disk I/O error" not in it.text())

    on("queue", test)


def test_drawing_a_list_sends_no_database_queries(queue: Queue) -> None:  # B2, T3
    add(queue, "many", 1000)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "red seed 44" in it.text())
        statements: list[str] = []
        it.app.queue.db.set_trace_callback(statements.append)
        await it.press("enter", "end", "pageup", "home", "down")
        await it.until(lambda: "red seed 42" in it.text())
        for index in range(1000):
            screen._draw_video(index, 80)
        assert not statements

    on("queue", test)


def test_recreated_queue_file_is_reopened(queue: Queue) -> None:
    add(queue, "earlier")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "earlier" in it.text())
        queue.close()
        for path in find_state_directory().directory.glob("queue.db*"):
            path.unlink()
        again = Queue(find_state_directory().directory)
        number = add(again, "new")
        await it.until(lambda: "new" in it.text() and "earlier" not in it.text())
        await it.press("p")
        row = again.get_batch(number)
        assert row is not None
        assert row.paused

    on("queue", test)


@pytest.mark.parametrize(
    ("pasted", "taken"),
    [("one\ntwo", "one two"), ("one\r\ntwo\r\n", "one two"), ("\n", ""), ("a\n\n  b", "a   b"), ("one", "one")],
)
def test_pasted_lines_are_joined(pasted: str, taken: str) -> None:  # A10
    assert join_lines(pasted) == taken


@pytest.mark.parametrize("where", ["search", "value", "ask", "palette"])
def test_every_input_accepts_all_lines_of_a_paste(where: str) -> None:  # A10
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            match where:
                case "search":
                    await it.press("4", "slash")
                case "value":
                    await it.press("s")
                    keys = [getattr(entry, "key", None) for entry in screen.config_pane.settings_form.entries]
                    screen.config_pane.settings_form.field_list.cursor = keys.index("prompt_settings.negative_prompt")
                    await it.press("enter")
                    screen.config_pane.settings_form.value_input.value = ""
                case "ask":
                    await it.press("ctrl+s")
                    await it.until(lambda: isinstance(it.app.screen, InputDialog))
                case "palette":
                    await it.press("ctrl+p")
            await it.until(lambda: isinstance(it.app.focused, Input))
            field = it.app.focused
            assert isinstance(field, Input)
            await it.paste("ugly\nblurry\n")
            assert field.value == "ugly blurry"
            it.app.copy_to_clipboard("worst\nquality")
            field.value = ""
            field.action_paste()
            assert field.value == "worst quality"

    run(test)


@pytest.mark.parametrize("keys", [("t",), ("y",), ("ctrl+s",), ("4", "slash")])
def test_too_large_paste_is_refused(keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.tui.widgets.pasting.MAX_PASTE_LENGTH", 1000)
    monkeypatch.setattr("wantui.tui.widgets.pasting.MAX_PASTED_LINE_LENGTH", 500)

    async def test() -> None:
        async with application() as it:
            await it.until(lambda: it.screen(ComposeScreen).config)
            await it.press(*keys)
            field = await it.until(lambda: it.app.focused)
            assert isinstance(field, Input | TextArea)
            before = field.value if isinstance(field, Input) else field.text
            await it.paste("x" * 1001)
            assert "cannot paste 1,001 characters: the limit is 1,000" in it.notifications()
            assert (field.value if isinstance(field, Input) else field.text) == before
            await it.paste("z" * 501)
            assert "cannot paste a line of 501 characters: the limit is 500" in it.notifications()
            assert ("wantui run --template-file" in it.notifications()) == (keys in [("t",), ("y",)])
            await it.paste("y" * 500)
            assert "y" * 500 in (field.value if isinstance(field, Input) else field.text)

    run(test)


async def open_library_search(it: AppUnderTest) -> Input:
    """Open the search field of the Library, a one-line input."""
    await it.until(lambda: it.screen(ComposeScreen).config)
    await it.press("4", "slash")
    field = await it.until(lambda: it.app.focused)
    assert isinstance(field, Input)
    return field


def test_typing_beyond_the_limit_of_a_line_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.tui.widgets.line_input.MAX_INPUT_LENGTH", 10)
    monkeypatch.setattr("wantui.tui.widgets.pasting.MAX_INPUT_LENGTH", 10)

    async def test() -> None:
        async with application() as it:
            field = await open_library_search(it)
            await it.press(*"abcdefghijkl")
            assert field.value == "abcdefghij"
            assert it.notifications().count("the limit of a line is 10 characters") == 1
            assert "command line" not in it.notifications()
            await it.press("backspace", "z")
            assert field.value == "abcdefghiz"
            field.value = "a value of a config"
            await it.press("end", "backspace", "backspace")
            assert field.value == "a value of a conf"
            await it.press("z", "home", "delete")
            assert field.value == " value of a conf"
            field.action_select_all()
            await it.paste("value of a conf")
            assert field.value == " value of a conf", "a paste keeps to the limit"

    run(test)


def test_lines_that_would_join_to_a_too_long_line_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.tui.widgets.pasting.MAX_INPUT_LENGTH", 100)

    async def test() -> None:
        async with application() as it:
            field = await open_library_search(it)
            await it.paste("x" * 60)
            await it.paste("y\n" * 21)
            assert "cannot paste here: the line would have 101 characters, and the limit is 100" in it.notifications()
            assert field.value == "x" * 60
            await it.paste("y\n" * 20)
            assert field.value == "x" * 60 + "y " * 19 + "y"
            field.action_select_all()
            await it.paste("z" * 100)
            assert field.value == "z" * 100

    run(test)


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({"done": 2}, "done"),
        ({"done": 1, "failed": 1}, "failed"),
        ({"cancelled": 3}, "cancelled"),
        ({"done": 1, "cancelled": 1}, "partly"),
        ({"cancelled": 1, "failed": 1}, "failed"),
        ({"done": 1, "queued": 1, "failed": 0}, "queued"),
        ({"running": 1, "failed": 1}, "running"),
    ],
)
def test_batch_state_follows_from_video_counts(counts: dict[str, int], state: str) -> None:  # C9
    assert derive_batch_state(counts) == state


def test_cancelled_batch_has_no_success_mark(queue: Queue) -> None:  # C9
    number = add(queue, "kiss")
    queue.cancel_videos(number)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "− cancelled" in it.text())
        assert "✓" not in it.text()

    on("queue", test)


def test_ctrl_c_names_the_quit_key_without_markup() -> None:  # C9
    async def test() -> None:
        async with application(keys={"app.quit": "ctrl+y"}) as it:
            await it.press("ctrl+c")
            await it.until(lambda: "press ctrl+y to quit" in it.notifications())
            assert "[b]" not in it.notifications()

    run(test)


def test_header_batch_and_last_video_show_the_same_eta(queue: Queue) -> None:  # C9
    add(queue, "one", 3)
    queue.record_done(
        claim(queue), VideoDone(seconds={"denoise": 20.0, "decode": 10.0, "step": 1.0}, device="cpu", memory_plan="")
    )

    async def test(it: AppUnderTest) -> None:
        # In the header, in the row of the batch and in that of its last video.
        await it.until(lambda: "ETA 1:00" in it.text() and it.text().count(" 1:00") == 3)

    with engine_announced():
        on("queue", test)


def test_queue_without_an_engine_has_no_eta(queue: Queue) -> None:
    add(queue, "one", 3)
    queue.record_done(
        claim(queue), VideoDone(seconds={"denoise": 20.0, "decode": 10.0, "step": 1.0}, device="cpu", memory_plan="")
    )

    queue.record_step(claim(queue), step_done(9, 20, 0.5, 0.5))

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "■ no engine" in it.text() and "1/3 videos" in it.text() and "10/20" in it.text())
        assert not re.search(r"ETA [\d?]|\b[01]:\d\d\b", it.text())

    on("queue", test)


def test_escape_returns_focus_from_value_to_settings_to_configs(queue: Queue) -> None:  # C10
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            await it.press("s", "down", "enter")
            assert screen.config_pane.settings_form.is_editing
            await it.press("escape")
            assert not screen.config_pane.settings_form.is_editing
            assert it.app.focused is screen.config_pane.settings_form.field_list
            await it.press("escape")
            assert it.app.focused is screen.config_pane.config_list

    run(test)


def test_setting_restored_to_its_value_is_not_marked_changed() -> None:  # C10
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            form = screen.config_pane.settings_form
            keys = [getattr(entry, "key", None) for entry in form.entries]
            await it.press("s")
            for key, values in (("model_settings.steps", ("33", "20")), ("model_settings.seed", ("7", "42"))):
                form.field_list.cursor = keys.index(key)
                for value in values:
                    await it.press("enter")
                    form.value_input.value = value
                    await it.press("enter")
                    await it.until(lambda: not form.is_editing)
                    assert (key in it.app.drafts.changes) == (value == values[0])
            form.field_list.cursor = keys.index("latent_analysis_settings.store_latents")
            await it.press("space", "space")
            assert it.app.drafts.changes == {}
            assert "changed)" not in it.text()

    run(test)


def test_edit_copy_asks_before_replacing_a_draft(queue: Queue) -> None:  # C10
    folder = Path("kiss")
    add(queue, "kiss")
    (folder / "configs").mkdir()
    from wantui.storage.layout import BatchFolder

    batch = BatchFolder(folder)
    for path, text in ((batch.config_path, "model_settings:\n  model_id: nano\n"), (batch.template_path, "a kiss\n")):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        it.app.drafts.template, it.app.drafts.changes = "my own work", {"model_settings.seed": "7"}
        await it.press("e")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        assert "Changed settings are lost" in it.text()
        await it.press("n")
        assert it.app.drafts.template == "my own work"
        assert it.app.screen.name == "queue"
        await it.press("e")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(lambda: it.app.drafts.template == "a kiss")
        assert "my own work" in it.app.drafts.history

    on("queue", test)


def test_worker_that_is_loading_torch_is_shown_as_starting(queue: Queue) -> None:  # C11
    add(queue, "one")
    lock = acquire_engine_lock(find_state_directory().directory)
    assert lock is not None
    publish_engine_info(lock, Path("logs"), ["auto", "cpu"])
    queue.record_starting_worker("worker-0:1", "cpu")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: re.search(r"worker-0: loading torch \d+ s", it.text()))
        assert "◌ starting" in it.text()
        assert "F6" not in it.text()
        queue.record_ready_worker("worker-0:1")
        await it.until(lambda: "starting" not in it.text())
        claim(queue)
        await it.until(lambda: re.search(r"worker-0 +cpu +▶ starting +red seed 42", it.text()))

    on("monitor", test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
@pytest.mark.parametrize("shape", [(480, 832), (832, 480), (64, 64)])
def test_clip_fills_the_available_area_and_is_centred(size: tuple[int, int], shape: tuple[int, int]) -> None:  # C14
    width, height = size
    picture = np.full((*shape, 3), 200, np.uint8)
    lines = [line.plain for line in draw_centred_picture(picture, width, height)]
    drawn = [line for line in lines if "▀" in line]
    columns = drawn[0].count("▀")
    assert columns == width or len(drawn) == height
    left = len(drawn[0]) - len(drawn[0].lstrip())
    assert abs(left - (width - columns - left)) <= 1
    above = lines.index(drawn[0])
    assert abs(above - (height - len(drawn) - above)) <= 1


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_player_uses_all_but_its_last_rows_for_the_clip(size: tuple[int, int]) -> None:  # C14
    from dialogs import PausedPlayer

    async def test() -> None:
        async with application(size=size) as it:
            it.app.push_screen(PausedPlayer(["a"]))
            await it.until(lambda: isinstance(it.app.screen, Player) and "▀" in it.text())
            assert it.app.screen.query_one(KeyFooter).size.height == 1
            assert it.app.screen.query_one(PlaybackBar).size.height == 1
            assert it.app.screen.query_one(PictureView).size.height == size[1] - 2  # the prompt is beside the clip

    run(test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_yaml_editor_is_centred_with_one_frame(size: tuple[int, int]) -> None:  # C14
    from dialogs import DIALOGS

    from wantui.tui.screens.yaml_editor import YamlEditor

    async def test() -> None:
        async with application(size=size) as it:
            it.app.push_screen(DIALOGS[YamlEditor]())
            await it.until(lambda: isinstance(it.app.screen, YamlEditor) and it.app.screen.query(".dialog"))
            await it.pilot.pause(0.2)
            dialog = it.app.screen.query_one(".dialog").region
            assert dialog.width >= 0.85 * size[0]
            assert abs(dialog.x - (size[0] - dialog.right)) <= 1
            lines = it.text().splitlines()[dialog.y : dialog.bottom]  # the screen below is seen around it
            inside = "\n".join(line[dialog.x : dialog.right] for line in lines)
            assert inside.count("╭") == 1
            assert "▔" not in inside
            assert "▊" not in inside

    run(test)


def test_search_without_matches_is_explained() -> None:  # C8
    folder = Path("outputs/one")
    folder.mkdir(parents=True)
    (folder / "batch.json").write_text("{")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "Batches: 1 of 1" in it.text())
        await it.press("slash")
        await it.paste("nothing like it")
        await it.until(lambda: "no batch matches 'nothing like" in it.text())
        await it.press("escape", "f", "f")
        assert "no batches yet" not in it.text()

    on("library", test)


def test_keys_do_nothing_after_a_search_without_matches(wantui: Wantui, small: list[str]) -> None:
    made = batch(wantui("run", "-t", "a [red|blue] circle", "--videos-per-variation", 1, *small))

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest and "red, seed 42" in it.text())
        await it.press("slash")
        await it.paste("nothing like it")
        await it.until(lambda: "no batch matches" in it.text())
        assert screen.shown_folder is None
        assert made.root.name not in it.text()
        assert "red, seed 42" not in it.text()
        await it.press("enter")
        for key in ("p", "P", "y", "m", "c", "i", "e", "n", "R", "delete", "space"):
            await it.press(key)
            assert isinstance(it.app.screen, LibraryScreen), key
        await it.press("escape")
        await it.until(lambda: screen.shown_folder == made.root.resolve() and "red, seed 42" in it.text())

    on("library", test)


@pytest.mark.parametrize("start", [(40, 10), (80, 24)])
def test_small_dialogs_hide_the_screen_below_after_a_resize(start: tuple[int, int]) -> None:
    from dialogs import DIALOGS

    async def test() -> None:
        async with application(size=start) as it:
            it.app.push_screen(DIALOGS[Confirm]())
            await it.until(lambda: isinstance(it.app.screen, Confirm))
            it.app.push_screen(DIALOGS[InputDialog]())
            await it.until(lambda: "Save as" in it.text())
            for size in ((start[0], start[1] + 1), (100, 30), (30, 8), start, (60, 20)):
                await it.pilot.resize_terminal(*size)
                await it.pilot.pause(0.1)
                assert "Compose" not in it.text()
                assert "RAM" not in it.text()
            await it.press("escape")
            await it.until(lambda: "Cancel it?" in it.text())
            assert "Save as" not in it.text()
            assert "RAM" not in it.text()
            await it.press("escape")
            await it.until(lambda: "Template" in it.text() and "Cancel it?" not in it.text())

    run(test)


def test_dialog_in_a_low_terminal_shows_its_focused_widget() -> None:
    from dialogs import DIALOGS

    async def test() -> None:
        async with application(size=(40, 7)) as it:
            for kind in (InputDialog, Confirm):
                it.app.push_screen(DIALOGS[kind]())
                await it.until(lambda: isinstance(it.app.screen, kind) and it.app.focused)  # noqa: B023
                await it.pilot.pause(0.2)
                assert it.app.focused is not None
                region = it.app.focused.region
                dialog = it.app.screen.query_one(".dialog").region
                assert dialog.contains_region(region), (region, dialog)
                await it.press("escape")

    run(test)


def test_exception_in_a_screen_thread_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from wantui.tui.screens import library

    def fail(_: object) -> Any:
        raise RuntimeError("a thread ended")

    monkeypatch.setattr(library, "find_batches", fail)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "a thread ended" in it.notifications())

    on("library", test)


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (2, 40), (200, 2), (59, 19), (400, 120)])
def test_every_screen_and_dialog_survives_every_size(size: tuple[int, int], queue: Queue) -> None:
    from dialogs import DIALOGS

    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(0, "red", RECIPE, 20)])
    queue.record_step(claim(queue), step_done(3, 20, 0.1, 0.5, norm=1.0))

    async def test() -> None:
        async with application(size=size, toasts=True) as it:
            it.app.notify("something to say", title="a title")
            for number in "12345":
                await it.press("escape", number)
            for make in DIALOGS.values():
                it.app.push_screen(make())
                await it.pilot.pause()
                await it.pilot.resize_terminal(3, 3)
                await it.pilot.resize_terminal(*size)
                await it.pilot.pause()
                it.app.pop_screen()
            await it.pilot.resize_terminal(80, 24)
            await it.press("1")
            await it.until(lambda: "Config" in it.text())

    with only_queued():
        run(test)


def test_rapid_resizes_end_with_the_last_size_drawn(queue: Queue) -> None:
    add(queue, "one", 50)

    async def test(it: AppUnderTest) -> None:
        for step in range(40):
            await it.pilot.resize_terminal(10 + (step * 37) % 190, 3 + (step * 17) % 57)
            await asyncio.sleep(0)
        await it.pilot.resize_terminal(100, 30)
        await it.until(lambda: len(it.text().splitlines()) == 30 and "red seed 43" in it.text())

    on("queue", test)


def test_unwritable_drafts_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from wantui.tui import drafts

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drafts, "save_drafts", full)

    async def test() -> None:
        async with application() as it:
            await it.press("t")
            for word in ("one ", "two ", "three "):
                await it.paste(word)
                await it.pilot.pause(0.5)
            await it.until(lambda: "cannot save drafts" in it.notifications())
            assert it.notifications().count("cannot save drafts") == 1

    run(test)


@pytest.mark.parametrize(
    "error",
    [UnicodeDecodeError("utf-8", b"x", 0, 1, ""), ValueError("odd"), MemoryError(), IndexError(), TypeError("x")],
    ids=lambda error: type(error).__name__,
)
def test_decoder_exception_is_shown_in_the_player(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:  # R12
    from dialogs import PausedPlayer

    from wantui.storage import clip_reader

    def damaged(*_: object) -> Any:
        raise error
        yield

    monkeypatch.setattr(clip_reader, "read_scaled_frames", damaged)

    async def test() -> None:
        async with application() as it:
            it.app.push_screen(PausedPlayer(["clip"]))
            await it.until(lambda: f"cannot play clip.mp4: {type(error).__name__}" in it.text())
            await it.press("q")
            assert not isinstance(it.app.screen, Player)

    run(test)


NASTY_YAML = (
    "steps: !!int ''",
    "a: &a [*a]",
    "seed: 0x" + "f" * 9000,
    "{" * 500,
    "a: \x00",
    "? [a]",
    "- \ud800",
    "!!x y",
)


@pytest.mark.parametrize("text", NASTY_YAML, ids=range(len(NASTY_YAML)))
def test_yaml_editor_shows_an_error_for_any_invalid_yaml(text: str) -> None:  # R6
    from dialogs import DIALOGS
    from textual.widgets import Static, TextArea

    from wantui.tui.screens.yaml_editor import YamlEditor

    async def test() -> None:
        async with application() as it:
            it.app.push_screen(DIALOGS[YamlEditor]())
            await it.until(lambda: isinstance(it.app.screen, YamlEditor) and it.app.screen.query("TextArea"))
            it.app.screen.query_one(TextArea).text = f"model_settings:\n  {text}\n"
            await it.until(lambda: "✗" in str(it.app.screen.query_one(Static).content))
            await it.press("ctrl+s")
            assert isinstance(it.app.screen, YamlEditor)

    run(test)


def test_invalid_config_does_not_hide_other_configs() -> None:  # R6
    Path("configs").mkdir()
    Path("configs/bad.yaml").write_text("model_settings:\n  steps: !!int ''\n")
    Path("configs/good.yaml").write_text("model_settings:\n  model_id: nano\n")

    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(
                lambda: {"configs/bad.yaml", "configs/good.yaml"} <= {s.config_name for s in screen.config_pane.sources}
            )

    run(test)


def test_warnings_are_not_truncated() -> None:  # C13
    async def test() -> None:
        async with application(size=(80, 40)) as it:
            await it.press("t")
            await it.paste("a red (circle)")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview and screen.preview.warnings)
            assert screen.preview is not None
            warnings = [" ".join(warning.split()) for warning in screen.preview.warnings[:3]]

            def are_shown() -> bool:
                shown = " ".join(it.cells("#cost DiffText").split())
                return all(warning in shown for warning in warnings)

            await it.until(are_shown)

    run(test)


def test_slow_cpu_batch_is_queued_only_after_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:  # C13
    from wantui.batches import batch_cost

    asked = "without a GPU 2 videos will take at least 12 days"
    monkeypatch.setattr(batch_cost, "find_slow_cpu_warning", lambda recipe, videos: asked)

    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            await it.press("f5")
            await it.until(lambda: isinstance(it.app.screen, Confirm) and asked in it.text())
            await it.press("n")
            assert not Queue(find_state_directory().directory).list_batches()
            await it.press("f5")
            await it.until(lambda: isinstance(it.app.screen, Confirm))
            await it.press("y")
            await it.until(lambda: Queue(find_state_directory().directory).list_batches())

    with only_queued():
        run(test)


def test_video_of_a_killed_engine_is_shown_as_interrupted(queue: Queue) -> None:
    add(queue, "one")
    lock = acquire_engine_lock(find_state_directory().directory)
    assert lock is not None
    publish_engine_info(lock, Path("logs"), ["auto", "cpu"])
    queue.record_step(claim(queue), step_done(9, 20, 0.5, 0.5, norm=1.0))

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "╭─ Running" in it.text() and "10/20" in it.text() and " 0:05 " in it.text())
        os.close(lock)
        await it.until(lambda: "Interrupted: the engine stopped; press F6 to start it again" in it.text())
        await it.until(lambda: " 0:05 " not in it.text())
        await it.press("2")
        await it.until(lambda: "no engine is running: press F6 to start one" in it.text())

    on("monitor", test)


def test_engine_that_has_not_published_its_details_is_shown_as_starting(queue: Queue) -> None:
    add(queue, "one", 2)
    directory = find_state_directory().directory
    claim(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "■ no engine" in it.text() and "Interrupted: the engine stopped" in it.text())
        lock = acquire_engine_lock(directory)
        assert lock is not None
        try:
            await it.until(lambda: "◌ starting" in it.text() and "Interrupted: the engine is starting" in it.text())
            await it.until(lambda: "engine stopped" not in it.text() and "F6 to start it" not in it.text())
            await it.press("2")
            await it.until(lambda: "the engine is starting" in it.text())
            assert "F6 to start" not in it.text()
            publish_engine_info(lock, Path("logs"), ["auto", "cpu"])
            await it.until(lambda: "▶ running" in it.text() and "the engine is starting" not in it.text())
            await it.press("3")
            await it.until(lambda: "╭─ Running" in it.text())
        finally:
            os.close(lock)

    on("monitor", test, size=(140, 40))


def test_idle_monitor_says_that_an_engine_is_starting(queue: Queue) -> None:
    add(queue, "one", 2)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "there is no engine; 2 videos waiting" in it.text())
        lock = acquire_engine_lock(find_state_directory().directory)
        assert lock is not None
        try:
            await it.until(lambda: "the engine is starting; 2 videos waiting" in it.text())
        finally:
            os.close(lock)

    on("monitor", test)


@pytest.mark.parametrize("size", [(60, 20), (80, 24)])
def test_long_video_error_is_shown_completely(queue: Queue, size: tuple[int, int]) -> None:
    add(queue, "one")
    queue.record_failure(claim(queue), f"the output folder {'/very/long' * 12} is gone. Queue it again: r")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "✗ failed" in it.text())
        await it.press("enter")
        await it.until(lambda: "Queue it again: r" in " ".join(it.text().split()))

    on("queue", test, size=size)


def test_empty_list_message_is_shown_completely() -> None:
    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "no batches yet; press 1 to" in it.text() and "compose one" in it.text())

    on("library", test, size=(60, 20))
