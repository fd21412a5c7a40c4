"""The signals that ask an engine to stop."""

import signal


class StopRequests:
    """Count of stop signals; it outlives the replacement of a database."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, *_: object) -> None:
        self.count += 1

    def install(self) -> None:
        """Count SIGTERM and SIGINT as stop requests, and ignore SIGHUP."""
        signal.signal(signal.SIGTERM, self.add)
        signal.signal(signal.SIGINT, self.add)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
