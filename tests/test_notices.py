"""Notices at the end of a batch: when they are sent, what they contain, and how they fail."""

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import Wantui
from process_state import has_ended

from wantui.engine import notices
from wantui.engine.notices import (
    BatchEndNotifier,
    NoticeSettings,
    find_settings_error,
    load_notice_settings,
)
from wantui.engine.slots import WorkerSlot
from wantui.engine.supervisor import Supervisor
from wantui.errors import UserError
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo

CPU = ("auto", "cpu")
LOG = logging.getLogger("engine")
TIMEOUT_SECONDS = 120.0


@pytest.fixture(autouse=True)
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of engine.yaml, which does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "wantui" / "engine.yaml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    (tmp_path / "state").mkdir(exist_ok=True)
    with Queue(tmp_path / "state") as opened:
        yield opened


def send_new_notices(notifier: BatchEndNotifier) -> None:
    for end in notifier.find_new_ends():
        notifier.send_notice(end)


@pytest.fixture
def notifier(queue: Queue, tmp_path: Path) -> BatchEndNotifier:
    (tmp_path / "logs").mkdir()
    return BatchEndNotifier(queue, tmp_path / "logs", LOG)


def add_batch(queue: Queue, name: str, videos: int = 2) -> int:
    folder = Path("outputs", name).absolute()
    folder.mkdir(parents=True)
    return queue.add_batch(folder, "cpu", [NewVideo(index, f"video {index}", "{}", 4) for index in range(videos)])


def end_next_video(queue: Queue, end: Callable[[Any], object] | None = None) -> None:
    claim = queue.claim_next_video("worker-0:1", CPU)
    assert claim is not None
    (end or queue.record_done)(claim)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.mark.processes
def test_command_runs_once_when_the_last_video_ends(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, tmp_path: Path
) -> None:
    settings_file.write_text('on_batch_end: env | grep ^WANTUI_ | sort; pwd; echo "$WANTUI_NAME" >> ../ended\n')
    number = add_batch(queue, "it's mine; $HOME")
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert not Path("outputs/ended").exists()
    end_next_video(queue, lambda claim: queue.record_failure(claim, "out of memory"))
    send_new_notices(notifier)
    send_new_notices(notifier)
    notifier.wait()
    assert Path("outputs/ended").read_text() == "it's mine; $HOME\n"
    folder = Path("outputs/it's mine; $HOME").absolute()
    assert (tmp_path / "logs" / f"notice_{number}.out").read_text().splitlines() == [
        f"WANTUI_BATCH={number}",
        "WANTUI_CANCELLED=0",
        "WANTUI_DONE=1",
        "WANTUI_ERROR=",
        "WANTUI_FAILED=1",
        f"WANTUI_FOLDER={folder}",
        "WANTUI_NAME=it's mine; $HOME",
        "WANTUI_STATE=failed",
        "WANTUI_VIDEOS=2",
        str(folder),
    ]


@pytest.mark.processes
def test_retried_batch_sends_another_notice(queue: Queue, notifier: BatchEndNotifier, settings_file: Path) -> None:
    settings_file.write_text("on_batch_end: echo $WANTUI_STATE >> ../ended\n")
    number = add_batch(queue, "mine", videos=1)
    end_next_video(queue, lambda claim: queue.record_failure(claim, "out of memory"))
    send_new_notices(notifier)
    notifier.wait()
    queue.retry_videos(number)
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert Path("outputs/ended").read_text().split() == ["failed", "done"]


@pytest.mark.processes
def test_engine_sends_the_notice_before_it_ends(
    queue: Queue, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file.write_text("on_batch_end: echo $WANTUI_STATE > ../ended\n")
    add_batch(queue, "mine", videos=1)
    (tmp_path / "logs").mkdir()

    class IdleSlot(WorkerSlot):
        """A slot whose worker is this process."""

        def start_process(self, state_folder: Path, logs_folder: Path) -> None:
            end_next_video(queue)

    monkeypatch.setattr(queue, "record_starting_worker", lambda *_: None)
    supervisor = Supervisor(queue, [IdleSlot("worker-0", CPU, "cpu", {})], tmp_path / "logs", LOG, ends_when_idle=True)
    supervisor.run()
    supervisor.notifier.wait()
    assert Path("outputs/ended").read_text() == "done\n"


@pytest.mark.processes
def test_command_that_takes_too_long_is_ended_with_its_children(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings_file.write_text("on_batch_end: sleep 600 & echo $! > pid; wait\ntimeout_seconds: 1\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert "it took longer than 1 s (" in caplog.text
    child = int(Path("outputs/mine/pid").read_text())
    wait_until(lambda: has_ended(child), "the child ends")


@pytest.mark.processes
def test_failed_command_is_logged_with_its_exit_code(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings_file.write_text("on_batch_end: echo no such thing >&2; exit 7\n")
    number = add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    path = notifier.logs_folder / f"notice_{number}.out"
    assert f"on_batch_end failed for mine with exit code 7; see {path}" in caplog.text
    assert path.read_text() == "no such thing\n"


@pytest.mark.parametrize("refused_count", [1, 2])
def test_notice_without_a_thread_is_named_and_others_are_sent(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    refused_count: int,
) -> None:
    start, threads = threading.Thread.start, []

    def refuse_first(thread: threading.Thread) -> None:
        threads.append(thread)
        if len(threads) <= refused_count:
            raise RuntimeError("can't start new thread")
        start(thread)

    settings_file.write_text(f"on_batch_end: touch {tmp_path / 'sent'}\nwebhook: http://127.0.0.1:9/closed\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    monkeypatch.setattr(threading.Thread, "start", refuse_first)
    send_new_notices(notifier)
    notifier.wait()
    assert "on_batch_end: no notice of the end of mine was sent: can't start new thread" in caplog.text
    assert ("webhook: no notice of the end of mine was sent" in caplog.text) == (refused_count == 2)
    assert ("the webhook at 127.0.0.1 failed for mine" in caplog.text) == (refused_count == 1)
    assert not (tmp_path / "sent").exists()


@pytest.fixture
def small_output_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MAX_OUTPUT_BYTES", 1000)


@pytest.mark.processes
@pytest.mark.usefixtures("small_output_limit")
def test_command_that_prints_without_end_is_stopped_and_its_output_is_cut(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings_file.write_text("on_batch_end: yes flood\ntimeout_seconds: 600\n")
    number = add_batch(queue, "mine", videos=1)
    path = notifier.logs_folder / f"notice_{number}.out"
    path.write_text("of an earlier command\n")
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert f"on_batch_end was stopped for mine: it printed more than 1.0 kB; see {path}" in caplog.text
    assert path.read_text() == ("flood\n" * 1000)[:1000]


@pytest.mark.processes
@pytest.mark.usefixtures("small_output_limit")
def test_command_is_not_stopped_if_a_concurrent_command_prints_too_much(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings_file.write_text(
        "on_batch_end: echo $WANTUI_NAME; if [ $WANTUI_NAME = loud ]; then yes flood; fi; "
        "while [ ! -e ../go ]; do sleep 0.02; done; echo still quiet\ntimeout_seconds: 600\n"
    )
    number_by_name = {name: add_batch(queue, name, videos=1) for name in ("quiet", "loud")}
    for _ in number_by_name:
        end_next_video(queue)
    send_new_notices(notifier)
    wait_until(lambda: "on_batch_end was stopped for loud" in caplog.text, "the loud command is stopped")
    Path("outputs/go").touch()
    notifier.wait()
    assert "stopped for quiet" not in caplog.text
    texts = {
        name: (notifier.logs_folder / f"notice_{number}.out").read_text() for name, number in number_by_name.items()
    }
    assert texts == {"quiet": "quiet\nstill quiet\n", "loud": ("loud\n" + "flood\n" * 1000)[:1000]}


@pytest.mark.processes
def test_output_of_the_latest_commands_is_kept(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "MAX_OUTPUT_FILES", 2)
    settings_file.write_text("on_batch_end: echo $WANTUI_NAME\n")
    for name in ("first", "second", "third"):
        add_batch(queue, name, videos=1)
        end_next_video(queue)
        send_new_notices(notifier)
        notifier.wait()
    kept_texts = {path.read_text() for path in notifier.logs_folder.iterdir()}
    assert kept_texts == {"second\n", "third\n"}


@pytest.mark.processes
def test_commands_of_many_batches_that_end_at_once_run_a_few_at_a_time(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path
) -> None:
    settings_file.write_text("on_batch_end: cd ..; echo x >> started; while [ ! -e go ]; do sleep 0.02; done\n")
    count = 3 * notices.MAX_CONCURRENT_NOTICES
    for index in range(count):
        add_batch(queue, f"batch {index}", videos=1)
        end_next_video(queue)
    send_new_notices(notifier)
    started = Path("outputs/started")
    wait_until(
        lambda: started.exists() and len(started.read_text().split()) == notices.MAX_CONCURRENT_NOTICES, "they start"
    )
    assert len(notifier.processes) == notices.MAX_CONCURRENT_NOTICES
    Path("outputs/go").touch()
    notifier.wait()
    assert len(started.read_text().split()) == count


@pytest.mark.processes
def test_output_file_that_cannot_be_replaced_is_an_error(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings_file.write_text("on_batch_end: 'true'\n")
    number = add_batch(queue, "mine", videos=1)
    (notifier.logs_folder / f"notice_{number}.out").mkdir()
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert "on_batch_end cannot be run for mine: " in caplog.text


@pytest.mark.processes
def test_output_file_replaces_a_fifo(queue: Queue, notifier: BatchEndNotifier, settings_file: Path) -> None:
    settings_file.write_text("on_batch_end: echo $WANTUI_NAME\n")
    number = add_batch(queue, "mine", videos=1)
    path = notifier.logs_folder / f"notice_{number}.out"
    os.mkfifo(path)
    end_next_video(queue)
    send_new_notices(notifier)
    wait_until(path.is_file, "the output is written")
    notifier.wait()
    assert path.read_text() == "mine\n"


class Receiver(BaseHTTPRequestHandler):
    """A web server that records what is posted, and answers with a chosen status."""

    received: ClassVar[list[tuple[str, dict[str, Any]]]]
    status: int
    location = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    class OwnReceiver(Receiver):
        received: ClassVar[list[tuple[str, dict[str, Any]]]] = []
        status = 204

    with HTTPServer(("127.0.0.1", 0), OwnReceiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks/secret", OwnReceiver
        server.shutdown()
        thread.join()


def test_webhook_receives_the_batch_as_json(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, receiver: tuple[str, type[Receiver]]
) -> None:
    address, handler = receiver
    settings_file.write_text(f"webhook: {address}\n")
    number = add_batch(queue, "grüße")
    end_next_video(queue, lambda claim: queue.record_batch_failure(claim, "the weights are missing", 3))
    send_new_notices(notifier)
    notifier.wait()
    assert handler.received == [
        (
            "application/json",
            {
                "batch": number,
                "name": "grüße",
                "folder": str(Path("outputs/grüße").absolute()),
                "state": "failed",
                "videos": 2,
                "done": 0,
                "failed": 2,
                "cancelled": 0,
                "error": "the weights are missing",
            },
        )
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(500, "Internal Server Error"), (None, "Connection refused"), (-1, "not the protocol")],
)
def test_failed_webhook_is_logged_without_its_path(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    receiver: tuple[str, type[Receiver]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    reason: str,
) -> None:
    address, handler = receiver
    if status is None:
        address = "http://127.0.0.1:9/hooks/secret"
    elif status == -1:  # another service listens at the address
        monkeypatch.setattr(handler, "do_POST", lambda self: self.wfile.write(b"not the protocol\r\n"))
    else:
        handler.status = status
    settings_file.write_text(f"webhook: {address}\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert "the webhook at 127.0.0.1 failed for mine" in caplog.text
    assert reason in caplog.text
    assert "secret" not in caplog.text


def test_redirected_webhook_is_a_failure_that_names_the_new_host(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    receiver: tuple[str, type[Receiver]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, handler = receiver
    handler.status, handler.location = 302, "https://new.example/secret"
    settings_file.write_text(f"webhook: {address}\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert len(handler.received) == 1
    assert "it redirects to new.example, but redirects are not followed" in caplog.text
    assert "secret" not in caplog.text
    assert "was called" not in caplog.text


@pytest.mark.processes
def test_ending_engine_abandons_slow_notices(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings_file.write_text("on_batch_end: echo $$ > pid; exec sleep 600\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    pid_file = Path("outputs/mine/pid")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the command starts")
    notifier.wait(lambda: True)
    assert "the engine stopped before all notices were sent" in caplog.text
    wait_until(lambda: has_ended(int(pid_file.read_text())), "the command ends")


def test_unreadable_queue_loses_no_notice(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    receiver: tuple[str, type[Receiver]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings_file.write_text(f"webhook: {receiver[0]}\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "get_batch", lambda _: (_ for _ in ()).throw(sqlite3.OperationalError("locked")))
        with pytest.raises(sqlite3.OperationalError):
            send_new_notices(notifier)
    send_new_notices(notifier)
    notifier.wait()
    assert len(receiver[1].received) == 1


def test_nothing_is_sent_by_default(queue: Queue, notifier: BatchEndNotifier) -> None:
    assert load_notice_settings() == NoticeSettings()
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    assert notifier.threads == []


def test_batches_that_ended_before_the_engine_started_send_nothing(
    queue: Queue, settings_file: Path, receiver: tuple[str, type[Receiver]], tmp_path: Path
) -> None:
    settings_file.write_text(f"webhook: {receiver[0]}\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    notifier = BatchEndNotifier(queue, tmp_path, LOG)
    send_new_notices(notifier)
    notifier.wait()
    assert receiver[1].received == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("on_end: true", "on_end: unknown key; did you mean on_batch_end?"),
        ("webhook: ftp://example.org", "webhook: it must be an address such as https://"),
        ("webhook: example.org", "webhook: it must be an address such as https://"),
        ('webhook: "http://example.org/a b"', "webhook: it contains a space, a control character or"),
        ('webhook: "http://example.org/\\n"', "webhook: it contains a space, a control character or"),
        ("webhook: http://example.org/grüße", "webhook: it contains a space, a control character or"),
        ("webhook: http://example.org:99999/", "webhook: its port must be a number from 0 to 65535"),
        ('on_batch_end: "a\\0b"', "on_batch_end: it contains a NUL character. Remove it"),
        ("timeout_seconds: 0", "timeout_seconds: input should be greater than 0, got 0"),
        (
            "timeout_seconds: yes",
            "timeout_seconds: should be a number in decimal digits, got 'yes'",
        ),
        (
            "timeout_seconds: .inf",
            "timeout_seconds: should be a number in decimal digits, got '.inf'",
        ),
        ("address: https://a.example", "address: unknown key; the keys are on_batch_end, webhook, timeout_seconds"),
        ("on_batch_end: [a, b]", "on_batch_end: input should be a valid string"),
        ("on_batch_end: {", "engine.yaml"),
        ("webhook: https://a.example\nwebhook: https://b.example", "webhook: duplicate key. Remove one"),
    ],
)
def test_invalid_settings_are_named_and_send_nothing(
    queue: Queue,
    notifier: BatchEndNotifier,
    settings_file: Path,
    caplog: pytest.LogCaptureFixture,
    content: str,
    message: str,
) -> None:
    settings_file.write_text(content)
    with pytest.raises(UserError) as raised:
        load_notice_settings()
    assert message in str(raised.value)
    assert str(settings_file) in str(raised.value)
    fault = find_settings_error()
    assert fault is not None
    assert fault.startswith("no notice is sent when a batch ends: ")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    assert notifier.threads == []
    assert "no notice of the end of mine was sent" in caplog.text


def test_missing_named_settings_file_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANTUI_ENGINE_CONFIG", "nowhere.yaml")
    with pytest.raises(UserError, match=r"WANTUI_ENGINE_CONFIG: cannot read nowhere.yaml: no such file"):
        load_notice_settings()


@pytest.mark.usefixtures("torch_not_imported")
@pytest.mark.processes
def test_doctor_names_invalid_notice_settings(wantui: Wantui, settings_file: Path) -> None:
    settings_file.write_text("webhok: x\n")
    result = wantui("doctor")
    assert result.code != 0
    assert "webhok: unknown key; did you mean webhook?" in " ".join(result.out.split())


def test_nested_engine_does_not_inherit_the_variables_of_a_notice(
    queue: Queue, notifier: BatchEndNotifier, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANTUI_ERROR", "of another batch")
    seen: dict[str, str] = {}

    def record(*_: object, **options: Any) -> object:
        seen.update(options["env"])
        raise OSError("not started")

    monkeypatch.setattr("wantui.engine.notices.subprocess.Popen", record)
    settings_file.write_text("on_batch_end: 'true'\n")
    add_batch(queue, "mine", videos=1)
    end_next_video(queue)
    send_new_notices(notifier)
    notifier.wait()
    assert seen["WANTUI_ERROR"] == ""
    assert seen["PATH"] == os.environ["PATH"]
