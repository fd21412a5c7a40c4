"""Load a Wan pipeline as published: transformer and text encoder in the chosen dtype, the VAE in float32."""

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from diffusers import GGUFQuantizationConfig, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from wantui.config.settings import DEVICE_PATTERN
from wantui.config.speeds import SpeedName
from wantui.controls.lora import ADAPTERS_KEY, LoraRequest
from wantui.errors import SHORTAGE_ADVICE, SHORTAGE_ERROR_NUMBERS, UserError
from wantui.formatting import format_count
from wantui.generation.adapters import merge_adapters
from wantui.generation.attention_backends import check_kernel_installed
from wantui.generation.cuda_errors import is_fatal_cuda_error, is_out_of_memory
from wantui.generation.errors import LoadError, NoSuchDeviceError, NotLoadedError
from wantui.generation.fp8 import compute_test_product
from wantui.generation.fuse import fuse_pipeline
from wantui.generation.placement import apply_memory_plan, list_transformers, select_gpu
from wantui.generation.quantize import quantize_transformer
from wantui.generation.self_check import check_parts_compatible, check_pipeline_works
from wantui.generation.tensors import check_all_tensors_set, check_gguf_tensors, check_part_tensors, check_sentencepiece
from wantui.json_files import find_system_refusal
from wantui.models.catalogue import WanModel
from wantui.models.fetch import NotFetchedError, ensure_model_folder, find_replaced_parts
from wantui.models.parts import PartError, read_pipeline_components
from wantui.models.tokenizer_settings import read_tokenizer_settings
from wantui.planning.fp8 import MIN_COMPUTE_CAPABILITY, explain_missing_fp8
from wantui.planning.fp8_checks import list_fp8_conflicts
from wantui.planning.memory_plan import RESIDENT_PLAN, MemoryPlan, can_fuse_pipeline
from wantui.planning.model_source import WeightsForm
from wantui.planning.requirements import explain_missing_compiler, explain_missing_package
from wantui.planning.throughput import NATIVE_ATTENTION

PARTS_WITH_WEIGHTS = ("text_encoder", "transformer", "transformer_2", "vae")
"""Parts of a pipeline that have weights."""
READING_STAGE, PLACING_STAGE = "reading weights", "placing weights"
"""Stages of `load_pipeline`."""


def resolve_device(device_name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        LoadError: the name is not valid.
        NoSuchDeviceError: the requested GPU does not exist.
    """
    if device_name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not DEVICE_PATTERN.fullmatch(device_name):
        raise LoadError(f"unknown device {device_name!r}: use auto, cpu, cuda or cuda:N")
    resolved = torch.device(device_name)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise NoSuchDeviceError(
            f"model_settings.device: {device_name} is not available: torch sees "
            f"{format_count(torch.cuda.device_count(), 'GPU')}"
        )
    return resolved


def load_pipeline_parts(
    model: WanModel,
    revision: str | None,
    dtype: str,
    given_parts: Mapping[str, nn.Module | None] = MappingProxyType({}),
    *,
    replaced_parts: Collection[str] = (),
    may_fetch: bool = True,
) -> WanPipeline:
    """Load a pipeline, or some of its parts, into CPU memory.

    Args:
        revision: branch, tag or commit of a hub model; not used for a local directory.
        dtype: "float32" or "bfloat16", for transformer and text encoder. diffusers keeps norm layers in float32.
        given_parts: parts to use instead of the stored parts; None leaves a part out.
        replaced_parts: parts whose weights come from elsewhere, and are not downloaded.
        may_fetch: whether to download missing files of a hub model.

    Raises:
        LoadError: weights are missing and cannot be downloaded, or files are broken or do not contain exactly the
            model's tensors.
    """
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if model.is_local:
        diffusers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = ensure_model_folder(
                model, revision, given_parts, replaced_parts=replaced_parts, may_fetch=may_fetch
            )
            pipeline = _load_pipeline_folder(folder, dtype, given_parts)
    except NotFetchedError as error:
        raise LoadError(
            f"the weights of {model.location} are not all on this machine (looked in {_find_hub_cache()}). {error}. "
            "Alternatively, copy a diffusers directory to this machine and set model_settings.model_id to its path, "
            "or use the built-in model: model_id: nano"
        ) from error
    except Exception as error:  # the libraries raise errors of many kinds for broken files
        message = str(error).strip().rstrip(".")
        refusal = find_system_refusal(error)
        if refusal is not None and refusal.errno in SHORTAGE_ERROR_NUMBERS:
            raise LoadError(f"{model.location} cannot be loaded: {refusal.strerror}. {SHORTAGE_ADVICE}") from error
        reason = message if isinstance(error, UserError) else f"{message} ({type(error).__name__})"
        remedy = "copy them again" if model.is_local else f"wantui models fetch {model.name}"
        raise LoadError(
            f"{model.location} cannot be loaded: {reason}. If its files are incomplete: {remedy}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _find_hub_cache() -> str:
    """Return this process's hub cache folder; engine and client may use different folders."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _load_pipeline_folder(folder: Path, dtype: str, given_parts: Mapping[str, nn.Module | None]) -> WanPipeline:
    """Load a pipeline from a folder, after checking that its files contain exactly the tensors of each part's class."""
    for part in PARTS_WITH_WEIGHTS:
        if part in read_pipeline_components(folder) and part not in given_parts:
            check_part_tensors(folder, part)
    check_sentencepiece(folder)
    if (folder / "tokenizer" / "tokenizer.json").is_file():
        read_tokenizer_settings(folder / "tokenizer")
    dtypes = {"default": getattr(torch, dtype), "vae": torch.float32}
    pipeline = WanPipeline.from_pretrained(folder, local_files_only=True, dtype=dtypes, **given_parts)
    for part in PARTS_WITH_WEIGHTS:
        if isinstance(loaded_part := getattr(pipeline, part), nn.Module) and part not in given_parts:
            check_all_tensors_set(part, loaded_part)
    check_parts_compatible(pipeline, folder)
    return pipeline


def load_pipeline(
    model: WanModel,
    revision: str | None,
    dtype: str,
    device: torch.device,
    plan: MemoryPlan = RESIDENT_PLAN,
    *,
    speed: SpeedName = "reference",
    weights: WeightsForm = "full",
    transformer_file: Path | None = None,
    lora: LoraRequest | None = None,
    shared_parts: Mapping[str, nn.Module | None] = MappingProxyType({}),
    attention_kernel: str = NATIVE_ATTENTION,
    may_fetch: bool = True,
    begin_stage: Callable[[str], None] = lambda stage: None,
) -> WanPipeline:
    """Load a pipeline, place its parts by a memory plan, and check that it works.

    `load_pipeline_parts` describes the other arguments.

    Args:
        weights: float8 and int8 store the weights of the transformers' matrix products in 8 bits.
        transformer_file: GGUF file that replaces the model's transformer; requires gguf weights.
        lora: adapters to merge into the weights of the transformers.
        shared_parts: parts of an earlier pipeline, to be used instead of the stored parts.
        attention_kernel: self-attention kernel of fused bfloat16 blocks, one of `attention_backends.KERNEL_NAMES`;
            native is torch's.
        may_fetch: whether to download missing files of a hub model.
        begin_stage: called with each stage of loading before it begins.

    Raises:
        LoadError: see `load_pipeline_parts`; also not enough memory, or a failed self-check.
    """
    fuses_pipeline = device.type == "cuda" and can_fuse_pipeline(model, plan, speed, weights)
    if speed == "fp8":
        check_fp8_device(device)
        _check_fp8_blocks(model, plan, dtype, weights)
    if dtype != "bfloat16":  # attention kernels are measured in bfloat16 only
        attention_kernel = NATIVE_ATTENTION
    if fuses_pipeline:  # in float32, only the decoder has kernels
        check_kernel_requirements(speed, attention_kernel)
    if missing_package := explain_missing_package(weights):
        raise LoadError(missing_package)
    begin_stage(READING_STAGE)
    select_gpu(device)
    given_parts = {**shared_parts, **({"text_encoder": None} if plan.encodes_first else {})}
    pipeline = _read_pipeline(model, revision, dtype, given_parts, transformer_file, may_fetch)
    begin_stage(PLACING_STAGE)
    try:
        _change_weights(pipeline, weights, lora)
        if fuses_pipeline:
            fuse_pipeline(pipeline, attention_kernel, device if speed == "fp8" else None)
        apply_memory_plan(pipeline, device, plan)
        _reject_faulty_pipeline(pipeline, model)
    except NotLoadedError:
        raise
    except Exception as error:
        fused_speed = speed if fuses_pipeline else None
        raise _make_load_error(error, model, device, dtype, pipeline, fused_speed, weights) from error
    return pipeline


def _reject_faulty_pipeline(pipeline: WanPipeline, model: WanModel) -> None:
    """Check that a placed pipeline works.

    Raises:
        LoadError: the message names the model and the faulty part.
    """
    try:
        check_pipeline_works(pipeline)
    except LoadError as error:
        raise LoadError(f"{model.location} was loaded, but cannot be used: {error}") from error


def _change_weights(pipeline: WanPipeline, weights: WeightsForm, lora: LoraRequest | None) -> None:
    """Merge adapters into the transformers, and store the weights of the transformers in the requested form.

    Raises:
        LoadError: adapters cannot be merged into these weights.
    """
    if lora is not None:
        if weights == "gguf" and lora.list_merged_files():
            raise LoadError(f"{ADAPTERS_KEY}: adapters cannot be merged into the weights of a GGUF file")
        merge_adapters(pipeline, lora)
    for transformer in list_transformers(pipeline):
        quantize_transformer(transformer, weights)


def _make_load_error(
    error: Exception,
    model: WanModel,
    device: torch.device,
    dtype: str,
    pipeline: WanPipeline,
    fused_speed: SpeedName | None,
    weights: WeightsForm,
) -> LoadError:
    """Return the error for a model that was loaded but does not work, with a remedy.

    Args:
        fused_speed: requested speed if blocks are fused, otherwise None.
    """
    failure = f"{model.location} was loaded, but does not work on {device}: {error}"
    if isinstance(error, RuntimeError):
        if is_out_of_memory(error):
            parts = (part for part in pipeline.components.values() if isinstance(part, nn.Module))
            weight_bytes = sum(parameter.nbytes for part in parts for parameter in part.parameters())
            return LoadError(
                f"{model.name} does not fit: its weights take {weight_bytes / 1e9:.1f} GB in {dtype}, and "
                f"{_describe_free_memory(device)}. Choose a smaller model, or end other processes on {device}"
            )
        return LoadError(failure + (". Try model_settings.speed: reference" if fused_speed else ""))
    if weights != "full" and isinstance(error, ImportError):
        return LoadError(f"model_settings.weights: {weights} does not work on this machine: {error}")
    if fused_speed:  # Triton and compilers raise errors of many kinds
        return LoadError(
            f"model_settings.speed: {fused_speed} needs kernels that are built on this machine, but they cannot be "
            f"built ({type(error).__name__}: {error}). Install a C compiler and Python's headers (gcc, python3-dev), "
            "or choose model_settings.speed: reference"
        )
    return LoadError(f"{failure} ({type(error).__name__}). Check the values in the configs of its parts")


def _read_pipeline(
    model: WanModel,
    revision: str | None,
    dtype: str,
    given_parts: dict[str, nn.Module | None],
    transformer_file: Path | None,
    may_fetch: bool,
) -> WanPipeline:
    """Read the parts that are not given; read the transformer from the GGUF file, if there is one.

    Raises:
        LoadError: see `load_pipeline_parts`; also a GGUF file for a model with two transformers.
    """
    if transformer_file is not None:
        transformer = read_gguf_transformer(model, revision, dtype, transformer_file, may_fetch=may_fetch)
        given_parts = {**given_parts, "transformer": transformer}
    replaced_parts = find_replaced_parts(transformer_file)
    pipeline = load_pipeline_parts(
        model, revision, dtype, given_parts, replaced_parts=replaced_parts, may_fetch=may_fetch
    )
    if transformer_file is not None and pipeline.transformer_2 is not None:
        raise LoadError(f"{transformer_file}: {model.name} has two transformers, and one file cannot replace both")
    return pipeline


def check_fp8_device(device: torch.device) -> None:
    """Check with one small product that a device multiplies in FP8.

    Raises:
        LoadError: it is not a GPU, a GPU without FP8, or a GPU on which this version of torch refuses the product.
    """
    if device.type != "cuda":
        raise LoadError(explain_missing_fp8("the CPU", None))
    if (capability := torch.cuda.get_device_capability(device)) < MIN_COMPUTE_CAPABILITY:
        raise LoadError(explain_missing_fp8(torch.cuda.get_device_name(device), capability))
    try:
        compute_test_product(device)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error) or is_fatal_cuda_error(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise LoadError(
            f"cannot use model_settings.speed: fp8 on {torch.cuda.get_device_name(device)}: torch {torch.__version__} "
            f"refuses a product in FP8 with a scale for each row ({reason}). Choose speed fused, or install another "
            "version of torch"
        ) from None


def _check_fp8_blocks(model: WanModel, plan: MemoryPlan, dtype: str, weights: WeightsForm) -> None:
    """Check that the blocks of a model can be computed in FP8.

    Raises:
        LoadError: they cannot, for the reason that the message names.
    """
    if conflicts := list_fp8_conflicts(model, dtype, weights, plan):
        raise LoadError(f"model_settings.speed: fp8 {conflicts[0]}")


def check_kernel_requirements(speed: SpeedName, attention_kernel: str = NATIVE_ATTENTION) -> None:
    """Check before loading that this machine supports fused blocks.

    Raises:
        LoadError: a requirement of fused blocks is missing.
    """
    if missing_compiler := explain_missing_compiler():
        raise LoadError(
            f"model_settings.speed: {speed} compiles kernels on this machine, but {missing_compiler}. Install it, or "
            "choose model_settings.speed: reference"
        )
    try:
        check_kernel_installed(attention_kernel)
    except RuntimeError as error:
        reason = str(error).strip().rstrip(".")
        raise LoadError(
            f"`wantui bench` chose the attention kernel {attention_kernel}, but {reason}. Run `wantui bench` again, "
            "or choose model_settings.speed: reference"
        ) from None


def read_gguf_transformer(
    model: WanModel, revision: str | None, dtype: str, gguf_path: Path, *, may_fetch: bool = True
) -> WanTransformer3DModel:
    """Read a model's transformer from a GGUF file, with the tensor names of Wan's code or of diffusers.

    Raises:
        LoadError: the file is broken, or belongs to another model.
    """
    torch_dtype = getattr(torch, dtype)
    try:
        if not gguf_path.is_file():
            raise PartError("it is missing, or not a regular file")
        replaced_parts = find_replaced_parts(gguf_path)
        folder = ensure_model_folder(
            model, revision, replaced_parts, replaced_parts=replaced_parts, may_fetch=may_fetch
        )
        check_gguf_tensors(folder, gguf_path)
        quantization = GGUFQuantizationConfig(compute_dtype=torch_dtype)
        transformer = WanTransformer3DModel.from_single_file(
            str(gguf_path),
            quantization_config=quantization,
            config=str(folder),
            subfolder="transformer",
            dtype=torch_dtype,
        )
        check_all_tensors_set("transformer", transformer)
    except Exception as error:  # gguf and diffusers raise errors of many kinds for broken files
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise LoadError(f"{gguf_path} cannot be loaded as the transformer of {model.name}: {reason}") from error
    return transformer.eval()


def _describe_free_memory(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} has too little memory"
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return f"{device} has {free_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB free"
