"""Input of the terminal: invalid UTF-8, such as a paste from a Latin-1 program, and late answers to other programs."""

import codecs
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from textual._xterm_parser import XTermParser
from textual.driver import Driver
from textual.events import Key

PASTE_START, PASTE_END = "\x1b[200~", "\x1b[201~"
PASTE_MARK = re.compile(r"(\x1b\[20[01]~)")
TERMINAL_RESPONSE = re.compile(r"\x1b[P\]_^X][^\x1b\x07]{2,}(?:\x1b\\|\x07)")
"""String with which a terminal answers a query (DCS, OSC, APC, PM or SOS); Alt with a key sends only its start."""
INCOMPLETE_SEQUENCE = re.compile(r"\x1b(?:\[(?:[<?>=]|[<?>=]?[\d;:]+[ $]?)|[P\]_^X][^\x1b\x07]{2,4096}\x1b?)\Z")
"""Start of a sequence at the end of a read: more than Escape or Alt with a key sends."""
INCOMPLETE_PASTE_END = re.compile(r"\x1b(?:\[(?:2(?:01?)?)?)?\Z")
"""Truncated end mark of a paste, at the end of the bytes that were read."""
KEY_OR_PASTE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|O?[^\x1b]?)|(?P<paste>[^\x00-\x1f\x7f-\x9f]{256,})")
"""Escape sequence, or text that no one types within one read: a paste in a terminal that does not mark it."""
MAX_SEQUENCE_SECONDS = 2.0
"""Maximum seconds from the first part of a sequence to its last; then the start is dropped."""

SIZE_REPORT = re.compile(r"\x1b\[48[\d;:]*t")
MAX_SIZE = 10_000
"""Maximum columns, rows or pixels of a reported terminal size; the application stores every cell."""
KEY_REPORT = re.compile(r"\x1b\[(\d*)(?::[\d:]*)?(?:;(\d*)(?::(\d*))?)?((?:;[\d:]*)?)([a-zA-Z~])")
"""Key in the Kitty protocol: code point, modifiers, type of event, associated text and final letter."""
RELEASE_EVENT = "3"


def _drop_oversized_size_report(report: re.Match[str]) -> str:
    """Return a report of the terminal size, or nothing if it is too large."""
    return report[0] if all(int(text[:20]) <= MAX_SIZE for text in re.findall(r"\d+", report[0])) else ""


def _clean_typed_text(text: str) -> str:
    """Return input outside of a marked paste without answers and invalid sizes, and with marks around a paste."""
    return KEY_OR_PASTE.sub(_mark_paste, SIZE_REPORT.sub(_drop_oversized_size_report, TERMINAL_RESPONSE.sub("", text)))


def _mark_paste(match: re.Match[str]) -> str:
    return match[0] if match["paste"] is None else f"{PASTE_START}{match[0]}{PASTE_END}"


class InputParser(XTermParser):
    """Parser that accepts all keys of the Kitty protocol.

    Textual fails on alternate keys and types of events, which another program may have turned on, and on invalid code
    points.
    """

    def _parse_extended_key(self, sequence: str) -> list[Key] | None:  # type: ignore[override]
        if (report := KEY_REPORT.fullmatch(sequence)) is None:
            return self._parse_or_ignore(sequence)
        code, modifiers, event, text, letter = report.groups(default="")
        numbers = [int(number[:20]) for number in re.findall(r"\d+", f"{code};{modifiers}{text}")]
        is_valid = all(number <= sys.maxunicode and not 0xD800 <= number < 0xE000 for number in numbers)
        if event == RELEASE_EVENT or not is_valid:
            return []
        if ":" in f"{sequence.removesuffix(text + letter)}":
            sequence = f"\x1b[{code};{modifiers}{text}{letter}"
        return self._parse_or_ignore(sequence)

    def _parse_or_ignore(self, sequence: str) -> list[Key] | None:
        try:
            return super()._parse_extended_key(sequence)
        except (ValueError, OverflowError):
            return []


class InputDecoder(codecs.IncrementalDecoder):
    """Decoder that replaces invalid bytes with U+FFFD, and drops answers and invalid sizes, except in a paste.

    An editor that queries the terminal may end before the answer arrives. Textual would read the answer as keys. It
    would do the same with a sequence that arrives in two parts over a slow link, so the first part is held until the
    rest arrives. Long text that arrives without the marks of a paste gets these marks: Textual would treat it as single
    keys, lay out the screen after each, and block for minutes.
    """

    def __init__(self, encoding: str) -> None:
        super().__init__("replace")
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._is_pasting = False
        self._held_text, self._held_since = "", 0.0

    def decode(self, data: Any, final: bool = False) -> str:
        now, held_text = time.monotonic(), self._held_text
        if not self._is_pasting and now - self._held_since > MAX_SEQUENCE_SECONDS:
            held_text = ""
        text = held_text + self._decoder.decode(data, final)
        raw_parts, parts = PASTE_MARK.split(text), []
        ends_in_paste = self._is_pasting if len(raw_parts) == 1 else raw_parts[-2] == PASTE_START
        cut = (INCOMPLETE_PASTE_END if ends_in_paste else INCOMPLETE_SEQUENCE).search(raw_parts[-1])
        self._held_text = "" if cut is None or final else cut[0]
        raw_parts[-1] = raw_parts[-1].removesuffix(self._held_text)  # a long start of an answer is not a paste
        for part in raw_parts:
            if PASTE_MARK.fullmatch(part):
                self._is_pasting = part == PASTE_START
            parts.append(part if self._is_pasting else _clean_typed_text(part))
        if not held_text or self._held_text != text:  # not the start that is held already
            self._held_since = now
        return "".join(parts)


def _decoder_factory(encoding: str) -> Callable[[], codecs.IncrementalDecoder]:
    return partial(InputDecoder, encoding)


def patch_input(driver: type[Driver]) -> None:
    """Patch a Textual driver to use `InputDecoder` and `InputParser`; invalid input would crash the application."""
    for kind in driver.__mro__:
        module: Any = sys.modules[kind.__module__]
        if hasattr(module, "getincrementaldecoder"):
            module.getincrementaldecoder = _decoder_factory
            module.XTermParser = InputParser
