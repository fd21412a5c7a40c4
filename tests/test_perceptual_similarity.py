"""CLIP and LPIPS as measures of similarity: networks of this machine against closed forms."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from clip_batches import write_clip_batch
from conftest import Wantui
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from wantui.analysis.similarity import measure_pair, pair_with_baseline
from wantui.errors import UserError
from wantui.generation.perceptual import LPIPS_TRUNK_FILE, load_clip_measure, load_lpips_measure
from wantui.storage.manifest import Manifest
from wantui.storage.mp4 import Frame, read_frames

pytestmark = [pytest.mark.slow, pytest.mark.torch]

SIDE = 32
BATCH = Path("outputs/swept")


@pytest.fixture
def manifest() -> Manifest:
    return write_clip_batch(BATCH, "a [red|blue] circle", more=("sweeps=cfg_scale=1,4",))


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP vision model with random weights, whose processor only normalises frames of 32x32 pixels."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def draw_frames(count: int = 2) -> list[Frame]:
    random = np.random.default_rng(4)
    return [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def test_clip_measure_is_the_cosine_of_the_embeddings(clip_folder: Path) -> None:
    first, second = draw_frames()
    processor = json.loads((clip_folder / "preprocessor_config.json").read_text())
    mean, deviation = np.array(processor["image_mean"]), np.array(processor["image_std"])
    pixels = np.stack([(frame / 255 - mean) / deviation for frame in (first, second)]).transpose(0, 3, 1, 2)
    network = CLIPVisionModelWithProjection.from_pretrained(clip_folder, dtype=torch.float64)
    a, b = network(pixel_values=torch.from_numpy(pixels)).image_embeds.detach().numpy()
    measure = load_clip_measure(str(clip_folder), "cpu")
    assert measure(first, second) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert measure(first, first) == pytest.approx(1)


def test_missing_clip_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is neither a folder nor in the Hugging Face cache"):
        load_clip_measure("nobody/no-clip", "cpu")
    for name in ("nobody/no-clip", str(tmp_path / "empty"), str(tmp_path / "absent")):
        with pytest.raises(UserError, match=r"--clip-model: cannot load .*from this machine: .*hf download"):
            load_clip_measure(name, "cpu")


def test_other_vision_model_and_damaged_weights_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "vit"
    shutil.copytree(clip_folder, other)
    ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE)).save_pretrained(
        other
    )
    with pytest.raises(UserError, match=r"it is not a CLIP model: weights of .*visual_projection"):
        load_clip_measure(str(other), "cpu")
    weights = clip_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="--clip-model: cannot load"):
        load_clip_measure(str(clip_folder), "cpu")


class SquaredDifference(torch.nn.Module):
    """The interface of `lpips.LPIPS`, with the mean squared difference as its distance."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        assert (net, verbose) == ("alex", False)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        assert first.shape == second.shape == (1, 3, SIDE, SIDE)
        assert first.abs().max() <= 1
        return ((first - second) ** 2).mean().reshape(1, 1, 1, 1)


def test_lpips_gets_frames_in_its_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module: Any = ModuleType("lpips")
    module.LPIPS = SquaredDifference
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{LPIPS_TRUNK_FILE} is missing. Download it with python -c"):
        load_lpips_measure("cpu")
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints" / LPIPS_TRUNK_FILE).touch()
    first, second = draw_frames()
    expected = np.mean((first / 127.5 - second / 127.5) ** 2)
    assert load_lpips_measure("cpu")(first, second) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="LPIPS needs frames of at least 31x31 pixels"):
        load_lpips_measure("cpu")(first[:30], second[:30])


def test_lpips_without_its_package_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match=r"cannot measure LPIPS.*pip install lpips torchvision.*--metrics"):
        load_lpips_measure("cpu")


def test_measures_are_averaged_over_the_frames_of_both_clips(manifest: Manifest) -> None:
    def measure(frame: Frame, reference: Frame) -> float:
        return float(np.abs(frame.astype(float) - reference).mean())

    pair = pair_with_baseline(manifest, "cfg_scale=1", BATCH)[0]
    similarity, reasons = measure_pair(BATCH, pair, (), {"lpips": measure})
    clips = [list(read_frames(BATCH / entry.files["clip"])) for entry in (pair.video, pair.baseline)]
    assert not reasons
    assert similarity.lpips == pytest.approx(np.abs(np.array(clips[0], float) - np.array(clips[1], float)).mean())
    assert (similarity.ssim, similarity.psnr) == (None, None)
    assert similarity.list_scores() == [f"LPIPS {similarity.lpips:.3f}"]


def test_command_sorts_by_clip_and_names_its_model(manifest: Manifest, wantui: Wantui, clip_folder: Path) -> None:
    options = ("--metrics", "psnr,clip", "--clip-model", clip_folder, "--device", "cpu", "--sort", "clip", "--json")
    result = wantui("similarity", BATCH, "--baseline", "cfg_scale=1", *options)
    assert result.code == 0, result.err
    cosines = [record["clip_cosine"] for record in json.loads(result.out)]
    assert len(cosines) == 4
    assert cosines == sorted(cosines, reverse=True)
    assert {record["clip_model"] for record in json.loads(result.out)} == {str(clip_folder)}
