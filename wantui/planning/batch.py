"""Batch: a template and a config turned into the recipes of all their videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wantui.captures import CAPTURES
from wantui.captures.attention import ATTENTION, AttentionRequest
from wantui.captures.trajectory import TRAJECTORY
from wantui.config import Config
from wantui.config.settings import ModelSettings, Settings
from wantui.controls import CONTROLS
from wantui.controls.word_weights import Weighting
from wantui.errors import UserError
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.models.fetch import replaced_parts
from wantui.models.fingerprint import commit_in_cache, fingerprint, fingerprint_of_file
from wantui.models.magnitudes import magnitudes_of
from wantui.models.parts import PartError, check_files
from wantui.paths import user_path
from wantui.planning.flops import TEXT_LENGTH
from wantui.planning.model_source import TransformerFile
from wantui.planning.recipe import Captures, PromptMark, Recipe
from wantui.planning.requirements import what_weights_miss
from wantui.planning.sizes import check_size, resolve_frames
from wantui.planning.token_checks import check_tokens
from wantui.prompts import Variation, count, expand, parse
from wantui.prompts.clean import clean_prompt
from wantui.prompts.expand import in_words
from wantui.prompts.foreign import foreign_in_negative_prompt, shown

MAX_SEED = 2**63 - 1
MAX_VIDEOS = 100_000
"""Most videos of one batch: its manifest of about 120 MB is read as a whole."""


class PlanError(UserError):
    """A batch that cannot be made as asked; the text says why and what would make it work."""


@dataclass(frozen=True)
class PlannedVideo:
    """One cell of the matrix: variation `variation` (from 0) with its `number`-th seed (from 1)."""

    variation: int
    number: int
    recipe: Recipe


@dataclass(frozen=True)
class Batch:
    """All that is known of a batch before it is made."""

    template: str
    config: Config
    model: WanModel
    variations: tuple[Variation, ...]
    videos: tuple[PlannedVideo, ...]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]
    """What this version cannot do for this batch: it can be previewed, and is not run."""


@dataclass(frozen=True)
class BatchPreview:
    """What can be said of a batch without writing down every video: enough to show what it is and what it costs."""

    template: str
    config: Config
    model: WanModel
    variations: tuple[Variation, ...]
    first: Recipe
    """Of the first video. The others differ in prompt, marks and seed."""
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def videos(self) -> int:
        return len(self.variations) * self.config.settings.videos_per_variation


def outline_batch(config: Config, template: str) -> BatchPreview:
    """Expand a template under a config.

    Raises:
        UserError: the template cannot be read or has too many variations; unknown model; impossible size or seed.
    """
    settings = config.settings
    model_settings, video = settings.model_settings, settings.video_settings
    parsed = parse(template)
    number, limit = count(parsed), settings.prompt_settings.max_variations
    videos = number * settings.videos_per_variation
    if number <= limit and videos > MAX_VIDEOS:  # expand refuses the others
        raise PlanError(
            f"cannot plan {in_words(videos)} videos: a batch has at most {MAX_VIDEOS:,}. "
            "Use fewer options or fewer videos_per_variation, or several batches."
        )
    user_path(settings.output_dir)
    variations = tuple(expand(parsed, limit))
    model = find_model(model_settings.model_id)
    check_size(video, model)
    frames, frames_warning = resolve_frames(video, model)
    if model_settings.seed + settings.videos_per_variation - 1 > MAX_SEED:
        raise PlanError("model_settings.seed: the last seed would not fit into 63 bits")
    latents = settings.latent_analysis_settings
    marked = any(variation.marks for variation in variations)
    is_cached = model_settings.speed == "cached"
    transformer_file = _transformer_file(model, model_settings)
    first = Recipe(
        model=model.location if model.is_local and model is not NANO else model.name,
        revision=pinned_revision(model, model_settings.revision),
        prompt=variations[0].prompt,
        negative_prompt=clean_prompt(settings.prompt_settings.negative_prompt),
        marks=_marks(variations[0]),
        weighting=_weighting(variations[0], settings),
        seed=model_settings.seed,
        sampler=model_settings.sampler,
        steps=model_settings.steps,
        flow_shift=model_settings.flow_shift or model.shift_for(video.width, video.height),
        guidance_scale=model_settings.cfg_scale,
        guidance_scale_2=model_settings.cfg_scale_2,
        width=video.width,
        height=video.height,
        frames=frames,
        fps=video.fps,
        dtype=model.dtype if model_settings.dtype == "auto" else model_settings.dtype,
        weights=model_settings.weights if transformer_file is None else "gguf",
        transformer_file=transformer_file,
        speed=model_settings.speed,
        capture=_captures(settings, has_marks=marked, is_cached=is_cached),
        controls=_controls(settings),
    )
    if is_cached and model.boundary_ratio is None:
        first = first.model_copy(update={"magnitudes": magnitudes_of(model, first.source.weights_id)})
    warnings = [*map(str, config.warnings), *parsed.warnings]
    warnings += foreign_in_negative_prompt(settings.prompt_settings.negative_prompt)
    if not settings.attention_analysis_settings.store_attention:
        warnings += _unused_marks(variations)
    if latents.store_latents and latents.storage_dtype == "float16":
        warnings.append(
            "latent_analysis_settings.storage_dtype: float16 adds turning to the stored latents, about 1 rad over 50 "
            "steps; how much is stored beside them. The geometry that is analysed comes from the exact states"
        )
    if frames_warning:
        warnings.append(frames_warning)
    if is_cached and not first.magnitudes:
        better = "" if model.boundary_ratio else f"; `wantui models calibrate` once for {model.name} loses less"
        warnings.append(f"model_settings.speed: cached goes by the first block of this model{better}")
    if first.source.weights_id is None:
        warnings.append(
            f"`wantui models fetch {model.name}` brings its weights, which are not on this machine; else they come "
            "when its first video is made"
        )
    warnings += _duplicate_warnings(variations)
    uses_marks = first.capture.attention is not None or any(_weighting(one, settings) for one in variations)
    checked = check_tokens(model, first.revision, variations, first.negative_prompt, uses_marks=uses_marks)
    warnings += checked.warnings
    refusals = [*map(str, config.refusals), *checked.refusals, *_conflicts(first)]
    if settings.attention_analysis_settings.store_attention and not marked:
        refusals.append("store_attention is on and the template marks no word: write (word) for each to be stored")
    captures = first.capture
    stored = captures.latents or captures.attention is not None or bool(captures.more)
    if is_cached and stored and not model_settings.force_capture:
        refusals.append(
            "model_settings.speed: cached skips blocks, so that what is captured is not the model's own; "
            "choose fused, capture nothing, or set model_settings.force_capture"
        )
    refusals += _missing_files(model, transformer_file)
    if transformer_file is not None and model_settings.weights != "full":
        refusals.append(
            f"model_settings.weights: {model_settings.weights} is not for a transformer_file, which has its own"
        )
    # Each word is a token at least, and there is an end token; workers count tokens.
    long = (variation for variation in variations if len(variation.prompt) >= 2 * TEXT_LENGTH - 1)
    if found := next((variation for variation in long if len(variation.prompt.split()) >= TEXT_LENGTH), None):
        refusals.append(
            f"variation {found.id} has {len(found.prompt.split())} words, and the model reads {TEXT_LENGTH} tokens: "
            "shorten it, as its end would change nothing"
        )
    if missing := what_weights_miss(first.weights):
        refusals.append(missing)
    if latents.store_predicted_clean and not latents.store_latents:
        refusals.append("latent_analysis_settings.store_predicted_clean needs store_latents")
    if model_settings.cfg_scale_2 is not None and model.boundary_ratio is None:
        refusals.append(f"model_settings.cfg_scale_2 is for models with two transformers; {model.name} has one")
    elif (model_settings.cfg_scale_2 or 0) > 1 >= model_settings.cfg_scale:
        refusals.append(
            "model_settings.cfg_scale_2 does nothing where cfg_scale is 1 or less, as there is no second pass then"
        )
    return BatchPreview(template, config, model, variations, first, tuple(warnings), tuple(refusals))


def plan_batch(config: Config, template: str) -> Batch:
    """All videos of a template under a config: variations in order, and for each the seeds seed, seed + 1, ...

    Video k of every variation has the same seed, hence the same initial noise.

    Raises:
        UserError: as `outline_batch`.
    """
    found = outline_batch(config, template)
    shared = dict(found.first)
    videos = tuple(
        PlannedVideo(
            index,
            number,
            Recipe(
                **shared
                | {
                    "prompt": variation.prompt,
                    "marks": _marks(variation),
                    "weighting": _weighting(variation, config.settings),
                    "seed": found.first.seed + number - 1,
                }
            ),
        )
        for index, variation in enumerate(found.variations)
        for number in range(1, config.settings.videos_per_variation + 1)
    )
    return Batch(template, config, found.model, found.variations, videos, found.warnings, found.refusals)


def _missing_files(model: WanModel, transformer_file: TransformerFile | None) -> list[str]:
    """Refuse a local model that lacks files, before anything is queued that no worker could load."""
    if not model.is_local:
        return []
    try:
        check_files(Path(model.location), replaced_parts(transformer_file))
    except PartError as error:
        return [f"{model.location} is not complete: {error}"]
    return []


def _transformer_file(model: WanModel, settings: ModelSettings) -> TransformerFile | None:
    if settings.transformer_file is None:
        return None
    path = user_path(settings.transformer_file).absolute()
    setting = f"model_settings.transformer_file: {path}"
    if model.boundary_ratio is not None:
        raise PlanError(f"{setting}: {model.name} has two transformers, and takes none from a file")
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise PlanError(f"{setting} is not a regular file")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise PlanError(f"{setting} is not a GGUF file")
        if path.suffix != ".gguf":
            raise PlanError(f"{setting}: give it a name that ends in .gguf, by which diffusers knows it")
        return TransformerFile(path=str(path), fingerprint=fingerprint_of_file(path), bytes=path.stat().st_size)
    except OSError as error:
        raise PlanError(f"{setting} cannot be read: {error.strerror}") from None


def _marks(variation: Variation) -> tuple[PromptMark, ...]:
    return tuple(PromptMark(text=m.text, start=m.start, end=m.end, weight=m.weight) for m in variation.marks)


def _weighting(variation: Variation, settings: Settings) -> Weighting | None:
    weighted = any(mark.weight != 1 for mark in variation.marks)
    return settings.prompt_settings.embedding_method if weighted else None


def _captures(settings: Settings, has_marks: bool, is_cached: bool) -> Captures:
    """Return what the settings ask to be recorded."""
    requests = {kind.name: kind.requested(getattr(settings, kind.section)) for kind in CAPTURES}
    trajectory, attention = requests.pop(TRAJECTORY.name), requests.pop(ATTENTION.name)
    assert isinstance(attention, AttentionRequest | None)
    assert trajectory is not None
    return Captures(
        **dict(trajectory),
        geometry=not is_cached or settings.model_settings.force_capture,
        attention=attention if has_marks else None,
        more={name: dict(request) for name, request in requests.items() if request is not None},
    )


def _controls(settings: Settings) -> dict[str, Any]:
    """Return the requests of the controls that the settings ask for, by name."""
    own = [kind for kind in CONTROLS if kind.section is not None]
    requests = {kind.name: kind.requested(getattr(settings, str(kind.section))) for kind in own}
    return {name: dict(request) for name, request in requests.items() if request is not None}


def _conflicts(recipe: Recipe) -> list[str]:
    """Return why controls of a recipe cannot be applied."""
    requests = ((kind, recipe.control(kind.name)) for kind in CONTROLS)
    return [text for kind, request in requests if request is not None for text in kind.conflicts(request, recipe)]


def pinned_revision(model: WanModel, asked: str | None) -> str | None:
    """What the recipe says of the weights: the fingerprint of local ones, the commit of cached ones, else `asked`."""
    if model.is_local:
        return fingerprint(Path(model.location))
    return commit_in_cache(model.location, asked) or asked


def _unused_marks(variations: tuple[Variation, ...]) -> list[str]:
    """Warn of marks that do nothing: they have no weight, and their attention is not stored."""
    unused = list(dict.fromkeys(mark.text for found in variations for mark in found.marks if mark.weight == 1))
    if not unused:
        return []
    more = f" and {len(unused) - 1:,} more" if len(unused) > 1 else ""
    return [
        f"'({shown(unused[0])})'{more} marks without effect: --store-attention stores attention maps, "
        "a number weights, as in (word:1.5)"
    ]


def _duplicate_warnings(variations: tuple[Variation, ...]) -> list[str]:
    first: dict[str, str] = {}
    warnings = []
    for variation in variations:
        if variation.prompt in first:
            warnings.append(f"variations {first[variation.prompt]} and {variation.id} have the same prompt")
        first.setdefault(variation.prompt, variation.id)
    return warnings
