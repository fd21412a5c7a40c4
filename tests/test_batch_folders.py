"""Folders of new batches: only one run claims a folder, and a failed run removes exactly what it created."""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui, files

from wantui.batches import batch_folders
from wantui.batches.batch_folders import create_batch_folder
from wantui.config import load_config
from wantui.errors import UserError
from wantui.generation.errors import LoadError
from wantui.planning import Batch, plan_batch
from wantui.storage import locks
from wantui.worker import pipeline_cache as warm

pytestmark = pytest.mark.torch


def planned(stamped: bool) -> Batch:
    settings = ["output_dir=outputs", "batch_name=mine", f"use_timestamp={str(stamped).lower()}"]
    return plan_batch(load_config("nano", settings), "a star")


def full_disk(*_: object) -> None:
    raise UserError("the batch may need 1 TB")


def test_failed_batch_start_keeps_the_users_empty_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Path("outputs/mine")
    mine.mkdir(parents=True)
    identity = mine.stat().st_ino
    monkeypatch.setattr(batch_folders, "check_batch_fits_on_disk", full_disk)
    with pytest.raises(UserError, match="may need"):
        create_batch_folder(planned(stamped=False))
    assert mine.stat().st_ino == identity
    assert not list(mine.iterdir())


def test_failed_batch_start_keeps_files_added_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def put_and_fail(root: Path, _: Batch) -> None:
        (root / "notes.txt").write_text("mine")
        full_disk()

    monkeypatch.setattr(batch_folders, "check_batch_fits_on_disk", put_and_fail)
    with pytest.raises(UserError, match="may need"):
        create_batch_folder(planned(stamped=False))
    assert files("outputs") == ["outputs/mine/notes.txt"]


@pytest.mark.parametrize("stamped", [True, False])
def test_failed_batch_start_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, stamped: bool) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(batch_folders, "write_batch_files", fail)
    with pytest.raises(UserError, match="No space left"):
        create_batch_folder(planned(stamped))
    assert not Path("outputs").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_second_run_on_a_folder_fails_and_removes_nothing(monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
    if exists:
        Path("outputs/mine").mkdir(parents=True)
    real = locks.claim_batch_folder
    made: list[Path] = []

    def second_run_first(root: Path) -> None:
        if not made:
            made.append(root)
            real(root)  # the other run, just before
            (root / "batch.json").write_text("{}")
        real(root)

    monkeypatch.setattr(batch_folders, "claim_batch_folder", second_run_first)
    with pytest.raises(UserError, match="already holds a batch"):
        create_batch_folder(planned(stamped=False))
    assert files("outputs") == ["outputs/mine/.lock", "outputs/mine/batch.json"]


def test_run_picks_another_name_if_its_new_folder_was_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = locks.claim_batch_folder
    taken: list[Path] = []

    def take_first(root: Path) -> None:
        if not taken:
            taken.append(root)
            real(root)
        real(root)

    monkeypatch.setattr(batch_folders, "claim_batch_folder", take_first)
    folder, _ = create_batch_folder(planned(stamped=True))
    assert folder.root not in taken
    assert taken[0].exists()


@pytest.mark.parametrize("stamped", ["true", "false"])
def test_run_that_cannot_load_a_model_keeps_the_users_empty_folder(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, stamped: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise LoadError("its weights are cut")

    Path("outputs/mine").mkdir(parents=True)
    monkeypatch.setattr(warm, "load_recipe_pipeline", refuse)
    result = wantui("run", "-t", "a star", *small, "--batch-name", "mine", "--set", f"use_timestamp={stamped}")
    assert "its weights are cut" in result.err
    assert [path.name for path in Path("outputs").iterdir()] == ["mine"]
    assert files("outputs") == []
