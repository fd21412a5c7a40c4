"""Advice of the Analysis screen: keys instead of options of the command line."""

import ast
import re
from pathlib import Path

import pytest
from rich.style import Style

from wantui import analysis
from wantui.analysis.advice import Advice, AdviceKind, AdvisedText, add_details, add_reason_prefix
from wantui.analysis.group_names import CannotCompareError
from wantui.tui.analysis.advice import SCREEN_ADVICE, format_error_for_screen, replace_options_by_keys
from wantui.tui.analysis.tables import draw_rows
from wantui.tui.analysis.views import Canvas
from wantui.tui.plain_names import replace_names

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


def names_option(text: str) -> bool:
    return OPTION.search(re.sub(r"`[^`]*`", "", text)) is not None


@pytest.mark.parametrize("module", SHOWN_MODULES)
def test_messages_of_the_analysis_name_options_only_in_their_advice(module: str) -> None:
    assert [text for text in list_messages(module) if names_option(text)] == []


@pytest.mark.parametrize("kind", AdviceKind)
def test_screen_names_no_option_outside_a_command(kind: AdviceKind) -> None:
    assert not names_option(SCREEN_ADVICE[kind])


def test_one_advice_has_options_for_commands_and_keys_for_the_screen() -> None:
    warning = AdvisedText("no value of steps is in every group", Advice(AdviceKind.GROUP_BY_SETTING, "steps"))
    assert warning == (
        "no value of steps is in every group. Group by the setting (--by steps), or choose videos with equal settings "
        "(--where)"
    )
    assert replace_options_by_keys(warning) == "no value of steps is in every group. Press c to group by it"
    assert replace_options_by_keys("the videos differ in: steps") == "the videos differ in: steps"


def test_error_keeps_its_advice_when_details_are_added() -> None:
    message = AdvisedText("there is only one", Advice(AdviceKind.CHOOSE_GROUPING))
    error = CannotCompareError(add_details(message, "1 of 2 videos is excluded"))
    assert str(error) == "there is only one. Choose another --by. 1 of 2 videos is excluded"
    assert (
        format_error_for_screen(error) == "there is only one. Press c for another grouping. 1 of 2 videos is excluded"
    )
    assert format_error_for_screen(ValueError("one --by")) == "one --by"


def test_message_keeps_its_advice_and_details_after_a_prefix() -> None:
    message = AdvisedText("there is only one", Advice(AdviceKind.CHOOSE_GROUPING), "1 of 2 videos is excluded")
    prefixed = add_reason_prefix("not compared: ", message)
    assert prefixed == "not compared: there is only one. Choose another --by. 1 of 2 videos is excluded"
    assert replace_options_by_keys(prefixed) == (
        "not compared: there is only one. Press c for another grouping. 1 of 2 videos is excluded"
    )
    assert add_reason_prefix("not compared: ", "no seeds") == "not compared: no seeds"


def test_commands_keep_the_names_of_metrics() -> None:
    text = "log_volume: see `wantui analyze --compare --primary log_volume`, not log_volume"
    assert replace_names(text) == "log volume: see `wantui analyze --compare --primary log_volume`, not log volume"


def test_headings_of_groups_keep_the_names_of_metrics() -> None:
    lines = draw_rows(("metric",), {"log_volume - blue": [(("log_volume",), False)]}, Canvas(60, 20, lambda _: Style()))
    assert [line.plain.strip() for line in lines] == ["metric", "log_volume - blue", "log volume"]
