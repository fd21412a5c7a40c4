"""Low-rank adapters (LoRA) of nano's transformer: their layers, and their files in diffusers' format."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wantui.atomic_files import atomic_write

ADAPTED_LAYERS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)
"""Linear layers of each block that an adapter changes."""


class LowRankLinear(nn.Module):
    """A frozen linear layer and a trained change of its weight: up @ down."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) * linear.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight + self.up @ self.down, self.bias)


def add_adapter(transformer: WanTransformer3DModel, rank: int, seed: int = 1) -> None:
    """Freeze a transformer, and replace its adapted layers with low-rank layers that change nothing yet."""
    transformer.requires_grad_(False)
    torch.manual_seed(seed)
    for block in transformer.blocks:
        for name in ADAPTED_LAYERS:
            parent_name, _, child_name = name.rpartition(".")
            parent = block.get_submodule(parent_name)
            setattr(parent, child_name, LowRankLinear(parent.get_submodule(child_name), rank))


def iterate_low_rank_layers(transformer: WanTransformer3DModel) -> Iterator[tuple[str, LowRankLinear]]:
    """Yield the name and module of each low-rank layer."""
    for name, module in transformer.named_modules():
        if isinstance(module, LowRankLinear):
            yield name, module


def save_adapter(transformer: WanTransformer3DModel, path: Path) -> None:
    """Write the adapter of a transformer in bfloat16, with the keys that diffusers' `load_lora_weights` reads."""
    tensors_by_key = {}
    for name, layer in iterate_low_rank_layers(transformer):
        for part, matrix in (("lora_A", layer.down), ("lora_B", layer.up)):
            tensors_by_key[f"transformer.{name}.{part}.weight"] = matrix.detach().to("cpu", torch.bfloat16).contiguous()
    with atomic_write(path) as partial:
        partial.write_bytes(save(tensors_by_key, {"format": "pt"}))


@torch.no_grad()
def load_adapter(transformer: WanTransformer3DModel, path: Path) -> None:
    """Load a file that `save_adapter` wrote into the low-rank layers of a transformer."""
    tensors_by_key = load_file(path)
    for name, layer in iterate_low_rank_layers(transformer):
        layer.down.copy_(tensors_by_key[f"transformer.{name}.lora_A.weight"])
        layer.up.copy_(tensors_by_key[f"transformer.{name}.lora_B.weight"])
