"""Problems of a config: file, line, key and message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.errors import UserError

if TYPE_CHECKING:
    from wantui.config.settings import Settings

MAX_PROBLEMS = 50
"""Maximum number of errors, and of warnings, that are reported for a config."""


@dataclass(frozen=True)
class ConfigProblem:
    """An error or a warning; `key` is dotted (section.key), `line` counts from 1."""

    source: Path | str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        location = f"{self.source}:{self.line}" if self.line else str(self.source)
        return f"{location}: {self.text}"

    @property
    def text(self) -> str:
        """Return key and message, without file and line."""
        return f"{self.key}: {self.message}" if self.key else self.message


def limit_problems(problems: Sequence[ConfigProblem], source: Path | str, hidden_count: int = 0) -> list[ConfigProblem]:
    """Return the first MAX_PROBLEMS problems, and a last problem that states the number of all others.

    Args:
        hidden_count: number of problems that are not in the list.
    """
    omitted_count = max(len(problems) - MAX_PROBLEMS, 0) + hidden_count
    summary_problems = [ConfigProblem(source, None, "", f"and {omitted_count:,} more")] if omitted_count else []
    return [*problems[:MAX_PROBLEMS], *summary_problems]


class ConfigError(UserError):
    """An invalid config, with all its problems.

    Args:
        settings: settings without the invalid keys, for further checks; None if they cannot be read.
        line_by_key: line of each dotted key in the file.
    """

    def __init__(
        self,
        problems: list[ConfigProblem],
        settings: "Settings | None" = None,
        line_by_key: Mapping[str, int] | None = None,
    ) -> None:
        self.problems, self.settings, self.line_by_key = problems, settings, line_by_key or {}
        super().__init__("\n".join(map(str, problems)))
