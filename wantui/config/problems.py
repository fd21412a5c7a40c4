"""Problems of a config: file, line, key, reason, and the nearest valid key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError

MAX_PROBLEMS = 50
"""Most faults, and most warnings, that one config reports."""


@dataclass(frozen=True)
class Problem:
    """One fault or warning; `key` is dotted (section.key), `line` counts from 1."""

    source: Path | str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        location = f"{self.source}:{self.line}" if self.line else str(self.source)
        return f"{location}: {self.key}: {self.message}" if self.key else f"{location}: {self.message}"


def at_most(problems: Sequence[Problem], source: Path | str, hidden: int = 0) -> list[Problem]:
    """Return the first MAX_PROBLEMS problems, and a last one that gives the number of the others.

    Args:
        hidden: problems that were found beside those.
    """
    more = max(len(problems) - MAX_PROBLEMS, 0) + hidden
    rest = [Problem(source, None, "", f"and {more:,} more")] if more else []
    return [*problems[:MAX_PROBLEMS], *rest]


class ConfigError(UserError):
    """A config that cannot be used; holds every problem that was found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))
