"""The signals that ask an engine to stop."""

import signal

from wantui.stop_signals import NOTICE_SIGNALS


class StopRequestCounter:
    """Count of stop signals; it outlives the replacement of a database."""

    def __init__(self) -> None:
        self.count = 0

    def count_stop_request(self, *_: object) -> None:
        self.count += 1

    def count_scheduler_notice(self, *_: object) -> None:
        """Count a notice as the first stop request: repeated notices must not kill the workers."""
        self.count = max(self.count, 1)

    def install_signal_handlers(self) -> None:
        """Count stop signals as stop requests, and ignore SIGHUP.

        SIGTERM, SIGINT and SIGQUIT count once each; all notices of a scheduler together count once.

        Ignored notices stay ignored: a job of submitit handles them itself.
        """
        for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signal_number, self.count_stop_request)
        for signal_number in NOTICE_SIGNALS:
            if signal.getsignal(signal_number) is not signal.SIG_IGN:
                signal.signal(signal_number, self.count_scheduler_notice)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
