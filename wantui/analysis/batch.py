"""The trajectories of a batch folder, and the means of its variations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wantui.analysis.trajectory import TooShort, Trajectory, trajectory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

METRICS: dict[str, Callable[[Trajectory], float]] = {
    "length": lambda found: found.length,
    "chord": lambda found: found.chord,
    "straightness": lambda found: found.straightness,
    "turning": lambda found: found.total_turning,
}
"""What is said of each trajectory by one number."""


@dataclass(frozen=True)
class Analysed:
    """One video with stored latents; `why_not` where nothing can be said of it."""

    variation: str
    seed: int
    trajectory: Trajectory | None
    why_not: str = ""

    def value(self, metric: str) -> float:
        """NaN where there is no trajectory."""
        return METRICS[metric](self.trajectory) if self.trajectory is not None else float("nan")


@dataclass(frozen=True)
class Group:
    """The videos of one variation: mean and standard deviation (n - 1) of each metric. A description, no test."""

    variation: str
    n: int
    mean: dict[str, float]
    deviation: dict[str, float]


def analyse(folder: Path) -> Iterator[Analysed]:
    """The geometry of every finished video of a batch that has stored latents.

    Raises:
        ManifestError: it is no batch folder.
    """
    import zarr

    batch = BatchFolder(folder)
    manifest = read_manifest(batch)
    for video in manifest.videos:
        if video.state != "done" or "latents" not in video.files:
            continue
        name = manifest.variations[video.variation].id
        try:
            group = zarr.open_group(folder / video.files["latents"], mode="r")
            gram, sigmas = np.asarray(group["gram"][:]), np.asarray(group["sigmas"][:])
            dimension = int(np.prod(group["latents"].shape[1:]))
            yield Analysed(name, video.seed, trajectory(gram, sigmas, dimension))
        except TooShort as error:
            yield Analysed(name, video.seed, None, str(error))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            yield Analysed(name, video.seed, None, f"its stored latents cannot be read: {error}")


def groups(videos: Sequence[Analysed]) -> list[Group]:
    """Means by variation, in order of their first video; what could not be analysed is left out."""
    found = []
    for variation in dict.fromkeys(video.variation for video in videos):
        own = [video for video in videos if video.variation == variation and video.trajectory is not None]
        if own:
            values = {metric: np.array([video.value(metric) for video in own]) for metric in METRICS}
            spread = {metric: float(v.std(ddof=1)) if len(own) > 1 else float("nan") for metric, v in values.items()}
            found.append(Group(variation, len(own), {m: float(v.mean()) for m, v in values.items()}, spread))
    return found
