"""Right side of the Queue screen in a wide terminal: the selected batch, one of its videos, and its picture."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_batches import write_clip_batch
from conftest import step_done
from dialogs import counted_bytes
from harness_screens import RECIPE, add, claim, on, write_previews
from harness_tui import AppUnderTest, engine_announced
from PIL import Image
from textual.geometry import Offset

from wantui.queue.events import VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import BatchDescription, NewVideo
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, write_manifest
from wantui.storage.preview_files import write_preview
from wantui.tui.running_videos import is_preview_due
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.queue import QueueScreen
from wantui.tui.screens.queue_results import LIST_FRAME_HEIGHT, MAX_FULL_TEXT_HEIGHT, MIN_RESULTS_HEIGHT
from wantui.tui.widgets.matrix import HEADER_HEIGHT
from wantui.tui.widgets.queue_video import StillPictureRequest, read_still_picture

pytestmark = pytest.mark.terminal

WIDE = (140, 40)


def add_real_batch(
    queue: Queue,
    name: str,
    unfinished: tuple[int, ...] = (),
    seeds: int = 2,
) -> Manifest:
    """Add a batch with a manifest to the queue; all its videos wait there."""
    folder = Path(name).absolute()
    manifest = write_clip_batch(folder, "a [red|blue] circle", seeds, unfinished)
    videos = [
        NewVideo(index, manifest.make_video_title(video), RECIPE, 20) for index, video in enumerate(manifest.videos)
    ]
    queue.add_batch(folder, "auto", videos)
    return manifest


def get_shown_colour(it: AppUnderTest) -> tuple[int, ...] | None:
    """Return the colour of the centre of the shown picture; None without a picture."""
    pictures = it.screen(QueueScreen).queue_video.picture.pictures
    if not pictures:
        return None
    return tuple(pictures[0][pictures[0].shape[0] // 2, pictures[0].shape[1] // 2].tolist())


def test_wide_queue_shows_settings_counts_and_errors_of_the_selected_batch(queue: Queue) -> None:
    add_real_batch(queue, "circles", unfinished=(1,))
    queue.record_failure(claim(queue), "RuntimeError: it broke")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "32x32, 9 frames, 8 fps" in it.text())
        facts = it.cells("#batch-facts")
        assert "a [red|blue] circle" in facts
        assert "✗ 1 failed  · 3 waiting" in facts  # as the queue counts, not the manifest
        assert "1 x out of memory" in facts
        assert re.search(r"✗ failed.*RuntimeError: it broke", it.cells("#queue-video-facts"), re.DOTALL)
        assert "press r to retry the video" in it.text()
        assert not screen.full_text.display

    with engine_announced():
        on("queue", test, size=WIDE)


def test_running_video_shows_its_steps_and_latest_preview(queue: Queue, tmp_path: Path) -> None:
    add_real_batch(queue, "circles")
    taken = claim(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "a preview follows after the first step" in it.text())
        path = str(write_previews(tmp_path, 5))
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=path))
        await it.until(lambda: get_shown_colour(it) == (51, 51, 51))  # the middle of three frames: 50, 51, 52
        assert "5/20, 0.10 s a step" in it.cells("#queue-video-facts")
        write_previews(tmp_path, 7)  # a tenth of the steps later
        queue.record_step(taken, step_done(6, 20, 0.1, 0.8, preview=path))
        await it.until(lambda: get_shown_colour(it) == (71, 71, 71))
        await it.press("enter", "down")  # a waiting video has no picture
        await it.until(lambda: "no picture yet: the video waits" in it.text())
        assert get_shown_colour(it) is None

    with engine_announced():
        on("queue", test, size=WIDE, preview_seconds=3600.0)


@pytest.mark.parametrize("settings", [{"preview_seconds": 0.0}, {"low_bandwidth": True}])
def test_queue_shows_no_previews_if_they_are_off(
    queue: Queue,
    tmp_path: Path,
    settings: dict[str, object],
) -> None:
    add_real_batch(queue, "circles")
    taken = claim(queue)

    async def test(it: AppUnderTest) -> None:
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: "5/20" in it.cells("#queue-video-facts"))
        await it.pilot.pause(0.3)
        assert get_shown_colour(it) is None

    with engine_announced():
        on("queue", test, size=WIDE, **settings)


@pytest.mark.parametrize(("size", "has_video"), [((80, 24), True), ((129, 40), True), ((75, 24), False)])
def test_narrow_queue_shows_one_video_beside_the_list(
    queue: Queue,
    size: tuple[int, int],
    has_video: bool,
) -> None:
    add_real_batch(queue, "circles", seeds=6)
    queue.record_failure(claim(queue), "RuntimeError: it broke")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "1 failed, 11 waiting" in it.text())
        assert not screen.batch_details.size
        assert bool(screen.queue_video.size) is has_video
        await it.press("enter", "home")
        if has_video:
            await it.until(lambda: "RuntimeError" in it.cells("#list-video-facts"))
            assert "RuntimeError: it broke" in it.cells("#about")
            await it.press("down")
            await it.until(lambda: "no picture yet" in it.text())
            await it.until(lambda: it.cells("#about").startswith("folder"))
        else:
            await it.until(lambda: "RuntimeError: it broke" in it.cells("#about"))

    with engine_announced():
        on("queue", test, size=size)


def test_narrow_queue_shows_the_latest_preview_beside_the_list(queue: Queue, tmp_path: Path) -> None:
    add_real_batch(queue, "circles", seeds=6)
    taken = claim(queue)

    async def test(it: AppUnderTest) -> None:
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: get_shown_colour(it) == (51, 51, 51))  # the middle of three frames: 50, 51, 52
        picture = it.screen(QueueScreen).queue_video.picture
        assert picture.size.height >= 8
        await it.until(lambda: "▀" in picture.get_shown_text())

    with engine_announced():
        on("queue", test, size=(80, 24), preview_seconds=3600.0)


@pytest.mark.parametrize("word_count", [1, 20, 200])
def test_narrow_queue_shows_the_whole_template_and_the_folder(queue: Queue, word_count: int) -> None:
    template = "a [red|blue]\ncircle" + " moves" * word_count
    description = BatchDescription(template=template)
    queue.add_batch(Path("/outputs/circles"), "auto", [NewVideo(0, "red seed 42", RECIPE, 20)], description=description)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "/outputs/circles" in it.cells("#about"))
        *template_lines, folder_line = (line.plain for line in screen.full_text.shown_lines)
        assert re.fullmatch(r"folder +/outputs/circles", folder_line)
        assert template_lines[0].index("a [red") == folder_line.index("/outputs")
        shown_text = " ".join(" ".join(template_lines).split())
        expected = f"template a [red|blue] circle{' moves' * word_count}"
        if word_count < 100:
            assert shown_text == expected
        else:
            assert shown_text.endswith(" …")
            assert expected.startswith(shown_text.removesuffix(" …"))
            assert len(screen.full_text.shown_lines) == MAX_FULL_TEXT_HEIGHT

    on("queue", test, size=(80, 24))


def test_batch_without_a_manifest_is_described_from_the_queue(queue: Queue) -> None:
    add(queue, "gone")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "✗ /" in it.cells("#batch-facts"))
        assert "· 3 waiting" in it.cells("#batch-facts")
        assert "folder" in it.cells("#batch-facts")

    on("queue", test, size=WIDE)


@pytest.mark.parametrize("size", [WIDE, (80, 24)])
def test_idle_queue_with_details_sends_nothing(queue: Queue, size: tuple[int, int]) -> None:
    add_real_batch(queue, "circles")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "no picture yet" in it.text())
        await it.until(lambda: size != WIDE or "32x32, 9 frames, 8 fps" in it.text())
        await it.press("f8")  # the panel changes
        await it.pilot.pause(0.5)
        with counted_bytes(it.app) as written:
            for _ in range(3):
                screen._redraw_etas()
                screen.show_snapshot(it.app.snapshot)
                await it.pilot.pause(0.1)
        assert not "".join(written)

    on("queue", test, size=size)


def test_first_cursor_is_on_the_running_batch_and_then_stays(queue: Queue) -> None:
    first = add(queue, "one", 1)
    queue.record_failure(claim(queue), "it broke")
    second = add(queue, "two", 1)
    third = add(queue, "three", 1)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.selected_batch_id == second)
        queue.cancel_videos(second)
        await it.until(lambda: "− cancelled" in it.text())
        assert screen.selected_batch_id == second != third != first

    with engine_announced():
        on("queue", test)


def test_cursor_follows_the_running_video_until_its_list_has_the_focus(queue: Queue) -> None:
    add_real_batch(queue, "circles")
    first = claim(queue)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "Video 1" in it.text())
        queue.record_done(first, VideoDone(seconds={"denoise": 2.0}, device="cpu", memory_plan=""))
        claim(queue)
        await it.until(lambda: "Video 2" in it.text())
        assert screen.video_list.cursor == 1
        await it.press("enter", "up")
        await it.until(lambda: "Video 1" in it.text())
        await it.pilot.pause(0.3)
        assert screen.video_list.cursor == 0, "the focused list keeps its cursor"

    with engine_announced():
        on("queue", test, size=WIDE)


def test_list_that_opens_at_a_running_video_shows_the_videos_before_it(queue: Queue) -> None:
    add_real_batch(queue, "many", seeds=18)
    for _ in range(4):
        queue.record_failure(claim(queue), "it broke")
    claim(queue)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.video_list.cursor == 4 and "✗ failed" in it.text())
        assert screen.video_list.get_visible_range()[0] == 0

    with engine_announced():
        on("queue", test, size=WIDE)


@pytest.mark.parametrize(
    ("name", "title"),
    [("short", "Videos of short: 1 running, 11 waiting"), ("n" * 30, f"Videos of {'n' * 30}: ▶ 1  · 11")],
)
def test_title_of_the_videos_counts_their_states_by_signs_if_words_do_not_fit(
    queue: Queue,
    name: str,
    title: str,
) -> None:
    add_real_batch(queue, f"{name}_20261130_150513", seeds=6)
    claim(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: f"{title} ─" in it.text())

    with engine_announced():
        on("queue", test, size=(80, 24))


def test_sheet_of_a_video_that_was_rendered_again_is_read_again(queue: Queue) -> None:
    folder, sheet = Path("circles").absolute(), Image.new("RGB", (160, 32), (200, 0, 0))
    manifest = add_real_batch(queue, "circles", seeds=1)
    sheet.save(folder / "sheet.png")
    manifest.videos[0].files["sheet"] = "sheet.png"
    write_manifest(BatchFolder(folder), manifest)
    queue.record_done(claim(queue), VideoDone(seconds={"denoise": 1.0}))

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: get_shown_colour(it) == (200, 0, 0))
        request, video = screen.queue_video.shown_request, screen.get_video_at(0)
        assert request is not None
        assert video is not None
        assert video.finished is not None
        assert request.finished == video.finished
        Image.new("RGB", (160, 32), (0, 0, 200)).save(folder / "sheet.png")
        screen.queue_video.show_still_picture(replace(request, finished=video.finished + 60), "")
        await it.until(lambda: get_shown_colour(it) == (0, 0, 200))

    with engine_announced():
        on("queue", test, size=WIDE)


def test_still_picture_is_the_middle_frame(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (50, 50, 50), (100, 100, 100), (150, 150, 150), (200, 200, 200)]
    frames = np.repeat(np.array(colours, np.uint8)[:, None, None, :], 64, axis=1).repeat(64, axis=2)
    strip, sheet = tmp_path / "v.preview.png", tmp_path / "sheet.jpg"
    write_preview(strip, frames)
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(sheet, quality=95)
    request = StillPictureRequest(1, strip)
    for shown in (read_still_picture(request), read_still_picture(replace(request, path=sheet, frame_count=17))):
        assert shown is not None
        assert shown.shape == (64, 64, 3)
        assert abs(shown[8:56, 8:56].astype(int) - 100).max() <= 1
    sheet.write_bytes(b"damaged")
    assert read_still_picture(replace(request, path=sheet, frame_count=17)) is None
    assert read_still_picture(replace(request, path=tmp_path / "missing.png")) is None


@pytest.mark.parametrize(
    ("new_steps", "seconds", "preview_seconds", "is_due"),
    [
        (1, 15.0, 15.0, True),
        (1, 14.9, 15.0, False),
        (2, 0.0, 15.0, True),
        (0, 99.0, 15.0, False),
        (9, 99.0, 0.0, False),
    ],
)
def test_preview_is_due_by_time_or_by_a_tenth_of_the_steps(
    new_steps: int, seconds: float, preview_seconds: float, is_due: bool
) -> None:
    assert is_preview_due(new_steps, 20, seconds, preview_seconds) is is_due


def test_short_batch_shows_its_pictures_below_the_list(queue: Queue) -> None:
    manifest = add_real_batch(queue, "circles", unfinished=(3,))

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.results.row_count == 2)
        assert screen.results.display
        assert not screen.results.can_focus
        assert list(screen.results.grid.row_labels) == ["red", "blue"]
        await it.until(lambda: "▀" in "".join(screen.results.render_line(y).text for y in range(3)))
        place = screen.results.grid.find_cell(2)
        assert place is not None
        screen.results.cursor, screen.results.column = place  # as a click does
        await it.until(lambda: screen.video_list.cursor == 2)
        screen.video_list.cursor = 1
        await it.until(lambda: screen.results.grid.find_cell(1) == (screen.results.cursor, screen.results.column))
        assert len(manifest.videos) == screen.video_list.row_count

    on("queue", test, size=WIDE)


async def click_picture(it: AppUnderTest, video_index: int) -> None:
    """Click the picture of a video below the list."""
    results = it.screen(QueueScreen).results
    place = results.grid.find_cell(video_index)
    assert place is not None
    x = results.geometry.label_width + place[1] * results.geometry.column_width + 1
    y = HEADER_HEIGHT + place[0] * results.geometry.row_height + 1
    assert await it.pilot.click(offset=results.content_region.offset + Offset(x, y))


@pytest.mark.parametrize("is_running", [True, False])
def test_clicked_picture_moves_the_cursor_and_a_second_click_opens_it(queue: Queue, is_running: bool) -> None:
    manifest = add_real_batch(queue, "outputs/circles")
    if is_running:
        claim(queue)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.results.row_count == 2)
        assert screen.batch_list.has_focus
        await click_picture(it, 3)
        await it.until(lambda: screen.video_list.has_focus and screen.video_list.cursor == 3)
        assert screen.results.grid.find_cell(3) == (screen.results.cursor, screen.results.column)
        await it.press("shift+tab")
        await it.until(lambda: screen.batch_list.has_focus)
        if is_running:
            await click_picture(it, 3)  # the list showed the running video again
            await it.until(lambda: screen.video_list.has_focus)
        await click_picture(it, 3)
        library = await it.until(lambda: isinstance(it.app.screen, LibraryScreen) and it.app.screen)
        entry = await it.until(library.get_current_entry)
        assert (entry.variation, entry.number) == (manifest.videos[3].variation, manifest.videos[3].number)

    with engine_announced():
        on("queue", test, size=WIDE)


def test_wrapped_error_leaves_the_pictures_their_minimum_height(queue: Queue) -> None:
    add_real_batch(queue, "circles")
    queue.record_failure(claim(queue), "RuntimeError: " + "it broke again " * 40)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.press("enter", "home")
        await it.until(lambda: screen.full_text.outer_size.height == MAX_FULL_TEXT_HEIGHT)
        await it.pilot.pause()
        if screen.results.display:
            assert screen.results.outer_size.height >= MIN_RESULTS_HEIGHT
        assert screen.results.display is (it.app.size.height == 30)

    for height in (30, 24):
        on("queue", test, size=(75, height))


@pytest.mark.parametrize(("height", "has_results"), [(40, True), (24, True), (21, False)])
def test_low_terminal_has_the_whole_height_for_its_list(
    queue: Queue,
    height: int,
    has_results: bool,
) -> None:
    add_real_batch(queue, "circles")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.facts_message and screen.facts_message.manifest)
        await it.until(lambda: screen.results.display is has_results)
        if has_results:
            assert screen.results.outer_size.height >= MIN_RESULTS_HEIGHT
            assert screen.video_list.outer_size.height == 4 + LIST_FRAME_HEIGHT
        else:
            assert screen.results.outer_size.height == 0
            assert screen.video_list.outer_size.height > 4 + LIST_FRAME_HEIGHT

    on("queue", test, size=(140, height))


def test_long_batch_has_the_whole_height_for_its_list(queue: Queue) -> None:
    add_real_batch(queue, "many", seeds=12)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.facts_message and screen.facts_message.manifest)
        await it.until(lambda: screen.video_list.row_count == 24)
        assert not screen.results.display
        assert screen.video_list.outer_size.height > 20

    on("queue", test, size=WIDE)
