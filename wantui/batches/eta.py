"""When what is on the queue will be made: from what past videos took, and how far the running ones are."""

from collections.abc import Sequence
from dataclasses import dataclass

from wantui.gpu.nvml import query_gpus
from wantui.planning import Recipe, TimedVideo, estimate_seconds, past_videos
from wantui.queue.benchmark_store import load_throughput
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, VideoRow


@dataclass(frozen=True)
class Remaining:
    """Seconds until a batch is made, when nothing else is before it; None where nothing like it was made yet."""

    seconds: float | None
    per_video: float | None


class Forecast:
    """Keeps what it has read of the queue; `look` again after a video is done."""

    def __init__(self, queue: QueueReader) -> None:
        self.queue = queue
        self.past: list[TimedVideo] = []
        gpus = query_gpus().gpus
        self._gpu = gpus[0].name if gpus else None
        self._recipes: dict[int, Recipe] = {}

    def look(self) -> None:
        """Read what past videos took."""
        self.past = past_videos(self.queue.finished())

    def left(self, batch: BatchRow, running: Sequence[VideoRow], devices: Sequence[str]) -> Remaining:
        """Of one batch, on an engine with these devices."""
        recipe = self._recipe(batch)
        if recipe is None:
            return Remaining(None, None)
        on_gpu = any(name.startswith("cuda") for name in devices) and batch.device != "cpu"
        measured = None
        if on_gpu and self._gpu is not None:
            measured = load_throughput(self.queue.path.parent, self._gpu, recipe)
        per_video = estimate_seconds(recipe, "cuda" if on_gpu else "cpu", self.past, measured).value
        if per_video is None:
            return Remaining(None, None)
        workers = max(
            1, len({video.worker for video in running}), sum(1 for name in devices if name.startswith("cuda:"))
        )
        workers = 1 if batch.device.startswith("cuda:") else max(1, min(workers, batch.unfinished))
        done = sum(video.step / max(1, video.steps) for video in running if video.batch == batch.id)
        return Remaining((batch.unfinished - done) * per_video / workers, per_video)

    def _recipe(self, batch: BatchRow) -> Recipe | None:
        """Of one of its videos: all of a batch take the same time."""
        if batch.id not in self._recipes:
            first = self.queue.videos(batch.id, limit=1)
            if not first:
                return None
            try:
                self._recipes[batch.id] = Recipe.model_validate_json(self.queue.recipe(first[0].id))
            except ValueError:
                return None
        return self._recipes[batch.id]
