"""GPU panel: memory, processes and load of each GPU; on a machine without a GPU, its RAM and CPU load."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text
from textual.events import Resize

from wantui.formatting import format_bytes
from wantui.gpu.monitor import GpuSample, GpuState
from wantui.queue.records import get_process_id
from wantui.tui.chart import join_columns
from wantui.tui.plots import draw_curve, draw_styled_bar
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text

WIDE_PANEL_WIDTH = 100
"""Smallest width in cells at which the panel shows the names of GPUs."""
WIDE_BAR_WIDTH, NARROW_BAR_WIDTH = 16, 8
"""Widths of the memory and load bars, in cells, in a wide and in a narrow panel."""
HISTORY_LABEL_WIDTH = 12
"""Cells before the load history for the time that it shows."""
HISTORY_WIDTHS = (8, 30)
"""Minimum and maximum width of the load history in a line, in cells with two samples each."""
MIN_WIDTH_WITH_LOAD_GRAPH = 76
"""Minimum width, in cells, at which a large panel shows a graph of the load beside the graph of the memory."""
MAX_GRAPH_SAMPLES = 600
"""Maximum number of samples stored for a graph."""


@dataclass(frozen=True)
class WorkerMemory:
    """GPU memory of a worker in bytes, reported by torch after its latest step."""

    process_id: int
    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    predicted_peak_bytes: float | None


class GpuHistory:
    """Latest sample, history of used memory and load, and memory of each worker.

    Memory is in bytes, and load in percent; the history has up to `MAX_GRAPH_SAMPLES` samples.
    """

    def __init__(self) -> None:
        self.latest_sample: GpuSample | None = None
        self.sample_seconds = 1.0
        """Seconds between two samples."""
        self.used_bytes_by_gpu: dict[int, deque[float | None]] = {}
        self.load_by_gpu: dict[int, deque[float | None]] = {}
        self.machine_used_bytes: deque[float | None] = deque(maxlen=MAX_GRAPH_SAMPLES)
        self.cpu_load: deque[float | None] = deque(maxlen=MAX_GRAPH_SAMPLES)
        self.memory_by_process: dict[int, WorkerMemory] = {}
        self.worker_bytes: int | None = None
        """Resident memory of all our workers on a machine without a GPU; None if no worker is running."""

    def update_worker_memory(self, snapshot: QueueSnapshot) -> None:
        """Store the GPU memory that the workers of the running videos have reported."""
        self.memory_by_process.clear()
        for video in snapshot.running_videos:
            progress = snapshot.progress_by_video.get(video.id)
            if progress is None or video.worker is None:
                continue
            if (memory := find_worker_memory(video.worker, progress.memory_bytes_by_name)) is not None:
                self.memory_by_process[memory.process_id] = memory

    def add_sample(self, sample: GpuSample, worker_bytes: int | None) -> None:
        """Store a sample, and the resident memory of our workers."""
        self.latest_sample, self.worker_bytes = sample, worker_bytes
        self.machine_used_bytes.append(sample.memory_used)
        self.cpu_load.append(sample.cpu)
        for gpu in sample.gpus:
            self.used_bytes_by_gpu.setdefault(gpu.index, deque(maxlen=MAX_GRAPH_SAMPLES)).append(gpu.memory_used)
            self.load_by_gpu.setdefault(gpu.index, deque(maxlen=MAX_GRAPH_SAMPLES)).append(gpu.utilisation)


class GpuPanel(DiffText):
    """Panel with a line per GPU; a large panel also shows memory graphs and processes."""

    DEFAULT_CSS = """
    GpuPanel { height: auto; max-height: 50%; padding: 0 1; }
    GpuPanel.-hidden { display: none; }
    """

    def __init__(self, history: GpuHistory, is_large: bool = False) -> None:
        super().__init__()
        self.history, self.is_large = history, is_large

    def on_resize(self, event: Resize) -> None:
        self.draw_panel()

    def draw_panel(self) -> None:
        width = self.content_size.width
        if width:
            self.show_lines(self.draw_lines(width))

    def draw_lines(self, width: int) -> list[Text]:
        sample = self.history.latest_sample
        if sample is None:
            return [Text("GPU: starting ...", "dim")]
        if not sample.gpus:
            return self.draw_machine(sample, width)
        label_width = max(len(f"GPU{gpu.index} ") for gpu in sample.gpus)
        name_width = max(len(gpu.name) for gpu in sample.gpus)
        return [line for gpu in sample.gpus for line in self.draw_gpu(gpu, width, label_width, name_width)]

    def draw_machine(self, sample: GpuSample, width: int) -> list[Text]:
        """Draw the RAM and CPU load of a machine without a GPU, and the RAM of our workers."""
        line = Text.assemble(("RAM ", "bold"))
        self._append_memory(line, sample.memory_used, sample.memory_total, width)
        line.append("  CPU ", self.make_colour_style("text-muted"))
        bar_width = WIDE_BAR_WIDTH if width >= WIDE_PANEL_WIDTH else NARROW_BAR_WIDTH
        line.append_text(draw_styled_bar(sample.cpu / 100, bar_width, self.make_colour_style("text-muted")))
        line.append(f" {sample.cpu:3.0f}%")
        worker_bytes = self.history.worker_bytes
        rest = Text("" if worker_bytes is None else f"  workers {format_bytes(worker_bytes)}")
        if not self.is_large:
            rest.append("  no GPU", "dim")
            line.append_text(self.draw_load_history(self.history.cpu_load, width - line.cell_len - rest.cell_len))
        line.append_text(rest)
        if not self.is_large:
            return [line]
        reason = wrap_text(f"no GPU: {sample.reason}", width, Style(dim=True))
        memory = list(self.history.machine_used_bytes)
        graphs = self.draw_graphs("RAM", memory, sample.memory_total, "CPU", self.history.cpu_load, width)
        return [line, *reason, *graphs]

    def draw_load_history(self, percents: Iterable[float | None], free_width: int) -> Text:
        """Draw the load of the last samples in one line, from 0 to 100 percent, behind the time that it shows.

        A small width has no time, and a very small one has no curve.
        """
        for label_width in (HISTORY_LABEL_WIDTH, 0):
            width = min(HISTORY_WIDTHS[1], free_width - 1 - label_width)
            if width >= HISTORY_WIDTHS[0]:
                (curve,) = draw_curve(list(percents), width, 1, 0, 100)
                label = (
                    f"last {2 * width * self.history.sample_seconds:.0f} s ".rjust(label_width) if label_width else ""
                )
                return Text.assemble(" ", (label, "dim"), (curve, self.make_colour_style("accent")))
        return Text()

    def draw_graphs(
        self,
        memory_name: str,
        used_bytes: list[float | None],
        total_bytes: int,
        load_name: str,
        percents: Iterable[float | None],
        width: int,
    ) -> list[Text]:
        """Draw memory over time, and in a wide panel the load beside it."""
        if width < MIN_WIDTH_WITH_LOAD_GRAPH:
            return self.draw_graph(memory_name, used_bytes, total_bytes, format_bytes(total_bytes), width)
        memory_width = (width - 2) // 2
        memory = self.draw_graph(memory_name, used_bytes, total_bytes, format_bytes(total_bytes), memory_width)
        load = self.draw_graph(load_name, list(percents), 100, "100 %", width - memory_width - 2)
        return join_columns(memory, load, memory_width + 2)

    def draw_gpu(self, gpu: GpuState, width: int, label_width: int, name_width: int) -> list[Text]:
        """Draw the memory and load of one GPU; in a large panel, also its graph and processes.

        Args:
            label_width, name_width: cells of the numbers and names of the GPUs, which align the lines of several GPUs.
        """
        line = Text.assemble((f"GPU{gpu.index} ".ljust(label_width), "bold"))
        if gpu.state != "ok":
            problem_text = "lost" if gpu.state == "lost" else "cannot be read"
            return [
                line.append(f"✗ {problem_text}: {gpu.reason}; see `wantui doctor`", self.make_colour_style("error"))
            ]
        if width >= WIDE_PANEL_WIDTH:
            line.append(f"{gpu.name:<{name_width}}  ")
        self._append_memory(line, gpu.memory_used, gpu.memory_total, width)
        power, limit = _format_number_or_na(gpu.power, ".0f"), _format_number_or_na(gpu.power_limit, ".0f")
        load_share = None if gpu.utilisation is None else gpu.utilisation / 100
        for part in (
            Text.assemble(
                ("  load ", self.make_colour_style("text-muted")),
                f"{_format_number_or_na(load_share, '.0%'):>4}",
            ),
            Text(f"  {power:>3}/{limit:>3} W"),
            Text(f"  {_format_number_or_na(gpu.temperature, '.0f'):>3} °C"),
        ):
            if line.cell_len + part.cell_len <= width:
                line.append_text(part)
        if gpu.is_mig_enabled:
            line.append("  MIG on: values of the whole GPU", self.make_colour_style("warning"))
        our_workers = [
            self.history.memory_by_process[p.process]
            for p in gpu.processes
            if p.process in self.history.memory_by_process
        ]
        # If NVML lists no processes, workers can be assigned only to a single GPU.
        if not our_workers and self.history.latest_sample is not None and len(self.history.latest_sample.gpus) == 1:
            our_workers = list(self.history.memory_by_process.values())
        for worker in our_workers:
            used, reserved = format_bytes(worker.allocated_bytes), format_bytes(worker.reserved_bytes)
            line.append(f"  wantui: {used} of {reserved} reserved")
        if not self.is_large:
            load_history = self.history.load_by_gpu.get(gpu.index, ())
            return [line.append_text(self.draw_load_history(load_history, width - line.cell_len))]
        total_bytes = gpu.memory_total or 1
        memory, load = (
            list(samples_by_gpu.get(gpu.index, ()))
            for samples_by_gpu in (self.history.used_bytes_by_gpu, self.history.load_by_gpu)
        )
        lines = [line, *self.draw_graphs("memory", memory, total_bytes, "load", load, width)]
        for worker in our_workers:
            predicted = format_bytes(worker.predicted_peak_bytes) if worker.predicted_peak_bytes else "unknown"
            lines.append(Text(f"  peak {format_bytes(worker.peak_bytes)}, predicted {predicted}"))
        for process in gpu.processes:
            name = "our worker" if process.process in self.history.memory_by_process else process.name
            memory_text = format_bytes(process.memory) if process.memory is not None else "N/A"
            lines.append(Text(f"  {process.process:>8}  {memory_text:>8}  {name}"))
        return lines

    def draw_graph(
        self, name: str, values: list[float | None], maximum: float, maximum_text: str, width: int
    ) -> list[Text]:
        """Draw values over time, on a fixed scale from 0 to `maximum`."""
        label_width = max(len(name), len(maximum_text)) + 2
        graph_width = max(10, min(width - label_width - 2, 120))
        curve_lines = draw_curve(values, graph_width, 4, 0, maximum)
        labels = (f"{maximum_text} ┤", f"{name} │", "│", "0 ┤")
        axis_labels = [label.rjust(label_width) for label in labels]
        return [
            Text.assemble(a, (b, self.make_colour_style("accent")))
            for a, b in zip(axis_labels, curve_lines, strict=True)
        ]

    def _append_memory(self, line: Text, used_bytes: int | None, total_bytes: int | None, width: int) -> None:
        if used_bytes is None or not total_bytes:
            line.append("memory N/A")
            return
        used_share = used_bytes / total_bytes
        # The word "full" below repeats the colour for colour-blind users.
        colour_name = "error" if used_share >= 0.95 else "warning" if used_share >= 0.8 else "success"
        bar_width = WIDE_BAR_WIDTH if width >= WIDE_PANEL_WIDTH else NARROW_BAR_WIDTH
        line.append_text(draw_styled_bar(used_share, bar_width, self.make_colour_style(colour_name)))
        total_text = f"{total_bytes / 1e9:.1f}"
        line.append(f" {used_bytes / 1e9:>{len(total_text)}.1f}/{total_text} GB {100 * used_share:3.0f}%")
        if used_share >= 0.95:
            line.append(" full", self.make_colour_style(colour_name))


def _format_number_or_na(value: float | None, format_spec: str) -> str:
    return "N/A" if value is None else format(value, format_spec)


def measure_worker_bytes(snapshot: QueueSnapshot) -> int | None:
    """Return the resident memory of all our workers in bytes; None if no worker is running."""
    import psutil

    total_bytes = None
    for video in snapshot.running_videos:
        # Without an engine the worker has ended, and its process number may be reused.
        if video.worker is None or snapshot.engine is None:
            continue
        try:
            total_bytes = (total_bytes or 0) + int(psutil.Process(get_process_id(video.worker)).memory_info().rss)
        except (psutil.Error, ValueError):
            continue
    return total_bytes


def find_worker_memory(worker_name: str, bytes_by_kind: Mapping[str, int]) -> WorkerMemory | None:
    """Return the GPU memory that a worker reported for a step; None on a CPU."""
    if not {"allocated", "reserved", "peak"} <= bytes_by_kind.keys():
        return None
    return WorkerMemory(
        get_process_id(worker_name),
        bytes_by_kind["allocated"],
        bytes_by_kind["reserved"],
        bytes_by_kind["peak"],
        bytes_by_kind.get("predicted"),
    )
