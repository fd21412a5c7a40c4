"""Film strips, the map of a batch, cut prompts, names for people, and the breaks of long paths."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clip_batches import write_clip_batch
from PIL import Image
from rich.style import Style

from wantui.analysis.metrics import CURVES, METRICS
from wantui.metric_names import CURVE_NAMES
from wantui.storage.contact_sheet import list_sheet_frames
from wantui.storage.manifest import VariationEntry
from wantui.tui.film_strip import draw_film_strip, find_sheet_number, label_sheet_frames
from wantui.tui.pictures import read_sheet_frames
from wantui.tui.plain_names import replace_names
from wantui.tui.player.clips import list_batch_clips
from wantui.tui.series_colours import assign_variation_colours
from wantui.tui.video_grid import draw_played_batch
from wantui.tui.widgets.preview_strip import choose_visible_steps
from wantui.tui.wrapping import wrap_text


@pytest.mark.parametrize("frame_count", [1, 2, 4, 5, 6, 17, 81, 200])
def test_sheet_has_evenly_spaced_frames(frame_count: int) -> None:
    expected = np.linspace(0, frame_count - 1, min(5, frame_count)).round().astype(int).tolist()
    assert list_sheet_frames(frame_count) == expected


def test_strip_shows_each_frame_above_its_number_with_gaps(tmp_path: Path) -> None:
    greys = [20, 70, 120, 170, 220]
    sheet = np.repeat(np.repeat(np.array(greys, np.uint8)[None, :, None], 32, 0), 32, 1).repeat(3, 2)
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    frames = read_sheet_frames(tmp_path / "sheet.png", 17, (160, 160))
    assert [int(frame.mean()) for frame in frames] == greys
    *pictures, labels = draw_film_strip(frames, label_sheet_frames(17), 60, 5)
    assert labels.plain.split() == ["frame", "1", "5", "9", "13", "17"]
    assert len(pictures) == 4
    assert max(line.cell_len for line in pictures) <= 60
    drawn = "".join(" " if character == " " else "#" for character in pictures[0].plain)
    starts = [match.start() for match in re.finditer("#+", drawn)]
    assert [len(run) for run in drawn.split()] == [8] * 5
    for start, label in zip(starts, re.finditer(r"\d+", labels.plain), strict=True):
        assert start <= label.start() < start + 8


@pytest.mark.parametrize(("frame_index", "number"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (15, 3), (16, 4), (40, 4)])
def test_current_frame_of_the_strip_is_the_last_one_up_to_that_of_the_clip(frame_index: int, number: int) -> None:
    assert list_sheet_frames(17) == [0, 4, 8, 12, 16]
    assert find_sheet_number(17, frame_index) == number


def test_label_of_the_marked_frame_has_its_style_over_the_width_of_the_frame() -> None:
    frames, marked = [np.zeros((32, 32, 3), np.uint8)] * 5, Style(reverse=True)
    *_, labels = draw_film_strip(frames, label_sheet_frames(17), 60, 5, 1, marked)
    (span,) = [span for span in labels.spans if span.style == marked]
    assert labels.plain[span.start : span.end] == "5".center(8)


def test_missing_sheet_has_no_frames(tmp_path: Path) -> None:
    assert read_sheet_frames(tmp_path / "sheet.jpg", 17, (100, 100)) == []


def test_clips_of_a_batch_get_their_colours_from_one_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_clip_batch(tmp_path / "clips", "a [red|blue] circle")
    assigned = []

    def assign(variations: Sequence[VariationEntry]) -> dict[str, str]:
        assigned.append([variation.id for variation in variations])
        return assign_variation_colours(variations)

    monkeypatch.setattr("wantui.tui.player.clips.assign_variation_colours", assign)
    clips = list_batch_clips(tmp_path / "clips", manifest)
    assert [clip.colour_name for clip in clips] == ["series-red"] * 2 + ["series-blue"] * 2
    assert assigned == [["red", "blue"]]


def test_map_marks_the_played_clip_in_its_row_and_column(tmp_path: Path) -> None:
    manifest = write_clip_batch(tmp_path / "clips", "a [red|blue] circle", more=("seeds=7,42",))
    clips = list_batch_clips(tmp_path / "clips", manifest)
    played = next(clip for clip in clips if clip.variation_id == "blue" and clip.recipe.seed == 42)
    lines = [line.plain.rstrip() for line in draw_played_batch(clips, played, 40, lambda name: Style())]
    assert lines == ["seed  7   42", "red   ■   ■", "blue  ■   ▶"]
    assert draw_played_batch(clips, played, 10, lambda name: Style()) == []
    assert draw_played_batch([played], played, 40, lambda name: Style()) == []


def test_names_are_plain_outside_commands() -> None:
    text = "log_volume over cfg_scale for a guidance 5 sign; `wantui analyze --by cfg_scale`; my_word"
    assert replace_names(text) == (
        "log volume over cfg scale for a guidance 5 sign; `wantui analyze --by cfg_scale`; my_word"
    )


@pytest.mark.parametrize(
    "text",
    [
        "/data/output_dir/x",
        "cfg_scale/video.mp4",
        "set latent_analysis_settings.store_latents to yes",
        "sweep cfg_scale=1,4",
        "the search cfg_scale:4",
        "choose --by cfg_scale,1 or --where cfg_scale=4 (--primary log_volume)",
        'bracket 1 is "cfg_scale"',
        "video 'log_volume'",
        "A sign with guidance 5 against a lamp",
    ],
)
def test_paths_keys_options_quotes_and_prompts_keep_names(text: str) -> None:
    assert replace_names(text) == text


def test_names_before_punctuation_are_plain() -> None:
    text = "log_volume: 1, in cfg_scale. The sampler's log_volume (cfg_scale) is one's own"
    assert replace_names(text) == text.replace("_", " ")
    assert replace_names("8 steps, cfg_scale 4; cfg_scale 1") == "8 steps, cfg scale 4; cfg scale 1"


def test_names_of_all_metrics_and_curves_are_known() -> None:
    assert tuple(CURVES) == CURVE_NAMES
    for name in (*METRICS, *CURVES):
        assert replace_names(f"in {name}, also") == f"in {name.replace('_', ' ')}, also"


@pytest.mark.processes
def test_names_are_known_without_slow_imports() -> None:
    code = (
        "import sys, wantui.tui.screens.compose; from wantui.tui.plain_names import replace_names; "
        "assert replace_names('cfg_scale') == 'cfg scale'; "
        "print([name for name in ('numpy', 'wantui.planning', 'wantui.analysis.metrics') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [16, 20, 24, 30])
def test_long_paths_break_after_slashes_and_only_long_names_after_underscores(width: int) -> None:
    path = "/data/outputs/guidance_20261130_062344/videos/prompt_001/video_001.mp4"
    lines = [line.plain for line in wrap_text(path, width, indent="")]
    assert "".join(lines) == path
    assert all(line.endswith(("/", "_")) for line in lines[:-1])
    assert width < len("guidance_20261130_062344/") or all(line.endswith("/") for line in lines[:-1])
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("shown_index", "count", "expected"),
    [
        (4, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (4, 7, [0, 2, 3, 4, 5, 6, 8]),
        (0, 7, [0, 1, 2, 3, 4, 5, 8]),
        (8, 7, [0, 3, 4, 5, 6, 7, 8]),
        (4, 3, [3, 4, 5]),
    ],
)
def test_strip_shows_the_first_and_the_last_step_if_it_shows_several(
    shown_index: int, count: int, expected: list[int]
) -> None:
    assert choose_visible_steps(range(9), shown_index, count) == expected
