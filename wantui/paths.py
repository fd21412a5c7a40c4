"""Expand and check paths that users type on the command line, in configs and on the screens."""

import errno
import os
import re
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import escape_unprintable, shorten_text

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Maximum bytes of a file name and of a path on Linux."""
_VARIABLE_PATTERN = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)
_CONTROL_CHARACTER_PATTERN = re.compile(r"[\x00-\x1f\x7f]")


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
        raise _make_path_error(text, "it is not UTF-8") from None
    if _CONTROL_CHARACTER_PATTERN.search(text):
        raise _make_path_error(text, "it contains a line break or another control character")
    _check_path_length(text)
    if os.path.lexists(text):
        path = Path(text)
    else:
        expanded = _VARIABLE_PATTERN.sub(lambda match: _read_environment_variable(match[1].strip("{}"), text), text)
        try:
            # `Path` drops "./", with which users name a file that begins with "~".
            path = Path(expanded).expanduser() if expanded.startswith("~") else Path(expanded)
        except RuntimeError:
            raise _make_path_error(text, "the user does not exist, or has no home folder") from None
        _check_path_length(str(path))
    _reject_link_loop(path, text)
    return path


def check_output_file(path: Path, *, creates_folders: bool = False, may_be_device: bool = False) -> None:
    """Reject a path that cannot be written, before hours are spent on the content of the file.

    Args:
        creates_folders: whether the caller creates missing parent folders; otherwise they are refused.
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
    check_output_folder(path.absolute().parent, creates_folders=creates_folders, target=path)


def check_output_folder(folder: Path, *, creates_folders: bool = True, target: Path | None = None) -> None:
    """Reject a folder that cannot be created or written; the error names `target` if it is given.

    Args:
        creates_folders: whether the caller creates missing folders; otherwise they are refused.
        target: path that is written in the folder.

    Raises:
        UserError: names the reason.
    """
    nearest_existing_path = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest_existing_path.is_dir():
        raise UserError(
            f"cannot write {target or folder}: {nearest_existing_path} is not a folder. Choose another path"
        )
    if nearest_existing_path != folder and not creates_folders:
        raise UserError(
            f"cannot write {target or folder}: the folder {folder} is missing. Create it (mkdir -p), or choose another "
            "path"
        )
    if (error := find_access_error(nearest_existing_path)) is not None:
        reason = (
            f"{nearest_existing_path} is on a read-only file system"
            if error.errno == errno.EROFS
            else f"you have no permission to write in {nearest_existing_path}"
        )
        raise UserError(f"cannot write {target or folder}: {reason}. Choose another path")


def find_access_error(folder: Path) -> OSError | None:
    """Return the error (EROFS or EACCES) that prevents new files in a folder; None if access is granted."""
    if os.access(folder, os.W_OK | os.X_OK):
        return None
    is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    error_number = errno.EROFS if is_read_only else errno.EACCES
    return OSError(error_number, os.strerror(error_number), str(folder))


def _read_environment_variable(name: str, path_text: str) -> str:
    if not name:
        raise _make_path_error(path_text, "${} is not the name of an environment variable")
    value = os.environ.get(name)
    if not value:
        raise _make_path_error(path_text, f"the environment variable {name} is not set")
    return value


def _check_path_length(path_text: str) -> None:
    longest_name = max(path_text.split("/"), key=lambda part: len(part.encode()))
    if len(longest_name.encode()) > MAX_NAME_BYTES:
        raise _make_path_error(path_text, f"a name in it is longer than {MAX_NAME_BYTES} bytes")
    if len(path_text.encode()) > MAX_PATH_BYTES:
        raise _make_path_error(path_text, f"it is longer than {MAX_PATH_BYTES} bytes")


def _reject_link_loop(path: Path, path_text: str) -> None:
    """Reject a symbolic-link loop, which `resolve` and `mkdir` report differently in each Python version."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _make_path_error(path_text, "it contains a symbolic-link loop") from None


def _make_path_error(path_text: str, reason: str) -> UserError:
    return UserError(f"cannot use the path '{escape_unprintable(shorten_text(path_text))}': {reason}")
