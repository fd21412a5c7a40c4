"""How a process ended: exit codes, and the signals that end processes."""

import signal

SECOND_GPU_LOST_EXIT_CODE = 75
"""Exit code of a worker whose second GPU failed; it has returned its video to the queue."""
_ADVICE_BY_SIGNAL: dict[int, str] = {
    signal.SIGKILL: "the system perhaps ran out of memory (dmesg shows this). Free memory, or use a machine with more",
    signal.SIGSEGV: "a library or a driver failed. Check them: wantui doctor --full",
    signal.SIGBUS: "a file changed or its disk failed while it was read, or /dev/shm is full. Check both",
    signal.SIGILL: "a library uses instructions that this CPU lacks. Install a build for this CPU",
}
"""Likely reason why a signal ended a process, and what to do."""


def describe_exit(exit_code: int, is_signal_expected: bool = False) -> str:
    """Return the exit code of a process, or the signal that ended it, with its likely cause and advice.

    Args:
        exit_code: as `subprocess.Popen` returns it: the negative number of the signal, if one ended the process.
        is_signal_expected: True if the caller sent the signal, so that its cause is known.
    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal
        name = str(-exit_code)
    advice = "" if is_signal_expected else _ADVICE_BY_SIGNAL.get(-exit_code, "")
    return f"signal {name}: {advice}" if advice else f"signal {name}"
