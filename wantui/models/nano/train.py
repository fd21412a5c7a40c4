"""Train nano from scratch and write its diffusers directory: python -m wantui.models.nano.train --output DIR.

The bundled weights were trained with the defaults, except for the differences in the model card. After an interruption,
repeat the call: it resumes from the autoencoder, decoder, encoded clips and training state in DIR.
"""

import time
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from transformers import PreTrainedTokenizerBase

from wantui.atomic_files import atomic_folder, atomic_write
from wantui.models.nano.autoencoder import train_autoencoder, train_decoder
from wantui.models.nano.tokenizer import build_tokenizer
from wantui.models.nano.transformer import TransformerTraining, encode_clips, start_training, train_transformer

STEPS_BETWEEN_CHECKPOINTS = 250
"""Transformer steps between two stored training states."""


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for weights and training state.")
@click.option(
    "--image-steps",
    default=300,
    show_default=True,
    help="Number of autoencoder training steps on single frames.",
)
@click.option("--clip-steps", default=2200, show_default=True, help="Number of autoencoder training steps on clips.")
@click.option("--decoder-steps", default=1500, show_default=True, help="Number of training steps of the decoder alone.")
@click.option(
    "--autoencoder-clips", default=2048, show_default=True, help="Number of training clips for the autoencoder."
)
@click.option("--clips", "n_clips", default=49152, show_default=True, help="Training clips of the transformer.")
@click.option("--transformer-steps", default=6250, show_default=True, help="Transformer steps.")
@click.option("--batch-size", default=256, show_default=True, help="Clips per transformer step.")
def main(
    output: Path,
    image_steps: int,
    clip_steps: int,
    decoder_steps: int,
    autoencoder_clips: int,
    n_clips: int,
    transformer_steps: int,
    batch_size: int,
) -> None:
    """Train nano, and write its diffusers directory."""
    start_time = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        click.echo(f"[{time.monotonic() - start_time:6.1f} s] {line}")

    if not (output / "autoencoder").exists():
        vae = train_autoencoder(image_steps, clip_steps, autoencoder_clips, device, log)
        with atomic_folder(output / "autoencoder") as partial:
            vae.to(torch.bfloat16).save_pretrained(partial)
    if not (output / "vae").exists():
        vae = AutoencoderKLWan.from_pretrained(output / "autoencoder").float()
        train_decoder(vae, decoder_steps, autoencoder_clips, device, log)
        with atomic_folder(output / "vae") as partial:
            vae.to(torch.bfloat16).save_pretrained(partial)
    vae = AutoencoderKLWan.from_pretrained(output / "vae").to(device).eval()
    tokenizer = build_tokenizer()
    clips = encode_clips(vae, tokenizer, n_clips, output / "clips.pt", device, log)
    training = start_training(len(tokenizer), device)
    state = output / "training.pt"
    if state.exists():
        training.load_state(torch.load(state, weights_only=True))
        log(f"resuming from step {training.step}")
    while training.step < transformer_steps:
        stop_step = min(transformer_steps, training.step + STEPS_BETWEEN_CHECKPOINTS)
        train_transformer(training, clips, stop_step, transformer_steps, batch_size, device, log)
        with atomic_write(state) as partial:
            torch.save(training.get_state(), partial)
    training.apply_average()
    save_pipeline(output, tokenizer, training)
    log(f"saved {output}")


def save_pipeline(output: Path, tokenizer: PreTrainedTokenizerBase, training: TransformerTraining) -> None:
    """Write the diffusers directory, with weights in bfloat16."""
    vae = AutoencoderKLWan.from_pretrained(output / "vae")
    vae.register_to_config(_name_or_path="nano")  # otherwise the config would contain the path of the training folder
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=training.text_encoder.eval().to(torch.bfloat16),
        vae=vae.to(torch.bfloat16),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=training.transformer.eval().to(torch.bfloat16),
    ).save_pretrained(output)


if __name__ == "__main__":
    main()
