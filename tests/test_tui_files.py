"""Files that the screens read by threads: logs and sheets that cannot be read, and the config of a draft."""

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import step_done
from harness_screens import add, claim, go_to, on
from harness_tui import AppUnderTest, application, run
from textual.widgets import TextArea

from wantui.config import ConfigError
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.tui import config_sources
from wantui.tui.drafts import Drafts, save_drafts
from wantui.tui.monitor import data as monitor_data
from wantui.tui.monitor.data import read_log_tail
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.monitor import MonitorScreen
from wantui.tui.screens.yaml_editor import YamlEditor

pytestmark = pytest.mark.terminal

NANO_FILE = "model_settings:\n  model_id: nano\n  steps: 5\n"


@pytest.fixture
def config_file() -> Path:
    path = Path("configs/mine.yaml")
    path.parent.mkdir()
    path.write_text(NANO_FILE)
    save_drafts(find_state_directory().directory, Drafts(welcomed=True, config=str(path)))
    return path


def test_log_is_read_again_after_a_failed_read(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    add(queue, "one")
    Path("one/logs").mkdir()
    Path("one/logs/batch.log").write_text("the first line\n")
    failures = []

    def fail(*_: Any) -> None:
        failures.append(1)
        raise MemoryError("no room")

    monkeypatch.setattr(monitor_data, "read_log_tail", fail)

    async def test(it: AppUnderTest) -> None:
        it.screen(MonitorScreen)
        claimed = claim(queue)
        queue.record_step(claimed, step_done(0, 20, 0.25, 1.0))
        await it.until(lambda: failures)
        await it.until(lambda: "cannot read monitor files: MemoryError" in it.notifications())
        monkeypatch.undo()
        await it.until(lambda: "the first line" in it.text())

    on("monitor", test)


def test_log_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "batch.log"
    os.mkfifo(pipe)
    assert read_log_tail(pipe, None) is None
    assert read_log_tail(tmp_path, None) is None


def test_changing_a_setting_does_not_reread_the_config(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            reads: list[Path] = []

            def refuse(path: Path) -> str:
                reads.append(path)
                raise ConfigError([])

            monkeypatch.setattr(config_sources, "read_config_text", refuse)
            for value, changes in (("7", {"model_settings.steps": "7"}), ("5", {})):
                await go_to(it, "model_settings.steps")
                await it.press("enter")
                screen.config_pane.settings_form.value_input.value = value
                await it.pilot.pause()
                await it.press("enter")
                await it.until(lambda: it.app.drafts.changes == changes)  # noqa: B023
                assert screen.config is not None
                assert screen.config.settings.model_settings.steps == int(value)
            assert not reads

    run(test)


def test_yaml_editor_shows_the_config_as_changed_on_disk(config_file: Path) -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            config_file.write_text(NANO_FILE.replace("5", "6"))
            os.utime(config_file, (0, 1))
            await it.press("y")
            editor = await it.until(lambda: isinstance(it.app.screen, YamlEditor) and it.app.screen)
            assert "steps: 6" in editor.query_one(TextArea).text
            assert "changed on disk" in it.notifications()

    run(test)


def test_config_replaced_by_a_file_of_equal_size_and_time_is_read_again(config_file: Path) -> None:
    draft_text = config_sources.read_config_file(config_file)
    status = config_file.stat()
    replacement = config_file.with_name("other.yaml")
    replacement.write_text(NANO_FILE.replace("5", "6"))
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` does
    replacement.replace(config_file)
    current = draft_text.reload_file()
    assert current is not None
    assert "steps: 6" in current.yaml_text
    assert current.reload_file() is current


def test_config_that_cannot_be_reached_is_not_reported_as_deleted(config_file: Path) -> None:
    draft_text = config_sources.read_config_file(config_file)
    target = config_file.rename(config_file.with_name("kept.yaml"))
    config_file.symlink_to(config_file.name)  # a loop, which cannot be opened (ELOOP), even by root
    assert draft_text.reload_file() is draft_text
    current = config_sources.read_config_file(config_file)
    assert "cannot be read" in str(current.error)
    config_file.unlink()
    assert current.reload_file() is None
    target.rename(config_file)
    reloaded = current.reload_file()
    assert reloaded is not None
    assert reloaded.yaml_text == NANO_FILE


@pytest.mark.parametrize("failing_calls", [(1, 2), (2,)])
def test_draft_keeps_its_config_while_descriptors_are_lacking(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, failing_calls: tuple[int, ...]
) -> None:
    draft_text = config_sources.read_config_file(config_file)
    config_file.write_text(NANO_FILE.replace("5", "16"))
    open_file, calls = os.open, itertools.count(1)

    def refuse_calls(*args: Any, **options: Any) -> int:
        if next(calls) in failing_calls:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_calls)
        assert draft_text.reload_file() is draft_text
    reloaded = draft_text.reload_file()
    assert reloaded is not None
    assert "steps: 16" in reloaded.yaml_text


def test_unreadable_config_is_reported_and_reloaded_once_readable(config_file: Path) -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config)
            config_file.write_bytes(b"\xff")
            os.utime(config_file, (0, 1))
            screen.config_pane.check_file()
            await it.until(lambda: screen.config is None)
            assert "it is not UTF-8" in it.notifications()
            await it.press("y")
            await it.until(lambda: f"cannot read {config_file}" in it.notifications())
            config_file.write_text(NANO_FILE)
            screen.config_pane.check_file()
            await it.until(lambda: screen.config and screen.config.settings.model_settings.steps == 5)

    run(test)
