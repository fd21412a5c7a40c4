"""Signals by which users, schedulers and resource limits ask a process to stop."""

import signal

NOTICE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that schedulers and the CPU time limit send before they kill a process, possibly several times."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, *NOTICE_SIGNALS)
"""Signals that ask a process to stop, besides Ctrl-C."""
