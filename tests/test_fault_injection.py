"""The fault drill: nano's videos, generated while clients, workers and engines are killed at random moments."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeOnce, generate_batch
from harness_engine import Machine, assert_equal_to_the_bit, kill
from process_state import has_ended

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ROUNDS = 3
"""Rounds of the drill, which run at the same time on several cores."""
KILLS = {"client": 3, "worker": 3, "engine": 3}
"""Kills in each round."""
VIDEOS = 6
"""Videos in each round."""
OPTIONS = (
    *("-t", "a red [circle|star] moving up", "--videos-per-variation", VIDEOS // 2, "--store-latents"),
    *("--set", "model_settings.steps=12", "--set", "use_timestamp=false"),
)


@pytest.fixture
def undisturbed(make_once: MakeOnce) -> Callable[[], Path]:
    """Generate the batch without any kill, the first time that a round of this run asks for it."""
    return lambda: make_once("undisturbed-nano", lambda folder: generate_batch(folder, *OPTIONS)) / "batch"


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_video_is_generated_once_bit_identically_whatever_is_killed(
    tmp_path: Path, undisturbed: Callable[[], Path], seed: int
) -> None:
    machine = Machine(tmp_path / "work")
    chance = random.Random(seed)
    victims = [victim for victim, times in KILLS.items() for _ in range(times)]
    chance.shuffle(victims)
    try:
        assert machine.call("run", *OPTIONS, "--output-dir", ".", "--batch-name", "batch", "--detach")[0] == 0
        batch = machine.queue.find_batch("batch")
        killed: Counter[str] = Counter()
        for victim in victims:
            revive(machine)
            assert not machine.ended(), f"all was made after {killed}"
            if victim == "client":
                client = machine.client("run", "--resume", "batch")
                time.sleep(chance.uniform(0, 1))
                client.kill()
                client.communicate()
            else:
                # Where it stands when it is hit is left to chance: loading, in a step, decoding, between two videos.
                machine.until(lambda: machine.workers())
                if chance.random() < 0.8:
                    seq = machine.queue.read_last_event_seq()
                    machine.until(lambda seq=seq: machine.queue.read_last_event_seq() > seq or machine.ended())  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.8))
                target = machine.engine() if victim == "engine" else next(iter(machine.workers()), None)
                if target is not None:
                    kill(target)
                    machine.until(lambda target=target: has_ended(target))  # type: ignore[misc]
            killed[victim] += 1
        while not machine.ended():
            revive(machine)
            time.sleep(0.2)
        assert killed == KILLS
        assert batch.video_count == VIDEOS
        done = [event for event in machine.queue.list_events(0, batch.id) if event.kind == "done"]
        made = Counter(event.video_id for event in done if not event.as_json().get("already_done"))
        # Killed between its record and the queue's, a video is done without the queue having seen it made.
        assert {event.video_id for event in done} == {video.id for video in machine.queue.list_videos(batch.id)}
        assert set(made.values()) == {1}
        assert_equal_to_the_bit(machine.root / "batch", undisturbed())
        assert [tuple(row) for row in machine.queue.db.execute("PRAGMA integrity_check")] == [("ok",)]
    finally:
        machine.shut_down()


def revive(machine: Machine) -> None:
    """What a user does who comes back: start the engine, go on, and try again what died twice by our hand."""
    if machine.engine() is None:
        machine.call("engine", "start")
    if machine.queue.read_hold() is not None or machine.queue.list_held_batches():
        machine.call("queue", "resume")
    if any(batch.counts.get("failed") for batch in machine.queue.list_batches()):
        machine.call("queue", "retry", "batch")
