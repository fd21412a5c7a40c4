"""batch.json: what a batch was to make, and what of it exists. A video is done when its entry says so."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from wantui.config import as_dict, dump
from wantui.config.plans import plan_slug
from wantui.errors import UserError
from wantui.planning import Batch, Recipe, estimate_disk
from wantui.storage.atomic import write_text
from wantui.storage.layout import BatchFolder

MANIFEST_FORMAT = 1
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


def _slug_of_plan(name: object) -> object:
    return plan_slug(name) if isinstance(name, str) else name


class ManifestError(UserError):
    """A batch folder whose batch.json is missing, broken or of another format."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class VariationEntry(_Entry):
    """One prompt of the template."""

    id: str
    prompt: str
    choices: list[dict[str, Any]]
    marks: list[dict[str, Any]]


class VideoEntry(_Entry):
    """One video: what was asked for, and what came of it."""

    id: str
    """The first twelve digits of the recipe's digest."""
    variation: int
    """Index into `variations`."""
    number: int
    """From 1; the seed is the batch's seed + number - 1."""
    seed: int
    state: State = "queued"
    recipe: Recipe
    files: dict[str, str] = {}
    """Paths relative to the batch folder."""
    seconds: dict[str, float] = {}
    peak_memory: int | None = None
    """Bytes on the GPU."""
    memory_plan: Annotated[str | None, BeforeValidator(_slug_of_plan)] = None
    """Slug of the memory plan that it was made with."""
    bytes: int | None = None
    """On disk, all files together."""
    predicted: dict[str, float] = {}
    """Before it was made: bytes on disk, peak_memory, seconds."""
    latents_sha256: str | None = None
    error: str | None = None


class Manifest(_Entry):
    """The whole of batch.json."""

    format: int = MANIFEST_FORMAT
    name: str
    created: str
    template: str
    config: dict[str, Any]
    variations: list[VariationEntry]
    videos: Annotated[list[VideoEntry], Field(min_length=1)]

    @property
    def memory_plan(self) -> str:
        """The slug of the memory plan that was asked for, or auto."""
        return plan_slug(str(self.config.get("memory_settings", {}).get("plan", "auto")))

    def counts(self) -> dict[str, int]:
        """Number of videos in each state that occurs."""
        states = [video.state for video in self.videos]
        return {state: states.count(state) for state in dict.fromkeys(states)}


def new_manifest(batch: Batch, name: str) -> Manifest:
    """The manifest of a batch of which nothing exists yet."""
    disk = estimate_disk(batch)
    predicted: dict[str, float] = {"bytes": disk.total // len(batch.videos)}
    return Manifest(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        template=batch.template,
        config=as_dict(batch.config.settings),
        variations=[
            VariationEntry(
                id=variation.id,
                prompt=variation.prompt,
                choices=[{"bracket": c.bracket, "option": c.option, "text": c.text} for c in variation.choices],
                marks=[{"text": m.text, "start": m.start, "end": m.end, "weight": m.weight} for m in variation.marks],
            )
            for variation in batch.variations
        ],
        videos=[
            VideoEntry(
                id=video.recipe.digest[:12],
                variation=video.variation,
                number=video.number,
                seed=video.recipe.seed,
                recipe=video.recipe,
                predicted=predicted,
            )
            for video in batch.videos
        ],
    )


def write_manifest(folder: BatchFolder, manifest: Manifest) -> None:
    """Replace batch.json as a whole."""
    write_text(folder.manifest, manifest.model_dump_json(indent=1) + "\n")


def start_folder(folder: BatchFolder, batch: Batch) -> Manifest:
    """Make a batch folder: manifest, and the copies of config, template and variations."""
    manifest = new_manifest(batch, folder.root.name)
    write_text(folder.config, dump(batch.config.settings))
    write_text(folder.template, batch.template + "\n")
    variations = [entry.model_dump() for entry in manifest.variations]
    write_text(folder.variations, json.dumps(variations, indent=1, ensure_ascii=False) + "\n")
    write_manifest(folder, manifest)
    return manifest


def read_manifest(folder: BatchFolder) -> Manifest:
    """Read batch.json.

    Raises:
        ManifestError: says what is wrong with it.
    """
    path = folder.manifest
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{folder.root} is not a batch folder: it has no batch.json") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    try:
        found = json.loads(text).get("format")
        if found != MANIFEST_FORMAT:
            raise ManifestError(f"{path} has format {found}; this version reads format {MANIFEST_FORMAT}")
        return Manifest.model_validate_json(text)
    except (ValidationError, json.JSONDecodeError, AttributeError) as error:
        raise ManifestError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def relative_files(folder: BatchFolder, paths: dict[str, Path]) -> dict[str, str]:
    """Paths as they stand in the manifest; those that exist."""
    return {kind: path.relative_to(folder.root).as_posix() for kind, path in paths.items() if path.exists()}
