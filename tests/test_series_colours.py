"""Colours of variations: the same for the same batch, and never that of another colour's name."""

import pytest

from wantui.tui.series_colours import SERIES_COLOURS, assign_series_colours


@pytest.mark.parametrize(
    ("names", "colours"),
    [
        (["red", "blue"], ["red", "blue"]),
        (["cat", "dog"], ["orange", "teal"]),
        (["red, circle", "a dog"], ["red", "orange"]),
        (["red cat", "red dog"], ["red", "orange"]),
        (["purple", "cat"], ["violet", "orange"]),
        (["red_circle", "bored", "RED"], ["red", "orange", "teal"]),
        (["only"], []),
        ([], []),
    ],
)
def test_names_get_the_colour_that_they_contain_or_the_next_free_one(names: list[str], colours: list[str]) -> None:
    assert list(assign_series_colours(names).values()) == [f"series-{colour}" for colour in colours]


def test_colours_repeat_only_if_there_are_more_names_than_colours() -> None:
    names = [f"v{number}" for number in range(20)]
    colours = assign_series_colours(names)
    assert list(colours) == names
    assert len({colours[name] for name in names[: len(SERIES_COLOURS)]}) == len(SERIES_COLOURS)
    assert assign_series_colours([*names, names[0]]) == colours
