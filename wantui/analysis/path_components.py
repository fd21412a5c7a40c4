"""Principal components of several groups' stored paths: one plane for all states of all videos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.group import Group
from wantui.analysis.trajectory import NoGeometryError
from wantui.errors import UserError

MAX_PATHS = 200
"""Maximum number of paths; 200 paths of 50 steps in 4,096 projected values take 170 MB."""


class NoComponentsError(UserError):
    """Raised if the paths have no principal components; the message gives the reason."""


@dataclass(frozen=True)
class PlanePath:
    """Path of one video in the plane of the first two principal components."""

    group_name: str
    video_name: str
    states: FloatArray
    """[N + 1, 2] coordinates of the states, divided by sqrt(D); the first state is the initial noise."""


@dataclass(frozen=True)
class PathComponents:
    """Paths in the plane of the first two principal components of all their states."""

    paths: tuple[PlanePath, ...]
    variance_shares: tuple[float, float]
    """Shares of the states' variance along the first and the second component."""
    exclusion_reasons: tuple[tuple[str, str], ...]
    """Name and reason of each video that is not drawn."""


def compute_path_components(groups: Sequence[Group]) -> PathComponents:
    """Return the groups' paths in the plane of all states' first two principal components.

    The projections preserve inner products within about 2 %, so their components approximate the components of the
    latents. The sign of each component is such that the paths end, on average, at larger values than they start.

    Raises:
        NoComponentsError: fewer than two paths can be read, or all their states are equal.
    """
    videos = [(group.name, video) for group in groups for video in group.videos]
    namer = VideoNamer([video for _, video in videos])
    labels: list[tuple[str, str]] = []
    stored_paths: list[FloatArray] = []
    exclusion_reasons: list[tuple[str, str]] = []
    for group_name, video in videos:
        try:
            if len(stored_paths) == MAX_PATHS:
                raise NoGeometryError(f"only the first {MAX_PATHS} paths are drawn")
            states = video.load_projected_path()[1]
            if not np.isfinite(states).all():
                raise NoGeometryError("its projection contains NaN or infinity")
            if stored_paths and states.shape[1] != stored_paths[0].shape[1]:
                first_count = stored_paths[0].shape[1]
                raise NoGeometryError(
                    f"its projection has {states.shape[1]} values, but the first video's projection has {first_count}"
                )
        except NoGeometryError as error:
            exclusion_reasons.append((namer.name_video(video), str(error)))
            continue
        labels.append((group_name, video.name))
        stored_paths.append(states / np.sqrt(max(1, video.dimension), dtype=np.float32))
    if len(stored_paths) < 2:
        example = f", for example {exclusion_reasons[0][0]}: {exclusion_reasons[0][1]}" if exclusion_reasons else ""
        raise NoComponentsError(f"cannot compute principal components: fewer than two paths can be read{example}")
    coordinates, variance_shares = _compute_plane(np.concatenate(stored_paths))
    ends = np.cumsum([len(states) for states in stored_paths])
    plane_paths = np.split(coordinates, ends[:-1])
    directions = np.sign(sum(states[-1] - states[0] for states in plane_paths))
    directions[directions == 0] = 1
    return PathComponents(
        tuple(
            PlanePath(group_name, video_name, states * directions)
            for (group_name, video_name), states in zip(labels, plane_paths, strict=True)
        ),
        variance_shares,
        tuple(exclusion_reasons),
    )


def _compute_plane(states: FloatArray) -> tuple[FloatArray, tuple[float, float]]:
    """Return the coordinates [n, 2] of states [n, k] on their first two principal components, and the variance shares.

    Raises:
        NoComponentsError: all states are equal.
    """
    from scipy.sparse.linalg import svds

    centred = states - states.mean(0)
    total = float((centred.astype(np.float64) ** 2).sum()) if centred.size < 1e7 else float((centred**2).sum())
    if total == 0:
        raise NoComponentsError("cannot compute principal components: all states are equal")
    if min(centred.shape) < 3:
        left, singular_values, _ = np.linalg.svd(centred, full_matrices=False)
        left = np.pad(left, ((0, 0), (0, max(0, 2 - left.shape[1]))))
        singular_values = np.pad(singular_values, (0, max(0, 2 - len(singular_values))))
    else:
        left, singular_values, _ = svds(centred, k=2, v0=np.ones(min(centred.shape), dtype=centred.dtype))
    order = np.argsort(singular_values)[::-1][:2]
    singular_values = singular_values[order].astype(np.float64)
    coordinates = left[:, order].astype(np.float64) * singular_values
    first_share, second_share = (singular_values**2 / total).tolist()
    return coordinates, (first_share, second_share)
