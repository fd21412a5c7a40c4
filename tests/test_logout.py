"""The advice of `wantui doctor` about logouts, from copies of systemd's files."""

import getpass
import sys
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.engine.logind import read_logout_effect


def machine(root: Path, settings: dict[str, str], lingers: bool = False) -> Path:
    (root / "run/systemd/system").mkdir(parents=True)
    for name, text in settings.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if lingers:
        (root / "var/lib/systemd/linger").mkdir(parents=True)
        (root / "var/lib/systemd/linger" / getpass.getuser()).touch()
    return root


KILLS = "[Login]\n#NAutoVTs=6\nKillUserProcesses=yes\n"
KEEPS = "[Login]\nKillUserProcesses=no\n"


@pytest.mark.parametrize(
    ("settings", "lingers", "survives"),
    [
        ({}, False, True),
        ({"etc/systemd/logind.conf": KILLS}, False, False),
        ({"etc/systemd/logind.conf": KILLS}, True, True),
        ({"etc/systemd/logind.conf": "[Login]\n#KillUserProcesses=yes\n"}, False, True),
        (
            {
                "usr/lib/systemd/logind.conf": KILLS,
                "etc/systemd/logind.conf.d/keep.conf": "[Login]\nKillUserProcesses=no",
            },
            False,
            True,
        ),
        ({"etc/systemd/logind.conf": "not a config"}, False, True),
        ({"usr/lib/systemd/logind.conf": KILLS, "etc/systemd/logind.conf": "[Login]\n"}, False, True),
        ({"usr/lib/systemd/logind.conf.d/20.conf": KILLS, "etc/systemd/logind.conf": KEEPS}, False, False),
        ({"run/systemd/logind.conf.d/20.conf": KILLS, "etc/systemd/logind.conf.d/10.conf": KEEPS}, False, False),
        ({"usr/lib/systemd/logind.conf.d/20.conf": KILLS, "etc/systemd/logind.conf.d/20.conf": KEEPS}, False, True),
        ({"usr/local/lib/systemd/logind.conf": KILLS}, False, False),
    ],
)
def test_logout_ends_the_engine_only_if_logind_kills_processes_without_linger(
    tmp_path: Path, settings: dict[str, str], lingers: bool, survives: bool
) -> None:
    assert read_logout_effect(machine(tmp_path, settings, lingers)).engine_survives == survives


def test_engine_survives_logout_without_systemd(tmp_path: Path) -> None:
    assert read_logout_effect(tmp_path).engine_survives


@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_prints_a_systemd_unit_and_checks_queue_engine_and_logout(wantui: Wantui) -> None:
    unit = wantui("doctor", "--systemd-unit")
    assert f'ExecStart="{sys.executable}" -P -m wantui engine run' in unit.out
    assert f"WorkingDirectory={Path.cwd()}" in unit.out
    report = wantui("doctor").out
    assert all(f" {about} " in report for about in ("queue", "engine", "logout"))


def test_systemd_unit_escapes_special_characters(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path.cwd() / """a %h b"q'$HOME\\x"""
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    lines = wantui("doctor", "--systemd-unit").out.splitlines()
    above = str(folder.parent)
    assert f"WorkingDirectory={above}/a %%h b\"q'$HOME\\x" in lines  # C5
    assert f'Environment="XDG_STATE_HOME={above}/a %%h b\\"q\'$HOME\\\\x"' in lines


@pytest.mark.parametrize("name", ["a\nExecStart=evil", "a\x1bb", "ends with a backslash\\", "ends with a space "])
def test_folder_that_a_unit_cannot_name_is_refused(wantui: Wantui, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = Path.cwd() / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = wantui("doctor", "--systemd-unit")
    assert (result.code, result.out) == (2, "")
    assert "cannot write a systemd unit" in result.err  # C5
