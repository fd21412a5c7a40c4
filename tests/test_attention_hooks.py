"""Hooks on self- and cross-attention: they see what the kernels compute, and change nothing by themselves."""

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LoadOnce, recipe_for
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from tiny import FORMS, latents_of

from wantui.generation.attention_hooks import AttentionSite, add_observer
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.fuse import fuse_pipeline
from wantui.models.catalogue import WanModel
from wantui.planning.throughput import NATIVE_ATTENTION

pytestmark = pytest.mark.torch


class _Watcher:
    """Observe one attention and change nothing; remember the shapes that each block shows."""

    def __init__(self, site: AttentionSite) -> None:
        self.site = site
        self.sites: Collection[AttentionSite] = (site,)
        self.shown: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []

    @contextmanager
    def observe_evaluation(self, context: str, evaluation_index: int, transformer: Any) -> Iterator[None]:
        with add_observer(self, self.site):
            yield

    def pop_record(self) -> int:
        return len(self.shown)

    def observe_attention(
        self, block_index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        q, k, v = (part.transpose(1, 2).double() for part in (query, key, value))
        exact = F.scaled_dot_product_attention(q, k, v)
        assert torch.allclose(exact.transpose(1, 2).flatten(2), output.double(), atol=1e-4)
        self.shown.append((block_index, tuple(query.shape), tuple(key.shape)))
        return output


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_fused", [False, True], ids=["reference", "fused"])
@pytest.mark.parametrize("site", ["self", "cross"])
@pytest.mark.parametrize("form", FORMS)
def test_observing_attention_leaves_latents_bit_identical(
    load_once: LoadOnce, tiny_models: dict[str, WanModel], form: str, site: AttentionSite, is_fused: bool, device: str
) -> None:
    pipeline = copy.deepcopy(load_once(tiny_models[form], "float32")).to(device)
    if is_fused:
        fuse_pipeline(pipeline, NATIVE_ATTENTION)
    recipe = recipe_for(tiny_models[form], steps=2)
    plain = latents_of(pipeline, recipe)
    watcher = _Watcher(site)
    start = prepare_inputs(pipeline, recipe)
    *_, last = denoise_latents(pipeline, recipe, replace(start, hooks_by_capture={"watcher": watcher}))
    assert torch.equal(last.latents, plain)
    blocks = len(pipeline.transformer.blocks)
    count = 2 * recipe.steps * blocks
    assert last.values_by_capture == {"watcher": count}, "every block of both passes of every step"
    positions = watcher.shown[0][1][1]
    assert watcher.shown[0][2][1] == (positions if site == "self" else 512)
    assert [block for block, *_ in watcher.shown] == list(range(blocks)) * (2 * recipe.steps)
    if not is_fused:
        assert all(type(block.attn1.processor) is WanAttnProcessor for block in pipeline.transformer.blocks)
