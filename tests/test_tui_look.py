"""What all screens share: themes, the cursor of lists, and keys of lists."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from harness_screens import make_snapshot
from harness_tui import application, run
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.color import Color
from textual.css.stylesheet import Stylesheet, StylesheetParseError
from textual.scrollbar import ScrollBar
from textual.theme import Theme

from wantui.batches.eta import QueueEtas
from wantui.queue.events import BatchHeld, QueueHeld, VideoInterrupted, VideoOnOneGpu
from wantui.queue.records import TEMPORARY_HOLD_KINDS, Hold, QueueEvent, WorkerRow, describe_hold
from wantui.queue.state_dir import find_state_directory
from wantui.tui.actions import SCREEN_TITLES
from wantui.tui.announcements import announce_changes
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.block_characters import PICTURE_STYLE
from wantui.tui.colourless import ColourlessFilter
from wantui.tui.drafts import load_drafts
from wantui.tui.monitor.states import explain_idle_queue, list_monitor_rows
from wantui.tui.plots import draw_picture
from wantui.tui.queue_progress import QueueProgress, measure_queue_progress
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.stylesheet import ThemeStylesheet
from wantui.tui.themes import ANSI_THEMES, WANTUI_THEMES, ThemedApp, choose_first_theme, derive_colours
from wantui.tui.widgets.diff_text import make_strip
from wantui.tui.widgets.header import Header
from wantui.tui.widgets.matrix_cells import draw_thumbnail
from wantui.tui.widgets.picture_view import PictureView
from wantui.tui.widgets.virtual_list import CURSOR_GLYPH, VirtualList

pytestmark = pytest.mark.terminal


def _compute_contrast(first: Color, second: Color) -> float:
    """Return the contrast ratio of WCAG 2: (L1 + 0.05) / (L2 + 0.05), with relative luminances."""

    def luminance(colour: Color) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (colour.r / 255, colour.g / 255, colour.b / 255)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_scroll_bar_has_only_whole_cells_at_every_position() -> None:
    ThemedApp()
    bars = [ScrollBar.renderer.render_bar(size=12, virtual_size=45, window_size=12, position=row) for row in range(34)]
    assert {segment.text for bar in bars for segment in bar.segments} == {" "}
    thumbs = [[segment.style is not None and segment.style.reverse for segment in bar.segments] for bar in bars]
    assert all(len(thumb) == 12 and 3 <= thumb.count(True) <= 4 for thumb in thumbs)
    assert thumbs[0][0]
    assert thumbs[-1][-1]


@pytest.mark.parametrize("theme", WANTUI_THEMES, ids=lambda theme: theme.name)
def test_theme_text_is_readable_on_every_background(theme: Theme) -> None:
    variables = theme.to_color_system().generate() | theme.variables
    backgrounds = ["background", "surface", "panel", "cursor-background", "cursor-blurred-background"]
    for text_name in ("foreground", "success", "warning", "error", "accent", "text-muted"):
        for background_name in backgrounds:
            contrast = _compute_contrast(Color.parse(variables[text_name]), Color.parse(variables[background_name]))
            minimum = 3.0 if text_name == "text-muted" and "cursor" in background_name else 4.0
            assert contrast >= minimum, (text_name, background_name, contrast)


@pytest.mark.parametrize("theme", [*WANTUI_THEMES, *ANSI_THEMES], ids=lambda theme: theme.name)
def test_findings_have_a_colour_of_their_own(theme: Theme) -> None:
    found = derive_colours(theme)["found"]
    assert found not in (theme.accent, theme.success, theme.warning, theme.error, theme.foreground)
    if not theme.ansi:
        background = Color.parse(theme.background or "")
        assert _compute_contrast(Color.parse(found), background) > _compute_contrast(
            Color.parse(theme.foreground or ""), background
        )


@pytest.mark.parametrize("theme", [*WANTUI_THEMES, *ANSI_THEMES], ids=lambda theme: theme.name)
def test_states_have_different_colours(theme: Theme) -> None:
    colours = [theme.accent, theme.success, theme.warning, theme.error]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(
    ("chosen", "color_system", "is_colourless", "theme"),
    [
        (None, "truecolor", False, "wantui-dark"),
        (None, "256", False, "wantui-dark"),
        (None, "standard", False, "ansi-dark"),
        (None, "truecolor", True, "ansi-dark"),
        ("nord", "standard", True, "nord"),
    ],
)
def test_first_theme_fits_the_terminal(chosen: str | None, color_system: str, is_colourless: bool, theme: str) -> None:
    assert choose_first_theme(chosen, color_system, is_colourless) == theme


@pytest.mark.parametrize("name", ["textual-dark", "nord", "ansi-light", "wantui-light"])
def test_theme_of_the_settings_is_shown_and_not_stored_as_a_choice(name: str) -> None:
    async def test() -> None:
        async with application(theme=name) as it:
            assert it.app.theme == name
            it.app.save_drafts_or_notify(is_last=True)
            assert load_drafts(find_state_directory().directory).theme is None

    run(test)


def test_unknown_theme_is_reported_and_replaced_by_the_default() -> None:
    async def test() -> None:
        async with application(theme="sunset") as it:
            assert it.app.theme == "wantui-dark"
            assert "unknown theme 'sunset'" in it.notifications()

    run(test)


def describe_rules(sheet: Stylesheet) -> list[str]:
    return [f"{rule.selectors} {rule.styles.get_rules()} {rule.is_default_rules}" for rule in sheet.rules]


def test_rules_of_every_theme_equal_those_of_a_stylesheet_without_cache() -> None:
    async def test() -> None:
        async with application() as it:
            for theme in (it.app.theme, "nord", it.app.theme):
                it.app.theme = theme
                await it.pilot.pause()
                for number in "12345":
                    await it.press(number)
                stock = Stylesheet(variables=it.app.get_css_variables())
                stock.source = it.app.stylesheet.source.copy()
                stock.parse()
                assert describe_rules(it.app.stylesheet) == describe_rules(stock)

    run(test)


def test_new_screen_has_its_final_styles() -> None:
    async def test() -> None:
        async with application() as it:
            for number in "12345":
                await it.press(number)
                nodes = list(it.app.screen.walk_children(with_self=True))
                first_rules = [node.styles.base.get_rules() for node in nodes]
                it.app.stylesheet.update(it.app.screen)
                assert first_rules == [node.styles.base.get_rules() for node in nodes]

    run(test)


def test_first_dialog_looks_like_later_ones() -> None:
    async def test() -> None:
        async with application() as it:
            looks = []
            for _ in range(2):
                await it.press("f1")
                assert isinstance(it.app.screen, BackdropMixin)
                strips = it.app.screen._compositor.render_strips()
                looks.append([(segment.text, segment.style) for strip in strips for segment in strip])
                await it.press("escape")
            assert looks[0] == looks[1]

    run(test)


def test_invalid_source_of_a_stylesheet_is_refused_and_keeps_the_rules() -> None:
    sheet = ThemeStylesheet(variables={"colour": "red"})
    sheet.add_source("Label { color: $colour; }")
    sheet.reparse()
    css = sheet.css
    assert "#FF0000" in css
    sheet.add_source("Label { colour: blue; }", read_from=("later.tcss", ""))
    with pytest.raises(StylesheetParseError):
        sheet.reparse()
    assert sheet._rules[0].css == css
    sheet.source.clear()
    sheet.add_source("Label { color: $colour; }")
    sheet.set_variables({"colour": "blue"})
    sheet.reparse()
    assert "#0000FF" in sheet.css


class _ListApp(ThemedApp):
    """Two lists of 40 rows, the first with a header."""

    def compose(self) -> ComposeResult:
        yield VirtualList(id="one", header_renderer=lambda width: Text("# name"))
        yield VirtualList(id="two")

    def on_mount(self) -> None:
        for row_list in self.query(VirtualList):
            row_list.fill_rows(40, lambda index, width: Text(f"row {index} of {width}"))


def test_list_keys_move_the_cursor_by_rows_half_pages_and_to_the_ends() -> None:
    async def test() -> None:
        app = _ListApp()
        async with app.run_test(size=(40, 22)) as pilot:
            row_list = app.query_one("#one", VirtualList)
            row_list.focus()
            for keys, row in [
                (["j", "j", "k"], 1),
                (["G"], 39),
                (["g"], 0),
                (["ctrl+d"], 5),  # a list of 11 lines shows 10 rows below its header
                (["ctrl+d", "ctrl+u"], 5),
                (["end"], 39),
                (["ctrl+d"], 39),
                (["home"], 0),
                (["ctrl+u"], 0),
            ]:
                await pilot.press(*keys)
                assert row_list.cursor == row, keys

    run(test)


def test_list_cursor_has_a_sign_in_a_column_of_its_own_and_no_underline() -> None:
    async def test() -> None:
        app = _ListApp()
        async with app.run_test(size=(40, 22)) as pilot:
            one, two = app.query_one("#one", VirtualList), app.query_one("#two", VirtualList)
            one.focus()
            await pilot.pause()
            focused, blurred, plain = one.render_line(1), two.render_line(0), two.render_line(1)
            assert [strip.text.rstrip() for strip in (focused, blurred, plain)] == [
                "▌row 0 of 38", "▌row 0 of 38", " row 1 of 38",
            ]  # fmt: skip
            accent = one.make_colour_style("accent").color
            signs = [strip._segments[0].style or Style.null() for strip in (focused, blurred)]
            assert [style.color == accent for style in signs] == [True, False]
            backgrounds = [(strip._segments[1].style or Style.null()).bgcolor for strip in (focused, blurred, plain)]
            assert len({str(background) for background in backgrounds}) == 3
            for strip in (focused, blurred):
                assert not any(segment.style and segment.style.underline for segment in strip)

    run(test)


def test_clicked_column_excludes_the_gutter() -> None:
    clicks: list[tuple[int, int]] = []

    class ClickedList(VirtualList):
        def click_row(self, index: int, x: int) -> None:
            clicks.append((index, x))

    class ClickApp(App[None]):
        def compose(self) -> ComposeResult:
            yield ClickedList()

    async def test() -> None:
        app = ClickApp()
        async with app.run_test(size=(40, 10)) as pilot:
            app.query_one(ClickedList).fill_rows(3, lambda index, width: Text("row"))
            await pilot.click(ClickedList, offset=(5, 2))
        assert clicks == [(2, 4)]

    run(test)


def test_monitor_names_the_device_of_both_videos_of_a_worker() -> None:
    first = make_snapshot().running_videos[0]
    workers = (WorkerRow("worker-0:1", "ready", "cpu", 1.0), WorkerRow("worker-1:2", "ready", "cuda:0", 1.0))
    snapshot = make_snapshot(running_videos=(first, replace(first, id=3)), workers=workers)
    rows = [(row.worker and row.worker.device, row.video and row.video.id) for row in list_monitor_rows(snapshot)]
    assert rows == [("cpu", 2), ("cpu", 3), ("cuda:0", None)]


def test_queue_progress_counts_unfinished_batches_and_steps_of_running_videos() -> None:
    progress = measure_queue_progress(make_snapshot())
    assert progress == QueueProgress(1, 2_000, (1 + 5 / 20) / 2_000)
    assert measure_queue_progress(QueueSnapshot()) is None


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, "▶ running"),
        (80, "▶ running ─── 1:02:33"),
        (120, "▶ running  ────────  1/2,000  ETA 1:02:33"),
        (160, "gpu1  ▶ running  ────────────  1/2,000 videos  ETA 1:02:33"),
    ],
)
def test_header_shows_the_most_detailed_state_that_fits(width: int, shown: str) -> None:
    async def test() -> None:
        async with application(size=(width, 24)) as it:
            header = it.app.screen.query_one(Header)
            header.show_snapshot(make_snapshot())
            await it.pilot.pause()
            line = it.text().splitlines()[0]
            assert line.endswith(shown)
            assert "5 Analysis" in line
            assert "…" not in line
            assert ("wantui" in line) == (width >= 100)

    run(test)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"hold": Hold("paused", "it was paused", None, None)}, "‖ on hold ─── 1/2,000"),
        ({"engine": None, "running_videos": ()}, "■ no engine ─── 1:02:33"),
        ({"batches": (), "running_videos": (), "etas": QueueEtas({}, {})}, "● engine idle"),
        ({"error": "cannot read the queue: database disk image is malformed"}, "✗ queue error"),
    ],
)
def test_header_at_80_columns_truncates_nothing(changes: dict[str, object], shown: str) -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            it.app.screen.query_one(Header).show_snapshot(make_snapshot(**changes))
            await it.pilot.pause()
            line = it.text().splitlines()[0]
            assert line.endswith(shown)
            assert "…" not in line

    run(test)


def test_screens_name_the_batch_on_hold_once_no_other_batch_can_start() -> None:
    hold = Hold("disk", "no space is left", Path("/o/two"), 10)
    running, waiting, done = make_snapshot().batches
    held = replace(waiting, hold=hold)
    idle_reason, _ = explain_idle_queue(make_snapshot(batches=(running, held, done)), is_engine_starting=False)
    assert idle_reason == "the engine starts a worker for the next video; 2 videos waiting"
    only_held = make_snapshot(batches=(held, done), running_videos=())
    idle_reason, next_step = explain_idle_queue(only_held, is_engine_starting=False)
    assert idle_reason == "no video is running: batch 2 is on hold (no space is left)"
    assert next_step == "It resumes automatically once that is fixed"
    _, next_step = explain_idle_queue(replace(only_held, engine=None), is_engine_starting=False)
    assert next_step.endswith("Press F6 to start one; it will resume batch 2.")
    app = Mock()
    event = QueueEvent(1, 0.0, 2, None, BatchHeld(reason="no space is left", hold="disk"))
    announce_changes(app, QueueSnapshot(), QueueSnapshot(), [event])
    assert app.notify.call_args.args == ("no space is left. It resumes automatically once that is fixed",)
    assert app.notify.call_args.kwargs["title"] == "batch 2 on hold, others continue"

    async def test() -> None:
        async with application(size=(80, 24)) as it:
            it.app.screen.query_one(Header).show_snapshot(only_held)
            await it.pilot.pause()
            assert "‖ on hold" in it.text().splitlines()[0]

    run(test)


@pytest.mark.parametrize("kind", [*TEMPORARY_HOLD_KINDS, "paused", "interrupted", "worker"])
def test_monitor_and_notification_say_how_a_hold_ends(kind: str) -> None:
    is_temporary = kind in TEMPORARY_HOLD_KINDS
    snapshot = make_snapshot(hold=Hold(kind, "no space is left", None, None))
    idle_reason, next_step = explain_idle_queue(snapshot, is_engine_starting=False)
    assert "no space is left" in idle_reason
    assert ("Press F7" in next_step) != is_temporary
    app = Mock()
    event = QueueEvent(1, 0.0, None, None, QueueHeld(reason="no space is left", hold=kind))
    announce_changes(app, QueueSnapshot(), QueueSnapshot(), [event])
    (message,) = app.notify.call_args.args
    assert (message == describe_hold(kind, "no space is left")) == is_temporary
    assert ("Press F7" in message) != is_temporary
    if is_temporary:
        assert next_step == message.removeprefix("no space is left. ")
    for has_engine, is_engine_starting in ((False, False), (True, False), (False, True)):
        changed = snapshot if has_engine else replace(snapshot, engine=None)
        _, next_step = explain_idle_queue(changed, is_engine_starting)
        assert ("F6 to start one" in next_step) == (is_temporary and not has_engine and not is_engine_starting)


def test_killed_worker_is_announced_once_with_the_video_that_is_tried_again() -> None:
    app = Mock()
    died = VideoInterrupted(title="red seed 42", error="signal SIGKILL", worker="worker-0:7")
    stopped = VideoInterrupted(title="red seed 43", error="the engine ended")
    new_events = [QueueEvent(seq, 0.0, 1, seq, payload) for seq, payload in enumerate((died, stopped))]
    announce_changes(app, QueueSnapshot(), QueueSnapshot(), new_events)
    (call,) = app.notify.call_args_list
    assert call.args == ("worker-0:7 died during red seed 42, which is tried again: signal SIGKILL",)
    assert call.kwargs["title"] == "a worker died"


def test_reason_for_one_gpu_is_announced_once_per_batch() -> None:
    app = Mock(announced_one_gpu=set())
    for seq, (batch, reason) in enumerate([(1, "full"), (1, "full"), (2, "full"), (1, "failed"), (2, "full")]):
        event = QueueEvent(seq, 0.0, batch, seq, VideoOnOneGpu(title=f"video {seq}", reason=reason))
        announce_changes(app, QueueSnapshot(), QueueSnapshot(), [event])
    messages = [call.args[0] for call in app.notify.call_args_list]
    assert messages == ["video 0: full", "video 2: full", "video 3: failed"]


def test_click_on_a_tab_opens_its_screen() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            for name in ("library", "queue"):
                column = it.text().splitlines()[0].index(name.capitalize())
                await it.pilot.click(Header, offset=(column, 0))
                await it.until(lambda: it.app.screen.name == name)  # noqa: B023

    run(test)


def test_focused_pane_has_a_heavy_border_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("2")
            await it.until(lambda: it.app.screen.name == "queue")
            assert it.text().splitlines()[1].startswith("┏━ Batches")
            assert it.text().count("┏") == 1
            await it.press("tab")
            await it.until(lambda: not it.text().splitlines()[1].startswith("┏"))
            assert it.text().count("┏") == 1

    run(test)


@pytest.mark.parametrize("is_dark", [True, False])
def test_pictures_are_shades_without_colours(is_dark: bool) -> None:
    def draw(text: str, upper: str | None, lower: str | None) -> str:
        segment = Segment(text, PICTURE_STYLE + Style(color=upper, bgcolor=lower))
        (drawn,) = ColourlessFilter(lambda: is_dark).apply([segment], Color(0, 0, 0))
        assert drawn.style is not None
        assert drawn.style.color == drawn.style.bgcolor == RichColor.default()
        return drawn.text

    shades = [draw("▀▀", f"#{level:02x}{level:02x}{level:02x}", "#000000") for level in (0, 255)]
    assert draw("▀", "#ffffff", "#ffffff") == ("█" if is_dark else " ")
    assert shades == (["  ", "▒▒"] if is_dark else ["██", "▒▒"])
    assert draw("red ▀", "#ffffff", "#000000") == "red ▀"


def test_cursors_and_frames_stay_without_colours() -> None:
    style = Style(color="#0000ff", bgcolor="#000000")
    segments = [Segment(text, style) for text in (CURSOR_GLYPH, *"▐▌▝▀▘▗▄▖")]
    drawn = ColourlessFilter(lambda: True).apply(segments, Color(0, 0, 0))
    assert [segment.text for segment in drawn] == [segment.text for segment in segments]


def test_drawn_pictures_become_shades_in_every_widget() -> None:
    picture = np.full((8, 8, 3), 255, np.uint8)

    class PictureApp(App[None]):
        def compose(self) -> ComposeResult:
            yield PictureView()

    async def test() -> None:
        async with PictureApp().run_test(size=(8, 4)) as pilot:
            view = pilot.app.query_one(PictureView)
            view.show_picture(picture)
            await pilot.pause()
            text = make_strip(draw_picture(picture, 8, 4)[0], 8)
            for segments in (list(view.render_line(0)), draw_thumbnail(picture)[0], list(text)):
                drawn = ColourlessFilter(lambda: True).apply(segments, Color(0, 0, 0))
                assert set("".join(segment.text for segment in drawn)) == {"█"}

    run(test)


def test_terminal_theme_without_colours_draws_with_the_shade_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def test() -> None:
        async with application(size=(80, 24), theme="ansi-dark") as it:
            await it.until(lambda: it.app.native_ansi_color)
            assert any(isinstance(each, ColourlessFilter) for each in it.app._filters)

    run(test)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_selected_tab_is_highlighted_with_a_space_on_each_side(width: int) -> None:
    async def test() -> None:
        async with application(size=(width, 24), theme="ansi-dark") as it:
            for number, title in enumerate(SCREEN_TITLES.values(), start=1):
                await it.press("escape", "f2", str(number))
                await it.until(lambda: it.app.screen.name == title.lower())  # noqa: B023
                header = it.app.screen.query_one(Header)
                await it.until(lambda: header.shown_strips)  # noqa: B023
                reversed_text = "".join(s.text for s in header.shown_strips[0] if s.style and s.style.reverse)
                assert reversed_text == f" {number} {title} "

    run(test)
