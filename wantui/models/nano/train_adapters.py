"""Train nano's two adapters: python -m wantui.models.nano.train_adapters --output DIR.

nano-style draws objects whose lower part is white. nano-4step generates in four steps of the sampler `lcm` without
guidance. README.md in the folder `adapters` describes both.
"""

import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from wantui.models.nano import NANO_WEIGHTS_FOLDER
from wantui.models.nano.dip import is_object_dipped, render_dipped_scenes
from wantui.models.nano.distillation import (
    TEACHER_GUIDANCE_SCALE,
    AdapterOptimizer,
    Denoiser,
    compute_distillation_loss,
    compute_distillation_pairs,
    generate_student_states,
    make_empty_captions,
    sample_caption_ids,
    solve_guided_flow,
)
from wantui.models.nano.evaluate import decode_latents, sample_scenes_of_each_shape, score_clips
from wantui.models.nano.latent_clips import (
    TRAINING_TEXT_POSITION_COUNT,
    LatentClips,
    encode_training_clips,
)
from wantui.models.nano.low_rank import add_adapter, iterate_low_rank_layers, load_adapter, save_adapter
from wantui.models.nano.transformer import CAPTION_DROPOUT_FRACTION, draw_sigmas, run_block_with_logit_bias
from wantui.models.nano.world import Scenes, sample_scenes, write_captions

STYLE_TIME_SHARE = 0.2
"""Share of the training time that the style adapter gets."""
GENERATION_STEP_COUNT = 20
"""Steps of generation without the four-step adapter."""

LogLine = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationScenes:
    """Held-out scenes, by name, with the token ids of their captions."""

    scenes_by_name: dict[str, Scenes]
    ids_by_name: dict[str, Tensor]

    @classmethod
    def sample(cls, clip_count: int, tokenizer: PreTrainedTokenizerBase, device: str) -> "EvaluationScenes":
        rng = np.random.default_rng(5)
        scenes_by_name = {
            "one": sample_scenes(clip_count, rng, two_object_fraction=0.0, is_evaluation=True),
            "two": sample_scenes(max(1, clip_count // 2), rng, two_object_fraction=1.0, is_evaluation=True),
            "each shape": sample_scenes_of_each_shape(max(6, clip_count), rng),
        }
        ids_by_name = {
            name: torch.tensor(
                tokenizer(
                    [caption.text for caption in write_captions(scenes)],
                    padding="max_length",
                    max_length=TRAINING_TEXT_POSITION_COUNT,
                )["input_ids"],
                device=device,
            )
            for name, scenes in scenes_by_name.items()
        }
        return cls(scenes_by_name, ids_by_name)

    @torch.no_grad()
    def score(
        self, vae: AutoencoderKLWan, generate: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[dict[str, dict[str, float]], float]:
        """Return the scores by name, and the fraction of dipped objects in the scenes of one object.

        Args:
            generate: function that returns latents for initial noise and token ids.
        """
        torch.manual_seed(6)
        scores_by_name, dipped_fraction = {}, 0.0
        for name, scenes in self.scenes_by_name.items():
            ids = self.ids_by_name[name]
            clips = []
            for batch_ids in ids.split(64):
                noise = torch.randn(len(batch_ids), 16, 5, 16, 16, device=ids.device)
                clips.append(decode_latents(vae, generate(noise, batch_ids)).cpu())
            scores_by_name[name] = score_clips(torch.cat(clips), scenes)
            if name == "one":
                colours = scenes.colour[:, 0].tolist()
                dips = [is_object_dipped(clip, colour) for clip, colour in zip(torch.cat(clips), colours, strict=True)]
                dipped_fraction = float(np.mean(dips))
        return scores_by_name, dipped_fraction


def format_scores(scores_by_name: dict[str, dict[str, float]], dipped_fraction: float) -> str:
    """Return scores as one line: background, colour, direction and shape of each kind of scene."""
    parts = [
        f"{name} " + "/".join(f"{value:.3f}" for value in values.values()) for name, values in scores_by_name.items()
    ]
    return f"{', '.join(parts)}, dipped {dipped_fraction:.3f}"


@dataclass(frozen=True)
class AdapterTraining:
    """Models, data and settings that the training of both adapters shares."""

    teacher: Denoiser
    vae: AutoencoderKLWan
    tokenizer: PreTrainedTokenizerBase
    evaluation: EvaluationScenes
    output_folder: Path
    batch_size: int
    rank: int
    device: str
    log: LogLine

    def create_student(self) -> Denoiser:
        """Return a copy of the teacher with an adapter that changes nothing yet."""
        transformer = copy.deepcopy(self.teacher.transformer)
        add_adapter(transformer, self.rank)
        return Denoiser(transformer.to(self.device), self.teacher.text_encoder, self.teacher.block_forward)

    def encode_clips(self, clip_count: int) -> LatentClips:
        """Return encoded clips of dipped scenes, from a file if it exists."""
        vae = copy.deepcopy(self.vae)  # encoding whole clips changes the module
        path = self.output_folder / "clips.pt"
        return encode_training_clips(vae, self.tokenizer, clip_count, path, self.device, self.log, render_dipped_scenes)


def make_guided_generator(denoiser: Denoiser) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that generates latents with guidance."""
    eager = Denoiser(denoiser.transformer, denoiser.text_encoder)
    return lambda noise, ids: solve_guided_flow(eager, noise, 1.0, ids, GENERATION_STEP_COUNT, TEACHER_GUIDANCE_SCALE)


def make_student_generator(denoiser: Denoiser) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that generates latents with the four steps of the student."""
    eager = Denoiser(denoiser.transformer, denoiser.text_encoder)
    return lambda noise, ids: generate_student_states(eager, noise, ids)[-1]


def list_adapter_parameters(denoiser: Denoiser) -> list[torch.nn.Parameter]:
    """Return the trained matrices of a student."""
    return [matrix for _, layer in iterate_low_rank_layers(denoiser.transformer) for matrix in (layer.down, layer.up)]


def compute_style_loss(student: Denoiser, clips: LatentClips, batch_size: int) -> Tensor:
    """Compute the flow-matching loss of a random batch."""
    device = clips.latents.device
    indices = torch.randint(len(clips.latents), (batch_size,), device=device)
    ids = clips.ids[indices, torch.randint(clips.ids.shape[1], (batch_size,), device=device)].long()
    is_dropped = torch.rand(batch_size, device=device) < CAPTION_DROPOUT_FRACTION
    ids = torch.where(is_dropped[:, None], make_empty_captions(1, device), ids)
    latents = clips.latents[indices].float()
    noise, sigmas = torch.randn_like(latents), draw_sigmas(batch_size, str(device))
    noisy_latents = torch.lerp(latents, noise, sigmas.view(-1, 1, 1, 1, 1))
    return F.mse_loss(student.predict(noisy_latents, sigmas, ids), noise - latents)


def train_style(training: AdapterTraining, clip_count: int, step_count: int, max_seconds: float) -> None:
    """Train nano-style by flow matching on dipped scenes."""
    clips = training.encode_clips(clip_count)
    student = training.create_student()
    torch.manual_seed(2)
    optimizer = AdapterOptimizer(
        list_adapter_parameters(student),
        functools.partial(compute_style_loss, student, clips, training.batch_size),
        step_count,
        max_seconds,
    )
    mean_loss = optimizer.train()
    scores = training.evaluation.score(training.vae, make_guided_generator(student))
    training.log(f"style, update {optimizer.step_number}: loss {mean_loss:.4f}; {format_scores(*scores)}")
    save_adapter(student.transformer, training.output_folder / "nano-style.safetensors")


def train_four_step(
    training: AdapterTraining,
    start_path: Path | None,
    caption_count: int,
    round_count: int,
    step_count: int,
    max_seconds: float,
) -> None:
    """Train nano-4step by distillation; keep the weights with the best mean score, from the start or any round."""
    start_time = time.monotonic()
    rng = np.random.default_rng(3)
    student = training.create_student()
    best_score = -math.inf

    def keep_best(description: str) -> None:
        nonlocal best_score
        scores, dipped_fraction = training.evaluation.score(training.vae, make_student_generator(student))
        mean_score = float(np.mean([value for values in scores.values() for value in values.values()]))
        training.log(f"distillation, {description}; {format_scores(scores, dipped_fraction)}; mean {mean_score:.4f}")
        if mean_score >= best_score:
            best_score = mean_score
            save_adapter(student.transformer, training.output_folder / "nano-4step.safetensors")

    if start_path is not None:
        load_adapter(student.transformer, start_path)
        keep_best("start")
    for round_number in range(1, round_count + 1):
        round_end = start_time + max_seconds * round_number / round_count
        ids = sample_caption_ids(caption_count, training.tokenizer, rng, training.device)
        pairs = compute_distillation_pairs(training.teacher, student, ids, training.batch_size, seed=round_number)
        training.log(f"distillation, round {round_number}: {len(pairs.sigmas)} pairs")
        optimizer = AdapterOptimizer(
            list_adapter_parameters(student),
            functools.partial(compute_distillation_loss, student, pairs, training.batch_size),
            max(1, step_count // round_count),
            max(1.0, round_end - time.monotonic()),
        )
        mean_loss = optimizer.train()
        keep_best(f"round {round_number}, update {optimizer.step_number}: loss {mean_loss:.4f}")


@click.command()
@click.option("--output", "output_folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
@click.option("--adapter", type=click.Choice(["both", "style", "4step"]), default="both", show_default=True)
@click.option("--clips", "clip_count", default=16384, show_default=True, help="Training clips of the style.")
@click.option(
    "--start",
    "start_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Adapter from which the distillation starts, instead of nano.",
)
@click.option("--captions", "caption_count", default=8192, show_default=True, help="Captions per distillation round.")
@click.option(
    "--rounds", "round_count", type=click.IntRange(1), default=4, show_default=True, help="Rounds of the distillation."
)
@click.option(
    "--style-steps", "style_step_count", default=1500, show_default=True, help="Training steps of the style adapter."
)
@click.option(
    "--steps",
    "step_count",
    type=click.IntRange(1),
    default=6000,
    show_default=True,
    help="Training steps of the distillation.",
)
@click.option("--batch-size", default=256, show_default=True, help="Clips per training step.")
@click.option("--rank", default=6, show_default=True, help="Rank of the adapters.")
@click.option("--max-seconds", default=420.0, show_default=True, help="Training time of all adapters, in seconds.")
@click.option("--evaluation-clips", "evaluation_clip_count", default=64, show_default=True, help="Evaluated clips.")
def main(
    output_folder: Path,
    adapter: str,
    clip_count: int,
    start_path: Path | None,
    caption_count: int,
    round_count: int,
    style_step_count: int,
    step_count: int,
    batch_size: int,
    rank: int,
    max_seconds: float,
    evaluation_clip_count: int,
) -> None:
    """Train nano's adapters, and write their files."""
    start_time = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch._dynamo.config.recompile_limit = 32  # one graph for each batch size, with and without gradients
    output_folder.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        click.echo(f"[{time.monotonic() - start_time:6.1f} s] {line}")

    vae, transformer, text_encoder = (
        kind.from_pretrained(NANO_WEIGHTS_FOLDER / name).float().to(device).eval().requires_grad_(False)
        for kind, name in (
            (AutoencoderKLWan, "vae"),
            (WanTransformer3DModel, "transformer"),
            (UMT5EncoderModel, "text_encoder"),
        )
    )
    tokenizer = AutoTokenizer.from_pretrained(NANO_WEIGHTS_FOLDER / "tokenizer")
    block_forward = (
        torch.compile(run_block_with_logit_bias, dynamic=False) if device == "cuda" else run_block_with_logit_bias
    )
    training = AdapterTraining(
        teacher=Denoiser(transformer, text_encoder, block_forward),
        vae=vae,
        tokenizer=tokenizer,
        evaluation=EvaluationScenes.sample(evaluation_clip_count, tokenizer, device),
        output_folder=output_folder,
        batch_size=batch_size,
        rank=rank,
        device=device,
        log=log,
    )
    for name, generate in (("with guidance", make_guided_generator), ("in four steps", make_student_generator)):
        log(f"nano {name}: {format_scores(*training.evaluation.score(vae, generate(training.teacher)))}")
    training_start = time.monotonic()
    style_seconds = max_seconds * STYLE_TIME_SHARE if adapter == "both" else max_seconds
    if adapter != "4step":
        train_style(training, clip_count, style_step_count, style_seconds)
    if adapter != "style":
        remaining_seconds = max_seconds - (time.monotonic() - training_start) if adapter == "both" else max_seconds
        train_four_step(training, start_path, caption_count, round_count, step_count, remaining_seconds)
    log(f"saved {output_folder}")


if __name__ == "__main__":
    main()
