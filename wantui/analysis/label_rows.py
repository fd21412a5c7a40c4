"""Rows of CSV files with external labels, with any of the usual separators."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import escape_unprintable, format_count, shorten_text
from wantui.text_files import read_text_file

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MAX_FILE_BYTES = 64_000_000
MAX_QUOTED_LENGTH = 80
"""Maximum characters of foreign text in a message."""


class LabelError(UserError):
    """Raised for labels that cannot be used; the text names file, line and column."""


@dataclass(frozen=True)
class CsvRows:
    """Content of a CSV file, with stripped cells."""

    path: Path
    sha256: str
    """Checksum of the file's text."""
    header: tuple[str, ...]
    body: tuple[tuple[int, tuple[str, ...]], ...]
    """Rows that are not empty: the number of the row's last line, and its cells."""

    def check_body(self) -> None:
        """Reject a file without rows, or with a row that is longer or shorter than the header.

        Raises:
            LabelError: names the line.
        """
        prefix = f"cannot use {quote(str(self.path))}: "
        if not self.body:
            raise LabelError(f"{prefix}it has no rows below its header line")
        for line_number, row in self.body:
            if len(row) != len(self.header):
                advice = (
                    "Quote text that contains the separator"
                    if len(row) > len(self.header)
                    else "Add the missing cells; leave the cell of a missing value empty"
                )
                raise LabelError(
                    f"{prefix}line {line_number} has {format_count(len(row), 'cell')}, but the header has "
                    f"{len(self.header)}. {advice}"
                )


def quote(text: str) -> str:
    """Return foreign text for a message: short, without control characters."""
    return escape_unprintable(shorten_text(text, MAX_QUOTED_LENGTH))


def read_csv_rows(path: Path) -> CsvRows:
    """Read a CSV file with a header line.

    Raises:
        LabelError: the file is empty, binary, or not valid CSV.
        UserError: the file cannot be read.
    """
    text = read_text_file(path, MAX_FILE_BYTES, may_be_pipe=True)
    if "\x00" in text:
        raise LabelError(f"cannot use {quote(str(path))}: it contains zero bytes, so it is not a text file")
    rows = _split_rows(path, text, _find_separator(path, text))
    if not rows:
        raise LabelError(f"cannot use {quote(str(path))}: it is empty")
    return CsvRows(path, hashlib.sha256(text.encode()).hexdigest(), rows[0][1], tuple(rows[1:]))


def identifies_videos(cells: Sequence[str]) -> bool:
    """Return whether the columns of a header identify the video of each row."""
    names = {cell.strip().strip('"').strip().lower() for cell in cells}
    return bool(names & {"video", "id"}) or {"variation", "seed"} <= names


def _find_separator(path: Path, text: str) -> str:
    """Return the separator with which the header line has the most cells."""
    separators = "".join(SEPARATORS)
    header = next((line for line in text.splitlines() if line.strip(f"{separators} ")), "")
    if not header:
        raise LabelError(f"cannot use {quote(str(path))}: it is empty")
    return max(SEPARATORS, key=lambda separator: (identifies_videos(header.split(separator)), header.count(separator)))


def _split_rows(path: Path, text: str, separator: str) -> list[tuple[int, tuple[str, ...]]]:
    """Return the rows that are not empty, with stripped cells and the numbers of their last lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        for row in reader:
            cells = tuple(cell.strip() for cell in row)
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise LabelError(f"cannot use {quote(str(path))}: line {reader.line_num} is not valid CSV ({error})") from None
    return rows
