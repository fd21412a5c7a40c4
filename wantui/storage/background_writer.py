"""Writing on a thread of its own, in order, with a bound on what waits in memory."""

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

SWITCH_SECONDS = 1e-5
"""How long a thread may keep the interpreter while another one waits for it; Python's own are 5 ms. The thread that
launches the work of a GPU asks for it at each operation, and the GPU stands still meanwhile."""


class BackgroundWriter:
    """Runs writes one after the other on one thread.

    Args:
        waiting: so many may be under way; the next one waits for the first of them.
    """

    def __init__(self, waiting: int = 4) -> None:
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
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
        """End the thread; what has not begun is not written, and errors are nobody's any more."""
        for future in self.pending:
            future.cancel()
        self.pending.clear()
        self.thread.shutdown()
