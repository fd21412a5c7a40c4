"""Import rules, checked in fresh interpreters by the modules that importing a package loads."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import needs_torchao

from wantui.environment import build_torch_environment, drop_optimize_options

pytestmark = pytest.mark.processes

HEAVY = {"torch", "diffusers", "transformers"}

FORK_SERVER = """
import importlib, json, os, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    request = json.loads(line)
    if (child := os.fork()) == 0:
        answers = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        error = None
        try:
            exec(request["code"], {})
        except BaseException as raised:
            import traceback
            error = traceback.format_exc()
        os.write(answers, (json.dumps([error, sorted({name.split(".")[0] for name in sys.modules})]) + "\\n").encode())
        os._exit(0)
    os.waitpid(child, 0)
"""
"""Program that imports packages, and runs each piece of code in a copy of itself, which then lists its modules."""
LIBRARIES = ("av", "click", "numpy", "PIL.Image", "psutil", "pydantic", "rich.console", "scipy.stats", "yaml", "zarr")
"""Packages that wantui may import, and that a test imports once where it only checks that others are not imported.

What they, or `wantui.planning`, import is in the list of every copy.
"""

LoadedBy = Callable[..., set[str]]


class Interpreter:
    """A process that has imported only some packages, and runs code in copies of itself."""

    def __init__(self, *packages: str) -> None:
        command = [sys.executable, "-c", FORK_SERVER, *packages]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def list_modules(self, code: str) -> set[str]:
        """Return the top-level modules in `sys.modules` after running code in a copy."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"code": code, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        error, modules = json.loads(self.process.stdout.readline())
        assert error is None, error
        return set(modules)

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def loaded_by() -> Iterator[LoadedBy]:
    """Return the modules that code loads in an interpreter that has imported the named packages."""
    interpreters: dict[tuple[str, ...], Interpreter] = {}

    def load(code: str, *packages: str) -> set[str]:
        if packages not in interpreters:
            interpreters[packages] = Interpreter(*packages)
        return interpreters[packages].list_modules(code)

    yield load
    for interpreter in interpreters.values():
        interpreter.end()


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
        "wantui.engine.process",
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
def test_packages_other_than_generation_import_without_torch(loaded_by: LoadedBy, package: str) -> None:
    assert not loaded_by(f"import {package}", *LIBRARIES, "wantui.planning") & {*HEAVY, "textual"}


@pytest.mark.parametrize("screen", ["compose", "queue", "monitor", "library", "analysis"])
def test_screens_are_imported_without_torch(loaded_by: LoadedBy, screen: str) -> None:
    code = f"import wantui.tui.screens.{screen}, wantui.tui.app"
    assert not loaded_by(code, *LIBRARIES, "textual.app", "wantui.planning") & HEAVY


def test_first_screen_is_imported_without_slow_packages(loaded_by: LoadedBy) -> None:
    assert not loaded_by("import wantui.tui.app, wantui.tui.screens.compose") & {
        "numpy",
        "scipy",
        "PIL",
        "safetensors",
        "html",
    }


@pytest.mark.parametrize("package", ["wantui.generation.make_video", "wantui.worker.process", "wantui.batches.rerun"])
def test_generation_imports_neither_screens_nor_database(loaded_by: LoadedBy, package: str) -> None:
    loaded = loaded_by(f"import {package}", "wantui.generation.make_video")
    assert "torch" in loaded
    assert "textual" not in loaded
    assert not package.startswith("wantui.generation") or "sqlite3" not in loaded


def test_worker_restarts_if_an_installed_package_needs_a_hidden_one(tmp_path: Path) -> None:
    (tmp_path / "ftfy.py").write_text("import scipy.sparse\n")  # as scikit-learn does, which transformers import
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "wantui.worker.process", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: ")
    assert result.stderr.count("starting again without hidden packages, because another package needs scipy\n") == 1


def test_worker_does_not_restart_after_another_failed_import(tmp_path: Path) -> None:
    (tmp_path / "ftfy.py").write_text("import no_such_package\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "wantui.worker.process", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert "No module named 'no_such_package'" in result.stderr
    assert "starting again" not in result.stderr


@pytest.mark.parametrize(
    ("level", "kept_level"), [("", ""), ("0", "0"), ("1", "1"), ("2", "1"), ("3", "1"), ("x", "x")]
)
def test_environment_for_torch_keeps_docstrings(level: str, kept_level: str) -> None:
    assert build_torch_environment({"PYTHONOPTIMIZE": level})["PYTHONOPTIMIZE"] == kept_level


@pytest.mark.parametrize("options", [(), ("-OO",)])
def test_program_without_docstrings_starts_again_at_most_once(options: tuple[str, ...]) -> None:
    """Transformers cannot be imported without docstrings."""
    code = "import sys; print(sys.flags.optimize, flush=True); sys.argv[1:] = ['--version']; "
    code += "from wantui.__main__ import main; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {} if options else {"PYTHONOPTIMIZE": "2"}
    output = subprocess.check_output([sys.executable, *options, "-c", code], env=environment, text=True)
    *levels, version = output.splitlines()
    assert levels == ["2", "1"]
    assert version.startswith("wantui, version ")


@pytest.mark.parametrize(
    ("arguments", "kept_arguments"),
    [
        ("-OO -m wantui rerun -O", "-m wantui rerun -O"),
        ("-O -O -W error -X dev -OOm wantui", "-W error -X dev -m wantui"),
        ("-IOO -Xdev /bin/wantui -OO", "-I -Xdev /bin/wantui -OO"),
        ("-OO -mO -OO", "-mO -OO"),
        ("-OO -", "-"),
        ("-B /bin/wantui -OO", "-B /bin/wantui -OO"),
    ],
)
def test_restart_drops_the_options_of_python_that_remove_docstrings(arguments: str, kept_arguments: str) -> None:
    assert drop_optimize_options(arguments.split()) == kept_arguments.split()


@needs_torchao
def test_worker_imports_no_torchao_and_streams_its_weights_nevertheless() -> None:
    code = """
import sys
import wantui.worker.process
assert "torchao" not in sys.modules and "scipy" not in sys.modules
import torch
from diffusers.hooks.group_offloading import _is_torchao_tensor
from wantui.generation.quantize import quantize_transformer
transformer = torch.nn.Module()
transformer.blocks = torch.nn.ModuleList([torch.nn.Linear(64, 64)])
assert not _is_torchao_tensor(transformer.blocks[0].weight)
quantize_transformer(transformer, "int8")
assert _is_torchao_tensor(transformer.blocks[0].weight)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
def test_commands_that_generate_nothing_run_without_torch(loaded_by: LoadedBy, arguments: list[str]) -> None:
    code = f"from wantui.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass"
    assert not loaded_by(code, *LIBRARIES, "wantui.planning") & HEAVY


def test_test_modules_do_not_import_each_other() -> None:
    imports = re.compile(r"^\s*(?:from|import) test_\w+", re.MULTILINE)
    assert [path.name for path in Path(__file__).parent.rglob("*.py") if imports.search(path.read_text())] == []
