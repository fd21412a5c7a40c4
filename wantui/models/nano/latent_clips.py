"""The training set of nano's transformer: encoded clips with captions, and the words that name their objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wantui.atomic_files import atomic_write
from wantui.models.nano.autoencoder import enable_whole_clip_resampling, encode_clip
from wantui.models.nano.render import compute_cell_coverage, render_scenes, scale_to_vae_range
from wantui.models.nano.world import NATURAL_SHAPE_FREQUENCIES, Caption, Scenes, sample_scenes, write_captions

TRAINING_TEXT_POSITION_COUNT = 32
"""Text positions in training."""
CAPTIONS_PER_CLIP = 4
RenderScenes = Callable[[Scenes, str], tuple[Tensor, Tensor]]
"""Function that renders scenes to video and masks on a device."""


@dataclass(frozen=True)
class LatentClips:
    """Training set on the device: n clips with `CAPTIONS_PER_CLIP` captions each."""

    latents: Tensor  # bfloat16 [n, 16, 5, 16, 16], normalised
    coverage: Tensor  # float16 [n, 2, cells]
    ids: Tensor  # uint8 [n, captions, positions]
    words: Tensor  # bool [n, captions, 4, positions], tokens of the two shape words, then of the two phrases


@torch.no_grad()
def encode_training_clips(
    vae: AutoencoderKLWan,
    tokenizer: PreTrainedTokenizerBase,
    clip_count: int,
    cache_path: Path,
    device: str,
    log_line: Callable[[str], None],
    render: RenderScenes = render_scenes,
    shape_frequencies: Sequence[float] = NATURAL_SHAPE_FREQUENCIES,
    seed: int = 1,
) -> LatentClips:
    """Sample, caption and encode training scenes, and store the result in `cache_path`; if the file exists, load it.

    Args:
        render: function that renders scenes to video and masks, as `render_scenes` does.
        shape_frequencies: frequencies of the shapes in the scenes, in the order of `SHAPES`.
        seed: seed of scenes and captions.
    """
    if cache_path.exists():
        log_line(f"loaded the encoded clips from {cache_path}")
        return LatentClips(**torch.load(cache_path, map_location=device, weights_only=True))
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(clip_count, rng, shape_frequencies=shape_frequencies)
    vae = enable_whole_clip_resampling(vae)
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
    latents, coverage = [], []
    compiled_encode = torch.compile(encode_clip)
    batch_size = 64 if device == "cuda" else 8
    for batch_start in range(0, clip_count, batch_size):
        video, masks = render(scenes[batch_start : batch_start + batch_size], device)
        with torch.autocast(device, torch.bfloat16):
            clip_mean, _ = compiled_encode(vae, scale_to_vae_range(video).to(memory_format=torch.channels_last_3d))
        latents.append(((clip_mean.float() - mean) / std).bfloat16())
        coverage.append(compute_cell_coverage(masks).half())
        if batch_start % 2048 == 0 or batch_start + batch_size >= clip_count:
            log_line(f"encoded {batch_start + len(video)} of {clip_count} clips")
    token_ids = torch.zeros(clip_count, CAPTIONS_PER_CLIP, TRAINING_TEXT_POSITION_COUNT, dtype=torch.uint8)
    word_masks = torch.zeros(clip_count, CAPTIONS_PER_CLIP, 4, TRAINING_TEXT_POSITION_COUNT, dtype=torch.bool)
    for caption_index in range(CAPTIONS_PER_CLIP):
        captions = write_captions(scenes, rng)
        encoded_captions = tokenizer(
            [c.text for c in captions],
            padding="max_length",
            max_length=TRAINING_TEXT_POSITION_COUNT,
            return_offsets_mapping=True,
        )
        token_ids[:, caption_index] = torch.tensor(encoded_captions["input_ids"], dtype=torch.uint8)
        token_offsets = torch.tensor(encoded_captions["offset_mapping"])  # [n, positions, start and end]
        for word_index, word_spans in enumerate(torch.tensor([_find_word_spans(c) for c in captions]).unbind(1)):
            word_masks[:, caption_index, word_index] = (token_offsets[..., 0] < word_spans[:, 1:]) & (
                token_offsets[..., 1] > word_spans[:, :1]
            )
    log_line("tokenised the captions")
    clips = LatentClips(torch.cat(latents), torch.cat(coverage), token_ids.to(device), word_masks.to(device))
    with atomic_write(cache_path) as partial:
        torch.save(vars(clips), partial)
    return clips


def _find_word_spans(caption: Caption) -> list[tuple[int, int]]:
    """Return the spans of two shape words, then of two phrases; the spans of a missing second object are empty."""
    missing_spans = [(0, 0)] * (2 - len(caption.shape_words))
    return [*caption.shape_words, *missing_spans, *caption.phrases, *missing_spans]
