"""The durable queue: order, claims, states, events, and databases that are old, new or damaged."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui, only_queued, step_done

from wantui import clock
from wantui.engine.queue_opening import open_queue
from wantui.errors import UserError
from wantui.planning.recipe import parse_recipe
from wantui.queue import state_dir as places
from wantui.queue.batch_lookup import UnknownBatchError
from wantui.queue.claims import LostClaimError
from wantui.queue.database import DATABASE_FILE, NewerDatabaseError, load_migrations, open_database
from wantui.queue.events import (
    PAYLOAD_TYPES_BY_KIND,
    ModelLoading,
    StepDone,
    UnknownEvent,
    VideoDone,
    VideoInterrupted,
    VideoRestarted,
    VideoResumed,
    WorkerDied,
)
from wantui.queue.queue import MoveTarget, Queue
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchDescription, Claim, Hold, NewVideo, get_slot_name
from wantui.queue.state_dir import StateDirectory, find_file_system_type, find_state_directory

CPU = ("auto", "cpu")


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def videos(n: int) -> list[NewVideo]:
    return [NewVideo(i, f"red seed {i}", "{}", 20) for i in range(n)]


def add(queue: Queue, name: str, n: int = 1, device: str = "auto") -> int:
    return queue.add_batch(Path("/outputs") / name, device, videos(n))


def claim(queue: Queue, worker: str = "w", devices: tuple[str, ...] = CPU) -> Claim:
    result = queue.claim_next_video(worker, devices)
    assert result is not None
    return result


def claimed_order(queue: Queue) -> list[str]:
    names = []
    while (result := queue.claim_next_video("w", CPU)) is not None:
        names.append(f"{result.batch_folder.name}{result.video_index}")
        queue.record_done(result)
    return names


def test_videos_are_claimed_by_batch_order_then_number(queue: Queue) -> None:
    add(queue, "a", 2)
    add(queue, "b", 1)
    assert claimed_order(queue) == ["a0", "a1", "b0"]
    assert queue.claim_next_video("w", CPU) is None


@pytest.mark.parametrize(
    ("moves", "order"),
    [
        ([(3, "top")], "cabd"),
        ([(1, "bottom")], "bcda"),
        ([(3, "up")], "acbd"),
        ([(2, "down")], "acbd"),
        ([(1, "up"), (4, "down")], "abcd"),
        ([(4, 2)], "adbc"),
        ([(1, 4)], "bcad"),
        ([(2, 2)], "abcd"),
    ],
)
def test_batches_can_be_moved(queue: Queue, moves: list[tuple[int, int | str]], order: str) -> None:
    for name in "abcd":
        add(queue, name)
    for batch, to in moves:
        queue.move_batch(batch, to)  # type: ignore[arg-type]
    assert claimed_order(queue) == [f"{name}0" for name in order]


@pytest.mark.parametrize(("batch", "to"), [(4, "up"), (1, "down")])
def test_move_passes_one_unfinished_batch_and_any_ended_ones(queue: Queue, batch: int, to: MoveTarget) -> None:
    for name in "abcd":
        add(queue, name)
    for ended in (2, 3):
        queue.cancel_videos(ended)
    queue.move_batch(batch, to)
    assert [row.name for row in queue.list_batches() if row.unfinished_count] == ["d", "a"]


def test_concurrent_workers_claim_every_video_exactly_once(tmp_path: Path) -> None:
    add(Queue(tmp_path), "a", 200)
    claimed: list[int] = []

    def work(name: str) -> None:
        mine = Queue(tmp_path)
        while (result := mine.claim_next_video(name, CPU)) is not None:
            claimed.append(result.video_index)
            mine.record_done(result)

    workers = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(claimed) == list(range(200))


def test_worker_claims_only_videos_for_its_devices(queue: Queue) -> None:
    add(queue, "a", device="cuda:1")
    add(queue, "b", device="auto")
    assert claim(queue, devices=("auto", "cuda", "cuda:0")).batch_folder.name == "b"
    assert claim(queue, devices=("auto", "cuda", "cuda:1")).batch_folder.name == "a"


def test_claim_skips_a_paused_batch_and_a_held_queue(queue: Queue) -> None:
    first, _ = add(queue, "a"), add(queue, "b")
    queue.set_batch_paused(first, True)
    assert claim(queue).batch_folder.name == "b"
    queue.set_batch_paused(first, False)
    queue.hold_queue("paused", "it was paused")
    assert queue.claim_next_video("w", CPU) is None
    assert not queue.has_claimable_video(CPU)
    queue.resume_queue()
    assert queue.has_claimable_video(CPU)
    assert claim(queue).batch_folder.name == "a"


def test_held_batch_waits_while_the_other_batches_continue(queue: Queue) -> None:
    first, second = add(queue, "a", 2), add(queue, "b")
    queue.hold_batch(first, "disk", "no room", Path("/outputs/a"), 10)
    queue.hold_batch(first, "folder", "a later one does not replace it", Path("/outputs/a"))
    queue.hold_batch(99, "disk", "it was removed", Path("/outputs/c"))
    assert [batch.hold for batch in queue.list_batches()] == [Hold("disk", "no room", Path("/outputs/a"), 10), None]
    assert queue.read_hold() is None
    assert claim(queue).batch_number == second
    assert not queue.has_claimable_video(CPU)
    assert [batch.id for batch in queue.list_held_batches()] == [first]
    events = [event.as_json() for event in queue.list_events(0, first) if event.kind == "batch_held"]
    assert [(event["reason"], event["hold"]) for event in events] == [("no room", "disk")]
    (held_batch,) = queue.list_held_batches()
    assert held_batch.hold is not None
    assert queue.end_batch_hold(first, held_batch.hold)
    assert queue.list_events(0)[-1].kind == "batch_resumed"
    assert claim(queue).batch_number == first


@pytest.mark.parametrize(
    "resume",
    [
        lambda queue, number: queue.resume_queue(),
        lambda queue, number: queue.set_batch_paused(number, False),
        lambda queue, number: queue.add_batch(Path("/outputs/a"), "auto", videos(2), is_new=False),
        lambda queue, number: queue.retry_videos(number),
    ],
    ids=["queue", "batch", "queued again", "retried"],
)
def test_user_can_resume_a_held_batch_at_once(queue: Queue, resume: Callable[[Queue, int], object]) -> None:
    number = add(queue, "a", 2)
    queue.cancel_videos(number, 1)
    queue.hold_batch(number, "folder", "it cannot be written", Path("/outputs/a"))
    queue.resume_queue("worker")
    assert not queue.has_claimable_video(CPU), (
        "a starting engine resumes only batches that a new worker may be able to render"
    )
    resume(queue, number)
    assert queue.has_claimable_video(CPU)
    assert queue.list_held_batches() == []
    assert list_batch_event_kinds(queue).count("batch_resumed") == 1


def list_batch_event_kinds(queue: Queue) -> list[str]:
    return [event.kind for event in queue.list_events(0) if event.kind.startswith("batch_")]


def test_end_of_a_hold_does_not_resume_a_paused_batch(queue: Queue) -> None:
    hold = Hold("disk", "no room", Path("/outputs/a"), 10)
    number = add(queue, "a")
    for end_hold in (lambda: queue.end_batch_hold(number, hold), queue.resume_queue):
        queue.hold_batch(number, hold.kind, hold.reason, Path("/outputs/a"), hold.needed_bytes)
        queue.set_batch_paused(number, True)
        end_hold()
        assert queue.list_batches()[0].hold is None
        assert "batch_resumed" not in list_batch_event_kinds(queue)


def test_batch_that_was_paused_and_on_hold_is_resumed_once(queue: Queue) -> None:
    number = add(queue, "a")
    queue.set_batch_paused(number, True)
    queue.hold_batch(number, "disk", "no room", Path("/outputs/a"), 10)
    queue.set_batch_paused(number, False)
    queue.set_batch_paused(number, False)
    assert list_batch_event_kinds(queue).count("batch_resumed") == 1
    assert queue.has_claimable_video(CPU)


def test_hold_keeps_the_largest_need_of_its_videos(queue: Queue) -> None:
    number = add(queue, "a")
    for needed_bytes in (10, 30, 20):
        reason = f"{needed_bytes} bytes needed"
        queue.hold_batch(number, "disk", reason, Path("/outputs/a"), needed_bytes)
        queue.hold_queue("disk", reason, Path("/cache"), needed_bytes)
    queue.hold_queue("disk", "another disk", Path("/outputs"), 99)
    assert queue.list_batches()[0].hold == Hold("disk", "30 bytes needed", Path("/outputs/a"), 30)
    assert queue.read_hold() == Hold("disk", "30 bytes needed", Path("/cache"), 30)


def test_only_the_examined_hold_ends(queue: Queue) -> None:
    number = add(queue, "a")
    examined_hold = Hold("disk", "10 bytes needed", Path("/outputs/a"), 10)
    for needed_bytes in (10, 30):
        queue.hold_batch(number, "disk", f"{needed_bytes} bytes needed", Path("/outputs/a"), needed_bytes)
        queue.hold_queue("disk", f"{needed_bytes} bytes needed", Path("/outputs/a"), needed_bytes)
    assert not queue.end_batch_hold(number, examined_hold)
    queue.resume_queue("disk", examined_hold.reason)
    assert queue.read_hold() == queue.list_batches()[0].hold == Hold("disk", "30 bytes needed", Path("/outputs/a"), 30)


@pytest.mark.parametrize(
    ("is_first_paused", "is_second_held", "is_on_hold"),
    [(False, False, False), (False, True, True), (True, True, True), (True, False, False)],
)
def test_queue_is_on_hold_if_only_batches_on_hold_are_left(
    queue: Queue, is_first_paused: bool, is_second_held: bool, is_on_hold: bool
) -> None:
    first, second = add(queue, "a"), add(queue, "b")
    assert not queue.is_on_hold()
    queue.hold_batch(first, "disk", "no room", Path("/outputs/a"), 10)
    if is_first_paused:
        queue.set_batch_paused(first, True)
        queue.set_batch_paused(second, False)
    if is_second_held:
        queue.hold_batch(second, "disk", "no room", Path("/outputs/b"), 10)
    assert queue.is_on_hold() == is_on_hold


def test_hold_of_an_ended_or_removed_batch_is_not_shown(queue: Queue) -> None:
    number, other = add(queue, "a"), add(queue, "b")
    for held in (number, other):
        queue.hold_batch(held, "disk", "no room", Path("/outputs"))
    queue.cancel_videos(number)
    assert [batch.id for batch in queue.list_held_batches()] == [other]
    queue.remove_batch(other)
    assert queue.list_held_batches() == []
    assert [row["batch"] for row in queue.db.execute("SELECT batch FROM batch_hold")] == [number]


def test_queue_of_schema_8_keeps_its_hold_and_its_batches_are_not_on_hold(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as old:
        old.executescript((Path(__file__).parent / "data" / "queue-8.sql").read_text())
    queue = Queue(tmp_path)
    assert queue.read_hold() == Hold("disk", "no room is left in /data", Path("/data"), 1000)
    assert [(batch.gpus_per_video, batch.hold) for batch in queue.list_batches()] == [(2, None), (1, None)]


def test_running_video_receives_requests_at_its_next_step(queue: Queue) -> None:
    batch = add(queue, "a", 3)
    running = claim(queue)
    assert queue.record_step(running, step_done(0, 20, 0.1, 1.0)) == "continue"
    queue.set_batch_paused(batch, True)
    assert queue.record_step(running, step_done(1, 20, 0.1, 0.9)) == "pause"
    queue.set_batch_paused(batch, False)
    queue.hold_queue("disk", "no room")  # what runs may go on: its own writes will tell
    assert queue.record_step(running, step_done(2, 20, 0.1, 0.8)) == "continue"
    assert queue.cancel_videos(batch) == ([1, 2], 1)
    assert queue.record_step(running, step_done(3, 20, 0.1, 0.7)) == "cancel"
    queue.record_cancellation(running)
    assert {video.state for video in queue.list_videos(batch)} == {"cancelled"}


def test_repeated_cancel_and_retry_have_no_effect(queue: Queue) -> None:
    batch = add(queue, "a", 2)
    queue.record_done(claim(queue))
    assert queue.cancel_videos(batch) == ([1], 0)
    assert queue.cancel_videos(batch) == ([], 0)
    assert queue.retry_videos(batch) == 1
    assert queue.retry_videos(batch) == 0
    assert [video.state for video in queue.list_videos(batch)] == ["done", "queued"]


def test_updates_with_a_lost_claim_are_refused(queue: Queue) -> None:
    add(queue, "a")
    old = claim(queue, "w1")
    queue.reclaim_videos("w1", "signal SIGKILL", counts_crash=True, is_unexpected=True)
    assert queue.list_events(0)[-1].payload == VideoInterrupted(
        title=old.title, number=1, error="signal SIGKILL", worker="w1"
    )
    new = claim(queue, "w2")
    assert (new.video_id, new.attempt) == (old.video_id, 2)
    updates = (
        lambda c: queue.record_failure(c, "no"),
        lambda c: queue.record_step(c, step_done(0, 1, 0.1, 0.5)),
        lambda c: queue.record_decoded_frames(c, 1, 9),
    )
    for say in (queue.record_done, queue.record_cancellation, *updates):
        with pytest.raises(LostClaimError):
            say(old)
    queue.record_done(new)
    assert queue.get_video(new.video_id).state == "done"


def test_video_that_killed_two_workers_fails_and_the_next_is_claimed(queue: Queue) -> None:
    batch = add(queue, "a", 2)
    for expected in ("interrupted", "failed"):
        assert claim(queue).video_index == 0
        assert [video.state for video in queue.reclaim_videos("w", "signal SIGSEGV", counts_crash=True)] == [expected]
    poison = queue.list_videos(batch)[0]
    assert poison.error == "2 workers died while rendering it. The last error: signal SIGSEGV"
    assert claim(queue).video_index == 1


def test_only_the_last_started_video_of_a_dead_worker_is_blamed(queue: Queue) -> None:
    add(queue, "kiss", 3)
    for expected in ("interrupted", "failed"):
        ending, made = claim(queue), claim(queue)
        taken = {video.id: video.state for video in queue.reclaim_videos("w", "signal SIGKILL", counts_crash=True)}
        assert taken == {ending.video_id: "interrupted", made.video_id: expected}


def test_last_started_video_is_blamed_despite_a_clock_change(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    add(queue, "kiss", 2)
    ending = claim(queue)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    made = claim(queue)
    queue.reclaim_videos("w", "signal SIGKILL", counts_crash=True)
    assert [queue.get_video(video.video_id).worker_crashes for video in (ending, made)] == [0, 1]


def test_deliberately_killed_worker_does_not_count_against_its_video(queue: Queue) -> None:
    batch = add(queue, "a")
    for _ in range(3):
        claim(queue)
        queue.reclaim_videos("w", "signal SIGKILL", counts_crash=False)
    assert (queue.list_videos(batch)[0].state, queue.list_videos(batch)[0].worker_crashes) == ("interrupted", 0)


def test_recovery_counts_only_videos_that_this_engine_end_interrupted(queue: Queue) -> None:
    batch = add(queue, "a", 3)
    claim(queue)
    cancelled = claim(queue)
    queue.cancel_videos(batch, cancelled.video_index)
    assert queue.recover_interrupted_videos() == 1
    assert queue.list_videos(batch)[cancelled.video_index].finished is not None
    queue.resume_queue()
    queue.set_batch_paused(batch, True)
    assert queue.recover_interrupted_videos() == 0
    assert queue.read_hold() is None


def test_cancelled_video_does_not_return_to_the_queue(queue: Queue) -> None:
    batch = add(queue, "a", 3)
    released, requeued = claim(queue), claim(queue)
    queue.cancel_videos(batch)
    assert not queue.release_video(released, "the output folder cannot be written")
    assert not queue.requeue_video_with_plan(requeued, "offload", (), "no memory")
    assert [video.state for video in queue.list_videos(batch)] == ["cancelled"] * 3
    assert [event.kind for event in queue.list_events(0)][-2:] == ["cancelled"] * 2


def test_signals_reach_only_workers_whose_last_started_video_is_cancelled(queue: Queue) -> None:
    batch = add(queue, "a", 2)
    finalized, rendered = claim(queue), claim(queue)
    queue.cancel_videos(batch, finalized.video_index)
    assert queue.list_cancelling_workers() == set()
    queue.cancel_videos(batch, rendered.video_index)
    assert queue.list_cancelling_workers() == {"w"}


@pytest.mark.parametrize(
    "begin",
    [
        lambda queue: queue.hold_queue("paused", "by a user"),
        lambda queue: queue.read_snapshot().__enter__(),
        lambda queue: queue.db.is_write_locked(0.1),
    ],
    ids=["transaction", "snapshot", "check"],
)
def test_signal_right_after_begin_leaves_no_transaction_open(
    queue: Queue, begin: Callable[[Queue], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = queue.db.execute

    def execute_and_interrupt(statement: str, *parameters: Any) -> Any:
        result = execute(statement, *parameters)
        if statement.startswith("BEGIN"):
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(queue.db, "execute", execute_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            begin(queue)
    assert not queue.db.in_transaction
    queue.hold_queue("paused", "by a user")
    assert queue.read_hold() is not None


def test_removal_event_names_its_batch(queue: Queue) -> None:
    first, _ = add(queue, "a"), add(queue, "b")
    queue.remove_batch(first)
    assert [(event.kind, event.batch_number) for event in queue.list_events(0)][-1] == ("removed", first)


def test_batch_cannot_move_before_a_batch_that_was_removed(queue: Queue) -> None:
    first, second = add(queue, "a"), add(queue, "b")
    queue.remove_batch(first)
    with pytest.raises(UserError, match=f"batch {first} is no longer in the queue"):
        queue.move_batch(second, first)


def test_recovery_after_a_crash_holds_the_queue_until_resumed(queue: Queue) -> None:
    batch = add(queue, "a", 2)
    claim(queue)
    assert queue.recover_interrupted_videos() == 1
    held = queue.read_hold()
    assert held is not None
    assert held.reason == "1 video was interrupted when the engine ended"
    assert queue.claim_next_video("w", CPU) is None
    queue.resume_queue()
    assert claim(queue).video_index == 0
    assert [video.state for video in queue.list_videos(batch)] == ["running", "queued"]


def test_followers_read_every_event_once_in_order(tmp_path: Path) -> None:
    queue, follower = Queue(tmp_path), Queue(tmp_path)
    batch, _ = add(queue, "a"), add(queue, "b")
    before = follower.read_data_version()
    running = claim(queue)
    for index in range(3):
        queue.record_step(running, step_done(index, 3, 0.1, 1 - index / 3))
    assert follower.read_data_version() != before
    first = follower.list_events(0, batch)
    assert [event.kind for event in first] == ["added", "started", "step", "step", "step"]
    queue.record_done(running, VideoDone(files={}))
    rest = follower.list_events(first[-1].seq, batch)
    assert [event.kind for event in rest] == ["done"]
    assert follower.list_events(rest[-1].seq, batch) == []


def test_batch_with_a_running_video_cannot_be_removed(queue: Queue) -> None:
    batch = add(queue, "a")
    running = claim(queue)
    with pytest.raises(Exception, match="Cancel the batch first: wantui queue cancel"):
        queue.remove_batch(batch)
    queue.record_done(running)
    queue.remove_batch(batch)
    assert queue.list_batches() == []


def test_batch_is_found_by_number_name_or_path_and_similar_names_are_suggested(queue: Queue, tmp_path: Path) -> None:
    with pytest.raises(UnknownBatchError, match="the queue is empty"):
        queue.find_batch("1")
    batch = queue.add_batch(tmp_path / "kiss_20261124", "auto", videos(1))
    for word in (str(batch), "kiss_20261124", str(tmp_path / "kiss_20261124")):
        assert queue.find_batch(word).id == batch
    for word in ("kiss_2026124", "kiss"):
        with pytest.raises(UnknownBatchError, match="did you mean kiss_20261124"):
            queue.find_batch(word)


def test_every_earlier_schema_is_migrated_with_its_rows(tmp_path: Path) -> None:
    for version in range(1, len(load_migrations())):
        path = tmp_path / str(version) / DATABASE_FILE
        path.parent.mkdir()
        stored = Path(__file__).parent / "data" / f"queue-{version}.sql"
        with sqlite3.connect(path) as old:
            old.executescript(stored.read_text())
        queue = Queue(path.parent)
        assert [video.state for video in queue.list_videos(1)[:3]] == ["done", "failed", "queued"]
        queue.resume_queue("disk")
        fresh = open_database(tmp_path / f"fresh-{version}.db")
        schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        assert [tuple(row) for row in queue.db.execute(schema)] == [tuple(row) for row in fresh.execute(schema)]
        assert claim(queue).video_index == 2


def test_schema_4_events_are_migrated_to_typed_payloads(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as old:
        old.executescript((Path(__file__).parent / "data" / "queue-4.sql").read_text())
    queue = Queue(tmp_path)
    events = {event.kind: event.payload for event in queue.list_events(0)}
    assert not any(isinstance(payload, UnknownEvent) for payload in events.values())
    assert events["video_resumed"] == VideoResumed(title="red seed 42", number=1, steps_done=1)
    assert events["restarted"] == VideoRestarted(title="red seed 42", number=1, reason="it is damaged")
    assert events["worker_died"] == WorkerDied(worker="worker-0:7", error="signal SIGKILL")
    assert {"queue_resumed", "batch_paused", "batch_resumed", "locked_elsewhere", "out_of_memory"} <= events.keys()
    step, done = events["step"], events["done"]
    assert isinstance(step, StepDone)
    assert (step.predicted, step.peak, step.norm) == (123456, 3000, 1.0)
    assert isinstance(done, VideoDone)
    assert done.already_done


def test_straightness_in_schema_5_events_is_renamed(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as old:
        old.executescript((Path(__file__).parent / "data" / "queue-5.sql").read_text())
    queue = Queue(tmp_path)
    step = [event.payload for event in queue.list_events(0) if event.kind == "step"][-1]
    assert isinstance(step, StepDone)
    assert (step.step, step.straightness) == (2, 0.75)
    recipe = parse_recipe(json.loads(queue.read_recipe(3)))
    assert (recipe.format, recipe.speed) == (2, "cached")


def test_model_of_schema_6_batches_is_read_from_their_recipes(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as old:
        old.executescript((Path(__file__).parent / "data" / "queue-6.sql").read_text())
    earlier, damaged = Queue(tmp_path).list_batches()
    assert (earlier.model, earlier.template, earlier.seeds) == ("nano", "", "")
    assert earlier.counts == {"done": 1, "failed": 1, "queued": 1}
    assert (damaged.model, damaged.counts) == ("", {"queued": 1})


def test_description_of_a_batch_equals_that_of_its_latest_addition(queue: Queue) -> None:
    add = partial(queue.add_batch, Path("/outputs/a"), "cpu", [NewVideo(0, "red", "{}", 2)])
    number = add(description=BatchDescription("a [red|blue] star", "nano", "42 to 43"))
    batch = queue.get_batch(number)
    assert batch is not None
    assert (batch.template, batch.model, batch.seeds) == ("a [red|blue] star", "nano", "42 to 43")
    add(is_new=False, description=BatchDescription("a star", "wan2.1-1.3b", "7"))
    batch = queue.get_batch(number)
    assert batch is not None
    assert (batch.template, batch.model, batch.seeds) == ("a star", "wan2.1-1.3b", "7")


def test_unknown_event_of_a_later_version_is_preserved(queue: Queue) -> None:
    add(queue, "a")
    queue.db.execute("INSERT INTO event (time, kind, data) VALUES (1.0, 'warped', '{\"factor\": 9}')")
    last = queue.list_events(0)[-1]
    assert last.as_json() == {"event": "warped", "seq": last.seq, "batch": None, "video": None, "factor": 9}


@pytest.mark.parametrize("kind", PAYLOAD_TYPES_BY_KIND)
def test_every_event_round_trips_and_is_documented(queue: Queue, kind: str) -> None:
    payload = PAYLOAD_TYPES_BY_KIND[kind]()
    queue.emit_event(payload)
    assert queue.list_events(0)[-1].payload == payload
    documented = (Path(__file__).parents[1] / "docs" / "events.md").read_text()
    section = documented.partition(f"### `{kind}`")[2].partition("###")[0]
    assert section, f"{kind} is not in docs/events.md"
    for name in vars(payload):
        assert f"`{name}`" in section, f"{kind}.{name} is not in docs/events.md"


def test_event_with_a_field_of_the_wrong_type_is_not_stored(queue: Queue) -> None:
    before = queue.list_events(0)
    with pytest.raises(ValueError, match="valid number"):
        queue.emit_event(StepDone(step=1, steps=2, norm="large"))  # type: ignore[arg-type]
    assert queue.list_events(0) == before


def test_plans_stored_as_an_index_are_migrated_to_slugs(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as old:
        old.executescript((Path(__file__).parent / "data" / "queue-3.sql").read_text())
    queue = Queue(tmp_path)
    done, *_ = result = queue.list_videos(1)
    plans = [None, "encode-first", "offload", "stream", "tiled", "offload-tiled", "stream-tiled", "sequential"]
    assert [video.plan for video in result[3:]] == [*plans, "small-tiles"]
    assert (done.plan, done.seconds) == ("tiled", 62.5)
    held = queue.read_hold()
    assert held is not None
    assert (held.kind, held.folder, held.needed_bytes) == ("disk", Path("/data"), 1000)


def test_queued_videos_skip_a_failed_plan_and_never_return_to_an_earlier_one(queue: Queue) -> None:
    batch = add(queue, "a", 3)
    queue.db.execute("UPDATE video SET plan = 'tiled' WHERE number = 2")
    queue.requeue_video_with_plan(claim(queue), "offload", ("resident", "encode-first"), "no memory")
    assert [video.plan for video in queue.list_videos(batch)] == ["offload", "offload", "tiled"]
    assert claim(queue).first_plan_slug == "offload"


def test_video_numbers_count_from_1_in_json_and_events(queue: Queue) -> None:  # A13
    batch = add(queue, "a", 2)
    assert [video.as_json()["number"] for video in queue.list_videos(batch)] == [1, 2]
    first = claim(queue)
    queue.record_step(first, step_done(0, 20, 0.1, 1.0))
    queue.record_decoded_frames(first, 1, 9)
    queue.emit_video_event(first, ModelLoading(model="nano"))
    queue.release_video(first, "paused")
    queue.requeue_video_with_plan(claim(queue), "offload", (), "no memory")
    claim(queue)
    queue.reclaim_videos("w", "signal", counts_crash=True)
    queue.record_done(claim(queue))
    queue.cancel_videos(batch, 1)
    events = [event for event in queue.list_events(0) if event.video_id is not None]
    numbers = {(event.kind, event.as_json()["number"]) for event in events}
    expected = {
        "started",
        "step",
        "decoded",
        "loading",
        "released",
        "out_of_memory",
        "interrupted",
        "done",
        "cancelled",
    }
    assert {kind for kind, _ in numbers} == expected
    assert numbers - {("cancelled", 2)} <= {(kind, 1) for kind in expected}


def test_video_page_counts_the_unfinished_videos_before_each_row(queue: Queue) -> None:  # T3
    batch = add(queue, "a", 6)
    queue.record_done(claim(queue))
    queue.cancel_videos(batch, 3)
    page = queue.read_video_page(batch, 3, 2)
    assert [video.number for video in page.videos] == [2, 3, 4]
    assert (
        page.unfinished_counts_before
        == tuple(queue.count_unfinished_videos_before(batch, number) for number in (2, 3, 4))
        == (1, 2, 2)
    )
    assert queue.read_video_page(batch, 3, 99).videos == ()


def test_batches_before_a_batch_follow_the_claim_order(queue: Queue) -> None:  # C11
    ended, paused, running, last, after = (add(queue, name, 2) for name in "abcde")
    queue.cancel_videos(ended)
    queue.set_batch_paused(paused, True)
    assert claim(queue).batch_number == running
    assert [(batch.id, batch.unfinished_count) for batch in queue.list_unfinished_batches_before(last)] == [
        (running, 2)
    ]
    assert queue.list_unfinished_batches_before(running) == []
    assert [batch.id for batch in queue.list_unfinished_batches_before(after)] == [running, last]


def test_starting_worker_is_listed_until_ready_or_ended(queue: Queue) -> None:  # C11
    queue.record_starting_worker("worker-0:7", "cpu")
    (worker,) = queue.list_workers()
    assert (get_slot_name(worker.name), worker.state, worker.device) == ("worker-0", "starting", "cpu")
    assert worker.seconds is not None
    assert worker.seconds < 60
    queue.record_ready_worker("worker-0:7")
    assert queue.list_workers()[0].state == "ready"
    queue.reclaim_videos("worker-0:7", "exit code 0", counts_crash=True, has_worker_ended=True)
    assert queue.list_workers() == []
    kinds = [event.kind for event in queue.list_events(0)]
    assert kinds == ["worker_starting", "worker_ready", "worker_ended"]
    queue.record_starting_worker("worker-0:8", "cpu")
    queue.recover_interrupted_videos()  # the engine that started it is dead
    assert queue.list_workers() == []


def test_durations_ignore_clock_changes(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:  # R14
    batch = add(queue, "a", 2)
    first = claim(queue)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    (running, _) = queue.list_videos(batch)
    assert running.seconds is not None
    assert 0 <= running.seconds < 60
    queue.record_done(first)
    seconds = queue.list_videos(batch)[0].seconds
    assert seconds is not None
    assert 0 <= seconds < 60
    claim(queue)
    monkeypatch.setattr(clock, "read_boot_id", lambda: "of another boot")
    assert queue.list_videos(batch)[1].seconds is None


def test_database_of_a_newer_version_is_refused_and_unchanged(tmp_path: Path) -> None:
    Queue(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_FILE) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerDatabaseError, match=f"schema 99; this version has {len(load_migrations())}"):
        open_queue(StateDirectory(tmp_path))
    with sqlite3.connect(tmp_path / DATABASE_FILE) as newer:
        assert newer.execute("PRAGMA user_version").fetchone() == (99,)


def test_damaged_database_is_quarantined_and_reported(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"this was a queue once, and is not any more" * 100)
    queue, notes = open_queue(StateDirectory(tmp_path))
    assert queue.list_batches() == []
    assert len(notes) == 1
    assert "was damaged" in notes[0]
    aside = list(tmp_path.glob("queue.db.damaged-*"))
    assert len(aside) == 1
    assert aside[0].read_bytes().startswith(b"this was a queue once")


def test_internal_database_damage_is_detected_on_engine_start(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    add(queue, "a", 2000)
    queue.close()
    path = tmp_path / DATABASE_FILE
    data = bytearray(path.read_bytes())
    data[8 * 4096 : 40 * 4096] = b"\xff" * (32 * 4096)
    path.write_bytes(data)
    reopened, notes = open_queue(StateDirectory(tmp_path), is_engine=True)
    assert reopened.list_batches() == []
    assert "was damaged" in notes[0]
    assert list(tmp_path.glob("queue.db.damaged-*"))


@pytest.mark.processes
def test_many_processes_can_open_a_new_queue_concurrently(tmp_path: Path) -> None:
    code = "import sys, pathlib, wantui.queue.queue as q; q.Queue(pathlib.Path(sys.argv[1])).read_last_event_seq()"
    openers = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stderr=subprocess.PIPE) for _ in range(8)]
    errors = [opener.communicate()[1].decode() for opener in openers]
    assert errors == [""] * 8


def test_pause_replaces_a_full_disk_hold_and_outlasts_it(queue: Queue) -> None:
    queue.hold_queue("disk", "no room", Path("/outputs"), 10)
    queue.hold_queue("paused", "it was paused")
    queue.resume_queue("disk")
    held = queue.read_hold()
    assert held is not None
    assert held.kind == "paused"


def test_requeued_batch_uses_the_new_recipes(queue: Queue) -> None:
    queue.add_batch(Path("/outputs/a"), "auto", [NewVideo(0, "red", "old", 20)])
    queue.add_batch(Path("/outputs/a"), "auto", [NewVideo(0, "blue", "new", 30)], is_new=False)
    result = claim(queue)
    assert (result.recipe_json, result.title) == ("new", "blue")


def test_state_directory_is_private_to_the_user(tmp_path: Path) -> None:
    result = find_state_directory()
    assert result.directory.parent == tmp_path / "state" / "wantui"
    assert result.directory.stat().st_mode & 0o777 == 0o700
    assert result.note is None
    Queue(result.directory).close()
    assert (result.directory / DATABASE_FILE).stat().st_mode & 0o777 == 0o600


def test_network_state_directory_is_replaced_by_a_local_one_with_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(places, "find_file_system_type", lambda path: "nfs4")
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(places, "LOCAL_DISK_FOLDER", tmp_path / "local")
    result = find_state_directory()
    assert result.directory.is_relative_to(tmp_path / "local" / f"wantui-{os.getuid()}")
    assert result.note is not None
    assert "network file system (nfs4)" in result.note


def test_file_system_type_equals_that_of_the_nearest_mount() -> None:
    assert find_file_system_type(Path("/proc/self/fd/not-there")) == "proc"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_unwritable_state_directory_is_an_error_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "closed"))
    with pytest.raises(Exception, match="Set XDG_STATE_HOME"):
        find_state_directory()


@pytest.mark.processes
def test_state_path_that_is_not_a_directory_is_an_error_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = subprocess.run(
        [sys.executable, "-m", "wantui", "queue", "ls"],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "Set XDG_STATE_HOME to a folder that you can write" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_errors_with_non_utf8_paths_are_stored_escaped(queue: Queue) -> None:
    error, stored = "cannot read a\udcff", "cannot read a\\udcff"
    add(queue, "a", 2)
    add(queue, "b", 1)
    queue.release_video(claim(queue), error)
    queue.requeue_video_with_plan(claim(queue), "offload", [], error)
    queue.record_failure(claim(queue), error)
    queue.record_batch_failure(claim(queue), error, 3)
    queue.hold_queue("disk", error)
    assert [video.error for video in queue.list_videos(1)] == [stored, stored]
    held = queue.read_hold()
    assert held is not None
    assert held.reason == stored
    texts = [event.as_json().get("error") or event.as_json().get("reason") for event in queue.list_events(0)]
    assert [text for text in texts if text is not None] == [stored] * 5


def test_queue_context_manager_closes_the_connection(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        queue.read_last_event_seq()
    with pytest.raises(sqlite3.ProgrammingError):
        queue.read_last_event_seq()


@pytest.mark.usefixtures("torch_not_imported")
def test_commands_close_their_queue(wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[QueueReader] = []
    original = QueueReader.__init__

    def remembered(self: QueueReader, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        opened.append(self)

    monkeypatch.setattr(QueueReader, "__init__", remembered)
    folder = wantui("run", "-t", "a circle", *small).out.strip()
    opened.clear()  # the fixture works in the place of a worker, and keeps its queue
    commands = (
        ["run", "-t", "a circle", "--detach"],
        ["run", "-t", "a circle", "--seed", "-1"],
        ["preview", "-t", "a circle"],
        ["queue", "ls", "--all"],
        ["queue", "show", "1"],
        ["queue", "show", "99"],
        ["queue", "move", "1", "top"],
        ["queue", "cancel", "1"],
        ["queue", "retry", "1"],
        ["queue", "pause"],
        ["queue", "resume"],
        ["watch", "1"],
        ["engine", "status"],
        ["logs", "1"],
        ["logs", "99"],
        ["queue", "remove", "1"],
        ["library", "trash", folder],
        ["doctor"],
    )
    with only_queued():
        for command in commands:
            wantui(*command)
            for queue in opened:
                with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                    queue.read_last_event_seq()
    assert len(opened) >= len(commands) - 3


def test_open_connection_does_not_write_a_database_of_a_newer_schema(queue: Queue) -> None:
    batch = add(queue, "kiss", 2)
    with closing(sqlite3.connect(queue.path)) as newer:
        newer.execute("PRAGMA user_version = 999")
    for change in (
        lambda: queue.hold_queue("paused", "it was paused"),
        lambda: queue.cancel_videos(batch),
        lambda: queue.remove_batch(batch),
        lambda: queue.claim_next_video("worker-0:1", ("auto", "cpu")),
    ):
        with pytest.raises(NewerDatabaseError, match="schema 999"):
            change()
    assert queue.read_hold() is None
    assert not queue.list_running_videos()
    assert [row.counts for row in queue.list_batches()] == [{"queued": 2}]


def test_hold_of_an_unknown_kind_is_not_ignored(queue: Queue) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        queue.hold_queue("other", "no reason")
    queue.hold_queue("disk", "no room")
    queue.hold_queue("folder", "a later one does not replace it")
    held = queue.read_hold()
    assert held is not None
    assert (held.kind, held.reason) == ("disk", "no room")
