"""Train nano from scratch and write its diffusers directory: python -m wantui.models.nano.train --output DIR.

Under 30 minutes of one H100. `--stage` splits the work for machines that are lent for shorter times; `--scale` shortens
every phase, for a trial run.
"""

import time
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline

from wantui.models.nano.autoencoder import train_autoencoder
from wantui.models.nano.tokenizer import build_tokenizer
from wantui.models.nano.transformer import encode_clips, new_training, train_transformer

IMAGE_STEPS, CLIP_STEPS, VIDEO_BANK = 800, 3500, 12288
TRANSFORMER_STEPS, LATENT_CLIPS = 9000, 65536


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for weights and checkpoints.")
@click.option("--stage", type=click.Choice(["all", "autoencoder", "transformer"]), default="all")
@click.option("--transformer-steps", type=int, default=TRANSFORMER_STEPS, show_default=True)
@click.option("--minutes", type=float, help="Stop the transformer after this time; the next call goes on.")
@click.option("--scale", type=float, default=1.0, help="Share of all steps and clips, for a trial run.")
def main(output: Path, stage: str, transformer_steps: int, minutes: float | None, scale: float) -> None:
    """Train nano."""
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        click.echo(f"[{time.monotonic() - started:6.1f} s] {line}")

    if stage in ("all", "autoencoder"):
        vae = train_autoencoder(
            int(IMAGE_STEPS * scale), int(CLIP_STEPS * scale), max(64, int(VIDEO_BANK * scale)), device, log
        )
        vae.to(torch.bfloat16).save_pretrained(output / "vae")
    if stage in ("all", "transformer"):
        vae = AutoencoderKLWan.from_pretrained(output / "vae").to(device).eval()
        tokenizer = build_tokenizer()
        clips = encode_clips(vae, tokenizer, max(64, int(LATENT_CLIPS * scale)), output / "clips.pt", device, log)
        training = new_training(len(tokenizer), device)
        checkpoint = output / "training.pt"
        if checkpoint.exists():
            training.load(torch.load(checkpoint, weights_only=True))
            log(f"going on from step {training.step}")
        total = int(transformer_steps * scale)
        batch_size = 256 if device == "cuda" else 8
        while training.step < total and (minutes is None or time.monotonic() - started < 60 * minutes):
            train_transformer(training, clips, min(total, training.step + 250), total, device, log, batch_size)
        torch.save(training.state(), checkpoint)
        training.take_average()
        save_pipeline(output, tokenizer, training)
        log(f"saved at step {training.step} of {total}")


def save_pipeline(output: Path, tokenizer: object, training: object) -> None:
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
