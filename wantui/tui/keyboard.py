"""Keyboard input with invalid UTF-8, such as a paste from a Latin-1 program."""

import codecs
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from textual.driver import Driver


def _make_lenient_decoder(encoding: str) -> Callable[[], codecs.IncrementalDecoder]:
    """Return a factory of decoders that replace invalid bytes with U+FFFD."""
    return partial(codecs.getincrementaldecoder(encoding), errors="replace")


def replace_invalid_utf8(driver_class: type[Driver]) -> None:
    """Patch a Textual driver to replace invalid UTF-8, which would otherwise crash the application."""
    for base_class in driver_class.__mro__:
        module: Any = sys.modules[base_class.__module__]
        if hasattr(module, "getincrementaldecoder"):
            module.getincrementaldecoder = _make_lenient_decoder
