"""The sketch of the videos of a draft on the Compose screen."""

import pytest
from nano_preview import preview_nano_batch
from rich.style import Style

from wantui.tui.video_grid import MAX_ROWS, SQUARE, draw_planned_videos


def draw(template: str, width: int = 80, **settings: str) -> list[str]:
    planned = preview_nano_batch(template, **settings)
    return [line.plain for line in draw_planned_videos(planned, width, lambda _: Style(), {}, MAX_ROWS + 1)]


def test_grid_has_a_square_for_each_video() -> None:
    assert draw("a [red|blue] circle", seeds="7,42,100") == [
        "seed  7    42   100",
        "red   ■    ■    ■",
        "blue  ■    ■    ■",
    ]


def test_grid_of_a_sweep_names_value_and_variation_of_each_row() -> None:
    assert draw("a [red|blue] circle", seeds="1..2", sweeps="cfg_scale=1,4.5") == [
        "cfg scale  seed  1  2",
        "1          red   ■  ■",
        "           blue  ■  ■",
        "4.5        red   ■  ■",
        "           blue  ■  ■",
    ]


def test_grid_of_a_sweep_with_too_many_rows_has_a_square_for_each_variation() -> None:
    planned = preview_nano_batch("a [red|blue] circle", seeds="1..2", sweeps="cfg_scale=1,4")
    styles = {"series-red": Style(color="red"), "series-blue": Style(color="blue")}
    texts = {"cfg_scale 1": "4 videos, 0:01", "cfg_scale 4": "4 videos, 0:02"}
    lines = draw_planned_videos(planned, 80, styles.__getitem__, texts, max_height=4)
    assert [line.plain for line in lines] == [
        "cfg scale  1   2",
        "1          ■■  ■■  4 videos, 0:01",
        "4          ■■  ■■  4 videos, 0:02",
    ]
    colours = [Style.parse(str(span.style)).color for span in lines[1].spans if lines[1].plain[span.start] == SQUARE]
    assert [colour and colour.name for colour in colours] == ["red", "blue"] * 2
    assert draw_planned_videos(planned, 80, styles.__getitem__, texts, max_height=2) == []


def test_grid_of_a_sweep_names_the_cells_of_several_settings() -> None:
    assert draw("a circle", seeds="1..2", sweeps="cfg_scale=1,4;steps=4,5") == [
        "                      1  2",
        "cfg scale 1, steps 4  ■  ■",
        "cfg scale 1, steps 5  ■  ■",
        "cfg scale 4, steps 4  ■  ■",
        "cfg scale 4, steps 5  ■  ■",
    ]


@pytest.mark.parametrize(
    ("template", "width"),
    [("a [red|blue] circle", 20), ("a [" + "|".join(f"c{n}" for n in range(MAX_ROWS + 1)) + "] circle", 80)],
)
def test_grid_that_does_not_fit_is_hidden(template: str, width: int) -> None:
    assert draw(template, width, seeds="1..9") == []
