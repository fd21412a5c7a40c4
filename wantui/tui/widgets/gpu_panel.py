"""GPU panel: memory, processes and load of each GPU; on a machine without a GPU, its RAM and CPU load."""

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
"""Maximum number of samples stored for a graph."""


@dataclass(frozen=True)
class WorkerMemory:
    """GPU memory of a worker in bytes, reported by torch after its latest step."""

    process: int
    allocated: int
    reserved: int
    peak: int
    predicted: float | None


class GpuHistory:
    """Latest sample, used memory over time (bytes, up to `MAX_SAMPLES`), and memory of each worker."""

    def __init__(self) -> None:
        self.sample: GpuSample | None = None
        self.gpu_memory: dict[int, deque[float | None]] = {}
        self.machine_memory: deque[float | None] = deque(maxlen=MAX_SAMPLES)
        self.workers: dict[int, WorkerMemory] = {}

    def add(self, sample: GpuSample) -> None:
        """Store a sample."""
        self.sample = sample
        self.machine_memory.append(sample.memory_used)
        for gpu in sample.gpus:
            self.gpu_memory.setdefault(gpu.index, deque(maxlen=MAX_SAMPLES)).append(gpu.memory_used)


class GpuPanel(DiffText):
    """Panel with a line per GPU, and if large also a memory graph and the processes."""

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
        """Draw the RAM and CPU load of a machine without a GPU, and the RAM of our workers."""
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
        """Draw the memory and load of one GPU, and if large its graph and processes."""
        line = Text.assemble((f"GPU{gpu.index} ", "bold"))
        if gpu.state != "ok":
            problem = "lost" if gpu.state == "lost" else "cannot be read"
            return [line.append(f"✗ {problem}: {gpu.reason}; see wantui doctor", self.colour("error"))]
        if width >= 100:
            line.append(f"{gpu.name}  ")
        self._append_memory(line, gpu.memory_used, gpu.memory_total, width)
        line.append(f"  {_format_or_na(gpu.utilisation, '3.0f')} %")
        line.append(f"  {_format_or_na(gpu.power, '.0f')}/{_format_or_na(gpu.power_limit, '.0f')} W")
        line.append(f"  {_format_or_na(gpu.temperature, '.0f')} °C")
        if gpu.is_mig_enabled:
            line.append("  MIG on: values of the whole GPU", self.colour("warning"))
        ours = [self.history.workers[p.process] for p in gpu.processes if p.process in self.history.workers]
        # If NVML lists no processes, workers can be assigned only to a single GPU.
        if not ours and self.history.sample is not None and len(self.history.sample.gpus) == 1:
            ours = list(self.history.workers.values())
        for worker in ours:
            line.append(f"  ours {format_bytes(worker.allocated)} of {format_bytes(worker.reserved)} reserved")
        if not self.large:
            return [line]
        total = gpu.memory_total or 1
        lines = [line, *self.draw_graph(list(self.history.gpu_memory.get(gpu.index, ())), total, width)]
        for worker in ours:
            predicted = format_bytes(worker.predicted) if worker.predicted else "unknown"
            lines.append(Text(f"  peak {format_bytes(worker.peak)}, predicted {predicted}"))
        for process in gpu.processes:
            name = "our worker" if process.process in self.history.workers else process.name
            process_bytes = format_bytes(process.memory) if process.memory is not None else "N/A"
            lines.append(Text(f"  {process.process:>8}  {process_bytes:>8}  {name}"))
        return lines

    def draw_graph(self, values: list[float | None], total: int, width: int) -> list[Text]:
        """Draw memory in bytes over time, on a fixed scale from 0 to `total`."""
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
        # The word "full" below repeats the colour for colour-blind users.
        level = "error" if share >= 0.95 else "warning" if share >= 0.8 else "success"
        line.append(bar(share, 16 if width >= 100 else 8), self.colour(level))
        line.append(f" {used / 1e9:.1f}/{total / 1e9:.1f} GB {100 * share:.0f} %")
        if share >= 0.95:
            line.append(" full", self.colour(level))


def _format_or_na(value: float | None, form: str) -> str:
    return "N/A" if value is None else format(value, form)


def measure_worker_memory(snapshot: QueueSnapshot) -> int | None:
    """Return the resident memory of all our workers in bytes; None if no worker is running."""
    import psutil

    total = None
    for video in snapshot.running:
        # Without an engine the worker has ended, and its process number may be reused.
        if video.worker is None or snapshot.engine is None:
            continue
        try:
            total = (total or 0) + int(psutil.Process(parse_worker_process(video.worker)).memory_info().rss)
        except (psutil.Error, ValueError):
            continue
    return total


def parse_worker_process(worker: str) -> int:
    """Return the process number in a worker's name."""
    return int(worker.rpartition(":")[2])


def parse_worker_memory(process: int, memory: Mapping[str, int]) -> WorkerMemory | None:
    """Return the GPU memory that a worker reported for a step; None on a CPU."""
    if "allocated" not in memory:
        return None
    return WorkerMemory(process, memory["allocated"], memory["reserved"], memory["peak"], memory.get("predicted"))
