"""Difference of two compared clips: its figures, its picture, and both in the player."""

import asyncio
import math
import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_batches import SIDE, choose_colour, draw_clip, write_clip_batch
from dialogs import counted_bytes
from harness_player import on_clips, open_player
from harness_tui import AppUnderTest
from matplotlib import colormaps

from wantui.analysis.similarity import PairedVideos, measure_pair
from wantui.errors import UserError
from wantui.storage.mp4 import Frame, read_frames, write_mp4
from wantui.tui.player.clip_difference import ClipDifference, measure_clip_difference
from wantui.tui.player.clip_layout import PanelLayout, arrange_panels
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.player import Player
from wantui.tui.widgets.clip_difference import DifferenceCurve, DifferencePicture
from wantui.tui.widgets.picture_view import PictureView

pytestmark = pytest.mark.terminal


def write_clip(name: str, frames: list[Frame]) -> Path:
    path = Path(name).absolute()
    write_mp4(path, frames, 8, len(frames), {})
    return path


def read_message(view: PictureView) -> str:
    return "\n".join(view.render_line(y).text for y in range(view.content_size.height))


def measure(first: Path, second: Path) -> ClipDifference:
    difference = measure_clip_difference(first, second, lambda: False)
    assert difference is not None
    return difference


def test_figures_are_those_of_the_decoded_frames_in_float64() -> None:
    rng = np.random.default_rng(0)
    clips = [[rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    paths = [write_clip(f"{number}.mp4", frames) for number, frames in enumerate(clips)]
    decoded = [np.stack(list(read_frames(path))).astype(np.float64) for path in paths]
    expected = np.abs(decoded[0] - decoded[1])
    difference = measure(*paths)
    assert difference.means == pytest.approx(expected.mean((1, 2, 3)))
    assert difference.mean == pytest.approx(expected.mean())
    assert difference.scale_maximum == pytest.approx(expected.mean(-1).max())
    assert difference.psnr == pytest.approx(10 * np.log10(255**2 / (expected**2).mean()))


def test_signal_to_noise_ratio_is_that_of_the_command_similarity() -> None:
    folder = Path("clips").absolute()
    first, second = write_clip_batch(folder).videos[:2]
    similarity, _ = measure_pair(folder, PairedVideos(first, second), ["psnr"])
    difference = measure(folder / first.files["clip"], folder / second.files["clip"])
    assert difference.psnr == pytest.approx(similarity.psnr)


def test_scale_of_a_small_difference_ends_at_a_decimal() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "m", "right", "m", "c")
        picture = player.query_one(DifferencePicture)
        curve = player.query_one(DifferenceCurve)
        difference = await it.until(lambda: curve.difference)
        await it.press("d")
        await it.until(lambda: picture.view.shown_pixels is not None)
        for maximum, end in ((1 / 3, "0.3"), (9.5, "9.5"), (10.0, "10"), (85.3, "85")):
            curve.difference = replace(difference, scale_maximum=maximum)
            player.draw_frames()
            assert re.search(rf"difference  0 ▌+ {re.escape(end)} of 255$", picture.label.get_shown_text())

    on_clips(test)


def test_equal_clips_differ_in_nothing() -> None:
    path = write_clip("one.mp4", draw_clip((10, 20, 30)))
    difference = measure(path, path)
    assert set(difference.means) == {0.0}
    assert math.isinf(difference.psnr)
    assert (difference.draw_picture(0, (SIDE, SIDE)) == difference.colours[0]).all()


def test_picture_has_the_colour_of_the_mean_over_red_green_and_blue() -> None:
    heat = np.rint(colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    levels = np.array([[0, 190, 10, 66.5]], np.float16)
    difference = ClipDifference((1.0,), 20.0, 150.0, heat, (levels,))
    expected = [heat[round(min(1, level / 150) * 255)] for level in (0, 190, 10, 66.5)]  # 190 exceeds the scale
    assert np.array_equal(difference.draw_picture(0, (4, 1))[0], np.array(expected))


def test_map_has_the_mean_absolute_difference_of_red_green_and_blue() -> None:
    rng = np.random.default_rng(1)
    clips = [[rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)] for _ in range(2)]
    paths = [write_clip(f"{number}.mp4", frames) for number, frames in enumerate(clips)]
    first, second = (next(read_frames(path)).astype(np.float64) for path in paths)
    assert measure(*paths).maps[0] == pytest.approx(np.abs(first - second).mean(-1), abs=0.1)  # rounded to float16


@pytest.mark.parametrize("size", [(104, 60), (60, 34)])
def test_picture_of_noise_has_the_mean_of_the_differences_of_its_pixels(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    clips = [[rng.integers(0, 256, (480, 832, 3), dtype=np.uint8)] for _ in range(2)]
    paths = [write_clip(f"{number}.mp4", frames) for number, frames in enumerate(clips)]
    first, second = (next(read_frames(path)).astype(np.float64) for path in paths)
    levels = np.abs(first - second).mean(-1)
    difference = measure(*paths)
    indices = (difference.draw_picture(0, size)[..., None, :] == difference.colours).all(-1).argmax(-1)
    shown_levels = indices / 255 * difference.scale_maximum
    assert shown_levels.shape == size[::-1]
    assert shown_levels.mean() == pytest.approx(levels.mean(), rel=0.02)
    if size == (104, 60):
        assert shown_levels == pytest.approx(
            levels.reshape(60, 8, 104, 8).mean((1, 3)), abs=0.6
        )  # a colour and float16


def test_clips_of_other_size_or_without_frames_are_refused() -> None:
    first = write_clip("first.mp4", draw_clip((10, 20, 30)))
    second = write_clip("second.mp4", [frame[: SIDE // 2] for frame in draw_clip((10, 20, 30))])
    with pytest.raises(UserError, match="they differ in size"):
        measure_clip_difference(first, second, lambda: False)
    second.write_bytes(b"damaged")
    with pytest.raises(UserError, match="not a readable clip"):
        measure_clip_difference(first, second, lambda: False)


def test_measurement_decodes_in_one_thread_per_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip("one.mp4", draw_clip((10, 20, 30)))
    thread_counts = []

    def read(path: Path, thread_count: int = 0) -> Generator[Frame, None, None]:
        thread_counts.append(thread_count)
        return read_frames(path, thread_count)

    monkeypatch.setattr("wantui.storage.mp4.read_frames", read)
    measure(path, path)
    assert thread_counts == [1, 1]


def test_measurement_ends_when_it_is_cancelled() -> None:
    path = write_clip("one.mp4", draw_clip((10, 20, 30)))
    assert measure_clip_difference(path, path, lambda: True) is None


@pytest.mark.parametrize(
    ("panel_count", "aspect_ratio", "size", "layout"),
    [
        (2, 1, (138, 38), PanelLayout(2, 1, 35, 2)),
        (3, 1, (138, 38), PanelLayout(3, 1, 23, 3)),
        (3, 1, (78, 22), PanelLayout(3, 1, 13, 3)),
        (2, 832 / 480, (138, 38), PanelLayout(2, 1, 21, 2)),
        (3, 832 / 480, (138, 38), PanelLayout(2, 2, None, 1)),
        (2, 1, (138, 30), PanelLayout(2, 1, 29, 2)),
        (2, 832 / 480, (118, 38), PanelLayout(1, 2, 18, 1)),
        (2, 832 / 480, (158, 48), PanelLayout(2, 1, 23, 2)),
        (2, 1, (198, 38), PanelLayout(2, 1, 37, 2)),
    ],
)
def test_curve_takes_a_free_cell_or_the_rows_below_the_clips(
    panel_count: int, aspect_ratio: float, size: tuple[int, int], layout: PanelLayout
) -> None:
    assert arrange_panels(panel_count, aspect_ratio, *size, has_curve=True) == layout
    assert layout.panel_rows is None or layout.rows * layout.panel_rows < size[1]
    without_curve = arrange_panels(panel_count, aspect_ratio, *size, has_curve=False)
    assert (without_curve.panel_rows, without_curve.curve_span) == (None, 0)


def test_player_shows_the_difference_of_the_shown_frames_and_hides_it_again() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "m", "right", "m", "c")
        curve, picture = player.query_one(DifferenceCurve), player.query_one(DifferencePicture)
        difference = await it.until(lambda: curve.difference)
        assert difference.means == measure(*(clip.path for clip in player.clips)).means
        await it.until(lambda: f"frame 1 {difference.means[0]:.1f}" in it.text())
        assert f"all frames {difference.mean:.1f}   PSNR {difference.psnr:.1f} dB" in it.text()
        assert not picture.display
        assert "●" not in player.playback_bar.get_shown_text(), "the curve is the scrub bar"
        await it.pilot.click(curve, offset=(curve.size.width - 1, 3))
        await it.until(lambda: f"frame 9 {difference.means[8]:.1f}" in it.text())
        await it.press("home", "d")
        await it.until(lambda: picture.view.shown_pixels is not None)
        await it.press("G")
        await it.until(lambda: f"frame 9 {difference.means[8]:.1f}" in it.text())
        assert re.search(rf"difference  0 ▌+ {difference.scale_maximum:.0f} of 255$", picture.label.get_shown_text())
        assert len({view.size for view in [*player.views, picture.view]}) == 1
        assert picture.view.picture is not None
        height, width = picture.view.picture.shape[:2]
        assert picture.view.picture.shape == player.views[0].picture.shape  # type: ignore[union-attr]
        assert np.array_equal(picture.view.picture, difference.draw_picture(8, (width, height)))
        await it.press("d")
        await it.until(lambda: not picture.display)
        curve.difference = replace(difference, means=tuple(16.2 - 0.1 * frame for frame in range(9)))
        curve.show_frame(0)
        lowest_tick = re.search(r"\n *([\d.]+) ┤[^┤]*└", curve.get_shown_text())
        assert lowest_tick is not None
        assert f"axis from {lowest_tick[1]})" in curve.get_shown_text()

    on_clips(test)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40), (200, 40), (200, 60)])
def test_player_always_shows_the_figures_of_a_difference(size: tuple[int, int]) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "m", "right", "m", "c")
        difference = await it.until(lambda: player.query_one(DifferenceCurve).difference)
        for has_picture in (False, True):
            await it.until(lambda: player.query_one(DifferencePicture).display == has_picture)  # noqa: B023
            await it.until(lambda: f"frame 1 {difference.means[0]:.1f}" in it.text())
            assert f"all frames {difference.mean:.1f}" in it.text()
            assert f"PSNR {difference.psnr:.1f} dB" in it.text()
            await it.press("d")

    on_clips(test, size=size)


def test_curve_of_a_difference_fills_the_space_below_the_clips() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "m", "right", "m", "c")
        curve = player.query_one(DifferenceCurve)
        await it.until(lambda: curve.difference and curve.get_shown_text().splitlines()[-1].split()[:1] == ["frame"])
        assert len(curve.get_shown_text().splitlines()) == curve.content_size.height > 12

    on_clips(test, size=(120, 50))


def test_paused_player_with_a_difference_sends_nothing() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "m", "right", "m", "c")
        await it.press("d")
        view = player.query_one(DifferencePicture).view
        await it.until(lambda: view.shown_pixels is not None)
        await it.pilot.pause(0.3)
        with counted_bytes(it.app) as written:
            await asyncio.sleep(1.0)
            assert len("".join(written)) == 0

    on_clips(test)


@pytest.mark.parametrize(
    ("keys", "has_difference"),
    [(["p"], False), (["m", "right", "m", "c"], True), (["m", "right", "m", "down", "m", "c"], False)],
)
def test_only_two_clips_have_a_difference(keys: list[str], has_difference: bool) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, *keys)
        assert ("Difference" in it.cells("KeyFooter")) == has_difference
        await it.press("d")
        assert bool(player.query(DifferencePicture)) == has_difference

    on_clips(test, size=(120, 40))


def test_clips_of_other_length_have_no_difference_and_say_so() -> None:
    folder = Path("outputs/clips").absolute()
    manifest = write_clip_batch(folder, more=("sweeps=video_settings.frames=5,9",), seeds=1)
    for video in manifest.videos:
        frames = draw_clip(choose_colour(video), video.recipe.frames)
        write_mp4(folder / video.files["clip"], frames, 8, len(frames), {})

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "right", "m", "c")
        player = await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen)
        await it.until(lambda: all(view.picture is not None for view in player.views))
        assert len({clip.recipe.frames for clip in player.clips}) == 2
        await it.press("d")
        assert "no difference: the clips differ in size, number of frames or frames per second" in it.notifications()

    on_clips(test)


def test_unexpected_error_of_a_comparison_is_shown_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_error(*_: object) -> None:
        raise ValueError("bad packet")

    monkeypatch.setattr("wantui.tui.widgets.clip_difference.measure_clip_difference", raise_error)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "right", "m", "c")
        player = await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen)
        await it.until(lambda: "ValueError: bad packet" in player.query_one(DifferenceCurve).get_shown_text())
        await it.until(lambda: "cannot measure difference: ValueError: bad packet" in it.notifications())

    on_clips(test)


def test_damaged_clip_has_no_difference_and_says_why() -> None:
    write_clip_batch(Path("outputs/clips").absolute(), damaged=(1,))

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "right", "m", "c")
        player = await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen)
        await it.until(lambda: "✗" in player.query_one(DifferenceCurve).get_shown_text())
        assert "not a readable clip" in player.query_one(DifferenceCurve).get_shown_text().replace("\n  ", " ")
        await it.press("d")
        picture = player.query_one(DifferencePicture)
        await it.until(lambda: picture.display and picture.view.content_size.area)
        await it.until(lambda: "not a readable clip" in re.sub(r"\s+", " ", read_message(picture.view)))
        assert picture.view.picture is None

    on_clips(test)
