"""Facts about one batch for the Library: what it contains, how it was made, and what people think of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wantui.config import Settings, convert_settings_to_dict
from wantui.config.flow_values import format_flow_text
from wantui.config.sweep import format_axis
from wantui.config.sweep_syntax import describe_seeds
from wantui.formatting import format_bytes, format_count, format_duration, shorten_text
from wantui.storage.manifest import Manifest
from wantui.storage.manifest_labels import make_variation_labels
from wantui.storage.marks import BatchMarks
from wantui.tui.dates import format_full_date
from wantui.tui.facts import GENERATION_FACT, Fact
from wantui.tui.plain_names import replace_names

SHOWN_SETTINGS = {
    *(f"model_settings.{name}" for name in ("model_id", "seed", "steps", "cfg_scale", "sampler")),
    *(f"video_settings.{name}" for name in ("width", "height", "fps", "frames", "duration")),
    "prompt_settings.negative_prompt",
    "prompt_settings.generic_words",
    "videos_per_variation",
    "seeds",
    "sweeps",
    "output_dir",
    "batch_name",
    "use_timestamp",
}
"""Settings that other facts show, or that do not matter for a finished batch."""
MAX_LISTED_ERRORS, MAX_LISTED_NOTES, MAX_LISTED_OPTIONS, MAX_READ_VARIATIONS = 3, 8, 20, 1000
MAX_VALUE_LENGTH = 60


@dataclass(frozen=True)
class BatchFacts:
    """Facts about one batch."""

    template: str
    state_counts: tuple[tuple[str, int], ...]
    """Number of videos in each state that occurs."""
    star_count: int
    reject_count: int
    note_count: int
    facts: tuple[Fact, ...]
    notes: tuple[tuple[str, str], ...]
    """Variation and seed of a video, and its note."""
    faults: tuple[str, ...]
    """Unreadable parts of the journal and of the marks."""


def collect_batch_facts(folder: Path, manifest: Manifest, marks: BatchMarks) -> BatchFacts:
    """Collect the facts about a batch."""
    recipe, videos = manifest.videos[0].recipe, manifest.videos
    seeds = {video.seed for video in videos}
    seed_text = f"{'seeds' if len(seeds) > 1 else 'seed'} {describe_seeds(seeds)}"
    seconds = [video.generation_seconds for video in videos if video.seconds]
    facts = [
        Fact(
            "videos", f"{format_count(len(manifest.variations), 'variation')} by {seed_text}{_describe_sweep(manifest)}"
        ),
        *_list_errors(manifest),
        Fact("options", _list_options(manifest)),
        Fact("model", recipe.model),
        Fact("size", f"{recipe.width}x{recipe.height}, {format_count(recipe.frames, 'frame')}, {recipe.fps} fps"),
        Fact("sampling", _describe_sampling(manifest)),
        Fact(GENERATION_FACT, _describe_generation_time(seconds)),
        Fact("folder", str(folder)),
        Fact("on disk", format_bytes(sum(video.bytes or 0 for video in videos)) if seconds else ""),
        Fact("negative", recipe.negative_prompt),
        Fact("settings", ", ".join(list_config_differences(manifest.config))),
        Fact("created", format_full_date(manifest.created)),
        Fact("wantui", manifest.wantui),
    ]
    states = Counter(video.state for video in videos)
    marked = [(video, marks.get_mark(video.id)) for video in videos]
    notes = [
        (f"{manifest.variations[video.variation].id} {video.seed}", " ".join(mark.note.split()))
        for video, mark in marked
        if mark.note
    ]
    return BatchFacts(
        template=" ".join(manifest.template.split()),
        state_counts=tuple(states.items()),
        star_count=sum(mark.star for _, mark in marked),
        reject_count=sum(mark.reject for _, mark in marked),
        note_count=len(notes),
        facts=tuple(fact for fact in facts if fact.value),
        notes=tuple(notes[:MAX_LISTED_NOTES]),
        faults=(*manifest.faults, *marks.faults),
    )


def _describe_generation_time(seconds: Sequence[float]) -> str:
    """Return the sum and the mean of the denoising and decoding times."""
    if not seconds:
        return ""
    return f"{format_duration(sum(seconds))}, {sum(seconds) / len(seconds):.1f} s each"


def _describe_sampling(manifest: Manifest) -> str:
    """Return sampler, steps and guidance; swept steps are a range, and a swept guidance is left out."""
    from wantui.planning.guidance_plan import describe_guidance  # slow to import

    recipes = {video.cell: video.recipe for video in manifest.videos}.values()
    steps = sorted({recipe.steps for recipe in recipes})
    steps_text = format_count(steps[0], "step") if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"
    samplers = dict.fromkeys(recipe.sampler for recipe in recipes)
    scales = sorted({describe_guidance(recipe) for recipe in recipes})
    scale_text = f", cfg scale {scales[0]}" if len(scales) == 1 else ""
    return f"{', '.join(samplers)}, {steps_text}{scale_text}"


def _describe_sweep(manifest: Manifest) -> str:
    """Return the swept settings with their values, " by cfg scale 1, 4, 8", and the number of skipped cells."""
    if manifest.sweep is None:
        return ""
    axes = [f" by {format_axis(axis.names, axis.values)}" for axis in manifest.sweep.axes]
    skipped_count = len(manifest.sweep.skipped)
    return replace_names("".join(axes)) + (f" ({skipped_count:,} skipped)" if skipped_count else "")


def _list_options(manifest: Manifest) -> str:
    """Return the options that occur in each bracket: "red, blue; circle, square"; empty if the template shows them."""
    options: dict[int, dict[str, None]] = {}
    for label in make_variation_labels(manifest, range(min(len(manifest.variations), MAX_READ_VARIATIONS))):
        for bracket, text in label.options.items():
            options.setdefault(bracket, {})[text or "(empty)"] = None
    if all(text in manifest.template for texts in options.values() for text in texts):
        return ""
    return "; ".join(", ".join(list(texts)[:MAX_LISTED_OPTIONS]) for texts in options.values())


def _list_errors(manifest: Manifest) -> list[Fact]:
    """Return the most frequent errors of failed videos, each with the number of videos."""
    errors = Counter(video.error for video in manifest.videos if video.state == "failed" and video.error)
    return [Fact("failed", f"{count} x {error}") for error, count in errors.most_common(MAX_LISTED_ERRORS)]


def list_config_differences(config: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ from the defaults and that no other fact shows, such as "store latents on".

    A key that several sections have is named with its section."""
    defaults, differences = convert_settings_to_dict(Settings()), []
    names = Counter(name for section in defaults.values() if isinstance(section, Mapping) for name in section)
    for key, value in _flatten_config(config):
        section, _, name = key.rpartition(".")
        default = defaults.get(section, {}).get(name) if section else defaults.get(name)
        if key not in SHOWN_SETTINGS and value != default:
            shown_name = f"{section.removesuffix('_settings')}.{name}" if names[name] > 1 else name
            differences.append(f"{replace_names(shown_name)} {shorten_text(_format_value(value), MAX_VALUE_LENGTH)}")
    return differences


def _format_value(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "on", False: "off", None: "default"}[value]
    if isinstance(value, Mapping):
        return format_flow_text(value)
    if isinstance(value, list):  # its items leave out what is not set
        return format_flow_text(
            [
                {key: entry for key, entry in item.items() if entry is not None} if isinstance(item, Mapping) else item
                for item in value
            ]
        )
    return str(value)


def _flatten_config(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (f"{key}.{name}", inner) if isinstance(value, Mapping) else (key, value)
        for key, value in config.items()
        for name, inner in (value.items() if isinstance(value, Mapping) else [("", value)])
    ]
