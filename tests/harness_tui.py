"""An application under test, with its own queue, fake GPUs, and its screen as text."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fake_nvml import FakeNvml
from textual._context import active_app
from textual.app import App
from textual.events import Paste
from textual.pilot import Pilot
from textual.screen import Screen

from wantui.engine.control import acquire_engine_lock, publish_engine_info
from wantui.queue.state_dir import find_state_directory
from wantui.tui.app import WantuiApp
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.settings import TuiSettings
from wantui.tui.widgets.diff_text import DiffText

Kind = TypeVar("Kind")
TIMEOUT_SECONDS = 60.0
"""Seconds after which a test gives up: a loaded machine is slow, and not broken."""
MAX_SETTLE_SECONDS = 1.0
"""Seconds after which a test continues although the application still does something."""


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test that waits for things."""
    with settling():
        asyncio.run(test())


def run_together(test: Callable[[Kind], Coroutine[Any, Any, None]], cases: Iterable[Kind]) -> None:
    """Run a test of each case, all at the same time, because they mainly wait."""

    async def run_all() -> None:
        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(test(case))

    # Each application redirects the output, and does not end in the opposite order.
    with settling(), redirect_stdout(sys.stdout), redirect_stderr(sys.stderr):
        asyncio.run(run_all())


@contextmanager
def engine_announced() -> Iterator[None]:
    """Hold the engine lock of the state directory, as an engine does that is ready."""
    lock = acquire_engine_lock(find_state_directory().directory)
    assert lock is not None
    publish_engine_info(lock, Path("logs"), ["auto", "cpu"])
    try:
        yield
    finally:
        os.close(lock)


# Textual has no public sign that an application is idle: its own wait_for_idle measures the CPU time of the process, to
# which other applications and threads contribute. The functions below therefore read private attributes.
def has_to_draw(screen: Screen[Any]) -> bool:
    """Return whether a screen will change when it is drawn next, 60 times a second."""
    has_changed = screen._layout_required or screen._scroll_required or screen._repaint_required
    return has_changed or bool(screen._dirty_widgets or screen._callbacks)


yielding: list[App[Any]] = []
"""Applications that let all others do something before they look again whether anything is left to do."""


async def settle(app: App[Any]) -> None:
    """Wait until all messages are processed, the workers that they started have ended, and the screen is drawn.

    A worker that uses no CPU time waits for something, such as the test.
    """
    ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    deadline = time.monotonic() + MAX_SETTLE_SECONDS
    while time.monotonic() < deadline:
        yielding.append(app)
        try:
            await asyncio.sleep(0)
        finally:
            yielding.remove(app)
        if len(ready) > len(yielding):
            continue
        if app._batch_count or app._resize_event is not None:
            await asyncio.sleep(0.005)  # until a timer of Textual fires
        elif app._screen_stack and has_to_draw(app.screen):
            app.screen._on_timer_update()
        elif not all(worker.is_finished for worker in app.workers):
            start = time.process_time()
            await asyncio.sleep(0.01)
            if time.process_time() - start < 0.0005:
                return
        else:
            return


@contextmanager
def settling() -> Iterator[None]:
    """Let pilots wait for what their applications do, instead of for 20 ms in which the process is nearly idle."""

    async def wait_for_idle(*_: float) -> None:
        await settle(active_app.get())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textual.app.wait_for_idle", wait_for_idle)
        patch.setattr("textual.pilot.wait_for_idle", wait_for_idle)
        yield


@asynccontextmanager
async def application(
    size: tuple[int, int] = (120, 40),
    nvml: Any = None,
    welcomed: bool = True,
    toasts: bool = False,
    opened_batch: Path | None = None,
    opened_batch_note: str = "",
    starts_in_template: bool = False,
    **settings: Any,
) -> AsyncIterator["AppUnderTest"]:
    """The application on a made-up terminal, inside `run` or `run_together`; `nvml` are its GPUs (none).

    Unless it `starts_in_template`, the focus is on the configs, where keys are no text.
    """
    nvml = nvml or FakeNvml(nvmlInit=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    app = WantuiApp(
        find_state_directory(),
        TuiSettings(**settings),
        host_name="gpu1",
        nvml=nvml,
        opened_batch=opened_batch,
        opened_batch_note=opened_batch_note,
    )
    app.drafts.welcomed = welcomed
    async with app.run_test(size=size, notifications=toasts) as pilot:
        under = AppUnderTest(app, pilot)
        await under.until(lambda: app.gpu_history.latest_sample is not None)
        await pilot.pause()
        if not starts_in_template and isinstance(app.screen, ComposeScreen):
            app.screen.set_focus(app.screen.config_pane.config_list)
            await pilot.pause()
        yield under


class AppUnderTest:
    """The application and what a test does with it."""

    def __init__(self, app: WantuiApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def paste(self, text: str) -> None:
        """As a terminal does it: into whatever has the focus."""
        self.app.post_message(Paste(text))
        await self.pilot.pause()

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something to become true that is still true once all messages are processed, and return it."""

        def ask() -> Any:
            try:
                return what()
            except LookupError:
                return None

        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if ask():
                await self.pilot.pause()
                if result := ask():
                    return result
            await asyncio.sleep(0.02)
        raise AssertionError(f"waited in vain; the screen:\n{self.text()}\n{self.notifications()}")

    def screen(self, kind: type[Kind]) -> Kind:
        screen = self.app.screen
        assert isinstance(screen, kind), screen
        return screen

    def cells(self, selector: str) -> str:
        return self.app.screen.query_one(selector, DiffText).get_shown_text()

    def text(self, screen: Screen[Any] | None = None) -> str:
        """The screen, line by line."""
        lines = (screen or self.app.screen)._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)

    def notifications(self) -> str:
        """All notifications that are shown."""
        return "\n".join(f"{note.title} {note.message}" for note in self.app._notifications)
