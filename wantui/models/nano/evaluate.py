"""Measure nano: python -m wantui.models.nano.evaluate.

The stock WanPipeline generates clips with 512 text positions, from held-out captions and seeds, and the pixel rules of
`judge.py` score them.
"""

import json
import time
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from wantui.models.nano import WEIGHTS
from wantui.models.nano.attributes import SHAPE_FREQUENCIES, SHAPES
from wantui.models.nano.autoencoder import downsample_to_latents
from wantui.models.nano.judge import VISIBLE_PIXELS, detect_shape, find_object_pixels, judge_clip
from wantui.models.nano.render import compute_cell_coverage, render, to_vae_range
from wantui.models.nano.world import CLIP_FRAMES, CLIP_SIZE, Scenes, sample_scenes, write_captions

BATCH_SIZE = 16
FIRST_SEED = 1_000_000
MIN_COVERAGE = 0.4
"""Minimum covered fraction of a cell that counts as part of an object."""


class WordAttentionProcessor(WanAttnProcessor):
    """Stock attention processor that also sums the attention to the shape word of each clip in conditional passes.

    Computes the full softmax over all text positions in float32, which is slow but exact.
    """

    columns: Tensor | None = None
    """1 at the token positions of the shape word [n, positions]."""
    is_conditional = False
    """Whether the current pass is conditional."""
    total: Tensor
    """Sum of the attention [n, cells]."""

    def __call__(
        self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *others: None
    ) -> Tensor:
        if self.columns is not None and self.is_conditional:
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).float()
            key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).float()
            probabilities = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1).mean(1)
            self.total = self.total + (probabilities @ self.columns[..., None])[..., 0]
        return super().__call__(attn, hidden_states, encoder_hidden_states, *others)


def generate(
    pipeline: WanPipeline, captions: list[str], first_seed: int, steps: int, guidance: float
) -> tuple[Tensor, Tensor]:
    """Generate clips [n, rgb, frames, height, width] in 0 to 1 and their latents, with consecutive seeds."""
    clips, latents = [], []
    for start in range(0, len(captions), BATCH_SIZE):
        batch = captions[start : start + BATCH_SIZE]
        batch_latents = pipeline(
            batch,
            height=CLIP_SIZE,
            width=CLIP_SIZE,
            num_frames=CLIP_FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(first_seed + start + i) for i in range(len(batch))],
            output_type="latent",
        ).frames
        clips.append(decode(pipeline, batch_latents).cpu())
        latents.append(batch_latents.cpu())
    return torch.cat(clips), torch.cat(latents)


def decode(pipeline: WanPipeline, latents: Tensor) -> Tensor:
    """Decode normalised latents to clips in 0 to 1, as the stock pipeline does."""
    config = pipeline.vae.config
    mean = torch.tensor(config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    return (pipeline.vae.decode(latents * std + mean).sample.clamp(-1, 1) + 1) / 2


def score_clips(clips: Tensor, scenes: Scenes) -> dict[str, float]:
    """Return the fraction of clips in which each attribute is correct."""
    scores = [vars(judge_clip(clip, scenes, i)) for i, clip in enumerate(clips)]
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def score_by_shape(clips: Tensor, scenes: Scenes) -> dict[str, float]:
    """Return the fraction of clips with the correct shape, per shape; the keys contain the frequency in training."""
    correct = np.array([judge_clip(clip, scenes, i).shape for i, clip in enumerate(clips)])
    return {
        f"{shape} (n = {int((has_shape := scenes.shape[:, 0] == index).sum())}, trained on {frequency:.0%})": float(
            correct[has_shape].mean()
        )
        for index, (shape, frequency) in enumerate(SHAPE_FREQUENCIES.items())
    }


def sample_each_shape(n: int, rng: np.random.Generator) -> Scenes:
    """Sample held-out scenes of one object with each shape equally often, so that rare shapes are measured too."""
    pool = sample_scenes(40 * max(n, 12), rng, two_objects=0.0, evaluation=True)
    indices = [np.flatnonzero(pool.shape[:, 0] == index)[: n // len(SHAPES)] for index in range(len(SHAPES))]
    return pool[np.stack(indices, axis=1).flatten()]


def measure_attention_overlap(pipeline: WanPipeline, scenes: Scenes, steps: int, guidance: float) -> float:
    """Return the mean IoU of the cells with the most attention to the shape word and the cells that its object covers.

    Attention is averaged over blocks, heads and steps. An object that covers m cells is compared with the top m cells.
    """
    processor = WordAttentionProcessor()

    def next_pass(*_: object) -> None:  # the stock pipeline calls conditional, unconditional, conditional, ...
        processor.is_conditional = not processor.is_conditional

    captions = write_captions(scenes)
    hook = pipeline.transformer.register_forward_pre_hook(next_pass)
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(processor)
    overlaps = []
    for start in range(0, len(captions), BATCH_SIZE):
        batch = captions[start : start + BATCH_SIZE]
        offsets = pipeline.tokenizer(
            [c.text for c in batch], padding="max_length", max_length=512, return_offsets_mapping=True
        )["offset_mapping"]
        offsets = torch.tensor(offsets)
        spans = torch.tensor([c.shape_words[0] for c in batch])
        columns = (offsets[..., 0] < spans[:, 1:]) & (offsets[..., 1] > spans[:, :1])
        processor.columns, processor.total = columns.float().to(pipeline.device), torch.zeros(1, device=pipeline.device)
        clips, _ = generate(pipeline, [c.text for c in batch], FIRST_SEED + start, steps, guidance)
        for clip, attention in zip(clips, processor.total.cpu(), strict=True):
            is_covered = compute_cell_coverage(find_object_pixels(clip)[None, None])[0, 0] > MIN_COVERAGE
            count = int(is_covered.sum())
            is_top = torch.zeros_like(is_covered)
            is_top[attention.topk(count).indices] = True
            overlaps.append(float((is_top & is_covered).sum() / (is_top | is_covered).sum()) if count else 0.0)
    hook.remove()
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return float(np.mean(overlaps))


def measure_autoencoder(pipeline: WanPipeline, clips: Tensor) -> dict[str, float]:
    """Measure the PSNR of the stock autoencoder on rendered clips (uint8), and how linear colour is in its latents."""
    latents, psnr = [], []
    for batch in clips.split(BATCH_SIZE):
        video = to_vae_range(batch)
        latents.append(pipeline.vae.encode(video).latent_dist.mode())
        mse = (pipeline.vae.decode(latents[-1]).sample - video).square().mean((1, 2, 3, 4))
        psnr += (10 * torch.log10(4 / mse)).tolist()
    features = torch.cat(latents).movedim(1, -1).double()
    features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    colour = (
        torch.cat([downsample_to_latents(to_vae_range(batch)) for batch in clips.split(BATCH_SIZE)])
        .movedim(1, -1)
        .double()
    )
    half = len(clips) // 2  # fit on the first half, measure on the second
    fit = torch.linalg.lstsq(features[:half].flatten(0, 3).cpu(), colour[:half].flatten(0, 3).cpu()).solution
    target = colour[half:].flatten(0, 3).cpu()
    residual = features[half:].flatten(0, 3).cpu() @ fit - target
    r2 = 1 - residual.square().sum() / (target - target.mean(0)).square().sum()
    return {"PSNR, mean (dB)": float(np.mean(psnr)), "PSNR, worst clip (dB)": min(psnr), "latent to RGB, R2": float(r2)}


def measure_preferred_shapes(pipeline: WanPipeline, n: int, steps: int, guidance: float) -> dict[str, float]:
    """Return the frequency of each shape for a caption that only says "shape"; the keys contain that in training."""
    clips, _ = generate(pipeline, ["a large red shape moving left over a dark background"] * n, 0, steps, guidance)
    masks = [find_object_pixels(clip)[CLIP_FRAMES // 2] for clip in clips]
    shapes = [detect_shape(mask) if mask.sum() >= VISIBLE_PIXELS else "nothing" for mask in masks]
    return {f"{shape} (trained on {SHAPE_FREQUENCIES[shape]:.0%})": shapes.count(shape) / n for shape in SHAPES}


def load_stock_pipeline(weights: Path) -> WanPipeline:
    """Load the stock pipeline in float32."""
    pipeline = WanPipeline.from_pretrained(weights, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def draw_sheet(weights: Path, path: Path, steps: int, guidance: float) -> None:
    """Write an image with ten held-out captions (first one per shape) and five frames of a clip of each."""
    rng = np.random.default_rng(3)
    one_object = sample_each_shape(6, rng)
    two_objects = sample_scenes(4, rng, two_objects=1.0, evaluation=True)
    captions = [caption.text for caption in (*write_captions(one_object), *write_captions(two_objects))]
    clips, _ = generate(load_stock_pipeline(weights), captions, FIRST_SEED, steps, guidance)
    columns = np.linspace(0, CLIP_FRAMES - 1, 5).round().astype(int)
    label_height, gap = 18, 6
    sheet = Image.new(
        "RGB", (len(columns) * (CLIP_SIZE + gap), len(captions) * (CLIP_SIZE + label_height + gap)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for row, (caption, clip) in enumerate(zip(captions, clips, strict=True)):
        top = row * (CLIP_SIZE + label_height + gap)
        draw.text((2, top + 2), caption, fill="black", font=ImageFont.load_default(12))
        for column, frame in enumerate(columns):
            pixels = (clip[:, frame].permute(1, 2, 0) * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (column * (CLIP_SIZE + gap), top + label_height))
    sheet.save(path, quality=90)


@torch.no_grad()
def evaluate(weights: Path, n: int, steps: int, guidance: float) -> dict[str, dict[str, float]]:
    """Return all measurements, by section."""
    pipeline = load_stock_pipeline(weights)
    rng = np.random.default_rng(2)
    one_object = sample_scenes(n, rng, two_objects=0.0, evaluation=True)
    two_objects = sample_scenes(n // 2, rng, two_objects=1.0, evaluation=True)
    each_shape = sample_each_shape(n, rng)
    rendered_one, rendered_two = ((render(scenes)[0].float() / 255) for scenes in (one_object, two_objects))
    rendered_clips = render(sample_scenes(min(n, 128), rng, evaluation=True))[0].to(pipeline.device)

    def generate_clips(scenes: Scenes, seed: int) -> Tensor:
        return generate(pipeline, [caption.text for caption in write_captions(scenes)], seed, steps, guidance)[0]

    generate_clips(one_object[:1], 0)  # warm-up
    start_time = time.perf_counter()
    generate_clips(one_object[:1], 0)
    seconds = time.perf_counter() - start_time
    return {
        f"one object (n = {n})": score_clips(generate_clips(one_object, FIRST_SEED), one_object),
        f"two objects, both right (n = {n // 2})": score_clips(
            generate_clips(two_objects, 2 * FIRST_SEED), two_objects
        ),
        "shape of one object, right": score_by_shape(generate_clips(each_shape, 3 * FIRST_SEED), each_shape),
        "the judge on drawn clips, one object": score_clips(rendered_one, one_object),
        "the judge on drawn clips, two objects": score_clips(rendered_two, two_objects),
        "attention": {
            "IoU of the shape word": measure_attention_overlap(pipeline, one_object[: n // 2], steps, guidance)
        },
        "autoencoder": measure_autoencoder(pipeline, rendered_clips),
        "shape unasked": measure_preferred_shapes(pipeline, n // 2, steps, guidance),
        "speed": {f"seconds for one clip, {pipeline.device.type}": seconds},
    }


@click.command()
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True),
    default=WEIGHTS,
    show_default="the bundled weights",
    help="Diffusers directory.",
)
@click.option("--clips", "n", default=96, show_default=True, help="Clips with one object; half as many have two.")
@click.option("--steps", default=20, show_default=True, help="Denoising steps.")
@click.option("--guidance", default=4.0, show_default=True, help="Guidance scale.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--sheet", type=click.Path(path_type=Path), help="JPEG file for clips of ten held-out captions.")
def main(weights: Path, n: int, steps: int, guidance: float, as_json: bool, sheet: Path | None) -> None:
    """Measure nano on held-out captions and seeds."""
    if sheet is not None:
        draw_sheet(weights, sheet, steps, guidance)
        return
    figures = evaluate(weights, n, steps, guidance)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    for section, values in figures.items():
        click.echo(section)
        for name, value in values.items():
            click.echo(f"  {name:<44} {value:8.3f}")


if __name__ == "__main__":
    main()
