"""Use of the terminal application over a slow SSH connection: python tests/benchmarks/slow_link.py.

A relay between the pseudo-terminal and the "user" delays each direction by half of the round-trip time and limits the
output to a number of bytes per second. The peer, in the same run over the same link, is a bare Textual application.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.terminal import BARE, HIDE_PANEL_KEY, SCREEN_KEYS, Terminal

from wantui.queue.state_dir import find_state_directory
from wantui.tui.drafts import Drafts, save_drafts

QUIET_SECONDS = 1.5
"""Seconds with almost no output after which a screen is completely drawn."""
QUIET_BYTES = 600
"""Bytes of an update that is no drawing of a screen, such as one of a clock."""


class SlowTerminal(Terminal):
    """A program on a pseudo-terminal behind a slow link.

    Args:
        round_trip_seconds: time from a key press to the first byte of an answer that takes no time.
        bytes_per_second: rate at which output arrives.
    """

    def __init__(self, *command: str, round_trip_seconds: float, bytes_per_second: float) -> None:
        self.delay_seconds, self.bytes_per_second = round_trip_seconds / 2, bytes_per_second
        self._link_free_at = 0.0
        super().__init__(*command)

    def _accept(self, data: bytes) -> None:
        # A byte arrives when the link has carried all bytes before it; the pseudo-terminal's buffer is small, so
        # that a program that writes faster is slowed down, as by a real connection.
        self._link_free_at = max(self._link_free_at, time.perf_counter()) + len(data) / self.bytes_per_second
        time.sleep(max(0.0, self._link_free_at - time.perf_counter()))
        super()._accept(data)
        self.latest += self.delay_seconds

    def keys(self, text: bytes) -> None:
        time.sleep(self.delay_seconds)
        super().keys(text)

    def press(self, key: bytes) -> tuple[float, float, int]:
        """Press a key; return the seconds to the first and the last byte of the answer, and its number of bytes."""
        before, pressed_at = len(self.output), time.perf_counter()
        self.keys(key)
        while len(self.output) == before:
            if time.perf_counter() - pressed_at > 10:
                raise TimeoutError(f"nothing was drawn after {key!r}")
            time.sleep(0.002)
        first_seconds = time.perf_counter() + self.delay_seconds - pressed_at
        size = 0
        while len(self.output) - before > size + QUIET_BYTES or size == 0:
            size, last_at = len(self.output) - before, self.latest
            time.sleep(QUIET_SECONDS)
        return first_seconds, last_at - pressed_at, size

    def wait_until_quiet(self) -> None:
        """Wait until nothing but updates of at most `QUIET_BYTES`, as of the machine panel, was drawn for a while."""
        size, since = len(self.output), time.perf_counter()
        while time.perf_counter() - since < QUIET_SECONDS:
            time.sleep(0.01)
            if len(self.output) - size > QUIET_BYTES:
                size, since = len(self.output), time.perf_counter()


@click.command()
@click.option("--round-trip", default=0.2, show_default=True, help="Round-trip time in seconds.")
@click.option("--rate", default=64_000.0, show_default=True, help="Bytes per second.")
@click.option("--presses", default=20, show_default=True, help="Key presses in a list.")
def main(round_trip: float, rate: float, presses: int) -> None:
    """Print time to the first paint, key latency, and bytes per screen, over a slow link."""
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        save_drafts(find_state_directory().directory, Drafts(welcomed=True))
        bare = SlowTerminal("-c", BARE, round_trip_seconds=round_trip, bytes_per_second=rate)
        bare_seconds = bare.until(b"READY") + bare.delay_seconds
        bare.close()
        for options in ((), ("--low-bandwidth",)):
            label = " ".join(("wantui", *options))
            terminal = SlowTerminal("-m", "wantui", *options, round_trip_seconds=round_trip, bytes_per_second=rate)
            try:
                paint_seconds = terminal.until(b"cfg scale") + terminal.delay_seconds
                terminal.wait_until_quiet()
                drawn_bytes = len(terminal.output)
                terminal.press(HIDE_PANEL_KEY)
                click.echo(
                    f"{label}: first full paint {paint_seconds:.2f} s, {drawn_bytes:,} bytes "
                    f"(a bare Textual application {bare_seconds:.2f} s)"
                )
                terminal.press(b"\x1b")
                terminal.press(b"s")
                list_presses = [terminal.press(b"\x1b[B" if n % 8 < 4 else b"\x1b[A") for n in range(presses)]
                click.echo(
                    f"{label}: arrow key in a list, median of {presses}: {_format_press(list_presses)} "
                    f"(the round trip is {round_trip:.2f} s)"
                )
                terminal.press(b"\x1b")
                for name, key in SCREEN_KEYS.items():
                    click.echo(f"{label}: {name} screen: {_format_press([terminal.press(key)])}")
                    click.echo(f"{label}: {name} screen, idle: {terminal.rate(3.0):.0f} B/s")
            finally:
                terminal.close()


def _format_press(answers: list[tuple[float, float, int]]) -> str:
    first, last, size = (statistics.median(values) for values in zip(*answers, strict=True))
    return f"first byte {first:.2f} s, last {last:.2f} s, {size:,.0f} bytes"


if __name__ == "__main__":
    main()
