"""`wantui sheet` and the grid that it shares with the gallery: labels, places and content of every cell."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from clip_batches import FRAME_COUNT, SIDE, choose_colour, draw_clip, write_clip_batch
from conftest import Wantui, replace_by_link
from PIL import Image

from wantui.errors import UserError
from wantui.gallery.batch_grid import read_batch_grid
from wantui.gallery.labelled_grid import EMPTY_CELL, MAX_PICTURE_SIDE, FrameCell, LabelledGrid, write_grid_picture
from wantui.gallery.sheet import arrange_sheet, write_sheet_clip, write_sheet_picture
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest, write_manifest
from wantui.storage.marks import edit_mark
from wantui.storage.mp4 import read_frames

BATCH = Path("batch")
TOLERANCE = 12
"""Maximum difference of a colour, 0 to 255, after two passes of H.264 with subsampled chroma."""


def read_cell(picture: np.ndarray, row: int, column: int, cell_width: int | None = None) -> np.ndarray:
    """Return the pixels of one cell of a sheet."""
    layout = arrange_sheet(read_batch_grid(BATCH), cell_width, MAX_PICTURE_SIDE)
    (left, top), (width, height) = layout.cell_origin(row, column), layout.cell_size
    return picture[top : top + height, left : left + width]


def test_grid_rows_are_named_by_what_differs() -> None:
    write_clip_batch(BATCH, "a [red|blue] thing [made of gold|] with one [fixed] word", seeds=3)
    grid = read_batch_grid(BATCH)
    assert [row.label for row in grid.rows] == [
        "red, made of gold",
        "red, (empty)",
        "blue, made of gold",
        "blue, (empty)",
    ]
    assert grid.column_labels == ("seed 42", "seed 43", "seed 44")
    assert grid.list_options() == {1: ["red", "blue"], 2: ["made of gold", ""]}


def test_grid_without_brackets_is_named_by_its_prompt() -> None:
    write_clip_batch(BATCH, "one red circle", seeds=1)
    assert [row.label for row in read_batch_grid(BATCH).rows] == ["one red circle"]


def test_grid_with_equal_labels_is_named_by_variation_ids() -> None:
    manifest = write_clip_batch(BATCH, seeds=1)
    for choices in (variation.choices for variation in manifest.variations):
        choices[1]["text"] = "star"
    write_manifest(BatchFolder(BATCH), manifest)
    ids = [variation.id for variation in manifest.variations]
    assert [row.label for row in read_batch_grid(BATCH).rows] == ids


def test_grid_of_selected_videos_keeps_their_places() -> None:
    manifest = write_clip_batch(BATCH, seeds=3)
    grid = read_batch_grid(BATCH, ["blue_circle", "red_square"], [44, 42])
    assert [row.id for row in grid.rows] == ["red_square", "blue_circle"]
    assert grid.column_labels == ("seed 42", "seed 44")
    expected = [video.id for video in manifest.videos if video.variation in (1, 2) and video.seed != 43]
    assert [cell.entry.id for cell in grid.cells()] == expected


@pytest.mark.parametrize(
    ("variation", "seed", "message"),
    [
        (
            "green",
            42,
            "--variation: batch has no 'green'. Choose from: red_circle, red_square, blue_circle, blue_square",
        ),
        ("red_circle", 7, "--seed: batch has no 7. Choose from: 42, 43"),
    ],
)
def test_grid_refuses_an_unknown_selection(variation: str, seed: int, message: str) -> None:
    write_clip_batch(BATCH)
    with pytest.raises(UserError, match=message):
        read_batch_grid(BATCH, [variation], [seed])


def test_picture_shows_the_middle_frame_of_each_clip_in_its_cell() -> None:
    manifest = write_clip_batch(BATCH)
    write_sheet_picture(read_batch_grid(BATCH), Path("sheet.png"))
    picture = np.asarray(Image.open("sheet.png"))
    for video in manifest.videos:
        cell = read_cell(picture, video.variation, video.number - 1)
        expected = draw_clip(choose_colour(video))[FRAME_COUNT // 2]
        for half in (slice(2, SIDE // 2 - 2), slice(SIDE // 2 + 2, SIDE - 2)):
            difference = cell[half].astype(float).mean((0, 1)) - expected[half].astype(float).mean((0, 1))
            assert np.abs(difference).max() < TOLERANCE


@pytest.mark.slow
def test_clip_shows_every_frame_of_all_clips_in_step() -> None:
    manifest = write_clip_batch(BATCH)
    write_sheet_clip(read_batch_grid(BATCH), Path("sheet.mp4"), 64)
    frames = list(read_frames(Path("sheet.mp4")))
    assert len(frames) == FRAME_COUNT
    for video in manifest.videos:
        for number, expected in enumerate(draw_clip(choose_colour(video))):
            upper_half = read_cell(frames[number], video.variation, video.number - 1, 64)[6:26, 6:58]
            difference = upper_half.astype(float).mean((0, 1)) - expected[4].astype(float).mean(0)
            assert np.abs(difference).max() < TOLERANCE


def test_unfinished_and_missing_videos_have_empty_cells() -> None:
    manifest = write_clip_batch(BATCH, unfinished=(3,))
    (BATCH / manifest.videos[0].files["clip"]).unlink()
    sheet = write_sheet_picture(read_batch_grid(BATCH), Path("sheet.png"))
    picture = np.asarray(Image.open("sheet.png"))
    for index in (0, 3):
        video = manifest.videos[index]
        assert tuple(read_cell(picture, video.variation, video.number - 1)[0, 0]) == EMPTY_CELL
    assert sheet.unreadable == ()


@pytest.mark.slow
def test_unreadable_clip_is_named_and_the_others_are_drawn(wantui: Wantui) -> None:
    manifest = write_clip_batch(BATCH)
    damaged = BATCH / manifest.videos[1].files["clip"]
    damaged.write_bytes(b"not a clip")
    result = wantui("sheet", BATCH)
    assert result.code == 1
    assert result.out.split() == ["batch/exports/sheet.png", "batch/exports/sheet.mp4"]
    assert result.err.count(f"{damaged} is not a readable clip") == 1
    assert len(list(read_frames(BATCH / "exports" / "sheet.mp4"))) == FRAME_COUNT


def test_wide_batch_gets_narrower_cells_that_fit() -> None:
    write_clip_batch(BATCH, seeds=1)
    grid = read_batch_grid(BATCH)
    layout = arrange_sheet(grid, None, 200)
    assert layout.cell_size[0] < SIDE or max(layout.size) <= 200
    assert max(layout.size) <= 200


def test_requested_cell_width_that_does_not_fit_is_refused(wantui: Wantui) -> None:
    write_clip_batch(BATCH)
    result = wantui("sheet", BATCH, "-o", "sheet.mp4", "--cell-width", 4096)
    assert result.code == 2
    assert "the limit is 4,096. Use a smaller --cell-width" in result.err
    assert not Path("sheet.mp4").exists()


def test_sheet_refuses_a_batch_without_clips(wantui: Wantui) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1, unfinished=(0,))
    for command in ("sheet", "gallery"):
        result = wantui(command, BATCH)
        assert result.code == 2
        assert "no selected video is finished" in result.err


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet"])
def test_sheet_refuses_an_unknown_file_type(wantui: Wantui, name: str) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    result = wantui("sheet", BATCH, "-o", name)
    assert result.code == 2
    assert "its name must end in .png or .mp4" in result.err


def test_sheet_does_not_follow_a_planted_link(wantui: Wantui) -> None:  # R10
    write_clip_batch(BATCH, "one circle", seeds=1)
    Path("elsewhere").mkdir()
    (BATCH / "exports").symlink_to(Path("elsewhere").absolute())
    result = wantui("sheet", BATCH)
    assert result.code == 2
    assert "exports: it is a symbolic link" in result.err
    assert not list(Path("elsewhere").iterdir())


def test_sheet_replaces_a_planted_link_at_its_own_name(wantui: Wantui) -> None:  # R10
    write_clip_batch(BATCH, "one circle", seeds=1)
    Path("precious").write_text("keep me")
    Path("sheet.png").write_text("")
    replace_by_link(Path("sheet.png"), Path("precious").absolute())
    assert wantui("sheet", BATCH, "-o", "sheet.png").code == 0
    assert Path("precious").read_text() == "keep me"
    assert not Path("sheet.png").is_symlink()


@pytest.mark.parametrize(
    "words",
    [
        ("sheet", BATCH, "-o", BATCH / "videos/prompt_000/video_001.mp4"),
        ("sheet", BATCH, "-o", "link.mp4"),
        ("analyze", BATCH, "--csv", BATCH / "batch.json"),
        ("analyze", BATCH, "--compare", "--html", BATCH / "configs/prompt_template.txt"),
        ("analyze", BATCH, "--compare", "--html", BATCH / "marks.json"),
    ],
)
def test_output_does_not_replace_a_file_of_a_batch(wantui: Wantui, words: tuple[str | Path, ...]) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    (BATCH / "marks.json").write_text("{}")
    Path("link.mp4").symlink_to(BATCH / "videos/prompt_000/video_001.mp4")
    before = {path: path.read_bytes() for path in BATCH.rglob("*") if path.is_file()}
    result = wantui(*words)
    assert result.code == 2
    assert "it is a file of the batch batch. Choose another name" in result.err
    assert {path: path.read_bytes() for path in BATCH.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", [("sheet",), ("gallery",), ("library", "show")])
def test_file_in_the_place_of_a_batch_is_named(wantui: Wantui, command: tuple[str, ...]) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    result = wantui(*command, BATCH / "batch.json")
    assert result.code == 2
    assert (
        "batch/batch.json is not a batch folder: it is a file. Give the folder that contains batch.json" in result.err
    )


def test_sheet_replaces_an_earlier_sheet_in_the_batch_folder(wantui: Wantui) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    for name in ("mine.png", "exports/sheet.png"):
        assert [wantui("sheet", BATCH, "-o", BATCH / name).code for _ in range(2)] == [0, 0]
    assert wantui("sheet", BATCH, "-o", BATCH / "export/sheet.png").code == 2


def test_sheet_does_not_replace_a_pipe(wantui: Wantui) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    os.mkfifo("pipe.png")
    result = wantui("sheet", BATCH, "-o", "pipe.png")
    assert result.code == 2
    assert "cannot write pipe.png: it is not a regular file. Choose another name" in result.err
    assert Path("pipe.png").is_fifo()


def test_linked_folders_are_written_to(wantui: Wantui) -> None:
    manifest = write_clip_batch(BATCH, "one circle", seeds=1)
    Path("link").symlink_to(BATCH)
    assert wantui("gallery", "link").code == 0
    result = wantui("sheet", "link", "-o", "link/mine.png")
    assert (result.code, result.err) == (0, "")
    edit_mark(BatchFolder(Path("link")), manifest.videos[0].id, star=True)
    assert (BATCH / "gallery.html").is_file()
    assert (BATCH / "mine.png").is_file()
    assert (BATCH / "marks.json").is_file()


def test_clips_of_different_rates_are_not_played_in_step() -> None:
    manifest = write_clip_batch(BATCH, "a [red|blue] circle", seeds=1)
    entry = manifest.videos[1]
    manifest.videos[1] = entry.model_copy(update={"recipe": entry.recipe.model_copy(update={"fps": 24})})
    write_manifest(BatchFolder(BATCH), manifest)
    with pytest.raises(UserError, match=r"different frames per second \(8, 24\)"):
        write_sheet_clip(read_batch_grid(BATCH), Path("sheet.mp4"))


def test_damaged_journal_is_reported(wantui: Wantui) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    BatchFolder(BATCH).journal_path.write_text(json.dumps({"journal": "other"}) + "\nnonsense\nmore nonsense\n")
    faults = read_manifest(BatchFolder(BATCH)).faults
    assert faults
    result = wantui("gallery", BATCH)
    assert result.code == 1
    assert all(fault in result.err for fault in faults)


@pytest.mark.parametrize("name", ["circle.translate_x", "nano-style.strength", "attention.head_temperature.strength"])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_labels_that_do_not_fit_look_different(name: str, axis: str) -> None:
    labels, cells = (f"{name} 0", f"{name} 0.25", f"{name} 0.5"), {(0, 0): FrameCell(None, 1)}
    row_labels, column_labels = (labels, ("seed 42",)) if axis == "rows" else (("a red square",), labels)
    path = Path("labels.png")
    write_grid_picture(LabelledGrid(row_labels, column_labels, cells, (128, 32), ""), path)
    picture = np.asarray(Image.open(path))
    if axis == "rows":
        top, height = picture.shape[0] - 3 * 36, 32
        drawn = [picture[top + 36 * row :][:height, : picture.shape[1] - 132] for row in range(3)]
    else:
        left = picture.shape[1] - 3 * 132
        drawn = [picture[:31, left + 132 * column :][:, :128] for column in range(3)]
    assert all(label.max() > 100 for label in drawn)
    assert len({label.tobytes() for label in drawn}) == 3
