"""Print what a command leaves out, with one line for each reason."""

from collections.abc import Iterable

from wantui.cli.output import echo
from wantui.formatting import join_and_shorten

MAX_LISTED_NAMES = 3
"""Maximum number of names listed for one reason; the others are counted."""


def print_left_out(left_out: Iterable[tuple[str, str]]) -> None:
    """Print names and reasons on stderr.

    Args:
        left_out: name and reason of each item.
    """
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in left_out:
        names_by_reason.setdefault(reason, []).append(name)
    for reason, names in names_by_reason.items():
        echo(f"left out: {join_and_shorten(names, MAX_LISTED_NAMES, '; ')}: {reason}", err=True)
