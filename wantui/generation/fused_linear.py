"""Linear layers with bias and GELU inside the matrix product's kernel.

cuBLASLt adds the bias and applies GELU to the float32 sums before rounding; as separate steps, both would read and
write the whole result again.
"""

from typing import Any

import torch
from torch import Tensor, nn


def apply_linear(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return hidden [..., k] times weight [n, k] transposed, plus bias [n]."""
    return torch.addmm(bias, hidden.flatten(0, -2), weight.t()).unflatten(0, hidden.shape[:-1])


def apply_linear_gelu(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the result of `apply_linear` after GELU in its tanh form."""
    product: Tensor = torch._addmm_activation(bias, hidden.flatten(0, -2), weight.t(), use_gelu=True)
    return product.unflatten(0, hidden.shape[:-1])


class FusedLinear(nn.Linear):
    """A linear layer that adds the bias inside the product; it shares the weights of the layer it replaces."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        return apply_linear(input, self.weight, self.bias)


class FusedGelu(nn.Module):
    """A linear layer and GELU in its tanh form, in one product."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.proj = layer

    def forward(self, hidden: Tensor) -> Tensor:
        return apply_linear_gelu(hidden, self.proj.weight, self.proj.bias)


def fuse_linear_layers(module: nn.Module) -> None:
    """Replace each linear layer that has a bias in a module with a fused layer."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear and child.bias is not None:
            setattr(module, name, FusedLinear(child))
        elif type(child).__name__ == "GELU" and getattr(child, "approximate", None) == "tanh":
            setattr(module, name, FusedGelu(child.proj))
        else:
            fuse_linear_layers(child)
