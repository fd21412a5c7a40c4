"""batch.journal.jsonl: the changes of videos since batch.json was written, one per line.

A manifest of 10,000 videos has 12 MB; rewriting it after each video would write 119 GB. Each line contains the journal
ID of its manifest (the manifest's field `journal`), which tells new lines from lines that are already folded into a
newer manifest, and a CRC-32 of itself.
"""

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wantui.atomic_files import sync_to_disk
from wantui.formatting import format_count
from wantui.json_files import is_start_of_object, parse_json, read_regular_file

MAX_JOURNAL_BYTES = 256 << 20
MAX_DESCRIBED_FAULTS = 10
"""Maximum number of damaged lines that are described; further ones are only counted."""
CRC_KEY = "crc32"


@dataclass(frozen=True)
class JournalLine:
    """A change of one video."""

    video: int
    """Index into the videos of the manifest, from 0."""
    id: str
    """ID of the video: the first digits of its recipe's digest."""
    entry: dict[str, Any]
    """Changeable fields of the video's manifest entry."""
    number: int = 0
    """Number of the line in the file, from 1; for messages."""
    journal: str = ""
    """Journal ID of the manifest that the line updates; empty for a line that is not read from a file."""


@dataclass(frozen=True)
class JournalTail:
    """Content of a journal after a given byte."""

    lines: tuple[JournalLine, ...] = ()
    end: int = 0
    """Byte after the last complete line, or after damaged bytes at the end."""
    is_torn: bool = False
    """True if an incomplete line follows."""
    stale: tuple[JournalLine, ...] = ()
    """Lines of an earlier manifest, whose changes batch.json should already contain."""
    faults: tuple[str, ...] = ()
    """Descriptions of unreadable lines."""


def new_journal_id(journal: str) -> str:
    """Return a new ID for a manifest into which a journal is folded; the last 8 digits identify that journal."""
    return secrets.token_hex(4) + _compute_short_digest(journal)


def is_folded_into(journal: str, into: str) -> bool:
    """Return whether the manifest with ID `into` was written by folding the journal with ID `journal`."""
    return into[8:] == _compute_short_digest(journal)


def _compute_short_digest(journal: str) -> str:
    return hashlib.sha256(journal.encode()).hexdigest()[:8]


def encode_journal_line(journal: str, line: JournalLine) -> bytes:
    """Encode a journal line, with its newline."""
    content = {"journal": journal, "video": line.video, "id": line.id, "entry": line.entry}
    return json.dumps(content | {CRC_KEY: _compute_line_crc(content)}, separators=(",", ":")).encode() + b"\n"


def read_journal_tail(path: Path, journal: str, start: int = 0, first_number: int = 1) -> JournalTail:
    """Read the lines of a journal from byte `start` on.

    Args:
        journal: journal ID of the manifest; lines with another ID are stale.
        first_number: number of the line at `start`, for messages.

    Raises:
        UnreadableFileError: the journal is not a regular file, or is too large.
    """
    try:
        content = read_regular_file(path, MAX_JOURNAL_BYTES, start)
    except FileNotFoundError:
        return JournalTail(end=start)
    complete, newline, torn_tail = content.rpartition(b"\n")
    lines: list[JournalLine] = []
    faults: list[str] = []
    stale: list[JournalLine] = []
    damaged = 0
    for number, text in enumerate(complete.split(b"\n") if newline else (), start=first_number):
        try:
            entry = _decode_line(text, number)
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            damaged += 1
            if damaged <= MAX_DESCRIBED_FAULTS:
                faults.append(f"line {number} of {path} is damaged: {error}")
            continue
        (lines if entry.journal == journal else stale).append(entry)
    if damaged > MAX_DESCRIBED_FAULTS:
        faults.append(f"{path} holds {format_count(damaged - MAX_DESCRIBED_FAULTS, 'more damaged line')}")
    end = start + len(complete + newline)
    if torn_tail and not is_start_of_object(torn_tail):
        # A crash leaves the start of a line. Anything else, such as zero bytes, replaces lines that were complete.
        zero_bytes = " (zero bytes)" if not torn_tail.strip(b"\0") else ""
        faults.append(f"the last {format_count(len(torn_tail), 'byte')} of {path} are damaged: not a line{zero_bytes}")
        end, torn_tail = start + len(content), b""
    return JournalTail(tuple(lines), end, bool(torn_tail), tuple(stale), tuple(faults))


def append_journal_lines(path: Path, end: int, lines: Sequence[bytes]) -> int:
    """Append lines to a journal of `end` bytes, wait until they are on disk, and return its new size.

    Raises:
        OSError: the lines cannot be written, or the journal is a link or has another size; it is then unchanged.
    """
    is_new = not path.exists()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        if (size := os.fstat(descriptor).st_size) != end:
            raise OSError(f"{path} has {size} bytes instead of {end}: another program changed it")
        content = memoryview(b"".join(lines))
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # if this fails too, readers skip the incomplete line
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        sync_to_disk(path.parent)
    return end + sum(map(len, lines))


def _decode_line(text: bytes, number: int) -> JournalLine:
    content = parse_json(text)
    if not isinstance(content, dict) or type(content.get("video")) is not int:
        raise ValueError("it is not a JSON object with the number of a video")
    if content.pop(CRC_KEY, None) != _compute_line_crc(content):
        raise ValueError("its CRC-32 does not match")
    return JournalLine(content["video"], str(content["id"]), content["entry"], number, str(content["journal"]))


def _compute_line_crc(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
