"""`wantui demo`: a batch from nothing, its analysis, and what a second call reuses or continues."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import MakeOnce, Wantui, engine_of_this_process, only_queued
from harness_tui import application, run
from synthetic_videos import synthetic_videos

from wantui.analysis.compare import compare_groups
from wantui.batches import demo
from wantui.batches.batch_folders import create_batch_folder
from wantui.cli import main, tui
from wantui.engine import control
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import read_frames
from wantui.tui.drafts import load_drafts
from wantui.tui.screens.library import LibraryScreen

SMALL_SETTINGS = {
    "videos_per_variation": "3",
    "model_settings.steps": "2",
    "video_settings.width": "32",
    "video_settings.height": "32",
    "video_settings.frames": "5",
}


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo generate few tiny videos."""
    monkeypatch.setattr(demo, "DEMO_SETTINGS", demo.DEMO_SETTINGS | SMALL_SETTINGS)


@pytest.fixture
def finished_demo(small_demo: None, make_once: MakeOnce) -> Path:
    """Copy a finished demo to the output folder of the running test, where a demo of the same recipe reuses it."""

    def generate(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(control, "ensure_engine", engine_of_this_process)
            patch.setenv("XDG_STATE_HOME", str(folder / "state"))
            main(["demo", "--no-open", "-o", str(folder / "outputs")])

    shutil.copytree(make_once("demo", generate) / "outputs", "outputs")
    (folder,) = list_demo_folders()
    return folder


def list_demo_folders() -> list[Path]:
    return sorted(Path("outputs").glob("demo_*"))


@pytest.mark.torch
@pytest.mark.usefixtures("small_demo")
def test_demo_generates_a_batch_with_overlay_report_and_answer(wantui: Wantui) -> None:
    result = wantui("demo")
    assert result.code == 0
    (folder,) = list_demo_folders()
    manifest = read_manifest(BatchFolder(folder))
    assert manifest.count_states() == {"done": 6}
    overlay = folder / "analysis" / f"{manifest.videos[0].id}_circle.mp4"
    assert [frame.shape for frame in read_frames(overlay)] == [(32, 32, 3)] * 5
    assert "red against blue" in (folder / "analysis" / "comparison.html").read_text()
    place, room, path, note, *others = result.out.splitlines()
    assert place.startswith("place: cannot tell whether red and blue lie apart. distance ")
    assert place.endswith("smallest possible p 0.25")
    assert room.startswith("room: cannot tell in ")
    assert path.startswith("path: cannot tell in ")
    assert note == "note: 3 seeds cannot give a p of 0.05: generate at least 6"
    paths = [line for line in others if not line.startswith("note: ")]
    assert paths == [f"batch: {folder}", f"overlay: {overlay}", f"report: {folder}/analysis/comparison.html"]
    phases = [line for line in result.err.splitlines() if line.startswith("[")]
    assert [phase[:5] for phase in phases] == ["[1/3]", "[2/3]", "[3/3]"]


@pytest.mark.torch
def test_demo_reuses_a_finished_batch_unless_fresh(wantui: Wantui, finished_demo: Path) -> None:
    Path("elsewhere").mkdir()
    finished_demo.rename(Path("elsewhere", finished_demo.name))
    again = wantui("demo", "-o", "elsewhere")
    assert f"batch: elsewhere/{finished_demo.name}" in again.out.splitlines()
    assert "reusing elsewhere/demo_" in again.err
    assert len(list(Path("elsewhere").glob("demo_*"))) == 1
    first = wantui("demo", "-o", "elsewhere", "--fresh")
    assert first.code == 0
    (folder,) = {path.name for path in Path("elsewhere").glob("demo_*")} - {finished_demo.name}
    assert first.out.replace(folder, finished_demo.name) == again.out


@pytest.mark.torch
@pytest.mark.usefixtures("small_demo")
def test_demo_continues_a_killed_demo(wantui: Wantui) -> None:
    create_batch_folder(demo.plan_demo_batch())  # killed before the batch was queued
    Path("outputs/demo_29990101_000000").mkdir()  # killed before the manifest was written
    result = wantui("demo")
    assert result.code == 0
    assert "continue with 6 videos" in result.err
    folder = list_demo_folders()[0]
    manifest = read_manifest(BatchFolder(folder))
    assert manifest.count_states() == {"done": 6}
    (folder / manifest.videos[2].files["clip"]).unlink()
    assert "continue with 1 video" in wantui("demo").err
    assert len(list_demo_folders()) == 2


@pytest.mark.torch
@pytest.mark.usefixtures("finished_demo")
def test_demo_generates_a_new_batch_if_the_recipe_differs(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "reusing" in wantui("demo").err
    monkeypatch.setattr(demo, "DEMO_SETTINGS", demo.DEMO_SETTINGS | {"model_settings.steps": "3"})
    assert wantui("demo").code == 0
    assert len(list_demo_folders()) == 2


@pytest.mark.usefixtures("small_demo")
def test_interrupted_demo_says_how_to_follow_it_again(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wantui.cli.follow.follow_batch", interrupt)
    with only_queued():
        result = wantui("demo")
    assert result.code == 130
    assert "Follow it again: wantui demo" in result.err
    (batch,) = Queue(find_state_directory().directory).list_batches()
    assert batch.unfinished_count == 6


@pytest.mark.usefixtures("small_demo")
def test_failed_demo_names_the_reason(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(queue: Queue, batch: object, *_: object, **__: object) -> object:
        (row,) = queue.list_batches()
        queue.cancel_videos(row.id)
        return queue.get_batch(row.id)

    monkeypatch.setattr("wantui.cli.follow.follow_batch", cancel)
    with only_queued():
        result = wantui("demo")
    assert result.code == 1
    assert "cannot finish the demo: cancelled. Try again: wantui demo" in result.err


@pytest.mark.torch
@pytest.mark.usefixtures("finished_demo")
def test_demo_on_a_terminal_opens_the_library_with_the_answer(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(tui, "run_application", lambda *_, **options: opened.append(options))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert wantui("demo", "--no-open").code == 0
    assert opened == []
    assert wantui("demo").code == 0
    (folder,) = list_demo_folders()
    (options,) = opened
    assert options["batch"] == folder.resolve()
    note_lines = options["batch_note"].splitlines()
    assert [line.partition(":")[0] for line in note_lines] == ["place", "room", "path", "A"]
    assert note_lines[0] == "place: cannot tell whether red and blue lie apart"
    assert "distance" not in options["batch_note"], "numbers would fill a terminal of 80x24"


@pytest.mark.parametrize(("seeds", "is_noted"), [(5, False), (6, True)])
def test_demo_says_once_that_its_seeds_are_the_fewest(tmp_path: Path, seeds: int, is_noted: bool) -> None:
    comparison = compare_groups(synthetic_videos(tmp_path, {"red": 1.0, "blue": 1.0}, seeds), "1")
    lines = demo.describe_demo_answer(comparison)
    note = "note: 6 seeds are the fewest that can show a difference; use more in a study"
    assert lines.count(note) == is_noted
    assert sum("seeds cannot give" in line for line in lines) == (not is_noted)


@pytest.mark.terminal
def test_application_notifies_about_the_opened_batch() -> None:
    async def test() -> None:
        folder, _ = create_batch_folder(demo.plan_demo_batch())
        opened = folder.root.resolve()
        async with application(welcomed=False, toasts=True, opened_batch=opened, opened_batch_note="the answer") as it:
            await it.until(lambda: isinstance(it.app.screen, LibraryScreen))
            await it.until(lambda: "the answer" in it.notifications())
        assert load_drafts(find_state_directory().directory).welcomed

    run(test)


def test_application_and_command_run_the_same_demo() -> None:
    settings = demo.plan_demo_batch().config.settings
    assert settings.attention_analysis_settings.store_attention
    assert (settings.videos_per_variation, settings.model_settings.device) == (6, "cpu")
    assert json.loads(demo.plan_demo_batch().first_recipe.to_json())["seed"] == 42
