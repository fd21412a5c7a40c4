"""Drawing of the attention view: a frame with the attention over it, and figures, scrubbers and scale beside it."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.attention_film import MEAN_STEP, AttentionFilm, OverlayKey
from wantui.tui.chart import join_columns
from wantui.tui.plots import draw_centred_picture, draw_sparkline
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_FIGURES_WIDTH, MAX_FIGURES_WIDTH = 28, 44
"""Width of the figures beside the picture, in cells."""


def draw_attention(
    film: AttentionFilm,
    key: OverlayKey,
    picture: "NDArray[np.uint8] | None",
    width: int,
    height: int,
    get_style: Callable[[str], Style],
) -> list[Text]:
    """Return the lines of the attention view; without a picture only the figures."""
    figures_width = max(MIN_FIGURES_WIDTH, min(MAX_FIGURES_WIDTH, width // 3))
    if picture is None and film.frames:
        return [Text("drawing ...")]
    if picture is None:
        note = wrap_text("pictures are off with --low-bandwidth", width, Style(dim=True))
        return [*_draw_figures(film, key, min(width, MAX_FIGURES_WIDTH), get_style), Text(""), *note]
    figures = _draw_figures(film, key, figures_width, get_style)
    picture_width = width - figures_width - 2
    return join_columns(draw_centred_picture(picture, picture_width, height), figures, picture_width + 2)[:height]


def _draw_figures(film: AttentionFilm, key: OverlayKey, width: int, get_style: Callable[[str], Style]) -> list[Text]:
    chosen_word, accent, dim = film.words[key.word_index], get_style("accent"), Style(dim=True)
    plain = get_style("foreground")
    is_mean = key.step_index == MEAN_STEP
    mass, entropy = (
        (chosen_word.mean_mass, chosen_word.mean_entropy)
        if is_mean
        else (chosen_word.mass_by_step[key.step_index], chosen_word.entropy_by_step[key.step_index])
    )
    step_count, frame_count = len(film.sigmas), len(film.frames)
    step_text = (
        f"mean of {step_count} steps"
        if is_mean
        else f"step {film.evaluations[key.step_index] + 1}  σ {film.sigmas[key.step_index]:.3f}"
    )
    lines = [
        _spread(
            Text(chosen_word.text, accent + Style(bold=True)), f"word {key.word_index + 1} of {len(film.words)}", width
        ),
        Text(f"tokens {' '.join(chosen_word.token_texts)}", dim),
        *_describe_map(mass, entropy, plain),
        Text(""),
        _spread(Text(step_text, plain), "← →", width),
        _draw_scrubber(key.step_index - MEAN_STEP, step_count + 1, width, accent),
        Text(_draw_mass(chosen_word.mass_by_step, width), accent),
        Text("mass by step", dim),
        Text(""),
    ]
    if frame_count:
        lines += [
            _spread(Text(f"frame {key.frame_index + 1} of {frame_count}", plain), ", .", width),
            _draw_scrubber(key.frame_index, frame_count, width, accent),
            Text(""),
            *_draw_scale(film, width),
            Text(""),
        ]
    if len(film.words) > 1:
        lines.append(_spread(Text("words", dim), "w", width))
        for index, word in enumerate(film.words):
            is_chosen = index == key.word_index
            line = _spread(Text(f"{'●' if is_chosen else '○'} {word.text}"), f"{word.mean_mass:.2%}", width, Style())
            if is_chosen:
                line.stylize(accent)
            lines.append(line)
    return lines


def _describe_map(mass: float, entropy: float, style: Style) -> list[Text]:
    """Return two lines with the figures of a map."""
    if math.isnan(mass):
        return [Text("no block computed", style), Text("attention at this step", style)]
    return [Text(f"{mass:7.2%} of the attention", style), Text(f"{entropy:7.3f} entropy (1 is even)", style)]


def _draw_mass(mass_by_step: Sequence[float], width: int) -> str:
    """Return a sparkline with the steps below their positions on the scrubber, which begins with the mean."""
    values = [float("nan"), *mass_by_step]
    return draw_sparkline([values[column * len(values) // width] for column in range(width)], width)


def _spread(left: Text, right: str, width: int, right_style: Style | None = None) -> Text:
    """Return a line with texts at both ends."""
    left = left.copy()
    left.truncate(max(1, width - len(right) - 1), overflow="ellipsis")
    gap = max(1, width - left.cell_len - len(right))
    return left.append(" " * gap).append(right, Style(dim=True) if right_style is None else right_style)


def _draw_scrubber(index: int, count: int, width: int, style: Style) -> Text:
    column = round(index / max(1, count - 1) * (width - 1))
    return Text.assemble(("─" * column, style), ("●", style), ("─" * (width - 1 - column), Style(dim=True)))


def _draw_scale(film: AttentionFilm, width: int) -> list[Text]:
    """Return the colour scale with its ends: attention of one position to the word."""
    scale = Text()
    for cell in range(width):
        r, g, b = film.scale_colours[cell * len(film.scale_colours) // width]
        scale.append("█", Style(color=f"#{r:02x}{g:02x}{b:02x}"))
    return [scale, _spread(Text("0", Style(dim=True)), f"{film.scale_maximum:.2%} or more", width)]
