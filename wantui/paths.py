"""Resolve paths as people type them: on the command line, in configs and on the screens."""

import errno
import os
import re
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import printable

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Longest file name and longest path that Linux accepts."""
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def user_path(text: str | Path) -> Path:
    """Return a path with `~`, `~name`, `$NAME` and `${NAME}` resolved; it need not exist.

    A path that exists as it is written is taken as written, so that a folder whose name holds `$` can be reached.

    Raises:
        UserError: the path is empty, holds a character that no path can hold or that would break a script or a
            terminal, names an unknown user or variable, is too long, or runs in a circle of symbolic links.
    """
    text = str(text)
    if not text.strip():
        raise UserError("a path is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _not_a_path(text, "it is not UTF-8") from None
    if _CONTROL.search(text):
        raise _not_a_path(text, "it holds a line break or another control character")
    _check_length(text)
    if os.path.lexists(text):
        path = Path(text)
    else:
        expanded = _VARIABLE.sub(lambda match: _variable(match[1].strip("{}"), text), text)
        try:
            path = Path(expanded).expanduser()
        except RuntimeError:
            raise _not_a_path(text, "there is no such user, or no home folder is known") from None
        _check_length(str(path))
    _check_links(path, text)
    return path


def _variable(name: str, text: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise _not_a_path(text, f"the environment variable {name} is not set")
    return value


def _check_length(text: str) -> None:
    longest = max(text.split("/"), key=lambda part: len(part.encode()))
    if len(longest.encode()) > MAX_NAME_BYTES:
        raise _not_a_path(text, f"a name in it is longer than {MAX_NAME_BYTES} bytes")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise _not_a_path(text, f"it is longer than {MAX_PATH_BYTES} bytes")


def _check_links(path: Path, text: str) -> None:
    """Refuse a circle of links, which `resolve` and `mkdir` report in ways that differ between versions of Python."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_a_path(text, "it contains a symbolic-link loop") from None


def _not_a_path(text: str, reason: str) -> UserError:
    shown = printable(text if len(text) <= 200 else text[:200] + "...")
    return UserError(f"cannot use the path '{shown}': {reason}")
