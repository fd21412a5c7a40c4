"""Catalogue of the supported Wan text-to-video models, with properties that need no loading."""

import math
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wantui.errors import UserError
from wantui.formatting import shorten_text
from wantui.json_files import MAX_JSON_BYTES, UnreadableFileError, parse_json, read_json_object
from wantui.models import nano
from wantui.models.fingerprint import find_snapshot_folder
from wantui.models.parts import INDEX_FILE, PartError, check_tokenizer_files
from wantui.paths import expand_user_path

SHORTER_SIDE_OF_720P = 720
"""Shorter side of a 720p video, in pixels."""
MAX_CONFIG_SIZE = 1_000_000
"""Largest accepted size in the config of a model part."""
_HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class UnknownModelError(UserError):
    """Raised for a model that is neither in the catalogue nor a diffusers directory of a Wan pipeline."""


@dataclass(frozen=True)
class WanModel:
    """Properties of a model that planning needs.

    Compression factors are pixels per latent cell, or frames per latent frame.
    """

    name: str
    location: str
    """Hub id, or the path of a local diffusers directory."""
    description: str
    is_local: bool = False
    latent_channels: int = 16
    spatial_compression: int = 8
    temporal_compression: int = 4
    patch_size: int = 2
    block_count: int = 30
    """Number of blocks per transformer. The defaults describe Wan 2.1 1.3B."""
    head_count: int = 12
    """Attention heads per block."""
    transformer_width: int = 1536
    """Width of the transformer."""
    feed_forward_width: int = 8960
    """Width of the feed-forward layers."""
    text_width: int = 4096
    """Width of a text embedding."""
    timestep_width: int = 256
    """Width of a timestep embedding."""
    flow_shift: float | None = None
    """Published flow shift; None if it depends on the video size: 3.0 at 480p, 5.0 at 720p."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Default precision of transformer and text encoder."""
    boundary_ratio: float | None = None
    """Fraction of the timesteps above which the first of two transformers is used; None for one transformer."""
    text_encoder_parameter_count: int | None = None
    """Number of parameters in the text encoder; None if its files are not known yet."""
    vae_parameter_count: int | None = None
    """Number of parameters in the VAE; None if its files are not known yet."""
    decode_bytes_per_pixel: float = 22_660.0
    """GPU bytes per pixel of a frame for decoding, without the weights of the VAE. Wan 2.1: measured on an H100 at
    480x832 and 720x1280, which agree within 0.1 %. Other models: scaled from it by the size of their tensors."""
    relative_decode_time: float = 1.0
    """Time to decode a pixel of a frame, relative to Wan 2.1. Wan 2.2 5B: measured on an H100, because it has more
    operations, but in wider and therefore faster products. Nano: its number of operations."""
    fused_decode_bytes_per_pixel: float = 17_950.0
    """GPU bytes per pixel of a frame for decoding with a fused decoder, without the weights of the VAE. Measured on an
    H200 from 480x480 to 1280x720; Wan 2.2 5B: at 1280x704."""
    fused_relative_decode_time: float = 1.0
    """Time to decode a pixel of a frame with a fused decoder, relative to Wan 2.1. Wan 2.2 5B: measured on an H200 at
    1280x704."""

    @property
    def transformer_count(self) -> int:
        """Return the number of transformers: two if each denoises a part of the timesteps."""
        return 1 if self.boundary_ratio is None else 2

    @property
    def size_multiple(self) -> int:
        """Return the number of pixels that must divide width and height."""
        return self.spatial_compression * self.patch_size

    @property
    def has_timestep_per_token(self) -> bool:
        """Return whether each token has its own timestep, as in Wan 2.2 5B (identified by its VAE compression)."""
        return self.spatial_compression == 16

    def choose_flow_shift(self, width: int, height: int) -> float:
        """Return the default flow shift for a video size (Wan's advice in diffusers' documentation)."""
        if self.flow_shift is not None:
            return self.flow_shift
        return 5.0 if min(width, height) >= SHORTER_SIDE_OF_720P else 3.0

    def compute_latent_shape(self, width: int, height: int, frame_count: int) -> tuple[int, int, int, int]:
        """Return the shape of one video's latents: (channels, latent frames, height, width)."""
        return (
            self.latent_channels,
            (frame_count - 1) // self.temporal_compression + 1,
            height // self.spatial_compression,
            width // self.spatial_compression,
        )


NANO = WanModel(
    "nano",
    str(nano.NANO_WEIGHTS_FOLDER),
    "moving shapes, 128x128, 17 frames; bundled, runs on a laptop",
    is_local=True,
    block_count=8,
    head_count=6,
    transformer_width=192,
    feed_forward_width=768,
    text_width=128,
    timestep_width=128,
    flow_shift=3.0,
    dtype="float32",
    text_encoder_parameter_count=345_728,
    vae_parameter_count=650_372,
    decode_bytes_per_pixel=1_365.0,
    relative_decode_time=0.0026,
)
CLASSES_BY_PART = {
    "transformer": ("WanTransformer3DModel",),
    "transformer_2": ("WanTransformer3DModel",),
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5TokenizerFast", "T5Tokenizer"),
}
"""Part of a pipeline -> classes that it may have."""
UMT5_XXL_PARAMETERS, VAE_2_1_PARAMETERS, VAE_2_2_PARAMETERS = 5_680_910_336, 126_892_531, 704_688_668
CATALOGUE = (
    NANO,
    WanModel(
        "wan2.1-1.3b",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "Wan 2.1, 480p",
        text_encoder_parameter_count=UMT5_XXL_PARAMETERS,
        vae_parameter_count=VAE_2_1_PARAMETERS,
    ),
    WanModel(
        "wan2.1-14b",
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "Wan 2.1, 480p and 720p",
        block_count=40,
        head_count=40,
        transformer_width=5120,
        feed_forward_width=13824,
        text_encoder_parameter_count=UMT5_XXL_PARAMETERS,
        vae_parameter_count=VAE_2_1_PARAMETERS,
    ),
    WanModel(
        "wan2.2-5b",
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        "Wan 2.2, 704p, 24 frames per second",
        latent_channels=48,
        spatial_compression=16,
        head_count=24,
        transformer_width=3072,
        feed_forward_width=14336,
        flow_shift=5.0,
        text_encoder_parameter_count=UMT5_XXL_PARAMETERS,
        vae_parameter_count=VAE_2_2_PARAMETERS,
        decode_bytes_per_pixel=25_040.0,
        relative_decode_time=0.94,
        fused_decode_bytes_per_pixel=16_420.0,
        fused_relative_decode_time=1.2,
    ),
    WanModel(
        "wan2.2-a14b",
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        "Wan 2.2, two transformers, 480p and 720p",
        block_count=40,
        head_count=40,
        transformer_width=5120,
        feed_forward_width=13824,
        flow_shift=12.0,
        boundary_ratio=0.875,
        text_encoder_parameter_count=UMT5_XXL_PARAMETERS,
        vae_parameter_count=VAE_2_1_PARAMETERS,
    ),
)


def find_model(name: str) -> WanModel:
    """Return a model by its short name, hub id or local directory.

    Raises:
        UnknownModelError: no model has this name, or the directory contains no Wan pipeline.
    """
    for model in CATALOGUE:
        if name in (model.name, model.location):
            return model
    try:
        directory = expand_user_path(name)
    except UserError as error:
        raise UnknownModelError(f"cannot find the model: {error}") from None
    if os.path.isdir(directory):  # noqa: PTH112 -- Path.is_dir raises for a name that is too long
        return read_model_directory(directory.resolve())
    if (is_file := os.path.exists(directory)) or name.startswith((".", "/", "~")):  # noqa: PTH110
        raise UnknownModelError(
            f"cannot find the model: {name} {'is not a directory' if is_file else 'does not exist'}. Give a diffusers "
            "directory with a model_index.json"
        )
    if _HUB_ID_PATTERN.fullmatch(name):
        return WanModel(name, name, "hub model; assumed to have the sizes of Wan 2.1 1.3B")
    known_names = ", ".join(model.name for model in CATALOGUE)
    raise UnknownModelError(
        f"unknown model {name!r}. Choose from {known_names}, or give a hub id (owner/name) or a local directory"
    )


def find_model_with_known_sizes(model: WanModel, revision: str | None) -> WanModel | None:
    """Return the model with its actual sizes; None for a hub model that is neither in the catalogue nor cached."""
    if model.is_local or model in CATALOGUE:
        return model
    folder = find_snapshot_folder(model.location, revision)
    try:
        return None if folder is None else read_model_directory(folder)
    except UnknownModelError:
        return None


def read_model_directory(directory: Path) -> WanModel:
    """Read the properties of a model from the JSON files of a diffusers directory.

    Raises:
        UnknownModelError: files are missing, or the directory is not a Wan pipeline.
    """
    pipeline_index = _read_model_json(directory / INDEX_FILE)
    _check_pipeline_parts(directory, pipeline_index)
    vae_config = _ModelConfig(directory / "vae/config.json")
    transformer_config = _ModelConfig(directory / "transformer/config.json")
    spatial_compression = vae_config.read_positive_integer("scale_factor_spatial", 8)
    boundary_ratio = pipeline_index.get("boundary_ratio")
    head_count = transformer_config.read_positive_integer("num_attention_heads", 40)
    published_model = find_model("wan2.2-5b" if spatial_compression == 16 else "wan2.1-1.3b")
    published_base_width = 160 if spatial_compression == 16 else 96
    relative_width = vae_config.read_positive_integer("base_dim", published_base_width) / published_base_width
    return WanModel(
        directory.name,
        str(directory),
        "local directory",
        is_local=True,
        latent_channels=vae_config.read_positive_integer("z_dim", 16),
        spatial_compression=spatial_compression,
        temporal_compression=vae_config.read_positive_integer("scale_factor_temporal", 4),
        patch_size=transformer_config.read_patch_size(),
        block_count=transformer_config.read_positive_integer("num_layers", 40),
        head_count=head_count,
        transformer_width=head_count * transformer_config.read_positive_integer("attention_head_dim", 128),
        feed_forward_width=transformer_config.read_positive_integer("ffn_dim", 13824),
        text_width=transformer_config.read_positive_integer("text_dim", 4096),
        timestep_width=transformer_config.read_positive_integer("freq_dim", 256),
        # Taken from the published model of the same kind: the scheduler config ignores the video size.
        flow_shift=12.0 if boundary_ratio is not None else 5.0 if spatial_compression == 16 else None,
        boundary_ratio=boundary_ratio,
        text_encoder_parameter_count=_count_stored_parameters(directory / "text_encoder"),
        vae_parameter_count=_count_stored_parameters(directory / "vae"),
        decode_bytes_per_pixel=published_model.decode_bytes_per_pixel * relative_width,
        relative_decode_time=published_model.relative_decode_time,
        fused_decode_bytes_per_pixel=published_model.fused_decode_bytes_per_pixel * relative_width,
        fused_relative_decode_time=published_model.fused_relative_decode_time,
    )


def _check_pipeline_parts(directory: Path, pipeline_index: dict[str, Any]) -> None:
    """Reject a pipeline of the wrong kind, or with parts that are missing or of the wrong class.

    Raises:
        UnknownModelError: names the part.
    """
    if pipeline_index.get("_class_name") != "WanPipeline":
        class_name = pipeline_index.get("_class_name")
        fault = f"is {shorten_text(str(class_name))}, not WanPipeline" if class_name else f"is missing in {INDEX_FILE}"
        raise UnknownModelError(f"cannot use {directory}: its pipeline class {fault}")
    for part, part_classes in CLASSES_BY_PART.items():
        component = pipeline_index.get(part)
        if isinstance(component, list) and (not component or component[-1] not in (*part_classes, None)):
            class_text = f"the class {shorten_text(str(component[-1]))}" if component else "no class"
            raise UnknownModelError(
                f"cannot use {directory}: its {part} has {class_text} in {INDEX_FILE}, but a Wan model needs "
                f"{' or '.join(part_classes)}"
            )
    _check_transformer_count(directory, pipeline_index)
    try:
        check_tokenizer_files(directory)
    except PartError as error:
        raise UnknownModelError(f"cannot use {directory}: it is incomplete: {error}") from None


def _check_transformer_count(directory: Path, pipeline_index: dict[str, Any]) -> None:
    """Reject a second transformer without a boundary_ratio, and vice versa.

    Raises:
        UnknownModelError: one of the two is missing, or the boundary_ratio is not between 0 and 1.
    """
    boundary_ratio = pipeline_index.get("boundary_ratio")
    has_two_transformers = isinstance(pipeline_index.get("transformer_2"), list) and pipeline_index["transformer_2"][
        -1:
    ] != [None]
    if boundary_ratio is None and has_two_transformers:
        raise UnknownModelError(
            f"cannot use {directory}: it has a transformer_2, but no boundary_ratio in {INDEX_FILE}"
        )
    if boundary_ratio is None:
        return
    if not has_two_transformers or not (directory / "transformer_2").is_dir():
        raise UnknownModelError(
            f"cannot use {directory}: it has a boundary_ratio in {INDEX_FILE}, but no transformer_2"
        )
    if isinstance(boundary_ratio, bool) or not isinstance(boundary_ratio, int | float) or not 0 <= boundary_ratio <= 1:
        raise UnknownModelError(
            f"cannot use {directory}: boundary_ratio in {INDEX_FILE} is {boundary_ratio!r}, but must be between 0 and 1"
        )


def _count_stored_parameters(directory: Path) -> int | None:
    """Count the parameters in the safetensors files of a folder from their headers.

    Return None if a file is unreadable or none exists.
    """
    parameter_count = 0
    for path in directory.glob("*.safetensors"):
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                if header_bytes > MAX_JSON_BYTES:
                    return None
                header = parse_json(file.read(header_bytes))
            parameter_count += sum(
                math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
    return parameter_count or None


class _ModelConfig:
    """The config file of a model part; errors name the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.values = path, _read_model_json(path)

    def read_positive_integer(self, name: str, default: int) -> int:
        """Return a value that must be a positive integer.

        Raises:
            UnknownModelError: the value is something else, or larger than MAX_CONFIG_SIZE.
        """
        value = self.values.get(name, default)
        if type(value) is not int or not 1 <= value <= MAX_CONFIG_SIZE:
            raise self._make_error(name, value, f"a whole number from 1 to {MAX_CONFIG_SIZE:,}")
        return value

    def read_patch_size(self) -> int:
        """Return the side of a patch, in latent cells.

        Raises:
            UnknownModelError: the size does not consist of three positive integers.
        """
        value = self.values.get("patch_size", [1, 2, 2])
        if (
            not isinstance(value, list)
            or len(value) != 3
            or any(type(side) is not int or not 1 <= side <= MAX_CONFIG_SIZE for side in value)
        ):
            raise self._make_error("patch_size", value, f"three whole numbers from 1 to {MAX_CONFIG_SIZE:,}")
        side: int = value[1]
        return side

    def _make_error(self, name: str, value: object, rule: str) -> UnknownModelError:
        return UnknownModelError(f"cannot use {self.path}: its {name} is {reprlib.repr(value)}, but must be {rule}")


def _read_model_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise UnknownModelError(f"{path} is missing: the diffusers directory is incomplete") from None
    except UnreadableFileError as error:
        raise UnknownModelError(str(error)) from None
