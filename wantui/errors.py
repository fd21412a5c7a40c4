"""Base of all errors that a user can fix."""


class UserError(Exception):
    """Something is wrong with what the user gave or has; the text says what, where, and how to fix it.

    Shown without a traceback; the program ends with `exit_code`.
    """

    exit_code = 2
