"""Facts about one video: its cost and its location."""

from rich.text import Text

from wantui.formatting import format_bytes
from wantui.storage.manifest import VideoEntry
from wantui.tui.chart import join_columns
from wantui.tui.facts import GENERATION_FACT, Fact, draw_facts
from wantui.tui.library.video_matrix import MatrixCell
from wantui.tui.plain_names import replace_names

MIN_TWO_COLUMN_WIDTH = 84
"""Smallest width in cells at which the facts are in two columns."""
COLUMN_GAP = 4
"""Cells between the columns."""


def list_video_facts(cell: MatrixCell) -> list[Fact]:
    """Return a video's cost and location; its settings are among the facts about the batch."""
    entry = cell.entry
    facts = [
        Fact("alike", Text(cell.similarity) if cell.similarity else ""),
        Fact("computed", entry.recipe.computation_note),
    ]
    facts += _list_costs(entry) if entry.state == "done" else []
    return [fact for fact in facts if fact.value]


def _list_costs(entry: VideoEntry) -> list[Fact]:
    seconds = [f"{name} {value:.1f} s" for name, value in entry.seconds.items() if name != "step"]
    seconds += [f"{entry.seconds['step']:.2f} s a step"] if "step" in entry.seconds else []
    memory = f"{format_bytes(entry.peak_memory)} on the GPU" if entry.peak_memory else "on the CPU"
    memory += (
        f" (predicted: {format_bytes(entry.predicted['peak_memory'])})" if "peak_memory" in entry.predicted else ""
    )
    size = format_bytes(entry.bytes) if entry.bytes is not None else "?"
    size += f" (predicted: {format_bytes(entry.predicted['bytes'])})" if "bytes" in entry.predicted else ""
    return [
        Fact(GENERATION_FACT, ", ".join(seconds)),
        Fact("memory", f"{memory}{f', plan {entry.memory_plan}' if entry.memory_plan else ''}"),
        Fact("on disk", size),
        Fact("clip", entry.files.get("clip", "")),
        Fact("also", replace_names(", ".join(name for name in entry.files if name != "clip"))),
        Fact("id", entry.id),
    ]


def draw_video_facts(cell: MatrixCell, width: int) -> list[Text]:
    """Draw the facts about a video: in two columns if the width is large."""
    facts = list_video_facts(cell)
    if width < MIN_TWO_COLUMN_WIDTH:
        return draw_facts(facts, width)
    column_width = (width - COLUMN_GAP) // 2
    half = -(-len(facts) // 2)
    left, right = (draw_facts(part, column_width) for part in (facts[:half], facts[half:]))
    return join_columns(left, right, column_width + COLUMN_GAP)
