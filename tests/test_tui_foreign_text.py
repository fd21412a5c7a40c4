"""Text of any origin on the screens: no markup in it, and nothing that a terminal would obey."""

import ast
import json
from pathlib import Path

import pytest
import zarr
from conftest import TEMPLATE, MakeOnce, copy_batch, generate_batch, only_queued, step_done
from dialogs import counted_bytes
from fake_nvml import FakeNvml
from harness_screens import RECIPE, claim
from harness_tui import AppUnderTest, application, run

import wantui.tui
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.tui.screens.analysis import AnalysisScreen
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.library import LibraryScreen
from wantui.tui.screens.player import Player
from wantui.tui.screens.yaml_editor import YamlEditor

pytestmark = pytest.mark.terminal

MARKUP = "[/x] [@click=app.quit]q[/] [b"
COMMANDS = "\x1b]52;c;RVZJTA==\x07\x1b]0;EVIL\x07\x1b[5;5HEVIL\x9b31m\u202e\u2066"
EVIL = f"{MARKUP}{COMMANDS}"
OBEYED = ("\x1b]52;c;RVZJTA", "EVIL\x07", "\x1b]0;EVIL", "\x1b[5;5HEVIL", "\x9b", "\u202e", "\u2066")
"""What a terminal would obey if it got the text as it is."""


def assert_harmless(written: list[str]) -> None:
    sent = "".join(written)
    for command in OBEYED:
        assert command not in sent, repr(sent[max(0, sent.index(command) - 80) :][:160])


@pytest.fixture
def hostile(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    """A batch whose names, ids, prompts, errors, config and log come from somebody with bad intentions."""
    options = ("-t", TEMPLATE, "--videos-per-variation", 2, "--store-attention", *small)
    made = copy_batch(make_once("four-videos-with-maps", lambda folder: generate_batch(folder, *options)))
    root = made.root.rename(made.root.with_name(EVIL.replace("/", "")))
    folder = BatchFolder(root)
    manifest = json.loads(folder.manifest_path.read_text())
    manifest["template"] = EVIL
    for variation in manifest["variations"]:
        variation["id"] += EVIL
    for video in manifest["videos"]:
        video["id"] = EVIL
        video["recipe"]["prompt"] += EVIL
        video["memory_plan"] = EVIL
        for key in ("latents", "attention"):
            group = zarr.open_group(root / video["files"][key], mode="r+")
            group.attrs["recipe"] = group.attrs["recipe"] | {"prompt": video["recipe"]["prompt"]}
            del group.attrs["checksums"]
    manifest["videos"][3] |= {"state": "failed", "error": EVIL, "files": {}}
    folder.manifest_path.write_text(json.dumps(manifest))
    folder.template_path.write_text(EVIL)
    folder.config_path.write_text(f"# {EVIL}\nmodel_settings:\n  model_id: '{MARKUP}'\n")
    folder.log_path.parent.mkdir(exist_ok=True)
    folder.log_path.write_text(f"2026-11-28 INFO {EVIL}\n" * 3)
    queue = Queue(find_state_directory().directory)
    queue.add_batch(root, "auto", [NewVideo(number, EVIL, RECIPE, 20) for number in range(4)])
    queue.record_failure(claim(queue), EVIL)
    running = claim(queue)
    queue.record_step(running, step_done(3, 20, 0.1, 0.5, preview=EVIL))
    queue.hold_queue("paused", EVIL)
    queue.close()
    return folder


async def visit_library(it: AppUnderTest) -> None:
    await it.press("4")
    screen = it.screen(LibraryScreen)
    await it.until(lambda: screen.shown_manifest)
    await it.press("enter", "right", "m", "y", "down", "c")
    await it.until(lambda: isinstance(it.app.screen, LibraryScreen) and "this video has no clip" in it.notifications())
    await it.press("m", "left", "c")
    await it.until(lambda: isinstance(it.app.screen, Player) and it.app.screen.views[0].picture is not None)
    await it.press("space", "escape", "d")
    await it.until(lambda: "seed" in it.text())
    await it.press("escape", "i", "j")
    await it.until(lambda: '"seed"' in it.text())
    await it.press("escape", "question_mark", "escape", "P", "delete")
    await it.until(lambda: "to the trash?" in it.text())
    await it.press("n", "slash")
    await it.paste(f"zzz {EVIL}")
    await it.until(lambda: "no batch matches" in it.text())
    await it.press("escape")


async def visit_queue(it: AppUnderTest) -> None:
    await it.press("2")
    await it.until(lambda: "failed" in it.text())
    await it.press("enter", "down", "c")
    await it.until(lambda: "?" in it.text())
    await it.press("n", "ctrl+p")
    await it.paste(EVIL)
    await it.pilot.pause(0.3)
    await it.press("escape", "escape")


async def visit_monitor(it: AppUnderTest) -> None:
    await it.press("3")
    await it.until(lambda: "INFO" in it.text())
    await it.press("v", "l", "c")
    await it.press("n", "l")


async def visit_analysis(it: AppUnderTest) -> None:
    await it.press("5")
    screen = it.screen(AnalysisScreen)
    await it.until(lambda: len(screen.visible_rows) >= 3)
    await it.press("a")
    await it.until(lambda: "of the attention" in it.text())
    await it.press("a", "c")
    await it.until(lambda: screen.comparison_outcome is not None)
    await it.press("enter", "escape", "b")
    await it.press("escape", "slash")
    await it.paste(f"zzz {EVIL}")
    await it.until(lambda: "no video matches" in it.text())
    await it.press("escape")


async def visit_compose(it: AppUnderTest) -> None:
    await it.press("2", "e")
    await it.until(lambda: it.app.screen.name == "compose" and it.screen(ComposeScreen).template_editor.text)
    await it.press("y")
    await it.until(lambda: isinstance(it.app.screen, YamlEditor))
    await it.press("escape", "escape", "ctrl+s", "t")
    await it.paste(EVIL)
    await it.press("escape", "s", "enter")
    await it.paste(EVIL)
    await it.press("escape", "ctrl+r", "escape")


@pytest.mark.parametrize("visit", [visit_library, visit_queue, visit_monitor, visit_analysis, visit_compose])
def test_hostile_batch_sends_no_terminal_commands(hostile: BatchFolder, visit: object) -> None:  # R1, R2
    async def test() -> None:
        async with application(toasts=True, nvml=FakeNvml(), bell=False) as it:
            with counted_bytes(it.app) as written:
                await visit(it)  # type: ignore[operator]
                await it.pilot.pause(0.3)
            assert it.app.is_running
            assert it.app.return_code is None
            assert len("".join(written)) > 5000
            assert_harmless(written)

    with only_queued():
        run(test)


def test_pasted_control_sequences_are_stored_but_not_sent() -> None:  # R1
    async def test() -> None:
        async with application() as it:
            with counted_bytes(it.app) as written:
                await it.press("t")
                await it.paste(f"a {COMMANDS} star")
                await it.pilot.pause(0.3)
            assert it.screen(ComposeScreen).template_editor.text == f"a {COMMANDS} star"
            assert "star" in it.text()
            assert_harmless(written)

    run(test)


SAFE_CALLS = {"make_content", "draw_content", "assemble"}  # Content.assemble parses no markup


def _is_safe(node: ast.expr) -> bool:
    """Whether an expression is text of ours, or went through `to_content`."""
    if isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper()):
        return True
    name = getattr(node, "func", None)
    return isinstance(node, ast.Call) and getattr(name, "id", getattr(name, "attr", "")) in SAFE_CALLS


def test_titles_and_labels_are_plain_text() -> None:  # R2
    """A title that is a `str` is markup; every one that is no constant goes through `to_content`."""
    wrong = []
    for path in sorted(Path(wantui.tui.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr] = []
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Attribute) and target.attr.startswith("border_") for target in node.targets
            ):
                values = [node.value]
            elif isinstance(node, ast.Call) and node.args:
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called in ("Static", "Label", "Selection", "Option", "update") and "web" not in path.parts:
                    values = [node.args[0]]
            wrong += [f"{path.name}:{value.lineno}" for value in values if not _is_safe(value)]
    assert not wrong
