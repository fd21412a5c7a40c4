"""Settings of a batch, with the sections and keys of the YAML files of the older system.

The docstring of a field is its description (with the unit), and its constraints are its range: the settings form and
`wantui config schema` show both.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator, model_validator

from wantui.captures import CAPTURES
from wantui.captures.attention import AttentionAnalysisSettings
from wantui.captures.contributions import ContributionSettings
from wantui.captures.trajectory import LatentAnalysisSettings
from wantui.config.plans import PlanName, migrate_plan_name
from wantui.config.speeds import SpeedName, migrate_speed_name
from wantui.config.sweep_syntax import SweepError, convert_to_seeds_text, convert_to_sweep_text, parse_seeds
from wantui.controls import CONTROLS
from wantui.controls.attention_bending import AttentionBendingSettings
from wantui.controls.lora import LoraSettings
from wantui.controls.word_weights import WeightingMethod
from wantui.generic_words import convert_to_generic_words_text
from wantui.metric_names import MetricName
from wantui.samplers import REFUSED_SAMPLERS, SamplerName
from wantui.section import ChoiceDescriptions, ConfigSection

DtypeName = Literal["auto", "bfloat16", "float32"]

DEVICE_PATTERN = re.compile(r"^(auto|cpu|cuda|cuda:[0-9]{1,4})$")
NOT_BLANK_PATTERN = r"\S"
RULE_BY_PATTERN = {
    DEVICE_PATTERN.pattern: "should be auto, cpu, cuda or cuda:N",
    NOT_BLANK_PATTERN: "should not be empty",
}
"""Regular expression of a setting -> text of its error message."""
MIN_FLOW_SHIFT = 1e-6
"""Smallest flow shift: at about 1e-8 and below, the noise levels of some samplers are NaN in float32."""
MAX_FRAME_COUNT = 4093
"""Maximum number of frames, from 1024 latent frames, the limit of the transformer's rotary embedding."""


class ModelSettings(ConfigSection):
    """Model and sampling."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {
        "eta": "the available samplers have no eta",
        "clip_skip": "Wan has no CLIP text encoder",
    }
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "sampler": {
            "lcm": "for step-distilled adapters, with 4 steps and cfg_scale 1; draws noise from the seed of the video",
            "dpm++2m-sde": "draws noise in each step, from the seed of the video",
        },
        "dtype": {"auto": "bfloat16, and float32 for nano"},
        "weights": {
            "full": "as loaded",
            "float8": "half the memory; changes the video, slightly lowers its quality, and disables the fused blocks "
            "and decoder",
            "int8": "as float8, but more accurate; needs torchao",
        },
        "speed": {
            "reference": "bit-identical to diffusers",
            "fused": "fused GPU kernels, equal up to rounding; bit-identical on a CPU and with nano",
            "fp8": "fused, with products rounded to 8 bits, which changes the video; needs an Ada, Hopper or later GPU",
            "cached": "skips blocks that change little, which changes the video",
        },
    }

    model_id: Annotated[str, Field(pattern=NOT_BLANK_PATTERN)] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    """Model: a short name from `wantui models ls`, a hub id, or a local diffusers directory."""
    revision: Annotated[str, Field(pattern=NOT_BLANK_PATTERN)] | None = None
    """Revision of a hub model: branch, tag or commit. For a downloaded model, recipes store the commit."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 42
    """Seed of each variation's first video; video k has seed + k - 1."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Number of denoising steps."""
    cfg_scale: Annotated[float, Field(ge=0, le=50)] = 5.0
    """Guidance scale; at 1 or below, the unconditional pass is skipped."""
    cfg_scale_2: Annotated[float, Field(ge=0, le=50)] | None = None
    """Guidance scale of the low-noise transformer of Wan 2.2 A14B; empty: cfg_scale."""
    sampler: SamplerName = "unipc"
    """Sampler."""
    flow_shift: Annotated[float, Field(ge=MIN_FLOW_SHIFT, le=100)] | None = None
    """Shift of the noise schedule; empty: the default for the model and size (3 at 480p, 5 at 720p)."""
    dtype: DtypeName = "auto"
    """Precision of transformer and text encoder (the VAE is float32)."""
    weights: Literal["full", "float8", "int8"] = "full"
    """Storage of the transformer weights."""
    transformer_file: Annotated[str, Field(pattern=NOT_BLANK_PATTERN)] | None = None
    """GGUF file that replaces the model's transformer, and has its own precision. Disables the fused
    blocks and decoder."""
    speed: SpeedName = "fused"
    """Speed of transformer and decoder."""
    force_capture: bool = False
    """Also store trajectories and attention with speed: cached, or with a sampler that adds noise, although both
    alter them."""
    gpus_per_video: Annotated[int, Field(ge=1, le=2)] = 1
    """Number of GPUs that compute one video. 2: the pass without the prompt runs on a second GPU, nearly twice as
    fast with guidance, and bit-identical."""
    device: Annotated[str, Field(pattern=DEVICE_PATTERN.pattern)] = "auto"
    """Device: auto, cpu, cuda or cuda:N."""

    @field_validator("speed", mode="before")
    @classmethod
    def accept_former_speeds(cls, speed: object) -> object:
        return migrate_speed_name(speed) if isinstance(speed, str) else speed

    @field_validator("sampler", mode="before")
    @classmethod
    def explain_refused_samplers(cls, sampler: object) -> object:
        if isinstance(sampler, str) and sampler.lower() in REFUSED_SAMPLERS:
            raise ValueError(f"{sampler} is not supported: {REFUSED_SAMPLERS[sampler.lower()]}")
        return sampler


class MemorySettings(ConfigSection):
    """Placement of the model in memory."""

    IGNORED_KEYS = dict.fromkeys(
        (
            "enable_memory_optimization",
            "clear_cache_between_videos",
            "reload_model_for_large_models",
            "use_gradient_checkpointing",
            "enable_memory_efficient_attention",
            "use_sequential_cpu_offload",
            "offload_text_encoder_to_cpu",
            "offload_vae_to_cpu",
            "secondary_gpu_device",
        ),
        "memory_settings.plan replaces it",
    )
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "plan": {
            "auto": "the first that fits into the free GPU memory; plans that change no pixel are tried first",
        }
    }

    plan: PlanName = "auto"
    """Memory plan."""

    @field_validator("plan", mode="before")
    @classmethod
    def accept_former_plans(cls, plan: object) -> object:
        return migrate_plan_name(plan) if isinstance(plan, str) else plan


class VideoSettings(ConfigSection):
    """Size and length of the videos."""

    width: Annotated[int, Field(ge=16, le=16384)] = 832
    """Width in pixels, a multiple of 16 (32 for Wan 2.2 5B)."""
    height: Annotated[int, Field(ge=16, le=16384)] = 480
    """Height in pixels, a multiple of 16 (32 for Wan 2.2 5B)."""
    fps: Annotated[int, Field(ge=1, le=120)] = 16
    """Frames per second."""
    duration: Annotated[float, Field(gt=0)] | None = None
    """Length in seconds; determines the number of frames if `frames` is empty."""
    frames: Annotated[int, Field(ge=1, le=MAX_FRAME_COUNT)] | None = None
    """Number of frames, 4k + 1; overrides `duration`. 81 if both are empty."""


class PromptSettings(ConfigSection):
    """Prompt and template."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {
        "base_weight": "write weights in the template: (word:1.5)",
        "variation_weight": "write weights in the template: (word:1.5)",
        "enable_prompt_weighting": "weights in the template are always applied",
        "use_weighted_embeddings": "weights in the template are always applied; embedding_method chooses how",
    }
    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "embedding_method": {
            "attention": "multiply the odds of the word in every cross-attention",
            "multiply": "scale its text embedding",
            "interpolation": "interpolate between the end token and the word",
        }
    }

    negative_prompt: str = ""
    """Negative prompt: guidance steers away from this text."""
    embedding_method: WeightingMethod = "attention"
    """Method to apply the weight of (word:2.5)."""
    max_variations: Annotated[int, Field(ge=1)] = 10_000
    """Maximum number of variations; a template with more is rejected."""
    generic_words: str | None = None
    """Word that leaves a concept open, for `wantui score`: circle|square: shape; man|woman: person."""

    @field_validator("generic_words", mode="before")
    @classmethod
    def accept_mappings_of_words(cls, generic_words: object) -> object:
        return convert_to_generic_words_text(generic_words)


class _Sections(ConfigSection):
    model_settings: ModelSettings = ModelSettings()
    memory_settings: MemorySettings = MemorySettings()
    video_settings: VideoSettings = VideoSettings()
    prompt_settings: PromptSettings = PromptSettings()


if TYPE_CHECKING:

    class _WithSections(_Sections):
        latent_analysis_settings: LatentAnalysisSettings = LatentAnalysisSettings()
        attention_analysis_settings: AttentionAnalysisSettings = AttentionAnalysisSettings()
        contribution_settings: ContributionSettings = ContributionSettings()
        attention_bending_settings: AttentionBendingSettings = AttentionBendingSettings()
        lora_settings: LoraSettings = LoraSettings()
else:
    _WithSections = create_model(
        "_WithSections",
        __base__=_Sections,
        **{
            kind.section_key: (kind.settings_type, kind.settings_type())
            for kind in (*CAPTURES, *CONTROLS)
            if kind.section_key is not None and kind.settings_type is not None
        },
    )


class Settings(_WithSections):
    """All settings of a config file; captures and controls add their sections."""

    CHOICE_DESCRIPTIONS: ClassVar[ChoiceDescriptions] = {
        "output_permissions": {
            "umask": "as set by the umask (on most systems, every user can read it)",
            "private": "only you",
        }
    }

    videos_per_variation: Annotated[int, Field(ge=1, le=100_000)] = 3
    """Videos per variation, with the seeds seed, seed + 1, ..."""
    seeds: str | None = None
    """Seeds of each variation's videos, such as 7,11,42 or 1..8; replaces seed and videos_per_variation."""
    sweeps: str | None = None
    """Settings that change within the batch, such as cfg_scale=2,4,6; steps=10..30:10."""
    sweeps_baseline: bool = False
    """Also generate a row with the config's own values, and without the LoRAs and bends that the sweep changes."""
    sweeps_skip_impossible: bool = False
    """Leave out the cells of a sweep that cannot be generated, instead of refusing the batch."""
    primary_metric: MetricName | None = None
    """Metric that decides the verdict of `wantui analyze --compare`, declared before the videos are generated."""
    output_dir: Annotated[str, Field(pattern=NOT_BLANK_PATTERN)] = "outputs"
    """Parent folder of the batch folder."""
    output_permissions: Literal["umask", "private"] = "umask"
    """Access to the batch folder."""
    batch_name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Name of the batch folder; empty: the name of the config. Characters other than letters (of any script), digits
    and - become _."""
    use_timestamp: bool = True
    """Add the date and time to the name of the batch folder."""

    @field_validator("seeds", mode="before")
    @classmethod
    def accept_lists_of_seeds(cls, seeds: object) -> object:
        return convert_to_seeds_text(seeds)

    @field_validator("sweeps", mode="before")
    @classmethod
    def accept_lists_of_sweeps(cls, sweeps: object) -> object:
        return convert_to_sweep_text(sweeps)

    @model_validator(mode="before")
    @classmethod
    def apply_seeds(cls, values: Any) -> Any:
        """Set the first seed and the number of videos from `seeds`, so that the three agree."""
        if not isinstance(values, Mapping):
            return values
        try:
            seeds_text = convert_to_seeds_text(values.get("seeds"))
        except SweepError:  # the validator of the field reports it
            return values
        if seeds_text is None:
            return values
        seeds = parse_seeds(seeds_text)
        model_settings = values.get("model_settings") or {}
        if isinstance(model_settings, ModelSettings):
            model_settings = model_settings.model_copy(update={"seed": seeds[0]})
        elif isinstance(model_settings, Mapping):
            model_settings = {**model_settings, "seed": seeds[0]}
        return {**values, "videos_per_variation": len(seeds), "model_settings": model_settings}

    @property
    def seed_list(self) -> tuple[int, ...]:
        """Return the seeds of each variation, in order."""
        if self.seeds is not None:
            return parse_seeds(self.seeds)
        return tuple(range(self.model_settings.seed, self.model_settings.seed + self.videos_per_variation))
