"""Queue, monitor, library and analysis on the screen, with a made-up engine: what is shown, and what keys do."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from clip_batches import write_clip_batch
from conftest import (
    TEMPLATE,
    MakeOnce,
    Wantui,
    batch,
    copy_batch,
    generate_batch,
    only_queued,
    step_done,
)
from fake_nvml import FakeNvml
from harness_screens import RECIPE, add, claim, on
from harness_tui import AppUnderTest, application, engine_announced, run
from PIL import Image
from textual.geometry import Region

from wantui.analysis.loading import read_batch_videos
from wantui.analysis.metrics import METRICS
from wantui.engine.control import acquire_engine_lock, publish_engine_info
from wantui.errors import UserError
from wantui.queue.events import VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import BatchDescription, NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.manifest_store import ManifestStore
from wantui.tui.queue_watcher import VIDEOS_PER_PAGE
from wantui.tui.screens.analysis import AnalysisScreen
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.monitor import MonitorScreen
from wantui.tui.screens.player import Player
from wantui.tui.screens.queue import QueueScreen
from wantui.tui.screens.recipe_viewer import RecipeViewer
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.gpu_panel import GpuPanel

pytestmark = pytest.mark.terminal


def record_done_batch(queue: Queue, made: BatchFolder) -> None:
    """Add a generated batch to the queue, with all its videos done."""
    manifest = read_manifest(made)
    videos = [NewVideo(i, manifest.make_video_title(entry), RECIPE, 20) for i, entry in enumerate(manifest.videos)]
    queue.add_batch(made.root.absolute(), "auto", videos)
    for _ in videos:
        queue.record_done(claim(queue), VideoDone(seconds={"denoise": 1.0}))


# The queue


def test_queue_shows_states_of_batches_and_videos_as_they_change(queue: Queue) -> None:
    add(queue, "kiss")
    add(queue, "flowers", 1)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text() and "flowers" in it.text())
        assert "· waiting" in it.text()
        taken = claim(queue)
        await it.until(lambda: "▶ running" in it.text())
        queue.record_step(taken, step_done(9, 20, 0.1, 0.5))
        await it.until(lambda: "10/20" in it.text())
        queue.record_failure(taken, "RuntimeError: it broke")
        await it.until(lambda: "✗ failed" in it.text())
        assert "RuntimeError: it broke" in it.notifications()
        queue.record_done(claim(queue), VideoDone(seconds={"denoise": 1.0}))
        await it.until(lambda: "✓ done" in it.text())

    with engine_announced():
        on("queue", test)


def test_claimed_video_is_running_with_an_engine_and_interrupted_without(queue: Queue) -> None:
    number = add(queue, "kiss", 1)
    claim(queue)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        with engine_announced():
            await it.until(lambda: it.text().count("▶ running") == 4)  # header, batch, row, details of the video
        await it.press("enter")
        await it.until(lambda: it.text().count("! interrupted") == 3)
        await it.until(lambda: "workers" not in it.text())  # another process may have the number of the worker
        await it.press("c")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(lambda: "1 running video will stop once an engine starts" in it.notifications())
        await it.until(lambda: it.app.screen is screen)
        await it.press("x")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(lambda: f"cannot remove batch {number}" in it.notifications())
        assert "wantui engine start" in it.notifications()

    on("queue", test)


def test_footer_follows_which_batches_are_listed(queue: Queue) -> None:
    number = add(queue, "kiss", 1)
    queue.cancel_videos(number)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text() and "Retry" in it.text().splitlines()[-1])
        await it.press("a")
        await it.until(lambda: "kiss" not in it.text() and "Retry" not in it.text().splitlines()[-1])
        await it.press("a")
        await it.until(lambda: "kiss" in it.text() and "Retry" in it.text().splitlines()[-1])

    on("queue", test)


def test_hidden_ended_batches_exclude_failed_ones_and_the_cursor_starts_at_the_newest(queue: Queue) -> None:
    failed, cancelled, newest = (add(queue, name) for name in ("broken", "cancelled", "newest"))
    for _ in range(3):
        queue.record_failure(claim(queue), "it broke")
    for number in (cancelled, newest):
        queue.cancel_videos(number)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: len(screen.visible_batches) == 3)
        current_batch = screen.get_current_batch()
        assert current_batch is not None
        assert current_batch.id == newest
        await it.press("a")
        await it.until(lambda: [batch.id for batch in screen.visible_batches] == [failed])

    with only_queued():
        on("queue", test)


def test_batch_can_be_moved_paused_and_resumed(queue: Queue) -> None:
    first, second = add(queue, "one"), add(queue, "two")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "two" in it.text())
        await it.press("J")
        assert [row.id for row in queue.list_batches()] == [second, first]
        await it.until(lambda: it.text().index("two") < it.text().index("one", it.text().index("Batches")))
        await it.press("p")
        paused = queue.get_batch(first)
        assert paused is not None
        assert paused.paused, "the cursor stays on the batch that was moved"
        await it.until(lambda: "‖ paused" in it.text())
        await it.press("p")
        resumed = queue.get_batch(first)
        assert resumed is not None
        assert not resumed.paused

    on("queue", test)


def test_cancelling_asks_first_and_acts_on_the_selected_video(queue: Queue) -> None:
    number = add(queue, "one")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "red seed 44" in it.text())
        await it.press("enter", "down", "c")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        assert "red seed 43" in it.text()
        await it.press("n")
        assert [video.state for video in queue.list_videos(number)] == ["queued"] * 3
        await it.press("c")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(
            lambda: [video.state for video in queue.list_videos(number)] == ["queued", "cancelled", "queued"]
        )
        await it.until(lambda: isinstance(it.app.screen, QueueScreen))
        await it.press("r")
        await it.until(lambda: [video.state for video in queue.list_videos(number)] == ["queued"] * 3)

    with only_queued():
        on("queue", test)


def test_removing_a_batch_asks_first_and_leaves_its_folder(queue: Queue) -> None:
    add(queue, "one")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "one" in it.text())
        await it.press("x")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        assert "3 videos not generated yet." in it.text().replace("\n", " ")
        await it.press("y")
        await it.until(lambda: not queue.list_batches())
        await it.until(lambda: "the queue is empty" in it.text())
        assert Path("one").is_dir()

    on("queue", test)


def test_removed_batches_can_be_restored(queue: Queue) -> None:
    numbers = [add(queue, name) for name in ("one", "two", "three")]
    queue.cancel_videos(numbers[0], 1)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "three" in it.text())
        before = [(batch, queue.list_videos(batch.id)) for batch in queue.list_batches()]
        await it.press("space", "down", "space", "x")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        assert "Remove 2 batches from the queue? 5 videos not generated yet." in it.text().replace("\n", " ")
        await it.press("y")
        await it.until(lambda: [batch.id for batch in queue.list_batches()] == [numbers[1]])
        await it.until(lambda: isinstance(it.app.screen, QueueScreen))
        await it.press("u")
        await it.until(lambda: len(queue.list_batches()) == 3)
        assert [(batch, queue.list_videos(batch.id)) for batch in queue.list_batches()] == before

    on("queue", test)


def test_retry_of_a_video_does_not_touch_marked_batches(queue: Queue) -> None:
    numbers = [add(queue, name) for name in ("one", "two")]
    for number in numbers:
        queue.cancel_videos(number)

    async def test(it: AppUnderTest) -> None:
        def list_states() -> list[list[str]]:
            return [[video.state for video in queue.list_videos(number)] for number in numbers]

        await it.until(lambda: "Videos of two" in it.text())
        await it.press("home")
        await it.until(lambda: "Videos of one" in it.text())
        await it.press("space")  # marks the first batch, and moves to the second
        await it.until(lambda: "Videos of two" in it.text())
        await it.press("enter", "down")
        await it.until(lambda: it.screen(QueueScreen).get_focused_video())
        await it.press("r")
        await it.until(lambda: list_states() == [["cancelled"] * 3, ["cancelled", "queued", "cancelled"]])
        assert "1 selected" in it.text()

    with only_queued():
        on("queue", test)


@pytest.mark.parametrize("key", ["r", "c"])
def test_key_on_a_video_that_is_not_read_yet_does_not_touch_marked_batches(queue: Queue, key: str) -> None:
    numbers = [add(queue, name) for name in ("one", "two")]
    queue.cancel_videos(numbers[0], 1)

    async def test(it: AppUnderTest) -> None:
        def list_states() -> list[list[str]]:
            return [[video.state for video in queue.list_videos(number)] for number in numbers]

        await it.until(lambda: "Videos of one" in it.text())
        await it.press("space")  # marks the first batch, and moves to the second
        await it.until(lambda: "Videos of two" in it.text())
        await it.press("enter")
        screen, before = it.screen(QueueScreen), list_states()
        await it.until(screen.get_focused_video)
        screen.pages_by_number = {}
        await it.press(key)
        assert "the video is being read. Try again" in it.notifications()
        assert isinstance(it.app.screen, QueueScreen), "no question about the marked batch"
        assert list_states() == before

    with only_queued():
        on("queue", test)


def test_failed_restore_keeps_the_removed_batch_for_another_try(queue: Queue) -> None:
    number = add(queue, "one")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "one" in it.text())
        await it.press("x")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(lambda: not queue.list_batches())
        await it.until(lambda: isinstance(it.app.screen, QueueScreen))
        again = add(queue, "one")
        await it.press("u")
        await it.until(lambda: "was queued again in the meantime" in it.notifications())
        queue.remove_batch(again)
        await it.press("u")
        await it.until(lambda: [batch.id for batch in queue.list_batches()] == [number])

    on("queue", test)


def test_batch_queued_again_is_not_restored_over(queue: Queue) -> None:
    number = add(queue, "one")
    removed = queue.remove_batch(number)
    again = add(queue, "one")
    with pytest.raises(UserError, match=f"cannot restore batch {number}: .*one was queued again in the meantime"):
        queue.restore_batch(removed)
    assert [batch.id for batch in queue.list_batches()] == [again]


def test_actions_apply_to_all_marked_batches(queue: Queue) -> None:
    numbers = [add(queue, name) for name in ("one", "two", "three")]

    async def test(it: AppUnderTest) -> None:
        def list_states() -> list[set[str]]:
            return [{video.state for video in queue.list_videos(number)} for number in numbers]

        await it.until(lambda: "three" in it.text())
        await it.press("space", "space")
        assert "Batches: 3, 2 selected" in it.text()
        await it.press("p")
        await it.until(lambda: [batch.paused for batch in queue.list_batches()] == [True, True, False])
        await it.until(lambda: it.text().count("‖ paused") == 2)
        await it.press("p")
        await it.until(lambda: [batch.paused for batch in queue.list_batches()] == [False] * 3)
        await it.press("c")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        assert "Cancel 6 videos of 2 batches?" in it.text().replace("\n", " ")
        await it.press("y")
        await it.until(lambda: list_states() == [{"cancelled"}, {"cancelled"}, {"queued"}])
        await it.until(lambda: isinstance(it.app.screen, QueueScreen))
        await it.until(lambda: "selected" not in it.text())
        await it.press("k", "k", "k", "space", "space", "space", "minus", "r")
        await it.until(lambda: "nothing to retry" in it.notifications())
        assert list_states() == [{"cancelled"}, {"cancelled"}, {"queued"}]

    with only_queued():
        on("queue", test)


def test_wide_batch_list_shows_model_seeds_and_template(queue: Queue) -> None:
    description = BatchDescription("a [red|blue]\n star", "wan2.1-1.3b", "42 to 44")
    queue.add_batch(Path("one").absolute(), "cpu", [NewVideo(0, "red", "{}", 2)], description=description)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "wan2.1-1.3b" in it.text())
        assert re.search(r"wan2\.1-1\.3b +42 to 44 +one +a \[red\|blue\] star", it.text())
        await it.pilot.resize_terminal(100, 30)
        await it.until(lambda: "wan2.1-1.3b" not in it.text())
        assert "one" in it.text()

    on("queue", test, size=(200, 40))


def test_ten_thousand_videos_are_read_in_pages(queue: Queue) -> None:
    add(queue, "many", 10_000)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "red seed 42" in it.text())
        assert set(screen.pages_by_number) == {0}
        await it.press("enter", "end")
        await it.until(lambda: "red seed 10041" in it.text())
        assert set(screen.pages_by_number) <= {0, 10_000 // VIDEOS_PER_PAGE - 1}
        await it.press("home")
        await it.until(lambda: "red seed 42" in it.text())
        drawn: set[int] = set()
        refresh = screen.video_list.refresh

        def record_rows(*regions: Region, **options: Any) -> Any:
            rows = [region.y - screen.video_list.header_height for region in regions]
            drawn.update(rows)
            return refresh(*regions, **options)

        screen.video_list.refresh = record_rows  # type: ignore[method-assign]
        running = claim(queue)
        queue.record_step(running, step_done(0, 20, 0.1, 1.0))
        # The first step gives every video an ETA.
        await it.until(lambda: len(re.findall(r"waiting +\d+:\d\d", it.text())) > 20)
        drawn.clear()
        queue.record_step(running, step_done(1, 20, 0.1, 0.9))
        await it.until(lambda: " 2/20 " in it.text())
        assert drawn == {0}, "only the row that changed is drawn anew"

    with engine_announced():
        on("queue", test)


def test_locked_queue_is_reported_and_unchanged(queue: Queue) -> None:
    number = add(queue, "one")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "one" in it.text())
        other = sqlite3.connect(find_state_directory().directory / "queue.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await it.press("p")
        assert "another program has locked it" in it.notifications()
        other.execute("ROLLBACK")
        row = queue.get_batch(number)
        assert row is not None
        assert not row.paused

    on("queue", test)


def test_header_shows_engine_position_eta_and_hold(queue: Queue) -> None:
    add(queue, "one")
    lock = acquire_engine_lock(find_state_directory().directory)
    assert lock is not None
    publish_engine_info(lock, Path("logs"), ["auto", "cpu"])
    queue.record_done(
        claim(queue), VideoDone(seconds={"denoise": 2.0, "decode": 0.5, "step": 0.1}, device="cpu", memory_plan="")
    )

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "● engine idle" in it.text())
        assert "gpu1" in it.text()
        await it.until(lambda: "1/3  ETA 0:05" in it.text())
        await it.press("f7")
        await it.until(lambda: "‖ on hold" in it.text())
        assert queue.read_hold() is not None
        await it.press("f7")
        await it.until(lambda: queue.read_hold() is None)

    on("queue", test)


def test_end_of_a_batch_rings_the_bell_on_any_screen(queue: Queue) -> None:
    add(queue, "kiss [x]", 1)

    async def test(it: AppUnderTest) -> None:
        rung = []
        it.app.bell = lambda: rung.append(1)  # type: ignore[method-assign]
        await it.until(lambda: it.app.snapshot.batches)
        queue.record_failure(claim(queue), "ValueError: bad [/markup] in it")
        await it.until(lambda: rung)
        assert "kiss [x]: 0 of 1 done" in it.notifications()
        assert "ValueError: bad [/markup] in it" in it.notifications()
        await it.until(lambda: "[/markup]" in it.text())

    on("monitor", test, toasts=True)


def test_cancelled_batch_is_announced_once(queue: Queue) -> None:
    number = add(queue, "many", 300)

    async def test(it: AppUnderTest) -> None:
        rung = []
        it.app.bell = lambda: rung.append(1)  # type: ignore[method-assign]
        await it.until(lambda: it.app.snapshot.batches)
        queue.cancel_videos(number)
        await it.until(lambda: rung)
        await it.pilot.pause(0.5)
        assert len(rung) == 1
        assert it.notifications().count("batch ended") == 1

    on("monitor", test)


def test_multiline_error_is_drawn_on_one_line(queue: Queue) -> None:
    add(queue, "one", 1)
    queue.record_failure(claim(queue), "CUDA error\nkernels\tmight\x1b[31m be late")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: r"CUDA error kernels might\x1b[31m be late" in it.text())

    on("queue", test, size=(140, 40))


def test_changes_behind_another_screen_are_shown_on_return(queue: Queue) -> None:
    add(queue, "one")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "red seed 42" in it.text())
        await it.press("3")
        taken = claim(queue)
        queue.record_step(taken, step_done(0, 20, 0.1, 1.0))
        queue.record_done(taken, VideoDone(seconds={}))
        await it.until(lambda: it.app.snapshot.batches[0].counts.get("done") == 1)
        claim(queue)  # other news after it
        await it.until(lambda: it.app.snapshot.running_videos)
        await it.press("2")
        await it.until(lambda: "✓ done" in it.text())

    on("queue", test)


def test_opening_a_video_in_the_library_clears_an_old_search(made: BatchFolder, queue: Queue) -> None:
    record_done_batch(queue, made)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        await it.press("slash")
        await it.paste("nothing like it")
        await it.until(lambda: not screen.visible_batches)
        await it.press("escape", "2")
        await it.until(lambda: "✓ done" in it.text())
        await it.press("enter", "down", "down", "o")
        await it.until(lambda: it.app.screen.name == "library" and screen.get_current_entry())
        entry = screen.get_current_entry()
        assert entry is not None
        assert (entry.variation, entry.number) == (1, 1)

    on("library", test)


def test_eta_of_a_queued_video_includes_all_videos_before_it(queue: Queue) -> None:
    add(queue, "one")
    add(queue, "two")
    queue.record_done(
        claim(queue), VideoDone(seconds={"denoise": 20.0, "decode": 10.0, "step": 1.0}, device="cpu", memory_plan="")
    )

    async def test(it: AppUnderTest) -> None:
        # Two of the first batch and three of the second are left, of half a minute each.
        await it.until(lambda: " 0:30 " in it.text() and " 1:00 " in it.text())
        await it.press("down")
        await it.until(lambda: all(f" {eta} " in it.text() for eta in ("1:30", "2:00", "2:30")))

    with engine_announced():
        on("queue", test)


def test_edit_copy_loads_template_and_settings(wantui: Wantui, small: list[str]) -> None:
    batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, "--seed", 5, *small))

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "✓ done" in it.text())
        await it.press("e")
        await it.until(lambda: it.app.screen.name == "compose")
        screen = it.screen(ComposeScreen)
        await it.until(lambda: screen.template_editor.text == TEMPLATE and screen.config)
        assert screen.config is not None
        assert screen.config.settings.model_settings.seed == 5

    on("queue", test)


# The monitor


def test_monitor_shows_step_noise_pace_curves_and_preview(queue: Queue, tmp_path: Path) -> None:
    add(queue, "one")
    lock = acquire_engine_lock(find_state_directory().directory)
    assert lock is not None
    publish_engine_info(lock, Path("logs"), ["auto", "cpu"])
    strip = tmp_path / "strip.png"
    Image.new("RGB", (80, 16), (255, 0, 0)).save(strip)

    async def test(it: AppUnderTest) -> None:
        assert "the engine starts a worker for the next video; 3 videos waiting" in it.text()
        taken = claim(queue)
        await it.until(lambda: "red seed 42" in it.text())
        for index in range(8):
            figures = {"norm": 1.0, "velocity": 1.5, "turning": 0.3, "straightness": 0.97, "preview": str(strip)}
            queue.record_step(taken, step_done(index, 20, 0.25, 1 - index / 20, **figures))
        screen = it.screen(MonitorScreen)
        await it.until(lambda: screen.get_current_progress() and screen.get_current_progress().step_number == 8)  # type: ignore[union-attr]
        screen._draw_details()
        await it.pilot.pause()
        shown = it.text()
        assert re.search(r"σ +s/step +ETA ", shown)
        assert re.search(r"▶ denoising +red seed 42 +\S+ +8/20 +0\.650 +0\.25 +0:03 ", shown)
        assert "straightness" in shown
        assert "0.97" in shown
        assert "after 8 of 20 steps   " in shown
        assert "▀" in screen.picture.get_shown_text()
        queue.record_done(taken, VideoDone(seconds={}))
        await it.until(lambda: "the engine starts a worker for the next video; 2 videos waiting" in it.text())

    on("monitor", test)


def test_monitor_shows_one_row_per_worker_and_cancels_a_video(queue: Queue) -> None:
    add(queue, "one")
    claim(queue, "worker-0:1")
    claim(queue, "worker-1:2")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "worker-0" in it.text() and "worker-1" in it.text())
        await it.press("down", "c")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(lambda: queue.list_cancelling_workers() == {"worker-1:2"})

    on("monitor", test)


@pytest.mark.parametrize("then", ["queued again", "done"])
def test_cancelling_a_video_that_stopped_meanwhile_does_not_claim_to_stop_it(
    made: BatchFolder, queue: Queue, then: str
) -> None:
    entry = read_manifest(made).videos[0]
    number = queue.add_batch(made.root.absolute(), "auto", [NewVideo(0, "red seed 42", RECIPE, 20)])
    taken = claim(queue)
    (made.root / next(path for path in entry.files.values() if path.endswith(".mp4"))).unlink()

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "red seed 42" in it.text())
        await it.press("c")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        if then == "done":
            queue.record_done(taken, VideoDone(seconds={"denoise": 1.0}))
        else:
            queue.release_video(taken, "paused")
        await it.press("y")
        await it.until(lambda: "nothing to cancel" in it.notifications() or "1 video cancelled" in it.notifications())
        assert "will stop" not in it.notifications()

    on("monitor", test)
    (video,) = queue.list_videos(number)
    if then == "queued again":
        assert video.state == read_manifest(made).videos[0].state == "cancelled"
    else:
        assert video.state == "done"


def test_monitor_shows_the_batch_log(queue: Queue) -> None:
    add(queue, "one")
    log = BatchFolder(Path("one").absolute()).log_path
    log.parent.mkdir(parents=True)
    log.write_text("2026-11-24 INFO loading nano\n")
    claim(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "loading nano" in it.text())

    on("monitor", test)


def test_monitor_follows_the_decoding_of_a_video(queue: Queue) -> None:
    add(queue, "kiss", 1)

    async def test(it: AppUnderTest) -> None:
        taken = claim(queue)
        queue.record_step(taken, step_done(19, 20, 0.1, 0.02))
        await it.until(lambda: re.search(r"▶ decoding +red seed 42 +[━█]{12} +20/20 ", it.text()))
        queue.record_decoded_frames(taken, 4, 17)
        await it.until(lambda: re.search(r"▶ decoding +red seed 42 +\S+ +frame 4/17 ", it.text()))
        queue.record_decoded_frames(taken, 17, 17)
        await it.until(lambda: re.search(r"▶ finalizing +red seed 42 +[━█]{12} +frame 17/17 ", it.text()))
        queue.record_done(taken, VideoDone(seconds={"denoise": 1.0}))
        await it.until(lambda: "no video is running" in it.text())

    with engine_announced():
        on("monitor", test)


# The library


@pytest.fixture
def made(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    """A batch of two variations by two seeds with stored latents."""
    options = ("-t", TEMPLATE, "--videos-per-variation", 2, "--store-latents", *small)
    return copy_batch(make_once("four-videos", lambda folder: generate_batch(folder, *options)))


def test_library_shows_a_matrix_and_details_of_the_selected_video(made: BatchFolder) -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        assert "2 variations by seeds 42 to 43" in " ".join(it.cells("#batch-facts").split())
        await it.press("enter", "down", "right")
        entry = screen.get_current_entry()
        assert entry is not None
        assert (entry.variation, entry.number) == (1, 2)
        await it.until(lambda: "blue, seed 43" in it.cells("#about"))
        assert "a blue circle" in it.cells("#about")
        assert "videos/prompt_001/video_002.mp4" in "".join(it.cells("#video-facts").split())
        await it.until(lambda: "▀" in it.cells("#sheet"))
        await it.press("i")
        await it.until(lambda: isinstance(it.app.screen, RecipeViewer))
        await it.press("j")
        assert '"seed": 43' in it.text()

    on("library", test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_library_shows_each_fact_about_a_video_once(made: BatchFolder, size: tuple[int, int]) -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        await it.press("enter", "down", "right")
        await it.until(lambda: "blue, seed 43" in it.cells("#about"))
        await it.until(lambda: "▀" in it.cells("#sheet"))
        entry = screen.get_current_entry()
        assert entry is not None
        about, batch_facts, video_facts = (it.cells(name) for name in ("#about", "#batch-facts", "#video-facts"))
        assert entry.recipe.sampler in batch_facts
        assert entry.recipe.sampler not in about
        assert f"{entry.recipe.width}x{entry.recipe.height}" not in about
        assert f"✓ done, generated in {entry.generation_seconds:.1f} s" in about
        assert "on disk" not in about
        assert ("on disk" in video_facts) == (size == (140, 40))  # a low screen shows the sheet instead

    on("library", test, size=size)


def test_library_cell_updates_when_its_video_is_regenerated(made: BatchFolder) -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: "▀" in it.cells("#sheet"))
        shown = screen.query_one("#sheet", DiffText).shown_strips
        await it.press("2", "4")
        await it.pilot.pause(0.2)
        assert (
            screen.query_one("#sheet", DiffText).shown_strips is shown
        )  # nothing is drawn again where nothing has changed
        ManifestStore(BatchFolder(made.root)).edit_video_entry(0, lambda entry: entry.seconds.update(denoise=1234.0))
        entry = screen.get_current_entry()
        assert entry is not None
        Image.new("RGB", (320, 64), "red").save(made.root / entry.files["sheet"])
        await it.press("2", "4")
        await it.until(lambda: "denoise 1234.0 s" in it.cells("#video-facts"))
        await it.until(lambda: "▀" in it.cells("#sheet"))
        assert screen.query_one("#sheet", DiffText).shown_strips != shown

    on("library", test)


def test_missing_or_damaged_clip_is_reported(made: BatchFolder) -> None:
    made.make_clip_path(0, 1).write_bytes(b"not a clip")
    made.make_clip_path(0, 2).unlink()

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        await it.press("enter", "p")
        await it.until(lambda: isinstance(it.app.screen, Player) and "readable" in it.text())
        await it.press("q", "right", "p")
        assert (
            f"cannot find the clip {made.make_clip_path(0, 2).resolve()}: it was moved or deleted" in it.notifications()
        )
        it.app._notifications.clear()
        await it.press("y")
        assert "cannot find the clip" in it.notifications()
        assert "copied" not in it.notifications()

    on("library", test)


def test_library_searches_filters_and_names_damaged_batches(made: BatchFolder, wantui: Wantui) -> None:
    broken = made.root.parent / "broken"
    broken.mkdir()
    (broken / "batch.json").write_text("{")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: len(screen.visible_batches) == 2)
        assert "✗ unreadable broken  batch.json" in it.text()
        await it.press("home", *["down"] * [result.folder.name for result in screen.visible_batches].index("broken"))
        await it.until(lambda: "cannot be read: EOF while parsing" in " ".join(it.cells("#cell #about").split()))
        await it.press("slash")
        await it.paste("circle red")
        await it.until(lambda: [result.folder for result in screen.visible_batches] == [made.root.resolve()])
        await it.press("escape", "f")
        await it.until(lambda: [result.folder.name for result in screen.visible_batches] == ["broken"])

    on("library", test)


def test_batch_named_on_the_command_line_is_opened_in_the_library(tmp_path: Path) -> None:
    folder = tmp_path / "far from the queue" / "summer"
    write_clip_batch(folder, seeds=1)
    write_clip_batch(folder.with_name("winter"), "one circle", seeds=1)

    async def test() -> None:
        async with application(welcomed=False, opened_batch=folder) as under:
            await under.until(lambda: isinstance(under.app.screen, LibraryScreen) and under.app.screen.shown_manifest)
            library = under.screen(LibraryScreen)
            assert library.shown_folder == folder
            assert len(library.batches) == 2

    run(test)


def test_clip_path_is_copied_to_the_clipboard(made: BatchFolder) -> None:
    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        await it.press("y")
        assert it.app.clipboard == str(made.make_clip_path(0, 1).resolve())

    on("library", test)


def test_batch_is_moved_to_the_trash_after_confirmation(
    made: BatchFolder, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    import send2trash

    record_done_batch(queue, made)
    gone: list[str] = []

    def trash(path: str) -> None:
        gone.append(path)
        Path(path).rename(path + "-trash")

    monkeypatch.setattr(send2trash, "send2trash", trash)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        await it.press("delete")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        await it.press("y")
        await it.until(lambda: "to the trash" in it.notifications())
        assert gone == [str(made.root.resolve())]
        assert not queue.list_batches()

    on("library", test)


def test_missing_videos_of_a_batch_are_queued_again(made: BatchFolder, queue: Queue) -> None:
    record_done_batch(queue, made)
    made.make_clip_path(1, 1).unlink()

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        await it.press("n")
        await it.until(lambda: "batch 1: 1 video" in it.notifications())
        assert [video.state for video in queue.list_videos(1)] == ["done", "done", "queued", "done"]

    with only_queued():
        on("library", test)


# The analysis


def test_trajectory_table_can_be_sorted_scrolled_and_searched(made: BatchFolder) -> None:
    videos = list(read_batch_videos(made.root))

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        await it.until(lambda: len(screen.visible_rows) == 4)
        await it.until(lambda: f"{videos[0].compute_metric('length'):.3f}" in it.text())
        assert "straightness" in it.text()
        assert "norm" in it.cells("#curve-cells")
        await it.press("s")
        lengths = [row.compute_metric("length") for row in screen.visible_rows]  # type: ignore[union-attr]
        assert lengths == sorted(video.compute_metric("length") for video in videos)
        await it.press("S")
        assert [row.compute_metric("length") for row in screen.visible_rows] == lengths[::-1]  # type: ignore[union-attr]
        await it.press("s")
        in_batch_order = [video.compute_metric("length") for video in videos]
        assert [row.compute_metric("length") for row in screen.visible_rows] == in_batch_order  # type: ignore[union-attr]
        await it.press(*["l"] * (len(METRICS) - 1), "h")
        assert screen.row_list.metric_name == list(METRICS)[-2]
        await it.until(lambda: "straightness" not in it.text() and "final norm" in it.text())
        await it.press("slash")
        await it.paste("blue")
        await it.until(lambda: len(screen.visible_rows) == 2)

    on("analysis", test)


def test_groups_show_a_verdict_list_their_videos_and_can_be_exported(make_once: MakeOnce, small: list[str]) -> None:
    options = ("-t", TEMPLATE, "--videos-per-variation", 3, *small)
    made = copy_batch(make_once("six-videos", lambda folder: generate_batch(folder, *options)))

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        await it.until(lambda: len(screen.visible_rows) == 6)
        await it.press("c")
        await it.until(lambda: screen.is_grouped and "red " in it.text())
        await it.until(lambda: "cannot tell in spread; 3 seeds cannot give a p below 0.25" in it.cells("#curve-cells"))
        await it.press("enter")
        await it.until(lambda: "3 videos of red" in it.text() or "3 videos of blue" in it.text())
        assert len(screen.visible_rows) == 3
        await it.press("escape")
        await it.until(lambda: screen.is_grouped and "red " in it.text())
        await it.press("x")
        await it.until(lambda: any((made.root / "reports").glob("comparison_*.html")))
        assert list((made.root / "reports").glob("trajectories_*.csv"))
        await it.press("c")
        await it.until(lambda: len(screen.visible_rows) == 6)

    on("analysis", test)


def test_attention_is_shown_or_reported_as_missing(made: BatchFolder, wantui: Wantui, small: list[str]) -> None:
    async def missing(it: AppUnderTest) -> None:
        await it.until(lambda: len(it.screen(AnalysisScreen).visible_rows) == 4)
        await it.press("a")
        await it.until(lambda: "no attention maps are stored for this video" in it.cells("#curve-cells"))

    on("analysis", missing)
    wantui(
        "run", "-t", "a red (circle)", "--videos-per-variation", 1, "--store-attention", "--batch-name", "maps", *small
    )

    async def there(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        await it.until(lambda: len(screen.available_batches) == 2)
        screen._requested_folder = Path("still being read")  # for another screen; the choice replaces it
        await it.press("b")
        await it.until(lambda: "enter Analyse" in it.text())
        await it.press("home", "space" if "maps" not in screen.chosen_folders[0].name else "end", "enter")
        await it.until(lambda: any("maps" in path.name for path in screen.chosen_folders))
        place = next(i for i, row in enumerate(screen.visible_rows) if getattr(row, "attention_path", None) is not None)
        screen.row_list.cursor = place
        await it.press("a")
        await it.until(lambda: "of the attention" in it.cells("#curve-cells"))
        assert "mean of" in it.cells("#curve-cells")
        assert "▀" in it.cells("#curve-cells")
        before = [row.plain for row in screen.details.details_text.shown_lines]
        await it.press("right", "full_stop")
        await it.until(lambda: "step 0 " in it.cells("#curve-cells") and "frame 2 of" in it.cells("#curve-cells"))
        assert [row.plain for row in screen.details.details_text.shown_lines] != before
        await it.press("h", "comma", "comma", "w")
        await it.until(lambda: "mean of" in it.cells("#curve-cells") and "frame 1 of" in it.cells("#curve-cells"))

    on("analysis", there)


def test_library_and_analysis_show_the_same_video(made: BatchFolder) -> None:
    write_clip_batch(made.root.parent / "newer", seeds=1)

    async def test(it: AppUnderTest) -> None:
        library = it.screen(LibraryScreen)
        await it.until(lambda: library.shown_folder and library.shown_folder.name == "newer")
        await it.press("A")
        await it.until(lambda: "newer has no stored trajectories" in it.notifications())
        assert it.screen(AnalysisScreen).chosen_folders == [made.root.resolve()]
        await it.press("4")
        library.select_batch(made.root, 1)
        await it.until(lambda: library.shown_folder == made.root.resolve() and library.get_current_entry())
        await it.press("A")
        analysis = it.screen(AnalysisScreen)
        await it.until(lambda: getattr(analysis.row_list.current_row, "video_index", None) == 1)
        analysis.row_list.cursor = 0
        await it.press("o")
        await it.until(lambda: it.app.screen is library)
        await it.until(lambda: getattr(library.get_current_cell(), "video_index", None) == 0)

    on("library", test)


def test_batch_named_on_the_command_line_is_analysed(made: BatchFolder, wantui: Wantui, small: list[str]) -> None:
    batch(wantui("run", "-t", "a red circle", "--videos-per-variation", 1, "--batch-name", "newer", *small))

    async def test(it: AppUnderTest) -> None:
        analysis = it.screen(AnalysisScreen)
        await it.until(lambda: len(analysis.available_batches) == 2 and analysis.visible_rows)
        assert analysis.chosen_folders == [made.root.resolve()]

    on("analysis", test, opened_batch=made.root)


def test_queue_opens_a_batch_in_the_analysis(made: BatchFolder, queue: Queue) -> None:
    queue.add_batch(made.root, "auto", [NewVideo(0, "red seed 42", RECIPE, 20)])

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: it.screen(QueueScreen).get_current_batch())
        await it.press("A")
        await it.until(lambda: isinstance(it.app.screen, AnalysisScreen))
        analysis = it.screen(AnalysisScreen)
        await it.until(lambda: analysis.visible_rows and analysis.chosen_folders == [made.root.resolve()])

    on("queue", test)


def test_analysis_without_trajectories_is_explained() -> None:
    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "no batch here has stored trajectories" in it.text())

    on("analysis", test)


# The GPU panel


@pytest.mark.parametrize(
    ("nvml", "shown"),
    [
        (FakeNvml(nvmlInit=12), "no GPU"),
        (FakeNvml(), "20.0/80.0 GB  25%  load  97%  412/700 W   61 °C"),
        (FakeNvml(gpus=2), "GPU1"),
        (FakeNvml(nvmlDeviceGetMemoryInfo=15), "✗ lost"),
        (FakeNvml(nvmlDeviceGetUtilizationRates=3), "load  N/A  412"),
    ],
)
def test_gpu_panel_shows_each_gpu_state(nvml: FakeNvml, shown: str) -> None:
    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: shown in it.cells("GpuPanel"))

    on("queue", test, nvml=nvml)


def test_gpu_panel_shows_our_memory_and_its_peak(queue: Queue) -> None:
    add(queue, "one")
    taken = claim(queue, "worker-0:4711")

    async def test(it: AppUnderTest) -> None:
        memory = {"allocated": 9_000_000_000, "reserved": 11_000_000_000, "peak": 10_000_000_000}
        queue.record_step(taken, step_done(0, 20, 0.1, 1.0, **memory))
        await it.press("f9")
        await it.until(lambda: "wantui: 9.0 GB of 11.0 GB reserved" in it.cells("GpuPanel"))
        assert "peak 10.0 GB" in it.cells("GpuPanel")
        # Processes are looked for from the next sample on.
        await it.until(lambda: "of another container or user" in it.cells("GpuPanel"))
        assert "80.0 GB ┤" in it.cells("GpuPanel")
        await it.press("f8")
        await it.until(lambda: not it.app.screen.query_one(GpuPanel).display)

    on("queue", test, nvml=FakeNvml())


def test_failed_video_is_shown_when_its_folder_is_missing(queue: Queue) -> None:
    """A batch whose folder is gone is listed, and opening it says so."""
    add(queue, "gone", 1)
    Path("gone").rmdir()
    queue.record_failure(claim(queue), "the output folder is not there any more")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "✗ failed" in it.text())
        await it.press("e")
        await it.until(lambda: "cannot read template and config of" in it.notifications())

    on("queue", test)


def test_library_states_equal_manifest_states(made: BatchFolder) -> None:
    manifest = read_manifest(made)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(LibraryScreen)
        await it.until(lambda: screen.shown_manifest)
        states = [screen.matrix.grid.cells[row, column].entry.state for row in range(2) for column in range(2)]
        assert states == [video.state for video in manifest.videos]

    on("library", test)


def test_export_into_a_linked_reports_folder_is_refused(made: BatchFolder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (made.root / "reports").symlink_to(elsewhere)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(AnalysisScreen)
        await it.until(lambda: screen.videos)
        await it.press("x")
        await it.until(lambda: "cannot export" in it.notifications())
        assert "reports: it is a symbolic link" in it.notifications()
        assert "Replace the link with a folder" in it.notifications()
        assert not list(elsewhere.iterdir())

    on("analysis", test)


def test_export_without_videos_is_explained() -> None:
    async def test(it: AppUnderTest) -> None:
        await it.press("x")
        await it.until(lambda: "cannot export: there are no videos" in it.notifications())

    on("analysis", test)
