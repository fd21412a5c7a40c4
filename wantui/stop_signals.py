"""The signals by which users, schedulers and limits ask a process to stop, and exit codes with a meaning."""

import signal

NOTICE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals of schedulers and of the limit on CPU time before they kill a process; they may be repeated."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, *NOTICE_SIGNALS)
"""Signals that ask a process to stop, besides Ctrl-C."""
SECOND_GPU_LOST_EXIT_CODE = 75
"""Exit code of a worker whose second GPU failed; it has returned its video to the queue."""
