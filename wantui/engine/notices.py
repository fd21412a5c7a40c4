"""Notices of ended batches: the engine runs a command and calls a webhook, even while no client is open."""

import http.client
import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from platformdirs import user_config_path
from pydantic import Field, field_validator

from wantui.config.user_files import UserSettings, read_user_settings
from wantui.errors import UserError
from wantui.formatting import format_bytes
from wantui.paths import expand_user_path
from wantui.process_exits import describe_exit
from wantui.queue.events import ENDING_EVENTS, BatchRefused
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, QueueEvent
from wantui.queue.states import derive_batch_state

SETTINGS_VARIABLE = "WANTUI_ENGINE_CONFIG"
"""Environment variable with the path of a settings file to use instead of the default one."""
OUTPUT_FILE_PATTERN = "notice_{}.out"
"""Name of the log file with the output of a batch's latest command; the batch's number replaces `{}`."""
MAX_OUTPUT_FILES = 20
"""Maximum number of output files; the oldest are removed."""
_UNSENDABLE_CHARACTER_PATTERN = re.compile(r"[^\x21-\x7e]")
MAX_WAIT_SECONDS = 10.0
"""Maximum seconds that an ending engine waits for the notices that are being sent."""
MAX_CONCURRENT_NOTICES = 8
"""Maximum number of notices sent at the same time; if more batches end at once, theirs wait."""
MAX_OUTPUT_BYTES = 100_000_000
"""Maximum bytes that a command may print."""
KILL_SECONDS = 2.0
"""Seconds between SIGTERM and SIGKILL for a command that exceeds its time."""


class NoticeSettings(UserSettings):
    """Content of engine.yaml; by default, no notices are sent."""

    on_batch_end: str | None = None
    """Shell command to run when a batch ends."""
    webhook: str | None = None
    """HTTP or HTTPS address to which a JSON object is posted when a batch ends."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Maximum seconds for one command, and for each network wait of a request."""

    @field_validator("webhook")
    @classmethod
    def check_webhook(cls, value: str | None) -> str | None:
        """Reject an address that is not HTTP or HTTPS, or that cannot be requested."""
        if value is not None:
            address = urlsplit(value)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ValueError("it must be an address such as https://example.org/hook")
            if _UNSENDABLE_CHARACTER_PATTERN.search(value):
                raise ValueError(
                    "it contains a space, a control character or a letter outside ASCII. Write these as %XX, and such "
                    "a host name as xn--"
                )
            try:
                _ = address.port
            except ValueError:
                raise ValueError("its port must be a number from 0 to 65535") from None
        return value

    @field_validator("on_batch_end")
    @classmethod
    def check_command(cls, value: str | None) -> str | None:
        """Reject a command that no shell can receive."""
        if value is not None and "\0" in value:
            raise ValueError("it contains a NUL character. Remove it")
        return value


@dataclass(frozen=True)
class BatchEnd:
    """An ended batch, as commands and webhooks receive it."""

    batch: int
    name: str
    folder: str
    state: str
    """done, failed, cancelled or partly, as `wantui queue ls --json` prints it."""
    videos: int
    done: int
    failed: int
    cancelled: int
    error: str
    """Why all videos of the batch failed; empty otherwise."""

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables that a command receives."""
        return {f"WANTUI_{name.upper()}": str(value) for name, value in asdict(self).items()}


def find_settings_file() -> Path:
    """Return the path of engine.yaml: from the environment, or in the user's configuration folder.

    Raises:
        UserError: the environment variable contains an invalid path.
    """
    named = os.environ.get(SETTINGS_VARIABLE)
    if not named:
        return user_config_path("wantui") / "engine.yaml"
    try:
        return expand_user_path(named)
    except UserError as error:
        raise UserError(f"{SETTINGS_VARIABLE}: {error}") from None


def load_notice_settings() -> NoticeSettings:
    """Read the settings; return the defaults if the file does not exist.

    Raises:
        UserError: the file is invalid; names the key.
    """
    path = find_settings_file()
    if not os.path.lexists(path):
        if os.environ.get(SETTINGS_VARIABLE):
            raise UserError(f"{SETTINGS_VARIABLE}: cannot read {path}: no such file. Create it, or unset the variable")
        return NoticeSettings()
    return read_user_settings(path, NoticeSettings)


def find_settings_error() -> str | None:
    """Return the error in engine.yaml, or None."""
    try:
        load_notice_settings()
    except UserError as error:
        return f"no notice is sent when a batch ends: {error}"
    return None


class BatchEndNotifier:
    """Send a notice for each batch that ends after this object was created; commands and requests run on threads.

    Args:
        logs_folder: folder of the commands' output files.
    """

    def __init__(self, queue: QueueReader, logs_folder: Path, log: logging.Logger) -> None:
        self.queue, self.logs_folder, self.log = queue, logs_folder, log
        self.last_seq = queue.read_last_event_seq()
        self.threads: list[threading.Thread] = []
        self.processes: set[subprocess.Popen[bytes]] = set()
        """Running commands."""
        self.free_places = threading.BoundedSemaphore(MAX_CONCURRENT_NOTICES)
        self.is_abandoned = False
        """True once the engine no longer waits for notices; no further notice is started."""

    def find_new_ends(self) -> list[BatchEnd]:
        """Return the batches that ended since the last call.

        Raises:
            sqlite3.Error: the queue cannot be read.
        """
        if self.queue.read_last_event_seq() == self.last_seq:
            return []
        # One snapshot: if a batch ended between reading the events and its row, it would be reported twice.
        with self.queue.read_snapshot():
            new_events = self.queue.list_events(self.last_seq)
            ends = self._find_batch_ends(new_events)
        self.last_seq = max(event.seq for event in new_events)
        return ends

    def _find_batch_ends(self, new_events: Sequence[QueueEvent]) -> list[BatchEnd]:
        """Return the batches that one of these events ended."""
        errors_by_batch: dict[int, str] = {}
        """Reason why all videos of a batch failed; empty if the batch ended otherwise."""
        for event in new_events:
            if event.batch_number is not None and isinstance(event.payload, BatchRefused):
                errors_by_batch[event.batch_number] = event.payload.error
            elif event.batch_number is not None and isinstance(event.payload, ENDING_EVENTS):
                errors_by_batch.setdefault(event.batch_number, "")
        batches = [(self.queue.get_batch(number), error) for number, error in errors_by_batch.items()]
        return [
            _describe_end(batch, error) for batch, error in batches if batch is not None and not batch.unfinished_count
        ]

    def wait(self, must_stop: Callable[[], bool] = lambda: False) -> None:
        """Wait for the notices that are being sent, for at most `MAX_WAIT_SECONDS`; then abandon the rest.

        Args:
            must_stop: returns whether to stop waiting at once.
        """
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while any(thread.is_alive() for thread in self.threads):
            if must_stop() or time.monotonic() > deadline:
                self.is_abandoned = True
                self.log.error("the engine stopped before all notices were sent")
                for process in list(self.processes):
                    _end_process_group(process)
                return
            time.sleep(0.02)

    def send_notice(self, end: BatchEnd) -> None:
        """Start to send the notices of an ended batch."""
        try:
            settings = load_notice_settings()
        except UserError as error:
            self.log.error("no notice of the end of %s was sent: %s", end.name, error)
            return
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        senders: dict[str, Callable[[], None]] = {}
        if settings.on_batch_end is not None:
            senders["on_batch_end"] = partial(self._run_command, settings.on_batch_end, end, settings)
        if settings.webhook is not None:
            senders["webhook"] = partial(self._call_webhook, settings.webhook, end, settings)
        for name, sender in senders.items():
            thread = threading.Thread(target=self._send_in_turn, args=(sender,), name="notice", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system starts no more threads
                self.log.error("%s: no notice of the end of %s was sent: %s", name, end.name, error)
                continue
            self.threads.append(thread)

    def _send_in_turn(self, sender: Callable[[], None]) -> None:
        with self.free_places:
            if not self.is_abandoned:
                sender()

    def _run_command(self, command: str, end: BatchEnd, settings: NoticeSettings) -> None:
        path = self.logs_folder / OUTPUT_FILE_PATTERN.format(end.batch)
        try:
            path.unlink(missing_ok=True)  # an earlier command of this batch may still be writing into its file
            out = path.open("ab", buffering=0)
        except OSError as error:
            self.log.error("on_batch_end cannot be run for %s: %s", end.name, error)
            return
        _remove_old_output_files(self.logs_folder)
        with out:
            try:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", command],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd=end.folder if os.path.isdir(end.folder) else "/",  # noqa: PTH112 - a folder may be deleted
                    env=_remove_notice_variables(os.environ) | end.to_environment(),
                    process_group=0,
                )
            except (OSError, ValueError) as error:  # ValueError: a variable contains a NUL character
                self.log.error("on_batch_end cannot be run for %s: %s", end.name, error)
                return
            self.processes.add(process)
            if self.is_abandoned:  # `wait` has already ended the other commands
                _end_process_group(process)
            try:
                reason = _wait_for_command(process, settings.timeout_seconds, out.fileno())
            finally:
                self.processes.discard(process)
        if reason:
            self.log.error("on_batch_end was stopped for %s: %s; see %s", end.name, reason, path)
        elif code := process.wait():
            self.log.error("on_batch_end failed for %s with %s; see %s", end.name, describe_exit(code), path)
        else:
            self.log.info("on_batch_end was run for %s", end.name)

    def _call_webhook(self, address: str, end: BatchEnd, settings: NoticeSettings) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "wantui"}
        request = urllib.request.Request(address, json.dumps(asdict(end)).encode(), headers, method="POST")
        try:
            with _OPENER.open(request, timeout=settings.timeout_seconds) as reply:
                self.log.info("the webhook was called for %s: status %d", end.name, reply.status)
        except (
            OSError,
            ValueError,
            http.client.HTTPException,
        ) as error:  # URLError is an OSError; the address may contain a token
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError) and 300 <= error.code < 400:
                new_host = urlsplit(error.headers.get("Location", "")).hostname
                reason = (
                    f"it redirects to {new_host}, but redirects are not followed. Enter the address it redirects to"
                )
            self.log.error("the webhook at %s failed for %s: %s", urlsplit(address).hostname, end.name, reason)


class _RedirectRefuser(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirection, because urllib would replace the POST with a GET that has no body."""

    def redirect_request(self, *_: object) -> None:
        """Return no request, so that the redirection is an error."""


_OPENER = urllib.request.build_opener(_RedirectRefuser)


def _describe_end(batch: BatchRow, error: str) -> BatchEnd:
    counts = batch.counts
    return BatchEnd(
        batch=batch.id,
        name=batch.name,
        folder=str(batch.folder),
        state=derive_batch_state(counts),
        videos=batch.video_count,
        done=counts.get("done", 0),
        failed=counts.get("failed", 0),
        cancelled=counts.get("cancelled", 0),
        error=error,
    )


def _remove_notice_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables of notices that an engine inherited from a notice's command."""
    names = {f"WANTUI_{name.upper()}" for name in BatchEnd.__dataclass_fields__}
    return {name: value for name, value in environment.items() if name not in names}


def _remove_old_output_files(folder: Path) -> None:
    """Remove the output of the oldest commands."""
    with suppress(OSError):  # another thread removes the same files
        paths = sorted(folder.glob(OUTPUT_FILE_PATTERN.format("*")), key=lambda path: path.lstat().st_mtime)
        for path in paths[:-MAX_OUTPUT_FILES]:
            path.unlink()


def _wait_for_command(process: subprocess.Popen[bytes], timeout_seconds: float, output_descriptor: int) -> str:
    """Wait for a command; stop it and return the reason if it exceeds its time or the size of its output."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        has_ended = process.poll() is not None
        if os.fstat(output_descriptor).st_size > MAX_OUTPUT_BYTES:
            _end_process_group(process)
            os.ftruncate(output_descriptor, MAX_OUTPUT_BYTES)
            return f"it printed more than {format_bytes(MAX_OUTPUT_BYTES)}"
        if has_ended:
            return ""
        if time.monotonic() > deadline:
            _end_process_group(process)
            return f"it took longer than {timeout_seconds:g} s (timeout_seconds in engine.yaml)"
        time.sleep(0.02)


def _end_process_group(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + KILL_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
    process.wait()
