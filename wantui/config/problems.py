"""What can be wrong with a config file, said so that it can be mended: file, line, key, reason, nearest valid key."""

from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One fault or warning; `key` is dotted (section.key), `line` counts from 1."""

    source: Path | str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else str(self.source)
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(UserError):
    """A config that cannot be used; holds every problem that was found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))
