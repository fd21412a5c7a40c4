"""Matrix of the Library while videos of the shown batch are generated: steps, previews, and what ends them."""

from pathlib import Path

import pytest
from clip_batches import write_clip_batch
from conftest import step_done
from harness_screens import RECIPE, claim, on, write_previews
from harness_tui import AppUnderTest, engine_announced

from wantui.queue.events import VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, write_manifest
from wantui.storage.manifest_store import ManifestStore
from wantui.tui.screens.library import LibraryScreen

pytestmark = pytest.mark.terminal

FOLDER = Path("circles")


def add_unfinished_batch(queue: Queue) -> Manifest:
    """Add a batch to the queue, whose first two videos are waiting; its clips are done otherwise."""
    manifest = write_clip_batch(FOLDER, "a [red|blue] circle")
    waiting = []
    for index, video in enumerate(manifest.videos[:2]):
        video.state, video.files = "queued", {}
        waiting.append(NewVideo(index, manifest.make_video_title(video), RECIPE, 20))
    write_manifest(BatchFolder(FOLDER), manifest)
    queue.add_batch(FOLDER.absolute(), "auto", waiting)
    return manifest


def get_cell_colours(it: AppUnderTest, place: tuple[int, int]) -> set[tuple[int, ...]]:
    """Return the colours of a cell's picture; empty without a picture."""
    lines = it.screen(LibraryScreen).matrix._pictures.draw(place, None) or []
    colours = [segment.style.color for line in lines for segment in line if segment.style and segment.style.color]
    return {tuple(colour.triplet) for colour in colours if colour.triplet}


def test_cells_show_steps_and_previews_of_running_videos_and_then_the_clip(
    queue: Queue,
    tmp_path: Path,
) -> None:
    manifest = add_unfinished_batch(queue)
    taken = claim(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "▶ running" in it.cells("#cell #about"))
        assert "a preview follows after the first step" in it.cells("#sheet")
        assert not get_cell_colours(it, (0, 0))
        assert "✓ 2 done" in it.cells("#batch-facts")
        assert "▶ 1 running" in it.cells("#batch-facts")
        assert "· 1 waiting" in it.cells("#batch-facts")
        path = str(write_previews(tmp_path, 5))
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=path))
        await it.until(lambda: get_cell_colours(it, (0, 0)) == {(51, 51, 51)})  # the middle of 50, 51, 52
        assert "▶ 5/20" in it.text()
        assert "5 of 20 steps" in it.cells("#cell #about")
        assert not get_cell_colours(it, (0, 1))
        video = manifest.videos[2]

        def finish(entry: object) -> None:
            entry.state, entry.files = "done", video.files  # type: ignore[attr-defined]

        ManifestStore(BatchFolder(FOLDER)).edit_video_entry(0, finish)
        queue.record_done(taken, VideoDone(title="red seed 42", number=1))
        await it.until(lambda: any(len(set(colour)) > 1 for colour in get_cell_colours(it, (0, 0))))
        await it.until(lambda: "5/20" not in it.text())

    with engine_announced():
        on("library", test, size=(140, 40))


def test_preview_of_a_failed_video_disappears(queue: Queue, tmp_path: Path) -> None:
    add_unfinished_batch(queue)
    taken = claim(queue)

    async def test(it: AppUnderTest) -> None:
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: get_cell_colours(it, (0, 0)))

        def fail(entry: object) -> None:
            entry.state, entry.error = "failed", "it broke"  # type: ignore[attr-defined]

        ManifestStore(BatchFolder(FOLDER)).edit_video_entry(0, fail)
        queue.record_failure(taken, "it broke")
        await it.until(lambda: "✗ failed" in it.cells("#cell #about"))
        assert not it.cells("#sheet").strip()
        await it.until(lambda: not get_cell_colours(it, (0, 0)))

    with engine_announced():
        on("library", test, size=(140, 40))


def test_matrix_shows_no_previews_if_they_are_off(queue: Queue, tmp_path: Path) -> None:
    add_unfinished_batch(queue)
    taken = claim(queue)

    async def test(it: AppUnderTest) -> None:
        queue.record_step(taken, step_done(4, 20, 0.1, 0.9, preview=str(write_previews(tmp_path, 5))))
        await it.until(lambda: "▶ 5/20" in it.text())
        await it.pilot.pause(0.3)
        assert not get_cell_colours(it, (0, 0))

    with engine_announced():
        on("library", test, size=(140, 40), preview_seconds=0.0)


def test_batch_on_hold_shows_the_reason_until_the_hold_ends(queue: Queue) -> None:
    add_unfinished_batch(queue)

    async def test(it: AppUnderTest) -> None:
        await it.until(lambda: "· 2 waiting" in it.cells("#batch-facts"))
        queue.hold_batch(1, "disk", "the disk is full", FOLDER.absolute(), 10**9)
        await it.until(lambda: "the disk is full" in it.cells("#batch-facts"))
        assert "on hold" in it.cells("#batch-facts")
        queue.resume_queue()
        await it.until(lambda: "on hold" not in it.cells("#batch-facts"))

    with engine_announced():
        on("library", test)
