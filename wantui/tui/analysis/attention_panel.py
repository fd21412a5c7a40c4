"""Drawing of the attention view: a frame with the attention over it, and figures, scrubbers and scale beside it."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from wantui.formatting import format_share, shorten_middle
from wantui.tui.analysis.attention_film import MEAN_STEP, AttentionFilm, OverlayKey
from wantui.tui.chart import join_columns
from wantui.tui.pictures import measure_height
from wantui.tui.plots import draw_centred_picture, draw_colour_scale, draw_sparkline
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.analysis.attention_axes import AttentionAxis

MIN_FIGURES_WIDTH, MAX_FIGURES_WIDTH = 28, 44
"""Width of the figures beside the picture, in cells."""
PICTURE_GAP = 2
"""Cells right of a picture."""
NOTE_INDENT = " " * 9
MASS_NOTE = "is on this word (its mass)"
SCALE_NOTE = "of a position's attention"
EVENNESS_NOTE = "0: one position, 1: all alike"
"""Explanations of a map's figures."""
FRAME_CAPTION, OVERLAY_CAPTION, SHORT_OVERLAY_CAPTION = "frame", "attention over the frame", "attention"
"""Captions of two pictures side by side; the short one is for narrow pictures."""
MIN_WHOLE_SHARE = 0.1
"""Share of the attention from which whole percents are exact enough."""
MIN_PAIR_WIDTH, MIN_PAIR_HEIGHT = 20, 8
"""Smallest width of each of two pictures side by side, and smallest height of the pane with both, in cells."""


def draw_attention(
    film: AttentionFilm,
    key: OverlayKey,
    picture: "NDArray[np.uint8] | None",
    width: int,
    height: int,
    get_style: Callable[[str], Style],
) -> list[Text]:
    """Return the lines of the attention view; without a picture only the figures."""
    figures_width, pictures_width = _divide_width(width)
    is_axis_unread = key.axis != "step" and key.axis not in film.maps_by_axis
    if film.frames and (picture is None or is_axis_unread):
        return [Text("drawing ...")]
    if picture is None:
        note = wrap_text("--low-bandwidth turns pictures off", width, Style(dim=True))
        return [*_draw_figures(film, key, min(width, MAX_FIGURES_WIDTH), get_style), Text(""), *note]
    figures = _draw_figures(film, key, figures_width, get_style, explains=True)
    if len(figures) > height:
        figures = _draw_figures(film, key, figures_width, get_style)
    if len(figures) > height:  # drop the blank lines before the scale or the words
        figures = [line for line in figures if line.plain]
    pictures = _draw_pictures(film.video_name, film.frames[key.frame_index], picture, pictures_width, height)
    return join_columns(pictures, figures, pictures_width + PICTURE_GAP)[:height]


def measure_attention_height(film: AttentionFilm, width: int, get_style: Callable[[str], Style]) -> int:
    """Return how many lines the attention view needs at a given width; more lines would stay empty."""
    figures_width, pictures_width = _divide_width(width)
    figure_count = len(_draw_figures(film, OverlayKey(0, MEAN_STEP, 0), figures_width, get_style, explains=True))
    if not film.frames:
        return figure_count
    pair_width = _choose_pair_width(pictures_width)
    caption_height = 1 if pair_width else 0
    return max(figure_count, measure_height(film.frames[0], pair_width or pictures_width) + caption_height)


def _divide_width(width: int) -> tuple[int, int]:
    """Return the width of the figures, and the width of the pictures beside them."""
    figures_width = max(MIN_FIGURES_WIDTH, min(MAX_FIGURES_WIDTH, width // 3))
    return figures_width, width - figures_width - PICTURE_GAP


def _choose_pair_width(width: int) -> int:
    """Return the width of each of two pictures side by side; 0 if the pane is too narrow for two."""
    pair_width = (width - PICTURE_GAP) // 2
    return pair_width if pair_width >= MIN_PAIR_WIDTH else 0


def _draw_pictures(
    video_name: str, frame: "NDArray[np.uint8]", overlay: "NDArray[np.uint8]", width: int, height: int
) -> list[Text]:
    """Return the frame and the attention over it: side by side with captions, unless the pane is too narrow."""
    pair_width = _choose_pair_width(width)
    if height < MIN_PAIR_HEIGHT or not pair_width:
        return draw_centred_picture(overlay, width, height)
    columns = []
    overlay_caption = OVERLAY_CAPTION if len(OVERLAY_CAPTION) <= pair_width else SHORT_OVERLAY_CAPTION
    frame_caption = shorten_middle(f"{video_name}: {FRAME_CAPTION}", lambda text: cell_len(text) <= pair_width)
    for picture, caption in ((frame, frame_caption), (overlay, overlay_caption)):
        lines = draw_centred_picture(picture, pair_width, height - 1)
        columns.append([*lines, Text(caption.center(pair_width), Style(dim=True))])
    return join_columns(columns[0], columns[1], pair_width + PICTURE_GAP)


def _draw_figures(
    film: AttentionFilm, key: OverlayKey, width: int, get_style: Callable[[str], Style], *, explains: bool = False
) -> list[Text]:
    """Return the figures beside the picture.

    Args:
        explains: whether a line below each figure says what it means.
    """
    chosen_word, accent, dim = film.words[key.word_index], get_style("accent"), Style(dim=True)
    plain, key_style = get_style("foreground"), accent + Style(bold=True)
    masses, entropies = _list_figures(film, key)
    is_mean = key.step_index == MEAN_STEP
    mass = chosen_word.mean_mass if is_mean else masses[key.step_index]
    entropy = chosen_word.mean_entropy if is_mean else entropies[key.step_index] if entropies else None
    count, frame_count = film.count_pictures(key.axis), len(film.frames)
    if is_mean:
        index_text = f"mean of {count} {key.axis}s"
    elif key.axis == "step":
        index_text = f"step {film.steps[key.step_index]}  σ {film.sigmas[key.step_index]:.3f}"
    else:
        index_text = f"{key.axis} {key.step_index} (0 to {count - 1})"
    first, last = (film.steps[0], film.steps[-1]) if key.axis == "step" else (0, count - 1)
    axis_key = "A axis" if len(film.list_axes()) > 1 else ""
    axis_text = f"attention by {key.axis} ({first} to {last})"
    bars_text = f": {100 * min(masses):.2g} to {100 * max(masses):.2g} %"
    if len(axis_text + bars_text) + bool(axis_key) + len(axis_key) <= width:
        axis_text += bars_text
    lines = [
        _join_at_both_ends(
            Text(chosen_word.text, accent + Style(bold=True)), f"word {key.word_index + 1} of {len(film.words)}", width
        ),
        Text(f"tokens {' '.join(chosen_word.token_texts)}", dim),
        *_describe_map(mass, entropy, width, plain, get_style("text-muted") if explains else None),
        Text(""),
        _join_at_both_ends(Text(index_text, plain), "← →", width, key_style),
        *_draw_steps(masses, key.step_index, width, accent),
        _join_at_both_ends(Text(axis_text, dim), axis_key, width, key_style),
        Text(""),
    ]
    if frame_count:
        lines += [
            _join_at_both_ends(Text(f"frame {key.frame_index + 1} of {frame_count}", plain), ", .", width, key_style),
            _draw_slider(round(key.frame_index / max(1, frame_count - 1) * (width - 1)), width, accent),
            Text(""),
            *_draw_scale(film, key.axis, width),
            Text(""),
        ]
    if len(film.words) > 1:
        lines.append(_join_at_both_ends(Text("words", dim), "w", width, key_style))
        for index, word in enumerate(film.words):
            is_chosen = index == key.word_index
            line = _join_at_both_ends(
                Text(f"{'●' if is_chosen else '○'} {word.text}"), format_share(word.mean_mass, 2), width, Style()
            )
            if is_chosen:
                line.stylize(accent)
            lines.append(line)
    return lines


def _list_figures(film: AttentionFilm, key: OverlayKey) -> tuple[Sequence[float], Sequence[float] | None]:
    """Return the mass of the chosen word for each step, block or head, and the entropy, which only steps have."""
    word, axis_maps = film.words[key.word_index], film.maps_by_axis.get(key.axis)
    if axis_maps is not None:
        return axis_maps.mass_by_word[key.word_index], None
    return word.mass_by_step, word.entropy_by_step


def _describe_map(mass: float, entropy: float | None, width: int, style: Style, note_style: Style | None) -> list[Text]:
    """Return a line for each figure of a map, followed by its explanation in one or more lines.

    Args:
        width: cells of a line; the explanations are wrapped.
        note_style: style of the explanations; None without them.
    """
    if math.isnan(mass):
        return [Text("no block computed", style), Text("attention here", style)]
    entropy_text = "        mean of all steps" if entropy is None else f"{entropy:7.3f} evenness (0 to 1)"
    figures = [Text(f"{format_share(mass, 2):>8} of the attention", style), Text(entropy_text, style)]
    if note_style is None:
        return figures
    notes = [MASS_NOTE, "" if entropy is None else EVENNESS_NOTE]
    lines = []
    for figure, note in zip(figures, notes, strict=True):
        note_lines = wrap_text(note, width - len(NOTE_INDENT), note_style, indent="") if note else []
        lines += [figure, *(Text(NOTE_INDENT).append_text(line) for line in note_lines)]
    return lines


def _draw_steps(mass_by_step: Sequence[float], chosen_index: int, width: int, style: Style) -> list[Text]:
    """Return the slider of the steps, and a bar for the attention of each step below; the chosen bar stands out.

    The knob is above the centre of the chosen bar; the mean of all steps has a knob at each end.
    """
    count, muted = len(mass_by_step), Style(dim=True)
    steps = [column * count // width for column in range(width)]
    bars = draw_sparkline([mass_by_step[step] for step in steps], width)
    if chosen_index == MEAN_STEP:
        return [Text(f"●{'─' * (width - 2)}●", style), Text(bars, style)]
    line = Text(bars, muted)
    if chosen_index in steps:
        first = steps.index(chosen_index)
        line.stylize(style + Style(dim=False), first, first + steps.count(chosen_index))
    return [_draw_slider(int((chosen_index + 0.5) * width / count), width, style), line]


def _join_at_both_ends(left: Text, right: str, width: int, right_style: Style | None = None) -> Text:
    """Return a line with texts at both ends."""
    left = left.copy()
    left.truncate(max(1, width - len(right) - 1), overflow="ellipsis")
    gap = max(1, width - left.cell_len - len(right))
    return left.append(" " * gap).append(right, Style(dim=True) if right_style is None else right_style)


def _draw_slider(column: int, width: int, style: Style) -> Text:
    """Return a slider with its knob at a column."""
    return Text.assemble(("─" * column, style), ("●", style), ("─" * (width - 1 - column), Style(dim=True)))


def _draw_scale(film: AttentionFilm, axis: "AttentionAxis", width: int) -> list[Text]:
    """Return the colour scale with its two ends, and what it shows: the attention of one position to the word."""
    maximum = film.get_scale_maximum(axis)
    return [
        draw_colour_scale(film.scale_colours, width),
        _join_at_both_ends(
            Text("0", Style(dim=True)),
            f"{format_share(maximum, 0 if maximum >= MIN_WHOLE_SHARE else 2)} or more",
            width,
        ),
        Text(SCALE_NOTE, Style(dim=True)),
    ]
