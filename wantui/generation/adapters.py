"""Merge LoRA adapters into the weights of a newly loaded pipeline, with diffusers' loaders and arithmetic.

Each weight becomes W + s B A alpha / r, in the precision of the weight, one adapter after the other. The merging takes
place on the CPU before the weights are converted to 8 bits, fused or placed, so that all plans and speeds compute with
the same weights.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from safetensors import safe_open
from torch import Tensor, nn

from wantui.controls.lora import ADAPTERS_KEY, LoraFile, LoraRequest
from wantui.errors import UserError
from wantui.generation.errors import LoadError
from wantui.models.adapter_header import read_adapter_header
from wantui.models.adapter_layout import (
    BLOCK_LAYER_NAMES,
    OTHER_LAYER_NAMES,
    AdapterLayer,
    LayerShape,
    match_adapter_layers,
)
from wantui.models.adapter_settings import PEFT_SETTING_NAMES
from wantui.models.adapters import MissingAdapterError, hash_adapter_file

MERGED_NAME = "merged"
"""Name of the adapter in peft while it is merged."""


def merge_adapters(pipeline: WanPipeline, request: LoraRequest) -> None:
    """Merge the adapters of a request into the transformers of a pipeline in CPU memory.

    Raises:
        LoadError: a file cannot be read, does not fit the transformer, or contains NaN or infinity.
    """
    for transformer, is_second in ((pipeline.transformer, False), (pipeline.transformer_2, True)):
        for name, file, strength in request.list_merged_files(is_second) if transformer is not None else ():
            try:
                _merge_file(transformer, file, strength)
            except Exception as error:  # safetensors, peft and diffusers raise errors of many kinds
                message = str(error).strip().rstrip(".")
                reason = message if isinstance(error, UserError) else f"{message} ({type(error).__name__})"
                raise LoadError(f"{ADAPTERS_KEY}: cannot use {name} ({file.label}): {reason}") from error
    pipeline.wantui_merged_adapters = request.describe_merged_files()


def describe_merged_adapters(pipeline: WanPipeline) -> dict[str, Any]:
    """Return the contents and strengths of the adapters that were merged into a pipeline."""
    merged: dict[str, Any] | None = getattr(pipeline, "wantui_merged_adapters", None)
    return LoraRequest(adapters=()).describe_merged_files() if merged is None else merged


def check_adapter_fingerprints(request: LoraRequest) -> None:
    """Check that the adapter files still exist and have the fingerprints that the recipe records.

    Raises:
        LoadError: a file is missing or has changed; the message names it.
    """
    for adapter in request.adapters:
        for file in filter(None, (adapter.source, adapter.source_2)):
            try:
                fingerprint = hash_adapter_file(file.locate().local_path)
            except MissingAdapterError as error:
                raise LoadError(
                    f"{ADAPTERS_KEY}: cannot use {adapter.name}: {error.path} does not exist. Restore the file at "
                    f"that path; the recipe requires SHA-256 {file.fingerprint[:12]}"
                ) from None
            except UserError as error:
                raise LoadError(f"{ADAPTERS_KEY}: cannot use {adapter.name}: {error}") from None
            except OSError as error:
                raise LoadError(
                    f"{ADAPTERS_KEY}: cannot use {adapter.name}: {file.label} cannot be read: {error.strerror or error}"
                ) from None
            if fingerprint != file.fingerprint:
                raise LoadError(
                    f"{ADAPTERS_KEY}: the file of {adapter.name} ({file.label}) has changed since the video was "
                    f"planned (SHA-256 {fingerprint[:12]}, planned {file.fingerprint[:12]}). Restore the file, or plan "
                    "a new batch"
                )


@torch.no_grad()
def _merge_file(transformer: Any, file: LoraFile, strength: float) -> None:
    path = file.locate().local_path
    header = read_adapter_header(path)
    layout = match_adapter_layers(header, list_adaptable_layer_shapes(transformer), "the loaded model")
    tensor_by_name = _read_adapter_tensors(path, layout.layers)
    settings = {
        name: header.settings[f"transformer.{name}"]
        for name in PEFT_SETTING_NAMES
        if f"transformer.{name}" in header.settings
    }
    metadata = _complete_settings(settings, tensor_by_name) if settings else None
    WanPipeline.load_lora_into_transformer(
        {f"transformer.{name}": tensor for name, tensor in tensor_by_name.items()},
        transformer=transformer,
        adapter_name=MERGED_NAME,
        metadata=None if metadata is None else {f"transformer.{name}": value for name, value in metadata.items()},
        low_cpu_mem_usage=True,
    )
    _check_all_loaded(transformer, tensor_by_name)
    transformer.set_adapters([MERGED_NAME], [strength])
    transformer.fuse_lora()
    transformer.unload_lora()
    _check_merged_finite(transformer, layout.layers)


def _complete_settings(settings: Mapping[str, Any], tensor_by_name: Mapping[str, Tensor]) -> dict[str, Any]:
    """Complete the settings of peft with the layers of the adapter, as diffusers derives them from the tensors."""
    return {
        **settings,
        "target_modules": sorted({name.split(".lora")[0] for name in tensor_by_name}),
        "lora_bias": any(name.endswith(".lora_B.bias") for name in tensor_by_name),
    }


def list_adaptable_layer_shapes(transformer: nn.Module) -> dict[str, LayerShape]:
    """Return the shapes (outputs, inputs) of the linear layers that an adapter may change, by name."""
    names = {*OTHER_LAYER_NAMES.values()}
    block_names = tuple(BLOCK_LAYER_NAMES.values())
    return {
        name: (module.out_features, module.in_features)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
        and (name in names or (name.startswith("blocks.") and name.split(".", 2)[2] in block_names))
    }


def _read_adapter_tensors(path: Path, layers: tuple[AdapterLayer, ...]) -> dict[str, Tensor]:
    """Return the layers' tensors in diffusers' format, with alpha multiplied into the factors.

    peft requires a bias for all layers or for none: a missing bias is zero.

    Raises:
        LoadError: a tensor contains NaN or infinity, or an alpha is not positive.
    """
    has_bias = any("bias" in layer.key_by_role for layer in layers)
    tensor_by_name: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for layer in layers:
            tensors = {role: file.get_tensor(key) for role, key in layer.key_by_role.items()}
            for role, key in layer.key_by_role.items():
                if not tensors[role].isfinite().all():
                    raise LoadError(f"its {key} contains NaN or infinity: the file is damaged, or its training failed")
            if "diff" in tensors:  # as diffusers: the whole change times the identity
                down, up = tensors["diff"], torch.eye(tensors["diff"].shape[0], dtype=tensors["diff"].dtype)
            else:
                down, up = tensors["down"], tensors["up"]
            if "alpha" in tensors:
                down, up = _scale_factors(down, up, float(tensors["alpha"]), layer.key_by_role["alpha"])
            tensor_by_name[f"{layer.name}.lora_A.weight"] = down
            tensor_by_name[f"{layer.name}.lora_B.weight"] = up
            if has_bias:
                tensor_by_name[f"{layer.name}.lora_B.bias"] = tensors.get("bias", up.new_zeros(up.shape[0]))
    return tensor_by_name


def _scale_factors(down: Tensor, up: Tensor, alpha: float, key: str) -> tuple[Tensor, Tensor]:
    """Multiply the product of two factors by alpha / rank, as in diffusers: powers of two balance the two factors.

    Raises:
        LoadError: alpha is not positive.
    """
    if not 0 < alpha < math.inf:
        raise LoadError(f"its {key} is {alpha:g}, but must be positive")
    down_scale, up_scale = alpha / down.shape[0], 1.0
    while down_scale * 2 < up_scale:
        down_scale *= 2
        up_scale /= 2
    return down * down_scale, up * up_scale


def _check_all_loaded(transformer: nn.Module, tensor_by_name: Mapping[str, Tensor]) -> None:
    """Reject an adapter that peft loaded only partly; diffusers only logs this.

    peft rounds the factors to the precision of the weight.

    Raises:
        LoadError: a tensor was not loaded, or not changed to a layer of the transformer.
    """
    loaded_by_name = {
        name.replace(f".{MERGED_NAME}", ""): parameter
        for name, parameter in transformer.named_parameters()
        if f".{MERGED_NAME}." in name
    }
    for name, tensor in tensor_by_name.items():
        loaded = loaded_by_name.get(name)
        if loaded is None or loaded.is_meta or not torch.equal(loaded, tensor.to(loaded.dtype)):
            raise LoadError(f"peft did not load {name}. Report this with the name of the file")
    if loaded_by_name.keys() != tensor_by_name.keys():
        extra_name = min(loaded_by_name.keys() - tensor_by_name.keys())
        raise LoadError(f"peft also changed {extra_name}, which the file lacks. Report this with the name of the file")


def _check_merged_finite(transformer: nn.Module, layers: Iterable[AdapterLayer]) -> None:
    """Reject an adapter that makes weights NaN or infinite.

    Raises:
        LoadError: a merged weight contains NaN or infinity.
    """
    for layer in layers:
        for name, parameter in transformer.get_submodule(layer.name).named_parameters():
            if not torch.stack(torch.aminmax(parameter)).isfinite().all():
                raise LoadError(
                    f"with it, {layer.name}.{name} contains NaN or infinity: its change is beyond the range of "
                    f"{str(parameter.dtype).removeprefix('torch.')}. Use a lower strength, or check the file"
                )
