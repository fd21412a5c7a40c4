"""Bytes, time and memory of the terminal application: python tests/benchmarks/terminal.py.

Peers, in the same run on the same pseudo-terminal: a bare Textual application for the first paint, and a Textual
ProgressBar and Sparkline that change once a second for the bytes of something that moves.
"""

import asyncio
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from struct import pack

import click
import psutil

from wantui.models.catalogue import NANO
from wantui.planning import Recipe
from wantui.queue.events import StepDone, VideoDone, VideoStarted
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.tui.drafts import Drafts, save_drafts

SIZE = (140, 40)
HIDE_PANEL_KEY = b"\x1b[19~"
"""F8, which hides the machine panel: its figures change while nothing happens."""
BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("READY")
Bare().run()
"""
MOVING = """
from textual.app import App
from textual.widgets import ProgressBar, Sparkline, Static
class Moving(App):
    def compose(self):
        yield Static("READY")
        yield ProgressBar(total=1000, show_eta=False)
        yield Sparkline([1.0, 2.0] * 70, id="s")
    def on_mount(self):
        self.n = 0
        self.set_interval(1, self.tick)
    def tick(self):
        self.n += 1
        self.query_one(ProgressBar).advance(1)
        self.query_one("#s", Sparkline).data = [float((i * self.n) % 7) for i in range(140)]
Moving().run()
"""


class Terminal:
    """A program on a pseudo-terminal of 140 x 40, whose output is counted as it comes."""

    def __init__(self, *command: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "TEXTUAL_ANIMATIONS": "none"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.output, self.latest = bytearray(), 0.0
        self._is_closing = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        waiting = select.poll()  # `select` takes no descriptor above 1023
        waiting.register(self.master, select.POLLIN)
        while not self._is_closing:
            try:
                if waiting.poll(100):
                    self._accept(os.read(self.master, 65536))
            except OSError:
                return

    def _accept(self, data: bytes) -> None:
        self.output += data
        self.latest = time.perf_counter()

    def until(self, sign: bytes, after: int = 0, seconds: float = 30.0) -> float:
        """Seconds since the start until it has written something."""
        while sign not in self.output[after:]:
            if time.perf_counter() - self.began > seconds:
                raise TimeoutError(f"{sign!r} never came: {bytes(self.output[-500:])!r}")
            time.sleep(0.001)
        return time.perf_counter() - self.began

    def rate(self, seconds: float) -> float:
        """Bytes a second."""
        before = len(self.output)
        time.sleep(seconds)
        return (len(self.output) - before) / seconds

    def keys(self, text: bytes) -> None:
        os.write(self.master, text)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._is_closing = True
        self._reader.join()  # otherwise it would read from the next terminal, which gets the same descriptor
        os.close(self.master)


def read_cpu_seconds(process_id: int) -> float:
    """Return the CPU seconds of a process, in user and kernel mode."""
    times = psutil.Process(process_id).cpu_times()
    return times.user + times.system


def wantui(*options: str) -> Terminal:
    return Terminal("-m", "wantui", *options)


def compare_first_paints(rounds: int) -> None:
    """Print the first paints of wantui and of bare Textual; the first turn, which compiles, is not counted."""
    programs = {"bare Textual": ("-c", BARE), "wantui": ("-m", "wantui")}
    signs = {"bare Textual": [b"READY"], "wantui": [b"Template", b"cfg scale"]}
    walls: dict[str, list[float]] = {}
    cpus: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name in sorted(programs, reverse=bool(turn % 2)):
            terminal = Terminal(*programs[name])
            for sign in signs[name]:
                part = f"{name}, {sign.decode()}"
                seconds = terminal.until(sign)
                if turn:
                    walls.setdefault(part, []).append(seconds)
                    cpus.setdefault(part, []).append(read_cpu_seconds(terminal.process.pid))
            terminal.close()
    click.echo(f"first paint, until the text is on the screen; medians (minima) of {rounds}, in turns")
    bare = "bare Textual, READY"
    for part in (bare, "wantui, Template", "wantui, cfg scale"):
        wall, cpu = statistics.median(walls[part]), statistics.median(cpus[part])
        wall_ratio, cpu_ratio = wall / statistics.median(walls[bare]), cpu / statistics.median(cpus[bare])
        click.echo(
            f"  {part:<22} {wall:5.2f} ({min(walls[part]):.2f}) s, {cpu:.2f} ({min(cpus[part]):.2f}) CPU s; "
            f"{wall_ratio:.2f} times bare, CPU {cpu_ratio:.2f} times"
        )


def write_running_queue(stop: threading.Event) -> None:
    """Two workers' events, two steps a second each, as an engine would write them."""
    queue = Queue(find_state_directory().directory)
    recipe = Recipe(
        model=NANO.name, revision=None, prompt="a circle", negative_prompt="", seed=1, sampler="unipc", steps=1000,
        flow_shift=3.0, guidance_scale=4.0, width=128, height=128, frames=17, fps=8, dtype="float32",
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    queue.add_batch(folder, "auto", [NewVideo(i, f"red seed {i}", recipe.to_json(), 1000) for i in range(6)])
    claims = [queue.claim_next_video(f"worker-{i}:{os.getpid()}", ("auto",)) for i in range(2)]
    index = 0
    while not stop.is_set():
        for claim in claims:
            assert claim is not None
            step = index % 1000
            event = StepDone(
                step=step + 1,
                steps=1000,
                seconds=0.5,
                sigma=1 - step / 1000,
                norm=1.0,
                velocity=1.5 + index % 7 / 10,
                turning=0.3,
                straightness=0.97,
            )
            queue.record_step(claim, event)
        index += 1
        stop.wait(0.5)
    for claim in claims:
        assert claim is not None
        queue.record_cancellation(claim)
    queue.close()


def measure_bytes(seconds: float) -> None:
    terminal = wantui()
    terminal.until(b"cfg scale")
    terminal.keys(HIDE_PANEL_KEY)
    time.sleep(3)
    click.echo(f"nothing changes: {terminal.rate(seconds):.0f} B/s")
    terminal.close()
    peer = Terminal("-c", MOVING)
    peer.until(b"READY")
    time.sleep(1)
    moving = peer.rate(seconds)
    peer.close()
    stop = threading.Event()
    engine = threading.Thread(target=write_running_queue, args=(stop,))
    engine.start()
    try:
        for options in ((), ("--low-bandwidth",)):
            terminal = wantui(*options)
            terminal.until(b"cfg scale")
            terminal.keys(b"\x1bOR")  # F3, because a digit is text while the template has the focus
            terminal.until(b"Trajectory so far")
            time.sleep(3)
            rate = terminal.rate(max(seconds, 20.0) if options else seconds)
            name = " ".join(options) or "as it is"
            click.echo(
                f"monitor of two workers and panel, {name}: {rate:,.0f} B/s; "
                f"a ProgressBar and a Sparkline at 1 Hz {moving:,.0f} B/s; ratio {rate / moving:.2f}"
            )
            terminal.close()
    finally:
        stop.set()
        engine.join()


SCREEN_KEYS = {"queue": b"2", "monitor": b"3", "library": b"4", "analysis": b"5", "compose": b"1"}
SETTLING_SECONDS = 35.0
"""Seconds after which a screen is idle: the monitor plays a finished clip for 30 seconds."""


def generate_batch(folder: Path) -> None:
    """Generate two videos with nano, and end the engine."""
    settings = ("model_settings.steps=4", "model_settings.device=cpu", f"output_dir={folder}")
    options = ["-t", "a [red|blue] (circle)", "-n", "1", "--store-latents", "--store-attention"]
    options += [word for setting in settings for word in ("--set", setting)]
    for command in (["run", *options], ["engine", "stop"]):
        subprocess.run([sys.executable, "-m", "wantui", *command], check=True, capture_output=True)


def print_idle_bytes(seconds: float) -> None:
    """Print the bytes a second of every screen while nothing changes, with a finished batch, without the machine
    panel."""
    generate_batch(find_state_directory().directory / "outputs")
    terminal = wantui()
    terminal.until(b"cfg scale")
    terminal.keys(HIDE_PANEL_KEY)
    terminal.keys(b"\x1b")
    time.sleep(2)
    for name, key in SCREEN_KEYS.items():
        terminal.keys(key)
        time.sleep(SETTLING_SECONDS)
        click.echo(f"idle {name} screen: {terminal.rate(seconds):.0f} B/s")
    terminal.close()


def print_dialog_bytes(seconds: float) -> None:
    """Print the bytes a second under every dialog of the application, while nothing happens and while a batch runs."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from dialogs import DIALOGS, counted_bytes, dialog_types

    from wantui.tui.app import WantuiApp
    from wantui.tui.settings import TuiSettings

    async def measure() -> dict[str, float]:
        app, rates = WantuiApp(find_state_directory(), TuiSettings(), host_name="bench"), {}
        async with app.run_test(size=SIZE) as pilot:
            await pilot.press("f3")
            for kind in sorted(dialog_types(), key=lambda kind: kind.__name__):
                app.push_screen(DIALOGS[kind]())
                await pilot.pause(1.5)
                with counted_bytes(app) as written:
                    await asyncio.sleep(seconds)
                rates[kind.__name__] = len("".join(written)) / seconds
                app.pop_screen()
                await pilot.pause(0.5)
        return rates

    idle = asyncio.run(measure())
    stop = threading.Event()
    engine = threading.Thread(target=write_running_queue, args=(stop,))
    engine.start()
    try:
        busy = asyncio.run(measure())
    finally:
        stop.set()
        engine.join()
    for name, rate in idle.items():
        click.echo(f"under {name}: {rate:,.0f} B/s while nothing happens, {busy[name]:,.0f} B/s while a batch runs")


def measure_key_latency(presses: int) -> None:
    """While two processes keep the processors busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    terminal = wantui()
    try:
        terminal.until(b"cfg scale")
        time.sleep(2)
        times = []
        for press in range(presses):
            before, began = len(terminal.output), time.perf_counter()
            terminal.keys(b"\x1b[B" if press % 8 < 4 else b"\x1b[A")
            while len(terminal.output) == before and time.perf_counter() - began < 1:
                time.sleep(0.0005)
            times.append(1000 * (time.perf_counter() - began))
            time.sleep(0.05)
        times.sort()
        click.echo(
            f"key to paint beside two busy processes: median {statistics.median(times):.0f} ms, "
            f"95th percentile {times[int(0.95 * len(times))]:.0f} ms"
        )
    finally:
        terminal.close()
        for process in busy:
            process.kill()
            process.wait()


def run_two_simulated_days(ticks: int) -> None:
    """Two days at one snapshot and one look at the GPUs a second, without the waiting."""
    from wantui.batches.progress import ProgressTracker
    from wantui.queue.records import BatchRow, QueueEvent, VideoRow
    from wantui.tui.app import WantuiApp
    from wantui.tui.messages import GpuSampled, QueueChanged
    from wantui.tui.queue_watcher import QueueSnapshot
    from wantui.tui.settings import TuiSettings

    process = psutil.Process()

    async def run() -> None:
        app = WantuiApp(find_state_directory(), TuiSettings(bell=False), host_name="soak")
        app.drafts.welcomed = True
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause(1.0)
            app.queue_watcher.stop()
            app.gpu_monitor.stop()
            await pilot.press("f3")
            sizes, tracker = [], ProgressTracker()
            for tick in range(ticks):
                video, step = tick // 50 + 1, tick % 50
                batch = BatchRow(1, Path("/outputs/b"), "auto", False, 0.0, {"running": 1, "queued": 5})
                row = VideoRow(
                    video, 1, video, "red", "running", 0, "worker-0:1", step, 50, None, 0.0, None, None, None
                )
                done = StepDone(step=step + 1, steps=50, seconds=0.5, sigma=1 - step / 50, norm=1.0,
                                velocity=1.0 + step / 50, turning=0.2, straightness=0.9)  # fmt: skip
                events = [QueueEvent(10**6 + tick, 0.0, 1, video, done)]
                if step == 0:
                    events.insert(0, QueueEvent(10**6 + tick, 0.0, 1, video, VideoStarted(title="red", steps=50)))
                    events.insert(0, QueueEvent(10**6 + tick, 0.0, 1, video - 1, VideoDone(title="red")))
                tracker.apply_events(events)
                snapshot = QueueSnapshot(
                    (batch,), (row,), progress_by_video=tracker.copy_progress(), events=tuple(events)
                )
                app.post_message(QueueChanged(snapshot))
                if app.gpu_history.latest_sample is not None:
                    app.post_message(GpuSampled(app.gpu_history.latest_sample))
                if tick % 100 == 99:
                    await pilot.pause()
                    app.screen._draw_details()  # type: ignore[attr-defined]
                if tick % (ticks // 8) == ticks // 8 - 1:
                    sizes.append(process.memory_info().rss)
            grown = (sizes[-1] - sizes[2]) / 1e6
            shown = ", ".join(f"{size / 1e6:.0f}" for size in sizes)
            click.echo(f"soak of {ticks:,} ticks: {shown} MB; the last five eighths added {grown:.1f} MB")

    asyncio.run(run())


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Starts for the first paint.")
@click.option("--seconds", default=10.0, show_default=True, help="For which bytes are counted.")
@click.option("--ticks", default=2 * 86_400, show_default=True, help="Of the soak.")
def main(rounds: int, seconds: float, ticks: int) -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has compiled modules
        save_drafts(find_state_directory().directory, Drafts(welcomed=True))
        parts: list[Callable[[], None]] = [
            lambda: compare_first_paints(rounds),
            lambda: print_idle_bytes(seconds),
            lambda: measure_bytes(seconds),
            lambda: print_dialog_bytes(min(seconds, 5.0)),
            lambda: measure_key_latency(200),
            lambda: run_two_simulated_days(ticks),
        ]
        for part in parts:
            part()


if __name__ == "__main__":
    main()
