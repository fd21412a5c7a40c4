"""Pictures in pixels, decoded from the bytes that a terminal gets; curves and block characters."""

import base64
import io
import re
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wantui.tui.block_characters import FOREGROUNDS, MIN_GAIN, choose_blocks, draw_blocks
from wantui.tui.plots import draw_bar, draw_curve, draw_picture, draw_sparkline, draw_styled_bar
from wantui.tui.terminal.graphics import (
    detect_graphics_protocol,
    encode_kitty_picture,
    encode_sixel_picture,
    fit_picture_to_cells,
)

Picture = NDArray[np.uint8]


def picture(height: int = 13, width: int = 20) -> Picture:
    """Four flat colours, whose values Sixel's percents hold exactly."""
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 51, 255], [255, 255, 102]], dtype=np.uint8)
    return colours[np.random.default_rng(0).integers(4, size=(height, width))]


def read_sixel(data: bytes) -> Picture:
    """As a terminal does: registers of colour, runs, carriage returns and bands."""
    text = data.decode()
    assert text.startswith('\x1bPq"1;1;')
    assert text.endswith("\x1b\\")
    width, height = map(int, re.match(r'\x1bPq"1;1;(\d+);(\d+)', text).groups())  # type: ignore[union-attr]
    shown = np.zeros((height + 6, width, 3), dtype=np.uint8)
    colours: dict[int, list[int]] = {}
    top = x = current = 0
    body = text[text.index(";", 8) :]
    body = re.sub(r"^[\d;]+", "", body)
    for define, r, g, b, pick, count, char in re.findall(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|(?:!(\d+))?([?-~$-])", body[:-2]
    ):
        if define:
            colours[int(define)] = [round(int(v) * 255 / 100) for v in (r, g, b)]
        elif pick:
            current = int(pick)
        elif char == "$":
            x = 0
        elif char == "-":
            x, top = 0, top + 6
        else:
            run = slice(x, x + int(count or 1))
            for row in range(6):
                if (ord(char) - 63) >> row & 1:
                    shown[top + row, run] = colours[current]
            x = run.stop
    return shown[:height]


def test_sixel_round_trips() -> None:
    assert (read_sixel(encode_sixel_picture(picture())) == picture()).all()


def test_kitty_commands_contain_the_picture_and_its_position() -> None:
    large = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    commands = re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", encode_kitty_picture(large, 30, 12))
    assert len(commands) > 1
    assert b"c=30,r=12" in commands[0][0]
    assert [b"m=1" in keys for keys, _ in commands] == [True] * (len(commands) - 1) + [False]
    assert all(len(part) <= 4096 for _, part in commands)
    data = base64.standard_b64decode(b"".join(part for _, part in commands))
    assert (np.asarray(Image.open(io.BytesIO(data))) == large).all()


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "kitty"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "foot", "TMUX": "/tmp/tmux"}, None),
    ],
)
def test_graphics_protocol_is_detected_from_the_environment(environ: dict[str, str], protocol: str | None) -> None:
    assert detect_graphics_protocol(environ) == protocol


def test_fitted_picture_keeps_its_proportions() -> None:
    columns, rows = fit_picture_to_cells((832, 480), 80, 23)
    assert columns == 80
    assert 80 * 8 / (rows * 16) == pytest.approx(832 / 480, rel=0.03)
    assert fit_picture_to_cells((128, 128), 80, 23) == (46, 23)


def test_curve_with_fixed_bounds_is_drawn_at_its_values() -> None:
    assert draw_curve([0.0] * 8, 4, 2, 0, 1) == ["    ", "⣀⣀⣀⣀"]
    assert draw_curve([1.0] * 8, 4, 2, 0, 1) == ["⠉⠉⠉⠉", "    "]
    assert draw_curve([0.0, None, float("nan"), float("inf")], 2, 1, 0, 1) == ["⡀ "]
    assert draw_curve([5.0, -5.0], 1, 1, 0, 1) == ["⢹"], "what is beyond the bounds is drawn at them"


@pytest.mark.parametrize("values", [[], [None], [float("nan")], [float("inf"), None]])
def test_non_finite_values_do_not_break_a_curve(values: list[float | None]) -> None:
    assert draw_sparkline(values, 5) == "     "
    assert draw_curve(values, 3, 1, 0, 1) == ["   "]


def test_sparkline_spans_minimum_to_maximum() -> None:
    assert draw_sparkline([0.0, 1.0, 2.0], 3) == "▁▅█"
    assert draw_sparkline([3.0, 3.0], 4) == "▁▁  "


def test_wide_sparkline_shows_every_value_once() -> None:
    assert draw_sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 12) == "▁▂▃▄▅▆▇█    "


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0, "────"),
        (0.125, "╸───"),
        (0.5, "━━──"),
        (0.6, "━━╸─"),
        (0.99, "━━━╸"),
        (1, "━━━━"),
        (2, "━━━━"),
        (-1, "────"),
        (float("nan"), "────"),
    ],
)
def test_bar_is_full_at_one(share: float, drawn: str) -> None:
    assert draw_bar(share, 4) == drawn


def test_styled_bar_dims_only_its_empty_part() -> None:
    bar = draw_styled_bar(0.6, 4, "red")
    assert bar.plain == draw_bar(0.6, 4)
    assert [(bar.plain[span.start : span.end], span.style) for span in bar.spans] == [("━━╸", "red"), ("─", "dim")]
    assert draw_styled_bar(0.5, 0, "red").plain == ""


@pytest.mark.parametrize(("width", "height", "drawn_size"), [(6, 2, (3, 2)), (3, 9, (3, 2)), (40, 5, (8, 5))])
def test_picture_is_as_large_as_fits_and_not_stretched(width: int, height: int, drawn_size: tuple[int, int]) -> None:
    shown = draw_picture(picture(36, 30), width, height)
    assert [len(line.plain) for line in shown] == [drawn_size[0]] * drawn_size[1]


def test_blocks_have_the_two_colours_with_the_smallest_error() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 24, 3)).astype(np.uint8)
    chosen, fronts, backs = choose_blocks(pixels)
    for row, column in product(range(10), range(12)):
        quadrants = pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(4, 3).astype(float)

        def sum_errors(is_front: Sequence[bool], quadrants: NDArray[np.float64] = quadrants) -> float:
            parts = (quadrants[np.array(is_front) == side] for side in (True, False))
            return sum(float(((part - part.mean(0)) ** 2).sum()) for part in parts if len(part))

        smallest = min(sum_errors(is_front) for is_front in product((True, False), repeat=4))
        is_front = FOREGROUNDS[chosen[row, column]]
        assert sum_errors(is_front) <= smallest + MIN_GAIN * (chosen[row, column] == 0) + 1e-6
        for side, colour in ((True, fronts[row, column]), (False, backs[row, column])):
            assert np.abs(quadrants[np.array(is_front) == side].mean(0) - colour).max() <= 0.5


def test_blocks_of_a_smooth_picture_are_half_blocks() -> None:
    pixels = np.full((4, 6, 3), 200, np.uint8)
    pixels[2:] = 40
    pixels[::2, ::2] += 5
    assert [[block for block, _ in line] for line in draw_blocks(pixels)] == [["▀"] * 3] * 2
