"""Store a transformer's weights in 8 bits; each layer converts its weights before use."""

from typing import Any, assert_never

import torch
from diffusers.utils import import_utils
from torch import nn

from wantui.planning.model_source import WeightsForm


def quantize_transformer(transformer: Any, weights: WeightsForm) -> None:
    """Store the weights of the matrix products in a transformer's blocks in 8 bits.

    float8  e4m3 with 3 bits of mantissa, an error of up to 6 % of each weight; also biases. Uses diffusers.
    int8    multiples of 1/127 of the largest weight in the row, with a float32 scale per row. Uses torchao.
    """
    match weights:
        case "float8":
            transformer.enable_layerwise_casting(torch.float8_e4m3fn, transformer.dtype)
        case "int8":
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            # diffusers streams these weights only if it found torchao at import, when the worker hides it.
            import_utils._torchao_available = True

            quantize_(transformer.blocks, Int8WeightOnlyConfig(), _is_linear_layer)
        case "full" | "gguf":
            pass
        case _:
            assert_never(weights)


def _is_linear_layer(module: nn.Module, _: str) -> bool:
    return isinstance(module, nn.Linear)
