"""Screens of the application under test, with made-up batches on their queue."""

from pathlib import Path
from typing import Any

import numpy as np
from conftest import recipe_for
from harness_tui import application, run

from wantui.batches.eta import QueueEtas
from wantui.engine.control import Engine
from wantui.models.catalogue import NANO
from wantui.queue.queue import Queue
from wantui.queue.records import (
    BatchRow,
    Claim,
    NewVideo,
    VideoRow,
)
from wantui.storage.preview_files import (
    PreviewFolder,
    make_preview_folder_path,
    write_preview,
)
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.screens.compose import ComposeScreen

RECIPE = recipe_for(NANO, steps=20).model_copy(update={"model": "nano"}).to_json()


def add(queue: Queue, name: str, videos: int = 3) -> int:
    folder = Path(name).absolute()
    folder.mkdir(exist_ok=True)
    return queue.add_batch(folder, "auto", [NewVideo(i, f"red seed {42 + i}", RECIPE, 20) for i in range(videos)])


def claim(queue: Queue, worker: str = "worker-0:1") -> Claim:
    result = queue.claim_next_video(worker, ("auto", "cpu"))
    assert result is not None
    return result


def on(screen: str, test: Any, **options: Any) -> None:
    """Run a test on one of the screens."""
    number = str(["compose", "queue", "monitor", "library", "analysis"].index(screen) + 1)

    async def go() -> None:
        async with application(**options) as it:
            await it.press(number)
            await it.until(lambda: it.app.screen.name == screen)
            await test(it)

    run(go)


def write_previews(folder: Path, steps: int) -> Path:
    """Write the previews of steps, each of one grey value, as a worker does; return the latest strip."""
    path = folder / "v.preview.png"
    earlier = PreviewFolder(make_preview_folder_path(path))
    for step in range(1, steps + 1):
        frames = np.full((3, 8, 8, 3), 10 * step, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None]
        write_preview(path, frames)
        earlier.add_preview(step, frames)
    return path


async def go_to(it, key: str) -> None:  # type: ignore[no-untyped-def]
    """Put the cursor of the form on a setting."""
    screen = it.screen(ComposeScreen)
    await it.until(lambda: screen.config)
    await it.press("escape", "s")
    keys = [getattr(entry, "key", None) for entry in screen.config_pane.settings_form.entries]
    screen.config_pane.settings_form.field_list.cursor = keys.index(key)
    await it.pilot.pause()


def make_snapshot(**changes: object) -> QueueSnapshot:
    """Return a snapshot of a queue with two batches, of which one video of three is running at step 5 of 20."""
    running = VideoRow(2, 1, 1, "red", "running", 0, "worker-0:1", 5, 20, None, 0.0, None, None, None)
    values = {
        "batches": (
            BatchRow(1, Path("/o/one"), "auto", False, 0.0, {"done": 1, "running": 1, "queued": 1}),
            BatchRow(2, Path("/o/two"), "auto", False, 0.0, {"queued": 1_997}),
            BatchRow(3, Path("/o/old"), "auto", False, 0.0, {"done": 50}),
        ),
        "running_videos": (running,),
        "engine": Engine(4711, 0.0, Path("logs"), "1.0", ("auto", "cuda:0")),
        "etas": QueueEtas({}, {1: 60.0, 2: 3_753.0}),
    }
    return QueueSnapshot(**(values | changes))  # type: ignore[arg-type]
