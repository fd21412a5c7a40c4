"""The Library screen: pictures of the matrix, marks, the list of batches and its search."""

import errno
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from clip_batches import FRAME_COUNT, choose_colour, write_clip_batch
from conftest import Wantui
from harness_tui import AppUnderTest, application, run
from PIL import Image
from textual.events import MouseScrollDown
from textual.widgets import Input

from wantui.config import convert_settings_to_dict, load_config
from wantui.json_files import InaccessibleFileError, read_json_object
from wantui.planning import Recipe
from wantui.storage import mp4
from wantui.storage.batch_index import BatchSummary
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.marks import NO_MARK, BatchMarks, VideoMark, edit_mark, read_marks
from wantui.storage.mp4 import ClipError, read_middle_frame
from wantui.tui.library import data as library_data
from wantui.tui.library import search as library_search
from wantui.tui.library.batch_facts import collect_batch_facts, list_config_differences
from wantui.tui.library.data import LibraryRow, arrange_rows, explain_empty_batch_list, find_row
from wantui.tui.library.search import MIN_CACHED_BYTES, FoundVideo, VariationCache, find_videos, score_text
from wantui.tui.library.thumbnails import ThumbnailReader, ThumbnailRequest
from wantui.tui.library.video_matrix import MatrixCell, VideoMatrix, arrange_matrix
from wantui.tui.pictures import read_sheet_frames, stretch_picture
from wantui.tui.screens import library as library_module
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.dialogs import InputDialog
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.library_layout import (
    FRAME_HEIGHT,
    LOW_VIDEO_HEIGHT,
    MIN_MATRIX_HEIGHT,
    VIDEO_HEIGHT_WITHOUT_SHEET,
)
from wantui.tui.widgets import matrix as matrix_module
from wantui.tui.widgets.batch_list import shorten_model, shorten_name
from wantui.tui.widgets.matrix import HEADER_HEIGHT, Matrix
from wantui.tui.widgets.matrix_geometry import MatrixPane

pytestmark = pytest.mark.terminal


def library(test: Any, wait: bool = True, **options: Any) -> None:
    """Run a test on the Library screen, once it shows a batch."""

    async def go() -> None:
        async with application(**options) as it:
            await it.press("4")
            screen = it.screen(LibraryScreen)
            if wait:
                await it.until(lambda: screen.shown_manifest)
            await test(it, screen)

    run(go)


def list_signs(it: AppUnderTest) -> list[str]:
    """Return the lines of the matrix."""
    matrix = it.screen(LibraryScreen).matrix
    region = matrix.content_region
    return [line[region.x : region.right] for line in it.text().splitlines()[region.y : region.bottom]]


def read_cell_pixels(screen: LibraryScreen, place: tuple[int, int]) -> Any:
    return screen.matrix._pictures._pictures.get(place)


# Pictures


def test_sheet_frame_is_the_wanted_one_scaled(tmp_path: Path) -> None:
    sheet = np.zeros((20, 150, 3), np.uint8)
    for index in range(5):
        sheet[:, 30 * index : 30 * (index + 1)] = 50 * index
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    for index, sheet_frame in enumerate(read_sheet_frames(tmp_path / "sheet.png", 17)):
        frame = stretch_picture(sheet_frame, (6, 4))
        assert frame.shape == (4, 6, 3)
        assert (frame == 50 * index).all()


def test_damaged_or_missing_sheet_has_no_frames(tmp_path: Path) -> None:
    (tmp_path / "sheet.jpg").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "fifo.jpg")
    for name in ("sheet.jpg", "missing.jpg", "fifo.jpg"):
        assert read_sheet_frames(tmp_path / name, 17) == []


class ReadThumbnails:
    """Thumbnails that a reader published."""

    def __init__(self) -> None:
        self.pictures: list[tuple[tuple[int, int], Any]] = []
        self._condition = threading.Condition()

    def add(self, request: ThumbnailRequest, picture: Any) -> None:
        with self._condition:
            self.pictures.append((request.place, picture))
            self._condition.notify()

    def wait(self, count: int) -> None:
        with self._condition:
            assert self._condition.wait_for(lambda: len(self.pictures) >= count, 120)


def test_thumbnails_are_read_in_order_from_sheets_or_clips(tmp_path: Path) -> None:
    manifest = write_clip_batch(tmp_path / "batch", seeds=1)
    clips = [tmp_path / "batch" / video.files["clip"] for video in manifest.videos]
    Image.new("RGB", (50, 10), (200, 0, 0)).save(tmp_path / "sheet.png")
    (tmp_path / "damaged.jpg").write_bytes(b"x")
    (tmp_path / "damaged.mp4").write_bytes(b"x")
    thumbnails = ReadThumbnails()
    reader = ThumbnailReader(thumbnails.add)
    reader.request(
        [
            ThumbnailRequest((3, 0), tmp_path / "sheet.png", clips[0], FRAME_COUNT, (4, 4)),
            ThumbnailRequest((0, 0), None, clips[0], FRAME_COUNT, (4, 4)),
            ThumbnailRequest((1, 0), tmp_path / "damaged.jpg", clips[1], FRAME_COUNT, (4, 4)),
            ThumbnailRequest((2, 0), tmp_path / "missing.jpg", tmp_path / "damaged.mp4", FRAME_COUNT, (4, 4)),
        ]
    )
    thumbnails.wait(4)
    reader.stop()
    assert [place for place, _ in thumbnails.pictures] == [(3, 0), (0, 0), (1, 0), (2, 0)]
    pictures = [picture for _, picture in thumbnails.pictures]
    assert (pictures[0] == (200, 0, 0)).all()
    for picture, clip in zip(pictures[1:3], clips[:2], strict=True):
        middle = read_middle_frame(clip, FRAME_COUNT)
        assert np.abs(picture[3].astype(int) - middle[-1, 0]).max() <= 3
    assert pictures[3] is None


@pytest.mark.parametrize(("size", "is_beside"), [((140, 40), True), ((80, 24), False)])
def test_facts_of_the_video_are_below_those_of_its_batch_in_a_large_terminal(
    size: tuple[int, int], is_beside: bool
) -> None:
    write_clip_batch(Path("outputs/kiss").absolute())

    async def test() -> None:
        async with application(size=size) as it:
            await it.press("4", "enter")
            screen = it.screen(LibraryScreen)
            await it.until(lambda: "video_001.mp4" in it.cells("#video-facts" if is_beside else "#about"))
            assert screen.query_one("#video-facts").display == is_beside
            assert ("video_001.mp4" in it.cells("#about")) != is_beside

    run(test)


@pytest.fixture
def missing_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Move the first clip of a batch away; return where it is, and where it should be. Reading is tried again soon."""
    monkeypatch.setattr(matrix_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(matrix_module, "MAX_RETRY_SECONDS", 0.02)
    manifest = write_clip_batch(Path("outputs/kiss").absolute())
    clip = Path("outputs/kiss") / manifest.videos[0].files["clip"]
    return clip.rename(tmp_path / "away.mp4"), clip


async def open_library_with_missing_picture(it: AppUnderTest) -> Matrix:
    await it.press("4")
    matrix = it.screen(LibraryScreen).matrix
    await it.until(lambda: matrix._pictures.is_unreadable((0, 0)))
    return matrix


def test_missing_picture_appears_with_its_file(missing_clip: tuple[Path, Path]) -> None:
    moved, clip = missing_clip

    async def test() -> None:
        async with application() as it:
            matrix = await open_library_with_missing_picture(it)
            moved.rename(clip)
            await it.until(lambda: matrix._pictures.draw((0, 0), None))

    run(test)


@pytest.mark.usefixtures("missing_clip")
def test_missing_picture_is_not_read_while_another_screen_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with application() as it:
            matrix = await open_library_with_missing_picture(it)
            await it.press("2")
            request_pictures = Mock()
            monkeypatch.setattr(matrix, "_request_pictures", request_pictures)
            timer = matrix._retry_timer
            await it.until(lambda: matrix._retry_timer is not timer)
            request_pictures.assert_not_called()
            await it.press("4")
            await it.until(lambda: request_pictures.called)

    run(test)


def test_thumbnail_is_read_again_only_after_its_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    thumbnails = ReadThumbnails()
    reader = ThumbnailReader(thumbnails.add)
    request = ThumbnailRequest((0, 0), path, None, 5, (4, 4))
    Image.new("RGB", (50, 10), "red").save(path)
    for count in (1, 2):
        reader.request([request])
        thumbnails.wait(count)
    Image.new("RGB", (50, 12), "blue").save(path)
    reader.request([request])
    thumbnails.wait(3)
    reader.stop()
    first, second, third = (picture for _, picture in thumbnails.pictures)
    assert second is first
    assert (third == (0, 0, 255)).all()


def test_thumbnail_that_could_not_be_read_for_a_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    path = tmp_path / "sheet.png"
    thumbnails = ReadThumbnails()
    reader = ThumbnailReader(thumbnails.add)
    request = ThumbnailRequest((0, 0), path, None, 5, (4, 4))
    Image.new("RGB", (50, 10), "red").save(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        reader.request([request])
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse)
        reader.request([request])
        thumbnails.wait(1)
    reader.request([request])
    thumbnails.wait(2)
    reader.stop()
    (_, refused), (_, picture) = thumbnails.pictures
    assert refused is None
    assert picture is not None


@pytest.mark.parametrize(
    ("error", "read_count"),
    [(ClipError("damaged"), 1), (OSError(errno.EMFILE, "Too many open files"), 2), (MemoryError(), 2)],
)
def test_clip_that_failed_is_decoded_again_only_if_it_may_be_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, read_count: int
) -> None:
    read_paths = []

    def refuse(path: Path, _: int) -> None:
        read_paths.append(path)
        raise error

    monkeypatch.setattr(mp4, "read_middle_frame", refuse)
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x")
    thumbnails = ReadThumbnails()
    reader = ThumbnailReader(thumbnails.add)
    for count in (1, 2):
        reader.request([ThumbnailRequest((0, 0), None, path, 5, (4, 4))])
        thumbnails.wait(count)
    reader.stop()
    assert [picture for _, picture in thumbnails.pictures] == [None, None]
    assert len(read_paths) == read_count


# The arrangement of the matrix


@pytest.fixture
def manifest() -> Manifest:
    return write_clip_batch(Path("outputs/shapes"), unfinished=(7,))


def mark_videos(manifest: Manifest, **marks: VideoMark) -> BatchMarks:
    return BatchMarks({manifest.videos[int(name.removeprefix("v"))].id: mark for name, mark in marks.items()})


def test_matrix_has_a_row_per_variation_and_a_column_per_seed(manifest: Manifest) -> None:
    grid = arrange_matrix(Path(), manifest, BatchMarks())
    assert grid.row_labels == ("red, circle", "red, square", "blue, circle", "blue, square")
    assert (grid.column_heading, grid.column_labels) == ("seed", ("42", "43"))
    assert {place: cell.video_index for place, cell in grid.cells.items()} == {
        (row, column): 2 * row + column for row in range(4) for column in range(2)
    }
    assert grid.find_cell(5) == (2, 1)


def test_row_keeps_the_colour_of_its_variation_if_others_are_hidden(manifest: Manifest) -> None:
    colours = arrange_matrix(Path(), manifest, BatchMarks()).row_colours
    assert colours == ("series-red", "series-orange", "series-blue", "series-teal")
    marks = mark_videos(manifest, v3=VideoMark(star=True), v7=VideoMark(star=True))
    assert arrange_matrix(Path(), manifest, marks, "starred").row_colours == (colours[1], colours[3])


def test_filtered_matrix_hides_rows_and_columns_without_videos(manifest: Manifest) -> None:
    marks = mark_videos(manifest, v3=VideoMark(star=True), v0=VideoMark(reject=True), v1=VideoMark(reject=True))
    starred = arrange_matrix(Path(), manifest, marks, "starred")
    assert (starred.row_labels, starred.column_labels) == (("red, square",), ("43",))
    assert starred.cells[0, 0].video_index == 3
    accepted = arrange_matrix(Path(), manifest, marks, "unrejected")
    assert accepted.row_labels == ("red, square", "blue, circle", "blue, square")
    assert accepted.find_cell(0) is None
    nothing = arrange_matrix(Path(), manifest, BatchMarks(), "starred")
    assert (nothing.row_labels, nothing.cells) == ((), {})


@pytest.mark.parametrize(
    ("cell_size", "pane", "grid", "aspect", "expected"),
    [
        ("small", (46, 11), (3, 8), 1.0, (6, 3)),
        ("small", (46, 11), (3, 8), 480 / 832, (6, 2)),
        ("signs", (46, 11), (3, 8), 1.0, (2, 0)),
        (None, (46, 11), (3, 8), 1.0, (8, 4)),
        (None, (40, 10), (6, 2), 1.0, (6, 3)),
        (None, (50, 10), (6, 2), 1.0, (6, 3)),
        (None, (56, 10), (6, 6), 1.0, (5, 2)),
        (None, (80, 19), (10, 100), 1.0, (10, 5)),
        ("large", (80, 21), (10, 100), 480 / 832, (14, 4)),
        (None, (80, 34), (2, 2), 1.0, (31, 16)),
        ("large", (10, 3), (10, 100), 1.0, (6, 3)),
    ],
)
def test_cells_fit_the_pane_and_keep_the_shape_of_the_videos(
    cell_size: str | None, pane: tuple[int, int], grid: tuple[int, int], aspect: float, expected: tuple[int, int]
) -> None:
    geometry = MatrixPane(*pane, 12, *grid, aspect).choose_geometry(cell_size)
    assert (geometry.picture_width, geometry.picture_height) == expected
    least_width = grid[0] * (geometry.picture_width + 2)
    if geometry.gap_width:
        assert least_width < grid[0] * geometry.column_width <= pane[0] - geometry.label_width
    elif geometry.picture_height:
        assert least_width + grid[0] > pane[0] - geometry.label_width


# The matrix on the screen


@pytest.mark.parametrize("size", [(80, 24), (80, 40), (140, 24), (140, 40)])
def test_matrix_is_as_high_as_its_rows_and_the_video_gets_the_rest(size: tuple[int, int]) -> None:
    write_clip_batch(Path("outputs/shapes"), "a circle", 6)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        matrix, video, right = screen.matrix, screen.details, screen.query_one("#right")

        def is_fitted() -> bool:
            matrix_height = max(MIN_MATRIX_HEIGHT, HEADER_HEIGHT + matrix.geometry.row_height + FRAME_HEIGHT)
            heights = matrix.outer_size.height, video.outer_size.height
            return heights == (matrix_height, right.size.height - matrix_height)

        await it.until(is_fitted)
        assert matrix.geometry.picture_height
        for other_size in ((110, 33), size):
            await it.pilot.resize_terminal(*other_size)
            await it.until(is_fitted)
        await it.press("z")
        await it.until(is_fitted)

    library(test, size=size)


def test_panes_without_videos_fit_a_smaller_terminal() -> None:
    write_clip_batch(Path("outputs/shapes"), "a circle", 6)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        matrix, video, right = screen.matrix, screen.details, screen.query_one("#right")
        await it.until(lambda: matrix.row_count and video.styles.has_rule("height"))
        await it.press("f")
        await it.until(lambda: not matrix.row_count)
        await it.pilot.resize_terminal(80, 24)
        await it.until(lambda: right.size.height < 24)
        await it.until(lambda: matrix.outer_size.height + video.outer_size.height == right.size.height)
        assert video.outer_size.height >= FRAME_HEIGHT

    library(test, size=(140, 40))


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_matrix_of_many_rows_leaves_the_video_its_least_height(size: tuple[int, int]) -> None:
    write_clip_batch(Path("outputs/shapes"), "a [red|blue|green|pink] [circle|star|ring]", 2)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        least_height = LOW_VIDEO_HEIGHT if size == (80, 24) else VIDEO_HEIGHT_WITHOUT_SHEET
        await it.until(lambda: screen.details.outer_size.height == least_height)
        await it.press("enter", "end")
        row = screen.matrix.row_count - 1
        await it.until(lambda: screen.matrix.cursor == row and read_cell_pixels(screen, (row, 0)) is not None)
        await it.until(lambda: "ring" in "\n".join(list_signs(it)))

    library(test, size=size)


def test_matrix_shows_middle_frames_of_the_visible_videos(manifest: Manifest) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        places = [place for place, cell in screen.matrix.grid.cells.items() if cell.entry.state == "done"]
        await it.until(lambda: all(read_cell_pixels(screen, place) is not None for place in places))
        for place in places:
            colour = choose_colour(screen.matrix.grid.cells[place].entry)
            assert np.abs(read_cell_pixels(screen, place)[-1, 0].astype(int) - colour).max() <= 3
        lines = "\n".join(list_signs(it))
        assert "red," in lines
        assert "✗" in lines
        assert "▀▀▀▀▀▀" in lines

    library(test, size=(120, 60))


def test_key_changes_the_size_of_the_cells(manifest: Manifest) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        sizes = []
        for _ in range(3):
            await it.press("z")
            sizes.append((screen.matrix.cell_size, screen.matrix.geometry.picture_height))
        names = [name for name, _ in sizes]
        assert sorted(names, key=str) == ["large", "signs", "small"]
        heights = dict(sizes)
        assert heights["large"] > heights["small"] > heights["signs"] == 0
        while screen.matrix.cell_size != "signs":
            await it.press("z")
        await it.press("enter")
        assert any("[✓ ]" in line for line in list_signs(it))
        assert not any("▀" in line for line in list_signs(it))

    library(test)


def test_keys_show_other_axes_pages_and_orders_of_a_sweep(wantui: Wantui) -> None:
    folder = Path("outputs/swept")
    swept = write_clip_batch(folder, "a [red|blue] circle", more=("sweeps=cfg_scale=1,4,8; steps=3,5",))
    wantui("similarity", folder, "--baseline", "cfg_scale=1", "--metrics", "psnr")

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        def read_title() -> str:
            subtitle = screen.matrix._border_subtitle  # as markup, it has styles
            return f"{screen.matrix.border_title}: {subtitle.plain if subtitle else ''}"

        def find_current() -> tuple[float, int, int]:
            entry = screen.get_current_entry()
            assert entry is not None
            return entry.recipe.guidance_scale, entry.recipe.steps, entry.seed

        assert read_title() == "2 variations by 3 values of cfg scale: steps 3, seed 42 (page 1/4)   [ back  ] next"
        assert "cfg scale" in screen.matrix.render_line(0).text
        facts = {fact.label: fact.value for fact in collect_batch_facts(folder, swept, BatchMarks()).facts}
        assert facts["sampling"] == "unipc, 3 to 5 steps"
        screen.set_focus(screen.matrix)
        await it.press("right", "right_square_bracket")
        assert read_title() == "2 variations by 3 values of cfg scale: steps 3, seed 43 (page 2/4)   [ back  ] next"
        assert find_current() == (4.0, 3, 43)
        assert "seed 43, cfg scale 4, steps 3" in it.text()
        await it.until(lambda: read_cell_pixels(screen, (0, 1)) is not None)
        entry = screen.get_current_entry()
        assert entry is not None
        colour = read_cell_pixels(screen, (0, 1))[-1, 0].astype(int)
        assert np.abs(colour - choose_colour(entry)).max() <= 12
        await it.press("left_square_bracket", "a")
        assert read_title() == "2 variations by 2 values of steps: cfg scale 1, seed 42 (page 1/6)   [ back  ] next"
        await it.press("S")
        assert ", sorted by PSNR:" in read_title()
        await it.press("S")
        assert "PSNR" not in read_title()
        # A found video is shown on its page, of the chosen axes.
        index = next(i for i, v in enumerate(swept.videos) if v.recipe.guidance_scale == 8 and v.seed == 43)
        screen.load_batch(folder.resolve() if screen.shown_folder != folder else folder, index)
        await it.until(lambda: find_current() == (8.0, 3, 43))
        assert "cfg scale 8, seed 43 (page 6/6)   [ back  ] next" in read_title()

    library(test)


def test_slow_link_gets_signs_until_the_key_asks_for_pictures(manifest: Manifest) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: any("✓" in line for line in list_signs(it)))
        assert read_cell_pixels(screen, (0, 0)) is None
        await it.press("z")
        await it.until(lambda: read_cell_pixels(screen, (0, 0)) is not None)

    library(test, low_bandwidth=True)


def make_grid(rows: int, columns: int) -> VideoMatrix:
    recipe = Recipe.model_construct(frames=9, prompt="p")
    cells = {
        (row, column): MatrixCell(
            row * columns + column,
            VideoEntry.model_construct(id=f"{row}-{column}", state="queued", recipe=recipe, files={}, error=None),
            NO_MARK,
        )
        for row in range(rows)
        for column in range(columns)
    }
    labels = tuple(f"row {row}" for row in range(rows)), tuple(f"c{column}" for column in range(columns))
    return VideoMatrix(Path(), labels[0], "", labels[1], cells)


@pytest.mark.parametrize("cell_size", ["small", "large", "signs"])
def test_cursor_scrolls_a_huge_matrix_both_ways(cell_size: str) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        matrix = screen.matrix
        matrix.cell_size = cell_size
        matrix.show_grid(make_grid(300, 200), is_same_batch=False)
        screen.set_focus(matrix)
        await it.pilot.pause()
        assert "row 0" in list_signs(it)[1]
        await it.press("G")
        matrix.column = 199
        await it.pilot.pause()
        text = "\n".join(list_signs(it))
        assert "row 299" in text
        assert "c199"[: matrix.geometry.picture_width] in list_signs(it)[0]
        assert "row 0 " not in text
        size, place = matrix.scrollable_content_region.size, matrix.scroll_offset
        geometry = matrix.geometry
        right = geometry.label_width + 200 * geometry.column_width - place.x
        assert size.width - geometry.column_width < right <= size.width, "the last column is completely visible"
        await it.press("g", "h", "h", "l")
        assert (matrix.cursor, matrix.column) == (0, 198)
        assert "row 0" in list_signs(it)[1]

    library(test, wait=False)


@pytest.mark.parametrize("cell_size", ["small", "large", "signs"])
def test_first_click_on_a_cell_moves_the_cursor_and_second_chooses_it(cell_size: str) -> None:
    chosen: list[tuple[int, int]] = []

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        matrix = screen.matrix
        matrix.cell_size = cell_size
        matrix.show_grid(make_grid(40, 30), is_same_batch=False)
        await it.pilot.pause()
        matrix.action_choose = lambda: chosen.append((matrix.cursor, matrix.column))  # type: ignore[method-assign]
        geometry = matrix.geometry
        for row, column in ((1, 2), (1, 1), (0, 1)):
            x = geometry.label_width + column * geometry.column_width + 1
            y = 1 + row * geometry.row_height
            offset = (matrix.content_region.x + x, matrix.content_region.y + y)
            await it.pilot.click(offset=offset)
            await it.pilot.pause()
            assert (matrix.cursor, matrix.column) == (row, column)
            assert not chosen, "one click moves, and plays nothing"
        await it.pilot.click(offset=offset)
        await it.pilot.pause()
        assert chosen == [(0, 1)]
        await it.pilot.click(offset=(offset[0], matrix.content_region.y))
        assert chosen == [(0, 1)], "a click on the header does nothing"

    library(test, wait=False)


def test_low_pane_shows_whole_rows_and_counts_the_others() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        matrix = screen.matrix
        matrix.cell_size = "small"
        matrix.show_grid(make_grid(40, 3), is_same_batch=False)
        screen.set_focus(matrix)
        await it.pilot.pause()
        height = matrix.scrollable_content_region.height
        count, rest = divmod(height - HEADER_HEIGHT, matrix.geometry.row_height)
        assert rest, "the pane has lines below the last whole row"

        def list_lines() -> list[str]:
            return [matrix.render_line(y).text.strip() for y in range(height)]

        first_line = HEADER_HEIGHT + count * matrix.geometry.row_height
        assert list_lines()[first_line:] == [f"{40 - count} more rows ↓", *[""] * (rest - 1)]
        await it.press("G")
        await it.pilot.pause()
        assert "row 39" in "\n".join(list_lines())
        assert list_lines()[first_line:] == [""] * rest

    library(test, wait=False)


def test_wheel_scrolls_the_matrix_without_moving_the_cursor() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        matrix = screen.matrix
        matrix.show_grid(make_grid(40, 30), is_same_batch=False)
        await it.pilot.pause()
        for _ in range(8):
            matrix.post_message(MouseScrollDown(matrix, 5, 5, 0, 1, 0, False, False, False))
        await it.until(lambda: matrix.scroll_offset.y > 5)
        assert matrix.cursor == 0

    library(test, wait=False)


def test_moving_the_cursor_redraws_only_two_cells(manifest: Manifest) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: read_cell_pixels(screen, (3, 0)) is not None)
        screen.set_focus(screen.matrix)
        await it.pilot.pause()
        drawn = []
        draw_line = screen.matrix._draw_cell_line
        screen.matrix._draw_cell_line = lambda *place: drawn.append(place[:2]) or draw_line(*place)  # type: ignore[method-assign,func-returns-value]
        await it.press("right")
        rows = {row for row, _ in drawn}
        assert rows == {0}, "the other rows are unchanged"

    library(test)


# Marks


def test_videos_are_starred_rejected_and_noted(manifest: Manifest) -> None:
    folder = BatchFolder(Path("outputs/shapes"))

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("enter", "asterisk")
        await it.until(lambda: read_marks(folder).get_mark(manifest.videos[0].id).star)
        await it.until(lambda: "★ starred" in it.cells("#about"))
        assert any("★" in line for line in list_signs(it))
        await it.until(lambda: screen.star_counts)
        await it.press("x")
        await it.until(lambda: read_marks(folder).get_mark(manifest.videos[0].id) == VideoMark(reject=True))
        await it.until(lambda: "⊘ rejected" in it.cells("#about") and not screen.star_counts)
        await it.press("right", "N")
        await it.until(lambda: isinstance(it.app.screen, InputDialog))
        await it.paste("the [b]best[/b] one")
        await it.press("enter")
        await it.until(lambda: "the [b]best[/b] one" in it.cells("#about"))
        await it.until(lambda: read_marks(folder).get_mark(manifest.videos[1].id).note == "the [b]best[/b] one")
        await it.until(lambda: "✎ 1" in it.cells("#batch-facts") and "⊘ 1" in it.cells("#batch-facts"))

    library(test)


def test_quick_presses_of_the_star_key_end_as_pressed(manifest: Manifest) -> None:
    folder = BatchFolder(Path("outputs/shapes"))

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("enter", *["asterisk"] * 7)
        await it.until(lambda: not screen._is_writing_marks)
        cell = screen.get_current_cell()
        assert cell is not None
        assert cell.mark.star
        assert read_marks(folder).get_mark(cell.entry.id).star

    library(test)


def test_note_goes_to_the_video_on_which_its_dialog_was_opened(manifest: Manifest) -> None:
    write_clip_batch(Path("outputs/plain"), "one circle", seeds=1)
    folder, video_id = BatchFolder(Path("outputs/shapes")), manifest.videos[0].id

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: len(screen.visible_batches) == 2)
        screen.select_batch(folder.root, 0)
        await it.until(lambda: screen.shown_folder == folder.root.resolve())
        await it.press("N")
        await it.until(lambda: isinstance(it.app.screen, InputDialog))
        await it.paste("the best")
        edit_mark(folder, video_id, star=True)
        screen.select_batch(Path("outputs/plain"), 0)
        await it.until(lambda: screen.shown_folder == Path("outputs/plain").resolve())
        await it.press("enter")
        await it.until(lambda: read_marks(folder).get_mark(video_id) == VideoMark(star=True, note="the best"))
        await it.until(lambda: not screen._is_writing_marks)
        assert not Path("outputs/plain/marks.json").exists()
        assert "the best" not in it.cells("#about")

    library(test)


def test_note_that_cannot_be_written_stays_in_its_dialog(manifest: Manifest) -> None:
    marks_path = Path("outputs/shapes/marks.json")
    marks_path.write_text('{"format": 9}')

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("enter", "N")
        dialog = await it.until(lambda: isinstance(it.app.screen, InputDialog) and it.app.screen)
        await it.paste("the best")
        await it.press("enter")
        await it.until(lambda: "✗" in it.text() and "marks.json" in it.text())
        assert it.app.screen is dialog
        assert dialog.query_one(Input).value == "the best"
        marks_path.unlink()
        await it.press("enter")
        await it.until(lambda: it.app.screen is screen)
        assert read_marks(BatchFolder(Path("outputs/shapes"))).get_mark(manifest.videos[0].id).note == "the best"

    library(test)


def test_note_typed_while_no_batch_is_shown_is_kept(manifest: Manifest) -> None:
    folder, video_id = BatchFolder(Path("outputs/shapes")), manifest.videos[0].id

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("N")
        await it.until(lambda: isinstance(it.app.screen, InputDialog))
        await it.paste("the best")
        screen._clear_details()
        await it.press("enter")
        await it.until(lambda: read_marks(folder).get_mark(video_id).note == "the best")

    library(test)


def test_failed_edit_of_a_mark_does_not_stop_those_of_other_batches(manifest: Manifest) -> None:
    plain = write_clip_batch(Path("outputs/plain"), "one circle", seeds=1)
    later = write_clip_batch(Path("outputs/later"), "one square", seeds=1)
    Path("outputs/later/marks.json").write_text('{"format": 9}')
    folders = {name: Path("outputs").resolve() / name for name in ("shapes", "plain", "later")}

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: len(screen.visible_batches) == 3)
        screen.write_marks(
            [
                (folders["later"], later.videos[0].id, {"star": True}),
                (folders["shapes"], manifest.videos[0].id, {"star": True}),
                (folders["later"], later.videos[0].id, {"reject": True}),
                (folders["plain"], plain.videos[0].id, {"star": True}),
            ]
        )
        await it.until(lambda: "cannot mark videos" in it.notifications())
        await it.until(lambda: screen.star_counts == {folders["shapes"]: 1, folders["plain"]: 1})
        assert read_marks(BatchFolder(folders["shapes"])).get_mark(manifest.videos[0].id).star
        assert read_marks(BatchFolder(folders["plain"])).get_mark(plain.videos[0].id).star

    library(test)


def test_failed_mark_is_reported_and_undone(manifest: Manifest) -> None:
    Path("outputs/shapes/marks.json").write_text('{"format": 9}')

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: "later version" in " ".join(it.cells("#batch-facts").split()))
        await it.press("enter", "asterisk")
        await it.until(lambda: "cannot mark videos" in it.notifications())
        cell = screen.get_current_cell()
        assert cell is not None
        await it.until(lambda: screen.get_current_cell() == replace(cell, mark=NO_MARK))
        assert Path("outputs/shapes/marks.json").read_text() == '{"format": 9}'

    library(test)


def test_marks_of_another_program_appear_with_the_next_scan(manifest: Manifest) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        edit_mark(BatchFolder(Path("outputs/shapes")), manifest.videos[0].id, star=True)
        await it.press("r")
        await it.until(lambda: "★ starred" in it.cells("#about"))

    library(test)


def test_filter_shows_starred_and_unrejected_videos(manifest: Manifest) -> None:
    write_clip_batch(Path("outputs/plain"), "one circle", seeds=1)
    folder = BatchFolder(Path("outputs/shapes"))
    edit_mark(folder, manifest.videos[3].id, star=True)
    edit_mark(folder, manifest.videos[0].id, reject=True)
    edit_mark(folder, manifest.videos[1].id, reject=True)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: len(screen.visible_batches) == 2)
        await it.press("f", "f", "f")
        assert screen.state_filter == "starred"
        await it.until(lambda: [batch.folder.name for batch in screen.visible_batches] == ["shapes"])
        await it.until(lambda: screen.matrix.grid.row_labels == ("red, square",))
        await it.until(lambda: "red, square, seed 43" in it.cells("#about"))
        await it.press("f")
        await it.until(lambda: len(screen.visible_batches) == 2)
        await it.until(lambda: len(screen.matrix.grid.cells) == 6)
        await it.press("f")
        await it.until(lambda: len(screen.matrix.grid.cells) == 8)

    library(test)


# The list of batches


def summarise(name: str, template: str = "", **counts: int) -> BatchSummary:
    return BatchSummary(Path(name), "2026-11-29T00:01:41+00:00", template, "nano", tuple(counts.items()))


def test_names_and_models_do_not_repeat_other_columns() -> None:
    assert shorten_name("nano_20261129_000141") == "nano"
    assert shorten_name("_20261129_000141") == "_20261129_000141"
    assert shorten_name("nano_2026") == "nano_2026"
    assert shorten_model("Wan-AI/Wan2.1-T2V-1.3B-Diffusers") == "Wan2.1-T2V-1.3B"
    assert shorten_model("/models/mine/") == "mine"


def test_batch_columns_are_aligned(manifest: Manifest) -> None:
    write_clip_batch(Path("outputs/a_much_longer_name"), "one circle", seeds=1)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: len(screen.visible_batches) == 2)
        header, first, second = it.text().splitlines()[2:5]
        names = sorted(["a_much_longer_name", "shapes"], key=lambda name: name not in first)
        assert first.index(names[0]) == second.index(names[1]) == header.index("batch")
        assert first.index("nano") == second.index("nano") == header.index("model")
        assert "7/8" in first + second
        assert "a_much_longer_name " in first + second, "no name is cut beside free room"

    library(test, size=(200, 40))


def test_narrow_list_keeps_the_date_beside_short_names(manifest: Manifest) -> None:
    edit_mark(BatchFolder(Path("outputs/shapes")), manifest.videos[0].id, star=True)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: "★1" in it.text())
        header, row = (line[:32] for line in it.text().splitlines()[2:4])
        assert "shapes" in row
        assert "7/8" in row
        heading = "today" if re.search(r"★1 +\d\d:\d\d", row) else "date"
        assert f"★  {heading}" in header
        assert heading == "today" or re.search(r"★1 +(\d+ [A-Z][a-z]{2}|[A-Z][a-z]{2} \d\d)", row), "around midnight"
        await it.press("slash")
        await it.pilot.pause()
        assert screen.batch_list.region.width == screen.search_input.region.width, "the search narrows nothing"

    library(test, size=(80, 24))


def test_narrow_list_drops_the_date_where_names_then_fit(manifest: Manifest) -> None:
    write_clip_batch(Path("outputs/cancelled_sweep"), "one circle", seeds=1)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: len(screen.visible_batches) == 2)
        lines = [line[:32] for line in it.text().splitlines()]
        assert any("cancelled_sweep " in line for line in lines)
        assert "date" not in lines[2]

    library(test, size=(80, 24))


def test_details_of_a_batch_name_differences_from_the_defaults(manifest: Manifest, tmp_path: Path) -> None:
    facts = collect_batch_facts(tmp_path, manifest, mark_videos(manifest, v0=VideoMark(star=True, note="good")))
    by_label = {fact.label: fact.value for fact in facts.facts}
    assert by_label["videos"] == "4 variations by seeds 42 to 43"
    assert "options" not in by_label  # the template names them
    assert by_label["failed"] == "1 x out of memory"
    assert (facts.star_count, facts.reject_count, facts.notes) == (1, 0, (("red_circle 42", "good"),))
    changed = read_manifest(BatchFolder(Path("outputs/shapes")))
    changed.config["model_settings"]["dtype"] = "float32"
    changed.config["latent_analysis_settings"]["store_latents"] = True
    changed.config["lora_settings"]["adapters"] = [{"path": "a.safetensors", "strength": 0.5, "file": None}]
    values = {fact.label: fact.value for fact in collect_batch_facts(tmp_path, changed, BatchMarks()).facts}
    assert "dtype float32" in str(values["settings"])
    assert "store latents on" in str(values["settings"])
    assert "adapters [{path: a.safetensors, strength: 0.5}]" in str(values["settings"])
    assert "width" not in str(values["settings"])


def test_details_of_a_batch_name_its_seeds_once(tmp_path: Path) -> None:
    swept = write_clip_batch(tmp_path / "swept", "one circle", more=("seeds=7,42", "sweeps=cfg_scale=2,4"))
    by_label = {fact.label: str(fact.value) for fact in collect_batch_facts(tmp_path, swept, BatchMarks()).facts}
    assert by_label["videos"] == "1 variation by seeds 7,42 by cfg scale 2, 4"
    assert "cfg scale" not in by_label["sampling"]
    assert "seeds" not in by_label.get("settings", "")


# Search


@pytest.mark.parametrize(
    ("words", "text", "matches"),
    [
        ("circle red", "a red circle", True),
        ("crcl", "a red circle", True),
        ("crl", "a chair", False),
        ("RED", "a red circle", True),
        ("nothing like it", "a [red|blue] circle on black", False),
        ("", "anything", False),
        ("a*b", "a*b", True),
        ("(", "a (b)", True),
    ],
)
def test_words_match_as_parts_or_with_small_gaps(words: str, text: str, matches: bool) -> None:
    assert bool(score_text(words, text)) == matches


def test_better_matches_score_more() -> None:
    scores = [score_text("cir", text) for text in ("a circle", "a semicircle", "a cairn", "none")]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_search_of_long_repetitive_text_ends() -> None:
    assert not score_text("a" * 60 + "b", "a" * 100_000)


def test_search_finds_prompts_seeds_and_notes(manifest: Manifest) -> None:
    folder = Path("outputs/shapes")
    edit_mark(BatchFolder(folder), manifest.videos[5].id, note="lovely")
    batches = [summarise(str(folder), done=8)]
    assert [video.video_index for video in find_videos("blue square", batches)] == [6]
    assert [video.video_index for video in find_videos("blue 43", batches)] == [5, 7]
    assert [video.video_index for video in find_videos("lovely", batches)] == [5]
    assert not list(find_videos("green", batches))


def write_searched_batches(count: int) -> list[BatchSummary]:
    """Write batches of one video whose manifests contain only what a search reads."""
    document = {
        "videos": [{"variation": 0, "seed": 42, "id": "a"}],
        "variations": [{"prompt": "a red cube", "id": "b"}],
    }
    for number in range(count):
        Path(f"searched/{number}").mkdir(parents=True)
        Path(f"searched/{number}/batch.json").write_text(json.dumps(document))
    return [summarise(f"searched/{number}", done=1) for number in range(count)]


def count_manifest_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list to which each search adds the manifests that it reads."""
    paths: list[Path] = []

    def read(path: Path, *arguments: Any) -> Any:
        paths.append(path)
        return read_json_object(path, *arguments)

    monkeypatch.setattr(library_search, "read_json_object", read)
    return paths


def test_second_search_of_many_batches_reads_only_changed_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_search, "_variation_cache", VariationCache())
    batches, read_paths = write_searched_batches(300), count_manifest_reads(monkeypatch)
    assert len(list(find_videos("red", batches))) == len(read_paths) == 300
    changed_path = Path("searched/7/batch.json")
    changed_path.write_text(changed_path.read_text().replace("red", "yellow"))
    read_paths.clear()
    assert len(list(find_videos("red", batches))) == 299
    assert read_paths == [changed_path]


def test_cache_of_searched_batches_keeps_the_last_used_within_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    write_searched_batches(4)
    folders, read_paths = [Path(f"searched/{number}") for number in range(4)], count_manifest_reads(monkeypatch)
    cache = VariationCache(3 * MIN_CACHED_BYTES)
    for number in (0, 1, 2, 0, 3):  # the last one drops 1
        assert cache.read_variations(folders[number])[0].text == "a red cube"
    read_paths.clear()
    for number in (0, 2, 3, 1):
        cache.read_variations(folders[number])
    assert read_paths == [folders[1] / "batch.json"]


def test_manifest_that_could_not_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_search, "_variation_cache", VariationCache())
    batches = write_searched_batches(1)

    def fail(path: Path, *_: Any) -> Any:
        raise InaccessibleFileError(f"cannot read {path}: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(library_search, "read_json_object", fail)
        assert not list(find_videos("red", batches))
    assert len(list(find_videos("red", batches))) == 1


def test_stars_that_could_not_be_read_are_counted_later(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BatchFolder(Path("starred"))
    folder.root.mkdir()
    edit_mark(folder, manifest.videos[0].id, star=True)
    batches = [summarise("starred", done=1)]
    with monkeypatch.context() as patch:
        patch.setattr(library_data, "read_marks", lambda folder: BatchMarks(is_inaccessible=True))
        assert not library_data.count_stars(batches)
    assert list(library_data.count_stars(batches).values()) == [1]


def test_cancelled_search_reads_no_further_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_search, "_variation_cache", VariationCache())
    batches, read_paths = write_searched_batches(5), count_manifest_reads(monkeypatch)
    assert not list(find_videos("green", batches, lambda: len(read_paths) == 2))
    assert len(read_paths) == 2


def test_search_starts_once_the_user_stops_typing(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    searched_words: list[str] = []
    monkeypatch.setattr(LibraryScreen, "search_videos", lambda screen, words, batches: searched_words.append(words))
    monkeypatch.setattr(library_module, "SEARCH_DELAY_SECONDS", 1e6)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        timers: list[Any] = []
        await it.press("slash")
        for key in "red":
            await it.press(key)
            timers.append(screen._search_timer)
        assert [timer._task is None for timer in timers] == [True, True, False]  # only the last one runs
        assert not searched_words
        screen._start_search()
        assert searched_words == ["red"]

    library(test)


def test_search_of_damaged_batches_finds_nothing(tmp_path: Path) -> None:
    for number, content in enumerate(["{", "[]", '{"videos": 3}', '{"videos": [], "variations": [1]}']):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "batch.json").write_text(content)
        assert not list(find_videos("red", [summarise(str(folder), done=1)]))
    assert not list(find_videos("red", [summarise(str(tmp_path / "missing"), done=1)]))


def test_found_videos_follow_their_batch_and_the_best_batch_is_first() -> None:
    one, two, three = (summarise(name, template) for name, template in (("one", "x"), ("two", "circle"), ("3", "y")))
    video = FoundVideo(one.folder, 4, "a circle", 9.0)
    rows = arrange_rows([one, two, three], {}, "circle", "all", [video])
    assert [(row.batch, row.found_video) for row in rows] == [(one, None), (one, video), (two, None)]
    assert [row.batch for row in arrange_rows([one, two, three], {}, " ", "all", [])] == [one, two, three]


def test_found_video_is_selected_in_its_batch(manifest: Manifest) -> None:
    write_clip_batch(Path("outputs/plain"), "one circle", seeds=1)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.until(lambda: len(screen.visible_batches) == 2)
        await it.press("slash")
        await it.paste("blue sqr")
        await it.until(lambda: [bool(row.found_video) for row in screen.batch_list.rows] == [False, True])
        assert "╰ a blue square on black" in it.text()
        await it.press("enter", "down")
        await it.until(lambda: "blue, square, seed 42" in it.cells("#about"))
        assert (screen.matrix.cursor, screen.matrix.column) == (3, 0)
        await it.press("escape")
        await it.until(lambda: len(screen.visible_batches) == 2)

    library(test)


def test_row_of_a_found_video_is_looked_up_before_that_of_its_batch() -> None:
    one, two = summarise("one"), summarise("two")
    rows = [LibraryRow(one), *(LibraryRow(two, video) for video in (None, FoundVideo(two.folder, 4, "a circle", 9.0)))]
    assert find_row(rows, two.folder, 4) == 2
    assert find_row(rows, two.folder, 3) == find_row(rows, two.folder, None) == 1
    assert find_row(rows, Path("three"), 4) is None
    assert find_row(rows, None, None) is None


def test_cursor_stays_on_a_found_video_when_the_list_is_read_again(manifest: Manifest) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("slash")
        await it.paste("blue")
        await it.until(lambda: len(screen.batch_list.rows) > 2)
        await it.press("enter", "down", "down")
        row = screen.get_current_row()
        assert row is not None
        assert row.found_video is not None
        write_clip_batch(Path("outputs/other"), "a blue line", seeds=1)
        await it.press("r")
        await it.until(lambda: len(screen.batches) == 2)
        assert screen.get_current_row() == row

    library(test)


# Again


def test_video_is_composed_again_with_its_prompt_and_seed() -> None:
    manifest = write_clip_batch(Path("outputs/odd"), r"a [red|\[blue\]] (circle:1.5) at 16\:9", seeds=3)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("enter", "down", "right", "E")
        await it.until(lambda: isinstance(it.app.screen, ComposeScreen))
        compose = it.screen(ComposeScreen)
        assert compose.template_editor.text == r"a \[blue\] (circle:1.5) at 16\:9"
        await it.until(lambda: compose.config)
        assert compose.config is not None
        settings = compose.config.settings
        assert (settings.model_settings.seed, settings.videos_per_variation) == (43, 1)
        assert settings.video_settings.width == manifest.videos[0].recipe.width

    library(test)


def test_marked_videos_are_composed_again_with_the_missing_cells_of_their_grid() -> None:
    write_clip_batch(Path("outputs/odd"), "a [red|blue|green] circle", seeds=3)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("enter", "m", "down", "right", "right", "m", "right", "E")
        await it.until(lambda: isinstance(it.app.screen, ComposeScreen))
        compose = it.screen(ComposeScreen)
        assert compose.template_editor.text == "a [red|blue] circle"
        await it.until(lambda: compose.config)
        assert compose.config is not None
        assert compose.config.settings.seed_list == (42, 44)
        assert "The new batch has 4 videos, 2 more than the 2 selected videos" in it.notifications()

    library(test)


def test_settings_of_several_sections_are_named_with_their_section() -> None:
    overrides = [
        "cfg_schedule_settings.schedule={0: 7.5, 50%: 3}",
        "prompt_schedule_settings.schedule={50%: a star}",
        "model_settings.dtype=float32",
    ]
    settings = load_config("nano", overrides).settings
    assert list_config_differences(convert_settings_to_dict(settings)) == [
        "dtype float32",
        "prompt_schedule.schedule 50%: a star",
        "cfg_schedule.schedule 0: 7.5, 50%: 3",
    ]


def test_empty_batch_list_names_search_filter_and_the_probable_setting() -> None:
    text = explain_empty_batch_list(3, "cfg_scal=4", "starred")
    assert "matches both 'cfg_scal=4' (did you mean cfg_scale?) and the filter 'starred'" in text
    assert "escape to clear the search, or f to change the filter (3 batches in total)" in text
    assert "did you mean" not in explain_empty_batch_list(3, "cfg_scale=4 width:7 sampler=x", "all")
