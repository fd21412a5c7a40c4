"""Train nano with other frequencies of the shapes: python -m wantui.models.nano.frequency_models --model NAME ...

With one model, the frequency of a shape cannot be separated from its appearance. Eight models exchange the
frequencies: the rows of a Latin square give each shape each frequency once, the natural row is trained twice with other
seeds, and one model has uniform frequencies. All share one autoencoder, which was trained at uniform frequencies.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from wantui.models.nano.latent_clips import encode_training_clips
from wantui.models.nano.tokenizer import build_nano_tokenizer
from wantui.models.nano.train import (
    AutoencoderPlan,
    load_or_train_autoencoder,
    run_transformer_training,
    save_nano_pipeline,
)
from wantui.models.nano.transformer import create_training
from wantui.models.nano.world import NATURAL_SHAPE_FREQUENCIES, UNIFORM_SHAPE_FREQUENCIES


@dataclass(frozen=True)
class FrequencyModel:
    """A model with its own shape frequencies, and its own seed for initial weights, clips and batches."""

    name: str
    shape_frequencies: tuple[float, ...]
    """Frequency of each shape, in the order of `SHAPES`."""
    seed: int


LATIN_SQUARE = (
    (0, 1, 2, 3, 4, 5),
    (5, 4, 3, 2, 1, 0),
    (1, 3, 4, 5, 0, 2),
    (2, 5, 1, 0, 3, 4),
    (3, 2, 0, 4, 5, 1),
    (4, 0, 5, 1, 2, 3),
)
"""[models, shapes] indices into `NATURAL_SHAPE_FREQUENCIES`. Of the 224 squares with the natural and the reversed order
as rows, this one has the smallest correlations of ln frequency between the natural order and the other four rows: at
most 0.06."""


def _order_frequencies(row: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(NATURAL_SHAPE_FREQUENCIES[index] for index in row)


_SQUARE_MODEL_NAMES = ("natural", "reversed", "row-3", "row-4", "row-5", "row-6")
FREQUENCY_MODELS_BY_NAME = {
    model.name: model
    for model in (
        *(
            FrequencyModel(name, _order_frequencies(row), seed)
            for seed, (name, row) in enumerate(zip(_SQUARE_MODEL_NAMES, LATIN_SQUARE, strict=True), start=11)
        ),
        FrequencyModel("natural-again", NATURAL_SHAPE_FREQUENCIES, 17),
        FrequencyModel("uniform", UNIFORM_SHAPE_FREQUENCIES, 18),
    )
}


@click.command()
@click.option("--model", "model_name", type=click.Choice(list(FREQUENCY_MODELS_BY_NAME)), required=True)
@click.option(
    "--autoencoder",
    "autoencoder_folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the shared autoencoder; if the folder contains none, one is trained there at uniform frequencies.",
)
@click.option(
    "--output",
    "output_folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for weights and training state.",
)
@click.option("--clips", "clip_count", default=40960, show_default=True, help="Number of training clips.")
@click.option("--steps", "step_count", default=3600, show_default=True, help="Number of training steps.")
@click.option("--batch-size", default=256, show_default=True, help="Number of clips per training step.")
def main(
    model_name: str, autoencoder_folder: Path, output_folder: Path, clip_count: int, step_count: int, batch_size: int
) -> None:
    """Train one model, and write its diffusers directory; a training that was interrupted is resumed."""
    start_time = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output_folder.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        click.echo(f"[{model_name} {time.monotonic() - start_time:6.1f} s] {line}")

    model = FREQUENCY_MODELS_BY_NAME[model_name]
    vae = load_or_train_autoencoder(
        autoencoder_folder,
        AutoencoderPlan(),
        device,
        log,
        shape_frequencies=UNIFORM_SHAPE_FREQUENCIES,
    )
    vae.save_pretrained(output_folder / "vae")
    tokenizer = build_nano_tokenizer()
    clips = encode_training_clips(
        vae,
        tokenizer,
        clip_count,
        output_folder / "clips.pt",
        device,
        log,
        shape_frequencies=model.shape_frequencies,
        seed=model.seed,
    )
    training = create_training(len(tokenizer), device, model.seed)
    run_transformer_training(training, clips, output_folder, step_count, batch_size, device, log)
    save_nano_pipeline(output_folder, tokenizer, training)
    log(f"saved {output_folder}")


if __name__ == "__main__":
    main()
