"""The monitor on the screen: start-up, workers, previews that are scrubbed, and the finished clip."""

import logging
import re
from datetime import date
from pathlib import Path

import pytest
from clip_batches import write_clip_batch
from conftest import step_done
from harness_screens import RECIPE, add, claim, on, write_previews
from harness_tui import AppUnderTest, engine_announced
from rich.style import Style
from rich.text import Text

from wantui.queue.events import LoadingStageStarted, ModelLoading, VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.storage.layout import BatchFolder
from wantui.storage.log_files import LOG_FORMAT
from wantui.storage.preview_files import (
    make_preview_folder_path,
    make_step_preview_path,
)
from wantui.tui.columns import COLUMN_GAP
from wantui.tui.monitor.columns import STEP_WIDTH, RowContext, make_monitor_columns
from wantui.tui.monitor.data import MonitorFilesRequest
from wantui.tui.monitor.log_lines import draw_log_line
from wantui.tui.screens.monitor import MonitorScreen
from wantui.tui.settings import TuiSettings
from wantui.tui.settings_changes import apply_settings
from wantui.tui.widgets import picture_loop

pytestmark = pytest.mark.terminal


def test_stages_of_start_up_are_shown_with_their_seconds(queue: Queue) -> None:
    add(queue, "one", 1)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "the engine starts a worker for the next video; 1 video waiting" in it.text())
        queue.record_starting_worker("worker-0:1", "cuda:0")
        await it.until(lambda: re.search(r"worker-0 +cuda:0 +◌ starting +loading torch \d+ s", it.text()))
        queue.record_ready_worker("worker-0:1")
        taken = claim(queue)
        await it.until(lambda: "worker-0: starting red seed 42" in it.text())
        queue.emit_video_event(taken, ModelLoading(model="nano", plan="resident", reason="it fits"))
        queue.emit_video_event(taken, LoadingStageStarted(stage="reading weights", stage_number=2, stage_count=5))
        await it.until(lambda: "worker-0: loading nano (2 of 5 stages)" in it.text())
        assert re.search(r"▶ loading +red seed 42 +reading weights \d+ s", it.text())
        queue.emit_video_event(taken, LoadingStageStarted(stage="encoding prompts"))
        await it.until(lambda: re.search(r"worker-0: encoding prompts \d+ s", it.text()))
        assert "no video is running" not in it.text()
        queue.record_step(taken, step_done(0, 20, 0.1, 1.0))
        await it.until(lambda: "worker-0: denoising red seed 42" in it.text())

    with engine_announced():
        on("monitor", test)


def test_empty_queue_names_the_keys_that_help(queue: Queue) -> None:
    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "Press F6 to start the engine, or 1 to compose a batch" in it.text())
        with engine_announced():
            await it.until(lambda: "Press 1 to compose a batch, or 4 to see finished videos" in it.text())

    on("monitor", test)


def test_workers_have_aligned_columns_with_device_and_memory(queue: Queue) -> None:
    add(queue, "one", 3)
    for number in range(3):
        queue.record_starting_worker(f"worker-{number}:{number + 1}", f"cuda:{number}")
        queue.record_ready_worker(f"worker-{number}:{number + 1}")
    memory = {
        "allocated": 11_300_000_000,
        "reserved": 12_000_000_000,
        "peak": 13_000_000_000,
        "predicted": 14_200_000_000,
    }
    for number in (0, 1):
        queue.record_step(claim(queue, f"worker-{number}:{number + 1}"), step_done(4, 20, 0.25, 0.8, **memory))

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: it.text().count("11.3/14.2") == 2)
        lines = it.text().splitlines()
        header = next(line for line in lines if "GB used/pred." in line)
        rows = [line for line in lines if re.search(r"worker-\d +cuda:\d", line)]
        assert len(rows) == 3
        for number, row in enumerate(rows[:2]):
            assert row.index(f"cuda:{number}") == header.index("device")
            assert row.index("red seed") == header.index("video")
            assert row.index("5/20") + len("5/20") == header.index(" step/frame ") + len(" step/frame")
            assert row.index("11.3/14.2") + len("11.3/14.2") == header.index("pred.") + len("pred.")
        assert "· idle" in rows[2]

    with engine_announced():
        on("monitor", test, size=(140, 40))


def test_narrow_list_shows_titles_in_full_once_steps_replace_stages(queue: Queue) -> None:
    folder = Path("one").absolute()
    folder.mkdir()
    queue.add_batch(folder, "auto", [NewVideo(0, "red_circle seed 43", RECIPE, 20)])

    async def test(it: AppUnderTest) -> None:
        queue.record_starting_worker("worker-0:1", "cuda:0")
        await it.until(lambda: re.search(r"progress +step", it.text()) and "loading torch" in it.text())
        queue.record_ready_worker("worker-0:1")
        taken = claim(queue)
        queue.record_step(taken, step_done(7, 20, 0.1, 1.0))
        await it.until(lambda: re.search(r"red_circle seed 43 +8/20", it.text()))
        assert "progress" not in it.text()

    with engine_announced():
        on("monitor", test, size=(80, 24))


@pytest.mark.parametrize("screen", ["monitor", "queue"])
def test_narrow_list_keeps_the_swept_value_of_a_title(queue: Queue, screen: str) -> None:
    folder = Path("one").absolute()
    folder.mkdir()
    title = "a_red_circle_on_a_table_in_a_kitchen seed 43, cfg_scale 3.5"
    queue.add_batch(folder, "auto", [NewVideo(0, title, RECIPE, 20)])

    async def test(it: AppUnderTest) -> None:
        queue.record_step(claim(queue), step_done(7, 20, 0.1, 1.0))
        await it.until(lambda: re.search(r"a_red\S*….*scale 3\.5", it.text()))
        assert "cfg_scale" not in it.text()
        if screen == "monitor":
            assert re.search(r"━━ a_red\S*….*scale 3\.5 │", it.text())

    with engine_announced():
        on(screen, test, size=(80, 24))


def test_bar_leaves_room_for_a_title_of_wide_characters(queue: Queue) -> None:
    title = "红色的圆和蓝色的圆"  # as many cells as "red_circle seed 43"
    folder = Path("one").absolute()
    folder.mkdir()
    queue.add_batch(folder, "auto", [NewVideo(0, title, RECIPE, 20)])

    async def test(it: AppUnderTest) -> None:
        queue.record_step(claim(queue), step_done(7, 20, 0.1, 1.0))
        await it.until(lambda: re.search(rf"{title} +8/20", it.text()))

    with engine_announced():
        on("monitor", test, size=(80, 24))


def test_previews_are_scrubbed_and_followed(queue: Queue, tmp_path: Path) -> None:
    add(queue, "one", 1)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        path = str(write_previews(tmp_path, 5))
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=path))
        await it.until(lambda: screen.previews.step_numbers == [1, 2, 3, 4, 5])
        await it.until(lambda: "after 5 of 20 steps   " in it.text())
        await it.press("left", "h")
        await it.until(lambda: "after 3 of 20 steps   " in it.text())
        assert screen.picture.pictures[0][0, 0, 0] == 30
        write_previews(tmp_path, 9)
        queue.record_step(taken, step_done(8, 20, 0.1, 0.8, preview=path))
        await it.until(lambda: screen.previews.step_numbers[-1] == 9)
        assert "after 3 of 20 steps   " in it.text()
        await it.press("l", "right")
        await it.until(lambda: "after 5 of 20 steps   " in it.text())
        await it.press("G")
        await it.until(lambda: "after 9 of 20 steps   " in it.text())
        await it.press("h")
        await it.until(lambda: "after 8 of 20 steps   " in it.text())
        await it.press("end")
        await it.until(lambda: "after 9 of 20 steps   " in it.text() and screen.previews.picked_step is None)

    with engine_announced():
        on("monitor", test)


def test_caption_and_strip_tell_which_steps_have_no_preview(queue: Queue, tmp_path: Path) -> None:
    add(queue, "one", 1)

    async def test(it: AppUnderTest) -> None:
        taken = claim(queue)
        path = write_previews(tmp_path, 5)
        make_step_preview_path(make_preview_folder_path(path), 3).unlink()  # as of a worker that skipped it
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(path)))
        await it.until(lambda: re.search(r" 1 +2 +⋯ +4 +5 ", it.text()))
        assert "after 5 of 20 steps   ← earlier" in it.text()
        assert "·" not in it.screen(MonitorScreen).strip.get_shown_text()
        queue.record_step(taken, step_done(5, 20, 0.1, 0.85))
        await it.until(lambda: "after 5 of 20 steps, latest preview" in it.text())

    with engine_announced():
        on("monitor", test)


def test_changed_preview_seconds_switch_automatic_previews(queue: Queue, tmp_path: Path) -> None:
    add(queue, "one", 1)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        path = str(write_previews(tmp_path, 1))
        queue.record_step(taken, step_done(0, 100, 0.1, 1.0, preview=path))
        await it.until(lambda: "V to show previews" in it.text())
        assert not screen.previews.frames_by_step
        apply_settings(it.app, TuiSettings(preview_seconds=0.01))
        await it.until(lambda: screen.previews.step_numbers == [1])
        apply_settings(it.app, TuiSettings(preview_seconds=0))
        write_previews(tmp_path, 2)
        queue.record_step(taken, step_done(1, 100, 0.1, 0.9, preview=path))
        await it.until(lambda: screen.get_current_progress() and screen.get_current_progress().preview_step == 2)  # type: ignore[union-attr]
        screen.request_files(is_automatic=True)
        await it.until(lambda: screen._request is None)
        await it.press("V")
        progress = screen.get_current_progress()
        assert progress is not None
        assert not screen._is_preview_due(progress, is_automatic=True), "1 of 100 steps, and no period in seconds"
        await it.press("v")
        await it.until(lambda: screen.previews.step_numbers == [1, 2])

    with engine_announced():
        on("monitor", test, preview_seconds=0)


def test_preview_plays_in_a_loop_and_rests(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(queue, "one", 1)

    async def test(it: AppUnderTest) -> None:
        picture = it.screen(MonitorScreen).picture
        queue.record_step(claim(queue), step_done(0, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 1))))
        await it.until(lambda: len(picture.pictures) == 3 and picture.is_playing)
        for index in range(3):
            await it.until(lambda: picture.picture_index == index)  # noqa: B023
        monkeypatch.setattr(picture_loop, "PLAY_SECONDS", 0.0)
        await it.until(lambda: not picture.is_playing)

    with engine_announced():
        on("monitor", test)


def test_finished_clip_stays_and_opens_in_the_library(queue: Queue) -> None:
    manifest = write_clip_batch(Path("kiss").absolute())
    queue.add_batch(Path("kiss").absolute(), "auto", [NewVideo(1, "red seed 43", RECIPE, 20)])

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        queue.record_step(taken, step_done(19, 20, 0.1, 0.1, norm=1.0))
        await it.until(lambda: screen.get_current_progress() and screen.get_current_progress().curve_by_metric["norm"])  # type: ignore[union-attr]
        await it.press("o")
        await it.until(lambda: "no video is finished yet" in it.notifications())
        seconds = {"denoise": 10.1, "decode": 2.2, "step": 0.5}
        queue.record_done(taken, VideoDone(files=manifest.videos[1].files, seconds=seconds))
        await it.until(lambda: "✓ done in 12.3 s   o open" in it.text())
        await it.until(lambda: screen.picture.is_playing and "▀" in screen.picture.get_shown_text())
        assert "Finished: red seed 43" in it.text()
        assert "Trajectory so far" not in it.text()
        assert "━━ red seed 43" in it.text()
        await it.press("o")
        await it.until(lambda: it.app.screen.name == "library")
        library = it.app.screen
        await it.until(lambda: library.get_current_entry() == manifest.videos[1])  # type: ignore[attr-defined]

    with engine_announced():
        on("monitor", test)


def test_pictures_stay_with_their_title_until_those_of_the_next_video_are_read(
    queue: Queue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = write_clip_batch(Path("kiss").absolute())
    folder = Path("kiss").absolute()
    queue.add_batch(folder, "auto", [NewVideo(1, "red seed 43", RECIPE, 20)])

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: "Predicted video: red seed 43" in it.text() and "▀" in screen.picture.get_shown_text())
        monkeypatch.setattr(screen, "_request", MonitorFilesRequest())
        queue.record_done(taken, VideoDone(files=manifest.videos[1].files, seconds={"denoise": 1.0}))
        await it.until(lambda: not screen.rows and screen.finished_video is not None)
        screen._draw_details()
        await it.pilot.pause()
        assert "Predicted video: red seed 43" in it.text()
        assert "▀" in screen.picture.get_shown_text()
        monkeypatch.setattr(screen, "_request", None)
        await it.until(lambda: "Finished: red seed 43" in it.text() and "▀" in screen.picture.get_shown_text())
        queue.add_batch(folder, "auto", [NewVideo(2, "red seed 44", RECIPE, 20)])
        taken = claim(queue)
        queue.record_step(taken, step_done(0, 20, 0.1, 1.0))
        await it.until(lambda: "denoising red seed 44" in it.text())
        assert "Finished: red seed 43" in it.text()
        assert "▀" in screen.picture.get_shown_text()
        path = str(write_previews(tmp_path, 5))
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=path))
        await it.until(lambda: "Predicted video: red seed 44" in it.text())

    with engine_announced():
        on("monitor", test)


def test_pictures_of_a_video_end_with_it_if_previews_are_manual(queue: Queue, tmp_path: Path) -> None:
    manifest = write_clip_batch(Path("kiss").absolute())
    queue.add_batch(Path("kiss").absolute(), "auto", [NewVideo(n, f"red seed {42 + n}", RECIPE, 20) for n in (1, 2, 3)])

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: "press v to show the latest preview" in it.text())
        await it.press("v")
        await it.until(lambda: "Predicted video: red seed 43" in it.text() and "▀" in screen.picture.get_shown_text())
        queue.record_done(taken, VideoDone(files=manifest.videos[1].files, seconds={"denoise": 1.0}))
        taken = claim(queue)
        queue.record_step(taken, step_done(0, 20, 0.1, 1.0))
        await it.until(lambda: "denoising red seed 44" in it.text() and "✓ red seed 43 done in 1.0 s" in it.text())
        assert "Predicted video: red" not in it.text()
        assert "▀" not in screen.picture.get_shown_text()
        assert "press v to show the latest preview" in it.text()
        queue.record_done(taken, VideoDone(files=manifest.videos[0].files, seconds={"denoise": 2.0}))
        await it.until(lambda: "✓ red seed 44 done in 2.0 s" in it.text())
        await it.press("v")
        await it.until(lambda: "Finished: red seed 44" in it.text() and "▀" in screen.picture.get_shown_text())
        queue.record_done(claim(queue), VideoDone(files=manifest.videos[1].files, seconds={"denoise": 3.0}))
        await it.until(lambda: "✓ red seed 45 done in 3.0 s" in it.text())
        assert "Finished: red" not in it.text()
        assert "▀" not in screen.picture.get_shown_text()

    with engine_announced():
        on("monitor", test, preview_seconds=0)


def test_preview_of_a_video_without_clip_stays_until_the_next_video_has_one(queue: Queue, tmp_path: Path) -> None:
    add(queue, "one", 2)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: "Predicted video: red seed 42" in it.text() and "▀" in screen.picture.get_shown_text())
        queue.record_done(taken, VideoDone(files={}, seconds={"denoise": 1.0}))
        queue.record_step(claim(queue), step_done(0, 20, 0.1, 1.0))
        await it.until(lambda: "denoising red seed 43" in it.text())
        assert "Predicted video: red seed 42" in it.text()
        assert "▀" in screen.picture.get_shown_text()

    with engine_announced():
        on("monitor", test)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"no clip", "Invalid data found")],
)
def test_video_with_a_missing_or_damaged_clip_is_shown_as_done_with_the_reason(
    queue: Queue,
    content: bytes | None,
    reason: str,
) -> None:
    add(queue, "one", 1)
    if content is not None:
        Path("one/v.mp4").write_bytes(content)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        queue.record_done(claim(queue), VideoDone(files={"clip": "v.mp4"}, seconds={}))
        await it.until(lambda: "✓ red seed 42 done   o open" in it.text())
        await it.until(lambda: reason in " ".join(screen.picture.get_shown_text().split()))
        assert "v.mp4" in screen.picture.get_shown_text()
        assert "1 to compose a batch" in it.text()

    with engine_announced():
        on("monitor", test)


def test_curves_of_the_finished_video_stay_behind_those_of_the_next(queue: Queue) -> None:
    add(queue, "one", 2)

    async def test(it: AppUnderTest) -> None:
        first = claim(queue)
        for index in range(20):
            queue.record_step(first, step_done(index, 20, 0.1, 1 - index / 20, norm=1 - index / 40))
        queue.record_done(first, VideoDone(seconds={"denoise": 1.0}))
        queue.record_step(claim(queue), step_done(0, 20, 0.1, 1.0, norm=1.0))
        await it.until(lambda: "━━ red seed 43   ━━ before: red seed 42" in it.text())

    with engine_announced():
        on("monitor", test, size=(140, 40))


def test_second_video_of_a_worker_is_named_as_its_next(queue: Queue) -> None:
    add(queue, "one", 2)

    async def test(it: AppUnderTest) -> None:
        queue.record_ready_worker("worker-0:1")
        queue.record_step(claim(queue), step_done(19, 20, 0.1, 0.1))
        queue.record_step(claim(queue), step_done(0, 20, 0.1, 1.0))
        await it.until(lambda: re.search(r"worker-0 .* red seed 42", it.text()) and "└ next" in it.text())
        assert re.search(r"└ next .* red seed 43", it.text())

    with engine_announced():
        on("monitor", test, size=(140, 40))


def test_titles_and_curves_have_the_colour_of_their_variation(queue: Queue) -> None:
    folder = Path("one").absolute()
    manifest = write_clip_batch(folder, "a [red|blue] circle", seeds=1)
    titles = [manifest.variations[entry.variation].id for entry in manifest.videos]
    videos = [NewVideo(number, title, RECIPE, 20) for number, title in enumerate(titles)]
    queue.add_batch(folder, "auto", videos)
    assert titles == ["red", "blue"]

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        pane = screen.curve_pane

        def find_colours(lines: list[Text], word: str) -> list[object]:
            """Return the colours of the text that begins with a word."""
            segments = [segment for line in lines for segment in line.render(it.app.console)]
            return [segment.style.color for segment in segments if segment.text.startswith(word) and segment.style]

        for title in titles:
            taken = claim(queue)
            queue.record_step(taken, step_done(0, 20, 0.1, 1.0, norm=1.0))
            colour = pane.make_colour_style(f"series-{title}").color
            await it.until(lambda: f"━━ {title}" in it.text() and find_colours(pane.shown_lines, "━━ ")[0] == colour)  # noqa: B023
            assert find_colours([screen._draw_row(0, 100)], title) == [colour]
            queue.record_done(taken, VideoDone(seconds={"denoise": 1.0}))
            await it.until(lambda: not screen.rows)
            assert find_colours(pane.shown_lines, "━━ ")[0] == colour, "that of the finished video"

    with engine_announced():
        on("monitor", test, size=(140, 40))


def test_colours_are_shown_once_an_unreadable_manifest_is_restored(queue: Queue) -> None:
    folder = Path("one").absolute()
    write_clip_batch(folder, "a [red|blue] circle", seeds=1)
    batch_id = queue.add_batch(folder, "auto", [NewVideo(0, "red", RECIPE, 20)])
    path = BatchFolder(folder).manifest_path
    manifest_text = path.read_text()
    path.write_text("{")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        taken = claim(queue)
        queue.record_step(taken, step_done(0, 20, 0.1, 1.0, norm=1.0))
        await it.until(lambda: screen.rows and screen._request is None and screen.curve_pane.shown_lines)
        await it.pilot.pause(0.3)
        assert screen.find_colour_name(batch_id, 0) is None
        path.write_text(manifest_text)
        queue.record_step(taken, step_done(1, 20, 0.1, 1.0, norm=1.0))
        await it.until(lambda: screen.find_colour_name(batch_id, 0) == "series-red")

    with engine_announced():
        on("monitor", test, size=(140, 40))


@pytest.mark.parametrize(("size", "is_stacked"), [((60, 20), False), ((80, 24), False), ((80, 40), True)])
def test_panes_are_stacked_in_a_narrow_high_terminal(queue: Queue, size: tuple[int, int], is_stacked: bool) -> None:
    add(queue, "one", 1)
    queue.record_step(claim(queue), step_done(0, 20, 0.1, 0.9, norm=1.0))

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(MonitorScreen)
        await it.until(lambda: re.search(r"norm (RMS|size of latents)", it.text()) and "σ 1" in it.text())
        preview, curves = screen.preview_pane.region, screen.query_one("#curves").region
        assert (curves.y == preview.bottom) == is_stacked
        assert (curves.x == preview.right) == (not is_stacked)
        assert max(map(len, it.text().splitlines())) <= size[0]

    with engine_announced():
        on("monitor", test, size=size)


@pytest.mark.parametrize("has_memory", [False, True])
@pytest.mark.parametrize("has_stages", [False, True])
def test_columns_fit_into_lists_of_terminals_from_60_columns(has_memory: bool, has_stages: bool) -> None:
    context = RowContext(lambda _: Style(), lambda _: "", lambda _: 0.0, lambda: True, lambda _: None)
    for list_width in range(56, 200):
        for longest_title in (0, 12, 18, 60):
            columns = make_monitor_columns(list_width, has_memory, has_stages, longest_title, context)
            widths = [column.width for column in columns if column.width is not None]
            assert len(widths) == len(columns)
            assert sum(widths) + len(COLUMN_GAP) * (len(columns) - 1) <= list_width
            assert {"state", "video", "ETA"} <= {column.header_text for column in columns}


@pytest.mark.parametrize(("longest_title", "bar_width"), [(0, 8), (12, 8), (13, 7), (15, 5), (16, 0)])
def test_narrow_list_has_a_bar_where_titles_leave_room(longest_title: int, bar_width: int) -> None:
    context = RowContext(lambda _: Style(), lambda _: "", lambda _: 0.0, lambda: True, lambda _: None)
    columns = make_monitor_columns(76, False, False, longest_title, context)
    (column,) = [column for column in columns if column.header_text.endswith("step/frame")]
    header = "progress" if bar_width == 8 else ""
    assert column.header_text == header.ljust(bar_width) + "step/frame".rjust(STEP_WIDTH)
    assert column.width == bar_width + STEP_WIDTH


@pytest.mark.parametrize(
    ("line", "shown", "colours"),
    [
        ("2026-11-30 15:06:23,255 INFO     red seed 42 done in 2.2 s", "15:06:23  red seed 42 done in 2.2 s", []),
        ("2026-11-30 15:06:23,255 WARNING  no room is left", "15:06:23  WARNING  no room is left", ["warning"]),
        ("2026-11-30 15:06:23,255 ERROR    red seed 42 failed", "15:06:23  ERROR  red seed 42 failed", ["error"]),
        ("2026-11-29 23:59:59,999 INFO     done", "2026-11-29 23:59:59  done", []),
        ('  File "x.py", line 3', '  File "x.py", line 3', []),
    ],
)
def test_log_lines_are_shown_by_time_with_a_level_only_where_it_matters(
    line: str, shown: str, colours: list[str]
) -> None:
    names: list[str] = []

    def make_style(name: str) -> Style:
        names.append(name)
        return Style()

    assert draw_log_line(line, "2026-11-30", make_style).plain == shown
    assert names == colours


def test_log_format_is_the_one_that_the_monitor_reads() -> None:
    record = logging.LogRecord("batch", logging.INFO, "", 0, "done", None, None)
    line = logging.Formatter(LOG_FORMAT).format(record)
    today = date.fromtimestamp(record.created).isoformat()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  done", draw_log_line(line, today, lambda _: Style()).plain)
