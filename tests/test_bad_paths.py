"""Unusable paths in every option that takes a path: an error message, exit code 2, and no partial output."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import Wantui, batch, only_queued, recipe_for

import wantui.storage.manifest
from wantui.cli import MODULE_AND_HELP_BY_COMMAND, LazyGroup, cli
from wantui.cli.streams import describe_os_error
from wantui.cli.types import BatchReference, UserPath
from wantui.errors import SHORTAGE_ADVICE
from wantui.models.catalogue import NANO
from wantui.storage.mp4 import write_mp4

BAD_PATHS = {
    "long name": "x" * 300,
    "long name in a folder": f"outputs/{'é' * 200}/b",
    "long path": "ab/" * 2000,
    "circle": "circle/x",
    "control": "a\x1b[2Jb",
    "line break": "a\nb",
    "no user": "~nobody-of-this-name/x",
    "no variable": "$WANTUI_NOT_SET/x",
    "empty": "",
}
COMMANDS_WITH_PATHS = [
    ["run", "-t", "a circle", "--output-dir", "PATH"],
    ["run", "-t", "a circle", "--logs", "PATH"],
    ["run", "--template-file", "PATH"],
    ["run", "--resume", "PATH"],
    ["run", "-t", "a circle", "-c", "PATH"],
    ["run", "-t", "a circle", "--set", "output_dir=PATH"],
    ["preview", "-t", "a circle", "--output-dir", "PATH"],
    ["preview", "-t", "a circle", "--set", "output_dir=PATH"],
    ["slurm", "--resume", "PATH"],
    ["analyze", "PATH"],
    ["export", "PATH"],
    ["rerun", "PATH"],
    ["library", "show", "PATH"],
    ["library", "ls", "PATH"],
    ["library", "trash", "PATH"],
    ["engine", "run", "--drain", "--batch", "PATH"],
    ["config", "show", "PATH"],
    ["config", "validate", "PATH"],
    ["queue", "show", "PATH"],
    ["queue", "move", "PATH", "up"],
    ["watch", "PATH"],
    ["logs", "PATH"],
    ["logs", "--logs", "PATH"],
    ["models", "calibrate", "-t", "a", "--output", "PATH"],
]


@pytest.mark.parametrize("kind", BAD_PATHS)
def test_impossible_path_is_refused_with_a_message(wantui: Wantui, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.batches.slurm_submission.check_slurm_installation", lambda: None)
    Path("circle").symlink_to("circle")
    for command in COMMANDS_WITH_PATHS:
        result = wantui(*(word.replace("PATH", BAD_PATHS[kind]) for word in command))
        assert result.code == 2, (command, result)  # B7
        assert "Traceback" not in result.err
        assert len(result.err.splitlines()) <= 6
    assert [path.name for path in Path().iterdir()] == ["circle"]


def _parameters(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        yield f"{name} {parameter.name}", parameter
    if isinstance(command, click.Group):
        for inner_name, inner in command.commands.items():
            yield from _parameters(inner, f"{name} {inner_name}")


def test_path_options_have_the_shared_path_types() -> None:
    assert isinstance(cli, LazyGroup)
    context = click.Context(cli)
    result = [one for name in MODULE_AND_HELP_BY_COMMAND for one in _parameters(cli.get_command(context, name), name)]  # type: ignore[arg-type]
    for name, parameter in result:
        assert not isinstance(parameter.type, click.Path | click.File), name
        words = {"batch", "batches", "folder", "folders", "output", "output_dir", "logs", "resume", "clip", "csv_path"}
        if parameter.name in words | {"html_path", "template_file", "other"}:
            assert isinstance(parameter.type, UserPath | BatchReference), name
    assert sum(isinstance(parameter.type, UserPath) for _, parameter in result) >= 18


def test_home_and_variables_are_resolved_in_every_output_folder_option(
    wantui: Wantui, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for number, arguments in enumerate(
        (["--output-dir", "$HOME/a"], ["--set", "output_dir=${HOME}/a"], ["--output-dir", "~/a"])
    ):
        made = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small, *arguments, "--detach"))
        assert made.root.parent == tmp_path / "home" / "a"  # C7
        assert len(list((tmp_path / "home" / "a").iterdir())) == number + 1
    assert sorted(path.name for path in Path().iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_inaccessible_folder_is_reported(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.batches.slurm_submission.check_slurm_installation", lambda: None)
    Path("locked").mkdir(mode=0)
    for command in COMMANDS_WITH_PATHS:
        result = wantui(*(word.replace("PATH", "locked/b") for word in command))
        assert "Traceback" not in result.err
        assert result.code == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied", "/locked/b"), "cannot access /locked/b: Permission denied"),
        (OSError(28, "No space left on device", "x"), "cannot write x: No space left on device"),
        (OSError(30, "Read-only file system", b"\xe9"), "cannot write \udce9: Read-only file system"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "cannot write temporary files: No usable temporary directory found in ['/tmp']. Set TMPDIR to a folder "
            "with free space.",
        ),
        (OSError(5, "Input/output error"), "cannot write the output: Input/output error"),
        (OSError(24, "Too many open files"), f"Too many open files. {SHORTAGE_ADVICE}"),
        (ConnectionRefusedError(111, "Connection refused"), None),
    ],
)
def test_os_errors_become_messages(error: OSError, expected: str | None) -> None:
    assert describe_os_error(error) == expected  # B7


@pytest.mark.parametrize("error", [PermissionError(13, "no", "/locked"), FileNotFoundError(2, "none", "x")])
def test_os_error_ends_any_command_without_a_traceback(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("wantui.engine.queue_opening.open_queue", refuse)
    result = wantui("queue", "ls")
    assert result.code == 2
    assert result.err == f"wantui: cannot access {error.filename}: {error.strerror}\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(24, "Too many open files"), "Too many open files"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "Resource temporarily unavailable"),
        (MemoryError(), "Cannot allocate memory"),
        (RuntimeError("can't start new thread"), "cannot start a thread"),
        (
            ImportError("libx.so: failed to map segment from shared object"),
            "libx.so: failed to map segment from shared object (too little memory, or a file system mounted with "
            "noexec)",
        ),
    ],
)
def test_lack_of_resources_ends_any_command_without_a_traceback(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("wantui.engine.queue_opening.open_queue", refuse)
    result = wantui("queue", "ls")
    assert (result.code, result.err) == (2, f"wantui: {reason}. {SHORTAGE_ADVICE}\n")


def test_deleted_working_folder_is_reported(wantui: Wantui, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    result = wantui("doctor", "--systemd-unit")
    assert result.code == 2
    assert "the working folder: it was deleted" in result.err


@pytest.mark.processes
@pytest.mark.parametrize(("arguments", "code"), [(["bench"], 2), (["rerun"], 2), (["doctor", "--full"], 1)])
def test_commands_that_load_torch_report_a_deleted_working_folder(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    """The import of torch would abort the process."""
    if arguments == ["rerun"]:
        recipe = recipe_for(NANO)
        tags = {"wantui": recipe.to_json(), "wantui_made_with": "{}"}
        write_mp4(
            tmp_path / "clip.mp4", [np.zeros((recipe.height, recipe.width, 3), np.uint8)] * recipe.frames, 8, 9, tags
        )
        arguments = ["rerun", str(tmp_path / "clip.mp4")]
    (gone := tmp_path / "gone").mkdir()
    command = 'rmdir "$PWD" && exec "$@"'
    program = [sys.executable, "-P", "-m", "wantui", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(wantui.__file__).parents[1])}
    result = subprocess.run(
        ["sh", "-c", command, "sh", *program], cwd=gone, capture_output=True, text=True, env=environment
    )
    assert result.returncode == code
    output = " ".join((result.stdout + result.stderr).split())
    assert "cannot load torch: the working folder was deleted. Change to another folder (cd)" in output
    assert "oneMKL" not in output


@pytest.mark.parametrize(
    "failure", [OSError(5, "Input/output error"), UnicodeEncodeError("utf-8", "\udce9", 0, 1, "x")]
)
def test_unfinished_batch_folder_is_removed(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(wantui_manifest(), "write_manifest", fail)
    result = wantui("run", "-t", "a circle", "--output-dir", "new/folder")
    assert result.code == 2
    assert list(Path().iterdir()) == []  # C7


def wantui_manifest() -> object:
    return wantui.storage.manifest


@pytest.mark.parametrize("content", [b"\xff a circle", b"\xe9", b"x" * 2_000_000])
def test_binary_or_large_template_is_refused_before_anything_is_written(wantui: Wantui, content: bytes) -> None:
    Path("t.txt").write_bytes(content)
    result = wantui("run", "--template-file", "t.txt")
    assert result.code == 2
    assert "--template-file" in result.err
    with only_queued():
        result = wantui("run", "--detach", "-t", os.fsdecode(content[:100]))
    assert result.code == (0 if content[:1] == b"x" else 2)
    assert [path.name for path in Path().iterdir() if path.name not in ("outputs",)] == ["t.txt"]  # C7


@pytest.mark.parametrize("number", ["9" * 30, "9223372036854775808", "9" * 5000])
def test_impossible_batch_number_is_refused(wantui: Wantui, number: str) -> None:
    for command in (["queue", "show"], ["watch"], ["logs"], ["queue", "cancel"]):
        result = wantui(*command, number)
        assert result.code == 2
        assert "no batch has the number 9" in result.err


def test_export_lists_valid_ids_for_a_wrong_one(wantui: Wantui, small: list[str]) -> None:
    made = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, "--store-latents", *small))
    (video,) = wantui_manifest().read_manifest(made).videos  # type: ignore[attr-defined]
    result = wantui("export", made.root, "--video-id", "wrong")
    assert result.code == 2
    assert f"no video 'wrong'. Its ids are {video.id}." in result.err  # C8


@pytest.mark.slow
def test_slow_cpu_batch_causes_a_warning_before_queueing(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with only_queued():
        result = wantui("run", "-c", "default", "-t", "a cat", "--detach")
        assert result.code == 0
        lines = result.err.splitlines()
        (warned,) = [line for line in lines if "without a GPU wan2.1-1.3b takes at least" in line]
        assert " for each video on this CPU, " in warned  # C13
        assert " days for all (2 cores)" in warned
        assert lines.index(warned) < next(n for n, line in enumerate(lines) if line.startswith("batch 1: 3 videos"))
        assert "without a GPU" not in wantui("run", "-t", "a circle", "--detach").err
        assert "without a GPU" in wantui("run", "--resume", result.out.strip(), "--detach").err
    assert "at least" in wantui("preview", "-c", "default", "-t", "a cat").out
    assert "1 variation x 3 seeds (42 to 44) = 3 videos" in wantui("preview", "-c", "default", "-t", "a cat").out  # C9


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "BATCH", "--csv", "no/x.csv"),
        ("analyze", "BATCH", "--compare", "--html", "no/x.html"),
        ("score", "BATCH", "--csv", "no/x.csv"),
        ("similarity", "BATCH", "--baseline", "x", "--csv", "no/x.csv"),
        ("sheet", "BATCH", "-o", "no/x.png"),
        ("attention", "BATCH", "-o", "no/x.png"),
        ("rerun", "CLIP", "-o", "no/x.mp4"),
        ("analyze", "BATCH", "--overlay", "circle", "-o", "no/x.mp4"),
        pytest.param(("models", "calibrate", "-t", "a circle", "--output", "no/x.json"), marks=pytest.mark.torch),
    ],
)
def test_file_in_a_missing_folder_is_refused_before_the_work(wantui: Wantui, arguments: tuple[str, ...]) -> None:
    result = wantui(*arguments)
    assert result.code == 2
    assert f"cannot write {arguments[-1]}: the folder " in result.err
    assert "no is missing. Create it (mkdir -p), or choose another path" in result.err
    assert not Path("no").exists()
