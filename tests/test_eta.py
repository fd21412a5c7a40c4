"""Estimated time of arrival of batches and videos, as commands and screens show it."""

import fcntl
import json
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import Wantui, recipe_for, step_done

from wantui.batches.eta import BatchEta, EtaModel, RemainingTime, accumulate_queue_etas, estimate_queue_etas
from wantui.models.catalogue import NANO
from wantui.planning import parse_timed_videos
from wantui.queue import claims
from wantui.queue.engine_lock import ENGINE_LOCK_FILE
from wantui.queue.events import VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import BatchRow, NewVideo, VideoRow
from wantui.queue.state_dir import find_state_directory

RECIPE = recipe_for(NANO, steps=20).model_copy(update={"model": "nano"})
DONE = VideoDone(seconds={"denoise": 3.0, "decode": 0.5, "step": 0.1}, device="cpu", memory_plan="resident")
FOLDER = Path("/outputs/x")
CPU = ("auto", "cpu")


def add(queue: Queue, folder: str, videos: int, device: str = "auto") -> BatchRow:
    number = queue.add_batch(Path(folder), device, [NewVideo(i, f"v{i}", RECIPE.to_json(), 20) for i in range(videos)])
    return row(queue, number)


def row(queue: Queue, number: int) -> BatchRow:
    batch = queue.get_batch(number)
    assert batch is not None
    return batch


def test_eta_includes_all_earlier_videos() -> None:  # C9
    first = BatchRow(1, FOLDER, "auto", False, 0.0, {"running": 1, "queued": 1})
    paused = BatchRow(2, FOLDER, "auto", True, 0.0, {"queued": 5})
    last = BatchRow(3, FOLDER, "auto", False, 0.0, {"queued": 2, "done": 7})
    remaining = {1: RemainingTime(15.0, 10.0), 2: RemainingTime(50.0, 10.0), 3: RemainingTime(20.0, 10.0)}
    etas = accumulate_queue_etas([first, paused, last], remaining)
    assert etas.seconds_by_batch == {1: 15.0, 3: 35.0}
    assert etas.queue_seconds == 35.0
    waiting = VideoRow(9, 3, 8, "x", "queued", 0, None, 0, 20, "", None, None, None, None)
    assert etas.estimate_video_eta(waiting, 1, last) == 35.0, "the last video is done when its batch is"
    assert etas.estimate_video_eta(waiting, 0, last) == 25.0
    running = VideoRow(1, 1, 0, "x", "running", 0, "w", 10, 20, "", None, None, None, None)
    assert etas.estimate_video_eta(running, 0, first) == 5.0
    assert accumulate_queue_etas([first], {}).estimate_video_eta(running, 0, first, pace_seconds=2.0) == 20.0
    assert accumulate_queue_etas([first, last], {1: RemainingTime(None, None), 3: remaining[3]}).seconds_by_batch == {
        1: None,
        3: None,
    }
    assert accumulate_queue_etas([], {}).queue_seconds is None


def test_remaining_time_subtracts_completed_steps(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    batch = add(queue, "/outputs/a", 4)
    model = EtaModel(queue)
    assert model.estimate_remaining_time(batch, queue.list_running_videos(), CPU, {}).batch_seconds is None
    claim = queue.claim_next_video("w:1", ("auto",))
    assert claim is not None
    queue.record_done(claim, DONE)
    claim = queue.claim_next_video("w:1", ("auto",))
    assert claim is not None
    queue.record_step(claim, step_done(9, 20, 0.1, 0.5))
    model.reload_past_videos()
    left = model.estimate_remaining_time(row(queue, batch.id), queue.list_running_videos(), CPU, {claim.video_id: 77.0})
    assert left.video_seconds == pytest.approx(20 * 0.1 + 0.5), "past videos come before the pace of a running one"
    assert left.batch_seconds == pytest.approx(2.5 * (3 - 0.5))


def test_eta_counts_all_that_the_later_videos_of_the_batch_took(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    batch = add(queue, "/outputs/a", 6)
    estimates = []
    for attempt_seconds in (30.0, 8.0, 9.0, 10.0):  # the first one loads the model
        claim = queue.claim_next_video("w:1", ("auto",))
        assert claim is not None
        queue.record_done(claim, DONE)
        queue.db.execute("UPDATE video SET seconds = ? WHERE id = ?", (attempt_seconds, claim.video_id))
        model = EtaModel(queue)
        estimates.append(model.estimate_remaining_time(row(queue, batch.id), [], CPU, {}).video_seconds)
    assert estimates == pytest.approx([2.5, 8.0, 9.0, 9.5]), "2.5 s are 20 steps and the decoding"


def test_later_videos_are_told_apart_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(tmp_path)
    batch = add(queue, "/outputs/a", 9)
    wall_seconds, boot_seconds = 1e9, 1000.0
    monkeypatch.setattr(claims, "read_boot_seconds", lambda: boot_seconds)
    monkeypatch.setattr(time, "time", lambda: wall_seconds)
    for attempt_seconds in (90.0, 80.0, 70.0, 8.0, 9.0, 10.0):
        claim = queue.claim_next_video("w:1", ("auto",))
        assert claim is not None
        boot_seconds += attempt_seconds
        wall_seconds -= 3600.0
        queue.record_done(claim, DONE)
    assert queue.list_recent_durations(batch.id, 3) == [10.0, 9.0, 8.0]


def test_eta_of_a_first_video_uses_its_own_pace(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    batch, other = add(queue, "/outputs/a", 3), add(queue, "/outputs/b", 2)
    follower = BatchEta(queue, batch.id)
    assert follower.estimate_batch_seconds() is None
    claim = queue.claim_next_video("w:1", ("auto",))
    assert claim is not None
    for step in range(5):
        queue.record_step(claim, step_done(step, 20, 0.5, 0.5))
    follower = BatchEta(queue, batch.id)
    for event in queue.list_events(0, batch.id):
        follower.apply_event(event)
    # 3 videos of 20 steps of 0.5 s, of which 5 steps are done.
    assert follower.estimate_batch_seconds() == pytest.approx((60 - 5) * 0.5)
    assert BatchEta(queue, other.id).estimate_batch_seconds() is None, "the pace says nothing about another batch"


def test_follower_reads_past_videos_once_however_many_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(tmp_path)
    batch = add(queue, "/outputs/a", 20)
    follower = BatchEta(queue, batch.id)
    queue.cancel_videos(batch.id)
    reads = Mock(side_effect=queue.list_finished_videos)
    monkeypatch.setattr(queue, "list_finished_videos", reads)
    for event in queue.list_events(0, batch.id):
        follower.apply_event(event)
    assert reads.call_count == 0
    assert follower.estimate_batch_seconds() is None
    assert reads.call_count == 1


def test_eta_does_not_wait_for_an_engine_that_starts(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    batch = add(queue, "/outputs/a", 1)
    with (tmp_path / ENGINE_LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it has published nothing yet
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", Mock(side_effect=AssertionError("it waits")))
            assert estimate_queue_etas(queue).seconds_by_batch == {batch.id: None}


def test_eta_divides_a_batch_but_not_a_video_among_workers(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    single, pinned = add(queue, "/outputs/a", 1), add(queue, "/outputs/b", 4, "cuda:1")
    many = add(queue, "/outputs/c", 16)
    model = EtaModel(queue)
    finished = {"seconds": {"denoise": 3.0, "decode": 0.5, "step": 0.1}, "device": "cuda", "memory_plan": "resident"}
    model.past_videos = parse_timed_videos([(RECIPE.to_json(), finished)])
    devices = ("auto", "cuda", *(f"cuda:{i}" for i in range(8)))
    assert [
        model.estimate_remaining_time(batch, [], devices, {}).batch_seconds for batch in (single, pinned, many)
    ] == pytest.approx([2.5, 4 * 2.5, 16 * 2.5 / 8])


def test_queue_ls_predicts_from_the_pace_of_the_first_video(wantui: Wantui) -> None:
    with Queue(find_state_directory().directory) as queue:
        add(queue, "/outputs/one", 3)
        claim = queue.claim_next_video("w:1", ("auto",))
        assert claim is not None
        for step in range(5):
            queue.record_step(claim, step_done(step, 20, 0.5, 0.5))
    (batch,) = json.loads(wantui("queue", "ls", "--json").out)["batches"]
    assert batch["eta_seconds"] == pytest.approx((60 - 5) * 0.5)


def test_queue_ls_shows_state_and_eta_of_each_batch(wantui: Wantui) -> None:
    with Queue(find_state_directory().directory) as queue:
        first, second = add(queue, "/outputs/one", 3), add(queue, "/outputs/two", 2)
        claim = queue.claim_next_video("w:1", ("auto",))
        assert claim is not None
        queue.record_done(claim, DONE)
        queue.set_batch_paused(second.id, True)
        assert estimate_queue_etas(queue).seconds_by_batch == {first.id: pytest.approx(5.0)}
    lines = wantui("queue", "ls").out.splitlines()
    assert lines[0].split() == ["batch", "state", "done", "videos", "failed", "ETA", "name"]
    assert lines[1].split() == ["1", "waiting", "1", "3", "0", "0:05", "one"]
    assert lines[2].split() == ["2", "paused", "0", "2", "0", "two"]
    batches = json.loads(wantui("queue", "ls", "--json").out)["batches"]
    assert [(batch["state"], batch["eta_seconds"]) for batch in batches] == [
        ("queued", pytest.approx(5.0)),
        ("paused", None),
    ]
