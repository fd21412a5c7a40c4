"""`wantui attention`: maps by step, block and head equal brute-force means, and share one colour scale."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import MakeOnce, Wantui, generate_batch
from PIL import Image
from rich.style import Style

from wantui.analysis.attention_axes import AttentionAxis, average_maps_along, compute_shared_maximum
from wantui.analysis.attention_overlay import draw_frame_overlay, map_heat_colours
from wantui.analysis.loading import read_batch_videos
from wantui.gallery import labelled_grid
from wantui.storage.attention_maps import AttentionMapsError, open_attention_maps
from wantui.storage.layout import BatchFolder
from wantui.storage.mp4 import read_frames
from wantui.tui.analysis.attention_film import OverlayKey, load_attention_film
from wantui.tui.analysis.attention_panel import draw_attention

pytestmark = pytest.mark.torch

EACH = [
    *("--set", "attention_analysis_settings.store_per_block=true"),
    *("--set", "attention_analysis_settings.store_per_head=true"),
]


@pytest.fixture
def generated_batch(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    """A copy of a batch of two videos with the maps of each block and head at three steps."""
    options = ["-t", "a [red|blue] (circle) over a (dark) floor", "-n", 1, *small, "--store-attention", *EACH]
    shutil.copytree(make_once("maps-of-each", lambda folder: generate_batch(folder, *options)) / "batch", "batch")
    return BatchFolder(Path("batch"))


def stored_map(generated_batch: BatchFolder, word: str, variation: int = 0) -> np.ndarray:
    group: Any = zarr.open_group(generated_batch.make_attention_path(variation, 1), mode="r")
    return np.asarray(group[word][:], dtype=np.float64)


@pytest.mark.parametrize(("axis", "kept"), [("step", 0), ("block", 1), ("head", 2)])
def test_maps_along_an_axis_are_means_over_the_other_axes(
    generated_batch: BatchFolder, axis: AttentionAxis, kept: int
) -> None:
    maps = open_attention_maps(generated_batch.make_attention_path(0, 1))
    stored = stored_map(generated_batch, "circle")
    expected = stored.mean(tuple({0, 1, 2} - {kept}))
    assert average_maps_along(maps, "circle", axis, range(3)) == pytest.approx(expected, rel=1e-6)
    if axis != "step":
        expected = stored[1:].mean(tuple({0, 1, 2} - {kept}))
        assert average_maps_along(maps, "circle", axis, [1, 2]) == pytest.approx(expected, rel=1e-6)


def test_skipped_blocks_do_not_count() -> None:
    class Maps:
        averaged_counts = ([1, 1], [1, 1])
        path = Path("maps")

        class group:  # noqa: N801
            attrs = {"blocks": "each"}  # noqa: RUF012

            @staticmethod
            def arrays() -> list[tuple[str, np.ndarray]]:
                return [("circle", np.zeros((2, 3, 1, 1, 2, 2)))]

        @staticmethod
        def read_map(name: str, step: int) -> np.ndarray:
            values = np.full((3, 1, 1, 2, 2), float(step + 1))
            values[2 - step] = np.nan
            values[0] = np.nan
            return values

    means = average_maps_along(Maps(), "circle", "block", [0, 1])  # type: ignore[arg-type]
    assert means[1].ravel().tolist() == [1.0] * 4
    assert means[2].ravel().tolist() == [2.0] * 4
    assert np.isnan(means[0]).all()
    assert compute_shared_maximum([means, 3 * means]) == pytest.approx(6)
    with pytest.raises(AttentionMapsError, match="no block computed attention"):
        compute_shared_maximum([means[:1]])


def test_heat_cells_have_the_colour_of_their_position_on_the_shared_scale(
    generated_batch: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[labelled_grid.GridLayout] = []
    arrange = labelled_grid.arrange_grid

    def record_layout(*arguments: Any) -> labelled_grid.GridLayout:
        layouts.append(arrange(*arguments))
        return layouts[-1]

    monkeypatch.setattr(labelled_grid, "arrange_grid", record_layout)
    result = wantui("attention", "batch", "--by", "block", "--heat", "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert [row["word"] for row in record["rows"]] == ["circle", "dark"] * 2
    rows = [(word, variation) for variation in (0, 1) for word in ("circle", "dark")]
    block_maps = [stored_map(generated_batch, word, variation).mean((0, 2)) for word, variation in rows]
    quantiles = [np.quantile(one_map.astype(np.float32), 0.995) for maps in block_maps for one_map in maps]
    assert record["scale_maximum"] == pytest.approx(max(quantiles), rel=1e-5)
    picture = np.asarray(Image.open("batch/exports/attention_by_block_heat.png"))
    for row, maps in enumerate(block_maps):
        assert record["rows"][row]["mass"] == pytest.approx(maps.mean((1, 2, 3)).tolist(), rel=1e-5)
        for column, one_map in enumerate(maps):
            left, top = layouts[0].cell_origin(row, column)
            shares = np.clip(one_map[1] / record["scale_maximum"], 0, 1).astype(np.float32)  # frame 4 is of latent 1
            colours = np.rint(map_heat_colours(shares)).repeat(16, 0).repeat(16, 1)
            assert np.abs(picture[top : top + 32, left : left + 32] - colours).max() <= 1
    assert len(list(read_frames(Path("batch/exports/attention_by_block_heat.mp4")))) == 9


def test_words_and_steps_are_selected(generated_batch: BatchFolder, wantui: Wantui) -> None:
    result = wantui(
        "attention", "batch", "--word", "dark", "--steps", "0,100%", "--variation", "blue", "-o", "a.png", "--json"
    )
    record = json.loads(result.out)
    assert (record["indices"], record["paths"]) == ([0, 2], ["a.png"])
    expected = stored_map(generated_batch, "dark", 1)[[0, 2]].mean((1, 2, 3, 4, 5))
    assert record["rows"][0]["mass"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert len(record["rows"]) == 1


def test_averaged_maps_refuse_blocks_with_the_setting_that_stores_them(wantui: Wantui, small: list[str]) -> None:
    folder = wantui("run", "-t", "a (circle)", "-n", 1, *small, "--store-attention").out.strip()
    result = wantui("attention", folder, "--by", "head")
    assert result.code == 2
    assert "Set attention_analysis_settings.store_per_head for future videos" in result.err
    assert wantui("attention", folder).code == 0


def test_damaged_maps_are_reported_and_skipped(generated_batch: BatchFolder, wantui: Wantui) -> None:
    chunk = generated_batch.make_attention_path(0, 1) / "circle" / "c" / "1" / "0" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    result = wantui("attention", "batch", "--word", "circle")
    assert result.code == 1
    assert "left out: " in result.err
    assert "is damaged: its CRC-32 does not match" in result.err
    assert len(result.out.split()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--word", "square"], "no map of 'square' is stored"),
        (["--steps", "3"], "has no attention map of step 3: the video has the steps 0 to 2"),
        (["--steps", "2..0"], "--steps: cannot read the moment '2..0'. Write the index of a step from 0"),
        (["--steps", "0,150%"], "--steps: cannot use the moment '150%'. Write the index of a step from 0"),
        (["-o", "a.gif"], "its name must end in .png or .mp4"),
        (["-o", "batch/batch.json"], "its name must end in"),
        (["--seed", "1"], "--seed: no video has 1. Choose from: 42"),
    ],
)
def test_wrong_options_are_refused(
    generated_batch: BatchFolder, wantui: Wantui, options: list[str], message: str
) -> None:
    result = wantui("attention", "batch", *options)
    assert result.code == 2
    assert message in result.err
    assert not Path("batch/exports").exists()


def test_batch_without_maps_says_how_to_store_them(wantui: Wantui, small: list[str]) -> None:
    folder = wantui("run", "-t", "a circle", "-n", 1, *small).out.strip()
    assert "run it with --store-attention" in wantui("attention", folder).err


def test_film_on_the_analysis_screen_draws_blocks_and_heads_on_one_scale(generated_batch: BatchFolder) -> None:
    video = next(iter(read_batch_videos(generated_batch.root)))
    film = load_attention_film(video, with_frames=True)
    assert film.list_axes() == ["step", "block", "head"]
    assert film.clamp_key(OverlayKey(0, 99, 0, "block")) == OverlayKey(0, 1, 0, "block")
    for axis, kept in (("block", 1), ("head", 2)):
        expected = [stored_map(generated_batch, word).mean(tuple({0, 1, 2} - {kept})) for word in ("circle", "dark")]
        axis_maps = film.read_axis(axis)  # type: ignore[arg-type]
        quantiles = [np.quantile(one_map, 0.995) for maps in expected for one_map in maps]
        assert film.get_scale_maximum(axis) == pytest.approx(max(quantiles), rel=1e-5)  # type: ignore[arg-type]
        assert axis_maps.mass_by_word[1] == pytest.approx(expected[1].mean((1, 2, 3)).tolist(), rel=1e-5)
        picture = film.draw_picture(OverlayKey(1, 1, 4, axis))  # type: ignore[arg-type]
        drawn = draw_frame_overlay(film.frames[4], expected[1][1][1], max(quantiles))
        assert np.abs(picture.astype(int) - drawn).max() <= 1
    lines = draw_attention(film, OverlayKey(1, 1, 4, "head"), picture, 100, 24, lambda _: Style())
    text = "\n".join(line.plain for line in lines)
    assert "head 1 (0 to 1)" in text
    assert "attention by head" in text
    assert "A axis" in text
