"""Last lines of `commitment run`, and warnings of `generic show`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from conftest import Wantui, recipe_for

from wantui.cli import generic, generic_labels, prompt_switches
from wantui.models.catalogue import NANO

SHOW_COMMAND = "wantui commitment show BATCH"


@pytest.mark.parametrize("code", [0, 1])
def test_complete_commitment_run_ends_with_the_command_that_measures_it(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def end_run(*_: Any) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(prompt_switches, "run_or_preview", end_run)
    words = ["-c", "nano", "-t", "a [circle|ring]", "--generic", "circle|ring: shape", "--switch-at", "20%"]
    result = wantui("commitment", "run", *words)
    assert result.code == code
    assert result.err.rstrip().endswith(SHOW_COMMAND) == (code == 0)


def test_generic_show_prints_each_warning_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ("a red shape", "a blue shape")
    video = SimpleNamespace(
        id="1", entry=SimpleNamespace(seed=1), recipe=recipe_for(NANO, prompt=prompts[0], guidance_scale=4.0)
    )
    labels = SimpleNamespace(
        label_by_id={"1": "ring"},
        concepts=("ring", "circle"),
        left_out=[],
        method="nano",
        description="the pixel rules",
    )
    monkeypatch.setattr(generic_labels, "list_generic_videos", lambda _: ({prompt: [video] for prompt in prompts}, []))
    monkeypatch.setattr(generic_labels, "label_generic_videos", lambda *_: labels)
    assert generic.show_command.callback is not None
    generic.show_command.callback((Path("batch"),), (), "auto", None, None, False)
    out, err = capsys.readouterr()
    assert all(f"{prompt}: 1 seed" in out for prompt in prompts)
    assert err.count("warning: guidance (scale 4) changes these shares") == 1
    assert err.count("concepts identified by the pixel rules") == 1
