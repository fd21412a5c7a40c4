"""Read JSON files of limited size and depth; users, other programs or disk errors may have changed them.

Reading never blocks: anything but a regular file, such as a FIFO or a device, is refused before it is opened.
"""

import codecs
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from wantui.errors import SHORTAGE_ERROR_NUMBERS, UserError, find_shortage

MAX_JSON_BYTES = 64 << 20
"""Default maximum size of a JSON file, in bytes."""
REFUSED_ERROR_NUMBERS = (
    errno.EACCES,
    errno.EPERM,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
)
"""Error numbers of a file that may be intact, but belongs to another user or to an unreachable file system."""


class UnreadableFileError(UserError):
    """Raised for a file that cannot be read in its expected format; the text names the file and the reason."""


class InaccessibleFileError(UnreadableFileError):
    """Raised if the system cannot read a file at present; its content may be intact."""


def read_regular_file(path: Path, max_bytes: int = MAX_JSON_BYTES, start_offset: int = 0) -> bytes:
    """Return the content of a regular file of at most `max_bytes` bytes, starting at byte `start_offset`.

    Raises:
        FileNotFoundError: no such file.
        InaccessibleFileError: the system cannot read the file.
        UnreadableFileError: the file is not a regular file, or is too large.
    """
    try:
        # Check before opening, because opening some devices has effects; check again, in case the file was replaced.
        _reject_irregular_file(path, path.stat(), max_bytes)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _reject_irregular_file(path, status, max_bytes)
            file.seek(start_offset)
            content = file.read(max(status.st_size - start_offset, 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InaccessibleFileError(f"{path} cannot be read: {error.strerror or error}") from error
    return content


def is_refused_by_system(error: BaseException) -> bool:
    """Return whether an error was raised because the system refuses to read a file; see `find_system_refusal`."""
    return find_system_refusal(error) is not None


def find_system_refusal(error: BaseException) -> OSError | None:
    """Return the system's refusal to read a file, from an error or its causes; None if the file itself is at fault.

    An input/output error counts as damage: the disk can no longer read the file.
    """
    cause: BaseException | None = error
    while cause is not None:
        if (shortage := find_shortage(cause)) is not None:
            return shortage
        if isinstance(cause, OSError) and cause.errno in (*REFUSED_ERROR_NUMBERS, *SHORTAGE_ERROR_NUMBERS):
            return cause
        cause = cause.__cause__
    return None


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        UnreadableFileError: as `read_regular_file`, or it does not hold JSON.
    """
    try:
        return parse_json(read_regular_file(path, max_bytes))
    except ValueError as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from None


def read_json_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        UnreadableFileError: as `read_json`, or the value is not an object.
    """
    value = read_json(path, max_bytes)
    if not isinstance(value, dict):
        raise UnreadableFileError(f"{path} cannot be read: its content is not a JSON object")
    return value


def parse_json(text: bytes | str) -> Any:
    """Return the value of JSON text, nested at most 200 levels deep.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        content = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as some editors save text
        raise ValueError("it is UTF-16. Save it as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    # Python's parser limits the depth only by the interpreter's stack.
    return from_json(content)


def is_start_of_object(text: bytes) -> bool:
    """Return whether text is an object in ASCII-only JSON, or the start of one."""
    try:
        if not text.isascii() or not isinstance(from_json(text, allow_partial=True), dict):
            return False
        _, end = json.JSONDecoder().raw_decode(text.decode())
    except json.JSONDecodeError:  # the object is incomplete
        return True
    except ValueError:
        return False
    return end == len(text)  # `from_json` ignores text after the object


def describe_first_validation_error(error: ValidationError) -> str:
    """Return the first error of a document as one line with its field: "videos[3].seed: Input should be ..."."""
    first_error = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first_error["loc"]).lstrip(".")
    if first_error["type"] == "extra_forbidden":
        return f"{field} is not a field of this version"
    return f"{field}: {first_error['msg']}" if field else first_error["msg"]


def _reject_irregular_file(path: Path, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError(f"{path} cannot be read: it is not a regular file")
    if status.st_size > max_bytes:
        raise _make_too_large_error(path, max_bytes)


def _make_too_large_error(path: Path, max_bytes: int) -> UnreadableFileError:
    return UnreadableFileError(f"{path} cannot be read: it is larger than {max_bytes >> 20} MiB")
