"""Sections of a report about the compared batches: their recipe, and a picture of each video."""

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from wantui.analysis.group import Group
from wantui.analysis.report_page import render_table
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.storage.mp4 import ClipError, read_clip_tags, read_middle_frame

MAX_PICTURES_PER_GROUP = 12
PICTURE_WIDTH = 120
"""Maximum width of a picture in pixels."""
PROGRAM_TAGS = ("torch", "diffusers", "transformers", "python", "device", "blocks", "attention", "environment")
"""Tags of a clip that name the programs and the device that generated it, and how blocks were computed."""
HIDDEN_RECIPE_FIELDS = ("format", "prompt", "seed", "capture", "marks", "magnitudes")
"""Fields of a recipe that differ between the videos of a batch, that are empty, or that fill pages."""


def render_recipe_section(videos: Sequence[Video]) -> list[str]:
    """Return the HTML of each batch's recipe: template, model, seeds, date, versions and settings."""
    parts = ["<h2>Recipe</h2>"]
    for folder in dict.fromkeys(video.folder for video in videos):
        parts.append(f"<p><b>{html.escape(folder.name)}</b></p>")
        try:
            manifest = read_manifest(BatchFolder(folder))
        except UserError as error:  # such as a batch of the older system
            parts.append(f'<p class="note">{html.escape(str(error))}</p>')
            continue
        parts.append(_render_table(_describe_batch(folder, manifest)))
        config = yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True)
        parts.append(f"<details><summary>Config</summary><pre>{html.escape(config)}</pre></details>")
    return parts


def render_picture_section(groups: Sequence[Group]) -> list[str]:
    """Return the HTML of middle frames, from at most `MAX_PICTURES_PER_GROUP` videos per group."""
    manifests_by_folder: dict[Path, Manifest | None] = {}
    parts = ["<h2>Videos</h2>"]
    for group in groups:
        videos = group.videos[:MAX_PICTURES_PER_GROUP]
        omitted_count = len(group.videos) - len(videos)
        pictures = [_render_picture(video, manifests_by_folder) for video in videos]
        more = f"; {omitted_count:,} more are not shown" if omitted_count else ""
        seeds = ", ".join(dict.fromkeys(str(video.seed) for video in videos))
        parts.append(f"<h3>{html.escape(group.name)}</h3><p>{''.join(pictures)}</p>")
        parts.append(f'<p class="note">Middle frames with variation and seed, seeds {seeds}{more}.</p>')
    return parts


def _describe_batch(folder: Path, manifest: Manifest) -> dict[str, str]:
    recipe = manifest.videos[0].recipe
    seeds = sorted({video.seed for video in manifest.videos})
    settings = {
        name.replace("_", " "): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in recipe.model_dump(mode="json").items()
        if name not in HIDDEN_RECIPE_FIELDS and value not in (None, "", [], {})
    }
    return {
        "template": manifest.template,
        "created": manifest.created,
        "written by": f"wantui {manifest.wantui}" if manifest.wantui else "wantui before 0.2",
        **_describe_programs(folder, manifest),
        "videos": f"{len(manifest.variations)} variations with the seeds {', '.join(map(str, seeds))}",
        **settings,
    }


def _describe_programs(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the programs and the devices that generated the readable clips; empty if none can be read.

    The workers of a batch may have GPUs of several kinds, and the plan `sequential` does not fuse blocks.
    """
    clip_counts: Counter[str] = Counter()
    for entry in manifest.videos:
        if "clip" not in entry.files:
            continue
        try:
            _, tags = read_clip_tags(folder / entry.files["clip"])
        except UserError:  # damaged, or written by another program
            continue
        clip_counts[", ".join(f"{name} {tags[name]}" for name in PROGRAM_TAGS if tags.get(name))] += 1
    if not any(clip_counts):
        return {}
    if len(clip_counts) == 1:
        return {"generated with": next(iter(clip_counts))}
    texts = [f"{text or 'unknown programs'} ({format_count(count, 'clip')})" for text, count in clip_counts.items()]
    return {"generated with": "; ".join(texts)}


def _render_table(values_by_name: dict[str, str]) -> str:
    return render_table((), [(html.escape(name), html.escape(value)) for name, value in values_by_name.items()], "text")


def _render_picture(video: Video, manifests_by_folder: dict[Path, Manifest | None]) -> str:
    """Return the middle frame of a video as an image, or text if the video has no readable clip."""
    entry = _find_entry(video, manifests_by_folder)
    try:
        if entry is None or "clip" not in entry.files:
            raise ClipError("no clip is listed")
        frame = read_middle_frame(video.folder / entry.files["clip"], entry.recipe.frames)
    except ClipError:
        return f'<span class="note">[seed {video.seed}: no readable clip]</span> '
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    source = base64.b64encode(buffer.getvalue()).decode()
    title = html.escape(video.name, quote=True)
    return (
        f'<span class="picture"><img alt="{title}" title="{title}" src="data:image/jpeg;base64,{source}"><br>'
        f"{html.escape(video.variation)} {video.seed}</span> "
    )


def _find_entry(video: Video, manifests_by_folder: dict[Path, Manifest | None]) -> VideoEntry | None:
    """Return the manifest entry of a video; None if the manifest cannot be read or lacks the video."""
    if video.folder not in manifests_by_folder:
        try:
            manifests_by_folder[video.folder] = read_manifest(BatchFolder(video.folder))
        except UserError:  # such as a batch of the older system
            manifests_by_folder[video.folder] = None
    manifest = manifests_by_folder[video.folder]
    if manifest is None or video.video_index >= len(manifest.videos):
        return None
    return manifest.videos[video.video_index]
