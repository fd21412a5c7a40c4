"""Batch folders that commands look up in the queue by number or name."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.paths import expand_user_path
from wantui.queue.database import load_migrations
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory, locate_state_directory


def queue_batches(*folders: str) -> Path:
    """Queue a batch in each folder; return the state directory."""
    directory = find_state_directory().directory
    with Queue(directory) as queue:
        for folder in folders:
            queue.add_batch(Path(folder).absolute(), "cpu", [NewVideo(0, "red", "{}", 2)])
    return directory


def read_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("word", ["nosuch", "7"])
def test_unknown_batch_creates_no_queue(wantui: Wantui, word: str) -> None:
    state_home = expand_user_path("$XDG_STATE_HOME")
    assert wantui("analyze", word).code == 2
    assert not (state_home / "wantui").exists()


@pytest.mark.parametrize("word", ["nosuch", "7"])
def test_unknown_batch_leaves_the_state_directory_unchanged(wantui: Wantui, word: str) -> None:
    directory = queue_batches("outputs/stars")
    files = read_files(directory)
    assert wantui("analyze", word).code == 2
    assert read_files(directory) == files


def test_lookup_in_a_damaged_queue_reports_it_and_leaves_it(wantui: Wantui) -> None:
    directory = find_state_directory().directory
    (directory / "queue.db").write_bytes(b"not a database" * 100)
    files = read_files(directory)
    result = wantui("analyze", "nosuch")
    assert result.code == 2
    assert f"cannot look up nosuch in the queue {directory / 'queue.db'}: file is not a database" in result.err
    assert read_files(directory) == files


def test_lookup_in_a_queue_of_a_newer_version_reports_it(wantui: Wantui) -> None:
    directory = queue_batches("outputs/stars")
    with closing(sqlite3.connect(directory / "queue.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    result = wantui("analyze", "stars")
    assert (result.code, "a newer wantui wrote it" in result.err) == (2, True)


def test_lookup_in_a_queue_of_an_earlier_version_does_not_migrate_it(wantui: Wantui) -> None:
    directory = find_state_directory().directory
    folder = Path("outputs/stars").absolute()
    with closing(sqlite3.connect(directory / "queue.db", isolation_level=None)) as connection:
        connection.executescript(load_migrations()[0])
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO batch (folder, device, place, created) VALUES (?, 'cpu', 1, 0)", (str(folder),))
    files = read_files(directory)
    assert str(folder) in wantui("analyze", "stars").err
    assert read_files(directory) == files


def test_name_of_several_batches_is_refused_with_their_numbers(wantui: Wantui) -> None:
    queue_batches("a/stars", "b/stars")
    result = wantui("analyze", "stars")
    assert result.code == 2
    assert "several batches are named 'stars'; give the number of one: 1, 2" in result.err


@pytest.mark.parametrize("words", [("logs", "stars"), ("library", "trash", "outputs/stars")])
def test_command_that_replaces_a_damaged_queue_says_so(wantui: Wantui, words: tuple[str, ...]) -> None:
    directory = find_state_directory().directory
    (directory / "queue.db").write_bytes(b"not a database" * 100)
    assert "was damaged (file is not a database): it was renamed to queue.db.damaged-" in wantui(*words).err


def test_located_state_directory_is_the_one_that_is_created() -> None:
    directory = locate_state_directory()
    assert not directory.exists()
    assert find_state_directory().directory == directory
