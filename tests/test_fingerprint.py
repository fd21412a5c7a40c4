"""Fingerprints, which distinguish sets of weights."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Wantui, batch

import wantui.models.fingerprint
from wantui.config import load_config
from wantui.generation.errors import LoadError
from wantui.models.adapter_header import read_adapter_header
from wantui.models.adapters import hash_adapter_file
from wantui.models.catalogue import NANO, WanModel
from wantui.models.fingerprint import fingerprint_file, fingerprint_model
from wantui.models.parts import PartError, check_weight_file
from wantui.models.tokenizer import find_token_ids, find_token_texts
from wantui.planning import preview_batch
from wantui.storage.manifest import read_manifest
from wantui.worker.pipelines import WeightFile, check_weight_fingerprints

pytestmark = pytest.mark.torch

PART = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_models: dict[str, WanModel]) -> Path:
    """A model whose transformer is a link to a folder elsewhere."""
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    (folder / "transformer").rename("first")
    (folder / "transformer").symlink_to("../first")
    return folder


def other_weights(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_fingerprint_is_stable_across_versions() -> None:
    assert fingerprint_model(Path(NANO.location)) == "7f1949dbbec7fe008e9dabd70af8f069900f927987b961f5913d93e33261e2b0"
    digest = hashlib.sha256()
    Path("m/vae/nested").mkdir(parents=True)
    for name in ("model_index.json", "vae/a-b.json", "vae/a.bin", "vae/a.safetensors", "vae/nested/c.json"):
        (Path("m") / name).write_text("{}")
        digest.update(f"{name}\x002\x00{{}}".encode())
    Path("m/vae/notes.txt").write_text("of no matter")
    assert fingerprint_model(Path("m")) == digest.hexdigest()


def test_fingerprint_differs_for_other_weights() -> None:
    for name, weights in (("a", np.arange(100_000.0)), ("b", np.arange(100_000.0)), ("c", np.arange(100_000.0) + 1)):
        (Path(name) / "vae").mkdir(parents=True)
        np.asarray(weights).tofile(f"{name}/vae/model.safetensors")
    digests = [fingerprint_model(Path(name)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    weights = np.arange(100_000.0)
    weights[50_000] += 1
    weights.tofile("b/vae/model.safetensors")
    assert fingerprint_model(Path("b")) != digests[0]


def test_large_weight_file_is_sampled_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wantui.models.fingerprint, "FINGERPRINT_SAMPLE_BYTES", 64)
    Path("a/vae").mkdir(parents=True)
    seen = set()
    for start in (0, 250_000, 500_000, 900_000, 999_000):
        weights = np.zeros(1_000_000, dtype=np.uint8)
        weights[start : start + 10_000] = 1
        weights.tofile("a/vae/model.safetensors")
        seen.add(fingerprint_model(Path("a")))
    assert len(seen) == 5


# A3
def test_linked_component_has_the_fingerprint_of_its_target(model: Path, tiny_models: dict[str, WanModel]) -> None:
    before = fingerprint_model(model)
    assert before == fingerprint_model(Path(tiny_models["wan2.1"].location))
    shutil.copytree("first", "second")
    other_weights(Path("second/diffusion_pytorch_model.safetensors"))
    (model / "transformer").unlink()
    (model / "transformer").symlink_to("../second")
    swapped = fingerprint_model(model)
    assert swapped != before
    other_weights(Path("second/diffusion_pytorch_model.safetensors"))
    assert fingerprint_model(model) == before


# A3
def test_linked_files_have_the_fingerprint_of_their_targets(tiny_models: dict[str, WanModel]) -> None:
    source = Path(tiny_models["wan2.1"].location)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        Path("blobs").mkdir(exist_ok=True)
        shutil.copy(path, f"blobs/{number}")
        link = Path("model") / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(f"blobs/{number}").absolute())
    before = fingerprint_model(Path("model"))
    assert before == fingerprint_model(source)
    other = Path("blobs/other")
    shutil.copy(Path("model") / PART, other)
    other_weights(other)
    (Path("model") / PART).unlink()
    (Path("model") / PART).symlink_to(other.absolute())
    assert fingerprint_model(Path("model")) != before


# A3
def test_circular_and_dangling_links_do_not_break_the_fingerprint(model: Path) -> None:
    before = fingerprint_model(model)
    (model / "vae" / "back").symlink_to("..")
    (model / "vae" / "root").symlink_to("/")
    (model / "vae" / "self").symlink_to("self")
    (model / "vae" / "gone.json").symlink_to("nowhere")
    os.mkfifo(model / "vae" / "pipe.json")
    assert fingerprint_model(model) == before
    (model / "transformer_2").symlink_to("transformer_2")
    (model / "image_encoder").symlink_to("..")
    assert fingerprint_model(model) == before


# A3
def test_shards_in_a_linked_folder_affect_the_fingerprint(model: Path) -> None:
    weights = model / "text_encoder/model.safetensors"  # diffusers reads no shards in folders; transformers does
    Path("elsewhere").mkdir()
    weights.rename("elsewhere/shard.safetensors")
    weights.with_name("linked").symlink_to(Path("elsewhere").resolve())
    Path(f"{weights}.index.json").write_text('{"weight_map": {"a": "linked/shard.safetensors"}}')
    before = fingerprint_model(model)
    other_weights(Path("elsewhere/shard.safetensors"))
    assert fingerprint_model(model) != before


# A3
def test_changed_weights_behind_a_link_are_refused(model: Path) -> None:
    config = load_config("nano", [f"model_settings.model_id={model}"])
    recipe = preview_batch(config, "a star").first_recipe
    check_weight_fingerprints(recipe)
    other_weights(Path("first/diffusion_pytorch_model.safetensors"))
    with pytest.raises(LoadError, match="have changed since this batch was planned"):
        check_weight_fingerprints(recipe)


# C7
def test_outputs_inside_a_model_folder_do_not_change_its_fingerprint(
    wantui: Wantui, small: list[str], tiny_models: dict[str, WanModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(tiny_models["wan2.1"].location, "model"))
    before = fingerprint_model(Path())
    result = wantui(
        "run", "-t", "a [red|blue] star", "--videos-per-variation", 1, *small, "--set", "model_settings.model_id=."
    )
    assert result.code == 0, result.err
    assert {video.state for video in read_manifest(batch(result)).videos} == {"done"}
    assert fingerprint_model(Path()) == before


def rewrite_unseen(path: Path, content: bytes) -> None:
    """Write other content of equal size into a file, and restore its modification time, as `rsync --inplace -t` may."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_ino == status.st_ino


# A3
def test_weights_rewritten_with_equal_size_and_time_change_the_fingerprint(model: Path) -> None:
    path = model / PART
    before, file_before = fingerprint_model(model), fingerprint_file(path)
    content = path.read_bytes()
    rewrite_unseen(path, content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint_model(model) != before
    assert fingerprint_file(path) != file_before
    rewrite_unseen(path, content)
    assert (fingerprint_model(model), fingerprint_file(path)) == (before, file_before)


# A3
def test_adapter_rewritten_with_equal_size_and_time_is_read_again(model: Path) -> None:
    path = model / PART
    header, digest = read_adapter_header(path), hash_adapter_file(path)
    name = max(header.tensors)
    content = path.read_bytes()
    rewrite_unseen(path, content.replace(f'"{name}"'.encode(), f'"{name.swapcase()}"'.encode()))
    assert name.swapcase() in read_adapter_header(path).tensors
    assert hash_adapter_file(path) == hashlib.sha256(path.read_bytes()).hexdigest() != digest
    rewrite_unseen(path, b"\xff" * len(content))
    with pytest.raises(PartError, match="is not a safetensors file, or is incomplete"):
        check_weight_file(path)


# A3
def test_tokenizer_rewritten_with_equal_size_and_time_is_read_again(model: Path) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    red, left = (find_token_ids(path, word)[0] for word in ("red", "left"))
    content = path.read_text()
    swapped = content.replace('"▁red"', '"▁@"').replace('"▁left"', '"▁red"').replace('"▁@"', '"▁left"')
    rewrite_unseen(path, swapped.encode())
    assert [find_token_ids(path, word)[0] for word in ("red", "left")] == [left, red]
    assert find_token_texts(path, "red", 0, 3) == ("▁red",)


# A3
def test_texts_of_tokens_follow_a_changed_tokenizer(model: Path) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    assert find_token_texts(path, "red", 0, 3) == ("▁red",)
    content = json.loads(path.read_text())
    content["model"]["vocab"] = [entry for entry in content["model"]["vocab"] if entry[0] != "▁red"]
    path.write_text(json.dumps(content))
    texts = find_token_texts(path, "red", 0, 3)
    assert len(texts) > 1
    assert "".join(texts) == "▁red"


# A3
def test_weights_in_use_are_overwritten_only_by_other_content(model: Path) -> None:
    path = model / PART
    loaded = WeightFile.from_path(path)
    path.chmod(0o600)
    Path("copy").hardlink_to(path)
    assert not loaded.is_overwritten()
    content = path.read_bytes()
    rewrite_unseen(path, content[:-1] + bytes([content[-1] ^ 1]))
    assert loaded.is_overwritten()
