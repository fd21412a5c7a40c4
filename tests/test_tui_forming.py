"""How a video forms: the screen that the Library opens, its steps, and what it says without latents."""

import asyncio
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clip_batches import write_clip_batch
from conftest import MakeOnce, generate_batch
from dialogs import counted_bytes
from harness_tui import AppUnderTest, application, run
from numpy.typing import NDArray
from PIL import Image

from wantui.analysis.denoising_states import DenoisingStates, StateMoment
from wantui.analysis.fitted_steps import FittedStep
from wantui.notebook import MissingDataError, open_batch
from wantui.storage.zarr_group import CaptureError
from wantui.tui.screens.forming import FormingScreen
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.widgets.picture_view import fit_picture_size
from wantui.tui.widgets.step_changes import choose_changes_width, measure_step_changes

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
            assert {"Earlier", "Later", "Play", "Frame", "State"} <= set(it.cells("KeyFooter").split())
            assert "the video" in screen.title_text.get_shown_text()
            await it.press("left", "left", "full_stop")
            assert screen.shown_step is screen.steps[2]
            assert "predicted clean state at step 2, σ" in screen.title_text.get_shown_text()
            assert "frames 6 to 9 of 9" in screen.title_text.get_shown_text()
            r2_text = f"{100 * expected['clean'][2].r2:.1f} %"
            assert f"approximate colours: linear fit, r² {r2_text}" in screen.title_text.get_shown_text()
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
            expected = np.asarray(Image.fromarray(step.frames[1]).resize(size))
            await it.until(lambda: screen.picture_view.shown_pixels is not None)
            pixels = screen.picture_view.shown_pixels
            assert pixels is not None
            assert np.array_equal(pixels, expected)

    run(test)


def test_changes_are_mean_absolute_differences_of_neighbours_and_from_the_last_step() -> None:
    rng = np.random.default_rng(0)
    frames_by_step = {step: rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8) for step in (0, 2, 5)}
    frames = {step: array.astype(np.float64) for step, array in frames_by_step.items()}
    changes = measure_step_changes(frames_by_step)
    assert changes.from_previous == pytest.approx(
        {2: np.abs(frames[2] - frames[0]).mean(), 5: np.abs(frames[5] - frames[2]).mean()}
    )
    assert changes.until_end == pytest.approx({step: np.abs(each - frames[5]).mean() for step, each in frames.items()})


@pytest.mark.parametrize(
    ("width", "picture_width", "panel_width"), [(140, 60, 80), (200, 60, 90), (140, 104, 36), (80, 60, 30), (59, 30, 0)]
)
def test_changes_take_what_the_picture_leaves(width: int, picture_width: int, panel_width: int) -> None:
    assert choose_changes_width(width, picture_width) == panel_width


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_changes_of_the_shown_step_are_beside_its_picture(stored: Path, size: tuple[int, int]) -> None:
    steps = open_batch(stored).videos[0].draw_steps(["0", "1", "2", "3", "end"], "clean")
    changes = measure_step_changes({index: step.frames for index, step in enumerate(steps)})

    async def test() -> None:
        async with application(size=size) as it:
            screen = await open_forming(it)
            await it.until(lambda: screen.changes)
            for key, step in (("left", 3), ("left", 2), ("right", 3)):
                await it.press(key)
                lines = screen.changes_panel.get_shown_text().splitlines()
                assert lines[1].split()[-1] == f"{changes.from_previous[step]:.2f}"
                assert lines[2].split()[-1] == f"{changes.until_end[step]:.2f}"
                assert any(line.count("│") == 2 for line in lines), "a line marks the step"
            await it.press("left", "left", "left")
            assert screen.changes_panel.get_shown_text().splitlines()[1].endswith(" -"), "nothing is before the first"

    run(test)


def test_title_names_step_frame_and_fit_in_the_smallest_terminal(stored: Path) -> None:
    async def test() -> None:
        async with application(size=(60, 20)) as it:
            screen = await open_forming(it)
            await it.until(lambda: screen.changes)
            await it.press("left")
            await it.until(lambda: "step 3, σ" in screen.title_text.get_shown_text())
            assert "…" not in screen.title_text.get_shown_text()
            assert re.search(r"frames 2 to 5 of 9 · .*r² \d", screen.title_text.get_shown_text())

    run(test)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CaptureError("state 2 is damaged"), "✗ state 2 is damaged"),
        (IndexError("no row 2"), "✗ cannot draw the steps: IndexError: no row 2"),
    ],
)
def test_error_in_a_later_state_is_shown_instead_of_the_changes(
    stored: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    read_state = DenoisingStates.read_state

    def read_undamaged_state(states: DenoisingStates, moment: StateMoment) -> NDArray[np.float32]:
        if moment.evaluation == 2:
            raise error
        return read_state(states, moment)

    monkeypatch.setattr(DenoisingStates, "read_state", read_undamaged_state)

    async def test() -> None:
        async with application(size=(140, 40)) as it:
            screen = await open_forming(it)
            await it.until(lambda: screen.error)
            assert list(screen.steps) == [0, 1]
            await it.until(lambda: text in screen.title_text.get_shown_text())
            assert "reading" not in it.text()
            assert not screen.changes_panel.display
            is_unexpected = isinstance(error, IndexError)
            assert ("IndexError" in it.notifications()) == is_unexpected

    run(test)


def test_step_of_an_earlier_load_is_ignored(stored: Path) -> None:
    step = open_batch(stored).videos[0].draw_steps(["end"], "clean")[0]

    async def test() -> None:
        async with application() as it:
            screen = await open_forming(it)
            await it.until(lambda: screen.changes)
            first_load = screen.load_number
            await it.press("v", "v")
            assert screen.kind == "clean"
            await it.until(lambda: screen.changes)
            shown = dict(screen.steps)
            screen.post_message(screen.StepDrawn(first_load, step))
            screen.post_message(screen.LoadingFailed(first_load, "damaged", False))
            await it.pilot.pause()
            assert screen.steps.keys() == shown.keys()
            assert screen.steps[4] is shown[4]
            assert not screen.error

    run(test)


def test_paused_screen_sends_nothing(stored: Path) -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            screen = await open_forming(it)
            await it.until(lambda: screen.changes)
            await it.pilot.pause(0.3)
            with counted_bytes(it.app) as written:
                await asyncio.sleep(1.0)
                assert len("".join(written)) == 0

    run(test)


def test_screen_opens_with_the_frame_of_the_strip(stored: Path) -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            screen = await open_forming(it)
            await it.until(lambda: len(screen.steps) == 5)
            assert "frames 2 to 5 of 9 (latent frame 2 of 3)" in screen.title_text.get_shown_text()
            (size,) = {screen.picture_view.shown_pixels.shape[1::-1]}  # type: ignore[union-attr]
            expected = np.asarray(Image.fromarray(screen.steps[4].frames[1]).resize(size))
            assert np.array_equal(screen.picture_view.shown_pixels, expected)  # type: ignore[arg-type]

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
            assert it.cells("KeyFooter").split() == ["esc", "Close", "?", "Help"]

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
