"""Select videos by batch folder or clip, variation, seed and ID, as the options of commands name them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import join_and_shorten
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.manifest_labels import make_variation_labels
from wantui.storage.recorded_files import verify_clip

MAX_LISTED_NAMES = 10
"""Maximum number of known names that an error lists."""


@dataclass(frozen=True)
class SelectedVideo:
    """A requested video of a batch."""

    folder: Path
    manifest: Manifest
    entry: VideoEntry

    @property
    def name(self) -> str:
        """Return the id of the variation, the seed, and the cell of a sweep."""
        return self.manifest.make_video_title(self.entry)

    def find_file(self, kind: str) -> Path | None:
        """Return a file of the finished video by kind; None if the video is not done or has no such file."""
        name = self.entry.files.get(kind)
        return self.folder / name if self.entry.state == "done" and name is not None else None

    def find_verified_clip(self) -> Path | None:
        """Return the path of the finished video's recorded clip; None without a clip.

        The clip is verified first.

        Raises:
            ClipError: the clip is damaged, or belongs to another video.
        """
        clip = self.find_file("clip")
        if clip is not None:
            verify_clip(clip, self.entry.recipe, self.entry.sha256.get("clip"))
        return clip


def select_videos(
    sources: Sequence[Path],
    variation_ids: Collection[str] = (),
    seeds: Collection[int] = (),
    id_prefixes: Sequence[str] = (),
) -> list[SelectedVideo]:
    """Return the videos of batch folders, and the videos of clips in batch folders, that match all selections.

    Args:
        sources: batch folders and clips.
        variation_ids, seeds, id_prefixes: selections; an empty selection selects all.

    Raises:
        ManifestError: a folder is not a batch folder, or its manifest is damaged.
        UserError: a clip is not of a batch, or a selection matches no video.
    """
    videos = [video for source in sources for video in _list_source_videos(source)]
    for option, wanted, known in (
        ("--variation", variation_ids, [video.manifest.variations[video.entry.variation].id for video in videos]),
        ("--seed", seeds, [video.entry.seed for video in videos]),
    ):
        for name in wanted:
            if name not in known:
                raise UserError(f"{option}: no video has {name!r}. Choose from: {_list_names(known)}")
    for prefix in id_prefixes:
        if not any(video.entry.id.startswith(prefix) for video in videos):
            raise UserError(
                f"--video-id: no video has the ID {prefix!r}. Choose from: {_list_names([v.entry.id for v in videos])}"
            )
    selected = [
        video
        for video in videos
        if (not variation_ids or video.manifest.variations[video.entry.variation].id in variation_ids)
        and (not seeds or video.entry.seed in seeds)
        and (not id_prefixes or video.entry.id.startswith(tuple(id_prefixes)))
    ]
    if not selected:
        raise UserError("no video has the given variation, seed and ID together. Omit one of these options")
    return selected


def label_videos(videos: Sequence[SelectedVideo]) -> list[str]:
    """Return a label for each video of one batch.

    Labels name the options, swept settings and seed in which the videos differ.
    """
    manifest = videos[0].manifest
    indices = sorted({video.entry.variation for video in videos})
    labels = dict(zip(indices, (label.label for label in make_variation_labels(manifest, indices)), strict=True))
    parts_by_video = [
        (
            labels[video.entry.variation],
            "" if (cell := manifest.find_cell(video.entry)) is None else cell.label,
            f"seed {video.entry.seed}",
        )
        for video in videos
    ]
    differs = [len(set(values)) > 1 for values in zip(*parts_by_video, strict=True)]
    return [
        ", ".join(part for part, is_different in zip(parts, differs, strict=True) if is_different and part) or parts[0]
        for parts in parts_by_video
    ]


def _list_source_videos(source: Path) -> list[SelectedVideo]:
    if not source.is_file():
        manifest = read_manifest(BatchFolder(source))
        return [SelectedVideo(source, manifest, entry) for entry in manifest.videos]
    for folder in source.absolute().parents:
        if BatchFolder(folder).manifest_path.is_file():
            manifest = read_manifest(BatchFolder(folder))
            clip_name = source.absolute().relative_to(folder).as_posix()
            for entry in manifest.videos:
                if entry.files.get("clip") == clip_name:
                    return [SelectedVideo(folder, manifest, entry)]
            raise UserError(f"{source} is not a clip of the batch {folder}")
    raise UserError(f"{source} is not in a batch folder, where the latents are stored. Name the batch folder")


def _list_names(names: Sequence[object]) -> str:
    known = sorted(set(map(str, names)))
    return join_and_shorten(known, MAX_LISTED_NAMES)
