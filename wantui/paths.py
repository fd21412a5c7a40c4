"""Expand and check paths that users type on the command line, in configs and on the screens."""

import errno
import os
import re
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import escape_unprintable

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Maximum bytes of a file name and of a path on Linux."""
_VARIABLE_PATTERN = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


def expand_user_path(text: str | Path) -> Path:
    """Expand `~`, `~name`, `$NAME` and `${NAME}` in a path, which need not exist.

    An existing path is returned unchanged, so that a folder with `$` in its name can be used.

    Raises:
        UserError: the path is empty, is not UTF-8, contains a control character, names an unknown user or variable,
            is too long, or contains a symbolic-link loop.
    """
    text = str(text)
    if not text.strip():
        raise UserError("a path is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _path_error(text, "it is not UTF-8") from None
    if _CONTROL_CHARACTER.search(text):
        raise _path_error(text, "it contains a line break or another control character")
    _check_length(text)
    if os.path.lexists(text):
        path = Path(text)
    else:
        expanded = _VARIABLE_PATTERN.sub(lambda match: _read_variable(match[1].strip("{}"), text), text)
        try:
            path = Path(expanded).expanduser()
        except RuntimeError:
            raise _path_error(text, "the user does not exist, or has no home folder") from None
        _check_length(str(path))
    _refuse_link_loop(path, text)
    return path


def check_new_file(path: Path, makes_folders: bool = False, may_be_device: bool = False) -> None:
    """Refuse a path that cannot be written, before hours are spent on the content of the file.

    Args:
        makes_folders: whether the caller creates missing parent folders.
        may_be_device: whether the caller writes into a pipe or device. Otherwise a complete file would replace it, even
            `/dev/null`.

    Raises:
        UserError: the path is a folder, pipe or device, or the parent folder is missing or cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder. Name a file")
    if path.exists() and not path.is_file():
        if may_be_device:
            return
        raise UserError(f"cannot write {path}: it is not a regular file. Choose another name")
    check_new_folder(path.absolute().parent, makes_folders, path)


def check_new_folder(folder: Path, makes_folders: bool = True, target: Path | None = None) -> None:
    """Refuse a folder that cannot be created or written; the error names `target` if it is given.

    Raises:
        UserError: names the reason.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise UserError(f"cannot write {target or folder}: {nearest} is not a folder. Choose another path")
    if nearest != folder and not makes_folders:
        raise UserError(
            f"cannot write {target or folder}: the folder {folder} is missing. Create it, or choose another path"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot write {target or folder}: you have no permission to write in {nearest}. Choose another path"
        )


def _read_variable(name: str, text: str) -> str:
    if not name:
        raise _path_error(text, "${} names no environment variable")
    value = os.environ.get(name)
    if not value:
        raise _path_error(text, f"the environment variable {name} is not set")
    return value


def _check_length(text: str) -> None:
    longest = max(text.split("/"), key=lambda part: len(part.encode()))
    if len(longest.encode()) > MAX_NAME_BYTES:
        raise _path_error(text, f"a name in it is longer than {MAX_NAME_BYTES} bytes")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise _path_error(text, f"it is longer than {MAX_PATH_BYTES} bytes")


def _refuse_link_loop(path: Path, text: str) -> None:
    """Refuse a symbolic-link loop, which `resolve` and `mkdir` report differently in each Python version."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _path_error(text, "it contains a symbolic-link loop") from None


def _path_error(text: str, reason: str) -> UserError:
    shown = escape_unprintable(text if len(text) <= 200 else text[:200] + "...")
    return UserError(f"cannot use the path '{shown}': {reason}")
