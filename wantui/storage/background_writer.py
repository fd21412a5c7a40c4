"""Writes on a separate thread, in order, with a bound on the memory of pending ones."""

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

THREAD_SWITCH_SECONDS = 1e-5
"""Seconds that a thread may keep the interpreter while another one waits for it; Python's default is 5 ms. The thread
that launches the work of a GPU asks for it at each operation, and the GPU stands still meanwhile."""


class BackgroundWriter:
    """Thread that runs writes one after the other.

    Args:
        waiting: maximum number of pending writes; the next one waits for the first of them.
    """

    def __init__(self, waiting: int = 4) -> None:
        sys.setswitchinterval(min(THREAD_SWITCH_SECONDS, sys.getswitchinterval()))
        self.waiting = waiting
        self.pending: deque[Future[None]] = deque()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def submit(self, write: Callable[[], None]) -> None:
        """Have something written soon.

        Raises:
            Exception: of an earlier write.
        """
        while len(self.pending) >= self.waiting:
            self.pending.popleft().result()
        self.pending.append(self.thread.submit(write))

    def flush(self) -> None:
        """Wait until all is written.

        Raises:
            Exception: of a write that failed.
        """
        while self.pending:
            self.pending.popleft().result()

    def close(self) -> None:
        """End the thread; pending writes are dropped, and errors are ignored from now on."""
        for future in self.pending:
            future.cancel()
        self.pending.clear()
        self.thread.shutdown()
