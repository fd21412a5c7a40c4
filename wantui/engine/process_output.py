"""Read the last line of the output of an engine or a worker, which says why its process ended."""

import os
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import escape_unprintable
from wantui.queue.state_dir import find_write_error
from wantui.queue.state_files import open_state_file

NO_OUTPUT = "(it printed nothing)"
"""Placeholder for the last line of an empty output."""
TRACEBACK_HEADER = "Traceback (most recent call last):"
"""First line of a Python traceback."""
CUDA_ADVICE_STARTS = (
    "CUDA kernel errors might",
    "Search for ",
    "For debugging consider passing",
    "Compile with ",
    "Device-side assertion",
    "Exception raised from ",
    "frame #",
)
"""First words of the lines with general advice and C++ frames that torch adds to the message of a CUDA error."""


def _find_error_line(lines: list[str]) -> int:
    """Return the index of the line with the error of a final traceback, or of the last line if there is no traceback.

    If the traceback ends the output, only indented lines and CUDA's general advice follow its error. Any other
    line shows that the process caught the error and continued.
    """
    last_line = len(lines) - 1
    header_line = max((index for index, line in enumerate(lines) if line == TRACEBACK_HEADER), default=None)
    if header_line is None:
        return last_line
    unindented_lines = (index for index in range(header_line + 1, len(lines)) if not lines[index].startswith(" "))
    error_line = next(unindented_lines, last_line)
    is_at_end = all(not line or line.startswith((" ", "\t", *CUDA_ADVICE_STARTS)) for line in lines[error_line + 1 :])
    return error_line if is_at_end else last_line


def read_last_line(path: Path, start_byte: int = 0) -> str:
    """Return the last line of a process's output file after `start_byte`, without control characters.

    After a traceback, return the first line of the error, because CUDA prints general advice below some errors.
    """
    try:
        with os.fdopen(open_state_file(path, os.O_RDONLY), "rb") as file:
            file.seek(max(start_byte, os.fstat(file.fileno()).st_size - 100_000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except UserError as error:
        return f"({error})"
    except OSError as error:
        return f"({path} cannot be read: {error.strerror or error})"
    if lines:
        return escape_unprintable(lines[_find_error_line(lines)][:1000])
    write_error = find_write_error(path.parent)
    if write_error is None:
        return NO_OUTPUT
    return f"(cannot write its output to {path}: {write_error}. Free disk space, or make the folder writable)"
