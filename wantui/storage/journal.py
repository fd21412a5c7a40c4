"""batch.journal.jsonl: the changes of videos since batch.json was written, one per line.

A manifest of 10,000 videos is 11 MB; rewriting it after each video would write 110 GB. Each line contains the journal
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
"""Maximum number of damaged lines that are described; further lines are only counted."""
CRC_KEY = "crc32"


@dataclass(frozen=True)
class JournalLine:
    """A change of one video."""

    video_index: int
    """Index into the videos of the manifest, from 0."""
    video_id: str
    """ID of the video: the first digits of its recipe's digest."""
    outcome: dict[str, Any]
    """Changeable fields of the video's manifest entry."""
    line_number: int = 0
    """Number of the line in the file, from 1; for messages."""
    journal_id: str = ""
    """Journal ID of the manifest that the line updates; empty for a line that is not read from a file."""


@dataclass(frozen=True)
class JournalTail:
    """Content of a journal after a given byte."""

    lines: tuple[JournalLine, ...] = ()
    end_byte: int = 0
    """Byte after the last complete line, or after damaged bytes at the end."""
    is_torn: bool = False
    """True if an incomplete line follows."""
    stale_lines: tuple[JournalLine, ...] = ()
    """Lines of an earlier manifest, whose changes batch.json should already contain."""
    faults: tuple[str, ...] = ()
    """Descriptions of unreadable lines."""
    line_count: int = 0
    """Number of complete lines, readable or not."""


def make_journal_id(folded_journal_id: str) -> str:
    """Return a new ID for a manifest into which a journal is folded; the last 8 digits identify that journal."""
    return secrets.token_hex(4) + _compute_short_digest(folded_journal_id)


def is_journal_folded_into(journal_id: str, manifest_id: str) -> bool:
    """Return whether the manifest with ID `manifest_id` was written by folding the journal with ID `journal_id`."""
    return manifest_id[8:] == _compute_short_digest(journal_id)


def _compute_short_digest(journal_id: str) -> str:
    return hashlib.sha256(journal_id.encode()).hexdigest()[:8]


def encode_journal_line(journal_id: str, line: JournalLine) -> bytes:
    """Encode a journal line, with its newline."""
    content = {"journal": journal_id, "video": line.video_index, "id": line.video_id, "entry": line.outcome}
    return json.dumps(content | {CRC_KEY: _compute_line_crc(content)}, separators=(",", ":")).encode() + b"\n"


def read_journal_tail(path: Path, journal_id: str, start_byte: int = 0, first_line_number: int = 1) -> JournalTail:
    """Read the lines of a journal from byte `start_byte` on.

    Args:
        journal_id: journal ID of the manifest; lines with another ID are stale.
        first_line_number: number of the line at `start_byte`, for messages.

    Raises:
        UnreadableFileError: the journal is not a regular file, or is too large.
    """
    try:
        content = read_regular_file(path, MAX_JOURNAL_BYTES, start_byte)
    except FileNotFoundError:
        return JournalTail(end_byte=start_byte)
    complete_lines, newline, torn_tail = content.rpartition(b"\n")
    lines: list[JournalLine] = []
    faults: list[str] = []
    stale_lines: list[JournalLine] = []
    damaged_count = 0
    for line_number, line_bytes in enumerate(complete_lines.split(b"\n") if newline else (), start=first_line_number):
        try:
            line = _decode_journal_line(line_bytes, line_number)
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            damaged_count += 1
            if damaged_count <= MAX_DESCRIBED_FAULTS:
                faults.append(f"line {line_number} of {path} is damaged: {error}")
            continue
        (lines if line.journal_id == journal_id else stale_lines).append(line)
    if damaged_count > MAX_DESCRIBED_FAULTS:
        faults.append(f"{path} contains {format_count(damaged_count - MAX_DESCRIBED_FAULTS, 'more damaged line')}")
    end_byte = start_byte + len(complete_lines + newline)
    if torn_tail and not is_start_of_object(torn_tail):
        # A crash leaves the start of a line. Anything else, such as zero bytes, replaces lines that were complete.
        zero_bytes = " (zero bytes)" if not torn_tail.strip(b"\0") else ""
        faults.append(
            f"the last {format_count(len(torn_tail), 'byte')} of {path} are damaged: they are not a complete "
            f"line{zero_bytes}"
        )
        end_byte, torn_tail = start_byte + len(content), b""
    line_count = content.count(b"\n")
    return JournalTail(tuple(lines), end_byte, bool(torn_tail), tuple(stale_lines), tuple(faults), line_count)


def append_journal_lines(path: Path, expected_bytes: int, lines: Sequence[bytes]) -> int:
    """Append lines to a journal of `expected_bytes` bytes, wait until they are on disk, and return its new size.

    Raises:
        OSError: the lines cannot be written, or the journal is a link or has another size; it is then unchanged.
    """
    is_new = not path.exists()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        if (actual_bytes := os.fstat(descriptor).st_size) != expected_bytes:
            raise OSError(f"{path} has {actual_bytes} bytes instead of {expected_bytes}: another program changed it")
        content = memoryview(b"".join(lines))
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # if this fails too, readers skip the incomplete line
                os.ftruncate(descriptor, expected_bytes)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        sync_to_disk(path.parent)
    return expected_bytes + sum(map(len, lines))


def _decode_journal_line(line_bytes: bytes, line_number: int) -> JournalLine:
    content = parse_json(line_bytes)
    if not isinstance(content, dict) or type(content.get("video")) is not int:
        raise ValueError("it is not a JSON object with the number of a video")
    if content.pop(CRC_KEY, None) != _compute_line_crc(content):
        raise ValueError("its CRC-32 does not match")
    return JournalLine(content["video"], str(content["id"]), content["entry"], line_number, str(content["journal"]))


def _compute_line_crc(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
