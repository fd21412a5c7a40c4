"""Tables of the analysis as spreadsheets read them."""

import csv
import errno
import os
from pathlib import Path

import pytest

from wantui.analysis.serialize import format_csv, write_csv


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+1+cmd", "'+1+cmd"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("＝1", "'＝1"),
        ("-", "'-"),
        ("-0.5", "-0.5"),
        ("+3", "+3"),
        ("-1e-05", "-1e-05"),
        ("-.5", "-.5"),
        ("-1_000", "'-1_000"),
        ("a red = circle", "a red = circle"),
        ("", ""),
    ],
)
def test_csv_escapes_formulas_and_keeps_numbers(cell: str, expected: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [[cell, "next"]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [[expected, "next"]]  # R13


def test_csv_that_cannot_be_written_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    path = tables / "t.csv"
    write_csv(path, [["earlier"]])
    (tables / "link.csv").symlink_to(path)
    with monkeypatch.context() as patch:
        patch.setattr("wantui.atomic_files.sync_to_disk", fail_as_on_a_full_disk)
        for target in (path, tables / "link.csv", tables / "new.csv"):
            with pytest.raises(OSError, match="No space left"):
                write_csv(target, [["later"]])
    assert path.read_bytes() == b"earlier\r\n"
    assert sorted(file.name for file in tables.iterdir()) == ["link.csv", "t.csv"]
    write_csv(tables / "link.csv", [["later"]])
    assert (path.read_bytes(), (tables / "link.csv").is_symlink()) == (b"later\r\n", True)


def fail_as_on_a_full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_csv_lines_end_with_a_newline() -> None:
    assert format_csv([["a", "b"], ["1", "x,y"]]) == 'a,b\n1,"x,y"\n'
