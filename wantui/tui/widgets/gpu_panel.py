"""Memory of each GPU, who holds it, and how hard it works; on a machine without one, the machine's own memory."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text
from textual.events import Resize

from wantui.formatting import format_bytes
from wantui.gpu.monitor import GpuSample, GpuState
from wantui.tui.plots import bar, braille
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.widgets.diff_text import DiffText

MAX_SAMPLES = 600
"""Number of samples stored for the graph."""


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes of a worker's memory, reported by torch after its latest step."""

    process: int
    allocated: int
    reserved: int
    peak: int
    predicted: float | None


class GpuHistory:
    """The latest samples, and the memory of each GPU over time, both bounded."""

    def __init__(self) -> None:
        self.sample: GpuSample | None = None
        self.gpu_memory: dict[int, deque[float | None]] = {}
        self.machine_memory: deque[float | None] = deque(maxlen=MAX_SAMPLES)
        self.workers: dict[int, WorkerMemory] = {}

    def add(self, sample: GpuSample) -> None:
        self.sample = sample
        self.machine_memory.append(sample.memory_used)
        for gpu in sample.gpus:
            self.gpu_memory.setdefault(gpu.index, deque(maxlen=MAX_SAMPLES)).append(gpu.memory_used)


class GpuPanel(DiffText):
    """One line for each GPU, or (large) a graph and the processes too."""

    DEFAULT_CSS = """
    GpuPanel { background: $panel; height: auto; max-height: 50%; padding: 0 1; }
    GpuPanel.-hidden { display: none; }
    """

    def __init__(self, history: GpuHistory, large: bool = False) -> None:
        super().__init__()
        self.history, self.large = history, large
        self.snapshot = QueueSnapshot()

    def on_resize(self, event: Resize) -> None:
        self.draw()

    def draw(self) -> None:
        width = self.content_size.width
        if width:
            self.show(self.compose_lines(width))

    def compose_lines(self, width: int) -> list[Text]:
        sample = self.history.sample
        if sample is None:
            return [Text("GPU: starting ...", "dim")]
        if not sample.gpus:
            return self.draw_machine(sample, width)
        lines: list[Text] = []
        for gpu in sample.gpus:
            lines += self.draw_gpu(gpu, width)
        return lines

    def draw_machine(self, sample: GpuSample, width: int) -> list[Text]:
        """Return, without a GPU, this machine's memory and that of our workers."""
        line = Text.assemble(("RAM ", "bold"))
        self._append_memory(line, sample.memory_used, sample.memory_total, width)
        line.append(f"  CPU {sample.cpu:3.0f} %")
        process_bytes = measure_worker_memory(self.snapshot)
        if process_bytes is not None:
            line.append(f"  workers {format_bytes(process_bytes)}")
        line.append(f"  no GPU: {sample.reason}", "dim")
        if not self.large:
            return [line]
        return [line, *self.draw_graph(list(self.history.machine_memory), sample.memory_total, width)]

    def draw_gpu(self, gpu: GpuState, width: int) -> list[Text]:
        line = Text.assemble((f"GPU{gpu.index} ", "bold"))
        if gpu.state != "ok":
            word = "lost" if gpu.state == "lost" else "cannot be read"
            return [line.append(f"✗ {word}: {gpu.reason}; wantui doctor says more", self.colour("error"))]
        if width >= 100:
            line.append(f"{gpu.name}  ")
        self._append_memory(line, gpu.memory_used, gpu.memory_total, width)
        line.append(f"  {_format_or_na(gpu.utilisation, '3.0f')} %")
        line.append(f"  {_format_or_na(gpu.power, '.0f')}/{_format_or_na(gpu.power_limit, '.0f')} W")
        line.append(f"  {_format_or_na(gpu.temperature, '.0f')} °C")
        if gpu.is_mig_enabled:
            line.append("  MIG on: of the whole card", self.colour("warning"))
        ours = [self.history.workers[p.process] for p in gpu.processes if p.process in self.history.workers]
        # Without the list of processes it can only be ours when there is one card.
        if not ours and self.history.sample is not None and len(self.history.sample.gpus) == 1:
            ours = list(self.history.workers.values())
        for worker in ours:
            line.append(f"  ours {format_bytes(worker.allocated)} of {format_bytes(worker.reserved)} reserved")
        if not self.large:
            return [line]
        total = gpu.memory_total or 1
        lines = [line, *self.draw_graph(list(self.history.gpu_memory.get(gpu.index, ())), total, width)]
        for worker in ours:
            predicted = format_bytes(worker.predicted) if worker.predicted else "not known"
            lines.append(Text(f"  peak {format_bytes(worker.peak)}, predicted {predicted}"))
        for process in gpu.processes:
            whose = "our worker" if process.process in self.history.workers else process.name
            process_bytes = format_bytes(process.memory) if process.memory is not None else "N/A"
            lines.append(Text(f"  {process.process:>8}  {process_bytes:>8}  {whose}"))
        return lines

    def draw_graph(self, values: list[float | None], total: int, width: int) -> list[Text]:
        """Draw memory over time between 0 and the total: a constant value looks constant."""
        label = f"{format_bytes(total)} ┤"
        room = max(10, min(width - len(label) - 2, 120))
        drawn = braille(values, room, 4, 0, total)
        left = [label, *[" " * (len(label) - 1) + "│"] * 2, "0 ┤".rjust(len(label))]
        return [Text.assemble(a, (b, self.colour("accent"))) for a, b in zip(left, drawn, strict=True)]

    def _append_memory(self, line: Text, used: int | None, total: int | None, width: int) -> None:
        if used is None or not total:
            line.append("memory N/A")
            return
        share = used / total
        # A word beside the colour, for those who do not see it.
        level = "error" if share >= 0.95 else "warning" if share >= 0.8 else "success"
        line.append(bar(share, 16 if width >= 100 else 8), self.colour(level))
        line.append(f" {used / 1e9:.1f}/{total / 1e9:.1f} GB {100 * share:.0f} %")
        if share >= 0.95:
            line.append(" full", self.colour(level))


def _format_or_na(value: float | None, form: str) -> str:
    return "N/A" if value is None else format(value, form)


def measure_worker_memory(snapshot: QueueSnapshot) -> int | None:
    """Return the resident bytes of all our workers on this machine; None without any."""
    import psutil

    total = None
    for video in snapshot.running:
        # Without an engine the worker is gone, and its number may be another process's.
        if video.worker is None or snapshot.engine is None:
            continue
        try:
            total = (total or 0) + int(psutil.Process(parse_worker_process(video.worker)).memory_info().rss)
        except (psutil.Error, ValueError):
            continue
    return total


def parse_worker_process(worker: str) -> int:
    """Return the process of a worker, from the name in its claims."""
    return int(worker.rpartition(":")[2])


def parse_worker_memory(process: int, memory: Mapping[str, int]) -> WorkerMemory | None:
    """Return the memory figures of a step; None on a CPU."""
    if "allocated" not in memory:
        return None
    return WorkerMemory(process, memory["allocated"], memory["reserved"], memory["peak"], memory.get("predicted"))
