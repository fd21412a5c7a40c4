"""What a pass through a transformer computes, against torch's own counter and the published sizes."""

import pytest
import torch
from tiny import FORMS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wantui.generation.load import load_pipeline
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.planning.flops import count_forward_flops

pytestmark = pytest.mark.torch


def counted(model: WanModel, width: int, height: int, frames: int) -> int:
    pipeline = load_pipeline(model, None, "float32", torch.device("cpu"))
    transformer = pipeline.transformer
    shape = model.compute_latent_shape(width, height, frames)
    tokens = shape[1] * (shape[2] // model.patch_size) * (shape[3] // model.patch_size)
    timestep = torch.full((1, tokens) if pipeline.config.expand_timesteps else (1,), 500.0)
    # The fused kernels of a CPU are not counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        transformer(torch.randn(1, *shape), timestep, torch.randn(1, 512, model.text_width), return_dict=False)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("form", FORMS)
def test_flop_count_equals_torch_for_every_model_form(tiny_models: dict[str, WanModel], form: str) -> None:
    model = tiny_models[form]
    side = 2 * model.size_multiple
    assert count_forward_flops(model, 2 * side, side, 9) == counted(model, 2 * side, side, 9)


def test_flop_count_equals_torch_for_nano() -> None:
    assert count_forward_flops(NANO, 128, 128, 17) == counted(NANO, 128, 128, 17)


def test_flop_counts_of_published_sizes_match_known_values() -> None:
    # 283 and 1,676 TFLOP for one pass at 480x832x81.
    assert count_forward_flops(find_model("wan2.1-1.3b"), 832, 480, 81) == pytest.approx(283e12, rel=0.005)
    assert count_forward_flops(find_model("wan2.1-14b"), 832, 480, 81) == pytest.approx(1676e12, rel=0.005)


def test_model_directory_has_the_sizes_of_its_transformer(tiny_models: dict[str, WanModel]) -> None:
    model = tiny_models["wan2.1"]
    assert (
        model.transformer_width,
        model.feed_forward_width,
        model.text_width,
        model.block_count,
        model.head_count,
    ) == (24, 32, 32, 2, 2)
