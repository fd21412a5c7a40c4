"""The settings of a batch, with the section and key names of the older system's YAML files.

Every field has its meaning (and unit) as description and its range as constraint: the form in the terminal, the JSON
schema and `wantui config schema` are made from them.
"""

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, create_model, field_validator

from wantui.captures import CAPTURES
from wantui.captures.attention import AttentionAnalysisSettings
from wantui.captures.trajectory import LatentAnalysisSettings
from wantui.config.plans import PlanName, plan_slug
from wantui.config.speeds import SpeedName, speed_slug
from wantui.controls import CONTROLS
from wantui.controls.word_weights import Weighting
from wantui.schedule import REFUSED_SAMPLERS, SamplerName
from wantui.section import Section

DtypeName = Literal["auto", "bfloat16", "float32"]

DEVICE = re.compile(r"^(auto|cpu|cuda|cuda:[0-9]{1,4})$")
NOT_BLANK = r"\S"
PATTERNS = {DEVICE.pattern: "should be auto, cpu, cuda or cuda:N", NOT_BLANK: "should not be empty"}
"""Patterns of settings, in the wording of messages."""
MAX_FRAME_COUNT = 4093
"""1024 latent frames, which is what the transformer's rotary embedding holds."""


class ModelSettings(Section):
    """Which model, and how it samples."""

    DEAD: ClassVar[dict[str, str]] = {
        "eta": "UniPC and the other samplers offered have no eta",
        "clip_skip": "Wan has no CLIP text encoder",
    }

    model_id: Annotated[str, Field(pattern=NOT_BLANK)] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    """Model: a short name from `wantui models ls`, a hub id, or a local diffusers directory."""
    revision: Annotated[str, Field(pattern=NOT_BLANK)] | None = None
    """Revision of a hub model: branch, tag or commit. A recipe holds the commit of a model that is on this machine."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 42
    """Seed of the first video of every variation; video k uses seed + k - 1."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps."""
    cfg_scale: Annotated[float, Field(ge=0, le=50)] = 5.0
    """Guidance scale; at 1 or below there is no second, unconditional pass."""
    cfg_scale_2: Annotated[float, Field(ge=0, le=50)] | None = None
    """Guidance scale of the low-noise transformer of Wan 2.2 A14B; empty: the same as cfg_scale."""
    sampler: SamplerName = "unipc"
    """Sampler."""
    flow_shift: Annotated[float, Field(gt=0, le=100)] | None = None
    """Shift of the noise schedule; empty: by the model and the size (3 at 480p, 5 at 720p)."""
    dtype: DtypeName = "auto"
    """Precision of transformer and text encoder; auto: as published (bfloat16; nano float32). The VAE is float32."""
    weights: Literal["full", "float8", "int8"] = "full"
    """full: as loaded. float8 and int8 (by torchao, nearer): the transformer's are held in 8 bits, in half the memory,
    and widened layer by layer: another video, of a model that is a little worse. Blocks are not fused then."""
    transformer_file: Annotated[str, Field(pattern=NOT_BLANK)] | None = None
    """A GGUF file in the place of the model's transformer, in the precision of its kind; the rest is that of the model.
    Blocks are not fused then."""
    speed: SpeedName = "fused"
    """reference: what diffusers computes, to the bit. fused: the same up to rounding, by fused kernels on a GPU; to the
    bit on a CPU and with nano. cached: skips blocks where little changes; another video, not compared with others."""
    force_capture: bool = False
    """Store trajectories and attention of cached videos too, although their paths are not the model's own."""
    device: Annotated[str, Field(pattern=DEVICE.pattern)] = "auto"
    """Device: auto, cpu, cuda or cuda:N."""

    @field_validator("speed", mode="before")
    @classmethod
    def accept_former_speed_names(cls, speed: object) -> object:
        return speed_slug(speed) if isinstance(speed, str) else speed

    @field_validator("sampler", mode="before")
    @classmethod
    def refuse_samplers_by_name(cls, sampler: object) -> object:
        if isinstance(sampler, str) and sampler.lower() in REFUSED_SAMPLERS:
            raise ValueError(f"{sampler} is not offered: {REFUSED_SAMPLERS[sampler.lower()]}")
        return sampler


class MemorySettings(Section):
    """Where the parts of the model are while a video is made."""

    DEAD = dict.fromkeys(
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
        "memory_settings.plan says where the model's parts are",
    )

    plan: PlanName = "auto"
    """Memory plan; auto: the first that fits into what is free on the GPU, those first that change no pixel."""

    @field_validator("plan", mode="before")
    @classmethod
    def accept_older_plan_names(cls, plan: object) -> object:
        return plan_slug(plan) if isinstance(plan, str) else plan


class VideoSettings(Section):
    """Size and length of the videos."""

    width: Annotated[int, Field(ge=16, le=16384)] = 832
    """Width in pixels, a multiple of 16 (32 for Wan 2.2 5B)."""
    height: Annotated[int, Field(ge=16, le=16384)] = 480
    """Height in pixels, a multiple of 16 (32 for Wan 2.2 5B)."""
    fps: Annotated[int, Field(ge=1, le=120)] = 16
    """Frames per second."""
    duration: Annotated[float, Field(gt=0)] | None = None
    """Length in seconds; gives the frames where `frames` is empty."""
    frames: Annotated[int, Field(ge=1, le=MAX_FRAME_COUNT)] | None = None
    """Number of frames, 4k + 1; wins over `duration`. Empty with an empty duration: 81."""


class PromptSettings(Section):
    """What goes with the template."""

    DEAD: ClassVar[dict[str, str]] = {
        "base_weight": "weights are written in the template: (word:1.5)",
        "variation_weight": "weights are written in the template: (word:1.5)",
        "enable_prompt_weighting": "weights that stand in the template are always applied",
        "use_weighted_embeddings": "weights that stand in the template are always applied; embedding_method says how",
    }

    negative_prompt: str = ""
    """Text that guidance leads away from."""
    embedding_method: Weighting = "attention"
    """How the weight of (word:2.5) is applied: attention multiplies the odds of the word in every cross-attention;
    multiply and interpolation (between the end token and the word) change the word's text embedding."""
    max_variations: Annotated[int, Field(ge=1)] = 10_000
    """A template that expands to more variations is refused."""


class _Sections(Section):
    model_settings: ModelSettings = ModelSettings()
    memory_settings: MemorySettings = MemorySettings()
    video_settings: VideoSettings = VideoSettings()
    prompt_settings: PromptSettings = PromptSettings()


if TYPE_CHECKING:

    class _WithSections(_Sections):
        latent_analysis_settings: LatentAnalysisSettings = LatentAnalysisSettings()
        attention_analysis_settings: AttentionAnalysisSettings = AttentionAnalysisSettings()
else:
    _WithSections = create_model(
        "_WithSections",
        __base__=_Sections,
        **{
            kind.section: (kind.settings, kind.settings())
            for kind in (*CAPTURES, *CONTROLS)
            if kind.section is not None and kind.settings is not None
        },
    )


class Settings(_WithSections):
    """The settings of a config file; captures and controls add sections of their own."""

    videos_per_variation: Annotated[int, Field(ge=1, le=100_000)] = 3
    """Videos of each variation, with seeds seed, seed + 1, ..."""
    output_dir: Annotated[str, Field(pattern=NOT_BLANK)] = "outputs"
    """Folder in which the batch folder is made."""
    output_permissions: Literal["umask", "private"] = "umask"
    """Who may read the batch folder: umask, as the system's file mode mask says (on most systems every user);
    private, you alone."""
    batch_name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Name of the batch folder; empty: the config's name. Characters other than letters (of any
    script), digits and - become _."""
    use_timestamp: bool = True
    """Add the date and time to the name of the batch folder."""
