"""Print nano's figures: python -m wantui.models.nano.evaluate.

Clips are made by the stock WanPipeline with 512 text positions, from captions and seeds that training never saw, and
judged by the pixel rules of `judge.py`.
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
from wantui.models.nano.autoencoder import small_picture
from wantui.models.nano.judge import VISIBLE_PIXELS, judge, object_pixels, shape_of
from wantui.models.nano.render import cell_coverage, render, to_signed
from wantui.models.nano.world import CLIP_FRAMES, CLIP_SIZE, SHAPE_FREQUENCIES, SHAPES, Scenes, describe, sample_scenes

BATCH = 16
FIRST_SEED = 1_000_000
COVERED = 0.4
"""Share of a cell that an object must cover for the cell to count as the object's."""


class WordAttention(WanAttnProcessor):
    """The stock processor, which also sums up the attention on each clip's shape word in the conditional passes.

    The full softmax over all text positions, in float32: slow, and the definition itself.
    """

    columns: Tensor | None = None  # [n, positions], 1 at the word's tokens
    conditional = False
    total: Tensor
    """[n, cells]"""

    def __call__(self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: None) -> Tensor:
        if self.columns is not None and self.conditional:
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).float()
            key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).float()
            probabilities = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1).mean(1)
            self.total = self.total + (probabilities @ self.columns[..., None])[..., 0]
        return super().__call__(attn, hidden_states, encoder_hidden_states, *rest)


def generate(
    pipeline: WanPipeline, captions: list[str], first_seed: int, steps: int, guidance: float
) -> tuple[Tensor, Tensor]:
    """Clips [n, rgb, frames, height, width] in 0 to 1 and their latents, from consecutive seeds."""
    clips, latents = [], []
    for start in range(0, len(captions), BATCH):
        batch = captions[start : start + BATCH]
        made = pipeline(
            batch,
            height=CLIP_SIZE,
            width=CLIP_SIZE,
            num_frames=CLIP_FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(first_seed + start + i) for i in range(len(batch))],
            output_type="latent",
        ).frames
        clips.append(decode(pipeline, made).cpu())
        latents.append(made.cpu())
    return torch.cat(clips), torch.cat(latents)


def decode(pipeline: WanPipeline, latents: Tensor) -> Tensor:
    """Decode normalised latents to clips in 0 to 1, as the stock pipeline does."""
    config = pipeline.vae.config
    mean = torch.tensor(config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    return (pipeline.vae.decode(latents * std + mean).sample.clamp(-1, 1) + 1) / 2


def judged(clips: Tensor, scenes: Scenes) -> dict[str, float]:
    """Return the share of clips in which each attribute is right."""
    verdicts = [vars(judge(clip, scenes, i)) for i, clip in enumerate(clips)]
    return {name: float(np.mean([verdict[name] for verdict in verdicts])) for name in verdicts[0]}


def judged_by_shape(clips: Tensor, scenes: Scenes) -> dict[str, float]:
    """Return the share of clips with the right shape, per shape, next to the share that training saw."""
    right = np.array([judge(clip, scenes, i).shape for i, clip in enumerate(clips)])
    return {
        f"{shape} (n = {int((drawn := scenes.shape[:, 0] == index).sum())}, trained on {share:.0%})": float(
            right[drawn].mean()
        )
        for index, (shape, share) in enumerate(SHAPE_FREQUENCIES.items())
    }


def evenly_shaped(n: int, rng: np.random.Generator) -> Scenes:
    """Return held-out scenes of one object with each shape equally often, so that rare shapes are judged as well."""
    pool = sample_scenes(40 * max(n, 12), rng, two_objects=0.0, evaluation=True)
    of_each = [np.flatnonzero(pool.shape[:, 0] == index)[: n // len(SHAPES)] for index in range(len(SHAPES))]
    return pool[np.stack(of_each, axis=1).flatten()]


def attention_overlap(pipeline: WanPipeline, scenes: Scenes, steps: int, guidance: float) -> float:
    """Return the mean IoU of the cells with most of the shape word's attention and the cells that the object covers.

    Attention is the mean over blocks, heads and steps; as many top cells are taken as the object covers.
    """
    processor = WordAttention()

    def next_pass(*_: object) -> None:  # the stock pipeline calls conditional, unconditional, conditional, ...
        processor.conditional = not processor.conditional

    captions = describe(scenes)
    hook = pipeline.transformer.register_forward_pre_hook(next_pass)
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(processor)
    overlaps = []
    for start in range(0, len(captions), BATCH):
        batch = captions[start : start + BATCH]
        offsets = pipeline.tokenizer(
            [c.text for c in batch], padding="max_length", max_length=512, return_offsets_mapping=True
        )["offset_mapping"]
        offsets = torch.tensor(offsets)
        spans = torch.tensor([c.shape_words[0] for c in batch])
        columns = (offsets[..., 0] < spans[:, 1:]) & (offsets[..., 1] > spans[:, :1])
        processor.columns, processor.total = columns.float().to(pipeline.device), torch.zeros(1, device=pipeline.device)
        clips, _ = generate(pipeline, [c.text for c in batch], FIRST_SEED + start, steps, guidance)
        for clip, attention in zip(clips, processor.total.cpu(), strict=True):
            covered = cell_coverage(object_pixels(clip)[None, None])[0, 0] > COVERED
            count = int(covered.sum())
            top = torch.zeros_like(covered)
            top[attention.topk(count).indices] = True
            overlaps.append(float((top & covered).sum() / (top | covered).sum()) if count else 0.0)
    hook.remove()
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return float(np.mean(overlaps))


def autoencoder_figures(pipeline: WanPipeline, clips: Tensor) -> dict[str, float]:
    """Fidelity of the chunked stock autoencoder on drawn clips, uint8, and how linear colour is in its latents."""
    latents, psnr = [], []
    for batch in clips.split(BATCH):
        video = to_signed(batch)
        latents.append(pipeline.vae.encode(video).latent_dist.mode())
        mse = (pipeline.vae.decode(latents[-1]).sample - video).square().mean((1, 2, 3, 4))
        psnr += (10 * torch.log10(4 / mse)).tolist()
    features = torch.cat(latents).movedim(1, -1).double()
    features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    colour = torch.cat([small_picture(to_signed(batch)) for batch in clips.split(BATCH)]).movedim(1, -1).double()
    half = len(clips) // 2  # fitted on one half, measured on the other
    fit = torch.linalg.lstsq(features[:half].flatten(0, 3).cpu(), colour[:half].flatten(0, 3).cpu()).solution
    target = colour[half:].flatten(0, 3).cpu()
    residual = features[half:].flatten(0, 3).cpu() @ fit - target
    r2 = 1 - residual.square().sum() / (target - target.mean(0)).square().sum()
    return {"PSNR, mean (dB)": float(np.mean(psnr)), "PSNR, worst clip (dB)": min(psnr), "latent to RGB, R2": float(r2)}


def shapes_unasked(pipeline: WanPipeline, n: int, steps: int, guidance: float) -> dict[str, float]:
    """Return the shares of shapes for captions that only say "shape", next to the shares that training saw."""
    clips, _ = generate(pipeline, ["a large red shape moving left over a dark background"] * n, 0, steps, guidance)
    masks = [object_pixels(clip)[CLIP_FRAMES // 2] for clip in clips]
    seen = [shape_of(mask) if mask.sum() >= VISIBLE_PIXELS else "nothing" for mask in masks]
    return {f"{shape} (trained on {SHAPE_FREQUENCIES[shape]:.0%})": seen.count(shape) / n for shape in SHAPES}


def load(weights: Path) -> WanPipeline:
    """Load the stock pipeline, in float32."""
    pipeline = WanPipeline.from_pretrained(weights, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def draw_sheet(weights: Path, path: Path, steps: int, guidance: float) -> None:
    """Draw ten held-out captions, one of each shape first, with five frames of the first clip of each."""
    rng = np.random.default_rng(3)
    one = evenly_shaped(6, rng)
    two = sample_scenes(4, rng, two_objects=1.0, evaluation=True)
    captions = [caption.text for caption in (*describe(one), *describe(two))]
    clips, _ = generate(load(weights), captions, FIRST_SEED, steps, guidance)
    columns = np.linspace(0, CLIP_FRAMES - 1, 5).round().astype(int)
    label, gap = 18, 6
    sheet = Image.new("RGB", (len(columns) * (CLIP_SIZE + gap), len(captions) * (CLIP_SIZE + label + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (caption, clip) in enumerate(zip(captions, clips, strict=True)):
        top = row * (CLIP_SIZE + label + gap)
        draw.text((2, top + 2), caption, fill="black", font=ImageFont.load_default(12))
        for column, frame in enumerate(columns):
            pixels = (clip[:, frame].permute(1, 2, 0) * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (column * (CLIP_SIZE + gap), top + label))
    sheet.save(path, quality=90)


@torch.no_grad()
def evaluate(weights: Path, n: int, steps: int, guidance: float) -> dict[str, dict[str, float]]:
    """Return all figures, by section."""
    pipeline = load(weights)
    rng = np.random.default_rng(2)
    one = sample_scenes(n, rng, two_objects=0.0, evaluation=True)
    two = sample_scenes(n // 2, rng, two_objects=1.0, evaluation=True)
    even = evenly_shaped(n, rng)
    drawn_one, drawn_two = ((render(scenes)[0].float() / 255) for scenes in (one, two))
    real = render(sample_scenes(min(n, 128), rng, evaluation=True))[0].to(pipeline.device)

    def made(scenes: Scenes, seed: int) -> Tensor:
        return generate(pipeline, [caption.text for caption in describe(scenes)], seed, steps, guidance)[0]

    made(one[:1], 0)
    started = time.perf_counter()
    made(one[:1], 0)
    seconds = time.perf_counter() - started
    return {
        f"one object (n = {n})": judged(made(one, FIRST_SEED), one),
        f"two objects, both right (n = {n // 2})": judged(made(two, 2 * FIRST_SEED), two),
        "shape of one object, right": judged_by_shape(made(even, 3 * FIRST_SEED), even),
        "the judge on drawn clips, one object": judged(drawn_one, one),
        "the judge on drawn clips, two objects": judged(drawn_two, two),
        "attention": {"IoU of the shape word": attention_overlap(pipeline, one[: n // 2], steps, guidance)},
        "autoencoder": autoencoder_figures(pipeline, real),
        "shape unasked": shapes_unasked(pipeline, n // 2, steps, guidance),
        "speed": {f"seconds for one clip, {pipeline.device.type}": seconds},
    }


@click.command()
@click.option("--weights", type=click.Path(path_type=Path, exists=True), default=WEIGHTS, help="Diffusers directory.")
@click.option("--clips", "n", default=96, show_default=True, help="Clips of each kind; half as many with two objects.")
@click.option("--steps", default=20, show_default=True)
@click.option("--guidance", default=4.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Draw ten held-out captions into this jpg; no figures.")
def main(weights: Path, n: int, steps: int, guidance: float, as_json: bool, sheet: Path | None) -> None:
    """Print nano's figures, from held-out captions and seeds."""
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
