"""Axes of a batch with a sweep, and its videos in rows, columns and pages: in the library, on sheets, in the search."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from clip_batches import choose_colour, write_clip_batch
from conftest import Wantui
from PIL import Image

from wantui.errors import UserError
from wantui.gallery.batch_grid import read_batch_grid
from wantui.gallery.labelled_grid import MAX_PICTURE_SIDE
from wantui.gallery.sheet import arrange_sheet
from wantui.storage.batch_index import find_batches
from wantui.storage.manifest import Manifest
from wantui.storage.manifest_axes import AxisLayout, BatchAxes
from wantui.storage.marks import BatchMarks, VideoMark
from wantui.tui.library.search import find_videos, split_conditions
from wantui.tui.library.video_matrix import MatrixView, arrange_matrix

pytestmark = pytest.mark.slow

BATCH = Path("outputs/swept")
SWEEP = "sweeps=cfg_scale=1,4,8; steps=3,5"


@pytest.fixture
def manifest() -> Manifest:
    return write_clip_batch(BATCH, "a [red|blue] circle", more=(SWEEP,))


def make_axes(manifest: Manifest) -> BatchAxes:
    return BatchAxes(manifest, range(len(manifest.videos)))


def test_axes_are_variations_settings_and_seeds_with_labels(manifest: Manifest) -> None:
    axes = make_axes(manifest).axes
    assert [(axis.name, list(axis.labels.values())) for axis in axes] == [
        ("variation", ["red", "blue"]),
        ("cfg_scale", ["1", "4", "8"]),
        ("steps", ["3", "5"]),
        ("seed", ["42", "43"]),
    ]
    assert axes[1].name_position(1) == "cfg_scale 4"


def test_every_video_has_one_place_on_one_page_of_every_layout(manifest: Manifest) -> None:
    axes = make_axes(manifest)
    layouts = axes.list_layouts()
    assert layouts[0] == AxisLayout(("variation",), ("cfg_scale",), ("steps", "seed"))
    assert len(layouts) == 12  # ordered pairs of four axes
    for layout in layouts:
        arranged = axes.arrange_videos(layout)
        indices = [
            index
            for page in range(len(arranged.pages))
            for index in axes.arrange_videos(layout, page).index_by_position.values()
        ]
        assert sorted(indices) == list(range(len(manifest.videos)))


def test_small_sweep_is_shown_as_a_whole_by_default() -> None:
    manifest = write_clip_batch(BATCH, "a [red|blue] circle", more=("sweeps=cfg_scale=1,4",))
    layouts = make_axes(manifest).list_layouts()
    assert layouts[0] == AxisLayout(("variation", "cfg_scale"), ("seed",))
    assert layouts[1] == AxisLayout(("variation",), ("cfg_scale",), ("seed",))
    arranged = make_axes(manifest).arrange_videos(layouts[0])
    assert len(arranged.index_by_position) == len(manifest.videos)
    grid = arrange_matrix(BATCH, manifest, BatchMarks())
    assert grid.row_labels == ("red · 1", "red · 4", "blue · 1", "blue · 4")
    assert grid.describe_axes(60) == f"variation · cfg scale by {len(grid.column_labels)} seeds"
    assert len(set(grid.row_colours)) == 2


def test_places_have_the_settings_that_their_labels_name(manifest: Manifest) -> None:
    axes = make_axes(manifest)
    arranged = axes.arrange_videos(AxisLayout(("variation", "seed"), ("cfg_scale",), ("steps",)), 1)
    assert [line.label for line in arranged.pages] == ["steps 3", "steps 5"]
    assert (arranged.column_heading, arranged.column_labels) == ("cfg_scale", ("1", "4", "8"))
    assert [line.label for line in arranged.rows] == ["red, seed 42", "red, seed 43", "blue, seed 42", "blue, seed 43"]
    for (row, column), index in arranged.index_by_position.items():
        recipe = manifest.videos[index].recipe
        assert recipe.steps == 5
        assert f"{recipe.guidance_scale:g}" == arranged.column_labels[column]
        assert arranged.rows[row].label == f"{recipe.prompt.split()[1]}, seed {recipe.seed}"


def test_baseline_that_is_not_on_the_axes_appears_in_every_row_or_column() -> None:
    manifest = write_clip_batch(
        BATCH, "a circle", more=("sweeps=cfg_scale=1,4; steps=3,7", "sweeps_baseline=true", "model_settings.steps=5")
    )
    axes = make_axes(manifest)
    (baseline,) = [
        index
        for index, video in enumerate(manifest.videos)
        if video.number == 1 and (cell := manifest.find_cell(video)) is not None and cell.baseline
    ]
    arranged = axes.arrange_videos(AxisLayout(("seed",), ("cfg_scale",), ("steps",)))
    assert arranged.column_labels == ("baseline", "1", "4")
    assert [line.label for line in arranged.pages] == ["steps 3", "steps 7"]
    for page in (0, 1):
        places = axes.arrange_videos(AxisLayout(("seed",), ("cfg_scale",), ("steps",)), page).index_by_position
        assert places[0, 0] == baseline
    rows = axes.arrange_videos(AxisLayout(("cfg_scale", "steps"), ("seed",)))
    assert [line.label for line in rows.rows] == [
        "baseline", *(f"cfg_scale {scale}, steps {steps}" for scale, steps in product((1, 4), (3, 7)))
    ]  # fmt: skip
    assert rows.index_by_position[0, 0] == baseline


def test_settings_that_change_together_are_one_axis() -> None:
    manifest = write_clip_batch(BATCH, "a circle", more=("sweeps=cfg_scale=1,4+steps=3,5",))
    axes = make_axes(manifest)
    arranged = axes.arrange_videos(AxisLayout(("seed",), ("cfg_scale+steps",), ("variation",)))
    assert arranged.column_labels == ("cfg_scale 1, steps 3", "cfg_scale 4, steps 5")
    assert axes.find_axis_names("--rows", "steps, model_settings.cfg_scale"[:5]) == ("cfg_scale+steps",)


def test_settings_of_list_items_have_the_names_that_sweeps_accept() -> None:
    bend = "attention_bending_settings.bends=[{words: circle, mode: translate, translate_x: 0.1}]"
    manifest = write_clip_batch(BATCH, "a circle", more=(bend, "sweeps=bend.circle.translate_x=-0.2,0.2"))
    axes = make_axes(manifest)
    path = "attention_bending_settings.bends.circle.translate_x"
    for name in ("bend.circle.translate_x", "circle.translate_x", path):
        assert axes.find_axis_names("--rows", name) == ("circle.translate_x",)
        assert axes.find_positions("--where", [f"{name}=0.2"]) == {"circle.translate_x": [1]}


def test_matrix_shows_other_axes_and_pages(manifest: Manifest) -> None:
    grid = arrange_matrix(BATCH, manifest, BatchMarks())
    assert grid.describe_axes(37) == "2 variations by 3 values of cfg scale"
    assert grid.describe_axes(36) == "2 x 3"
    assert grid.describe_page() == "steps 3, seed 42 (page 1/4)"
    assert grid.cells[1, 2].name == "blue, seed 42, cfg scale 8, steps 3"
    grid = arrange_matrix(BATCH, manifest, BatchMarks(), view=MatrixView(1, 9))
    assert grid.describe_axes(40) == "2 variations by 2 values of steps"
    assert grid.describe_page() == "cfg scale 8, seed 43 (page 6/6)"
    assert grid.view == MatrixView(1, 5)
    last = arrange_matrix(BATCH, manifest, BatchMarks(), view=MatrixView(12))
    assert last.view == MatrixView(0, 0)


def test_matrix_shows_the_page_of_a_video() -> None:
    manifest = write_clip_batch(
        BATCH, "a [red|blue] circle", more=(SWEEP, "sweeps_baseline=true", "model_settings.steps=4")
    )
    for layout_number, page_number in product(range(12), (0, 3, 9)):
        view = MatrixView(layout_number, page_number)
        own_page = arrange_matrix(BATCH, manifest, BatchMarks(), view=view)
        pages = [
            arrange_matrix(BATCH, manifest, BatchMarks(), view=MatrixView(layout_number, number))
            for number in range(len(own_page.page_labels))
        ]
        for index in range(len(manifest.videos)):
            expected = next(page for page in (own_page, *pages) if page.find_cell(index) is not None)
            assert arrange_matrix(BATCH, manifest, BatchMarks(), view=view, video_index=index) == expected
    marks = BatchMarks({manifest.videos[0].id: VideoMark(star=True)})
    hidden = arrange_matrix(BATCH, manifest, marks, "starred", video_index=1)
    assert hidden == arrange_matrix(BATCH, manifest, marks, "starred")


# Sheets


def test_sheet_has_each_clip_at_the_place_of_its_settings(manifest: Manifest, wantui: Wantui) -> None:
    options = ("--rows", "seed,variation", "--columns", "cfg_scale", "--where", "steps= 5.0")
    assert wantui("sheet", BATCH, "-o", "sheet.png", *options).code == 0
    grid = read_batch_grid(BATCH, settings=["steps=5"], written_rows="seed,variation", written_columns="cfg_scale")
    assert grid.column_labels == ("cfg_scale 1", "cfg_scale 4", "cfg_scale 8")
    assert [row.label for row in grid.rows] == ["seed 42, red", "seed 42, blue", "seed 43, red", "seed 43, blue"]
    picture, layout = np.asarray(Image.open("sheet.png")), arrange_sheet(grid, None, MAX_PICTURE_SIDE)
    for row, column in product(range(4), range(3)):
        cell = grid.rows[row].cells[column]
        assert cell is not None
        (left, top), (width, height) = layout.cell_origin(row, column), layout.cell_size
        colour = picture[top + height - 4, left + width // 2].astype(int)
        assert np.abs(colour - choose_colour(cell.entry)).max() <= 12
        assert (cell.entry.recipe.steps, cell.entry.recipe.seed) == (5, 42 + row // 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rows", "cfg"), "--rows: the batch has no axis 'cfg'. Choose from: variation, cfg_scale, steps, seed"),
        (("--rows", "seed,seed"), "--rows: seed occurs twice"),
        (("--rows", "steps", "--columns", "steps"), "steps cannot be on both sides"),
        (("--columns", "variation,cfg_scale,steps,seed"), "need at least one axis each"),
        (("--where", "cfg_scale"), "Write NAME=VALUE; swept settings: cfg_scale, steps"),
        (("--where", "cfg_scale=3"), "cfg_scale has no value '3'. Choose from: 1, 4, 8"),
        (("--where", "cfg_scale=4,3"), "cfg_scale has no value '3'. Choose from: 1, 4, 8"),
        (("--where", "cfg_scale=4", "--seed", "7"), "--seed: outputs/swept has no 7"),
    ],
)
@pytest.mark.usefixtures("manifest")
def test_impossible_axes_are_refused_by_name(wantui: Wantui, options: tuple[str, ...], message: str) -> None:
    for command in ("sheet", "gallery"):
        result = wantui(command, BATCH, *options)
        assert result.code == 2
        assert message in result.err


def test_batch_without_a_sweep_has_no_swept_setting() -> None:
    write_clip_batch(BATCH)
    with pytest.raises(UserError, match="The batch sweeps no setting"):
        read_batch_grid(BATCH, settings=["cfg_scale=4"])


# Search


def test_search_finds_videos_by_the_values_of_settings(manifest: Manifest) -> None:
    batches = find_batches([BATCH.parent])

    def find(words: str) -> list[tuple[float, int]]:
        videos = [manifest.videos[found.video_index] for found in find_videos(words, batches)]
        return sorted((video.recipe.guidance_scale, video.recipe.steps) for video in videos)

    assert find("cfg_scale:4 steps:5") == [(4.0, 5)] * 4
    assert find("model_settings.cfg_scale:8 steps:3 red") == [(8.0, 3)] * 2
    assert set(find("sampler:unipc seed 43")) == set(product((1.0, 4.0, 8.0), (3, 5)))
    assert find(f"{BATCH.name} unipc cfg_scale:4 steps:5") == find("cfg_scale:4 steps:5 nano") == [(4.0, 5)] * 4
    assert find(f"{BATCH.name} unipc"), "the name of the batch, and the sampler of its videos"
    assert find(BATCH.name) == [], "the batch itself is found by its name"
    assert find("cfg_scale:40") == find("cfg_scal:4") == []
    assert len({found.text[:20] for found in find_videos("cfg_scale:4 steps:5", batches)}) == 4
    assert split_conditions("red cfg_scale:4 10:30") == ("red 10:30", [("cfg_scale", "4")])
