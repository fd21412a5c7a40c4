"""Base of all errors that a user can fix, and the exit code of interrupted commands."""

INTERRUPTED_EXIT_CODE = 130
"""Exit code of a command that Ctrl-C ended."""


class UserError(Exception):
    """An error in the user's input or environment; the text says what, where, and how to fix it.

    Shown without a traceback; the program ends with `exit_code`.
    """

    exit_code = 2
