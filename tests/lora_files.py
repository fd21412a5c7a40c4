"""LoRA files for tests: random adapters in the published formats."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wantui.models.adapter_layout import BLOCK_LAYER_NAMES, LayerShape

OWN_NAME_BY_LAYER = {name: own_name for own_name, name in BLOCK_LAYER_NAMES.items()}
Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Layer of a block -> factors: down [rank, inputs] and up [outputs, rank]."""


def make_factors(
    shape_by_layer: Mapping[str, LayerShape], rank: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return random factors for the layers of all blocks."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, (output_count, input_count) in shape_by_layer.items():
        if name.startswith("blocks."):
            down = torch.randn(rank, input_count, generator=generator).to(dtype)
            up = (0.2 * torch.randn(output_count, rank, generator=generator)).to(dtype)
            factors[name] = down, up
    return factors


def _own_name(layer: str) -> str:
    _, block, name = layer.split(".", 2)
    return f"blocks.{block}.{OWN_NAME_BY_LAYER[name]}"


def diffusers_tensors(factors: Factors) -> dict[str, Tensor]:
    return {
        f"transformer.{layer}.lora_{letter}.weight": tensor
        for layer, (down, up) in factors.items()
        for letter, tensor in (("A", down), ("B", up))
    }


def comfy_tensors(factors: Factors, alpha: float | None = None, biases: bool = False) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in factors.items():
        prefix = f"diffusion_model.{_own_name(layer)}"
        tensors |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{prefix}.alpha"] = torch.tensor(alpha)
        if biases:
            tensors[f"{prefix}.diff_b"] = 0.1 * torch.cos(torch.arange(len(up), dtype=torch.float32)).to(up.dtype)
    return tensors


def musubi_tensors(factors: Factors, alpha: float, prefix: str = "lora_unet_") -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in factors.items():
        name = prefix + _own_name(layer).replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(alpha),
        }
    return tensors


FORMATS: dict[str, Callable[[Factors], dict[str, Tensor]]] = {
    "diffusers": diffusers_tensors,
    "comfy": comfy_tensors,
    "comfy with alpha": lambda factors: comfy_tensors(factors, alpha=3.0),
    "comfy with biases": lambda factors: comfy_tensors(factors, alpha=1.0, biases=True),
    "musubi": lambda factors: musubi_tensors(factors, alpha=0.7),
}
"""Formats that diffusers reads, by name."""


def write_adapter(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, object] | None = None) -> Path:
    """Write a safetensors file, with the settings of peft as diffusers stores them."""
    metadata = {"format": "pt"}
    if settings:
        metadata["lora_adapter_metadata"] = json.dumps(settings)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path
