"""Text files that a user names: configs and templates from files and pipes, and refused files."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.config import ConfigError
from wantui.config.document import MAX_CONFIG_BYTES, read_config_text
from wantui.errors import UserError
from wantui.tui import settings


def in_bash(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command line in which `$W` is wantui."""
    environment = {"W": f"{sys.executable} -m wantui", "PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(Path.cwd())}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.processes
@pytest.mark.parametrize(
    "command",
    [
        "$W preview --template-file <(echo 'a blue circle')",
        "echo 'a blue circle' | $W preview --template-file /dev/stdin",
        "$W preview -t 'a blue circle' -c <(echo 'videos_per_variation: 7')",
        "echo 'videos_per_variation: 7' | $W preview -t 'a blue circle' -c /dev/stdin",
    ],
)
def test_templates_and_configs_can_come_from_a_pipe(command: str) -> None:
    ended = in_bash(command)
    assert ended.returncode == 0, ended.stderr
    assert "a blue circle" in ended.stdout
    assert ("x 7 seeds" in ended.stdout) == ("-c" in command)


def folder_at(path: Path) -> None:
    path.mkdir()


def large_file_at(path: Path) -> None:
    path.write_text("a" * (MAX_CONFIG_BYTES + 1))


def latin_file_at(path: Path) -> None:
    path.write_bytes(b"caf\xe9 x")


def encoded_file_at(encoding: str, path: Path) -> None:
    path.write_bytes("a circle".encode(encoding))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (folder_at, "a folder, not a file"),
        (lambda path: path.symlink_to("/dev/null"), "a device or a socket, not a file"),
        (large_file_at, "is too large: more than 1.0 MB"),
        (latin_file_at, r"it is not UTF-8 \(invalid continuation byte\). Save it as UTF-8"),
        *(
            (partial(encoded_file_at, encoding), "it is UTF-16 or UTF-32. Save it as UTF-8")
            for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be")
        ),
    ],
    ids=["folder", "device", "large", "latin", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"],
)
def test_unreadable_or_large_file_is_refused_as_template_and_config(
    wantui: Wantui, make: Callable[[Path], None], message: str
) -> None:
    make(Path("text"))
    template = wantui("preview", "--template-file", "text")
    assert (template.code, bool(re.search(message, template.err))) == (2, True), template.err
    with pytest.raises(ConfigError, match=message):
        read_config_text(Path("text"))
    config = wantui("preview", "-t", "a circle", "-c", "text")
    assert config.code == 2
    assert "text: " in config.err


def test_byte_order_mark_is_ignored(wantui: Wantui) -> None:
    Path("template.txt").write_text("\ufeffa blue circle\r\n", encoding="utf-8")
    Path("mine.yaml").write_text("\ufeffvideos_per_variation: 7\r\n", encoding="utf-8")
    result = wantui("preview", "--template-file", "template.txt", "-c", "mine.yaml", "--json")
    assert result.code == 0, result.err
    assert '"prompt": "a blue circle"' in result.out
    assert '"videos": 7' in result.out


def test_settings_file_that_is_a_pipe_is_refused_without_blocking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(settings.SETTINGS_PATH_VARIABLE, str(tmp_path / "tui.yaml"))
    os.mkfifo(tmp_path / "tui.yaml")
    with pytest.raises(UserError, match=r"tui\.yaml: cannot be read: it is a pipe, not a file"):
        settings.load_settings()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nowhere.yaml", "no such file"),
        ("~nobody_here/tui.yaml", "the user does not exist"),
        ("a" * 300, "longer than 255 bytes"),
    ],
)
def test_settings_file_from_the_environment_must_exist(
    monkeypatch: pytest.MonkeyPatch, named: str, message: str
) -> None:
    monkeypatch.setenv(settings.SETTINGS_PATH_VARIABLE, named)
    with pytest.raises(UserError, match=f"{settings.SETTINGS_PATH_VARIABLE}: .*{message}"):
        settings.load_settings()


@pytest.mark.processes
def test_template_in_a_locale_without_utf8_causes_an_error_that_names_the_locale() -> None:
    ended = in_bash("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $W preview -t 'ein [großer|kleiner] Kreis'")
    assert ended.returncode == 2
    assert "the text of --template or the locale is not UTF-8. Set LC_ALL=C.UTF-8" in ended.stderr
