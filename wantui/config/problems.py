"""Problems of a config: file, line, key and message."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError

MAX_PROBLEMS = 50
"""Maximum number of errors, and of warnings, that are reported for a config."""


@dataclass(frozen=True)
class Problem:
    """An error or a warning; `key` is dotted (section.key), `line` counts from 1."""

    source: Path | str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        location = f"{self.source}:{self.line}" if self.line else str(self.source)
        return f"{location}: {self.key}: {self.message}" if self.key else f"{location}: {self.message}"


def limit_problems(problems: Sequence[Problem], source: Path | str, hidden: int = 0) -> list[Problem]:
    """Return the first MAX_PROBLEMS problems, and the number of the others as a last problem.

    Args:
        hidden: number of problems that are not in the list.
    """
    omitted = max(len(problems) - MAX_PROBLEMS, 0) + hidden
    summary = [Problem(source, None, "", f"and {omitted:,} more")] if omitted else []
    return [*problems[:MAX_PROBLEMS], *summary]


class ConfigError(UserError):
    """An invalid config, with all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))
