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
from diffusers import AutoencoderKLWan, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from wantui.models.nano import NANO_WEIGHTS_FOLDER
from wantui.models.nano.attributes import FREQUENCY_BY_SHAPE, SHAPES
from wantui.models.nano.autoencoder import downsample_to_latents
from wantui.models.nano.judge import MIN_VISIBLE_PIXELS, detect_shape, find_object_pixels, judge_clip
from wantui.models.nano.render import compute_cell_coverage, render_scenes, scale_to_vae_range
from wantui.models.nano.world import CLIP_FRAME_COUNT, CLIP_SIDE_PIXELS, Scenes, sample_scenes, write_captions

EVALUATION_BATCH_SIZE = 16
FIRST_EVALUATION_SEED = 1_000_000
MIN_CELL_COVERAGE = 0.4
"""Minimum covered fraction of a cell that counts as part of an object."""


class WordAttentionProcessor(WanAttnProcessor):
    """Stock attention processor that also sums the attention to the shape word of each clip in conditional passes.

    Computes the full softmax over all text positions in float32, which is slow but exact.
    """

    word_columns: Tensor | None = None
    """1 at the token positions of the shape word [n, positions]."""
    is_conditional = False
    """Whether the current pass is conditional."""
    attention_sum: Tensor
    """Sum of the attention [n, cells]."""

    def __call__(
        self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *others: None
    ) -> Tensor:
        if self.word_columns is not None and self.is_conditional:
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).float()
            key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).float()
            probabilities = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1).mean(1)
            self.attention_sum = self.attention_sum + (probabilities @ self.word_columns[..., None])[..., 0]
        return super().__call__(attn, hidden_states, encoder_hidden_states, *others)


def generate_clips(
    pipeline: WanPipeline, captions: list[str], first_seed: int, step_count: int, guidance_scale: float
) -> tuple[Tensor, Tensor]:
    """Generate clips [n, rgb, frames, height, width] in 0 to 1 and their latents, with consecutive seeds."""
    clips, latents = [], []
    for batch_start in range(0, len(captions), EVALUATION_BATCH_SIZE):
        batch = captions[batch_start : batch_start + EVALUATION_BATCH_SIZE]
        batch_latents = pipeline(
            batch,
            height=CLIP_SIDE_PIXELS,
            width=CLIP_SIDE_PIXELS,
            num_frames=CLIP_FRAME_COUNT,
            num_inference_steps=step_count,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(first_seed + batch_start + i) for i in range(len(batch))],
            output_type="latent",
        ).frames
        clips.append(decode_latents(pipeline.vae, batch_latents).cpu())
        latents.append(batch_latents.cpu())
    return torch.cat(clips), torch.cat(latents)


def decode_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode normalised latents to clips in 0 to 1, as the stock pipeline does."""
    config = vae.config
    mean = torch.tensor(config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    clips: Tensor = vae.decode(latents * std + mean).sample
    return (clips.clamp(-1, 1) + 1) / 2


def score_clips(clips: Tensor, scenes: Scenes) -> dict[str, float]:
    """Return the fraction of clips in which each attribute is correct."""
    scores = [vars(judge_clip(clip, scenes, i)) for i, clip in enumerate(clips)]
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def score_by_shape(clips: Tensor, scenes: Scenes) -> dict[str, float]:
    """Return the fraction of clips with the correct shape, per shape; each key also states the training frequency."""
    is_correct = np.array([judge_clip(clip, scenes, i).shape for i, clip in enumerate(clips)])
    return {
        f"{shape} (n = {int((has_shape := scenes.shape[:, 0] == index).sum())}, trained on {frequency:.0%})": float(
            is_correct[has_shape].mean()
        )
        for index, (shape, frequency) in enumerate(FREQUENCY_BY_SHAPE.items())
    }


def sample_scenes_of_each_shape(clip_count: int, rng: np.random.Generator) -> Scenes:
    """Sample held-out scenes of one object with each shape equally often, so that rare shapes are measured too."""
    candidates = sample_scenes(40 * max(clip_count, 12), rng, two_object_fraction=0.0, is_evaluation=True)
    indices = [
        np.flatnonzero(candidates.shape[:, 0] == index)[: clip_count // len(SHAPES)] for index in range(len(SHAPES))
    ]
    return candidates[np.stack(indices, axis=1).flatten()]


def measure_attention_overlap(pipeline: WanPipeline, scenes: Scenes, step_count: int, guidance_scale: float) -> float:
    """Return the mean IoU between the cells with the most attention to the shape word and the cells of the object.

    Attention is averaged over blocks, heads and steps. An object that covers m cells is compared with the top m cells.
    """
    processor = WordAttentionProcessor()

    def toggle_pass(*_: object) -> None:  # the stock pipeline calls conditional, unconditional, conditional, ...
        processor.is_conditional = not processor.is_conditional

    captions = write_captions(scenes)
    hook = pipeline.transformer.register_forward_pre_hook(toggle_pass)
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(processor)
    iou_values = []
    for batch_start in range(0, len(captions), EVALUATION_BATCH_SIZE):
        batch = captions[batch_start : batch_start + EVALUATION_BATCH_SIZE]
        token_offsets = pipeline.tokenizer(
            [c.text for c in batch], padding="max_length", max_length=512, return_offsets_mapping=True
        )["offset_mapping"]
        token_offsets = torch.tensor(token_offsets)
        word_spans = torch.tensor([c.shape_words[0] for c in batch])
        is_word_token = (token_offsets[..., 0] < word_spans[:, 1:]) & (token_offsets[..., 1] > word_spans[:, :1])
        processor.word_columns = is_word_token.float().to(pipeline.device)
        processor.attention_sum = torch.zeros(1, device=pipeline.device)
        clips, _ = generate_clips(
            pipeline, [c.text for c in batch], FIRST_EVALUATION_SEED + batch_start, step_count, guidance_scale
        )
        for clip, attention in zip(clips, processor.attention_sum.cpu(), strict=True):
            is_covered = compute_cell_coverage(find_object_pixels(clip)[None, None])[0, 0] > MIN_CELL_COVERAGE
            covered_count = int(is_covered.sum())
            is_top = torch.zeros_like(is_covered)
            is_top[attention.topk(covered_count).indices] = True
            iou_values.append(
                float((is_top & is_covered).sum() / (is_top | is_covered).sum()) if covered_count else 0.0
            )
    hook.remove()
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return float(np.mean(iou_values))


def measure_autoencoder(pipeline: WanPipeline, clips: Tensor) -> dict[str, float]:
    """Measure the stock autoencoder on rendered clips (uint8): its PSNR, and how linearly its latents encode colour."""
    latents, psnr_values = [], []
    for batch in clips.split(EVALUATION_BATCH_SIZE):
        video = scale_to_vae_range(batch)
        latents.append(pipeline.vae.encode(video).latent_dist.mode())
        mse = (pipeline.vae.decode(latents[-1]).sample - video).square().mean((1, 2, 3, 4))
        psnr_values += (10 * torch.log10(4 / mse)).tolist()
    features = torch.cat(latents).movedim(1, -1).double()
    features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    mean_colours = (
        torch.cat([downsample_to_latents(scale_to_vae_range(batch)) for batch in clips.split(EVALUATION_BATCH_SIZE)])
        .movedim(1, -1)
        .double()
    )
    half_count = len(clips) // 2  # fit on the first half, measure on the second
    read_out = torch.linalg.lstsq(
        features[:half_count].flatten(0, 3).cpu(), mean_colours[:half_count].flatten(0, 3).cpu()
    ).solution
    target_colours = mean_colours[half_count:].flatten(0, 3).cpu()
    residual = features[half_count:].flatten(0, 3).cpu() @ read_out - target_colours
    r2 = 1 - residual.square().sum() / (target_colours - target_colours.mean(0)).square().sum()
    return {
        "PSNR, mean (dB)": float(np.mean(psnr_values)),
        "PSNR, worst clip (dB)": min(psnr_values),
        "latent to RGB, R2": float(r2),
    }


def measure_preferred_shapes(
    pipeline: WanPipeline, clip_count: int, step_count: int, guidance_scale: float
) -> dict[str, float]:
    """Return how often each shape is drawn for the caption "shape"; each key states the shape's training frequency."""
    clips, _ = generate_clips(
        pipeline, ["a large red shape moving left over a dark background"] * clip_count, 0, step_count, guidance_scale
    )
    masks = [find_object_pixels(clip)[CLIP_FRAME_COUNT // 2] for clip in clips]
    shapes = [detect_shape(mask) if mask.sum() >= MIN_VISIBLE_PIXELS else "nothing" for mask in masks]
    return {
        f"{shape} (trained on {FREQUENCY_BY_SHAPE[shape]:.0%})": shapes.count(shape) / clip_count for shape in SHAPES
    }


def load_stock_pipeline(weights_folder: Path) -> WanPipeline:
    """Load the stock pipeline in float32."""
    pipeline = WanPipeline.from_pretrained(weights_folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def draw_contact_sheet(weights_folder: Path, sheet_path: Path, step_count: int, guidance_scale: float) -> None:
    """Write an image with five frames of one clip for each of ten held-out captions (first one per shape)."""
    rng = np.random.default_rng(3)
    one_object_scenes = sample_scenes_of_each_shape(6, rng)
    two_object_scenes = sample_scenes(4, rng, two_object_fraction=1.0, is_evaluation=True)
    captions = [caption.text for caption in (*write_captions(one_object_scenes), *write_captions(two_object_scenes))]
    clips, _ = generate_clips(
        load_stock_pipeline(weights_folder), captions, FIRST_EVALUATION_SEED, step_count, guidance_scale
    )
    frame_indices = np.linspace(0, CLIP_FRAME_COUNT - 1, 5).round().astype(int)
    label_pixels, gap_pixels = 18, 6
    sheet_image = Image.new(
        "RGB",
        (
            len(frame_indices) * (CLIP_SIDE_PIXELS + gap_pixels),
            len(captions) * (CLIP_SIDE_PIXELS + label_pixels + gap_pixels),
        ),
        "white",
    )
    draw = ImageDraw.Draw(sheet_image)
    for row, (caption, clip) in enumerate(zip(captions, clips, strict=True)):
        top_pixels = row * (CLIP_SIDE_PIXELS + label_pixels + gap_pixels)
        draw.text((2, top_pixels + 2), caption, fill="black", font=ImageFont.load_default(12))
        for column, frame in enumerate(frame_indices):
            pixels = (clip[:, frame].permute(1, 2, 0) * 255).round().byte().numpy()
            sheet_image.paste(
                Image.fromarray(pixels), (column * (CLIP_SIDE_PIXELS + gap_pixels), top_pixels + label_pixels)
            )
    sheet_image.save(sheet_path, quality=90)


@torch.no_grad()
def evaluate_nano(
    weights_folder: Path, clip_count: int, step_count: int, guidance_scale: float
) -> dict[str, dict[str, float]]:
    """Measure nano's weights, and return all measurements by section."""
    pipeline = load_stock_pipeline(weights_folder)
    rng = np.random.default_rng(2)
    one_object_scenes = sample_scenes(clip_count, rng, two_object_fraction=0.0, is_evaluation=True)
    two_object_scenes = sample_scenes(clip_count // 2, rng, two_object_fraction=1.0, is_evaluation=True)
    scenes_of_each_shape = sample_scenes_of_each_shape(clip_count, rng)
    rendered_one, rendered_two = (
        (render_scenes(scenes)[0].float() / 255) for scenes in (one_object_scenes, two_object_scenes)
    )
    rendered_clips = render_scenes(sample_scenes(min(clip_count, 128), rng, is_evaluation=True))[0].to(pipeline.device)

    def generate_scene_clips(scenes: Scenes, seed: int) -> Tensor:
        return generate_clips(
            pipeline, [caption.text for caption in write_captions(scenes)], seed, step_count, guidance_scale
        )[0]

    generate_scene_clips(one_object_scenes[:1], 0)  # warm-up
    start_time = time.perf_counter()
    generate_scene_clips(one_object_scenes[:1], 0)
    generation_seconds = time.perf_counter() - start_time
    return {
        f"one object (n = {clip_count})": score_clips(
            generate_scene_clips(one_object_scenes, FIRST_EVALUATION_SEED), one_object_scenes
        ),
        f"two objects, both right (n = {clip_count // 2})": score_clips(
            generate_scene_clips(two_object_scenes, 2 * FIRST_EVALUATION_SEED), two_object_scenes
        ),
        "correct shape of one object": score_by_shape(
            generate_scene_clips(scenes_of_each_shape, 3 * FIRST_EVALUATION_SEED), scenes_of_each_shape
        ),
        "check of the judge: rendered clips of one object": score_clips(rendered_one, one_object_scenes),
        "check of the judge: rendered clips of two objects": score_clips(rendered_two, two_object_scenes),
        "attention": {
            "IoU of the shape word": measure_attention_overlap(
                pipeline, one_object_scenes[: clip_count // 2], step_count, guidance_scale
            )
        },
        "autoencoder": measure_autoencoder(pipeline, rendered_clips),
        "shape if the caption names none": measure_preferred_shapes(
            pipeline, clip_count // 2, step_count, guidance_scale
        ),
        "speed": {f"seconds for one clip, {pipeline.device.type}": generation_seconds},
    }


@click.command()
@click.option(
    "--weights",
    "weights_folder",
    type=click.Path(path_type=Path, exists=True),
    default=NANO_WEIGHTS_FOLDER,
    show_default="the bundled weights",
    help="Diffusers directory of the model to measure.",
)
@click.option(
    "--clips",
    "clip_count",
    default=96,
    show_default=True,
    help="Number of clips with one object; half that number with two objects.",
)
@click.option("--steps", "step_count", default=20, show_default=True, help="Number of denoising steps.")
@click.option("--guidance", "guidance_scale", default=4.0, show_default=True, help="Guidance scale.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--sheet",
    "sheet_path",
    type=click.Path(path_type=Path),
    help="JPEG file to write: frames of clips generated from ten held-out captions.",
)
def main(
    weights_folder: Path,
    clip_count: int,
    step_count: int,
    guidance_scale: float,
    as_json: bool,
    sheet_path: Path | None,
) -> None:
    """Measure nano on held-out captions and seeds."""
    if sheet_path is not None:
        draw_contact_sheet(weights_folder, sheet_path, step_count, guidance_scale)
        return
    measurements = evaluate_nano(weights_folder, clip_count, step_count, guidance_scale)
    if as_json:
        click.echo(json.dumps(measurements, indent=1))
        return
    for section, values in measurements.items():
        click.echo(section)
        for name, value in values.items():
            click.echo(f"  {name:<44} {value:8.3f}")


if __name__ == "__main__":
    main()
