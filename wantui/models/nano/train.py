"""Train nano from scratch and write its diffusers directory: python -m wantui.models.nano.train --output DIR.

The bundled weights were trained with the defaults, except for the differences in the model card. After an interruption,
repeat the call: it resumes from the autoencoder, decoder, encoded clips and training state in DIR.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from transformers import PreTrainedTokenizerBase

from wantui.atomic_files import atomic_folder, atomic_write
from wantui.models.nano.autoencoder import train_autoencoder, train_decoder
from wantui.models.nano.latent_clips import LatentClips, encode_training_clips
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.models.nano.transformer import TransformerTraining, create_training, train_transformer
from wantui.models.nano.world import NATURAL_SHAPE_FREQUENCIES

STEPS_BETWEEN_CHECKPOINTS = 250
"""Transformer steps between two stored training states."""


@dataclass(frozen=True)
class AutoencoderPlan:
    """Numbers of steps and clips of an autoencoder's training; the defaults are nano's."""

    image_step_count: int = 300
    clip_step_count: int = 2200
    decoder_step_count: int = 1500
    clip_count: int = 2048


@click.command()
@click.option(
    "--output",
    "output_folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for weights and training state.",
)
@click.option(
    "--image-steps",
    "image_step_count",
    default=AutoencoderPlan.image_step_count,
    show_default=True,
    help="Number of autoencoder training steps on single frames.",
)
@click.option(
    "--clip-steps",
    "clip_step_count",
    default=AutoencoderPlan.clip_step_count,
    show_default=True,
    help="Number of autoencoder training steps on clips.",
)
@click.option(
    "--decoder-steps",
    "decoder_step_count",
    default=AutoencoderPlan.decoder_step_count,
    show_default=True,
    help="Number of training steps for the decoder alone.",
)
@click.option(
    "--autoencoder-clips",
    "autoencoder_clip_count",
    default=AutoencoderPlan.clip_count,
    show_default=True,
    help="Number of training clips for the autoencoder.",
)
@click.option(
    "--clips", "clip_count", default=49152, show_default=True, help="Number of training clips for the transformer."
)
@click.option(
    "--transformer-steps",
    "transformer_step_count",
    default=6250,
    show_default=True,
    help="Number of training steps for the transformer.",
)
@click.option("--batch-size", default=256, show_default=True, help="Number of clips per transformer training step.")
def main(
    output_folder: Path,
    image_step_count: int,
    clip_step_count: int,
    decoder_step_count: int,
    autoencoder_clip_count: int,
    clip_count: int,
    transformer_step_count: int,
    batch_size: int,
) -> None:
    """Train nano, and write its diffusers directory."""
    start_time = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output_folder.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        click.echo(f"[{time.monotonic() - start_time:6.1f} s] {line}")

    plan = AutoencoderPlan(image_step_count, clip_step_count, decoder_step_count, autoencoder_clip_count)
    vae = load_or_train_autoencoder(output_folder, plan, device, log)
    tokenizer = build_nano_tokenizer()
    clips = encode_training_clips(vae, tokenizer, clip_count, output_folder / "clips.pt", device, log)
    training = create_training(len(tokenizer), device)
    run_transformer_training(training, clips, output_folder, transformer_step_count, batch_size, device, log)
    save_nano_pipeline(output_folder, tokenizer, training)
    log(f"saved {output_folder}")


def load_or_train_autoencoder(
    output_folder: Path,
    plan: AutoencoderPlan,
    device: str,
    log_line: Callable[[str], None],
    shape_frequencies: Sequence[float] = NATURAL_SHAPE_FREQUENCIES,
) -> AutoencoderKLWan:
    """Return the autoencoder in `output_folder / "vae"` for evaluation; train it first if it does not exist.

    Args:
        shape_frequencies: frequencies of the shapes in its training clips, in the order of `SHAPES`.
    """
    if not (output_folder / "vae").exists():
        if not (output_folder / "autoencoder").exists():
            vae = train_autoencoder(
                plan.image_step_count, plan.clip_step_count, plan.clip_count, device, log_line, shape_frequencies
            )
            with atomic_folder(output_folder / "autoencoder") as partial:
                vae.to(torch.bfloat16).save_pretrained(partial)
        vae = AutoencoderKLWan.from_pretrained(output_folder / "autoencoder").float()
        train_decoder(vae, plan.decoder_step_count, plan.clip_count, device, log_line, shape_frequencies)
        with atomic_folder(output_folder / "vae") as partial:
            vae.to(torch.bfloat16).save_pretrained(partial)
    trained: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(output_folder / "vae").to(device).eval()
    return trained


def run_transformer_training(
    training: TransformerTraining,
    clips: LatentClips,
    output_folder: Path,
    step_count: int,
    batch_size: int,
    device: str,
    log_line: Callable[[str], None],
) -> None:
    """Train to the end of a `step_count`-step schedule, and apply the average of the weights.

    A training state in `output_folder` is resumed; one is stored every `STEPS_BETWEEN_CHECKPOINTS` steps.
    """
    state_path = output_folder / "training.pt"
    if state_path.exists():
        training.load_state(torch.load(state_path, weights_only=True))
        log_line(f"resuming from step {training.step_number}")
    while training.step_number < step_count:
        stop_step = min(step_count, training.step_number + STEPS_BETWEEN_CHECKPOINTS)
        train_transformer(training, clips, stop_step, step_count, batch_size, device, log_line)
        with atomic_write(state_path) as partial:
            torch.save(training.get_state(), partial)
    training.apply_average()


def save_nano_pipeline(output_folder: Path, tokenizer: PreTrainedTokenizerBase, training: TransformerTraining) -> None:
    """Write the diffusers directory, with weights in bfloat16."""
    vae = AutoencoderKLWan.from_pretrained(output_folder / "vae")
    vae.register_to_config(_name_or_path="nano")  # otherwise the config would contain the path of the training folder
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=training.text_encoder.eval().to(torch.bfloat16),
        vae=vae.to(torch.bfloat16),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=training.transformer.eval().to(torch.bfloat16),
    ).save_pretrained(output_folder)


if __name__ == "__main__":
    main()
