"""Advice of the Analysis screen: keys instead of options of the command line."""

import ast
import re
from pathlib import Path

import pytest

from wantui import analysis
from wantui.tui.analysis.advice import name_keys

SHOWN_MODULES = (
    "correlation_data",
    "declaration",
    "design_warnings",
    "group_errors",
    "groups",
    "interaction",
    "level_states",
    "matching",
    "swept_settings",
    "unguided",
)
"""Modules whose errors and warnings the screen shows."""
OPTION = re.compile(r"(?<![\w`-])--[a-z]")


def list_messages(module: str) -> list[str]:
    """Return the texts of a module, with X for each value that is filled in."""
    tree = ast.parse((Path(analysis.__path__[0]) / f"{module}.py").read_text("utf-8"))
    texts = [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
    ]
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return texts + [text for text in constants if isinstance(text, str)]


def is_advice(text: str) -> bool:
    return OPTION.search(re.sub(r"`[^`]*`", "", text)) is not None


@pytest.mark.parametrize("module", SHOWN_MODULES)
def test_screen_names_no_option_outside_a_command(module: str) -> None:
    pieces = list_messages(module)
    messages = [text for text in pieces if not any(text in other for other in pieces if other != text)]
    assert [text for text in messages if is_advice(name_keys(text))] == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("there is only one. Choose another --by", "there is only one. Press c for another grouping"),
        (
            "averaged over schedule: group by it to compare its values, or choose one with --where",
            "averaged over schedule: c groups by it",
        ),
        (
            "Group by the setting (--by steps), or choose videos with equal settings (--where)",
            "Press c to group by it",
        ),
        ("the videos differ in: steps", "the videos differ in: steps"),
    ],
)
def test_advice_names_keys(message: str, expected: str) -> None:
    assert name_keys(message) == expected
