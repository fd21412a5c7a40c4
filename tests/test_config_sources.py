"""Configs that Compose lists and edits: an invalid file never hides the others, and drafts of earlier versions load."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui
from harness_tui import application, run
from textual.widgets import TextArea
from yaml_bombs import YAML_BOMBS

from wantui.config import ConfigError, list_preset_names
from wantui.errors import UserError
from wantui.queue.state_dir import find_state_directory
from wantui.storage.locks import lock_by_file
from wantui.tui import drafts
from wantui.tui.config_sources import (
    find_config_sources,
    name_config,
    read_draft_text,
    save_config,
    summarise_config,
)
from wantui.tui.drafts import DRAFTS_FILE, Drafts, DraftStore, load_drafts
from wantui.tui.screens.yaml_editor import YamlEditor
from wantui.tui.settings import SETTINGS_PATH_VARIABLE, load_settings


@pytest.mark.slow
def test_invalid_configs_are_listed_with_their_errors_beside_valid_configs() -> None:
    Path("configs").mkdir()
    for number, text in enumerate(YAML_BOMBS.values()):
        Path(f"configs/bad{number:02d}.yaml").write_bytes(text.encode(errors="surrogateescape"))
    Path("configs/fine.yaml").write_text("model_settings:\n  model_id: nano\n")
    Path("configs/locked.yaml").write_text("")
    Path("configs/locked.yaml").chmod(0)
    Path("configs/folder.yaml").mkdir()
    Path("configs/circle.yaml").symlink_to("circle.yaml")
    Path("configs/dangling.yaml").symlink_to("nothing.yaml")
    Path("configs/\x1b[2J.yaml").write_text("")
    os.mkfifo("configs/pipe.yaml")
    sources = {Path(source.config_name).stem: source for source in find_config_sources()}
    assert set(list_preset_names()) <= set(sources)  # R6
    assert sources["fine"].is_valid
    bad = [source for source in sources.values() if not source.is_valid]
    assert len(bad) >= len(YAML_BOMBS) + 5
    assert all(source.summary and len(source.summary) < 1000 for source in bad)


def test_invalid_config_is_summarised_by_the_place_and_text_of_its_first_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model_settings:\n  steps: 8\n  cfg_scale: -1\n")
    source = summarise_config("bad", path)
    assert not source.is_valid
    assert source.summary.startswith("line 3: model_settings.cfg_scale: ")
    missing = summarise_config("missing", tmp_path / "missing.yaml")
    assert (missing.summary, missing.is_valid) == (
        f"no such file or preset. Presets: {', '.join(list_preset_names())}",
        False,
    )
    assert str(tmp_path) not in source.summary


def test_model_in_place_of_a_config_gets_the_setting_of_the_model(wantui: Wantui) -> None:
    refused = wantui("preview", "-c", "wan2.1-1.3b", "-t", "a star")
    assert refused.code == 2
    assert "wan2.1-1.3b is a model: choose it with --set model_settings.model_id=wan2.1-1.3b" in refused.err


@pytest.mark.terminal
@pytest.mark.parametrize("name", ["aliases of lists", "an empty integer", "deep lists", "lone surrogate", "a long key"])
def test_yaml_editor_reports_hostile_text_as_an_error(name: str) -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("y")
            editor = await it.until(lambda: isinstance(it.app.screen, YamlEditor) and it.app.screen)
            editor.query_one(TextArea).text = YAML_BOMBS[name][:100_000]
            await it.pilot.pause()
            assert editor.find_errors()  # R6
            assert it.app.screen is editor

    run(test)


def test_draft_changes_of_an_earlier_version_are_read_as_yaml() -> None:
    changes = {
        "prompt_settings.negative_prompt": '"no \\"quotes\\" # here"',
        "model_settings.revision": "null",
        "model_settings.steps": "33",
        "latent_analysis_settings.store_latents": "true",
    }
    path = find_state_directory().directory / DRAFTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"welcomed": True, "config": "nano", "changes": changes, "template": "a"}))
    drafts = load_drafts(path.parent)
    settings = read_draft_text(drafts).parse_with_changes(drafts.changes).settings
    assert settings.prompt_settings.negative_prompt == 'no "quotes" # here'  # A8
    assert settings.model_settings.revision is None
    assert settings.model_settings.steps == 33
    assert settings.latent_analysis_settings.store_latents
    again = json.loads(drafts.model_dump_json())
    path.write_text(json.dumps(again))
    assert load_drafts(path.parent) == drafts


@pytest.mark.parametrize("text", ["[" * 100_000, '{"changes": [1]}', "[1]", "null", '{"changes": {"a": 1}}', "\x00"])
def test_damaged_drafts_are_quarantined(text: str) -> None:
    path = find_state_directory().directory / DRAFTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert load_drafts(path.parent).template == ""
    assert path.with_suffix(".damaged.json").read_text() == text


def test_moved_drafts_are_reported() -> None:
    path = find_state_directory().directory / DRAFTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"format": 3, "template": "a star"}')
    (note,) = DraftStore(path.parent).notes
    assert "format 3, written by a later version" in note
    assert str(path.with_suffix(".damaged.json")) in note
    assert '"a star"' in path.with_suffix(".damaged.json").read_text()


def test_unchanged_drafts_do_not_replace_those_of_another_application(tmp_path: Path) -> None:
    first, second = DraftStore(tmp_path), DraftStore(tmp_path)
    second.drafts.template = "a red star"
    second.save(is_last=True)
    first.save(is_last=True)
    assert load_drafts(tmp_path).template == "a red star"


def test_drafts_of_two_applications_are_both_kept(tmp_path: Path) -> None:
    first, second = DraftStore(tmp_path), DraftStore(tmp_path)
    first.drafts.template, second.drafts.template = "first", "second"
    first.drafts.add_to_history("queued by the first")
    second.drafts.add_to_history("queued by the second")
    first.save()
    second.save()
    assert load_drafts(tmp_path).history == ["queued by the second", "queued by the first"]
    first.save(is_last=True)
    assert load_drafts(tmp_path).template == "first"
    assert set(load_drafts(tmp_path).history) == {"second", "queued by the first", "queued by the second"}


def test_history_saved_while_another_application_starts_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, read = DraftStore(tmp_path), drafts.read_drafts
    running.drafts.add_to_history("queued before")
    running.save()

    def read_then_save(path: Path) -> drafts.Drafts:
        monkeypatch.setattr(drafts, "read_drafts", read)
        content = read(path)
        running.drafts.add_to_history("queued meanwhile")
        running.save()
        return content

    monkeypatch.setattr(drafts, "read_drafts", read_then_save)
    started = DraftStore(tmp_path)
    assert started.drafts.history == ["queued before"]
    started.drafts.add_to_history("queued by the second")
    started.save()
    assert set(load_drafts(tmp_path).history) == {"queued before", "queued meanwhile", "queued by the second"}


def test_histories_of_applications_that_save_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "MAX_LOCK_SECONDS", 60.0)
    writer_count = 8

    def queue_templates(writer: int) -> list[str]:
        store, templates = DraftStore(tmp_path), [f"template {number} of {writer}" for number in range(4)]
        for template in templates:
            store.drafts.add_to_history(template)
            store.save()
        return templates

    with ThreadPoolExecutor(writer_count) as pool:
        queued = {template for templates in pool.map(queue_templates, range(writer_count)) for template in templates}
    assert set(load_drafts(tmp_path).history) == queued


def test_stop_signal_while_drafts_are_saved_does_not_wait_for_its_own_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, save, calls = DraftStore(tmp_path), drafts.save_drafts, []

    def save_after_a_signal(*values: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            store.save(is_last=True)  # as the handler of the signal does
        save(*values)

    monkeypatch.setattr(drafts, "save_drafts", save_after_a_signal)
    store.drafts.template = "a star"
    store.save()
    assert load_drafts(tmp_path).template == "a star"
    assert len(calls) == 1
    store.drafts.template = "two stars"
    store.save()
    assert load_drafts(tmp_path).template == "two stars"


def test_application_that_stopped_while_it_saves_does_not_stop_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "MAX_LOCK_SECONDS", 0.1)
    store = DraftStore(tmp_path)
    store.drafts.template = "a star"
    with lock_by_file(tmp_path / drafts.DRAFTS_LOCK_FILE):
        started_at = time.monotonic()
        store.save()
        assert time.monotonic() - started_at >= drafts.MAX_LOCK_SECONDS, "it waited for the lock"
    assert load_drafts(tmp_path).template == "a star"


@pytest.mark.parametrize("name", ["aliases of lists", "an empty integer", "deep lists", "binary", "too large"])
def test_hostile_application_settings_are_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "tui.yaml"
    path.write_text(YAML_BOMBS[name])
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    with pytest.raises(UserError, match=r"tui\.yaml"):
        load_settings()  # R6


def test_application_settings_have_the_expected_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "tui.yaml"
    path.write_text("preview_seconds: 0.5\nbell: no\nkeys: {queue.cancel: 5}\ntheme: nord\noutput_dirs: [a, ~/b]\n")
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    settings = load_settings()
    assert (settings.preview_seconds, settings.bell, settings.theme) == (0.5, False, "nord")
    assert settings.keys == {"queue.cancel": "5"}
    assert settings.output_dirs == ["a", "~/b"]


@pytest.mark.parametrize(
    ("word", "value"), [("on", "on"), ("off", "off"), ("Yes", "on"), ("false", "off"), ("auto", "auto"), ('"on"', "on")]
)
def test_notifications_take_words_for_booleans(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str, value: str
) -> None:
    path = tmp_path / "tui.yaml"
    path.write_text(f"notifications: {word}\n")
    monkeypatch.setenv(SETTINGS_PATH_VARIABLE, str(path))
    assert load_settings().notifications == value


def test_saved_config_replaces_the_file_that_a_link_names(tmp_path: Path) -> None:
    kept, link = tmp_path / "dotfiles" / "mine.yaml", Path("mine.yaml")
    kept.parent.mkdir()
    kept.write_text("videos_per_variation: 2\n")
    kept.chmod(0o600)
    link.symlink_to(kept)
    save_config(link, "videos_per_variation: 3\n")
    assert link.is_symlink()
    assert kept.read_text() == "videos_per_variation: 3\n"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_config_is_not_saved_over_a_loop_of_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "resolve", Path.absolute)  # as Python 3.13 and later resolve a loop
    loop = Path("loop.yaml")
    loop.symlink_to(loop)
    with pytest.raises(UserError, match=r"cannot write loop\.yaml: Too many levels of symbolic links"):
        save_config(loop, "videos_per_variation: 3\n")
    assert loop.is_symlink()


def test_config_is_saved_to_the_new_file_that_a_link_names(tmp_path: Path) -> None:
    target, link = tmp_path / "new.yaml", Path("mine.yaml")
    link.symlink_to(target)
    save_config(link, "videos_per_variation: 3\n")
    assert link.is_symlink()
    assert target.read_text() == "videos_per_variation: 3\n"


@pytest.mark.parametrize(
    ("config_name", "name"),
    [("nano", "nano"), ("configs/red.v2.yaml", "red.v2"), ("copy of cfg-4.5", "copy of cfg-4.5")],
)
def test_name_of_a_config_lacks_only_the_folder_and_the_suffix_of_a_file(config_name: str, name: str) -> None:
    assert name_config(config_name) == name


@pytest.mark.parametrize("name", ["a\0b", "a\nb.yaml", "loop.yaml", "~nobody-here/a.yaml", "", "x" * 300])
def test_unusable_config_path_of_the_draft_is_a_config_error(name: str) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ConfigError, match="config of the draft: "):
        read_draft_text(Drafts(config=name))
