"""Reading keys from terminals that send bytes which are no UTF-8, such as a paste from a Latin-1 program."""

import codecs
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from textual.driver import Driver


def _lenient_decoder(encoding: str) -> Callable[[], codecs.IncrementalDecoder]:
    """Return a factory of decoders that replace invalid bytes with U+FFFD."""
    return partial(codecs.getincrementaldecoder(encoding), errors="replace")


def replace_invalid_utf8(driver: type[Driver]) -> None:
    """Let a driver of Textual's read any bytes: one that is no UTF-8 would end the application with a traceback."""
    for kind in driver.__mro__:
        module: Any = sys.modules[kind.__module__]
        if hasattr(module, "getincrementaldecoder"):
            module.getincrementaldecoder = _lenient_decoder
