"""Tables of the analysis as spreadsheets read them."""

import csv
import errno
import os
import stat
from pathlib import Path

import pytest

from wantui.analysis.serialize import format_csv, write_csv
from wantui.cli.analyze_output import check_csv_file, write_csv_table
from wantui.errors import UserError


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


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_replaced_csv_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "t.csv"
    path.touch()
    path.chmod(mode)
    write_csv(path, [["later"]])
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, b"later\r\n")


def test_csv_replaced_by_another_program_is_reported_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"

    def replace_partial_file(partial_path: Path) -> None:
        partial_path.unlink()
        partial_path.symlink_to(tmp_path / "victim")

    monkeypatch.setattr("wantui.atomic_files.sync_to_disk", replace_partial_file)
    with pytest.raises(UserError) as refused:
        write_csv_table(path, [["later"]])
    reason = f"{path}.partial was replaced by another file while it was written"
    assert str(refused.value) == f"--csv: cannot write {path}: {reason}"


def test_csv_link_into_an_unwritable_folder_is_refused_before_the_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "t.csv").touch()
    link, may_access = tmp_path / "link.csv", os.access
    link.symlink_to("foreign/t.csv")
    check_csv_file(link)
    monkeypatch.setattr(
        os, "access", lambda tested, mode: Path(tested) != tmp_path / "foreign" and may_access(tested, mode)
    )
    with pytest.raises(UserError, match=f"you have no permission to write in {tmp_path / 'foreign'}"):
        check_csv_file(link)


def test_csv_into_a_pipe_is_accepted() -> None:
    reader, writer = os.pipe()  # as /dev/stdout; its link leads to no path
    try:
        check_csv_file(Path(f"/dev/fd/{writer}"))
    finally:
        os.close(reader)
        os.close(writer)


def fail_as_on_a_full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_csv_lines_end_with_a_newline() -> None:
    assert format_csv([["a", "b"], ["1", "x,y"]]) == 'a,b\n1,"x,y"\n'
