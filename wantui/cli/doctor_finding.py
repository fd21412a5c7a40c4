"""One line of `wantui doctor`'s report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "problem"]
    check: str
    result: str
    advice: str = ""
