"""Videos of planned batches as the analysis loads them, with synthetic trajectories instead of generated ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from synthetic_videos import synthetic_videos

from wantui.analysis.loading import read_batch_videos
from wantui.analysis.video import Video
from wantui.config import parse_config
from wantui.planning import plan_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, create_manifest, write_manifest

CONFIG_TEXT = "model_settings: {model_id: nano, steps: 4}\n"
NESTED_TEMPLATE = "a large [red|blue] [[circle|square]|[cross|ring]] moving [left|up]"


def load_planned_videos(
    folder: Path,
    template: str,
    seed_count: int = 6,
    is_done: Callable[[VideoEntry], bool] = lambda _: True,
    settings: tuple[str, ...] = (),
) -> list[Video]:
    """Return the finished videos of a batch; videos of one seed start at the same noise.

    Args:
        is_done: tells which videos are finished; the others stay queued.
        settings: overrides of the config.
    """
    config = parse_config(CONFIG_TEXT, "my.yaml", [f"seeds=1..{seed_count}", *settings])
    manifest = create_manifest(plan_batch(config, template), "batch")
    spreads = {f"{index}": 1.0 for index in range(len(manifest.videos) // seed_count)}
    videos = [video.model_copy(update={"state": "done"}) if is_done(video) else video for video in manifest.videos]
    assert [video.seed for video in videos] == list(range(1, seed_count + 1)) * len(spreads)
    folder.mkdir(exist_ok=True, parents=True)
    write_manifest(BatchFolder(folder), manifest.model_copy(update={"videos": videos}))
    paths = synthetic_videos(folder / "paths", spreads, seed_count, phrasings=1)
    return [
        replace(
            video,
            trajectory=(path := paths[video.video_index]).trajectory,
            trajectory_path=path.trajectory_path,
            dimension=path.dimension,
            exclusion_reason="",
        )
        for video in read_batch_videos(folder)
    ]
