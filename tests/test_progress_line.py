"""Progress of long work in one line of a terminal, and nothing of it elsewhere."""

import re
from pathlib import Path

import pytest
from conftest import MakeOnce, Wantui, generate_batch, only_queued

from wantui.cli import progress_line
from wantui.cli.progress_line import open_progress_line


def pretend_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let the captured stderr be a terminal."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))


def show_on_screen(written: str) -> list[str]:
    """Return the lines that a terminal shows after carriage returns and line feeds."""
    lines = [""]
    column = 0
    for character in written:
        if character == "\n":
            lines.append("")
            column = 0
        elif character == "\r":
            column = 0
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_progress_replaces_its_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch, 60)
    with open_progress_line() as line:
        line.show_phase("a long first phase")
        assert show_on_screen(first := capsys.readouterr().err) == ["a long first phase"]
        line.show_phase("second")
        assert show_on_screen(second := first + capsys.readouterr().err) == ["second"]
        line.show_count("a count just after the phase")
        assert capsys.readouterr().err == ""
        line.show_phase("x" * 500)
        assert show_on_screen(third := second + capsys.readouterr().err) == ["x" * 59]
    assert show_on_screen(third + capsys.readouterr().err) == [""]


def test_progress_prints_nothing_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress_line() as line:
        line.show_phase("a phase")
        line.show_count("a count")
    assert capsys.readouterr().err == ""


@pytest.fixture
def batch(make_once: MakeOnce) -> Path:
    options = ("-t", "a [red|blue] (circle)", "-n", "3", "--store-attention", "--store-latents")
    size = ("--set", "video_settings.width=32", "--set", "video_settings.height=32", "--set", "video_settings.frames=5")
    device = ("--set", "model_settings.device=cpu", "--set", "model_settings.steps=4")
    return make_once("progress-line", lambda folder: generate_batch(folder, *options, *size, *device)) / "batch"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "progress"),
    [
        (("library", "check"), r"checking .*batch: \d+ items? checked"),
        (("analyze",), r"reading trajectories: 6 videos"),
        (("analyze", "--compare"), r"comparing 6 videos"),
        (("analyze", "--attention"), r"reading attention maps: video 6 of 6"),
        (("sheet", "-o", "sheet.png"), r"drawing sheet.png: 6 clips"),
        (("decode", "--fast", "--steps", "end"), r"video 6 of 6: blue seed 44, end, frame \d of 5"),
        (("attention", "--by", "step"), r"drawing .*attention_by_step.png: 6 by 4 maps"),
        (("gallery",), r"writing .*gallery.html: 6 clips"),
    ],
)
def test_long_commands_show_progress_on_a_terminal(
    wantui: Wantui,
    batch: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    progress: str,
) -> None:
    monkeypatch.setattr(progress_line, "MIN_SECONDS_BETWEEN_UPDATES", 0.0)
    pretend_terminal(monkeypatch, 300)
    result = wantui(*arguments, batch)
    assert result.code == 0, result.err
    assert re.search(progress, result.err)
    assert not re.search(progress, "\n".join(show_on_screen(result.err)))


def test_cancel_shows_that_it_records_the_cancellations(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_queued():
        assert wantui("run", "--detach", "-t", "a [red|blue] circle", "-n", "3", "--batch-name", "b").code == 0
    pretend_terminal(monkeypatch, 200)
    result = wantui("queue", "cancel", 1)
    assert result.code == 0
    assert "recording 6 cancelled videos in " in result.err
    assert show_on_screen(result.err) == ["6 videos cancelled", ""]
