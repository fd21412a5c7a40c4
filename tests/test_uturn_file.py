"""The index of U-turns of a batch."""

import errno
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wantui.json_files import read_json_object
from wantui.storage import uturn_file
from wantui.storage.similarity_file import BatchSimilarity, VideoSimilarity, get_similarity_path, write_similarity
from wantui.storage.uturn_file import (
    UTurnEntry,
    UTurnFileError,
    add_uturn,
    get_uturn_folder,
    get_uturn_index_path,
    read_uturn_state,
    read_uturns,
)

WRITER_COUNT = 8


def make_entry(folder: Path, source: str, evaluation: int) -> UTurnEntry:
    """Return an entry, and create its files."""
    entry = UTurnEntry(
        source=source, source_sha256=None, generic_prompt="a red shape", evaluation=evaluation, sigma=0.5
    )
    for suffix in ("mp4", "npy"):
        (get_uturn_folder(folder) / f"{entry.id}.{suffix}").touch()
    return entry


def test_uturns_that_are_added_at_once_are_all_kept(tmp_path: Path) -> None:
    get_uturn_folder(tmp_path).mkdir(parents=True)
    entries = [[make_entry(tmp_path, f"v{writer}", number) for number in (1, 2, 3)] for writer in range(WRITER_COUNT)]

    def add_all(added: list[UTurnEntry]) -> None:
        for entry in added:
            add_uturn(tmp_path, entry)

    with ThreadPoolExecutor(WRITER_COUNT) as pool:
        list(pool.map(add_all, entries))
    expected = sorted(entry.id for added in entries for entry in added)
    assert sorted(entry.id for entry in read_uturns(tmp_path)) == expected


def test_index_in_an_unreachable_folder_is_an_error_and_not_an_empty_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_path, stat = get_uturn_folder(tmp_path) / "uturns.json", Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path.is_relative_to(tmp_path / "analysis"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UTurnFileError, match=f"cannot read {re.escape(str(index_path))}: .*Permission denied"):
        read_uturns(tmp_path)


def test_file_in_the_place_of_the_folder_holds_no_uturns(tmp_path: Path) -> None:
    assert read_uturns(tmp_path) == []
    get_uturn_folder(tmp_path).parent.mkdir()
    get_uturn_folder(tmp_path).touch()
    assert read_uturns(tmp_path) == []


def test_added_uturn_replaces_its_earlier_entry_and_drops_entries_without_files(tmp_path: Path) -> None:
    get_uturn_folder(tmp_path).mkdir(parents=True)
    first, second = make_entry(tmp_path, "v", 1), make_entry(tmp_path, "v", 2)
    for entry in (first, second):
        add_uturn(tmp_path, entry)
    (get_uturn_folder(tmp_path) / f"{second.id}.mp4").unlink()
    remade = first.model_copy(update={"source_sha256": "0" * 64})
    add_uturn(tmp_path, remade)
    digest = hashlib.sha256(b"").hexdigest()
    assert read_uturns(tmp_path) == [remade.model_copy(update={"sha256": {"clip": digest, "state": digest}})]


def test_advice_for_an_unusable_uturn_file_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get_uturn_folder(tmp_path).mkdir(parents=True)
    add_uturn(tmp_path, make_entry(tmp_path, "v", 1))
    (entry,) = read_uturns(tmp_path)
    path = get_uturn_folder(tmp_path) / f"{entry.id}.npy"

    def check_message(reason: str) -> None:
        with pytest.raises(UTurnFileError) as caught:
            read_uturn_state(tmp_path, entry)
        assert str(caught.value) == f"{path} {reason}"

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("wantui.storage.recorded_files.compute_file_sha256", refuse)
        check_message("cannot be read: Permission denied. Make it readable")
    path.write_bytes(b"changed")
    check_message(
        "is damaged or was changed: its SHA-256 differs from the recorded SHA-256. Delete it, and run "
        "`wantui commitment uturn` again"
    )
    path.unlink()
    check_message("is missing. Run `wantui commitment uturn` again")
    path.mkdir()
    check_message("is not a regular file. Move it out of the batch folder, and run `wantui commitment uturn` again")


def test_similarities_that_are_written_at_once_do_not_fail(tmp_path: Path) -> None:
    contents = [
        BatchSimilarity(f"seed {seed}", "", {"v": VideoSimilarity(baseline="b", clip_checksums=("1", "2"), ssim=0.5)})
        for seed in range(WRITER_COUNT)
    ]
    with ThreadPoolExecutor(WRITER_COUNT) as pool:
        list(pool.map(lambda content: write_similarity(tmp_path, content), contents * 3))
    assert '"baseline": "seed ' in get_similarity_path(tmp_path).read_text()


def test_index_that_disappears_before_it_is_read_has_no_uturns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = get_uturn_index_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("{}")

    def remove_and_read(path: Path, max_bytes: int) -> dict[str, object]:
        path.unlink()
        return read_json_object(path, max_bytes)

    monkeypatch.setattr(uturn_file, "read_json_object", remove_and_read)
    assert read_uturns(tmp_path) == []
