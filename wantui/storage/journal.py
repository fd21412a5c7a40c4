"""batch.journal.jsonl: what became of videos since batch.json was written, a line for each change.

A manifest of 10,000 videos has 12 MB; to rewrite it for each of them would write 119 GB. A line holds the identity of
the manifest that it continues (its field `journal`), so that lines that were folded into a newer manifest are known as
such, and a CRC-32 of itself.
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

from wantui.atomic_files import sync
from wantui.formatting import format_count
from wantui.json_files import parse_json, read_regular_file

MAX_JOURNAL_BYTES = 256 << 20
MAX_DESCRIBED_FAULTS = 10
"""Damaged lines that are described one by one; the others are counted."""
CRC_KEY = "crc32"


@dataclass(frozen=True)
class JournalLine:
    """A change of one video."""

    video: int
    """Index into the videos of the manifest, from 0."""
    id: str
    """Identity of the video."""
    entry: dict[str, Any]
    """All fields of its entry that change."""
    number: int = 0
    """Number of the line in the file, from 1; for messages."""
    journal: str = ""
    """Identity of the manifest that it continues, where it was read."""


@dataclass(frozen=True)
class JournalTail:
    """Content of a journal from some byte on."""

    lines: tuple[JournalLine, ...] = ()
    end: int = 0
    """Byte after the last complete line."""
    is_torn: bool = False
    """True if an incomplete line follows."""
    stale: tuple[JournalLine, ...] = ()
    """Lines that continue another manifest; the folder's manifest should contain their data."""
    faults: tuple[str, ...] = ()
    """Descriptions of unreadable lines."""


def new_journal_id(journal: str) -> str:
    """Return a new identity for a manifest into which the journal of another identity is folded."""
    return secrets.token_hex(4) + _short_digest(journal)


def is_folded_into(journal: str, into: str) -> bool:
    """Return whether a manifest of the identity `into` was made by folding the journal of another identity."""
    return into[8:] == _short_digest(journal)


def _short_digest(journal: str) -> str:
    return hashlib.sha256(journal.encode()).hexdigest()[:8]


def encode_journal_line(journal: str, line: JournalLine) -> bytes:
    """Return a line of a journal, with its newline."""
    content = {"journal": journal, "video": line.video, "id": line.id, "entry": line.entry}
    return json.dumps(content | {CRC_KEY: _line_crc(content)}, separators=(",", ":")).encode() + b"\n"


def read_journal_tail(path: Path, journal: str, start: int = 0, first_number: int = 1) -> JournalTail:
    """Return the lines from byte `start` on.

    Args:
        journal: identity of the manifest that the lines should continue.
        first_number: number of the line that begins there.

    Raises:
        UnreadableFileError: it is not a regular file, or is too large.
    """
    try:
        content = read_regular_file(path, MAX_JOURNAL_BYTES, start)
    except FileNotFoundError:
        return JournalTail(end=start)
    complete, newline, rest = content.rpartition(b"\n")
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
    return JournalTail(tuple(lines), start + len(complete + newline), bool(rest), tuple(stale), tuple(faults))


def append_journal_lines(path: Path, end: int, lines: Sequence[bytes]) -> int:
    """Append lines to a journal of `end` bytes, and wait until they are on the disk; returns its new size.

    Raises:
        OSError: they cannot be written, and the journal is as it was; or it is a link, or has another size.
    """
    is_new = not path.exists()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        if (size := os.fstat(descriptor).st_size) != end:
            raise OSError(f"{path} has {size} bytes, and had {end}")
        content = memoryview(b"".join(lines))
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # what is left of the line is then taken for torn
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        sync(path.parent)
    return end + sum(map(len, lines))


def _decode_line(text: bytes, number: int) -> JournalLine:
    content = parse_json(text)
    if not isinstance(content, dict) or type(content.get("video")) is not int:
        raise ValueError("it does not hold a JSON object with the number of a video")
    if content.pop(CRC_KEY, None) != _line_crc(content):
        raise ValueError("its bytes are not those that were written (CRC-32)")
    return JournalLine(content["video"], str(content["id"]), content["entry"], number, str(content["journal"]))


def _line_crc(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
