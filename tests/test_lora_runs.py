"""LoRA adapters from the command line to the clip: rerun, resume after a kill, sweeps of the strength, other files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Wantui, batch, generate_batch
from harness_engine import FREQUENT_CHECKPOINTS, Machine, assert_equal_to_the_bit, kill, manifest_of
from lora_files import comfy_tensors, make_factors, write_adapter

from wantui.generation.load import load_pipeline
from wantui.models.adapter_layout import list_layer_shapes
from wantui.models.catalogue import WanModel
from wantui.queue.events import VideoResumed
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.worker import pipelines

pytestmark = [pytest.mark.torch, pytest.mark.processes]


@pytest.fixture
def adapter(tiny_models: dict[str, WanModel], tmp_path: Path) -> Path:
    factors = make_factors(list_layer_shapes(tiny_models["wan2.1"]), rank=2)
    return write_adapter(tmp_path / "style.safetensors", comfy_tensors(factors, alpha=0.5))


def digests_of(folder: BatchFolder) -> list[str]:
    """Return the digest of the final latents of each clip."""
    entries = read_manifest(folder).videos
    assert [entry.state for entry in entries] == ["done"] * len(entries)
    return [str(entry.latents_sha256) for entry in entries]


def run_single_video(wantui: Wantui, *arguments: object) -> BatchFolder:
    result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *arguments)
    assert result.code == 0, result.err
    return batch(result)


def test_rerun_of_a_video_with_an_adapter_is_bit_identical(wantui: Wantui, small: list[str], adapter: Path) -> None:
    folder = run_single_video(wantui, *small, "--lora", f"{adapter}:0.7")
    assert digests_of(folder) != digests_of(run_single_video(wantui, *small, "--batch-name", "without"))
    clip = folder.make_clip_path(0, 1)
    result = wantui("rerun", clip, "--device", "cpu")
    assert (result.code, result.out) == (0, f"bit-identical: latents and frames of {clip}\n")
    content = adapter.read_bytes()
    adapter.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = wantui("rerun", clip, "--device", "cpu")
    assert changed.code == 2
    assert f"the file of style ({adapter}) has changed since the video was planned" in changed.err
    adapter.unlink()
    missing = wantui("rerun", clip, "--device", "cpu")
    assert missing.code == 2
    assert f"cannot use style: {adapter} does not exist. Restore the file at that path" in missing.err
    assert "packaged adapter" not in missing.err  # rerun takes no other adapter


def test_sweep_of_the_strength_equals_separate_videos(
    wantui: Wantui, small: list[str], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reuses_parts: list[bool] = []

    def load_and_record(*arguments: Any, **options: Any) -> Any:
        reuses_parts.append(bool(options["shared_parts"]))
        return load_pipeline(*arguments, **options)

    monkeypatch.setattr(pipelines, "load_pipeline", load_and_record)
    config, plain = tmp_path / "sweep.yaml", tmp_path / "plain.yaml"
    plain.write_text("")
    config.write_text(f"lora_settings: {{adapters: ['{adapter}']}}\nsweeps: lora.style.strength=0,0.5,1\n")
    swept = digests_of(run_single_video(wantui, "-c", config, *small))
    assert reuses_parts == [False, True, True], "another strength loads only the transformer again"
    alone = [digests_of(run_single_video(wantui, "-c", plain, *small))[0]]
    for strength in (0.5, 1):
        alone += digests_of(run_single_video(wantui, "-c", plain, *small, "--lora", f"{adapter}:{strength}"))
    assert swept == alone
    assert len(set(swept)) == 3


def test_resume_refuses_a_changed_adapter_by_name(wantui: Wantui, small: list[str], adapter: Path) -> None:
    folder = run_single_video(wantui, *small, "--lora", adapter)
    folder.make_clip_path(0, 1).unlink()
    adapter.unlink()
    result = wantui("run", "--resume", folder.root)
    assert result.code != 0
    assert f"cannot use style: {adapter} does not exist" in result.err


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "work", FREQUENT_CHECKPOINTS)
    yield machine
    machine.shut_down()


def check_that_a_killed_video_resumes(machine: Machine, tmp_path: Path, options: list[str]) -> None:
    """Kill the worker of a video after 20 steps; compare the resumed video with an undisturbed one."""
    options = [
        *("-t", "a star", "--videos-per-variation", "1", "--store-latents", *options),
        *("--set", "model_settings.steps=60", "--set", "use_timestamp=false", "--batch-name", "batch", "-o", "."),
    ]
    code, _, err = machine.call("run", *options, "--detach")
    assert code == 0, err
    machine.until(lambda: any(video.step > 20 for video in machine.queue.list_running_videos()))
    (worker,) = machine.workers()
    kill(worker)
    machine.until(lambda: any(event.kind == "interrupted" for event in machine.queue.list_events(0)))
    machine.until(machine.ended)
    payloads = [event.payload for event in machine.queue.list_events(0)]
    (resumed,) = [payload for payload in payloads if isinstance(payload, VideoResumed)]
    assert resumed.steps_done >= 20
    generate_batch(tmp_path / "undisturbed", *options)
    assert_equal_to_the_bit(machine.root / "batch", tmp_path / "undisturbed/batch")


def test_killed_video_with_schedules_and_an_adapter_resumes_bit_identically(
    machine: Machine, small: list[str], adapter: Path, tmp_path: Path
) -> None:
    settings = (
        "prompt_schedule_settings.schedule={10%: 'a red ring', 90%: 'a blue ball'}",
        "cfg_schedule_settings.schedule={0: 7.5, 95%: 2}",
        "guidance_settings.rule=apg",
        "guidance_settings.momentum=-0.7",
    )
    options = [*small, "--lora", f"{adapter}:0.7", *(word for setting in settings for word in ("--set", setting))]
    check_that_a_killed_video_resumes(machine, tmp_path, options)
    (entry,) = manifest_of(machine.root / "batch").videos
    assert set(entry.recipe.controls) == {"lora", "prompt_schedule", "guidance_schedule", "guidance"}
