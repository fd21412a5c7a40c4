"""Base of all errors that a user can fix, lacks of resources, and the exit code of interrupted commands."""

import errno
import os

INTERRUPTED_EXIT_CODE = 130
"""Exit code of a command that Ctrl-C ended."""
SHORTAGE_ERROR_NUMBERS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Error numbers for a lack of file descriptors, memory, processes or threads."""
SHORTAGE_ADVICE = "Close other programs, or raise the limits of this shell (ulimit -n, -u and -v) or of the container"


class UserError(Exception):
    """An error in the user's input or environment; the text says what, where, and how to fix it.

    Shown without a traceback; the program ends with `exit_code`.
    """

    exit_code = 2


def find_shortage(error: BaseException) -> OSError | None:
    """Return a lack of memory or threads, which Python does not raise as OSError, as OSError; None for other errors."""
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, ImportError) and str(error).endswith("failed to map segment from shared object"):
        return OSError(errno.ENOMEM, f"{error} (too little memory, or a file system mounted with noexec)")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return OSError(errno.EAGAIN, "cannot start a thread")
    return None
