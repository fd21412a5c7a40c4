"""Clips in the Library: played, marked and compared, with their recipes."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_batches import FPS, FRAME_COUNT, SIDE, choose_colour, draw_clip, write_clip_batch
from dialogs import RECIPE, counted_bytes
from harness_player import on_clips, open_player
from harness_tui import AppUnderTest
from PIL import Image
from rich.console import Console, RenderableType
from rich.text import Text
from textual.geometry import Region

from wantui.planning import PromptMark
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import write_manifest
from wantui.storage.marks import BatchMarks, edit_mark, read_marks
from wantui.storage.mp4 import write_mp4
from wantui.tui.player.changed_fields import find_changed_fields
from wantui.tui.player.clips import make_player_clip
from wantui.tui.player.recipe_table import compare_recipes, list_recipe_fields
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.player import Player
from wantui.tui.screens.recipe_viewer import RecipeViewer
from wantui.tui.widgets.clip_facts import choose_facts_width
from wantui.tui.widgets.picture_view import encode_colours, fit_picture_size

pytestmark = pytest.mark.terminal


def test_marks_are_set_removed_and_cleared() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "down", "right", "m")
        assert screen.matrix.marked_cells == {(0, 0), (1, 1)}
        assert [clip.path.name for clip in screen.marked_clips] == ["video_001.mp4", "video_002.mp4"]
        await it.press("m")
        assert screen.matrix.marked_cells == {(0, 0)}
        await it.press("C")
        assert not screen.marked_clips
        assert not screen.matrix.marked_cells

    on_clips(test)


def test_tenth_mark_is_refused() -> None:
    write_clip_batch(Path("outputs/clips").absolute(), seeds=5)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press(*("m", "right") * 5, "down", *("m", "left") * 5)
        assert len(screen.marked_clips) == 9
        assert "cannot select another video: 9 are selected" in it.notifications()

    on_clips(test)


def find_frame_numbers(player: Player, screen: LibraryScreen) -> list[int]:
    """Return the number of the frame that each view shows, which its upper half tells."""
    assert screen.shown_manifest is not None
    entry_by_id = {entry.recipe.digest: entry for entry in screen.shown_manifest.videos}
    numbers = []
    for view, clip in zip(player.views, player.clips, strict=True):
        red = choose_colour(entry_by_id[clip.recipe.digest])[0]
        if view.shown_pixels is None:
            raise LookupError("no frame is decoded yet")
        numbers.append(round((int(view.shown_pixels[0, 0, 0]) - red) / 8))
    return numbers


def test_keys_of_the_player_select_frames() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        for key, frame in {
            "right": 1,
            "l": 2,
            "left": 1,
            "h": 0,
            "G": 8,
            "[": 0,
            "]": 8,
            "shift+left": 0,
            "shift+right": 8,
            "g": 0,
        }.items():
            await it.press(key)
            assert player.playback.frame_index == frame, key
            await it.until(lambda: find_frame_numbers(player, screen) == [frame])  # noqa: B023
            assert f"{frame + 1}/9" in it.text()
        await it.press("+", "+", "o")
        assert (player.playback.speed, player.playback.is_looping, player.playback.is_playing) == (2.0, False, False)
        await it.press("space")
        await it.until(lambda: player.playback.frame_index == 8 and not player.playback.is_playing)
        await it.until(lambda: find_frame_numbers(player, screen) == [8])  # without loop, it stops at the last frame

    on_clips(test)


def test_player_shows_due_frames_and_waits_for_the_decoder() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        request_frame = player.played.buffers[0].request_frame
        await it.until(lambda: all(request_frame(index) is not None for index in (3, 5)))
        player.playback.is_playing = True
        player.advance(3 / 8)
        await it.until(lambda: find_frame_numbers(player, screen) == [3])
        player.played.buffers[0].request_frame = lambda index: None  # type: ignore[method-assign]
        player.advance(2 / 8)
        assert player.playback.frame_index == 3
        player.played.buffers[0].request_frame = request_frame  # type: ignore[method-assign]
        player.advance(2 / 8)
        await it.until(lambda: find_frame_numbers(player, screen) == [5])

    on_clips(test)


def test_picture_has_the_pixels_of_the_clip_in_its_proportions() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        [view] = player.views
        assert view.size == (44, 22), "the panel of facts takes the rest"
        assert view.shown_pixels is not None
        assert view.shown_pixels.shape == (44, 44, 3)
        strip = view.render_line(20)
        assert "".join(segment.text for segment in strip) == "▀" * 44
        await it.press("f")
        await it.until(lambda: view.size == (80, 24))
        assert view.shown_pixels.shape == (48, 48, 3)
        await it.press("f")
        await it.until(lambda: view.size == (44, 22))

    on_clips(test, size=(80, 24))


def test_scrub_bar_follows_click_and_drag() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        line = player.playback_bar
        start = line.region.x + line.gutter.left + line.bar_start
        y = line.region.y
        await it.pilot.click(offset=(start + round((line.bar_width - 1) / 2), y))
        await it.pilot.pause()
        assert player.playback.frame_index == 4
        await it.pilot.mouse_down(offset=(start, y))
        await it.pilot.hover(offset=(start + line.bar_width - 1, y - 5))
        await it.pilot.pause()
        assert player.playback.frame_index == 8, "a drag may leave the line"
        await it.pilot.mouse_up(offset=(start + line.bar_width - 1, y - 5))
        await it.pilot.hover(offset=(start, y))
        await it.pilot.pause()
        assert player.playback.frame_index == 8
        await it.pilot.click(offset=(line.region.x + 1, y))
        await it.pilot.pause()
        assert player.playback.is_playing

    on_clips(test)


def test_next_and_previous_follow_the_matrix_and_move_its_cursor() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        shown = []
        for key in ("down", "j", "down", "k"):
            await it.press(key)
            shown.append((player.clips[0].variation_id, player.clips[0].recipe.seed))
            await it.until(lambda: find_frame_numbers(player, screen)[0] in range(FRAME_COUNT))
        assert shown == [("red_circle", 43), ("red_square", 42), ("red_square", 43), ("red_square", 42)]
        await it.press("q")
        assert (screen.matrix.cursor, screen.matrix.column) == (1, 0)
        await it.press("p")
        await it.press("up", "up", "up")
        assert "first video of the batch" in it.notifications()

    on_clips(test)


def test_marked_clips_are_compared_in_step() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("c")
        assert "select a video first" in it.notifications()
        player = await open_player(it, "m", "right", "m", "down", "m", "c")
        labels = ["circle · seed 42", "circle · seed 43", "square · seed 43"]
        assert [label for label in labels if label in it.text()] == labels
        assert "3 videos · red" in it.text()
        for key, frame in {"right": 1, "G": 8, "left": 7}.items():
            await it.press(key)
            await it.until(lambda: find_frame_numbers(player, screen) == [frame] * 3)  # noqa: B023
        await it.press("down")
        assert len(player.clips) == 3
        await it.press("i")
        assert isinstance(it.app.screen, RecipeViewer)
        assert "3 fields differ" not in it.text()
        assert "2 fields differ" in it.text()

    on_clips(test)


def test_single_mark_is_compared_with_the_current_video() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "c")
        assert "cannot compare a video with itself" in it.notifications()
        await it.press("right", "d")
        assert "only the seed differs; " in it.text()
        assert "frame 5 of 9" in it.text()
        await it.press("escape")
        player = await open_player(it, "c")
        assert [clip.recipe.seed for clip in player.clips] == [42, 43]

    on_clips(test)


def test_damaged_clip_is_shown_beside_those_that_play() -> None:
    write_clip_batch(Path("outputs/clips").absolute(), damaged=(1,))

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "right", "m", "c")
        player = await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen)
        await it.until(lambda: "Invalid" in it.text() and player.views[0].picture is not None)
        index = player.playback.frame_index
        await it.until(lambda: player.playback.frame_index != index)

    on_clips(test)


def test_unreadable_next_clip_replaces_the_previous_picture_by_its_error() -> None:
    folder = Path("outputs/clips").absolute()
    manifest = write_clip_batch(folder, damaged=(1,))

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        await it.press("space")
        player.action_next(1)
        assert player.playback.is_playing
        assert player.views[0].picture is None
        assert player.clips[0].path == folder / manifest.videos[1].files["clip"]
        await it.until(lambda: "Invalid data" in it.text())
        assert player.views[0].picture is None
        await it.press("down")
        await it.until(lambda: player.views[0].picture is not None and "Invalid data" not in it.text())

    on_clips(test)


def test_next_clip_of_one_frame_replaces_the_previous_picture() -> None:
    folder = Path("outputs/clips").absolute()
    manifest = write_clip_batch(folder)
    video = manifest.videos[1]
    write_mp4(folder / video.files["clip"], draw_clip(choose_colour(video), 1), FPS, 1, {})

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        await it.press("space", "down")
        assert player.playback.is_playing
        [view] = player.views
        await it.until(
            lambda: (
                view.shown_pixels is not None
                and np.abs(view.shown_pixels[-1, 0].astype(int) - choose_colour(video)).max() < 8
            )
        )

    on_clips(test)


def test_paused_player_sends_nothing_and_a_playing_one_only_changed_cells() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        await it.pilot.pause(0.3)
        with counted_bytes(it.app) as written:
            await asyncio.sleep(1.0)
            assert len("".join(written)) == 0
            await it.press("G")
            await it.until(lambda: "▀" in "".join(written))
            step = "".join(written)
        [view] = player.views
        assert view.shown_pixels is not None
        rows = len(view.shown_pixels) // 2
        changed = step.count("▀")
        width = view.shown_pixels.shape[1]
        assert width * (rows // 2) <= changed <= width * (rows // 2 + 1), "only the upper half of these clips changes"

    on_clips(test)


def test_invisible_changes_are_sent_only_when_the_picture_stops() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        [view] = player.views
        picture = np.full((64, 64, 3), 100, np.uint8)
        view.show_picture(picture)
        view.show_picture(picture + np.uint8(2), is_moving=True)
        assert view.shown_pixels is not None
        assert (view.shown_pixels == 100).all()
        view.show_picture(picture + np.uint8(4), is_moving=True)
        assert (view.shown_pixels == 104).all()
        view.show_picture(picture + np.uint8(5))
        assert (view.shown_pixels == 105).all()

    on_clips(test)


def test_player_draws_five_frames_a_second_over_a_slow_link() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        await it.press("+", "+", "space")
        assert player._timer is not None
        assert player._timer._interval == 1 / 5

    on_clips(test, low_bandwidth=True)


def test_frames_are_dropped_while_the_terminal_is_behind() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        driver: Any = it.app._driver
        driver.pending_write_count = 2
        await it.press("space")
        player._last_tick_seconds -= 2 / 8
        player._tick()
        assert player.playback.frame_index == 0
        driver.pending_write_count = 0
        player._tick()
        assert player.playback.frame_index >= 2, "the clock did not stop"

    on_clips(test)


@pytest.mark.parametrize(("theme", "shades"), [("ansi-dark", " ▒█"), ("ansi-light", "█▒ ")])
def test_picture_is_shaded_without_colours(theme: str, shades: str) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        [view] = player.views
        it.app.no_color = True
        it.app.theme = theme
        view.shown_pixels = None
        view.show_picture(np.repeat(np.array([[[0] * 3, [128] * 3, [255] * 3]], np.uint8), 3, 0))
        drawn = view.render_line(view.content_size.height // 2).text
        third = view.content_size.height * 2 // 3
        middle = (view.content_size.width - 3 * third) // 2 + third // 2
        assert [drawn[middle + third * column] for column in range(3)] == list(shades)

    on_clips(test)


def test_changed_cells_of_the_playback_bar_are_redrawn_where_they_are() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        line = player.playback_bar
        line._repaint_regions.clear()
        player.playback.is_playing = True
        line.show_playback(player.playback, player._make_title())
        assert line._repaint_regions == {Region(line.gutter.left, 0, len("▶ playing"), 1)}

    on_clips(test)


def test_player_stars_and_rejects_the_shown_video() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("p")
        await it.until(lambda: isinstance(it.app.screen, Player))
        await it.press("space", "down", "asterisk")
        await it.until(lambda: "★" in it.text())
        entry = next(video for video in screen.shown_manifest.videos if (video.variation, video.number) == (0, 2))  # type: ignore[union-attr]
        assert screen.shown_marks.get_mark(entry.id).star
        await it.press("x")
        await it.until(lambda: "⊘" in it.text())
        await it.press("up")
        await it.until(lambda: "⊘" not in it.text())
        await it.press("escape")
        await it.until(lambda: not screen._is_writing_marks)
        marks = read_marks(BatchFolder(screen.shown_folder))  # type: ignore[arg-type]
        assert [(mark.star, mark.reject) for mark in marks.marks_by_video.values()] == [(False, True)]

    on_clips(test)


def test_marks_are_shown_and_cleared_while_the_library_shows_another_batch() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        folder = screen.shown_folder
        assert folder is not None
        await it.press("p")
        await it.until(lambda: isinstance(it.app.screen, Player))
        await it.press("space", "asterisk")
        await it.until(lambda: "★" in it.text())
        screen.shown_folder, screen.shown_marks = Path("other").absolute(), BatchMarks()
        await it.press("n", "p")
        await it.until(lambda: "★" in it.text())
        await it.press("asterisk")
        await it.until(lambda: "★" not in it.text() and not screen._is_writing_marks)
        assert not read_marks(BatchFolder(folder)).count_stars()

    on_clips(test)


def test_compared_clip_of_another_batch_shows_its_own_marks(tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_manifest = write_clip_batch(other_folder)
    starred, unmarked = other_manifest.videos[:2]
    edit_mark(BatchFolder(other_folder), starred.id, star=True)

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        screen.marked_clips = [make_player_clip(other_folder, other_manifest, entry) for entry in (starred, unmarked)]
        player = await open_player(it, "m", "c")
        signs = [player._list_mark_symbols(clip) for clip in player.clips]
        is_starred = [(clip.batch_folder, clip.video_id) == (other_folder, starred.id) for clip in player.clips]
        assert signs == ["★" if each else "" for each in is_starred]
        assert it.text().count("★") == 1

    on_clips(test)


def test_compared_clips_cannot_be_marked() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "right", "m", "c")
        await it.until(lambda: isinstance(it.app.screen, Player))
        assert "Star" not in it.text()
        await it.press("asterisk")
        assert not screen.shown_marks.marks_by_video

    on_clips(test)


def test_recipes_of_equal_titles_are_all_shown() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        recipes = [RECIPE.model_copy(update={"seed": seed}) for seed in (42, 43, 44)]
        it.app.push_screen(RecipeViewer([("same", recipe) for recipe in recipes]))
        await it.until(lambda: all(f"same ({number})" in it.text() for number in (1, 2, 3)))
        await it.press("j")
        viewer = it.app.screen
        assert isinstance(viewer, RecipeViewer)
        assert [recipe["seed"] for recipe in json.loads(viewer._format_json()).values()] == [42, 43, 44]

    on_clips(test)


def test_recipes_that_differ_only_in_the_json_name_its_key() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        marks = [(PromptMark(text="red", start=2, end=5, weight=weight),) for weight in (1.0, 2.0)]
        recipes = [RECIPE.model_copy(update={"marks": mark}) for mark in marks]
        assert compare_recipes(recipes).differences == ()
        it.app.push_screen(RecipeViewer([("same", recipe) for recipe in recipes]))
        await it.until(lambda: "the recipes differ in details that only the JSON shows (j)" in it.text())

    on_clips(test, size=(120, 40))


def test_key_lists_the_fields_that_are_equal_in_all_recipes() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        recipe = screen.shown_manifest.videos[0].recipe  # type: ignore[union-attr]
        recipes = [recipe, recipe.model_copy(update={"steps": recipe.steps + 1})]
        it.app.push_screen(RecipeViewer([(f"video{number}", recipe) for number, recipe in enumerate(recipes)]))
        await it.until(lambda: "only the steps differs" in it.text())
        assert not re.search(rf"fps +{recipe.fps} frames/s", it.text())
        await it.press("e")
        await it.until(lambda: re.search(rf"fps +{recipe.fps} frames/s", it.text()))
        assert "steps" not in {field.name for field in compare_recipes(recipes).equal_fields}
        await it.press("e")
        await it.until(lambda: "frames/s" not in it.text())

    on_clips(test, size=(120, 60))


def test_differences_show_long_values_that_differ_only_at_their_end() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        values = [f"/models/{'deep-folder/' * 12}{name}.safetensors" for name in ("first", "second")]
        recipes = [RECIPE.model_copy(update={"model": value}) for value in values]
        it.app.push_screen(RecipeViewer([(f"video{number}", recipe) for number, recipe in enumerate(recipes)]))
        viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
        output = io.StringIO()
        console = Console(width=90, file=output)
        console.print(viewer.draw_content(90))
        rows = [re.split(r" {2,}", line.strip()) for line in output.getvalue().splitlines()]
        for column, value in zip((-2, -1), values, strict=True):
            assert value in "".join(row[column] for row in rows if len(row) > 1)

    on_clips(test)


def test_recipe_table_shows_names_of_the_config_and_json() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("i")
        assert isinstance(it.app.screen, RecipeViewer)
        lines = [line.strip("│ ").split() for line in it.text().splitlines()]
        assert ["sampler", "unipc"] in lines
        assert ["seed", "42"] in lines
        assert ["size", "width", "32", "px", "(default", "832)"] in lines
        manifest = screen.shown_manifest
        assert manifest is not None
        assert ["video", "id", manifest.videos[0].id] in lines
        assert ["wantui", manifest.wantui] in lines
        await it.press("j")
        assert '"guidance_scale"' in it.text()
        await it.press("j")
        assert "cfg scale" in it.text()
        await it.press("i")
        assert isinstance(it.app.screen, LibraryScreen)

    on_clips(test, size=(100, 50))


def test_narrow_footers_show_the_most_used_keys() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        footer = it.text().splitlines()[-1]
        assert "p Play  m Select  A Analyse  i Recipe  x Reject" in footer
        await open_player(it, "p")
        footer = it.text().splitlines()[-1].strip()
        assert footer == "space Pause  ↑ ↓ Clip  ← → Frame  * Star  x Reject  i Recipe  esc Back  ? Help"

    on_clips(test, size=(80, 24))


def test_facts_of_a_clip_are_drawn_once_for_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "p")
        await it.until(lambda: "video 1 of 8" in it.cells("#clip-facts"))
        drawn: list[object] = []
        monkeypatch.setattr(player.clip_facts, "show_clip", lambda *arguments: drawn.append(arguments))
        for _ in range(3):
            player.draw_frames()
        assert not drawn
        await it.press("asterisk")
        await it.until(lambda: len(drawn) == 1)
        await it.press("down")
        await it.until(lambda: len(drawn) == 2)

    on_clips(test, size=(140, 40))


@pytest.mark.parametrize("system", ["truecolor", "256", "standard"])
def test_colours_are_encoded_for_the_terminal(system: str) -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [8, 8, 8], [95, 135, 175]]], np.uint8)
    codes = encode_colours(colours, system)[0].tolist()
    assert (
        codes
        == {
            "truecolor": [0, 0xFFFFFF, 0xFF0000, 0x080808, 0x5F87AF],
            "256": [16, 231, 196, 232, 67],
            "standard": [0, 15, 9, 0, 8],
        }[system]
    )


@pytest.mark.parametrize("size", [(80, 22), (140, 38), (7, 3), (1, 1)])
@pytest.mark.parametrize("shape", [(832, 480), (480, 832), (64, 64), (1, 5000)])
def test_picture_is_as_large_as_possible(size: tuple[int, int], shape: tuple[int, int]) -> None:
    width, height = fit_picture_size(shape, *size)
    assert 1 <= width <= size[0]
    assert 2 <= height <= 2 * size[1]
    assert height % 2 == 0
    assert width == size[0] or height == 2 * size[1]


@pytest.mark.parametrize("size", [(80, 24), (81, 25), (140, 40)])
def test_compared_clips_have_equal_sizes_and_the_order_of_the_matrix(size: tuple[int, int]) -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        player = await open_player(it, "right", "m", "left", "m", "c")
        assert [clip.recipe.seed for clip in player.clips] == [42, 43]
        first, second = player.views
        assert first.size == second.size
        assert first.region.x > 0
        await it.press("f")
        await it.until(lambda: first.size.height > size[1] - 3)
        assert first.size == second.size

    on_clips(test, size=size)


def print_lines(content: RenderableType, width: int) -> list[str]:
    output = io.StringIO()
    Console(width=width, file=output).print(content)
    return output.getvalue().splitlines()


def test_recipe_has_main_and_changed_fields_before_those_at_their_defaults() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("i")
        viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
        capture = viewer.recipes[0].capture.model_copy(update={"latents": True})
        recipe = viewer.recipes[0].model_copy(update={"capture": capture})
        for width in (50, 90):
            lines = print_lines(viewer.draw_recipe(recipe, width), width)
            heading = lines.index(next(line for line in lines if line.strip() == "at their defaults"))
            main, others = "\n".join(lines[:heading]), " ".join(" ".join(lines[heading:]).split())
            for name in ("marks", "model id", "sampler", "seed", "steps", "width", "frames", "store latents"):
                assert re.search(rf"\b{name}  ", main), name
                assert not re.search(rf"\b{name}  ", others), name
            for text in ("negative prompt none", "weights full", "flow shift 3", "store attention no"):
                assert re.search(rf"\b{text}\b", others), text
                assert not re.search(rf"\b{text.rpartition(' ')[0]}  ", main), text
        wide = print_lines(viewer.draw_recipe(recipe, 130), 130)
        assert wide[0].startswith("bold: differs from the default")
        assert wide[0].rstrip().endswith("at their defaults"), "beside the main fields"

    on_clips(test, size=(140, 40))


def test_recipe_has_each_group_once_and_short_revisions() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("i")
        viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
        recipe = viewer.recipes[0].model_copy(update={"revision": "7f1949dbbec7fe008e9dabd70af8f0699"})
        fields, default_by_name = list_recipe_fields(recipe), find_changed_fields(recipe)
        table = viewer.draw_fields(fields, default_by_name, 90)
        labels, names, values = ([str(cell) for cell in column.cells] for column in table.columns)
        assert len([label for label in labels if label]) == len({label for label in labels if label})
        assert values[names.index("revision")] == "7f1949dbbec7…"
        assert all(value == value.strip() for value in values)
        assert f"{recipe.width} px  (default 832)" in values
        assert names.index("steps") < names.index("sampler"), "changed fields are first in their group"
        bold_names = {
            name
            for name, cell in zip(names, table.columns[2].cells, strict=True)
            if isinstance(cell, Text) and any("bold" in str(span.style) for span in cell.spans)
        }
        assert {"model id", "width", "height"} <= bold_names, "the batch of the test is of nano, 64 pixels wide"
        assert bold_names.isdisjoint({"prompt", "seed", "sampler", "store attention", "negative prompt", "dtype"})

    on_clips(test, size=(140, 40))


def test_recipe_is_copied_as_json() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("i", "y")
        viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
        assert json.loads(it.app.clipboard) == viewer.document
        assert "recipe copied as JSON" in it.notifications()
        assert "Play" not in it.cells("KeyFooter"), "nothing is compared"

    on_clips(test)


def test_compared_clips_are_played_from_the_differences_of_their_recipes() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("m", "right", "m", "d")
        viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
        await it.until(lambda: "p Play" in it.cells("KeyFooter"))
        await it.press("y", "p")
        player = await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen)
        assert player.clips == viewer.clips
        assert list(json.loads(it.app.clipboard)) == viewer.titles
        await it.press("i")
        await it.until(lambda: "Recipe differences" in it.text())
        assert "Play" not in it.cells("KeyFooter"), "the player is below"

    on_clips(test)


def test_recipe_counts_the_lines_below_it() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("i")
        viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
        count = viewer.scroll.max_scroll_y
        assert count > 1
        assert f"{count} more lines: ↓" in it.text()
        await it.press("down")
        await it.until(lambda: f"{count - 1} more line" in it.text())
        await it.press("end")
        await it.until(lambda: "more line" not in it.text())
        await it.press("home")
        await it.until(lambda: f"{count} more lines" in it.text())

    on_clips(test, size=(80, 24))


@pytest.mark.parametrize(
    ("size", "aspect_ratio", "width"),
    [((140, 38), 1.0, 64), ((80, 22), 1.0, 36), ((80, 22), 1.6, 0), ((200, 20), 1, 64)],
)
def test_panel_of_facts_takes_the_space_beside_the_clip(size: tuple[int, int], aspect_ratio: float, width: int) -> None:
    assert choose_facts_width(size, aspect_ratio) == width


def test_player_shows_place_settings_and_marks_of_a_clip_beside_it() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        await it.press("p")
        player = it.app.screen
        assert isinstance(player, Player)
        await it.until(lambda: "video 1 of 8" in it.cells("#clip-facts"))
        facts = it.cells("#clip-facts")
        assert len(re.findall(rf"seed +{player.clips[0].recipe.seed}\b", facts)) == 2, (
            "the title, and the first map line"
        )
        assert " ".join(player.clips[0].recipe.prompt.split()) in " ".join(facts.split())
        assert "no verdict" in facts
        assert player.clips[0].title not in player.playback_bar.get_shown_text(), "the panel has it"
        await it.press("asterisk")
        await it.until(lambda: "★ starred" in it.cells("#clip-facts"))
        await it.press("down")
        await it.until(lambda: "video 2 of 8" in it.cells("#clip-facts"))
        assert "starred" not in it.cells("#clip-facts")
        await it.press("f")
        await it.until(lambda: not player.clip_facts.display)

    on_clips(test, size=(140, 40))


def test_recipe_in_the_player_names_the_video_as_in_the_library() -> None:
    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        facts = []
        for keys in (["i"], ["p", "i"]):
            await it.press(*keys)
            viewer = await it.until(lambda: isinstance(it.app.screen, RecipeViewer) and it.app.screen)
            facts.append(viewer.facts)
            await it.press("escape")
        assert facts[0] == facts[1]
        assert {"id", "batch_created", "wantui"} <= {field.name for field in facts[0]}

    on_clips(test)


def test_strip_beside_a_clip_marks_the_current_frame() -> None:
    folder = Path("outputs/clips").absolute()
    manifest = write_clip_batch(folder)
    for video in manifest.videos:
        video.files["sheet"] = f"{video.id}.png"
        Image.fromarray(np.zeros((SIDE, 5 * SIDE, 3), np.uint8)).save(folder / video.files["sheet"])
    write_manifest(BatchFolder(folder), manifest)

    async def test_small(it: AppUnderTest, screen: LibraryScreen) -> None:
        await open_player(it, "p")
        await it.until(lambda: it.cells("#clip-facts").split()[-3:] == ["5", "7", "9"])
        assert "previous" not in it.cells("#clip-facts"), "the strip tells more"

    on_clips(test_small, size=(80, 24))

    async def test(it: AppUnderTest, screen: LibraryScreen) -> None:
        def find_marked_label() -> str:
            marked = [
                segment.text
                for strip in player.clip_facts.shown_strips
                for segment in strip
                if segment.style is not None and segment.style.reverse
            ]
            return "".join(marked).strip()

        player = await open_player(it, "p")
        await it.until(lambda: find_marked_label() == "frame 1")
        assert "batch created" in it.cells("#clip-facts")
        for key, label in {"right": "frame 1", "l": "3", "G": "9", "left": "7", "g": "frame 1"}.items():
            await it.press(key)
            assert find_marked_label() == label, key
        await it.press("G")
        assert find_marked_label() == "9"
        await it.press("down")
        await it.until(lambda: player.clip_facts._strip.clip == player.clips[0])  # type: ignore[union-attr]
        assert find_marked_label() == "frame 1"

    on_clips(test, size=(140, 40))
