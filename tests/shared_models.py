"""Models that the worker of a test, in the process of the test, loads once and then copies.

Loading and checking a tiny model takes longer than its video.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from tiny import remember_embeddings

from wantui.file_state import FileState
from wantui.generation.load import PLACING_STAGE, READING_STAGE, load_pipeline
from wantui.generation.preview import LatentToRgbMap, fit_latents_to_rgb
from wantui.models.catalogue import WanModel
from wantui.planning.memory_plan import RESIDENT_PLAN, MemoryPlan
from wantui.worker import pipelines

MAX_MODELS = 8
"""Most models that are kept in memory."""
KEY_OPTIONS = ("speed", "weights", "attention_kernel")
"""Options of `load_pipeline` that are part of the key of a model."""
OPTIONS_OF_SHARED: dict[str, object] = {"transformer_file": None, "lora": None, "shared_parts": MappingProxyType({})}
"""Options of `load_pipeline`, and the values with which a model is shared."""


@dataclass
class SharedModel:
    """A loaded model, which no test changes."""

    pipeline: WanPipeline
    latent_to_rgb: LatentToRgbMap | None = None
    """Map of latents to colours, after it was fitted."""


models: dict[tuple[object, ...], SharedModel] = {}
"""Loaded models, the earliest first."""


def list_file_states(model: WanModel) -> tuple[tuple[Path, FileState], ...]:
    """Return the path and state of each file of a local model."""
    return tuple((path, FileState.from_path(path)) for path in sorted(Path(model.location).rglob("*")))


def copy_model(
    model: WanModel,
    revision: str | None,
    dtype: str,
    device: torch.device,
    plan: MemoryPlan = RESIDENT_PLAN,
    *,
    begin_stage: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> WanPipeline:
    """Return a copy of a model of an earlier test, as `load_pipeline` returns it; load it if there is none, or if its
    files have changed since.

    Models with adapters, of GGUF files, of other memory plans than the resident one, or with parts that are given, are
    loaded each time. Text encoder and tokenizer are shared with the other copies.
    """
    are_plain = all(options.get(name, value) == value for name, value in OPTIONS_OF_SHARED.items())
    if not (are_plain and model.is_local and device.type == "cpu" and plan is RESIDENT_PLAN):
        return load_pipeline(model, revision, dtype, device, plan, begin_stage=begin_stage, **options)
    key = (model, list_file_states(model), dtype, *map(options.get, KEY_OPTIONS))
    if key in models:
        begin_stage(READING_STAGE)
        begin_stage(PLACING_STAGE)
    else:
        pipeline = load_pipeline(model, revision, dtype, device, plan, begin_stage=begin_stage, **options)
        models[key] = SharedModel(remember_embeddings(pipeline))
        if len(models) > MAX_MODELS:
            del models[next(iter(models))]
    loaded = models[key].pipeline
    copied = copy.deepcopy(loaded, {id(part): part for part in (loaded.text_encoder, loaded.tokenizer)})
    copied.__dict__["shared_model"] = models[key]
    return copied


def get_latents_to_rgb(pipeline: WanPipeline) -> LatentToRgbMap:
    """Return the map of latents to colours of a pipeline; the copies of a model share it."""
    model: SharedModel | None = pipeline.__dict__.get("shared_model")
    if model is None:
        return fit_latents_to_rgb(pipeline)
    if model.latent_to_rgb is None:
        model.latent_to_rgb = fit_latents_to_rgb(model.pipeline)
    return model.latent_to_rgb


@contextmanager
def models_shared() -> Iterator[None]:
    """Let workers and commands of this process copy the models of earlier tests, unless a test replaces the loading."""
    with pytest.MonkeyPatch.context() as patch:
        if vars(pipelines)["load_pipeline"] is load_pipeline:
            patch.setattr(pipelines, "load_pipeline", copy_model)
            patch.setattr(pipelines, "fit_latents_to_rgb", get_latents_to_rgb)
        yield
