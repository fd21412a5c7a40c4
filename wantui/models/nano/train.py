"""Train nano from scratch and write its diffusers directory: python -m wantui.models.nano.train --output DIR.

The defaults are for one GPU; the model card gives the numbers that the shipped weights were trained with. `--stage` and
`--minutes` split the work for machines that are lent for shorter times.
"""

import time
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from transformers import PreTrainedTokenizerBase

from wantui.models.nano.autoencoder import train_autoencoder
from wantui.models.nano.tokenizer import build_tokenizer
from wantui.models.nano.transformer import TransformerTraining, encode_clips, new_training, train_transformer

VIDEO_BANK = 12288
"""Clips drawn for the autoencoder, at most."""
BATCH_SIZE, PEAK_RATE = {"cuda": 256, "cpu": 16}, {"cuda": 7e-3, "cpu": 4e-3}
"""Of the transformer."""


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for weights and checkpoints.")
@click.option("--stage", type=click.Choice(["all", "autoencoder", "transformer"]), default="all")
@click.option("--image-steps", default=400, show_default=True, help="Steps of the autoencoder on single frames.")
@click.option("--clip-steps", default=2000, show_default=True, help="Steps of the autoencoder on whole clips.")
@click.option("--clips", "n_clips", default=65536, show_default=True, help="Clips encoded for the transformer.")
@click.option("--transformer-steps", default=9000, show_default=True)
@click.option("--minutes", type=float, help="Stop the transformer after this time; the next call goes on.")
def main(
    output: Path,
    stage: str,
    image_steps: int,
    clip_steps: int,
    n_clips: int,
    transformer_steps: int,
    minutes: float | None,
) -> None:
    """Train nano."""
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        click.echo(f"[{time.monotonic() - started:6.1f} s] {line}")

    if stage in ("all", "autoencoder"):
        vae = train_autoencoder(image_steps, clip_steps, min(VIDEO_BANK, 2 * n_clips), device, log)
        vae.to(torch.bfloat16).save_pretrained(output / "vae")
    if stage in ("all", "transformer"):
        vae = AutoencoderKLWan.from_pretrained(output / "vae").to(device).eval()
        tokenizer = build_tokenizer()
        clips = encode_clips(vae, tokenizer, n_clips, output / "clips.pt", device, log)
        training = new_training(len(tokenizer), device)
        checkpoint = output / "training.pt"
        if checkpoint.exists():
            training.load(torch.load(checkpoint, weights_only=True))
            log(f"going on from step {training.step}")
        while training.step < transformer_steps and (minutes is None or time.monotonic() - started < 60 * minutes):
            until = min(transformer_steps, training.step + 250)
            train_transformer(
                training, clips, until, transformer_steps, device, log, BATCH_SIZE[device], PEAK_RATE[device]
            )
        torch.save(training.state(), checkpoint)
        training.take_average()
        save_pipeline(output, tokenizer, training)
        log(f"saved at step {training.step} of {transformer_steps}")


def save_pipeline(output: Path, tokenizer: PreTrainedTokenizerBase, training: TransformerTraining) -> None:
    """Write the diffusers directory, weights in bfloat16."""
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=training.text_encoder.eval().to(torch.bfloat16),
        vae=AutoencoderKLWan.from_pretrained(output / "vae").to(torch.bfloat16),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=training.transformer.eval().to(torch.bfloat16),
    ).save_pretrained(output)


if __name__ == "__main__":
    main()
