"""Library commands: list batches, show them, move them to the trash; and the GPU command."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from clip_batches import write_clip_batch
from conftest import TEMPLATE, MakeOnce, Wantui, batch, copy_batch, generate_batch, only_queued

from wantui.batches.batch_folders import create_batch_folder
from wantui.config import load_config
from wantui.errors import UserError
from wantui.planning import plan_batch
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.storage import batch_index
from wantui.storage.batch_index import find_batches, move_to_trash
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.manifest_errors import REPAIR_ADVICE


@pytest.fixture
def generated_batch(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    options = ("-t", TEMPLATE, "--videos-per-variation", 1, *small)
    return copy_batch(make_once("two-videos", lambda folder: generate_batch(folder, *options)))


def test_library_lists_and_searches_batches(wantui: Wantui, generated_batch: BatchFolder) -> None:
    listed = wantui("library", "ls")
    assert listed.code == 0
    assert "2/2" in listed.out
    assert TEMPLATE in listed.out
    assert generated_batch.root.name not in wantui("library", "ls", "--search", "square").out
    (result,) = json.loads(wantui("library", "ls", "--search", "CIRCLE red", "--json").out)
    assert result["counts"] == {"done": 2}


def test_library_ls_finds_settings_and_samplers_as_the_application_does(
    wantui: Wantui, generated_batch: BatchFolder
) -> None:
    recipe = read_manifest(generated_batch).videos[0].recipe
    name = generated_batch.root.name
    for words in (f"steps={recipe.steps}", f"steps:{recipe.steps} red", recipe.sampler, f"sampler={recipe.sampler}"):
        assert name in wantui("library", "ls", "--search", words).out, words
    for words in (f"steps={recipe.steps + 1}", f"steps={recipe.steps} square", "sampler=heun"):
        assert name not in wantui("library", "ls", "--search", words).out, words


@pytest.mark.parametrize(
    ("zone", "created", "shown"),
    [
        ("JST-9", "2026-11-29T17:16:05+00:00", "2026-11-30T02:16"),
        ("UTC0", "2026-11-29T17:16:05+00:00", "2026-11-29T17:16"),
        ("EST5EDT,M3.2.0,M11.1.0", "2026-07-01T01:16:05+00:00", "2026-06-30T21:16"),
        ("JST-9", "last week, at noon exactly", "last week, at no"),
    ],
)
def test_library_lists_batches_in_local_time(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, zone: str, created: str, shown: str
) -> None:
    batch_folder = BatchFolder(tmp_path / "batch")
    write_clip_batch(batch_folder.root)
    manifest = json.loads(batch_folder.manifest_path.read_text()) | {"created": created}
    batch_folder.manifest_path.write_text(json.dumps(manifest))
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert wantui("library", "ls", tmp_path).out.splitlines()[1].startswith(f"{shown}  ")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_library_show_lists_the_videos_of_a_batch(wantui: Wantui, generated_batch: BatchFolder) -> None:
    lines = wantui("library", "show", generated_batch.root).out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["red", "42", "done"], ["blue", "42", "done"]]
    assert wantui("library", "show", "nowhere").code == 2


@pytest.mark.parametrize(
    ("key", "value", "damage"),
    [
        ("videos", [], "videos: List should have at least 1 item"),
        ("videos", {}, "videos: Input should be a valid list"),
        ("videos", None, "videos: Input should be a valid list"),
        ("videos", ["x"], "videos[0]: Input should be a valid dictionary"),
        ("videos", [{"state": "done"}], "videos[0].id: Field required"),
        ("videos", [{"state": "lost"}], "'lost' is not a video state"),
        ("template", None, "template is missing, or not a string"),
        ("created", 3, "created is missing, or not a string"),
        ("sweep", "x", "sweep: Input should be a valid dictionary"),
        ("sweep", {"axes": 3}, "sweep.axes: Input should be a valid list"),
        ("sweep", {"axes": [{"names": [1], "values": []}]}, "sweep.axes[0].paths: Field required"),
    ],
)
def test_damaged_manifest_is_listed_with_its_field(
    generated_batch: BatchFolder, tmp_path: Path, key: str, value: object, damage: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(generated_batch.root, folder)
    document = json.loads((folder / "batch.json").read_text())
    (folder / "batch.json").write_text(json.dumps({**document, key: value}))
    (batch,) = find_batches([folder])  # B7
    assert batch.fault.startswith(f"{folder}/batch.json is damaged: {damage}")
    assert "Error(" not in batch.fault
    assert batch.fault.endswith(REPAIR_ADVICE)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": "x"}, "videos[].seed"),
        ({"recipe": {}}, "videos[0].recipe.model"),
        ({"recipe": {"model": 3}}, "videos[0].recipe.model is missing, or not a string"),
        ({"state": []}, "'[]' is not a video state"),
    ],
)
def test_damaged_part_that_only_the_listing_needs_is_named(
    generated_batch: BatchFolder, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], part: str
) -> None:
    monkeypatch.setattr(batch_index, "read_manifest", lambda _: None)
    document = json.loads(generated_batch.manifest_path.read_text())
    document["videos"][0] |= changes
    generated_batch.manifest_path.write_text(json.dumps(document))
    assert find_batches([generated_batch.root])[0].fault.startswith(
        f"{generated_batch.manifest_path.resolve()} is damaged: {part}"
    )


def test_video_without_a_state_is_listed_with_the_default_state(generated_batch: BatchFolder) -> None:
    document = json.loads(generated_batch.manifest_path.read_text())
    del document["videos"][0]["state"]
    generated_batch.manifest_path.write_text(json.dumps(document))
    generated_batch.journal_path.unlink(missing_ok=True)
    states = [video.state for video in read_manifest(generated_batch).videos]
    (batch,) = find_batches([generated_batch.root])
    assert (batch.fault, dict(batch.counts_by_state)) == ("", dict(Counter(states)))


def test_find_batches_sorts_newest_first_and_accepts_batch_folders(
    generated_batch: BatchFolder, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    older.mkdir()
    manifest = json.loads(generated_batch.manifest_path.read_text())
    (older / "batch.json").write_text(json.dumps(manifest | {"created": "2020-01-01T00:00:00+00:00"}))
    result = find_batches([older, generated_batch.root.parent, tmp_path / "not there"])
    assert [one.folder for one in result] == [generated_batch.root.resolve(), older]


def test_listing_names_seeds_and_swept_values(tmp_path: Path, wantui: Wantui) -> None:
    write_clip_batch(tmp_path / "plain", "one circle", seeds=3)
    write_clip_batch(tmp_path / "single", "one circle", seeds=1)
    more = ("seeds=7,11,42", "sweeps=cfg_scale=2,4.5; steps=10,20+flow_shift=3,5")
    write_clip_batch(tmp_path / "swept", "one circle", more=more)
    found = {batch.folder.name: (batch.seeds, batch.sweep) for batch in find_batches([tmp_path])}
    assert found == {
        "plain": ("42 to 44", ""),
        "single": ("42", ""),
        "swept": ("7,11,42", "cfg_scale 2, 4.5; steps+flow_shift 10+3, 20+5"),
    }
    listed = json.loads(wantui("library", "ls", tmp_path, "--json").out)
    assert {Path(one["folder"]).name: (one["seeds"], one["sweep"]) for one in listed} == found


def test_rewritten_manifest_is_read_again(generated_batch: BatchFolder) -> None:
    assert find_batches([generated_batch.root])[0].count_videos("done") == 2
    manifest = json.loads(generated_batch.manifest_path.read_text())
    manifest["videos"][0]["state"] = "failed"
    generated_batch.manifest_path.write_text(json.dumps(manifest))
    assert find_batches([generated_batch.root])[0].count_videos("failed") == 1


def test_trash_accepts_whole_batches_only(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generated_batch = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(UserError, match="not a batch folder"):
        move_to_trash(tmp_path)
    assert wantui("library", "trash", generated_batch.root).code == 0
    assert not generated_batch.root.exists()
    assert "the queue has no unfinished batches" in wantui("queue", "ls", "--all").err


def test_batch_that_another_process_removes_from_the_queue_is_moved_to_the_trash(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generated_batch = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def move_and_remove(folder: Path) -> None:
        move_to_trash(folder)
        with Queue(find_state_directory().directory) as queue:
            queue.remove_batch(1)

    monkeypatch.setattr("wantui.storage.batch_index.move_to_trash", move_and_remove)
    assert wantui("library", "trash", generated_batch.root).code == 0
    assert not generated_batch.root.exists()


def test_unfinished_batch_is_not_moved_to_the_trash(wantui: Wantui, small: list[str]) -> None:
    with only_queued():
        waiting = batch(wantui("run", "--detach", "-t", TEMPLATE, "--videos-per-variation", 1, *small))
    refused = wantui("library", "trash", waiting.root)
    assert refused.code == 2
    assert "wantui queue cancel 1" in refused.err
    assert waiting.root.is_dir()


def test_gpu_command_lists_gpus_or_the_reason_for_none(wantui: Wantui) -> None:
    report = json.loads(wantui("gpu", "--json").out)
    assert report["memory_total"] > 0
    assert report["gpus"] or report["reason"]


def test_preview_shows_time_and_memory_with_their_basis(wantui: Wantui, small: list[str]) -> None:
    wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small)
    shown = wantui("preview", "-t", TEMPLATE, *small)
    assert "time: 0:0" in shown.out
    assert "2 similar videos on this machine" in shown.out
    other = wantui("preview", "-t", TEMPLATE, *small, "--set", "video_settings.width=64")
    assert "scaled by FLOPs" in other.out


def test_long_template_is_shortened_in_lists_and_complete_in_json(wantui: Wantui) -> None:
    template = "a [red|blue] circle " + "over a dark background " * 5000
    create_batch_folder(plan_batch(load_config("nano"), template[:900]))
    folder = next(Path("outputs").iterdir())
    manifest = json.loads((folder / "batch.json").read_text())
    (folder / "batch.json").write_text(json.dumps(manifest | {"template": template}))
    result = wantui("library", "ls")
    assert "a [red|blue] circle" in result.out
    assert len(result.out) < 1000
    assert json.loads(wantui("library", "ls", "--json").out)[0]["template"] == template


def test_library_ls_names_folders_of_queued_batches_that_it_does_not_list(
    wantui: Wantui, tmp_path: Path, small: list[str]
) -> None:
    elsewhere = tmp_path / "else where"
    with only_queued():
        wantui("run", "-t", "a circle", "--detach", "--output-dir", elsewhere, *small)
    result = wantui("library", "ls")
    assert f"note: 1 batch of the queue not in outputs. List all: wantui library ls '{elsewhere}'" in result.err
    assert "a circle" in wantui("library", "ls", elsewhere).out
    assert "note" not in wantui("library", "ls", elsewhere).err
    search = wantui("library", "ls", elsewhere, "--search", "cfg_scal=4")
    assert "no match for 'cfg_scal=4' in 1 batch (did you mean cfg_scale?)" in search.err
