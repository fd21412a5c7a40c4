"""Run writes in order on a separate thread, with a limit on the number of pending writes."""

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

THREAD_SWITCH_SECONDS = 1e-5
"""Seconds after which a thread must release the interpreter to a waiting thread; Python's default is 5 ms. The thread
that launches GPU operations needs the interpreter for each of them, and the GPU is idle while that thread waits."""


class BackgroundWriter:
    """Thread that runs writes one after another.

    Args:
        waiting: maximum number of pending writes; `submit` blocks until the oldest is done.
    """

    def __init__(self, waiting: int = 4) -> None:
        sys.setswitchinterval(min(THREAD_SWITCH_SECONDS, sys.getswitchinterval()))
        self.waiting = waiting
        self.pending: deque[Future[None]] = deque()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def submit(self, write: Callable[[], None]) -> None:
        """Queue a write.

        Raises:
            Exception: the error of an earlier write.
        """
        while len(self.pending) >= self.waiting:
            self.pending.popleft().result()
        self.pending.append(self.thread.submit(write))

    def flush(self) -> None:
        """Wait until all pending writes are done.

        Raises:
            Exception: the error of a failed write.
        """
        while self.pending:
            self.pending.popleft().result()

    def close(self) -> None:
        """End the thread; drop pending writes, and ignore further errors."""
        for future in self.pending:
            future.cancel()
        self.pending.clear()
        self.thread.shutdown()
