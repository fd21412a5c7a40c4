"""How a video forms: the screen that the Library opens, its steps, and what it says without latents."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from clip_batches import write_clip_batch
from conftest import MakeOnce, generate_batch
from harness_tui import AppUnderTest, application, run
from PIL import Image

from wantui.analysis.fitted_steps import FittedStep
from wantui.notebook import MissingDataError, open_batch
from wantui.tui.screens.forming import FRAME_GAP, FormingScreen, _spread_frames
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.widgets.picture_view import fit_picture_size

pytestmark = [pytest.mark.torch, pytest.mark.terminal]


async def open_forming(it: AppUnderTest) -> FormingScreen:
    await it.press("4")
    library = it.screen(LibraryScreen)
    await it.until(lambda: library.shown_manifest)
    await it.press("enter", "s")
    screen: FormingScreen = await it.until(lambda: isinstance(it.app.screen, FormingScreen) and it.app.screen)
    return screen


@pytest.fixture
def stored(make_once: MakeOnce, small: list[str]) -> Path:
    """A batch of one video of four steps with stored latents, in the folder of the Library."""
    options = ["-t", "a circle", "-n", 1, *small, "--store-latents", "--set", "model_settings.steps=4"]
    made = make_once(
        "forming", lambda folder: generate_batch(folder, *options, "--set", "model_settings.dtype=float32")
    )
    folder = Path("outputs/batch").absolute()
    shutil.copytree(made / "batch", folder)
    return folder


def test_steps_are_drawn_and_chosen_by_keys(stored: Path) -> None:
    expected = {
        state: open_batch(stored).videos[0].draw_steps(["0", "1", "2", "3", "end"], state)
        for state in ("clean", "noisy")
    }

    async def test() -> None:
        async with application() as it:
            screen = await open_forming(it)
            await it.until(lambda: len(screen.steps) == 5)
            assert list(screen.steps) == [0, 1, 2, 3, 4]
            for step, drawn in zip(expected["clean"], screen.steps.values(), strict=True):
                assert np.array_equal(step.frames, drawn.frames)
            assert screen.shown_step is screen.steps[4]
            assert "the video" in screen.title_text.get_shown_text()
            await it.press("left", "left", "full_stop")
            assert screen.shown_step is screen.steps[2]
            assert "clean state that the model predicts at step 2, σ" in screen.title_text.get_shown_text()
            assert "frame 2 of 3" in it.cells("#frame-labels")
            assert "frame 3 of 3" in it.cells("#frame-labels")
            assert "of those of the clip (linear fit)" in screen.title_text.get_shown_text()
            await it.press("v")
            await it.until(lambda: len(screen.steps) == 5)
            assert np.array_equal(screen.steps[2].frames, expected["noisy"][2].frames)
            assert "noisy state at step 2" in screen.title_text.get_shown_text()
            await it.press("space")
            frame = screen.frame_index
            await it.until(lambda: screen.frame_index != frame)
            await it.press("escape")
            await it.until(lambda: isinstance(it.app.screen, LibraryScreen))

    run(test)


def test_picture_of_a_step_is_scaled_once(stored: Path) -> None:
    (step,) = open_batch(stored).videos[0].draw_steps(["end"], "clean")

    async def test() -> None:
        async with application(size=(43, 60)) as it:
            screen = await open_forming(it)
            await it.until(lambda: len(screen.steps) == 5)
            columns, rows = screen.picture_view.content_size
            assert columns % 2 == 1  # a square of whole cells is not as high as it is wide
            assert columns < 2 * rows
            size = fit_picture_size((4, 4), columns, rows)
            expected = np.asarray(Image.fromarray(step.frames[screen.frame_index]).resize(size))
            await it.until(lambda: screen.picture_view.shown_pixels is not None)
            pixels = screen.picture_view.shown_pixels
            assert pixels is not None
            assert np.array_equal(pixels, expected)

    run(test)


@pytest.mark.parametrize(
    ("first", "count", "frame_count", "expected"),
    [(0, 1, 5, [0]), (0, 2, 5, [0, 2]), (4, 2, 5, [1, 4]), (1, 3, 3, [0, 1, 2]), (0, 0, 4, [0])],
)
def test_frames_side_by_side_are_spread_over_the_video(
    first: int, count: int, frame_count: int, expected: list[int]
) -> None:
    assert _spread_frames(first, count, frame_count) == expected


def test_wide_screen_shows_frames_side_by_side_until_they_play(stored: Path) -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            screen = await open_forming(it)
            await it.until(lambda: len(screen.steps) == 5)
            step = screen.steps[4]
            columns, rows = screen.picture_view.content_size
            size = fit_picture_size((4, 4), columns, rows)
            count = min(3, (columns + FRAME_GAP) // (size[0] + FRAME_GAP))
            assert count == 2
            await it.until(lambda: screen.picture_view.picture is not None)
            pixels = screen.picture_view.picture
            assert pixels is not None
            assert pixels.shape[1] == count * size[0] + (count - 1) * FRAME_GAP
            for index, left in ((0, 0), (1, size[0] + FRAME_GAP)):
                expected = np.asarray(Image.fromarray(step.frames[index]).resize(size))
                assert np.array_equal(pixels[:, left : left + size[0]], expected)
            await it.press("space")
            await it.until(lambda: screen.picture_view.picture.shape[1] == size[0])  # type: ignore[union-attr]

    run(test)


def test_video_without_latents_says_how_to_store_them() -> None:
    write_clip_batch(Path("outputs/clips").absolute())

    async def test() -> None:
        async with application() as it:
            screen = await open_forming(it)
            await it.until(lambda: screen.error)
            assert "has no decodable steps: it has no trajectory" in screen.error
            assert "(--store-latents)" in screen.error
            assert screen.picture_view.picture is None

    run(test)


def test_notebook_draws_steps_and_names_what_is_missing(stored: Path) -> None:
    video = open_batch(stored).videos[0]
    steps = video.draw_steps(["0", "end"])
    assert [(step.moment.step, step.moment.sigma > 0.9) for step in steps] == [(0, True), (None, False)]
    assert isinstance(steps[0], FittedStep)
    assert steps[1].frames.shape == (3, 4, 4, 3)
    write_clip_batch(Path("clips"), unfinished=(0,))
    with pytest.raises(MissingDataError, match="has no trajectory: it is failed"):
        open_batch("clips").videos[0].draw_steps()
