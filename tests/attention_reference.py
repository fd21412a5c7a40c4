"""Attention of a pipeline in float64, and marks of a prompt, with which tests compare stored maps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanPipeline

from wantui.generation.cross_attention import CrossAttentionObserver
from wantui.generation.denoising_state import DenoisingInputs
from wantui.planning import PromptMark

PROMPT = "a red star and a blue star moving left"


def marks(prompt: str, *words: tuple[str, float]) -> tuple[PromptMark, ...]:
    result, start = [], 0
    for word, weight in words:
        start = prompt.index(word, start)
        result.append(PromptMark(text=word, start=start, end=start + len(word), weight=weight))
        start += len(word)
    return tuple(result)


def attention_hook(start: DenoisingInputs) -> CrossAttentionObserver:
    hook = start.hooks_by_capture["attention"]
    assert isinstance(hook, CrossAttentionObserver)
    return hook


@contextmanager
def projections_of(pipeline: WanPipeline) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Queries and keys [places, heads, dim] in float64 of every cross-attention, as the blocks make them."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles, latest = [], {}
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        for block in transformer.blocks if transformer is not None else ():

            def keep_query(m: Any, i: Any, out: torch.Tensor) -> None:
                latest["q"] = out.double()

            def keep_key(m: Any, i: Any, out: torch.Tensor, heads: int = block.attn2.heads) -> None:
                q, k = (part[0].reshape(part.shape[1], heads, -1) for part in (latest["q"], out.double()))
                seen.append((q, k))

            handles += [
                block.attn2.norm_q.register_forward_hook(keep_query),
                block.attn2.norm_k.register_forward_hook(keep_key),
            ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def exact_attention(q: torch.Tensor, k: torch.Tensor, weights: dict[int, float] | None = None) -> torch.Tensor:
    """[heads, places, 512] in float64, of logits + ln w."""
    logits = torch.einsum("nhd,thd->hnt", q, k) / math.sqrt(q.shape[2])
    for token, weight in (weights or {}).items():
        logits[:, :, token] += math.log(weight) if weight > 0 else -math.inf
    return logits.softmax(2)
