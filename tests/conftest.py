"""Tiny Wan pipelines of random weights, one for each form of the model, nano's own, and the program to be run."""

import errno
import io
import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GOMP_SPINCOUNT"] = "0"  # threads that spin while another process has the core make steps slow
os.environ.setdefault("HF_HOME", "/nonexistent/hub")  # no test may find, or need, what a machine has cached

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from wantui import __version__
from wantui.cli import main
from wantui.engine import control
from wantui.engine.video_worker import Worker
from wantui.generation.denoise import denoise
from wantui.generation.load import load_pipeline
from wantui.generation.samplers import build_scheduler
from wantui.models.catalogue import NANO, WanModel, read_directory
from wantui.models.nano.tokenizer import build_tokenizer
from wantui.planning import Recipe
from wantui.queue.events import StepDone
from wantui.queue.place import Place
from wantui.queue.queue import Queue
from wantui.storage.layout import BatchFolder

FORMS = ("wan2.1", "a14b", "5b")

torch.set_num_threads(1)  # tiny models only lose by more


def tiny_transformer(channels: int, seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return transformer


def tiny_autoencoder(form: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    if form == "5b":
        return AutoencoderKLWan(
            base_dim=3,
            z_dim=48,
            in_channels=12,
            out_channels=12,
            is_residual=True,
            patch_size=2,
            latents_mean=[0.1] * 48,
            latents_std=[1.3] * 48,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
            temperal_downsample=[False, True, True],
        )
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def tiny_pipeline(form: str) -> WanPipeline:
    """Random weights that answer to text, time and place, of the form of a published Wan model."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    channels = 48 if form == "5b" else 16
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=tiny_autoencoder(form),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        transformer=tiny_transformer(channels, 1),
        transformer_2=tiny_transformer(channels, 2) if form == "a14b" else None,
        boundary_ratio=0.875 if form == "a14b" else None,
        expand_timesteps=form == "5b",
    )


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WanModel]:
    """Diffusers directories of a tiny model of each form, as the catalogue sees them."""
    models = {}
    for form in FORMS:
        directory = tmp_path_factory.mktemp("models") / form
        tiny_pipeline(form).save_pretrained(directory)
        models[form] = read_directory(directory)
    return models


@pytest.fixture(scope="session")
def tiny(tiny_models: dict[str, WanModel]) -> WanPipeline:
    """The Wan 2.1 form in float32, loaded as every model is."""
    return load_pipeline(tiny_models["wan2.1"], None, "float32", torch.device("cpu"))


@pytest.fixture(scope="session")
def nano() -> WanPipeline:
    return load_pipeline(NANO, None, "float32", torch.device("cpu"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in a folder and with a queue of its own, so that whatever it leaves behind is seen there."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def work(place: Place) -> None:
    """Make in this process all that is on the queue, as a worker does in its own."""
    queue, devices = Queue(place.directory), ("auto", "cpu")
    worker = Worker(queue, "worker-0:test", devices, "cpu", logging.getLogger("worker"))
    while (claim := queue.claim(worker.name, devices)) is not None:
        worker.work_on(claim)
    worker.settle()


def step_done(index: int, count: int, seconds: float, sigma: float, **figures: Any) -> StepDone:
    """The event of a step, from 0, of `count`."""
    return StepDone(step=index + 1, steps=count, seconds=seconds, sigma=sigma, **figures)


@contextmanager
def only_queued() -> Iterator[None]:
    """What is put on the queue stays there: no engine is started."""
    engine = control.Engine(os.getpid(), 0.0, Path("logs"), __version__, ("auto", "cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "ensure_engine", lambda *_: (engine, False))
        yield


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Wantui = Callable[..., Result]


@pytest.fixture
def wantui(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Wantui:
    """Run the program with arguments; in the place of an engine, this process works the queue off."""

    def engine_of_this_process(place: Place, logs: Path, workers: int | None = None) -> tuple[control.Engine, bool]:
        work(place)
        return control.Engine(os.getpid(), 0.0, logs, __version__, ("auto", "cpu")), False

    monkeypatch.setattr(control, "ensure_engine", engine_of_this_process)

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def small(tiny_models: dict[str, WanModel]) -> list[str]:
    """Options for a video in a fraction of a second."""
    settings = {
        "model_settings.model_id": tiny_models["wan2.1"].location,
        "model_settings.steps": 3,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "video_settings.frames": 9,
        "model_settings.device": "cpu",
    }
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def files(root: Path | str = ".") -> list[str]:
    return sorted(str(path) for path in Path(root).rglob("*") if path.is_file())


def batch(result: Result) -> BatchFolder:
    return BatchFolder(Path(result.out.strip()))


TEMPLATE = "a [red|blue] (circle)"


def stock(pipeline: WanPipeline, recipe: Recipe, output_type: str) -> Any:
    """What `WanPipeline.__call__` makes of a recipe."""
    pipeline.scheduler = build_scheduler(recipe.sampler, recipe.flow_shift)
    return pipeline(
        recipe.prompt,
        recipe.negative_prompt,
        height=recipe.height,
        width=recipe.width,
        num_frames=recipe.frames,
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        guidance_scale_2=recipe.guidance_scale_2,
        generator=torch.Generator("cpu").manual_seed(recipe.seed),
        output_type=output_type,
    ).frames


def latents_of(pipeline: WanPipeline, recipe: Recipe) -> torch.Tensor:
    """The last ones of our loop."""
    *_, last = denoise(pipeline, recipe)
    return last.latents


def recipe_for(model: WanModel, **changes: object) -> Recipe:
    """A short recipe for a tiny model: 9 frames of 32x32 (64x64 for the 5B form)."""
    side = 2 * model.size_multiple
    values = {
        "model": model.location,
        "revision": None,
        "prompt": "a red star moving left",
        "negative_prompt": "",
        "seed": 7,
        "sampler": "unipc",
        "steps": 4,
        "flow_shift": 3.0,
        "guidance_scale": 4.0,
        "width": side,
        "height": side,
        "frames": 9,
        "fps": 8,
        "dtype": "float32",
    }
    return Recipe.model_validate(values | changes)


def deny(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """Let nobody look into a folder; root, as whom tests may run, enters folders of any mode."""
    denied = denied.absolute()

    def guard(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def guarded(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int):
                asked = Path(os.fsdecode(path)).absolute()
                if denied in asked.parents or (name in ("scandir", "listdir") and asked == denied):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(module, name, guarded)

    for name in ("stat", "lstat", "open", "scandir", "listdir"):
        guard(os, name)
    guard(io, "open")
