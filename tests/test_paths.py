"""Paths as users type them."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from wantui.errors import UserError
from wantui.paths import check_output_file, expand_user_path


def test_user_path_resolves_home_and_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    assert expand_user_path("~/videos") == tmp_path / "videos"
    assert expand_user_path("$HOME/videos") == tmp_path / "videos"  # C7
    assert expand_user_path("${DATA}/wan") == Path("/data/wan")


def test_user_path_takes_an_existing_name_literally(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", "/data")
    (tmp_path / "$DATA").mkdir()
    assert expand_user_path("$DATA") == Path("$DATA")


def test_tilde_after_a_leading_dot_is_part_of_a_new_name() -> None:
    assert expand_user_path("./~nobody-of-this-name.png") == Path("~nobody-of-this-name.png")
    assert expand_user_path("./~") == Path("./~")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("$WANTUI_NOT_SET/x", "WANTUI_NOT_SET is not set"),
        ("~nobody-of-this-name/x", "the user does not exist"),
        ("a\nb", "line break"),
        ("a\0b", "control character"),
        ("\udce9", "not UTF-8"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128 + "/batch", "longer than 255 bytes"),
        ("abc/" * 1100, "longer than 4095 bytes"),
    ],
)
def test_user_path_refuses_an_impossible_path(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        expand_user_path(text)  # B7, C7, R11


def test_user_path_refuses_circular_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="loop"):
        expand_user_path(tmp_path / "a" / "batch")  # B7


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(0, "you have no permission to write in {}"), (os.ST_RDONLY, "{} is on a read-only file system")],
)
def test_output_in_an_unwritable_folder_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, reason: str
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with pytest.raises(UserError) as refused:
        check_output_file(tmp_path / "t.csv")
    assert str(refused.value) == (f"cannot write {tmp_path / 't.csv'}: {reason.format(tmp_path)}. Choose another path")
