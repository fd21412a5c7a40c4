"""Stored latents in other formats, and folders of the older system, read back."""

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from clip_batches import write_clip_batch
from conftest import TEMPLATE, MakeOnce, Wantui, batch, copy_batch, files, generate_batch, only_queued
from safetensors.numpy import load_file

from wantui.analysis.loading import read_batch_videos
from wantui.cli import doctor
from wantui.environment import build_python_command
from wantui.errors import UserError
from wantui.models.catalogue import WanModel
from wantui.storage import export
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

pytestmark = pytest.mark.torch


@pytest.fixture
def generated_batch(make_once: MakeOnce, small: list[str]) -> BatchFolder:
    options = ("-t", TEMPLATE, "--videos-per-variation", 1, "--store-latents", *small)
    return copy_batch(make_once("two-videos-with-states", lambda folder: generate_batch(folder, *options)))


def latents(folder: BatchFolder, variation: int = 0) -> np.ndarray:
    group: Any = zarr.open_group(folder.make_trajectory_path(variation, 1), mode="r")
    return np.asarray(group["latents"][:])


def test_npy_safetensors_and_pt_exports_equal_the_stored_latents(generated_batch: BatchFolder, wantui: Wantui) -> None:
    for kind in ("npy", "safetensors", "pt"):
        result = wantui("export", generated_batch.root, "--format", kind, "-o", kind)
        assert result.code == 0, result.err
        assert result.out.split() == [f"{kind}/prompt_00{v}/vid_001.{kind}" for v in (0, 1)]
    assert np.array_equal(np.load("npy/prompt_000/vid_001.npy"), latents(generated_batch))
    about = json.loads(Path("npy/prompt_001/vid_001.json").read_text())
    assert about["recipe"] == read_manifest(generated_batch).videos[1].recipe.model_dump(mode="json")
    assert len(about["sigmas"]) == 4
    arrays = load_file("safetensors/prompt_001/vid_001.safetensors")
    assert np.array_equal(arrays["latents"], latents(generated_batch, 1))
    assert arrays["gram"].dtype == np.float64
    loaded = torch.load("pt/prompt_000/vid_001.pt")
    assert np.array_equal(loaded["latents"].numpy(), latents(generated_batch))
    assert json.loads(loaded["recipe"])["seed"] == 42
    assert not list(Path("pt").rglob("*.safetensors"))


def test_processes_do_not_import_modules_of_the_working_folder(generated_batch: BatchFolder, wantui: Wantui) -> None:
    for name in ("torch", "queue", "safetensors"):
        Path(f"{name}.py").write_text("raise RuntimeError('imported from the working folder')")
    result = wantui("export", generated_batch.root, "--format", "pt", "-o", "pt")
    assert result.code == 0, result.err
    _, version = doctor._check_torch_import()
    assert version == torch.__version__
    command = build_python_command("-m", "wantui", "--version")
    assert subprocess.check_output(command, text=True).startswith("wantui, version ")


def test_isolated_process_starts_isolated_processes() -> None:
    code = "import sys; sys.path = sys.argv[1:]; from wantui.environment import build_python_command as build; "
    code += "print(build('-m', 'wantui'))"
    output = subprocess.check_output([sys.executable, "-I", "-c", code, *sys.path], text=True)
    assert output.strip() == repr([sys.executable, "-I", "-m", "wantui"])


def test_npy_export_writes_state_after_state_and_names_a_full_disk(
    generated_batch: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the final size with holes, written through a memory map, ends the process by SIGBUS on a full disk."""
    read_array = export._StoredTrajectory.read_array
    sizes: list[int] = []

    def fill_disk(self: Any, name: str, *index: Any) -> Any:
        if name == "latents":
            sizes.extend(path.stat().st_size for path in Path("x").rglob("*.partial"))
            if len(sizes) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return read_array(self, name, *index)

    monkeypatch.setattr(export._StoredTrajectory, "read_array", fill_disk)
    result = wantui("export", generated_batch.root, "-o", "x")
    assert len(sizes) == 3
    assert max(sizes) < latents(generated_batch).nbytes
    assert (result.code, result.err) == (
        2, "wantui: cannot write x: No space left on device. Choose another folder with -o\n"
    )  # fmt: skip
    assert not files("x")


def test_legacy_export_can_be_analysed_at_its_output_folder(generated_batch: BatchFolder, wantui: Wantui) -> None:
    for options, root in (([], generated_batch.root / "exports" / "older"), (["-o", "old"], Path("old"))):
        result = wantui("export", generated_batch.root, "--format", "older", *options)
        assert f"wantui analyze {root}" in result.err
        assert [video.prompt for video in read_batch_videos(root)] == ["a red circle", "a blue circle"]
        assert wantui("analyze", root).code == 0


def test_legacy_export_has_the_legacy_layout_and_equal_trajectories(
    generated_batch: BatchFolder, wantui: Wantui
) -> None:
    assert wantui("export", generated_batch.root, "--format", "older", "-o", "old/latents").code == 0
    directory = Path("old/latents/prompt_000/vid_001")
    assert sorted(path.name for path in directory.glob("*.gz")) == [f"step_00{i}.npy.gz" for i in range(3)]
    with gzip.open(directory / "step_001.npy.gz") as file:
        state = np.load(file)
    assert np.array_equal(state[0], latents(generated_batch)[2])
    ours, older = list(read_batch_videos(generated_batch.root)), list(read_batch_videos(Path("old")))
    assert [video.seed for video in older] == [42, 42]
    assert older[0].prompt == "a red circle"
    assert older[0].trajectory is not None
    assert ours[0].trajectory is not None
    assert older[0].trajectory.gram == pytest.approx(ours[0].trajectory.gram[1:, 1:], rel=1e-12)
    assert older[0].trajectory.sigmas == pytest.approx(ours[0].trajectory.sigmas[1:])
    shown = wantui("analyze", "old")
    assert shown.code == 0
    assert f"{older[0].compute_metric('length'):.5g}" in shown.out


def test_legacy_export_has_the_scale_of_the_transformer_of_each_step(
    tiny_models: dict[str, WanModel], small: list[str], wantui: Wantui
) -> None:
    settings = (
        f"model_settings.model_id={tiny_models['a14b'].location}",
        "model_settings.cfg_scale=4",
        "model_settings.cfg_scale_2=3",
        "model_settings.flow_shift=12",
        "model_settings.steps=5",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    assert wantui("run", "-t", "a red circle", "--store-latents", *small, *options).code == 0
    (root,) = Path("outputs").iterdir()
    assert wantui("export", root, "--format", "older", "-o", "old").code == 0
    steps = [json.loads(path.read_text()) for path in sorted(Path("old/prompt_000/vid_001").glob("step_*.json"))]
    scales = [step["cfg_scale"] for step in steps]
    assert scales == [3.0 if step["timestep"] < 875 else 4.0 for step in steps]
    assert set(scales) == {3.0, 4.0}


def test_legacy_export_refuses_unknown_scales_of_the_second_transformer(
    tiny_models: dict[str, WanModel], small: list[str], wantui: Wantui
) -> None:
    model = Path(shutil.copytree(tiny_models["a14b"].location, "model"))
    settings = (f"model_settings.model_id={model.resolve()}", "model_settings.cfg_scale_2=3")
    options = [word for setting in settings for word in ("--set", setting)]
    assert wantui("run", "-t", "a red circle", "--store-latents", *small, *options).code == 0
    (root,) = Path("outputs").iterdir()
    model.rename("moved")
    assert wantui("export", root, "--format", "npy", "-o", "npy").code == 0
    result = wantui("export", root, "--format", "older", "-o", "old")
    assert result.code == 1
    assert "cfg_scale_2" in result.err
    assert not [path for path in Path("old").rglob("*") if path.is_file()]


def test_damaged_legacy_videos_are_named_and_others_exported(generated_batch: BatchFolder, wantui: Wantui) -> None:
    wantui("export", generated_batch.root, "--format", "older", "-o", "old/latents")
    broken = Path("old/latents/prompt_000/vid_001/step_001.npy.gz")
    broken.write_bytes(broken.read_bytes()[:100])
    first, second = read_batch_videos(Path("old"))
    assert first.trajectory is None
    assert "step_001.npy.gz cannot be read" in first.exclusion_reason
    assert second.trajectory is not None
    np.save(Path("old/latents/prompt_001/vid_001/step_003.npy"), np.zeros((1, 2, 2, 2, 2)))
    assert "different shapes" in list(read_batch_videos(Path("old")))[1].exclusion_reason


@pytest.mark.parametrize("kind", ["npy", "safetensors", "older"])
def test_export_names_unreadable_videos_and_writes_the_others(
    generated_batch: BatchFolder, wantui: Wantui, kind: str
) -> None:  # B8
    chunk = generated_batch.make_trajectory_path(0, 1) / "latents" / "c" / "1" / "0" / "0" / "0" / "0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    result = wantui("export", generated_batch.root, "--format", kind, "-o", kind)
    assert result.code == 1
    assert "left out: red seed 42: " in result.err
    assert "vid_001.zarr/latents/c/1" in result.err
    assert len(result.out.splitlines()) == 1
    assert Path(result.out.strip()).exists()
    assert not [path for path in Path(kind).rglob("*") if "prompt_000/" in str(path) or path.suffix == ".partial"]


def test_unknown_video_id_is_named(generated_batch: BatchFolder, wantui: Wantui) -> None:  # C8
    result = wantui("export", generated_batch.root, "--video-id", "nothing")
    assert result.code == 2
    assert "has no video 'nothing'" in result.err


def test_planted_links_in_an_export_are_not_followed(generated_batch: BatchFolder, wantui: Wantui) -> None:  # R10
    Path("victim").mkdir()
    Path("victim/kept").write_text("before")
    Path("out/prompt_000").mkdir(parents=True)
    for name in ("vid_001.partial", "vid_001.npy.partial", "vid_001.json.partial", "vid_001"):
        Path("out/prompt_000", name).symlink_to(Path("victim").absolute())
    for kind in ("npy", "older"):
        assert wantui("export", generated_batch.root, "--format", kind, "-o", "out").code == 0
    assert [path.name for path in Path("victim").iterdir()] == ["kept"]


def test_export_without_stored_latents_is_refused(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    result = wantui("export", folder.root)
    assert result.code == 2
    assert "no latents are stored" in result.err
    assert "store_latents" in result.err


def test_export_names_unfinished_videos(wantui: Wantui, small: list[str]) -> None:
    with only_queued():
        folder = batch(wantui("run", "--detach", "-t", "a star", "--store-latents", *small))
    result = wantui("export", folder.root)
    assert result.code == 2
    assert f"2 videos with latents are not generated yet. Generate them first: wantui run --resume {folder.root}" in (
        result.err
    )
    assert wantui("queue", "cancel", 1, 2).code == 0
    wantui("run", "--resume", folder.root)
    assert wantui("export", folder.root).code == 0
    first = folder.make_clip_path(0, 1)
    document = json.loads(folder.manifest_path.read_text())
    document["videos"][0] |= {"state": "failed", "files": {}}
    folder.manifest_path.write_text(json.dumps(document))
    assert first.exists()
    part = wantui("export", folder.root)
    assert part.code == 1
    assert len(part.out.splitlines()) == 1
    assert "left out: 1 video: not generated yet" in part.err


def test_export_to_an_unwritable_folder_is_refused(generated_batch: BatchFolder, wantui: Wantui) -> None:
    result = wantui("export", generated_batch.root, "-o", "/proc/exports")
    assert result.code == 2
    assert "cannot write /proc/exports" in result.err
    assert wantui("export", "nowhere").code == 2


@pytest.mark.parametrize("target", ["file", "file/below", "dangling"])
def test_export_checks_its_target_before_reading_videos(
    generated_batch: BatchFolder, wantui: Wantui, target: str
) -> None:
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    (generated_batch.make_trajectory_path(0, 1) / "zarr.json").write_text("{")  # would be named as left out
    result = wantui("export", generated_batch.root, "-o", target)
    assert (result.code, result.out) == (2, "")
    assert f"cannot write {target}: " in result.err
    assert "is not a folder" in result.err
    assert "left out" not in result.err


def test_export_names_existing_files_that_it_would_overwrite(generated_batch: BatchFolder, wantui: Wantui) -> None:
    Path("out/prompt_000/vid_001.npy").mkdir(parents=True)
    result = wantui("export", generated_batch.root, "-o", "out")
    assert result.code == 2
    assert "cannot write out/prompt_000/vid_001.npy: Is a directory" in result.err


def test_export_refuses_a_folder_that_is_not_a_batch() -> None:
    with pytest.raises(UserError, match="is not a batch folder"):
        list(read_batch_videos(Path()))


def test_export_without_trajectories_does_not_claim_derived_values(wantui: Wantui) -> None:
    write_clip_batch(Path("batch"), "one circle", seeds=1)
    result = wantui("export", "batch")
    assert result.code == 2
    assert "no latents are stored. Set latent_analysis_settings.store_latents for future videos" in result.err


def test_legacy_export_of_a_sweep_does_not_suggest_analysing_it(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "-n", 1, "--store-latents", "--sweep", "cfg_scale=1,4", *small))
    result = wantui("export", folder.root, "--format", "older", "-o", "old/latents")
    assert (result.code, len(result.out.split())) == (0, 2)
    assert f"Analyse the batch itself:\n  wantui analyze {folder.root}\n" in result.err
    assert wantui("analyze", "old").code == 2
