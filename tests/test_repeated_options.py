"""Options that are given twice, in every command."""

import json
from collections.abc import Iterator

import click
from conftest import Wantui, files

from wantui.cli import cli


def single_value_options(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command with each of its options that take one value."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from single_value_options(command, (*words, name))
            continue
        for option in command.params:
            if isinstance(option, click.Option) and not (option.multiple or option.is_flag):
                yield (*words, name, option.opts[-1])


def test_repeated_options_are_refused_by_every_command(wantui: Wantui) -> None:
    commands = list(single_value_options(cli))
    assert len(commands) > 40
    for *words, option in commands:
        result = wantui(*words, option, "1", option, "2")
        assert (result.code, result.out) == (2, "")
        assert f"Error: {option} is given 2 times. Give it once" in result.err, words
    assert files() == []


def test_help_is_shown_despite_a_repeated_option(wantui: Wantui) -> None:
    result = wantui("run", "--seed", "1", "--seed", "2", "--help")
    assert (result.code, result.out.startswith("Usage: wantui run")) == (0, True)


def test_repeated_flags_and_repeatable_options_are_accepted(wantui: Wantui) -> None:
    sets = ["--set", "model_settings.steps=3", "--set", "model_settings.seed=7"]
    recipe = json.loads(wantui("preview", "-t", "a star", "--json", "--json", *sets).out)["recipe"]
    assert (recipe["steps"], recipe["seed"]) == (3, 7)
