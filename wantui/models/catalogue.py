"""The Wan text-to-video models that wantui supports: their names and properties, known without loading them."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wantui.errors import UserError
from wantui.json_files import MAX_JSON_BYTES, UnreadableFileError, parse_json, read_json_object
from wantui.models import nano
from wantui.models.parts import PartError, check_tokenizer
from wantui.paths import user_path

SHORTER_SIDE_OF_720P = 720
MAX_NUMBER = 1_000_000
"""Largest size in a config file that is accepted."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class UnknownModelError(UserError):
    """A model that is neither in the catalogue nor a diffusers directory of the Wan kind."""


@dataclass(frozen=True)
class WanModel:
    """A model, as far as plans need it. Compression factors are pixels (frames) for each latent cell (frame)."""

    name: str
    location: str
    """Hub id, or the path of a local diffusers directory."""
    description: str
    is_local: bool = False
    latent_channels: int = 16
    spatial_compression: int = 8
    temporal_compression: int = 4
    patch: int = 2
    blocks: int = 30
    """Blocks of a transformer, and heads per block: those of Wan 2.1 1.3B."""
    heads: int = 12
    dim: int = 1536
    """Width of the transformer, and of its feed-forward layers."""
    feed_forward: int = 8960
    text_dim: int = 4096
    """Width of a text embedding, and of a timestep's."""
    time_dim: int = 256
    flow_shift: float | None = None
    """The published flow shift; None where it goes by size: 3.0 at 480p, 5.0 at 720p."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of transformer and text encoder where none is chosen."""
    boundary_ratio: float | None = None
    """Share of the timesteps above which the first of two transformers works."""
    text_encoder: int | None = None
    """Parameters of the text encoder, and of the VAE; None where the files are not known yet."""
    vae: int | None = None
    decode_bytes: float = 22_660.0
    """GPU bytes per pixel of a frame for decoding, besides the VAE's weights. Wan 2.1: measured on an H100 at 480x832
    and 720x1280, equal to 0.1 %; of others that, by what their tensors take in comparison."""
    decode_time: float = 1.0
    """Time to decode a pixel of a frame, relative to Wan 2.1. Of Wan 2.2 5B measured on an H100, as its operations,
    which are more, are in wider products, which are quicker; of nano by its operations."""

    @property
    def size_multiple(self) -> int:
        """Return the number of pixels of which width and height must be a multiple."""
        return self.spatial_compression * self.patch

    @property
    def has_timestep_per_token(self) -> bool:
        """Return whether each token has a timestep, as in Wan 2.2 5B, recognised by its VAE's compression."""
        return self.spatial_compression == 16

    def shift_for(self, width: int, height: int) -> float:
        """Return the flow shift to use where none is given (Wan's advice, as in diffusers' documentation)."""
        if self.flow_shift is not None:
            return self.flow_shift
        return 5.0 if min(width, height) >= SHORTER_SIDE_OF_720P else 3.0

    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, int, int, int]:
        """Return channels, latent frames, height and width of the latents of one video."""
        return (
            self.latent_channels,
            (frames - 1) // self.temporal_compression + 1,
            height // self.spatial_compression,
            width // self.spatial_compression,
        )


NANO = WanModel(
    "nano",
    str(nano.WEIGHTS),
    "moving shapes on a laptop, 128x128, 17 frames; part of wantui",
    is_local=True,
    blocks=8,
    heads=6,
    dim=192,
    feed_forward=768,
    text_dim=128,
    time_dim=128,
    flow_shift=3.0,
    dtype="float32",
    text_encoder=345_728,
    vae=650_372,
    decode_bytes=1_365.0,
    decode_time=0.0026,
)
PARTS = {
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
}
"""Classes that the parts of a pipeline directory must have."""
UMT5_XXL, VAE_2_1, VAE_2_2 = 5_680_910_336, 126_892_531, 704_688_668
CATALOGUE = (
    NANO,
    WanModel("wan2.1-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan 2.1, 480p", text_encoder=UMT5_XXL, vae=VAE_2_1),
    WanModel(
        "wan2.1-14b",
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "Wan 2.1, 480p and 720p",
        blocks=40,
        heads=40,
        dim=5120,
        feed_forward=13824,
        text_encoder=UMT5_XXL,
        vae=VAE_2_1,
    ),
    WanModel(
        "wan2.2-5b",
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        "Wan 2.2, 704p, 24 frames a second",
        latent_channels=48,
        spatial_compression=16,
        heads=24,
        dim=3072,
        feed_forward=14336,
        flow_shift=5.0,
        text_encoder=UMT5_XXL,
        vae=VAE_2_2,
        decode_bytes=25_040.0,
        decode_time=0.94,
    ),
    WanModel(
        "wan2.2-a14b",
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        "Wan 2.2, two transformers, 480p and 720p",
        blocks=40,
        heads=40,
        dim=5120,
        feed_forward=13824,
        flow_shift=12.0,
        boundary_ratio=0.875,
        text_encoder=UMT5_XXL,
        vae=VAE_2_1,
    ),
)


def find_model(name: str) -> WanModel:
    """Return a model by its short name, hub id or local directory.

    Raises:
        UnknownModelError: nothing of that name, or a directory without a Wan pipeline in it.
    """
    for model in CATALOGUE:
        if name in (model.name, model.location):
            return model
    try:
        directory = user_path(name)
    except UserError as error:
        raise UnknownModelError(f"cannot find the model: {error}") from None
    if os.path.isdir(directory):  # noqa: PTH112 -- says no, where Path.is_dir raises for a name that is too long
        return read_directory(directory.resolve())
    if os.path.exists(directory) or name.startswith((".", "/", "~")):  # noqa: PTH110
        raise UnknownModelError(
            f"{name} is not a directory; a local model is a diffusers directory with model_index.json"
        )
    if _HUB_ID.fullmatch(name):
        return WanModel(name, name, "from the hub; its sizes are taken to be Wan 2.1's")
    known = ", ".join(model.name for model in CATALOGUE)
    raise UnknownModelError(
        f"unknown model {name!r}; known are {known}, any hub id (owner/name) and any local directory"
    )


def read_directory(directory: Path) -> WanModel:
    """Read a model's description from the JSON files of a diffusers directory.

    Raises:
        UnknownModelError: files are missing or it is no Wan pipeline.
    """
    index = _read_json(directory / "model_index.json")
    if index.get("_class_name") != "WanPipeline":
        raise UnknownModelError(
            f"{directory} holds a {index.get('_class_name', 'model of another kind')}, not a WanPipeline"
        )
    for part, wanted in PARTS.items():
        component = index.get(part)
        if isinstance(component, list) and component[-1:] not in ([wanted], [None]):
            raise UnknownModelError(
                f"{directory} has a {component[-1]} as its {part}; that of a Wan model is a {wanted}"
            )
    _check_transformers(directory, index)
    try:
        check_tokenizer(directory)
    except PartError as error:
        raise UnknownModelError(f"{directory} is not complete: {error}") from None
    vae, transformer = _read_json(directory / "vae/config.json"), _read_json(directory / "transformer/config.json")
    spatial_compression, boundary_ratio = _number(vae, "scale_factor_spatial", 8), index.get("boundary_ratio")
    patch_size = transformer.get("patch_size", [1, 2, 2])
    if not isinstance(patch_size, list) or len(patch_size) != 3:
        raise UnknownModelError(f"{directory} has the patch_size {patch_size!r}, which must be three numbers")
    heads = _number(transformer, "num_attention_heads", 40)
    published = find_model("wan2.2-5b" if spatial_compression == 16 else "wan2.1-1.3b")
    base = 160 if spatial_compression == 16 else 96
    return WanModel(
        directory.name,
        str(directory),
        "local directory",
        is_local=True,
        latent_channels=_number(vae, "z_dim", 16),
        spatial_compression=spatial_compression,
        temporal_compression=_number(vae, "scale_factor_temporal", 4),
        patch=_number({"patch_size": patch_size[1]}, "patch_size", 2),
        blocks=_number(transformer, "num_layers", 40),
        heads=heads,
        dim=heads * _number(transformer, "attention_head_dim", 128),
        feed_forward=_number(transformer, "ffn_dim", 13824),
        text_dim=_number(transformer, "text_dim", 4096),
        time_dim=_number(transformer, "freq_dim", 256),
        # As for the published models of the same form: what a scheduler's file says does not know the size.
        flow_shift=12.0 if boundary_ratio is not None else 5.0 if spatial_compression == 16 else None,
        boundary_ratio=boundary_ratio,
        text_encoder=_parameters(directory / "text_encoder"),
        vae=_parameters(directory / "vae"),
        decode_bytes=published.decode_bytes * _number(vae, "base_dim", base) / base,
        decode_time=published.decode_time,
    )


def _check_transformers(directory: Path, index: dict[str, Any]) -> None:
    """Refuse a second transformer without the noise level at which it takes over, and vice versa.

    Raises:
        UnknownModelError: says what is missing.
    """
    boundary = index.get("boundary_ratio")
    has_two = isinstance(index.get("transformer_2"), list) and index["transformer_2"][-1:] != [None]
    if boundary is None and has_two:
        raise UnknownModelError(f"{directory} has a transformer_2, and no boundary_ratio in its model_index.json")
    if boundary is None:
        return
    if not has_two or not (directory / "transformer_2").is_dir():
        raise UnknownModelError(f"{directory} has a boundary_ratio in its model_index.json, and no transformer_2")
    if isinstance(boundary, bool) or not isinstance(boundary, int | float) or not 0 <= boundary <= 1:
        raise UnknownModelError(f"{directory} has the boundary_ratio {boundary!r}, which must be between 0 and 1")


def _parameters(directory: Path) -> int | None:
    """Count the weights in safetensors files by their headers; None if there are none that can be read."""
    total = 0
    for path in directory.glob("*.safetensors"):
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > MAX_JSON_BYTES:
                    return None
                header = parse_json(file.read(length))
            total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
    return total or None


def _number(config: dict[str, Any], name: str, default: int) -> int:
    """Return a positive integer of a config file.

    Raises:
        UnknownModelError: it is none.
    """
    value = config.get(name, default)
    if type(value) is not int or not 1 <= value <= MAX_NUMBER:
        raise UnknownModelError(
            f"its config has {name} {value!r}, which must be a whole number from 1 to {MAX_NUMBER:,}"
        )
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise UnknownModelError(f"{path} is missing: this is not a complete diffusers directory") from None
    except UnreadableFileError as error:
        raise UnknownModelError(str(error)) from None
