"""Generation of a video that stops after some steps, and of one that runs to its end."""

from collections.abc import Iterator
from pathlib import Path

from wantui.generation.make_video import (
    GenerationRestarted,
    GenerationResult,
    GenerationResumed,
    StepFinished,
)
from wantui.storage.video_files import VideoFiles


def video_files(root: Path) -> VideoFiles:
    return VideoFiles(
        root / "v.mp4",
        root / "v.jpg",
        {"trajectory": root / "v.zarr", "attention": root / "a.zarr"},
        root / "v.checkpoint",
    )


def stop_after(events: Iterator[object], steps: int) -> None:
    """Close a video's generator after a number of steps, like a worker that must stop."""
    for event in events:
        if isinstance(event, StepFinished) and event.step.evaluation_index + 1 == steps:
            events.close()  # type: ignore[attr-defined]
            return


def finish(events: Iterator[object]) -> tuple[GenerationResult, list[object]]:
    result = list(events)
    assert isinstance(result[-1], GenerationResult)
    return result[-1], [event for event in result if isinstance(event, GenerationResumed | GenerationRestarted)]
