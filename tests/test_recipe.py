"""Recipes from files: invalid recipes are refused with the name of the field, and earlier formats are read."""

import json
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import Wantui, recipe_for
from diffusers import WanPipeline

from wantui.batches.rerun import rerender_clip
from wantui.generation import quantize as narrow
from wantui.generation.denoise import prepare_inputs
from wantui.generation.errors import LoadError
from wantui.generation.samplers import SAMPLERS_BY_NAME, build_scheduler
from wantui.models import fetch
from wantui.models.catalogue import NANO, WanModel
from wantui.models.fingerprint import fingerprint_file
from wantui.planning.disk_estimate import list_captured_steps
from wantui.planning.memory_plan import RESIDENT_PLAN, find_plan
from wantui.planning.recipe import parse_recipe
from wantui.planning.sizes import SizeError
from wantui.samplers import SCHEDULES, SamplerName, UnknownSamplerError, compute_noise_levels, count_model_evaluations
from wantui.worker.pipelines import load_recipe_pipeline

pytestmark = pytest.mark.torch

OLD: dict[str, Any] = {
    "capture": {
        "attention": {
            "compress": True,
            "downsample": 1,
            "dtype": "float32",
            "interval": 1,
            "per_block": False,
            "per_head": False,
            "pieces": False,
            "unconditional": False,
        },
        "compress": False,
        "dtype": "float32",
        "geometry": True,
        "interval": 1,
        "latents": False,
        "predicted_clean": False,
    },
    "dtype": "float32",
    "flow_shift": 3.0,
    "format": 1,
    "fps": 8,
    "frames": 17,
    "guidance_scale": 4.0,
    "guidance_scale_2": None,
    "height": 128,
    "magnitudes": [],
    "marks": [{"end": 7, "start": 2, "text": "large", "weight": 1.5}],
    "model": "nano",
    "negative_prompt": "",
    "prompt": "a large red circle",
    "revision": "7f1949dbbec7fe008e9dabd70af8f069900f927987b961f5913d93e33261e2b0",
    "sampler": "unipc",
    "seed": 42,
    "speed": "exact",
    "steps": 20,
    "transformer_file": None,
    "weighting": "attention",
    "weights": "full",
    "width": 128,
}
"""A recipe as version 0.1 wrote it."""
STORED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "recipes-1.json").read_text())
"""Recipes and their digests as version 0.2 wrote them, of each speed, with maps of tokens, and with a GGUF file."""
DIGEST = "9fbb112ef67128a287bbda236472258d3c86a69e345ff9f6e5fa0a7616027940"


def change_recipe(**changes: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(OLD))
    return document | changes


def test_recipe_of_an_earlier_version_is_read_and_keeps_its_digest() -> None:
    recipe = parse_recipe(OLD)
    written = change_recipe(format=2, speed="fused")
    written["capture"]["attention"]["per_token"] = written["capture"]["attention"].pop("pieces")
    assert json.loads(recipe.to_json()) == written
    assert recipe.digest == DIGEST
    again = parse_recipe(written)
    assert (again, again.digest) == (recipe, DIGEST)


@pytest.mark.parametrize("index", range(5))
def test_stored_recipes_of_format_1_keep_their_digests(index: int) -> None:
    stored = STORED[index]
    recipe = parse_recipe(stored["recipe"])
    assert recipe.digest == stored["digest"]
    former = stored["recipe"].get("speed", "plain")
    assert recipe.speed == {"plain": "reference", "exact": "fused", "fast": "cached"}[former]
    attention = stored["recipe"]["capture"]["attention"]
    if attention is not None:
        assert recipe.capture.attention is not None
        assert recipe.capture.attention.per_token is attention["pieces"]
    again = parse_recipe(json.loads(recipe.to_json()))
    assert (again, again.digest) == (recipe, stored["digest"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"speed": "fused"}, "speed: 'fused' does not exist in format 1, which has plain, exact, fast"),
        ({"speed": ["exact"]}, "speed: ['exact'] does not exist in format 1"),
        ({"format": 2}, "speed: Input should be 'reference', 'fused', 'fp8' or 'cached'"),
        ({"format": 2, "speed": "fused"}, "capture.attention.pieces is not a field of this version"),
        ({"capture": {"attention": {"per_token": True}}}, "capture.attention: per_token does not exist in format 1"),
        ({"format": 3}, "it has format 3; this version reads formats 1 and 2"),
    ],
)
def test_recipe_with_names_of_another_format_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_recipe(change_recipe(**changes))


# R12
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("steps", -1), ("steps", 1e30), ("steps", "many"), ("steps", None), ("steps", 2**70),
        ("fps", -1), ("fps", 0), ("fps", 1e9),
        ("seed", -1), ("seed", 2**64), ("seed", 2**70), ("seed", 0.5),
        ("guidance_scale", float("nan")), ("guidance_scale", float("inf")), ("guidance_scale_2", float("nan")),
        ("flow_shift", 0), ("flow_shift", -3), ("flow_shift", float("nan")),
        ("width", 0), ("height", -16), ("frames", 0), ("frames", 2**40),
        ("sampler", "karras"), ("sampler", None), ("dtype", "float16"), ("speed", "exactly"), ("weights", "int4"),
        ("weighting", "norm_preserving"), ("magnitudes", [[1.0, float("nan")]]), ("magnitudes", [[1.0]]),
        ("marks", [{"text": "x", "start": -1, "end": 3}]), ("marks", [{"text": "x", "start": 2, "end": 7}]),
        ("marks", [{"text": "large", "start": 2, "end": 7, "weight": float("nan")}]),
        ("marks", [{"text": "large", "start": 2, "end": 7, "weight": -1}]),
        ("capture", {"interval": 0}), ("capture", {"attention": {"downsample": 0}}), ("weights", "gguf"),
        ("format", 3), ("format", "1"), ("format", True), ("format", None), ("colour", "red"),
        ("transformer_file", {"path": "/x.gguf", "fingerprint": "0", "bytes": -1}),
    ],
)  # fmt: skip
def test_invalid_recipe_is_refused_with_the_field_name(field: str, value: object) -> None:
    message = field.removesuffix("s") if field == "marks" else field
    with pytest.raises(ValueError, match=message):
        parse_recipe(change_recipe(**{field: value}))


# R12
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 40}, "cannot generate a video with width 40: the model generates multiples of 16"),
        ({"height": 8}, "cannot generate a video with height 8: the model generates multiples of 16"),
        ({"frames": 10}, r"cannot generate a video of 10 frames: the model generates 4k \+ 1"),
    ],
)
def test_size_that_the_model_would_round_is_refused(
    tiny: WanPipeline, tiny_models: dict[str, WanModel], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SizeError, match=message):
        prepare_inputs(tiny, recipe_for(tiny_models["wan2.1"], **changes))


# R12
@pytest.mark.parametrize("plan", ["resident", "encode-first"])
def test_rerun_without_fetch_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plan: str) -> None:
    def fetched(*_: object) -> Path:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(fetch, "fetch_model", fetched)
    recipe = recipe_for(NANO).model_copy(update={"model": "someone/something"})
    with pytest.raises(
        fetch.NotFetchedError,
        match=r"no file of someone/something is on this machine\. Fetch the model: wantui models fetch someone",
    ):
        next(rerender_clip(tmp_path / "a.mp4", recipe, {}, tmp_path / "b.mp4", "cpu", may_fetch=False))
    with pytest.raises(LoadError, match="Fetch the model: wantui models fetch someone/something"):
        load_recipe_pipeline(recipe, "cpu", find_plan(plan), may_fetch=False)
    with pytest.raises(LoadError, match="the hub was asked"):
        load_recipe_pipeline(recipe, "cpu", find_plan(plan))


# R12
def test_pipe_as_a_transformer_file_does_not_block(wantui: Wantui, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    result = wantui("preview", "-t", "a star", "--set", f"model_settings.transformer_file={tmp_path / 'a.gguf'}")
    assert result.code == 2
    assert "a.gguf is not a regular file" in result.err
    with pytest.raises(OSError, match="not a regular file"):
        fingerprint_file(tmp_path / "a.gguf")
    file = {"path": str(tmp_path / "a.gguf"), "fingerprint": "0", "bytes": 1}
    recipe = recipe_for(NANO, weights="gguf", transformer_file=file)
    with pytest.raises(LoadError, match="it is missing, or not a regular file"):
        load_recipe_pipeline(recipe, "cpu", RESIDENT_PLAN)


def test_schedules_of_all_samplers_match_their_schedulers() -> None:
    assert set(SCHEDULES) == set(SAMPLERS_BY_NAME) == set(get_args(SamplerName))
    for sampler in get_args(SamplerName):
        scheduler = build_scheduler(sampler, 5.0, seed=1)
        scheduler.set_timesteps(9)
        assert len(scheduler.timesteps) == count_model_evaluations(sampler, 9)
        evaluated = scheduler.sigmas[: len(scheduler.timesteps)].tolist()
        assert compute_noise_levels(sampler, 9, 5.0) == pytest.approx(evaluated, abs=2e-3)


@pytest.mark.parametrize("ask", [count_model_evaluations, lambda name, steps: compute_noise_levels(name, steps, 3.0)])
def test_unknown_sampler_is_refused(ask: Any) -> None:
    with pytest.raises(UnknownSamplerError, match="unknown sampler 'karras'; known samplers: unipc, "):
        ask("karras", 5)
    with pytest.raises(UnknownSamplerError):
        list_captured_steps("karras", 5, 1)


def test_unknown_weights_are_refused(tiny: WanPipeline) -> None:
    with pytest.raises(AssertionError, match="int4"):
        narrow.quantize_transformer(tiny.transformer, "int4")  # type: ignore[arg-type]


def test_recipe_json_contains_no_unused_captures() -> None:
    capture = json.loads(recipe_for(NANO).to_json())["capture"]
    assert set(capture) == {"geometry", "latents", "interval", "dtype", "compress", "predicted_clean", "attention"}


def test_unknown_capture_is_refused_by_name() -> None:
    value = recipe_for(NANO).model_dump(mode="json")
    value["capture"]["more"] = {"heat": {}}
    with pytest.raises(ValueError, match="no capture 'heat'"):
        parse_recipe(value)
