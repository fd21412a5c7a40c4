"""Shell completion, suggestions for unknown commands, and `wantui open`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clip_batches import write_clip_batch
from conftest import Wantui

from wantui.cli import MODULE_AND_HELP_BY_COMMAND
from wantui.cli.commands import COMMANDS_BY_OTHER_NAME
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory


def complete(monkeypatch: pytest.MonkeyPatch, wantui: Wantui, line: str) -> list[str]:
    """Return what the completion script of bash receives for the last word of a command line."""
    words = line.split(" ")
    monkeypatch.setenv("_WANTUI_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    result = wantui()
    monkeypatch.delenv("_WANTUI_COMPLETE")
    assert result.err == ""
    return result.out.splitlines()


def queue_batches(*names: str) -> None:
    with Queue(find_state_directory().directory) as queue:
        for name in names:
            queue.add_batch(Path("outputs", name).absolute(), "cpu", [NewVideo(0, "red seed 42", "{}", 4)])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wantui wat", ["plain,watch"]),
        ("wantui queue re", ["plain,remove", "plain,resume", "plain,retry"]),
        ("wantui run --det", ["plain,--detach"]),
        ("wantui run -c nan", ["plain,nano", "plain,nano-4step"]),
        ("wantui run -c ./my", ["file,./my"]),
        ("wantui library show out", ["file,out"]),
        ("wantui run -t a red --det", ["plain,--detach"]),
        ("wantui run -t a -t b --det", ["plain,--detach"]),
        ("wantui completion ", ["plain,bash", "plain,zsh", "plain,fish"]),
    ],
)
def test_words_are_completed(monkeypatch: pytest.MonkeyPatch, wantui: Wantui, line: str, expected: list[str]) -> None:
    assert complete(monkeypatch, wantui, line) == expected


def test_batches_are_completed_from_the_queue(monkeypatch: pytest.MonkeyPatch, wantui: Wantui) -> None:
    queue_batches("summer", "sunset", "winter")
    assert complete(monkeypatch, wantui, "wantui watch su") == ["plain,summer", "plain,sunset"]
    assert complete(monkeypatch, wantui, "wantui queue cancel w") == ["plain,winter"]


def test_names_that_a_shell_would_split_or_execute_are_not_completed(
    monkeypatch: pytest.MonkeyPatch, wantui: Wantui
) -> None:
    split_names = ("s t", "s;ls", "s*", "s'", "s\nt", "~s", "s|t", "s{a,b}")
    queue_batches("s$(touch pwned)", "s`id`", *split_names, "sün_1.5", "sün_1.5")
    assert complete(monkeypatch, wantui, "wantui watch s") == ["plain,sün_1.5"]
    assert complete(monkeypatch, wantui, "wantui watch ") == ["plain,sün_1.5"]


def test_batches_are_completed_as_files_without_a_readable_queue(
    monkeypatch: pytest.MonkeyPatch, wantui: Wantui
) -> None:
    directory = find_state_directory().directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "queue.db").write_bytes(b"not a database" * 100)
    assert complete(monkeypatch, wantui, "wantui watch su") == ["file,su"]


@pytest.mark.processes
def test_bash_completes_with_the_printed_script() -> None:
    script = (
        'source /dev/stdin; COMP_WORDS=(wantui gal); COMP_CWORD=1; _wantui_completion wantui; echo "${COMPREPLY[@]}"'
    )
    program = "import sys; from wantui.cli import main; main(sys.argv[1:] or None)"
    Path("bin").mkdir()
    Path("bin/wantui").write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{program}' \"$@\"\n")
    Path("bin/wantui").chmod(0o755)
    environment = os.environ | {"PATH": f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}"}
    printed = subprocess.run(
        ["wantui", "completion", "bash"], env=environment, capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment, input=printed.stdout, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["gallery"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(wantui: Wantui, shell: str) -> None:
    script = wantui("completion", shell).out
    assert f"_WANTUI_COMPLETE={shell}_complete" in script
    assert "%(" not in script


def test_fish_keeps_a_value_and_its_description_after_the_first_comma(wantui: Wantui) -> None:
    script = wantui("completion", "fish").out
    assert 'string split --max 1 "," $completion' in script


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lib",), "no such command 'lib'; did you mean library?"),
        (("queeu",), "no such command 'queeu'; did you mean queue?"),
        (("queue", "cancle"), "no such command 'cancle'; did you mean cancel?"),
        (("validate",), "no such command 'validate'; did you mean config validate?"),
        (("cancel",), "no such command 'cancel'; did you mean queue cancel?"),
        (("ls",), "no such command 'ls'; did you mean queue ls or library ls or models ls?"),
        (("generate",), "no such command 'generate'; did you mean run?"),
        (("models", "generate"), "no such command 'generate'; the commands are "),
        (("zzz",), f"no such command 'zzz'; the commands are {', '.join(MODULE_AND_HELP_BY_COMMAND)}."),
    ],
)
def test_unknown_command_gets_a_suggestion(wantui: Wantui, words: tuple[str, ...], message: str) -> None:
    result = wantui(*words)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize("command", sorted({one for names in COMMANDS_BY_OTHER_NAME.values() for one in names}))
def test_suggested_commands_exist(wantui: Wantui, command: str) -> None:
    assert wantui(*command.split(), "--help").code == 0


def test_short_options_equal_the_long_ones(wantui: Wantui) -> None:
    long = wantui("preview", "-t", "a [red|blue] circle", "--videos-per-variation", 3, "--seed", 7, "--output-dir", "x")
    short = wantui("preview", "-t", "a [red|blue] circle", "-n", 3, "-s", 7, "-o", "x")
    assert (short.code, short.out) == (0, long.out)


def test_open_refuses_an_unknown_batch_by_name(wantui: Wantui) -> None:
    queue_batches("summer")
    result = wantui("open", "sumer")
    assert result.code == 2
    assert "did you mean summer?" in result.err


def test_open_says_whether_a_path_is_missing_or_no_batch(wantui: Wantui) -> None:
    result = wantui("open", "outputs/nope")
    assert result.code == 2
    assert "cannot open outputs/nope: it does not exist. List the batches: wantui library ls" in result.err
    Path("outputs/empty").mkdir(parents=True)
    result = wantui("open", "outputs/empty")
    assert result.code == 2
    assert "cannot open outputs/empty: the folder contains no batch.json" in result.err


@pytest.mark.parametrize("named", ["path", "name", "number"])
def test_open_starts_the_application_with_the_batch(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder = Path("outputs/summer").absolute()
    write_clip_batch(folder, "one circle", seeds=1)
    queue_batches("summer")
    opened = []
    monkeypatch.setattr("wantui.cli.tui.run_application", lambda *arguments, **options: opened.append(options["batch"]))
    batch = {"path": "outputs/summer", "name": "summer", "number": "1"}[named]
    assert wantui("open", batch).code == 0
    assert opened == [folder]


@pytest.mark.parametrize("command", ["analyze", "library show", "export"])
def test_command_that_reads_a_batch_folder_takes_its_queue_number_and_name(wantui: Wantui, command: str) -> None:
    folder = Path("elsewhere/stars").absolute()
    queue = Queue(find_state_directory().directory)
    queue.add_batch(folder, "cpu", [NewVideo(0, "red", "{}", 2)])
    for word in ("1", "stars"):
        assert str(folder) in wantui(*command.split(), word).err
    Path("1").mkdir()  # a folder of this name takes precedence
    result = wantui(*command.split(), "1")
    assert str(folder) not in result.err
    unknown = wantui(*command.split(), "7")
    assert (unknown.code, "no batch 7 is in the queue, only 1. " in unknown.err) == (2, True)
    assert "starz" in wantui(*command.split(), "starz").err
