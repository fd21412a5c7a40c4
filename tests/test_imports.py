"""Who may know what, looked at in a fresh interpreter: what importing a package really loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "diffusers", "transformers"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in `sys.modules` after running code in a new interpreter."""
    report = f"{code}\nimport json, sys; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    ended = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "package",
    [
        "wantui",
        "wantui.config",
        "wantui.prompts",
        "wantui.planning",
        "wantui.storage.layout",
        "wantui.storage.manifest",
        "wantui.storage.trajectory_writer",
        "wantui.storage.mp4",
        "wantui.storage.contact_sheet",
        "wantui.storage.batch_index",
        "wantui.analysis.loading",
        "wantui.gpu.nvml",
        "wantui.gpu.monitor",
        "wantui.queue.queue",
        "wantui.queue.state_dir",
        "wantui.engine.control",
        "wantui.engine.supervisor",
        "wantui.storage.manifest_store",
        "wantui.batches.enqueue",
        "wantui.batches.batch_cost",
        "wantui.batches.eta",
        "wantui.models.tokenizer",
        "wantui.models.catalogue",
        "wantui.models.nano.attributes",
        "wantui.models.nano.world",
        "wantui.cli",
        "wantui.cli.run",
        "wantui.cli.preview",
        "wantui.cli.rerun",
        "wantui.cli.config",
        "wantui.cli.models",
        "wantui.cli.doctor",
        "wantui.cli.watch",
        "wantui.cli.queue",
        "wantui.cli.engine",
        "wantui.cli.logs",
        "wantui.cli.library",
        "wantui.cli.analyze",
        "wantui.cli.gpu",
        "wantui.cli.serve",
        "wantui.cli.tui",
    ],
)
def test_packages_other_than_generation_import_without_torch(package: str) -> None:
    assert not loaded_by(f"import {package}") & {*HEAVY, "textual"}


@pytest.mark.parametrize("screen", ["compose", "queue", "monitor", "library", "analysis"])
def test_screens_are_imported_without_torch(screen: str) -> None:
    assert not loaded_by(f"import wantui.tui.screens.{screen}, wantui.tui.app") & HEAVY


def test_first_screen_is_imported_without_numpy() -> None:
    assert not loaded_by("import wantui.tui.app, wantui.tui.screens.compose") & {"numpy", "scipy", "PIL"}


@pytest.mark.parametrize("package", ["wantui.generation.make_video", "wantui.worker.process", "wantui.batches.rerun"])
def test_generation_imports_neither_screens_nor_database(package: str) -> None:
    loaded = loaded_by(f"import {package}")
    assert "torch" in loaded
    assert "textual" not in loaded
    assert not package.startswith("wantui.generation") or "sqlite3" not in loaded


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["preview", "-t", "a [red|blue] (circle)"],
        ["config", "show", "nano"],
        ["config", "validate", "nano"],
        ["models", "ls"],
        ["doctor"],
        ["queue", "ls"],
        ["engine", "status"],
        ["watch"],
        ["run", "-t", "a [broken template"],
        ["rerun", "no-such-clip.mp4"],
        ["library", "ls"],
        ["analyze", "no-such-folder"],
        ["gpu"],
    ],
)
def test_commands_that_generate_nothing_run_without_torch(arguments: list[str]) -> None:
    code = f"from wantui.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & HEAVY


def test_fast_test_modules_import_no_torch() -> None:
    options = ["--fast", "--collect-only", "-n0", "-p", "no:cacheprovider"]
    code = f"import os, pytest; os.chdir({str(ROOT)!r}); assert pytest.main({options}) == 0"
    assert not loaded_by(code) & HEAVY
