"""Followers of the queue's events: bars on a terminal, plain lines, and the text of each line."""

import errno
import io
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from clip_batches import write_clip_batch
from conftest import step_done
from rich.console import Console

from wantui.cli import follow as follow_module
from wantui.cli.follow import follow_batch
from wantui.cli.progress import BarReporter, JsonLinesReporter, PlainReporter, format_event_line
from wantui.errors import UserError
from wantui.queue import engine_lock, reader
from wantui.queue.events import BatchAdded
from wantui.queue.queue import Queue
from wantui.queue.records import BatchRow, Hold, NewVideo, QueueEvent, WorkerRow, describe_hold
from wantui.queue.stored_events import parse_event_payload
from wantui.queue.waiting import BatchWait
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoState, write_manifest


def event(kind: str, video: int = 1, **data: Any) -> QueueEvent:
    return QueueEvent(1, 0.0, 1, video, parse_event_payload(kind, json.dumps(data)))


LIFE = [
    event("started", title="[red] seed 42", steps=20, worker="worker-0:7"),
    event("loading", model="nano", plan="everything on the GPU", reason="it fits"),
    event("step", step=1, steps=20, seconds=0.1, sigma=1.0),
    event("step", step=2, steps=20, seconds=0.1, sigma=0.9),
    event("interrupted", title="[red] seed 42", error="signal SIGKILL"),
    event("started", title="[red] seed 42", steps=20, worker="worker-0:8", attempt=2),
    event("step", step=3, steps=20, seconds=0.1, sigma=0.8),
    event("done", title="[red] seed 42", seconds={"denoise": 2.0, "decode": 0.5}, files={"clip": "v.mp4"}),
]


def test_bars_show_running_videos_and_lines_show_outcomes() -> None:
    bars = BarReporter(lambda: 65.0)
    screen = io.StringIO()
    bars.progress.live.console = Console(file=screen, force_terminal=True, width=80, highlight=False)
    with bars.progress:
        for happened in LIFE[:4]:
            bars.show_event(happened)
        bars.show_event(event("started", 2, title="blue seed 42", number=1, steps=20, worker="worker-1:9"))
        shown = [(task.description, task.completed, task.total) for task in bars.progress.tasks]
        assert shown == [("[red] seed 42", 2, 20), ("blue seed 42", 0, 20)]
        assert "ETA 1:05" in bars.progress.tasks[0].fields["pace"]
        bars.progress.refresh()
        for happened in LIFE[4:]:
            bars.show_event(happened)
        assert [task.description for task in bars.progress.tasks] == ["blue seed 42"]
    output = screen.getvalue()
    assert "interrupted: [red] seed 42: signal SIGKILL" in output
    assert "done: [red] seed 42, 2.5 s, v.mp4" in output


def test_line_about_a_killed_worker_names_worker_signal_and_the_video_that_is_tried_again() -> None:
    died = event("interrupted", title="red seed 42", error="signal SIGKILL: free memory", worker="worker-0:7")
    assert format_event_line(died) == (
        "interrupted: worker-0:7 died during red seed 42, which is tried again: signal SIGKILL: free memory"
    )


def test_plain_lines_report_starts_ends_and_interruptions(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainReporter(lambda: 65.0)
    for happened in LIFE:
        lines.show_event(happened)
    assert capsys.readouterr().err.splitlines() == [
        "started: [red] seed 42",
        "loading nano: everything on the GPU (it fits)",
        "  step 1/20, 0.10 s/step, ETA 1:05",
        "interrupted: [red] seed 42: signal SIGKILL",
        "started: [red] seed 42 (attempt 2)",
        "  done: [red] seed 42, 2.5 s, v.mp4",
    ]


@pytest.mark.parametrize("kind", ["added", "moved", "released", "removed", "something that a later version tells"])
def test_uninteresting_events_are_not_printed(kind: str) -> None:
    assert format_event_line(event(kind)) is None


@pytest.mark.parametrize("kind", ["disk", "folder", "paused", "interrupted", "worker"])
def test_hold_that_ends_automatically_suggests_no_command(kind: str) -> None:
    end = (
        "It resumes automatically once that is fixed"
        if kind in ("disk", "folder")
        else "Resume with: wantui queue resume"
    )
    assert Hold(kind, "no space", None, None).describe() == f"no space. {end}"
    assert describe_hold(kind, "no space") == f"no space. {end}"


def test_json_lines_number_videos_from_1_without_database_ids(capsys: pytest.CaptureFixture[str]) -> None:
    # A13
    lines = JsonLinesReporter()
    lines.show_event(event("step", video=917, number=2, step=1, steps=20, seconds=0.1, sigma=1.0))
    lines.show_event(QueueEvent(1, 0.0, 1, None, BatchAdded(videos=2)))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["batch"], first["video"], first["number"]) == (1, 2, 2)
    assert second["video"] is None


def waiting(seconds: float, *before: int) -> BatchWait:
    batches = tuple(BatchRow(n, Path(f"/outputs/b{n}"), "auto", False, 0.0, {"queued": 2}) for n in before)
    return BatchWait(batches, (WorkerRow("worker-0:7", "starting", "cpu", seconds),))


def test_plain_lines_report_the_wait_on_change_and_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # C11
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = PlainReporter(lambda: None)
    for second in range(13):
        now = float(second)
        lines.show_wait_reason(waiting(second))
    lines.show_wait_reason(waiting(13, 1, 2, 3, 4, 5))
    lines.show_wait_reason(BatchWait((), ()))
    assert capsys.readouterr().err.splitlines() == [
        "worker-0: loading torch, 0:00",
        "worker-0: loading torch, 0:10",
        "worker-0: loading torch, 0:13; position 6 in the queue: waiting for 10 videos of batch 1 (b1), batch 2 (b2), "
        "batch 3 (b3) and 2 other batches",
    ]


def test_bars_show_the_wait_until_a_video_starts() -> None:  # C11
    bars = BarReporter(lambda: None)
    screen = io.StringIO()
    bars.progress.live.console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    with bars.progress:
        bars.show_wait_reason(waiting(2.0, 1))
        bars.show_wait_reason(waiting(3.0, 1))
        bars.progress.refresh()
        assert [task.description for task in bars.progress.tasks] == [
            "worker-0: loading torch, 0:03; position 2 in the queue: waiting for 2 videos of batch 1 (b1)"
        ]
        bars.show_wait_reason(BatchWait((), ()))
        assert bars.progress.tasks == []
    text = "worker-0: loading torch; position 2 in the queue: waiting for 2 videos of batch 1 (b1)"
    assert screen.getvalue().count(text) == 1


def test_follow_shows_an_earlier_start_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wantui.cli.follow.ENGINE_CHECK_SECONDS", 0.0)
    with Queue(tmp_path) as queue:
        before = queue.read_last_event_seq()
        queue.add_batch(tmp_path / "b", "cpu", [NewVideo(0, "red seed 1", "{}", 3), NewVideo(1, "red seed 2", "{}", 3)])
        running = queue.claim_next_video("w", ("cpu",))
        assert running is not None
        batch = queue.find_batch("1")
        for after, starts in ((before, 1), (queue.read_last_event_seq(), 1)):
            with pytest.raises(UserError, match="no engine is running"):
                follow_batch(queue, batch, after, False)
            assert capsys.readouterr().err.count("started: red seed 1") == starts


def test_follow_shows_the_step_and_the_eta_of_a_running_video_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wantui.cli.follow.ENGINE_CHECK_SECONDS", 0.0)
    with Queue(tmp_path) as queue:
        queue.add_batch(tmp_path / "b", "cpu", [NewVideo(0, "red seed 1", "{}", 20)])
        running = queue.claim_next_video("w", ("cpu",))
        assert running is not None
        for step in (0, 1):
            queue.record_step(running, step_done(step, 20, 10.0, 0.5))
        with pytest.raises(UserError, match="no engine is running"):
            follow_batch(queue, queue.find_batch("1"), queue.read_last_event_seq(), False)
    assert capsys.readouterr().err.splitlines() == ["started: red seed 1", "  step 2/20, 10.00 s/step, ETA 3:00"]


def test_follow_reports_when_the_queue_becomes_unwritable_and_writable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["No space left on device", "No space left on device", None])
    monkeypatch.setattr(follow_module, "ENGINE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(reader, "find_write_error", lambda folder: next(answers))
    monkeypatch.setattr(engine_lock, "read_engine_info", lambda directory: {"process": 1})
    with Queue(tmp_path) as queue:
        queue.add_batch(tmp_path / "b", "cpu", [NewVideo(0, "red seed 1", "{}", 3)])
        with pytest.raises(StopIteration):
            follow_batch(queue, queue.find_batch("1"), queue.read_last_event_seq(), False)
    assert capsys.readouterr().err.splitlines() == [
        f"cannot write the queue in {tmp_path}: No space left on device. Fix this, and the engine continues "
        "by itself; until then, no video makes progress",
        f"{tmp_path} is writable again",
    ]


def test_follow_waits_while_the_state_directory_is_inaccessible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True, True, False])

    def look(directory: Path) -> None:
        if next(looks):
            raise PermissionError(errno.EACCES, "Permission denied", str(directory))

    monkeypatch.setattr(follow_module, "ENGINE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(engine_lock, "read_engine_info", look)
    with Queue(tmp_path) as queue:
        queue.add_batch(tmp_path / "b", "cpu", [NewVideo(0, "red seed 1", "{}", 3)])
        with pytest.raises(UserError, match="no engine is running"):
            follow_batch(queue, queue.find_batch("1"), queue.read_last_event_seq(), False)
    assert next(looks, None) is None


def test_follow_pauses_between_reads_of_a_queue_that_fails_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fail(_: Queue) -> int:
        calls.append("read")
        if len(calls) > 9:
            raise KeyboardInterrupt
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr(Queue, "read_data_version", fail)
    monkeypatch.setattr("wantui.cli.follow.time.sleep", lambda seconds: calls.append(f"sleep {seconds}"))
    with Queue(tmp_path) as queue:
        queue.add_batch(tmp_path / "b", "cpu", [NewVideo(0, "red seed 1", "{}", 3)])
        with pytest.raises(KeyboardInterrupt):
            follow_batch(queue, queue.find_batch("1"), queue.read_last_event_seq(), False)
    assert calls == ["read", f"sleep {follow_module.QUEUE_POLL_SECONDS}"] * 5 + ["read"]
    assert capsys.readouterr().err.count("cannot read the queue: disk I/O error") == 1


def test_batch_without_a_manifest_is_not_offered_for_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Queue(tmp_path) as queue:
        queue.add_batch(tmp_path, "cpu", [NewVideo(0, "red seed 1", "{}", 3)])
        claim = queue.claim_next_video("w", ("cpu",))
        assert claim is not None
        queue.record_failure(claim, "it has no batch.json")
        with pytest.raises(SystemExit):
            follow_module.report_batch_end(queue, queue.find_batch("1"), False)
    output = capsys.readouterr().err
    assert "is not a batch folder: it has no batch.json" in output
    assert "--resume" not in output


@pytest.mark.parametrize(
    ("states_elsewhere", "code", "summary"),
    [
        (("done", "done"), 0, ["2 of 2 videos done"]),
        (("done", "failed"), 1, ["1 of 2 videos done, 1 failed:", "  failed: v1: no memory"]),
        (("failed", "done"), 0, ["1 of 2 videos done, 1 cancelled"]),
    ],
)
def test_end_does_not_count_videos_that_another_queue_has_generated(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    states_elsewhere: tuple[VideoState, ...],
    code: int,
    summary: list[str],
) -> None:
    folder = tmp_path / "b"
    manifest = write_clip_batch(folder, "a [red|blue] circle", seeds=1)
    for entry, state in zip(manifest.videos, states_elsewhere, strict=True):
        entry.state = state
    write_manifest(BatchFolder(folder), manifest)
    with Queue(tmp_path) as queue:
        queue.add_batch(folder, "cpu", [NewVideo(0, "v0", "{}", 3), NewVideo(1, "v1", "{}", 3)])
        queue.cancel_videos(1, 0)
        claim = queue.claim_next_video("w", ("cpu",))
        assert claim is not None
        queue.record_failure(claim, "no memory")
        with pytest.raises(SystemExit) as end:
            follow_module.report_batch_end(queue, queue.find_batch("1"), False)
    assert end.value.code == code
    assert capsys.readouterr().err.splitlines()[: len(summary)] == summary
