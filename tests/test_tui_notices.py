"""Notices of the terminal (taskbar, desktop notifications), and tui.yaml being read again when it changes."""

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dialogs import counted_bytes
from harness_screens import make_snapshot
from harness_tui import application, engine_announced, run

from wantui.cli.tui import run_application
from wantui.errors import UserError
from wantui.queue.events import VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import Hold, NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.tui import settings as tui_settings
from wantui.tui.app import WantuiApp
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.settings import SETTINGS_PATH_VARIABLE, TuiSettings, load_settings
from wantui.tui.settings_watcher import SettingsWatcher
from wantui.tui.terminal.notices import NoticeSupport, TerminalNotices, detect_notice_support, format_progress

pytestmark = pytest.mark.terminal


@pytest.mark.parametrize(
    ("environment", "support"),
    [
        ({"TERM": "xterm-256color"}, NoticeSupport()),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-kitty"}, NoticeSupport(False, "osc99")),
        ({"TERM": "xterm-ghostty"}, NoticeSupport(True, "osc9")),
        ({"TERM_PROGRAM": "WezTerm", "TERM_PROGRAM_VERSION": "20240203-110809-5046fc22"}, NoticeSupport(False, "osc9")),
        ({"TERM_PROGRAM": "WezTerm", "TERM_PROGRAM_VERSION": "20260101-1"}, NoticeSupport(True, "osc9")),
        ({"TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "3.5.14"}, NoticeSupport(False, "osc9")),
        ({"TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "3.6.6"}, NoticeSupport(True, "osc9")),
        ({"TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "?"}, NoticeSupport(False, "osc9")),
        ({"LC_TERMINAL": "iTerm2", "LC_TERMINAL_VERSION": "3.6.10"}, NoticeSupport(True, "osc9")),
        ({"WT_SESSION": "1"}, NoticeSupport(True, None)),
        ({"ConEmuANSI": "ON"}, NoticeSupport(True, None)),
        ({"ConEmuANSI": "OFF"}, NoticeSupport()),
        ({"TERM": "xterm-ghostty", "TMUX": "/tmp/tmux,1,0"}, NoticeSupport()),
    ],
)
def test_known_terminals_get_the_notices_that_they_support(environment: dict[str, str], support: NoticeSupport) -> None:
    assert detect_notice_support("auto", environment) == support
    assert detect_notice_support("off", environment) == NoticeSupport()


def test_notices_can_be_forced_in_tmux_and_in_unknown_terminals() -> None:
    assert detect_notice_support("on", {"TERM": "xterm"}) == NoticeSupport(True, "osc9")
    assert detect_notice_support("on", {"TERM": "screen", "TMUX": "x"}) == NoticeSupport(True, "osc9", True)
    assert detect_notice_support("on", {"TMUX": "x", "KITTY_WINDOW_ID": "1"}) == NoticeSupport(True, "osc99", True)
    assert detect_notice_support("on", {"KITTY_WINDOW_ID": "1"}) == NoticeSupport(False, "osc99")


@pytest.mark.parametrize(
    ("snapshot", "parameters"),
    [
        (QueueSnapshot(), "0;0"),
        (make_snapshot(engine=None), "0;0"),
        (make_snapshot(batches=make_snapshot().batches[:1]), "1;41"),  # 1 of 3 videos, and 5 of 20 steps of another
        (make_snapshot(hold=Hold("paused", "it was paused", None, None)), "4;0"),
        (make_snapshot(batches=(replace(make_snapshot().batches[0], counts={"failed": 1, "queued": 1}),)), "2;62"),
    ],
)
def test_progress_has_a_state_and_a_percentage(snapshot: QueueSnapshot, parameters: str) -> None:
    assert format_progress(snapshot) == parameters


def test_progress_is_sent_only_when_it_changes_and_removed_at_the_end() -> None:
    written: list[str] = []
    notices = TerminalNotices(written.append)
    notices.change_support(NoticeSupport(True, "osc9"))
    for snapshot in [QueueSnapshot(), make_snapshot(), make_snapshot(), QueueSnapshot(), QueueSnapshot()]:
        notices.show_progress(snapshot)
    notices.clear_progress()
    assert written == ["\x1b]9;4;1;0\x1b\\", "\x1b]9;4;0;0\x1b\\"]


@pytest.mark.parametrize(
    ("support", "written"),
    [
        (NoticeSupport(), []),
        (NoticeSupport(True, "osc9"), ["\x1b]9;wantui: one: 3 of 3 done\\x07\x1b\\"]),
        (NoticeSupport(False, "osc99"), ["\x1b]99;;wantui: one: 3 of 3 done\\x07\x1b\\"]),
        (
            NoticeSupport(True, "osc9", is_in_tmux=True),
            ["\x1bPtmux;\x1b\x1b]9;wantui: one: 3 of 3 done\\x07\x1b\x1b\\\x1b\\"],
        ),
    ],
)
def test_notification_is_framed_for_its_terminal_and_escaped(support: NoticeSupport, written: list[str]) -> None:
    sent: list[str] = []
    notices = TerminalNotices(sent.append)
    notices.change_support(support)
    notices.notify("one: 3 of 3 done\x07")
    assert sent == written
    notices.notify("x" * 10_000)
    assert all(len(text) < 250 for text in sent)


def test_ended_batch_notifies_through_the_terminal() -> None:
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("/outputs/one"), "auto", [NewVideo(0, "red", "{}", 20)])

    async def test() -> None:
        async with application() as it:
            it.app.terminal_notices.change_support(NoticeSupport(True, "osc9"))
            await it.until(lambda: it.app.snapshot.batches)
            with counted_bytes(it.app) as written:
                claimed = queue.claim_next_video("worker-0:1", ["auto"])
                assert claimed is not None
                queue.record_done(claimed, VideoDone(seconds={"step": 0.1}, device="cpu", memory_plan=""))
                await it.until(lambda: "\x1b]9;wantui: one: 1 of 1 done\x1b\\" in written)
                assert "\x1b]0;wantui: all done\x07" in written

    with engine_announced():
        run(test)


def test_headless_and_browser_applications_get_no_notices() -> None:
    async def test() -> None:
        async with application(notifications="on") as it:
            assert it.app.terminal_notices.support == NoticeSupport()

    run(test)


# tui.yaml


@pytest.mark.parametrize(("text", "value"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_notifications_setting_accepts_yaml_booleans(
    text: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "tui.yaml"
    path.write_text(f"notifications: {text}\n")
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    assert load_settings().notifications == value


@pytest.fixture
def settings_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path of a tui.yaml that chooses a theme."""
    path = tmp_path / "tui.yaml"
    path.write_text("theme: nord\n")
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    return path


def test_watcher_publishes_valid_settings_and_reasons(settings_path: Path) -> None:
    published: list[TuiSettings | str] = []
    arrived = threading.Event()

    def publish(value: TuiSettings | str) -> None:
        published.append(value)
        arrived.set()

    def change(apply_change: Callable[[], object]) -> TuiSettings | str:
        arrived.clear()
        apply_change()
        assert arrived.wait(20)
        return published[-1]

    watcher = SettingsWatcher(publish, publish, poll_seconds=0.01)
    watcher.start()
    try:
        settings = change(lambda: settings_path.write_text("theme: dracula\n"))
        assert isinstance(settings, TuiSettings)
        assert settings.theme == "dracula"
        assert "did you mean theme" in str(change(lambda: settings_path.write_text("theem: dracula\n")))
        assert "not valid YAML" in str(change(lambda: settings_path.write_text("theme: [")))
        assert "no such file" in str(change(settings_path.unlink))
        assert isinstance(change(lambda: settings_path.write_text("bell: no\n")), TuiSettings)
        assert len(published) == 5
    finally:
        watcher.stop()


def test_settings_that_change_while_the_application_starts_are_read_again(
    settings_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()

    def load_and_change() -> TuiSettings:
        settings = load_settings()
        settings_path.write_text("theme: dracula\n")
        return settings

    def watch_settings(app: WantuiApp, **_: object) -> None:
        watcher = app.settings_watcher
        watcher.poll_seconds = 0.01
        watcher.publish_settings = lambda settings: arrived.set() if settings.theme == "dracula" else None
        watcher.start()
        assert arrived.wait(5)
        watcher.stop()

    monkeypatch.setattr(tui_settings, "load_settings", load_and_change)
    monkeypatch.setattr(WantuiApp, "run", watch_settings)
    monkeypatch.setattr(gc, "disable", lambda: None)
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.headless_driver:HeadlessDriver")
    with pytest.raises(SystemExit):
        run_application(low_bandwidth=False, captures_mouse=False)
    assert arrived.is_set()


def test_application_that_the_system_gives_no_threads_is_an_error_message(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started_threads: list[threading.Thread] = []

    def start_three(thread: threading.Thread) -> None:
        if len(started_threads) == 3:
            raise RuntimeError("can't start new thread")
        started_threads.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    monkeypatch.setattr(gc, "disable", lambda: None)
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.headless_driver:HeadlessDriver")
    with pytest.raises(UserError, match=r"needs 8 more threads, but the system starts only 3\. Close other programs"):
        run_application(low_bandwidth=False, captures_mouse=False)
    assert not any(thread.is_alive() for thread in started_threads)


def test_changed_settings_are_applied_and_invalid_ones_are_not(settings_path: Path) -> None:
    async def test() -> None:
        async with application(theme="nord") as it:
            it.app.settings_watcher.poll_seconds = 0.01
            await it.press("2")
            await it.until(lambda: it.app.screen.name == "queue")
            settings_path.write_text("theme: dracula\nkeys: {app.help: z}\ngpu_panel: hidden\n")
            await it.until(lambda: it.app.theme == "dracula" and "tui.yaml was read again" in it.notifications())
            await it.until(lambda: "z Help" in it.text().splitlines()[-1])
            assert it.app.gpu_panel_mode == "hidden"
            settings_path.write_text("theme: gruvbox\nkeys: {app.hlep: z}\n")
            await it.until(lambda: "did you mean app.help?" in it.notifications())
            assert it.app.theme == "dracula"
            assert it.app.settings.keys == {"app.help": "z"}

    run(test)


def test_unchanged_settings_keep_later_choices_of_the_user(settings_path: Path) -> None:
    async def test() -> None:
        async with application(theme="nord") as it:
            it.app.settings_watcher.poll_seconds = 0.01
            it.app.choose_theme("wantui-light")
            settings_path.write_text("theme: nord\nlow_bandwidth: true\n")
            await it.until(lambda: "low_bandwidth takes effect at the next start" in it.notifications())
            assert it.app.theme == "wantui-light"

    run(test)
