"""Base of all errors that a user can fix."""


class UserError(Exception):
    """An error in the user's input or environment; the text says what, where, and how to fix it.

    Shown without a traceback; the program ends with `exit_code`.
    """

    exit_code = 2
