"""The signals that ask an engine to stop."""

import signal


class StopRequestCounter:
    """Count of stop signals; it outlives the replacement of a database."""

    def __init__(self) -> None:
        self.count = 0

    def count_request(self, *_: object) -> None:
        self.count += 1

    def install_signal_handlers(self) -> None:
        """Count SIGTERM and SIGINT as stop requests, and ignore SIGHUP."""
        signal.signal(signal.SIGTERM, self.count_request)
        signal.signal(signal.SIGINT, self.count_request)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
