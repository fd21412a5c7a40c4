"""Application in a separate process, controlled through the packets of Textual's web driver."""

import asyncio
import ctypes
import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from wantui.process_exits import describe_exit

MIN_CELLS, MAX_COLUMNS, MAX_ROWS = 1, 1000, 500
"""Limits of the terminal size in cells; the application stores every cell, so a huge size would exhaust memory."""
MAX_PACKET_BYTES = 64_000_000
"""Maximum bytes of a packet from the application, well above a frame of the largest terminal."""
MAX_ERROR_BYTES = 4000
"""Maximum bytes of the application's error message."""
MAX_QUIT_SECONDS = 3.0
"""Seconds to wait for an application to exit, before SIGTERM and again before SIGKILL."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)  # loaded at import, because loading between fork and exec is unsafe


def clamp_terminal_size(columns: Any, rows: Any) -> tuple[int, int] | None:
    """Clamp a terminal size to the limits; return None if either value is not a number."""
    try:
        return max(MIN_CELLS, min(int(columns), MAX_COLUMNS)), max(MIN_CELLS, min(int(rows), MAX_ROWS))
    except (TypeError, ValueError, OverflowError):
        return None


class ApplicationProcess:
    """Process of `wantui` for one websocket; it ends when this process ends."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._errors = b""
        """End of the text that the application wrote to its stderr."""
        self._reading_errors = asyncio.create_task(self._read_errors())

    async def _read_errors(self) -> None:
        """Read stderr until the application exits; a full pipe would block it."""
        pipe = self._process.stderr
        assert pipe is not None
        while data := await pipe.read(65536):
            self._errors = (self._errors + data)[-MAX_ERROR_BYTES:]

    @classmethod
    async def start_application(cls, command: Sequence[str], terminal_size: tuple[int, int]) -> "ApplicationProcess":
        """Start the application for a terminal of `terminal_size` columns and rows."""
        columns, rows = terminal_size
        environment = os.environ | {
            "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver",
            "TEXTUAL_COLOR_SYSTEM": "truecolor",
            "TERM_PROGRAM": "textual",
            "COLUMNS": str(columns),
            "ROWS": str(rows),
        }
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in our terminal must not reach it
            preexec_fn=_request_end_with_parent,
        )
        return cls(process)

    async def forward_output(self, write_output: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass the application's output to `write_output` until it exits."""
        output = self._process.stdout
        assert output is not None
        with suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while (line := await output.readline()) != b"__GANGLION__\n":  # the driver's greeting
                if not line:
                    return
            while True:
                packet_kind = await output.readexactly(1)
                payload_length = int.from_bytes(await output.readexactly(4), "big")
                if payload_length > MAX_PACKET_BYTES:
                    return
                payload = await output.readexactly(payload_length)
                if packet_kind == b"D":
                    await write_output(payload)
                elif packet_kind == b"M" and json.loads(payload).get("type") == "exit":
                    return

    async def read_failure(self) -> str:
        """Return the error with which the application ended; empty if it ended regularly or is still running."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain_until_exit(), MAX_QUIT_SECONDS)
        if not self._process.returncode:
            return ""
        with suppress(asyncio.TimeoutError):  # a program that it started may keep the pipe open
            await asyncio.wait_for(asyncio.shield(self._reading_errors), MAX_QUIT_SECONDS)
        reason = self._errors.decode(errors="replace").strip()
        return reason or f"the application ended with {describe_exit(self._process.returncode)}"

    async def send_keys(self, text: str) -> None:
        """Send typed text to the application."""
        await self._send_packet(b"D", text.encode("utf-8", "replace"))

    async def send_event(self, event_kind: str, **data: int) -> None:
        """Send an event to the application: resize (with width and height), focus, blur or quit."""
        await self._send_packet(b"M", json.dumps({"type": event_kind, **data}).encode())

    async def _send_packet(self, packet_kind: bytes, payload: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(ConnectionError, RuntimeError):
            pipe.write(packet_kind + len(payload).to_bytes(4, "big") + payload)
            await pipe.drain()

    async def stop_application(self) -> None:
        """Stop the application by a quit event, then SIGTERM, then SIGKILL."""
        try:
            await self._stop()
        finally:
            self._reading_errors.cancel()

    async def _stop(self) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.send_event("quit"), MAX_QUIT_SECONDS)
        for signal_number in (None, signal.SIGTERM, signal.SIGKILL):
            if signal_number is not None:
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal_number)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drain_until_exit(), MAX_QUIT_SECONDS)
                return

    async def _drain_until_exit(self) -> None:
        """Wait for the exit while reading the output, because a full pipe would block the application."""
        assert self._process.stdout is not None
        while await self._process.stdout.read(65536):
            pass
        await self._process.wait()


def _request_end_with_parent() -> None:
    """Request SIGTERM for this process when its parent ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
