"""Run writes in order on a separate thread, with a limit on the number of pending writes."""

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

THREAD_SWITCH_SECONDS = 1e-5
"""Seconds after which a thread must release the interpreter to a waiting thread; Python's default is 5 ms. The thread
that launches GPU operations needs the interpreter for each of them, and the GPU is idle while that thread waits."""


class BackgroundWriter:
    """Thread that runs writes one after another, until a write fails.

    Args:
        max_pending_writes: maximum number of pending writes; `submit_write` blocks until the oldest is done.
    """

    def __init__(self, max_pending_writes: int = 4) -> None:
        sys.setswitchinterval(min(THREAD_SWITCH_SECONDS, sys.getswitchinterval()))
        self.max_pending_writes = max_pending_writes
        self.pending_writes: deque[Future[None]] = deque()
        self.error: BaseException | None = None
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="writer")
        # An executor does not join a thread whose start Ctrl-C interrupted; therefore start it here, before there is a
        # file to remove.
        self.executor.submit(int).result()

    def submit_write(self, write: Callable[[], None]) -> None:
        """Queue a write.

        Raises:
            Exception: the error of an earlier write.
        """
        while len(self.pending_writes) >= self.max_pending_writes:
            self.pending_writes.popleft().result()
        self.pending_writes.append(self.executor.submit(self._run_write, write))

    def _run_write(self, write: Callable[[], None]) -> None:
        """Run a write, or raise the error of an earlier one: FFmpeg crashes if it gets a frame after a failure."""
        if self.error is not None:
            raise self.error
        try:
            write()
        except BaseException as error:
            self.error = error
            raise

    def wait_for_writes(self) -> None:
        """Wait until all pending writes are done.

        Raises:
            Exception: the error of a failed write.
        """
        while self.pending_writes:
            self.pending_writes.popleft().result()

    def close(self) -> None:
        """End the thread, drop pending writes, and ignore further errors."""
        for future in self.pending_writes:
            future.cancel()
        self.pending_writes.clear()
        self.executor.shutdown()
