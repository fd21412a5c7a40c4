"""Ablation of words against a plain transformer whose cross-attention is written out in float64."""

import copy
import math
import re
from typing import Any

import pytest
import torch
from attention_reference import PROMPT, marks
from conftest import recipe_for
from diffusers import WanPipeline

from wantui.batches.ablation import build_conditional_recipe
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.replay import evaluate_velocity
from wantui.generation.token_spans import tokenize_prompt
from wantui.models.catalogue import WanModel
from wantui.planning import PromptMark

pytestmark = pytest.mark.torch


class BiasedAttention:
    """Cross-attention written out, with a bias [512] of the logits."""

    def __init__(self, bias: torch.Tensor) -> None:
        self.bias = bias

    def __call__(self, attention: Any, states: torch.Tensor, text: torch.Tensor, *_: object) -> torch.Tensor:
        projected = (
            attention.norm_q(attention.to_q(states)),
            attention.norm_k(attention.to_k(text)),
            attention.to_v(text),
        )
        q, k, v = (each.unflatten(2, (attention.heads, -1)) for each in projected)
        logits = torch.einsum("bnhd,bthd->bhnt", q, k) / math.sqrt(q.shape[3]) + self.bias
        output: torch.Tensor = attention.to_out[0](torch.einsum("bhnt,bthd->bnhd", logits.softmax(3), v).flatten(2))
        return output


@pytest.mark.parametrize("word", ["star", "blue star", "red"])
def test_ablated_velocity_equals_that_of_the_transformer_without_the_keys_of_the_word(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], word: str
) -> None:
    recipe = recipe_for(
        tiny_models["wan2.1"], prompt=PROMPT, marks=marks(PROMPT, ("red", 3.0), ("moving", 0.4)), weighting="attention"
    )
    ablated = build_conditional_recipe(recipe, word)
    first = next(denoise_latents(tiny, recipe))
    bias = torch.zeros(512, dtype=torch.float64)
    for marked in tokenize_prompt(tiny.tokenizer, PROMPT, recipe.marks).words:
        bias[list(marked.token_positions)] = math.log(marked.weight)
    spans = [match.span() for match in re.finditer(rf"\b{word}\b", PROMPT)]
    word_marks = tuple(PromptMark(text=word, start=start, end=end, weight=1.0) for start, end in spans)
    for marked in tokenize_prompt(tiny.tokenizer, PROMPT, word_marks).words:
        bias[list(marked.token_positions)] = -math.inf
    transformer = copy.deepcopy(tiny.transformer).double()
    for block in transformer.blocks:
        block.attn2.processor = BiasedAttention(bias)
    text, _ = tiny.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
    with torch.no_grad():
        expected = transformer(first.latents_before.double(), torch.tensor([float(first.timestep)]), text.double())
    state = first.latents_before[0].float().numpy()
    velocity = evaluate_velocity(tiny, ablated, prepare_inputs(tiny, ablated), state, 0)
    assert torch.allclose(velocity.double(), expected.sample, rtol=1e-4, atol=1e-5)
    unchanged = build_conditional_recipe(recipe)
    velocity = evaluate_velocity(tiny, unchanged, prepare_inputs(tiny, unchanged), state, 0)
    assert not torch.allclose(velocity.double(), expected.sample, rtol=1e-4, atol=1e-5)
