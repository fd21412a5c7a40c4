"""Output of commands: foreign text cannot control the terminal, and JSON stays valid."""

import ast
import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import numpy as np
import pytest
from clip_batches import write_clip_batch
from conftest import MakeOnce, Wantui, only_queued
from rich.cells import cell_len

import wantui.cli
from wantui.analysis.loading import read_batches
from wantui.batches.batch_folders import create_batch_folder
from wantui.batches.enqueue import enqueue_missing_videos
from wantui.cli.output import echo, format_json, print_columns
from wantui.cli.progress import BarReporter, PlainReporter
from wantui.config import load_config
from wantui.planning import plan_batch
from wantui.queue.queue import Queue
from wantui.queue.records import QueueEvent
from wantui.queue.state_dir import find_state_directory
from wantui.queue.stored_events import parse_event_payload
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest, write_manifest
from wantui.storage.mp4 import write_mp4

EVIL = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x85\u202ex"
"""Clipboard, clear screen, colour by C1, next line, right-to-left override."""
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def write_hostile_files(folder_of_files: Path) -> None:
    """Write what `hostile` copies: the working folder `work`, and the state directory `state`."""
    (folder_of_files / "work").mkdir()
    with contextlib.chdir(folder_of_files / "work"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder_of_files / "state"))
        write_hostile_batch()


@pytest.fixture
def hostile(make_once: MakeOnce, tmp_path: Path) -> BatchFolder:
    """A batch folder in the queue whose every text holds escape sequences, beside a config, logs and a clip like it."""
    shutil.copytree(make_once("hostile", write_hostile_files), tmp_path, dirs_exist_ok=True)
    (root,) = Path("outputs").iterdir()
    with closing(sqlite3.connect(find_state_directory().directory / "queue.db")) as database:
        database.execute("update batch set folder = ?", (str(root.absolute()),))
        database.commit()
    return BatchFolder(root)


def write_hostile_batch() -> None:
    """Write the files of `hostile` into the working folder, and put its batch on the queue."""
    folder, _ = create_batch_folder(
        plan_batch(load_config("nano", ["videos_per_variation=2"]), "a [red|blue] (circle)")
    )
    evil = folder.root.with_name("b\x9b2J\x85\u202ex")  # with a C0 character no path is taken at all
    folder.root.rename(evil)
    folder = BatchFolder(evil)
    manifest = json.loads(folder.manifest_path.read_text())
    manifest["template"] = manifest["name"] = manifest["created"] = EVIL
    for variation in manifest["variations"]:
        variation["id"] += EVIL
        variation["prompt"] += EVIL
    for video in manifest["videos"]:
        video["id"] += EVIL
        video["recipe"]["prompt"] += EVIL
        video["error"] = EVIL
    manifest["videos"][0] |= {"state": "done", "files": {"clip": f"v{EVIL}.mp4"}}
    manifest["videos"][1]["state"] = "failed"
    folder.manifest_path.write_text(json.dumps(manifest))
    queued = enqueue_missing_videos(find_state_directory(), folder, read_manifest(folder))
    assert queued is not None
    with closing(sqlite3.connect(find_state_directory().directory / "queue.db")) as database:
        database.execute("update video set state = 'failed', error = ? where id = 1", (EVIL,))
        database.commit()
    folder.log_path.parent.mkdir()
    folder.log_path.write_text(f"{EVIL}\n")
    Path(f"{EVIL.replace('/', '')}.log").write_text(f"{EVIL}\n")
    Path("evil.yaml").write_text(
        'model_settings:\n  "st\\e[2Jeps": 1\n  sampler: "x\\e]0;y\\a"\nbatch_name: "\\e[2J"\n'
    )
    Path("fine.yaml").write_text('prompt_settings:\n  negative_prompt: "a \\e[2J\\x9b \\x85 \\u202e b"\n')
    Path("template.txt").write_text(f"a [red{EVIL}|blue] (circle\n")
    frames = [np.zeros((32, 32, 3), np.uint8)] * 5
    recipe = manifest["videos"][0]["recipe"] | {"width": 32, "height": 32, "frames": 5, "steps": 1, "model": EVIL}
    tags = {"wantui": json.dumps(recipe), "wantui_made_with": json.dumps({"torch": EVIL})}
    write_mp4(Path("evil.mp4"), frames, 8, 5, tags)


COMMANDS = [
    ["library", "ls"],
    ["library", "ls", "--json"],
    ["library", "show", "BATCH"],
    ["library", "show", "BATCH", "--json"],
    ["library", "trash", "BATCH"],
    ["analyze", "BATCH"],
    ["analyze", "BATCH", "--list-videos"],
    ["analyze", "BATCH", "--list-videos", "--json"],
    ["analyze", "BATCH", "--groups"],
    ["analyze", "BATCH", "--attention"],
    ["analyze", "BATCH", "--compare"],
    ["analyze", "BATCH", "--compare", "--details"],
    ["analyze", "BATCH", "--csv", "-"],
    ["analyze", "BATCH", "--json"],
    ["analyze", "BATCH", "--video-id", EVIL],
    ["analyze", "BATCH", "--metrics", EVIL],
    ["analyze", EVIL],
    ["export", "BATCH"],
    ["queue", "ls", "--all"],
    ["queue", "ls", "--all", "--json"],
    ["queue", "show", "1"],
    ["queue", "show", "1", "--json"],
    ["queue", "show", EVIL],
    ["queue", "move", "1", EVIL],
    ["queue", "cancel", "1", "2"],
    ["queue", "remove", "1"],
    ["run", "--resume", "BATCH", "-t", "a circle"],
    ["run", "--resume", "BATCH", "--detach"],
    ["run", "-t", f"a [red{EVIL}|blue"],
    ["run", "-t", "a circle", "-c", "evil.yaml"],
    ["run", "-t", "a circle", "-c", EVIL],
    ["run", "-t", "a circle", "--set", f"model_settings.{EVIL}=1"],
    ["run", "-t", "a circle", "--set", f"model_settings.steps={EVIL}"],
    ["run", "-t", "a circle", "--set", f"model_settings.model_id={EVIL}"],
    ["run", "-t", "a circle", "--output-dir", EVIL],
    ["run", "-t", "a circle", f"--{EVIL}"],
    ["run", "-t", "a circle", "--seed", EVIL],
    ["slurm", "-t", "a circle", "--time", EVIL],
    ["preview", "-t", f"a [red{EVIL}|blue] (circle)"],
    ["preview", "-t", f"a [red{EVIL}|blue] (circle)", "--json"],
    ["preview", "--template-file", "template.txt"],
    ["config", "validate", "evil.yaml", "fine.yaml", EVIL],
    ["config", "validate", "evil.yaml", "fine.yaml", "--json"],
    ["config", "show", "fine.yaml"],
    ["config", "show", "fine.yaml", "--json"],
    ["logs", "1"],
    ["logs", "--logs", "."],
    ["watch", EVIL],
    ["models", "fetch", EVIL],
    ["engine", "status"],
    ["engine", "status", "--json"],
    ["engine", "run", "--drain", "--batch", EVIL],
    [EVIL],
]
TORCH_COMMANDS = [
    ["rerun", "evil.mp4"],
    ["rerun", f"{EVIL}.mp4"],
    ["bench", "--device", EVIL],
]


def escaped(words: list[str]) -> str:
    return " ".join(words).encode("unicode_escape").decode()


@pytest.mark.usefixtures("torch_not_imported")
@pytest.mark.parametrize(
    "command",
    [*COMMANDS, *(pytest.param(words, marks=pytest.mark.torch) for words in TORCH_COMMANDS)],
    ids=escaped,
)
def test_no_command_prints_terminal_control_sequences(wantui: Wantui, hostile: BatchFolder, command: list[str]) -> None:
    with only_queued():
        result = wantui(*(str(hostile.root) if word == "BATCH" else word for word in command))
    assert OBEYED.findall(result.out) == []  # R1
    assert OBEYED.findall(result.err) == []
    assert result.out + result.err
    assert "Traceback" not in result.err


def _values(document: object, field: str) -> list[object]:
    """Return the values of a field at any depth of a JSON document."""
    if isinstance(document, list):
        return [value for item in document for value in _values(item, field)]
    if not isinstance(document, dict):
        return []
    own = [document[field]] if field in document else []
    return own + [value for item in document.values() for value in _values(item, field)]


CLEANED = "red52;c;aGk=2J›31m…\u202ex"
"""A red{EVIL} of a template as the pipeline cleans prompts; it leaves the override of the direction."""
JSON_VALUES = {
    "library ls": ("template", EVIL),
    "library show": ("template", EVIL),
    "analyze BATCH": ("variation", f"red{EVIL}"),
    "queue ls": ("folder", "b\x9b2J\x85\u202ex"),
    "queue show": ("error", EVIL),
    "preview -t": ("prompt", f"a {CLEANED} circle"),
    "config validate": ("problems", "model_settings.st\x1b[2Jeps: unknown key; did you mean model_settings.steps?"),
    "config show": ("negative_prompt", "a \x1b[2J\x9b \x85 \u202e b"),
    "engine status": ("title", f"red{EVIL} seed 43"),
}
"""A field and the end of a value that it holds unchanged, by the first words of a command."""


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--json" in command], ids=" ".join)
def test_json_output_preserves_escaped_text(wantui: Wantui, hostile: BatchFolder, command: list[str]) -> None:
    with closing(sqlite3.connect(find_state_directory().directory / "queue.db")) as database:
        database.execute("update video set state = 'running' where id = 2")
        database.commit()
    result = wantui(*(str(hostile.root) if word == "BATCH" else word for word in command))
    field, end = JSON_VALUES[" ".join(command[:2])]
    values = _values(json.loads(result.out), field)
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    assert any(isinstance(text, str) and text.endswith(end) for text in texts), texts  # R1


def test_to_json_escapes_control_characters_and_reads_back() -> None:
    value = {f"a{EVIL}": ["日本語", "\udce9", 'quote " backslash \\']}
    assert OBEYED.findall(format_json(value)) == []  # R1
    assert json.loads(format_json(value)) == value
    assert "日本語" in format_json(value)


def test_config_with_control_characters_prints_loadable_yaml(wantui: Wantui, hostile: BatchFolder) -> None:
    Path("again.yaml").write_text(wantui("config", "show", "fine.yaml").out)
    again = load_config("again.yaml").settings.prompt_settings.negative_prompt
    assert again == load_config("fine.yaml").settings.prompt_settings.negative_prompt  # R1
    assert again.startswith("a \x1b[2J\x9b")


@pytest.mark.parametrize("reporter", [BarReporter, PlainReporter])
def test_progress_prints_no_terminal_control_sequences(
    reporter: type[BarReporter] | type[PlainReporter], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = reporter(lambda: None)
    for kind, data in (
        ("started", {"title": EVIL, "steps": 3}),
        ("failed", {"title": EVIL, "error": EVIL}),
        ("held", {"reason": EVIL}),
    ):
        shown.show_event(QueueEvent(1, 0.0, 1, 1, parse_event_payload(kind, json.dumps(data))))
    captured = capsys.readouterr()
    assert "failed: \\x1b]52" in captured.out + captured.err  # R1
    assert OBEYED.findall(captured.out + captured.err) == []


def test_commands_print_through_one_module() -> None:
    for path in Path(wantui.cli.__file__).parent.glob("*.py"):
        if path.name in ("output.py", "serve.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name not in ("print", "click.echo", "click.secho", "sys.stdout.write"), f"{path.name}: {name}"  # R1


def test_caret_stays_below_its_error_in_escaped_text(wantui: Wantui) -> None:
    result = wantui("preview", "-t", "\x1b\x1b [red|blue")
    line, caret = result.err.splitlines()[-2:]
    assert line[caret.index("^")] == "["  # R1


def program(*arguments: str, shell: str) -> subprocess.CompletedProcess[str]:
    """Run wantui with its streams as a shell command line says; `$W` stands for it."""
    environment = {"W": f"{sys.executable} -m wantui {' '.join(arguments)}", "PATH": "/usr/bin:/bin"}
    environment["PYTHONPATH"] = str(Path(wantui.cli.__file__).parents[2])
    environment["XDG_STATE_HOME"] = str(Path.cwd())
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "shell", "code"),
    [
        ("config schema", "$W | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 0),
        ("config schema", "$W 2>&1 | true; exit ${PIPESTATUS[0]}", 0),
        ("run -t [", "$W 2>&1 | true; exit ${PIPESTATUS[0]}", 2),
        ("--version", "$W | true; exit ${PIPESTATUS[0]}", 0),
        ("queue ls --help", "$W | true; exit ${PIPESTATUS[0]}", 0),
        ("queue pause", "$W 2>/dev/full", 0),
        ("run -t [", "$W >/dev/full 2>&1", 2),
        ("library check nowhere", "$W 2>/dev/null | true; exit ${PIPESTATUS[0]}", 2),
        ("config show", "$W >&-", 0),
        ("run -t [", "$W 2>&-", 2),
        ("queue ls", "$W <&- >&- 2>&-", 0),
    ],
)
def test_closed_stream_ends_a_command_silently(arguments: str, shell: str, code: int) -> None:
    ended = program(arguments, shell=shell)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")  # B7, C7


@pytest.mark.processes
@pytest.mark.parametrize("arguments", ["config show", "config schema"])
def test_output_to_a_full_disk_is_an_error_message(arguments: str) -> None:
    ended = program(arguments, shell="$W >/dev/full")
    assert (ended.returncode, ended.stderr) == (2, "wantui: cannot write the output: No space left on device\n")


@pytest.mark.processes
def test_file_is_not_blamed_for_a_full_output_stream() -> None:
    write_clip_batch(Path("b"))
    ended = program("gallery", "b", shell="PYTHONUNBUFFERED=1 $W >/dev/full")
    assert (ended.returncode, ended.stderr) == (2, "wantui: cannot write the output: No space left on device\n")
    assert Path("b/gallery.html").is_file()


@pytest.mark.processes
def test_ascii_locale_gets_escaped_json(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("batch_name: é日\n")
    ended = program("config show", str(tmp_path / "b.yaml"), "--json", shell="PYTHONIOENCODING=ascii $W")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["batch_name"] == "é日"


@pytest.mark.processes
def test_closed_streams_do_not_corrupt_the_queue_database(tmp_path: Path) -> None:
    program("queue ls", shell="$W <&- >&- 2>&-")
    place = next(Path.cwd().rglob("queue.db"))
    assert Queue(place.parent).list_batches() == []  # B7


@pytest.mark.parametrize("width", [20, 40, 50, 200])
def test_wide_rows_wrap_between_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [("name", "first value", "second value", "why"), ("circle", "0.98289", "-9.7935", "no room on the disk")]
    print_columns(*rows)
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    cells = ("name", "first value", "second value", "circle", "0.98289", "-9.7935")
    assert all(any(cell in line for line in lines) for cell in cells)
    assert len(lines) == 2 if width == 200 else len(lines) > 2


def test_columns_align_wide_characters_by_their_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns(("prompt", "seed"), ("红色的圆", "1"), ("a ring", "2"), ("café", "3"))
    lines = capsys.readouterr().out.splitlines()
    assert [cell_len(line.rsplit(" ", 1)[0]) for line in lines] == [9, 9, 9, 9]


def test_status_lines_wrap_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "warning: the path /a/very/long/path/that/stays/whole is what this sentence is about"
    monkeypatch.setenv("COLUMNS", "30")
    echo(text, err=True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    echo(text, err=True)
    whole, *broken = capsys.readouterr().err.splitlines()
    assert whole == text
    assert [word for line in broken for word in line.split()] == text.split()
    assert max(len(line) for line in broken if "/a/very" not in line) <= 30


LONG = "x" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ("preview", "-t", f"a [red {LONG}"),
        ("preview", "-t", "[" + "a b " * 2000),
        ("preview", "-t", "a", "-c", LONG),
        ("preview", "-t", "a", "-c", f"{'folder name/' * 300}x.yaml"),
        ("preview", "-t", "a", "--set", f"model_settings.{LONG}=1"),
        ("preview", "-t", "a", "--set", f"model_settings.model_id={LONG}"),
        ("preview", "-t", "a", "--set", f"model_settings.model_id={'two words ' * 500}"),
        ("preview", "-t", "a", "--seed", LONG),
        ("preview", "-t", "a", f"--{LONG}"),
        ("watch", LONG),
        ("watch", "9" * 5000),
        ("logs", LONG),
        ("rerun", LONG),
        ("analyze", LONG),
        ("analyze", ".", "--metrics", LONG),
        ("export", LONG),
        ("models", "fetch", LONG),
        ("library", "show", LONG),
        ("engine", "run", "--batch", ".", "--share", "1/" + "9" * 5000),
        (LONG,),
    ],
    ids=lambda value: " ".join(word[:20] for word in value),
)
def test_errors_shorten_long_arguments(wantui: Wantui, arguments: tuple[str, ...]) -> None:
    result = wantui(*arguments)
    assert result.code == 2
    assert 0 < len(result.err) < 2500


def test_analyze_names_videos_without_a_result(tmp_path: Path) -> None:
    write_clip_batch(tmp_path / "whole")
    manifest = write_clip_batch(tmp_path / "partial", unfinished=(0, 1))
    manifest.videos[0].state = "running"
    write_manifest(BatchFolder(tmp_path / "partial"), manifest)
    folders = [tmp_path / "whole", tmp_path / "partial", tmp_path / "none"]
    assert read_batches(folders).describe_unfinished_videos() == [
        f"2 of 8 videos of {tmp_path / 'partial'} have no result: 1 running, 1 failed"
    ]


@pytest.mark.parametrize(
    "mode", [(), ("--compare", "--by", "1"), ("--groups", "--by", "1"), ("--attention",), ("--csv", "-")]
)
def test_analyze_refuses_a_batch_without_finished_videos(wantui: Wantui, mode: tuple[str, ...]) -> None:
    folder, _ = create_batch_folder(plan_batch(load_config("nano", ["videos_per_variation=2"]), "a [red|blue] circle"))
    result = wantui("analyze", folder.root, *mode)
    assert result.code == 2
    assert result.err.startswith(f"wantui: cannot analyse {folder.root}: no video is finished. Wait for the first one ")
    assert "brackets" not in result.err
    assert json.loads(wantui("analyze", folder.root, "--json").out) == []
