"""The application as a whole: its actions, keys, themes, sizes, settings; and each screen as it looks."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import only_queued, step_done
from fake_nvml import FakeNvml
from harness_screens import RECIPE, add, claim
from harness_tui import AppUnderTest, application, engine_announced, run

from wantui.errors import UserError
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.tui.action import Action
from wantui.tui.actions import ACTIONS_BY_SCREEN, SCREEN_TITLES, iterate_actions
from wantui.tui.app import WantuiApp
from wantui.tui.drafts import load_drafts
from wantui.tui.palette import Palette
from wantui.tui.screens.help import Help
from wantui.tui.settings import SETTINGS_PATH_VARIABLE, check_keys, load_settings
from wantui.tui.widgets.gpu_panel import GpuPanel

pytestmark = pytest.mark.terminal

LOOKS = Path(__file__).parent / "data" / "screens"


def test_every_action_has_a_unique_id_and_a_method() -> None:
    names = [action.id for action in iterate_actions()]
    assert len(names) == len(set(names))

    async def test() -> None:
        async with application() as it:
            for number, name in enumerate(SCREEN_TITLES, start=1):
                await it.press("escape", str(number))
                await it.until(lambda: it.app.screen.name == name)  # noqa: B023
                for where, target in (("app", it.app), (name, it.app.screen)):
                    for action in ACTIONS_BY_SCREEN[where]:
                        method = action.textual_action.partition("(")[0]
                        assert callable(getattr(target, f"action_{method}", None)), action.id

    run(test)


def test_keys_of_a_screen_do_not_conflict() -> None:
    for where in SCREEN_TITLES:
        keys = [
            key
            for action in (*ACTIONS_BY_SCREEN[where], *ACTIONS_BY_SCREEN["app"])
            for key in action.key_names.split(",")
        ]
        assert len(keys) == len(set(keys)), where


def test_number_keys_switch_screens_and_preserve_their_state() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a star")
            await it.press("escape", "3", "1")
            assert "a star" in it.text()
            await it.press("t", "2")
            assert it.app.screen.name == "compose", "a digit is text where text is typed"
            await it.press("f2")
            assert it.app.screen.name == "queue"

    run(test)


def test_help_shows_keys_customized_by_the_user() -> None:
    async def test() -> None:
        async with application(size=(120, 60), keys={"queue.cancel": "z"}) as it:
            await it.press("2", "question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            await it.press(*"cancel the batch")
            await it.until(lambda: "to change this key: queue.cancel in tui.yaml" in it.text())
            assert any("  z  " in line and "Cancel the batch" in line for line in it.text().splitlines())

    run(test)


def test_customized_key_runs_its_action() -> None:
    async def test() -> None:
        async with application(keys={"app.pause": "z"}) as it:
            await it.press("2", "z")
            assert Queue(find_state_directory().directory).read_hold() is not None

    run(test)


def test_palette_finds_actions_of_the_screen() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("2", "ctrl+p")
            await it.until(lambda: "Find an action" in it.text())
            entries = {(entry.group, entry.title) for entry in it.screen(Palette).list_entries()}
            assert {("Queue", "Retry"), ("Application", "Pause all"), ("Theme", "ansi-dark")} <= entries
            await it.paste("pause all")
            await it.until(lambda: "Pause or resume the whole queue" in it.text())
            await it.press("enter")
            await it.until(lambda: Queue(find_state_directory().directory).read_hold() is not None)

    run(test)


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light", "textual-light", "nord"])
def test_every_screen_is_drawn_in_each_theme_and_the_theme_is_saved(theme: str) -> None:
    async def test() -> None:
        async with application() as it:
            it.app.choose_theme(theme)
            for number in "12345":
                await it.press(number)
            await it.until(lambda: load_drafts(find_state_directory().directory).theme == theme)

    run(test)


def test_states_have_words_and_glyphs_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(0, "red", RECIPE, 20)])
    queue.record_failure(claim(queue), "it broke")

    async def test() -> None:
        async with application() as it:
            await it.press("2")
            await it.until(lambda: "✗ failed" in it.text())

    run(test)


@pytest.mark.parametrize("size", [(59, 24), (80, 19)])
def test_too_small_terminal_shows_the_required_size(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with application(size=size) as it:
            await it.until(lambda: "60 columns and 20 lines" in it.text())
            it.app.update_gpu_panel()  # as a sample of the GPUs does, each second
            await it.pilot.pause()
            assert "RAM" not in it.text()
            await it.pilot.resize_terminal(80, 24)
            await it.until(lambda: "60 columns" not in it.text() and "Config" in it.text())

    run(test)


def test_resize_redraws_every_screen_at_full_height() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            for number in "12345":
                await it.press(number)
                for size in ((80, 24), (60, 20), (140, 40)):
                    await it.pilot.resize_terminal(*size)
                    await it.pilot.pause()
                    assert len(it.text().splitlines()) == size[1]

    run(test)


def test_engine_of_another_version_is_reported_and_usable() -> None:
    from wantui.engine import control
    from wantui.engine.control import acquire_engine_lock, publish_engine_info

    lock = acquire_engine_lock(find_state_directory().directory)
    assert lock is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "__version__", "0.0.1-old")
        publish_engine_info(lock, Path("logs"), ["auto", "cpu"])

    async def test() -> None:
        async with application() as it:
            await it.until(lambda: "another version" in it.notifications() or "0.0.1-old" in it.notifications())
            assert "● engine idle" in it.text()

    run(test)


@pytest.mark.parametrize("action", iterate_actions(), ids=lambda action: action.id)
def test_default_keys_are_valid_key_names(action: Action) -> None:
    check_keys({action.id: action.key_names})


def test_keys_may_be_swapped_and_written_as_characters() -> None:
    check_keys({"queue.cancel": "x", "queue.remove": "c,ctrl+shift+f24", "queue.all": "!, less_than_sign, alt+é, +, &"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("theem: nord", "did you mean theme"),
        ("keys: {queue.cancle: x}", "did you mean queue.cancel"),
        ("keys: {app.quit: ctl+q}", "keys.app.quit: no key is named 'ctl+q'; did you mean ctrl+q?"),
        ("keys: {app.quit: F5}", "no key is named 'F5'; did you mean f5?"),
        ("keys: {app.quit: ''}", "keys.app.quit: no key is named ''"),
        ("keys: {app.quit: 'a,,b'}", "keys.app.quit: no key is named ''"),
        ("keys: {queue.cancel: z, queue.retry: z}", "'z' is the key of queue.cancel and of queue.retry"),
        ("keys: {app.quit: '?'}", "is the key of app.help and of app.quit"),
        ("theme: nord\ntheme: dracula", "tui.yaml:2: theme: duplicate key"),
        ("gpu_panel: huge", "gpu_panel"),
        ("theme: [", "not valid YAML"),
        ("- a", "not a mapping"),
        ("output_dirs: ['~nobody-here/x']", "~nobody-here/x"),
    ],
)
def test_invalid_settings_error_names_file_and_problem(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tui.yaml"
    path.write_text(text)
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    with pytest.raises(UserError) as error:
        load_settings()
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_missing_settings_file_gives_defaults_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTINGS_PATH_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_settings().gpu_panel == "line"
    assert not list(tmp_path.glob("*.yaml"))


# How each screen looks


def _something_of_everything() -> None:
    """Two batches, one that runs, one with a failure."""
    queue = Queue(find_state_directory().directory)
    videos = [NewVideo(i, f"romantic seed {42 + i}", RECIPE, 20) for i in range(3)]
    for name in ("kiss", "flowers"):
        queue.add_batch(Path("/outputs") / name, "auto", videos)
    queue.record_failure(claim(queue), "RuntimeError: the encoder failed")
    taken = claim(queue)
    for index in range(8):
        figures = {"norm": 1.0, "velocity": 1.5 - index / 20, "turning": 0.3, "straightness": 0.97}
        queue.record_step(taken, step_done(index, 20, 0.25, 1 - index / 20, **figures))
    queue.db.execute("UPDATE video SET started = 0, finished = 2.5 WHERE state = 'failed'")
    queue.close()


@pytest.mark.parametrize("has_gpus", [True, False])
def test_footer_of_a_new_screen_shows_the_gpu_key_at_once(monkeypatch: pytest.MonkeyPatch, has_gpus: bool) -> None:
    async def test() -> None:
        async with application(size=(200, 40), nvml=FakeNvml() if has_gpus else None) as it:
            monkeypatch.setattr(WantuiApp, "on_gpu_sampled", lambda *_: None)  # no further sample
            await it.press("2")
            await it.until(lambda: it.app.screen.name == "queue" and "Quit" in it.text().splitlines()[-1])
            assert ("F9 GPU size" in it.text().splitlines()[-1]) is has_gpus

    with only_queued():
        run(test)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@pytest.mark.parametrize("screen", list(SCREEN_TITLES))
def test_screen_looks_match_stored_screens(screen: str, size: tuple[int, int]) -> None:
    """WANTUI_NEW_LOOKS=1 writes the looks anew, to be looked at before they are kept."""
    _something_of_everything()
    kept = LOOKS / f"{screen}_{size[0]}x{size[1]}.txt"

    async def test() -> None:
        async with application(size=size, nvml=FakeNvml()) as it:
            if screen == "compose":
                await it.press("t")
                await it.paste("a [romantic|platonic] (kiss)")
                await it.until(lambda: "platonic kiss" in it.text())
                await it.press("escape")
            else:
                await it.press(str(list(SCREEN_TITLES).index(screen) + 1))
                await it.until(lambda: it.app.screen.name == screen and ready(it, screen))
            await it.pilot.pause(0.3)
            look = "\n".join(_steady(line) for line in it.text().splitlines()) + "\n"
            if os.environ.get("WANTUI_NEW_LOOKS"):
                LOOKS.mkdir(parents=True, exist_ok=True)
                kept.write_text(look)
            assert look == kept.read_text()

    with only_queued(), engine_announced():
        run(test)


def ready(it: AppUnderTest, screen: str) -> bool:
    signs: dict[str, Callable[[], bool]] = {
        "queue": lambda: "romantic seed 44" in it.text(),
        "monitor": lambda: "8/20" in it.text() and "0.97" in it.text(),
        "library": lambda: "no batch" in it.text(),
        "analysis": lambda: "no batch here" in it.text(),
    }
    return signs[screen]()


def _steady(line: str) -> str:
    """Without what differs between runs: times, how much of the disk is free, and the history of the load."""
    line = re.sub(r"\b\d\d:\d\d\b", "12:00", line)
    return re.sub(r"°C .*", "°C", re.sub(r"; +[\d.]+ [kMGT]B free.*", " of the disk", line)).rstrip()


def test_footer_shows_the_keys_of_the_screen(queue: Queue) -> None:
    add(queue, "mine")

    async def test() -> None:
        async with application() as it:
            await it.press("2")
            await it.until(lambda: "Retry" in it.text().splitlines()[-1])
            assert "? Help" in it.text().splitlines()[-1]

    run(test)


@pytest.mark.parametrize(
    ("key", "screen", "shown_keys"),
    [("2", "queue", ""), ("3", "monitor", "V Auto  L Log  "), ("4", "library", ""), ("5", "analysis", "")],
)
def test_footer_omits_keys_that_have_nothing_to_act_on(key: str, screen: str, shown_keys: str) -> None:
    async def test() -> None:
        async with application(size=(160, 40)) as it:
            await it.press(key)
            await it.until(lambda: it.app.screen.name == screen)
            assert it.text().splitlines()[-1].strip() == f"{shown_keys}ctrl+q Quit  ? Help  ctrl+p Commands"

    run(test)


def test_footer_adds_keys_when_there_is_something_to_act_on(queue: Queue) -> None:
    async def test() -> None:
        async with application(size=(160, 40)) as it:
            await it.press("2")
            await it.until(lambda: it.app.screen.name == "queue")
            assert "Retry" not in it.text().splitlines()[-1]
            add(queue, "mine")
            await it.until(lambda: "r Retry" in it.text().splitlines()[-1])

    run(test)


@pytest.mark.parametrize(
    ("screen", "key", "reason"),
    [("2", "r", "no batch is selected"), ("3", "c", "no video is running"), ("4", "p", "no video is selected")],
)
def test_key_that_the_footer_omits_tells_the_reason(screen: str, key: str, reason: str) -> None:
    async def test() -> None:
        async with application() as it:
            await it.press(screen)
            await it.until(lambda: it.app.focused is not None and it.app.screen.name != "compose")
            await it.press(key)
            await it.until(lambda: reason in it.notifications())

    run(test)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_every_key_of_compose_is_in_the_footer_or_the_frames(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with application(size=size) as it:
            await it.until(lambda: "t Template" in it.text())
            for text in ("c Config", "s Settings", "v Variations", "w Cost"):
                assert f"─ {text}" in it.text()
            footer = it.text().splitlines()[-1]
            assert "F5 Queue it" in footer
            assert "ctrl+e Editor" in footer
            assert "Template" not in footer

    run(test)


def test_quitting_the_application_leaves_the_queue_unchanged() -> None:
    queue = Queue(find_state_directory().directory)
    queue.add_batch(Path("one").absolute(), "auto", [NewVideo(0, "red", RECIPE, 20)])

    async def test() -> None:
        async with application() as it:
            await it.press("q")
            await it.until(lambda: not it.app.is_running)

    run(test)
    assert [video.state for video in queue.list_videos(1)] == ["queued"]


def test_machine_panel_draws_the_latest_load() -> None:
    async def test() -> None:
        async with application() as it:
            panel = it.app.screen.query_one(GpuPanel)
            assert panel.draw_load_history([0, 100, 100, None], 12).plain == " ⣸⠁" + " " * 9
            assert panel.draw_load_history([0, 100, 100, None], 25).plain == "   last 24 s ⣸⠁" + " " * 10
            latest = panel.draw_load_history(range(40, 100), 43).plain
            assert latest.startswith("   last 60 s ")
            assert panel.draw_load_history(range(100), 60).plain == latest, "two samples a cell, and the latest ones"
            assert not panel.draw_load_history([50], 8).plain, "too narrow"

    run(test)
