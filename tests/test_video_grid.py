"""The sketch of the videos of a draft on the Compose screen."""

import pytest
from rich.style import Style
from test_power import preview

from wantui.tui.video_grid import MAX_ROWS, SQUARE, draw_planned_videos


def draw(template: str, width: int = 80, **settings: str) -> list[str]:
    return [line.plain for line in draw_planned_videos(preview(template, **settings), width, lambda _: Style())]


def test_grid_has_a_square_for_each_video() -> None:
    assert draw("a [red|blue] circle", seeds="7,42,100") == [
        "seed  7    42   100",
        "red   ■    ■    ■",
        "blue  ■    ■    ■",
    ]


def test_grid_of_a_sweep_has_a_square_for_each_cell() -> None:
    lines = draw("a [red|blue] circle", seeds="1..2", sweeps="cfg_scale=1,4,8")
    assert [line.count(SQUARE) for line in lines] == [0, 6, 6]


@pytest.mark.parametrize(
    ("template", "width"),
    [("a [red|blue] circle", 20), ("a [" + "|".join(f"c{n}" for n in range(MAX_ROWS + 1)) + "] circle", 80)],
)
def test_grid_that_does_not_fit_is_hidden(template: str, width: int) -> None:
    assert draw(template, width, seeds="1..9") == []
