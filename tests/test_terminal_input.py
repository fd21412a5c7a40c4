"""Input of the terminal: late and split replies, sizes, and pastes."""

import pytest

from wantui.tui.terminal.keyboard import InputDecoder


def test_late_replies_of_the_terminal_are_not_read_as_keys() -> None:
    answers = b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\\x1bP>|kitty(0.3)\x1b\\\x1b_Gi=31;OK\x1b\\\x1b]1337;x=y\x07"
    decoder = InputDecoder("utf-8")
    assert decoder.decode(b"a" + answers + b"b") == "ab"
    assert decoder.decode(b"\x1b]") == "\x1b]", "alt+]"
    assert decoder.decode(b"\x1bPx\x1b\\") == "\x1bPx\x1b\\", "alt+P, x, alt+backslash"
    pasted = b"\x1b[200~" + answers
    assert decoder.decode(pasted + answers[:10]) == (pasted + answers[:10]).decode()
    assert decoder.decode(answers + b"\x1b[201~" + answers) == (answers + b"\x1b[201~").decode()


CUT_INPUT = {
    "colour": (b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\", "", 4),
    "version": (b"\x1bP>|kitty(0.3)\x1b\\", "", 4),
    "mode": (b"\x1b[?2026;2$y", "\x1b[?2026;2$y", 3),
    "attributes": (b"\x1b[?62;4c", "\x1b[?62;4c", 3),
    "mouse": (b"\x1b[<0;39;31M", "\x1b[<0;39;31M", 3),
    "key": (b"\x1b[1;5A", "\x1b[1;5A", 3),
    "size": (b"\x1b[48;99999;10;1;1t", "", 3),
    "paste": (b"\x1b[200~\x1b[31m", "\x1b[200~\x1b[31m", 3),
}


@pytest.mark.parametrize(("sequence", "expected", "first"), CUT_INPUT.values(), ids=CUT_INPUT)
def test_sequence_that_arrives_in_parts_is_read_as_one(sequence: bytes, expected: str, first: int) -> None:
    for length in range(first, len(sequence)):
        decoder = InputDecoder("utf-8")
        parts = [decoder.decode(b"a" + sequence[:length]), decoder.decode(sequence[length:] + b"b")]
        assert "".join(parts) == f"a{expected}b"
        assert parts[0] == "a" or expected.startswith("\x1b[200~")


def test_split_end_marker_ends_a_paste() -> None:
    paste, answer = b"\x1b[200~x\x1b[201~", b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\"
    for length in range(len(paste)):
        decoder = InputDecoder("utf-8")
        read = decoder.decode(paste[:length]) + decoder.decode(paste[length:]) + decoder.decode(answer + b"b")
        assert read == paste.decode() + "b" or length < 3


def test_keys_are_never_held() -> None:
    for keys in ("\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b[A", "\x1bOP", "\x1b[Z", "\x1b[3~", "a", "\x1b[97;5u", "é"):
        assert InputDecoder("utf-8").decode(keys.encode()) == keys


def test_start_of_a_sequence_without_its_rest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [10.0]
    monkeypatch.setattr("wantui.tui.terminal.keyboard.time.monotonic", lambda: seconds[0])
    decoder = InputDecoder("utf-8")
    assert decoder.decode(b"\x1b]11;rgb:ffff") == ""
    seconds[0] += 1
    assert decoder.decode(b"q") == "", "perhaps the rest of the answer"
    seconds[0] += 1.1
    assert decoder.decode(b"q") == "q"
    for _ in range(5):  # every read ends in another sequence
        assert decoder.decode(b"\x1b[<0;1") == ""
        seconds[0] += 0.5
        assert decoder.decode(b";1M\x1b[<0;1") == "\x1b[<0;1;1M"
        seconds[0] += 0.5
        assert decoder.decode(b";1M") == "\x1b[<0;1;1M"
    assert decoder.decode(b"\x1b[<0;1") == ""
    for _ in range(5):
        seconds[0] += 1
        assert decoder.decode(b";1M\x1b[<0;1") == "\x1b[<0;1;1M"
    seconds[0] += 3
    assert decoder.decode(b"\x1b[200~x\x1b[2") == "\x1b[200~x"
    seconds[0] += 60
    assert decoder.decode(b"q\x1b[201~") == "\x1b[2q\x1b[201~"


def test_too_large_terminal_size_is_dropped() -> None:
    decoder = InputDecoder("utf-8")
    assert decoder.decode(b"a\x1b[48;99999;10;1;1tb") == "ab"
    assert decoder.decode(b"\x1b[48;40;120;640;1920t") == "\x1b[48;40;120;640;1920t"


def test_long_text_in_one_read_is_a_paste_even_without_markers() -> None:
    text = "a (kiss) [left|right] 愛 " * 20
    decoder = InputDecoder("utf-8")
    assert (
        decoder.decode(f"{text}\r\x1b[A{text}".encode()) == f"\x1b[200~{text}\x1b[201~\r\x1b[A\x1b[200~{text}\x1b[201~"
    )
    assert decoder.decode(b"x" * 255) == "x" * 255
    assert decoder.decode(f"\x1b[200~{text}\x1b[201~".encode()) == f"\x1b[200~{text}\x1b[201~"
    assert decoder.decode(f"\x1b[200~{text}".encode()) == f"\x1b[200~{text}"
    assert decoder.decode(f"{text}\x1b[201~".encode()) == f"{text}\x1b[201~"


LONG_ANSWERS = {
    "clipboard": b"\x1b]52;c;" + b"A" * 700 + b"\x07",
    "capability": b"\x1bP1+r" + b"4D" * 350 + b"\x1b\\",
}


@pytest.mark.parametrize("answer", LONG_ANSWERS.values(), ids=LONG_ANSWERS)
@pytest.mark.parametrize("length", [4, 100, 262, 263, 300, 600])
def test_long_reply_in_parts_is_neither_a_paste_nor_keys(answer: bytes, length: int) -> None:
    decoder = InputDecoder("utf-8")
    assert decoder.decode(b"a" + answer[:length]) == "a"
    assert decoder.decode(answer[length:] + b"b") == "b"
    text = "x" * 256
    assert decoder.decode(text.encode() + answer[:length]) == f"\x1b[200~{text}\x1b[201~", "a paste before it"
    assert decoder.decode(answer[length:]) == ""
