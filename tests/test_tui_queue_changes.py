"""The Queue screen over a queue that goes away, is replaced or is locked, and over batches that grow."""

import importlib
import os
import pkgutil
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from clip_batches import write_clip_batch
from conftest import only_queued
from harness_screens import RECIPE, add, on
from harness_tui import AppUnderTest
from textual import _time
from textual.screen import ModalScreen, Screen

import wantui.tui
from wantui.engine import control
from wantui.queue import reader
from wantui.queue.database import DATABASE_FILE
from wantui.queue.queue import Queue
from wantui.queue.reader import QueueReader
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import lock_manifest
from wantui.storage.manifest import read_manifest
from wantui.tui import edit_copy
from wantui.tui.cancelling import cancel_videos
from wantui.tui.queue_watcher import VIDEOS_PER_PAGE, QueueSnapshot, QueueWatcher, VideoPages
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.queue import QueueScreen
from wantui.tui.timers import OneShotTimersMixin

pytestmark = pytest.mark.terminal


def replace_database(made: Path) -> None:
    """Put another file in place of the queue's."""
    for suffix in ("-wal", "-shm"):
        (find_state_directory().directory / f"{DATABASE_FILE}{suffix}").unlink(missing_ok=True)
    made.replace(find_state_directory().directory / DATABASE_FILE)


def test_deleted_state_directory_is_reported_and_keys_do_not_crash(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Saving drafts would make the folder again meanwhile.
    monkeypatch.setattr("wantui.tui.drafts.DraftStore.save", lambda *_, **__: None)
    add(queue, "kiss")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        shutil.rmtree(find_state_directory().directory)
        for key in ("p", "J", "r", "f7"):
            it.app.clear_notifications()
            await it.press(key)
            assert "cannot change the queue" in it.notifications(), key
            assert "paused" not in it.notifications()
        assert it.app.is_running

    on("queue", test)


def test_replacement_database_of_a_newer_version_is_refused(queue: Queue, tmp_path: Path) -> None:
    add(queue, "kiss")
    made = tmp_path / "newer.db"
    with closing(sqlite3.connect(made)) as other:
        other.execute("PRAGMA user_version = 999")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        replace_database(made)
        await it.press("p")
        assert "a newer wantui wrote it" in it.notifications()
        assert "is paused" not in it.notifications()

    on("queue", test)


def test_locked_replacement_database_is_reported_and_used_once_unlocked(queue: Queue, tmp_path: Path) -> None:
    add(queue, "kiss")
    made = tmp_path / "locked.db"
    holder = sqlite3.connect(made, isolation_level=None)
    holder.execute("CREATE TABLE x (y)")
    holder.execute("DROP TABLE x")
    holder.execute("BEGIN EXCLUSIVE")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        replace_database(made)
        await it.press("f7")
        assert "cannot change the queue: another program has locked it" in it.notifications()
        holder.execute("ROLLBACK")
        holder.close()
        await it.press("f7")
        await it.until(lambda: it.app.snapshot.hold)

    on("queue", test)


def test_number_of_a_video_that_is_not_read_yet_is_below_its_header(queue: Queue) -> None:
    add(queue, "one", 300)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: screen.get_video_at(0))
        row = screen._draw_video(0, 60).plain
        screen.pages_by_number = {}
        assert row.startswith("  1  ")
        assert screen._draw_video(0, 60).plain == "  1 ..."
        assert screen._draw_video(298, 60).plain == "299 ..."

    on("queue", test)


def test_returning_to_a_batch_publishes_its_videos_again(queue: Queue) -> None:
    first, second = add(queue, "first", 3), add(queue, "second", 3)
    published: list[VideoPages] = []
    feed = QueueWatcher(find_state_directory(), lambda snapshot: None, published.append, 60.0, 0)
    with closing(QueueReader(find_state_directory().directory)) as view:
        feed.set_watched_pages(first, {0})
        feed._publish_changed_pages(view, has_changed=True)
        feed.set_watched_pages(second, {0})
        feed.set_watched_pages(first, {0})
        feed._publish_changed_pages(view, has_changed=False)
        assert [read.batch_id for read in published] == [first, first]
        feed.set_watched_pages(first, {0})
        feed._publish_changed_pages(view, has_changed=True)
        assert len(published) == 2, "nothing that is known already is published"


def test_watcher_does_not_wait_for_a_starting_engine(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "START_TIMEOUT_SECONDS", 600.0)
    directory = find_state_directory().directory
    engine_lock = control.acquire_engine_lock(directory)
    assert engine_lock is not None
    snapshots: SimpleQueue[QueueSnapshot] = SimpleQueue()
    watcher = QueueWatcher(StateDirectory(directory), snapshots.put, lambda pages: None, 0.01, 0)
    watcher.start()
    try:
        assert snapshots.get(timeout=60).batches == ()
        add(queue, "kiss")
        assert [batch.name for batch in snapshots.get(timeout=60).batches] == ["kiss"]
        control.publish_engine_info(engine_lock, directory, ["cpu"])
        engine = snapshots.get(timeout=60).engine
        assert engine is not None
        assert engine.process_id == os.getpid()
    finally:
        os.close(engine_lock)  # a watcher that waits for the engine ends
        watcher.stop()
        watcher.join()


@pytest.fixture
def suspend_often(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the process be suspended for a second before each of the next 20 times that Textual reads the clock."""
    read_time, jump_count = _time.get_time, 0

    def read_jumping_time() -> float:
        nonlocal jump_count
        jump_count = max(jump_count - 1, 0)
        return read_time() - jump_count

    def begin() -> None:
        nonlocal jump_count
        jump_count = 20

    monkeypatch.setattr(_time, "get_time", read_jumping_time)
    return begin


def test_screen_is_drawn_after_a_switch_during_which_the_process_was_suspended(
    queue: Queue, suspend_often: Callable[[], None]
) -> None:
    add(queue, "kiss")

    async def test(it: AppUnderTest) -> None:
        screen, calls = it.screen(QueueScreen), []
        await it.until(lambda: "kiss" in it.text())
        suspend_often()
        it.app.delay_update()
        screen.set_timer(0.05, lambda: calls.append("screen"))
        await it.until(lambda: not it.app._batch_count and calls)

    on("queue", test)


@pytest.mark.parametrize("key", ["question_mark", "ctrl+p"])
def test_timer_of_a_dialog_fires_after_the_process_was_suspended(
    queue: Queue, suspend_often: Callable[[], None], key: str
) -> None:
    async def test(it: AppUnderTest) -> None:
        calls: list[str] = []
        await it.press(key)
        await it.until(lambda: isinstance(it.app.screen, ModalScreen))
        suspend_often()
        it.app.screen.set_timer(0.05, lambda: calls.append("dialog"))
        await it.until(lambda: calls)

    on("queue", test)


def test_one_shot_timers_of_every_screen_are_kept() -> None:
    for module in pkgutil.walk_packages(wantui.tui.__path__, "wantui.tui."):
        importlib.import_module(module.name)
    screens: list[Any] = [Screen]
    missing = []
    while screens:
        screen = screens.pop()
        screens += screen.__subclasses__()
        if screen.__module__.startswith("wantui.") and not issubclass(screen, OneShotTimersMixin):
            missing.append(screen.__name__)
    assert not missing


def test_visible_videos_stay_drawn_when_their_batch_grows(queue: Queue) -> None:
    number = add(queue, "many", VIDEOS_PER_PAGE)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "red seed 44" in it.text())
        videos = [NewVideo(VIDEOS_PER_PAGE, "one more", RECIPE, 20)]
        queue.add_batch(Path("many").absolute(), "auto", videos, is_new=False)
        await it.until(lambda: screen.video_list.row_count == VIDEOS_PER_PAGE + 1)
        assert queue.get_batch(number) is not None
        for _ in range(3):
            await it.pilot.pause(0.1)
            assert "red seed 44" in it.text()
        await it.press("enter", "end")
        await it.until(lambda: "one more" in it.text())

    on("queue", test)


def test_queue_migrated_by_a_newer_version_is_not_changed(
    queue: Queue,
) -> None:
    batch = add(queue, "kiss")

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        with closing(sqlite3.connect(queue.path)) as newer:
            newer.execute("PRAGMA user_version = 999")
        await it.until(lambda: "cannot read the queue" in it.notifications() and "a newer wantui" in it.notifications())
        for keys in (("p",), ("f7",), ("T",), ("c", "y"), ("x", "y")):
            it.app.clear_notifications()
            await it.press(*keys)
            await it.until(lambda: "a newer wantui wrote it (schema 999" in it.notifications())

    on("queue", test)
    row = queue.get_batch(batch)
    assert row is not None
    assert not row.paused
    assert row.counts == {"queued": 3}
    assert queue.read_hold() is None


def test_changed_queue_error_is_reported_again(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = ["disk I/O error"]

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError(faults[-1])

    async def test(it: AppUnderTest) -> None:
        monkeypatch.setattr(QueueReader, "list_batches", fail)
        add(queue, "kiss")
        await it.until(lambda: "disk I/O error" in it.notifications())
        faults.append("database or disk is full")
        await it.until(lambda: "database or disk is full" in it.notifications())

    on("queue", test)


def test_unwritable_queue_is_not_reported_as_unreadable(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "find_write_error", lambda folder: "No space left on device")

    async def test(it: AppUnderTest) -> None:
        await it.until(
            lambda: (
                "cannot write the queue in" in it.notifications() and "No space left on device" in it.notifications()
            )
        )
        assert "cannot read the queue" not in it.notifications()

    on("queue", test)


# Work on batch folders in the background


def test_cancelling_does_not_wait_for_the_manifest(queue: Queue) -> None:
    write_clip_batch(Path("slow"), "one circle", seeds=2, unfinished=(0, 1))
    folder, number = BatchFolder(Path("slow").absolute()), add(queue, "slow", 2)

    def list_states() -> list[str]:
        return [video.state for video in read_manifest(folder).videos]

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "slow" in it.text())
        states = list_states()
        with lock_manifest(folder.root):
            cancel_videos(it.app, [number])
            await it.until(lambda: "2 videos cancelled" in it.notifications())
            await it.press("3")
            await it.until(lambda: it.app.screen.name == "monitor")
            assert list_states() == states
        await it.until(lambda: list_states() == ["cancelled"] * 2)
        assert "cannot" not in it.notifications()

    with only_queued():
        on("queue", test)


def test_cancelling_continues_after_a_missing_batch(queue: Queue) -> None:
    numbers = [add(queue, name) for name in ("one", "two", "three")]

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "three" in it.text())
        queue.remove_batch(numbers[1])
        cancel_videos(it.app, numbers)
        await it.until(lambda: "6 videos cancelled" in it.notifications())
        assert f"cannot cancel: batch {numbers[1]} is no longer in the queue" in it.notifications()
        assert "Nothing was changed" not in it.notifications()
        cancel_videos(it.app, numbers[1:2])
        await it.until(lambda: "no longer in the queue. Nothing was changed" in it.notifications())
        assert {video.state for number in numbers for video in queue.list_videos(number)} == {"cancelled"}

    with only_queued():
        on("queue", test)


@pytest.mark.parametrize(
    ("key", "report"),
    [("p", "paused: 2 batches"), ("r", "4 videos queued again"), ("x", "removed: 2 batches")],
)
def test_change_continues_after_a_batch_that_another_process_removed(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, key: str, report: str
) -> None:
    numbers = [add(queue, name, videos=2) for name in ("one", "two", "three")]
    if key == "r":
        for number in numbers:
            queue.cancel_videos(number)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: len(screen.visible_batches) == 3)
        monkeypatch.setattr(it.app, "action_start_engine", lambda: None)
        await it.press("g", "m", "m", "m")
        assert screen.marked_ids == set(numbers)
        if key == "x":
            await it.press("x")
            await it.until(lambda: isinstance(it.app.screen, Confirm))
        monkeypatch.setattr(it.app.queue_watcher, "poll_now", lambda: None)  # the screen does not know of the removal
        queue.remove_batch(numbers[1])
        await it.press("y" if key == "x" else key)
        await it.until(lambda: report in it.notifications())
        assert f"batch {numbers[1]} is no longer in the queue" in it.notifications()
        if key == "x":
            assert [removed.batch_number for removed in screen.removed_batches] == [numbers[0], numbers[2]]

    with only_queued():
        on("queue", test)


def test_error_of_a_batch_is_not_accompanied_by_a_report_that_nothing_can_be_retried(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [add(queue, name, videos=2) for name in ("one", "two")]
    queue.cancel_videos(numbers[1], 0)

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: len(screen.visible_batches) == 2)
        await it.press("g", "m", "m")
        assert screen.marked_ids == set(numbers)
        monkeypatch.setattr(it.app.queue_watcher, "poll_now", lambda: None)  # the screen does not know of the removal
        queue.remove_batch(numbers[1])
        await it.press("r")
        await it.until(lambda: f"batch {numbers[1]} is no longer in the queue" in it.notifications())
        assert "nothing to retry" not in it.notifications()

    with only_queued():
        on("queue", test)


def test_removed_batch_stays_restorable_if_the_next_removal_fails(queue: Queue) -> None:
    numbers = [add(queue, name) for name in ("one", "two")]

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: len(screen.visible_batches) == 2)
        await it.press("g", "x", "y")
        await it.until(lambda: len(screen.visible_batches) == 1)
        await it.press("x")
        await it.until(lambda: isinstance(it.app.screen, Confirm))
        queue.remove_batch(numbers[1])
        await it.press("y")
        await it.until(lambda: f"batch {numbers[1]} is no longer in the queue" in it.notifications())
        await it.press("u")
        await it.until(lambda: [batch.id for batch in queue.list_batches()] == numbers[:1])

    with only_queued():
        on("queue", test)


def test_queue_error_does_not_hide_earlier_cancellations(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [add(queue, name) for name in ("one", "two", "three")]
    cancel = Queue.cancel_videos

    def fail_at_second(queue: Queue, number: int, video_index: int | None = None) -> tuple[Sequence[int], int]:
        if number == numbers[1]:
            raise sqlite3.OperationalError("disk I/O error")
        return cancel(queue, number, video_index)

    monkeypatch.setattr(Queue, "cancel_videos", fail_at_second)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "three" in it.text())
        cancel_videos(it.app, numbers)
        await it.until(lambda: "3 videos cancelled" in it.notifications() and "disk I/O" in it.notifications())
        assert [queue.list_videos(number)[0].state for number in numbers] == ["cancelled", "queued", "queued"]
        it.app.clear_notifications()
        cancel_videos(it.app, numbers[1:])
        await it.until(lambda: "disk I/O" in it.notifications())
        assert "nothing to cancel" not in it.notifications()

    with only_queued():
        on("queue", test)


@pytest.mark.parametrize("kind", ["pipe", "binary", "missing"])
def test_copy_of_a_batch_with_an_unreadable_config_is_refused(queue: Queue, kind: str) -> None:
    add(queue, "kiss")
    batch = BatchFolder(Path("kiss"))
    for path in (batch.config_path, batch.template_path):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("a kiss\n")
    batch.config_path.unlink()
    if kind == "pipe":
        os.mkfifo(batch.config_path)
    elif kind == "binary":
        batch.config_path.write_bytes(b"a\xff")
    reason = {"pipe": "it is a pipe, not a file", "binary": "it is not UTF-8", "missing": "No such file"}[kind]

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        await it.press("e")
        await it.until(lambda: reason in it.notifications())
        assert it.app.screen.name == "queue"
        assert not it.app.drafts.template

    on("queue", test)


def test_copy_that_is_read_slowly_does_not_replace_another_screen(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(queue, "kiss")
    may_read = threading.Event()

    def read_slowly(path: Path, max_bytes: int) -> str:
        assert may_read.wait(20)
        return "a kiss"

    monkeypatch.setattr(edit_copy, "read_text_file", read_slowly)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "kiss" in it.text())
        await it.press("e", "3")
        await it.until(lambda: it.app.screen.name == "monitor")
        may_read.set()
        await it.until(lambda: "kiss was not copied" in it.notifications())
        assert it.app.screen.name == "monitor"
        assert not it.app.drafts.template

    on("queue", test)


def test_changes_that_a_batched_update_did_not_draw_are_drawn_after_it(queue: Queue) -> None:
    add(queue, "kiss")

    async def test(it: AppUnderTest) -> None:
        screen = it.screen(QueueScreen)
        await it.until(lambda: "kiss" in it.text())
        with it.app.batch_update():
            screen._compositor._dirty_regions.add(screen.region)
            screen._compositor_refresh()
            assert screen._compositor._dirty_regions
        await it.until(lambda: not screen._compositor._dirty_regions)

    on("queue", test)


@pytest.mark.parametrize(("key", "report"), [("p", "resumed: batch 1, one"), ("f7", "queue resumed")])
def test_pause_key_resumes_a_batch_on_hold(queue: Queue, key: str, report: str) -> None:
    queue.hold_batch(add(queue, "one", videos=2), "disk", "no room", Path("/outputs"), 10)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "no room" in it.text())
        await it.press(key)
        await it.until(lambda: report in it.notifications())
        row = queue.list_batches()[0]
        assert (row.hold, row.paused, queue.read_hold()) == (None, False, None)

    with only_queued():
        on("queue", test)
