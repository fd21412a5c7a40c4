"""The manifest, batch.json: the requested videos of a batch and their states. Only done videos have complete files."""

import json
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from wantui import __version__
from wantui.atomic_files import write_text_atomically
from wantui.checksums import compute_document_checksum
from wantui.config import convert_settings_to_dict, dump_settings
from wantui.config.plans import migrate_plan_name
from wantui.json_files import (
    UnreadableFileError,
    describe_first_validation_error,
    is_refused_by_system,
    parse_json,
    read_json_object,
)
from wantui.planning import Batch, Recipe
from wantui.planning.disk_estimate import estimate_video_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest_checks import check_file_paths, check_manifest_consistency
from wantui.storage.manifest_errors import (
    ManifestError,
    check_manifest_format,
    describe_other_folder,
    describe_writer,
    make_damaged_manifest_error,
    make_unreadable_manifest_error,
)
from wantui.storage.manifest_sweep import CellEntry, SweepEntry, create_sweep_entry

MANIFEST_FORMAT = 3
"""Format of new manifests without a sweep. Format 2 added the journal. Without the journal the states are outdated, so
versions that read only format 1 must refuse it. Format 3 contains recipes of format 2."""
SWEEP_MANIFEST_FORMAT = 4
"""Format of manifests with a sweep, where a variation and a number do not identify a video."""
MAX_MANIFEST_BYTES = 256 << 20
"""Maximum bytes of a manifest: enough for about 200,000 videos."""
MAX_MANIFEST_INDEX = 1_000_000
VideoState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


def _to_plan_slug(name: object) -> object:
    return migrate_plan_name(name) if isinstance(name, str) else name


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VariationEntry(_Entry):
    """One prompt of the template."""

    id: str
    prompt: str
    choices: list[dict[str, Any]]
    marks: list[dict[str, Any]]


class VideoEntry(_Entry):
    """One video: its recipe and its result."""

    id: str
    """The first twelve digits of the recipe's digest."""
    variation: Annotated[int, Field(ge=0, le=MAX_MANIFEST_INDEX)]
    """Index into `variations`."""
    number: Annotated[int, Field(ge=1, le=MAX_MANIFEST_INDEX)]
    """Number of the seed within the variation and cell, from 1."""
    cell: Annotated[int | None, Field(ge=0, le=MAX_MANIFEST_INDEX)] = None
    """Index into the cells of the sweep; absent without a sweep."""
    seed: int
    state: VideoState = "queued"
    recipe: Recipe
    files: dict[str, str] = {}
    """Paths relative to the batch folder."""
    sha256: dict[str, str] = {}
    """SHA-256 of the clip and contact sheet; captures contain their own checksums."""
    seconds: dict[str, float] = {}
    peak_memory: int | None = None
    """Peak memory on the GPU, in bytes."""
    gpus: int | None = None
    """2 if two GPUs rendered the video; otherwise absent."""
    second_peak_memory: int | None = None
    """Peak memory on the second GPU, in bytes; absent with one GPU."""
    memory_plan: Annotated[str | None, BeforeValidator(_to_plan_slug)] = None
    """Slug of the memory plan used."""
    bytes: int | None = None
    """Total size of the video's files, in bytes."""
    predicted: dict[str, float] = {}
    """Predictions made before rendering: bytes on disk, peak_memory, seconds."""
    latents_sha256: str | None = None
    error: str | None = None

    @model_serializer(mode="wrap")
    def omit_missing_cell(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit a missing cell and second GPU, as in manifests of earlier versions."""
        return _omit_none_values(handler(self), "cell", "gpus", "second_peak_memory")

    @property
    def generation_seconds(self) -> float:
        """Return the seconds of denoising and decoding; 0 if they are not recorded."""
        return self.seconds.get("denoise", 0.0) + self.seconds.get("decode", 0.0)

    def collect_outcome(self) -> dict[str, Any]:
        """Return the fields that change while the batch is rendered, as plain values."""
        return self.model_dump(mode="json", exclude=FIXED_ENTRY_FIELDS)


FIXED_ENTRY_FIELDS = {"id", "variation", "number", "cell", "seed", "recipe"}
"""Fields of an entry that never change."""


def _omit_none_values(serialised: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        if serialised.get(key) is None:
            serialised.pop(key, None)
    return serialised


class Manifest(_Entry):
    """The complete content of batch.json."""

    format: int = MANIFEST_FORMAT
    wantui: str = ""
    """Version of wantui that wrote the manifest; empty before 0.2."""
    journal: str = ""
    """Journal ID, repeated in each line of the journal; empty in format 1, which has no journal."""
    checksum: str = ""
    """SHA-256 of the other fields, from `compute_document_checksum`; empty in manifests of earlier versions."""
    name: str
    created: str
    template: str
    config: dict[str, Any]
    variations: list[VariationEntry]
    sweep: SweepEntry | None = None
    """Axes and cells of the sweep; absent without a sweep."""
    videos: Annotated[list[VideoEntry], Field(min_length=1)]
    _faults: tuple[str, ...] = PrivateAttr(default=())
    _refusal: str = PrivateAttr(default="")

    @property
    def faults(self) -> tuple[str, ...]:
        """Unreadable lines of the journal; the entries of their videos may be outdated."""
        return self._faults

    @property
    def refusal_reason(self) -> str:
        """Reason why the system refuses to read the journal; empty if the journal can be read."""
        return self._refusal

    def add_faults(self, faults: Iterable[str]) -> None:
        """Record unreadable lines of the journal."""
        self._faults = (*self._faults, *faults)

    def add_journal_error(self, error: UnreadableFileError) -> None:
        """Record why the journal cannot be read."""
        self.add_faults([str(error)])
        self._refusal = str(error) if is_refused_by_system(error) else ""

    def clear_faults(self) -> None:
        """Clear the faults, after the faulty journal was saved under a different name."""
        self._faults, self._refusal = (), ""

    @model_serializer(mode="wrap")
    def omit_missing_sweep(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit a missing sweep, as in manifests of earlier versions."""
        return _omit_none_values(handler(self), "sweep")

    def find_cell(self, video: VideoEntry) -> CellEntry | None:
        """Return the cell of a video; None without a sweep."""
        return None if self.sweep is None or video.cell is None else self.sweep.cells[video.cell]

    def find_cell_folder(self, video: VideoEntry) -> str:
        """Return the folder name of a video's cell; empty without a sweep."""
        cell = self.find_cell(video)
        return "" if cell is None else cell.folder

    def make_video_title(self, video: VideoEntry) -> str:
        """Return the name of a video for people: its variation, its seed and its cell."""
        cell = self.find_cell(video)
        cell_text = "" if cell is None else f", {cell.label}"
        return f"{self.variations[video.variation].id} seed {video.seed}{cell_text}"

    @property
    def memory_plan(self) -> str:
        """Return the slug of the requested memory plan, or auto."""
        return migrate_plan_name(str(self.config.get("memory_settings", {}).get("plan", "auto")))

    @property
    def gpus_per_video(self) -> int:
        """Return the number of GPUs that may compute one video; 1 in batches of earlier versions."""
        requested_count = self.config.get("model_settings", {}).get("gpus_per_video", 1)
        return 2 if requested_count == 2 else 1

    def count_states(self) -> dict[str, int]:
        """Return the number of videos in each state that occurs."""
        states = [video.state for video in self.videos]
        return {state: states.count(state) for state in dict.fromkeys(states)}


def create_manifest(batch: Batch, name: str) -> Manifest:
    """Return the manifest of a new batch; all videos are queued."""
    return Manifest(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        template=batch.template,
        config=convert_settings_to_dict(batch.config.settings),
        variations=[
            VariationEntry(
                id=variation.id,
                prompt=variation.prompt,
                choices=[
                    {"bracket": c.bracket_number, "option": c.option_number, "text": c.text} for c in variation.choices
                ],
                marks=[{"text": m.text, "start": m.start, "end": m.end, "weight": m.weight} for m in variation.marks],
            )
            for variation in batch.variations
        ],
        sweep=None if batch.sweep is None else create_sweep_entry(batch.sweep),
        videos=[
            VideoEntry(
                id=video.recipe.digest[:12],
                variation=video.variation_index,
                number=video.seed_number,
                cell=video.cell_index,
                seed=video.recipe.seed,
                recipe=video.recipe,
                predicted={"bytes": predicted_bytes},
            )
            for video, predicted_bytes in zip(batch.videos, estimate_video_bytes(batch), strict=True)
        ],
    )


def write_manifest(folder: BatchFolder, manifest: Manifest) -> int:
    """Replace batch.json atomically; return its size in bytes.

    Raises:
        ManifestError: the manifest would exceed the maximum size.
    """
    manifest.format = MANIFEST_FORMAT if manifest.sweep is None else SWEEP_MANIFEST_FORMAT
    manifest.wantui = __version__
    # Hash the parsed JSON, as a reader does: pydantic and Python may format the same number differently.
    manifest.checksum = compute_document_checksum(parse_json(manifest.model_dump_json()))
    manifest_json = manifest.model_dump_json(indent=1) + "\n"
    size_bytes = len(manifest_json.encode())
    if size_bytes > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"cannot write {folder.manifest_path}: it would be {size_bytes >> 20} MiB. Queue smaller batches"
        )
    write_text_atomically(folder.manifest_path, manifest_json)
    return size_bytes


def is_manifest_edited(folder: BatchFolder) -> bool:
    """Return whether another program changed batch.json, so its checksum does not match.

    Raises:
        FileNotFoundError: batch.json is missing.
        UnreadableFileError: batch.json is not JSON.
    """
    return has_wrong_checksum(read_json_object(folder.manifest_path, MAX_MANIFEST_BYTES))


def has_wrong_checksum(document: dict[str, Any]) -> bool:
    """Return whether a manifest contains a checksum that does not match; earlier versions have no checksum."""
    return document.get("checksum", "") not in ("", compute_document_checksum(document))


def write_batch_files(folder: BatchFolder, batch: Batch) -> Manifest:
    """Write the manifest of a new batch, and copies of its config, template and variations; return the manifest."""
    manifest = create_manifest(batch, folder.root.name)
    manifest.journal = secrets.token_hex(8)
    write_text_atomically(folder.config_path, dump_settings(batch.config.settings))
    write_text_atomically(folder.template_path, batch.template + "\n")
    variations = [entry.model_dump() for entry in manifest.variations]
    write_text_atomically(folder.variations_path, json.dumps(variations, indent=1, ensure_ascii=False) + "\n")
    write_manifest(folder, manifest)
    return manifest


def read_manifest(folder: BatchFolder) -> Manifest:
    """Return the manifest of a batch folder, updated by its journal.

    Raises:
        ManifestError: names what is wrong with it.
    """
    from wantui.storage.manifest_file import ManifestFile  # circular import

    return ManifestFile(folder).read_manifest()


def parse_manifest(folder: BatchFolder) -> Manifest:
    """Parse and check batch.json, without its journal.

    Raises:
        ManifestError: names what is wrong with it.
    """
    path = folder.manifest_path
    try:
        document = read_json_object(path, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise ManifestError(f"{describe_other_folder(folder.root)}. List the batches: wantui library ls") from None
    except UnreadableFileError as error:
        if os.path.exists(folder.root) and not os.path.isdir(folder.root):  # noqa: PTH110, PTH112 - they never raise
            raise ManifestError(describe_other_folder(folder.root)) from None
        raise make_unreadable_manifest_error(error) from error
    check_manifest_format(path, document)
    try:
        manifest = Manifest.model_validate(document)
        check_manifest_consistency(manifest)
    except ValidationError as error:
        reason = f"{describe_first_validation_error(error)}{describe_writer(document)}"
        raise make_damaged_manifest_error(path, reason) from None
    except ValueError as error:
        raise make_damaged_manifest_error(path, str(error)) from None
    return manifest


def apply_journal_outcome(outcome: object, entry: VideoEntry) -> VideoEntry:
    """Return a copy of a video's entry with the outcome from a journal line.

    Raises:
        ValueError: names the invalid field, or the file outside the batch folder.
    """
    if not isinstance(outcome, dict):
        raise ValueError("its entry is not a JSON object")
    fixed_fields = {name: getattr(entry, name) for name in FIXED_ENTRY_FIELDS}
    try:
        changed_entry = VideoEntry.model_validate({**outcome, **fixed_fields})
    except ValidationError as error:
        raise ValueError(describe_first_validation_error(error)) from None
    check_file_paths("entry", changed_entry)
    return changed_entry


def to_relative_paths(folder: BatchFolder, paths: dict[str, Path]) -> dict[str, str]:
    """Return the paths of the existing files relative to the batch folder, as the manifest stores them."""
    return {kind: path.relative_to(folder.root).as_posix() for kind, path in paths.items() if path.exists()}
