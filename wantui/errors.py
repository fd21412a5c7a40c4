"""The base of all errors that a user can mend, and paths as users write them."""

from pathlib import Path


class UserError(Exception):
    """Something is wrong with what the user gave or has; the text says what, where, and how to mend it.

    Shown without a traceback; the program ends with `exit_code`.
    """

    exit_code = 2


def user_path(text: str) -> Path:
    """A path as a user wrote it, with `~` and `~name` resolved.

    Raises:
        UserError: no such user, or a character that no path can hold.
    """
    try:
        text.encode("utf-8")
        if "\0" not in text:
            return Path(text).expanduser()
    except (RuntimeError, UnicodeEncodeError):
        pass
    raise UserError(f"{text!r} is not a path: it names an unknown user or holds characters that no path can hold")
