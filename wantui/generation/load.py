"""Load a Wan pipeline as published: transformer and text encoder in the chosen dtype, the VAE in float32."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from diffusers import GGUFQuantizationConfig, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from wantui.config.settings import DEVICE
from wantui.errors import UserError
from wantui.generation.attention_probe import check_kernel
from wantui.generation.memory import bring, device_of, is_out_of_memory, launch_on, place
from wantui.generation.narrow import narrow
from wantui.generation.speed import is_fused, speed_up
from wantui.models.catalogue import WanModel
from wantui.models.fetch import NotFetched, fetch
from wantui.planning.arithmetic import TEXT_LENGTH
from wantui.planning.installed import what_kernels_miss, what_weights_miss
from wantui.planning.memory import RESIDENT, MemoryPlan, fuses_blocks
from wantui.planning.recipe import Speed, Weights
from wantui.planning.throughput import NATIVE

CHECKED = 8
"""Height and width in patches of what a pipeline is checked with."""


class NotLoaded(UserError):
    """There is no pipeline, and nothing was made."""


class LoadError(NotLoaded):
    """Weights that cannot be loaded or do not work; the text says what to do."""


class NoSuchDevice(NotLoaded):
    """A device that is not in this machine."""

    exit_code = 3


def resolve_device(device: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        LoadError: no device has such a name.
        NoSuchDevice: a GPU was asked for and there is none of that number.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not DEVICE.fullmatch(device):
        raise LoadError(f"device {device!r} is none of auto, cpu, cuda, cuda:N")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise NoSuchDevice(f"model_settings.device: {device} is not here; torch sees {torch.cuda.device_count()} GPUs")
    return resolved


def load_parts(
    model: WanModel, revision: str | None, dtype: str, given: Mapping[str, nn.Module | None] = MappingProxyType({})
) -> WanPipeline:
    """A pipeline in the machine's memory, or some of its parts.

    Args:
        revision: branch, tag or commit of a hub model; not used for a local directory.
        dtype: "float32" or "bfloat16", of transformer and text encoder. diffusers keeps norm layers in float32.
        given: parts in the place of those that are stored; None leaves one out.

    Raises:
        LoadError: weights missing and not to be fetched (no network, no room), or files broken.
    """
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if model.is_local:
        diffusers_logging.disable_progress_bar()
    arguments: dict[str, Any] = {"dtype": {"default": getattr(torch, dtype), "vae": torch.float32}, **given}
    if not model.is_local:
        arguments["revision"] = revision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = _from_cache_or_hub(model, arguments)
    except NotFetched as error:
        raise LoadError(
            f"the weights of {model.location} are not all on this machine. {error}. Or copy a diffusers directory here "
            "and give its path as model_settings.model_id, or use the model that comes with wantui: model_id: nano"
        ) from error
    except Exception as error:  # the libraries raise errors of many kinds for broken files
        whole = "copy them again" if model.is_local else f"wantui models fetch {model.name}"
        raise LoadError(
            f"{model.location} cannot be loaded: {str(error).strip().rstrip('.')}. If its files are not whole: {whole}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(
    model: WanModel,
    revision: str | None,
    dtype: str,
    device: torch.device,
    plan: MemoryPlan = RESIDENT,
    *,
    speed: Speed = "plain",
    weights: Weights = "full",
    transformer_file: Path | None = None,
    attention: str = NATIVE,
) -> WanPipeline:
    """Load a pipeline, put it where a memory plan has it, and check that it works; arguments as of `load_parts`.

    Args:
        weights: float8 or int8 holds those of the transformers' products in 8 bits.
        transformer_file: a GGUF file in the place of the model's transformer; weights are gguf then.
        attention: the kernel of the self-attention of fused blocks in bfloat16, as diffusers calls it; native is
            torch's own.

    Raises:
        LoadError: as `load_parts`; also too little memory, or a failed self-check.
    """
    fuses = device.type == "cuda" and fuses_blocks(model, plan, speed, weights)
    if dtype != "bfloat16":  # for which kernels are measured, and wantui's own are
        attention = NATIVE
    elif fuses:
        check_kernels(speed, attention)
    if without := what_weights_miss(weights):
        raise LoadError(without)
    launch_on(device)
    given: dict[str, nn.Module | None] = {"text_encoder": None} if plan.encodes_first else {}
    if transformer_file is not None:
        given["transformer"] = read_gguf(model, revision, dtype, transformer_file)
    pipeline = load_parts(model, revision, dtype, given)
    try:
        if transformer_file is not None and pipeline.transformer_2 is not None:
            raise LoadError(f"{transformer_file}: {model.name} has two transformers, and takes none from a file")
        for transformer in (pipeline.transformer, pipeline.transformer_2):
            if transformer is not None:
                narrow(transformer, weights)
        if fuses:
            speed_up(pipeline, attention)
        place(pipeline, device, plan)
        self_check(pipeline)
    except RuntimeError as error:
        if is_out_of_memory(error):
            size = sum(
                p.nbytes
                for part in pipeline.components.values()
                if isinstance(part, nn.Module)
                for p in part.parameters()
            )
            raise LoadError(
                f"{model.name} does not fit: its weights take {size / 1e9:.1f} GB in {dtype}, and {_free(device)}. "
                "Choose a smaller model, or end what else holds memory there"
            ) from error
        plain = ". Perhaps model_settings.speed: plain does" if fuses else ""
        raise LoadError(f"{model.location} was loaded and does not work on {device}: {error}{plain}") from error
    except NotLoaded:
        raise
    except Exception as error:
        if weights != "full" and isinstance(error, ImportError):
            raise LoadError(f"model_settings.weights: {weights} does not work here: {error}") from error
        if fuses:  # Triton and compilers raise errors of many kinds
            raise LoadError(
                f"model_settings.speed: {speed} needs kernels that are built here, and they cannot be "
                f"({type(error).__name__}: {error}). They need a C compiler and Python's headers (gcc, python3-dev). "
                "Or choose model_settings.speed: plain"
            ) from error
        raise
    return pipeline


def check_kernels(speed: Speed, attention: str = NATIVE) -> None:
    """Before anything is loaded that could not be used.

    Raises:
        LoadError: what fused blocks need is not here.
    """
    if missing := what_kernels_miss():
        raise LoadError(
            f"model_settings.speed: {speed} needs kernels that are built here, and {missing}. Install it, or choose "
            "model_settings.speed: plain"
        )
    try:
        check_kernel(attention)
    except RuntimeError as error:
        reason = str(error).strip().rstrip(".")
        raise LoadError(
            f"`wantui bench` found attention by {attention} the quickest here, but {reason}. Run `wantui bench` again, "
            "or choose model_settings.speed: plain"
        ) from None


def read_gguf(model: WanModel, revision: str | None, dtype: str, path: Path) -> WanTransformer3DModel:
    """The transformer of a model from a GGUF file in the names of Wan's own code or of diffusers.

    Raises:
        LoadError: the file is broken, or of another model.
    """
    precision = getattr(torch, dtype)
    arguments: dict[str, Any] = {"config": model.location, "subfolder": "transformer", "dtype": precision}
    if not model.is_local:
        arguments["config_revision"] = revision
    try:
        quantization = GGUFQuantizationConfig(compute_dtype=precision)
        transformer = WanTransformer3DModel.from_single_file(str(path), quantization_config=quantization, **arguments)
    except Exception as error:  # gguf and diffusers raise errors of many kinds for broken files
        reason = str(error).strip().rstrip(".") or type(error).__name__
        if "meta tensor" in reason:
            reason = "some of its tensors are not in the file"
        raise LoadError(f"{path} cannot be loaded as the transformer of {model.name}: {reason}") from error
    return transformer.eval()


def _free(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} has too little memory"
    free, total = torch.cuda.mem_get_info(device)
    return f"{device} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def _from_cache_or_hub(model: WanModel, arguments: dict[str, Any]) -> WanPipeline:
    if not model.is_local:
        # A whole copy in the cache needs no network; the hub is asked only where there is none.
        try:
            return _from_files(model, arguments)
        except (OSError, ValueError):
            fetch(model, arguments["revision"])
    return _from_files(model, arguments)


def _from_files(model: WanModel, arguments: dict[str, Any]) -> WanPipeline:
    if "text_encoder" not in arguments:
        arguments = {**arguments, "text_encoder": _text_encoder(model, arguments)}
    return WanPipeline.from_pretrained(model.location, local_files_only=True, **arguments)


def _text_encoder(model: WanModel, arguments: dict[str, Any]) -> nn.Module:
    """As the pipeline would load it. But transformers draws what is not in the files at random, and only logs that."""
    source: dict[str, Any] = {"local_files_only": True}
    if not model.is_local:
        source["revision"] = arguments["revision"]
    kind = getattr(transformers, WanPipeline.load_config(model.location, **source)["text_encoder"][1])
    encoder, report = kind.from_pretrained(
        model.location,
        subfolder="text_encoder",
        dtype=arguments["dtype"]["default"],
        output_loading_info=True,
        **source,
    )
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MissingWeights(f"its text encoder has no {missing[0]}{more} in its files")
    found: nn.Module = encoder
    return found


class MissingWeights(Exception):
    """Weights that are not in the files of a model."""


@torch.no_grad()
def self_check(pipeline: WanPipeline) -> None:
    """One pass through what is there of text encoder and transformers, at a small size.

    It finds weights that give NaN, and kernels that do not work here, before hours are spent on them.

    Raises:
        LoadError: names what is wrong.
    """
    device = device_of(pipeline)
    if pipeline.text_encoder is not None:
        check_text_encoder(pipeline, device)
    transformers = {"transformer": pipeline.transformer, "transformer_2": pipeline.transformer_2}
    for name, transformer in transformers.items():
        if transformer is None:
            continue
        _, patch_height, patch_width = transformer.config.patch_size
        # Several places: no kernel of attention has to be made for one alone.
        shape = (1, transformer.config.in_channels, 1, CHECKED * patch_height, CHECKED * patch_width)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(shape, generator=generator).to(device, transformer.dtype)
        text = torch.zeros(1, TEXT_LENGTH, transformer.config.text_dim)
        text[:, :16] = torch.randn(1, 16, transformer.config.text_dim, generator=generator)
        text = text.to(device, transformer.dtype)
        per_place = pipeline.config.expand_timesteps and not is_fused(transformer)
        timestep = torch.full((1, CHECKED**2) if per_place else (1,), 500.0, device=device)
        bring(pipeline, transformer)
        output = transformer(noise, timestep, text, return_dict=False)[0]
        if not output.isfinite().all() or not output.any():
            raise LoadError(f"{name} gives NaN, infinity or only zeros: its weights are broken or not loaded")


@torch.no_grad()
def check_text_encoder(pipeline: WanPipeline, device: torch.device) -> None:
    """Find text embeddings that are all zero, as transformers once loaded them (issue 41580 there).

    Raises:
        LoadError: names what is wrong.
    """
    prompts = ["a", "two red stars"]
    embeddings, _ = pipeline.encode_prompt(prompts, None, False, max_sequence_length=16, device=device)
    if not embeddings.isfinite().all() or torch.equal(embeddings[0], embeddings[1]):
        raise LoadError(
            "the text encoder gives the same (or no finite) embedding for different prompts: its token embeddings "
            "were not loaded. Update transformers, or check the files of the text encoder"
        )
