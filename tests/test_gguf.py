"""A transformer from a GGUF file with the tensor names of Wan's own code, which shared files have."""

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Wantui, batch
from safetensors.torch import load_file
from tiny import latents_of

from wantui.analysis.comparability import select_comparable_videos
from wantui.analysis.loading import read_batch_videos
from wantui.config import load_config
from wantui.generation.errors import LoadError
from wantui.generation.load import load_pipeline
from wantui.generation.tensors import check_gguf_tensors
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.models.parts import PartError
from wantui.planning import PlanError, Recipe, preview_batch
from wantui.planning import requirements as installed
from wantui.planning.memory_plan import RESIDENT_PLAN, can_fuse_pipeline, estimate_peak_bytes
from wantui.planning.weight_bytes import estimate_transformer_bytes
from wantui.storage.manifest import read_manifest
from wantui.worker.pipelines import check_weight_fingerprints, choose_recipe_plan, load_recipe_pipeline

pytestmark = pytest.mark.torch
gguf = pytest.importorskip("gguf", reason="needs gguf (extra gguf)")
Kind = gguf.GGMLQuantizationType

CPU = torch.device("cpu")
WANS_NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    (".to_out.0.", ".o."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    ("proj_out", "head.head"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("norm2", "norm3"),
    ("scale_shift_table", "modulation"),
)


def write_gguf(
    path: Path, model: WanModel, kind: Any, without: str = "", extra: str = "", kinds: Mapping[str, Any] | None = None
) -> Path:
    """Write the transformer of a local model, with the weights of linear layers in its blocks in a GGUF type.

    Args:
        kinds: GGUF types of other tensors by name.
    """
    writer = gguf.GGUFWriter(path, "wan")
    for file in (Path(model.location) / "transformer").glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            wans = "head.modulation" if name == "scale_shift_table" else name
            for ours, theirs in WANS_NAMES if wans == name else ():
                wans = wans.replace(ours, theirs)
            values = tensor.float().numpy()
            if without and without in name:
                continue
            if kinds and name in kinds:
                _add_tensor(writer, wans, values, kinds[name])
            elif name.startswith("blocks.") and tensor.ndim == 2:
                writer.add_tensor(wans, gguf.quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(wans, values)
    if extra:
        writer.add_tensor(extra, torch.ones(3).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensor(writer: Any, name: str, values: Any, kind: Any) -> None:
    if kind is Kind.I8:
        writer.add_tensor(name, values.astype("int8"))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


@pytest.fixture(scope="module")
def small_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "nano-Q8_0.gguf", NANO, Kind.Q8_0)


def recipe_from(path: Path, *settings: str) -> Recipe:
    asked = [f"model_settings.transformer_file={path}", "model_settings.dtype=bfloat16", *settings]
    return preview_batch(load_config("nano", asked), "a large red circle moving left").first_recipe


def test_gguf_transformer_approximates_the_full_precision_video(small_nano: Path) -> None:
    recipe = recipe_from(small_nano, "model_settings.steps=8", "video_settings.frames=9")
    assert recipe.weights == "gguf"
    own = load_pipeline(NANO, None, "bfloat16", CPU)
    near = load_recipe_pipeline(recipe, "cpu", choose_recipe_plan(recipe, "cpu").plan).pipeline
    exact, result = latents_of(own, recipe), latents_of(near, recipe)
    assert 0 < float((result - exact).norm() / exact.norm()) < 0.1
    held = sum(p.nbytes for p in near.transformer.parameters())
    assert estimate_transformer_bytes(NANO, recipe) == pytest.approx(
        held, rel=0.15
    )  # what is in float32 there is narrowed


def test_gguf_weights_reduce_the_predicted_peak_and_are_not_fused(small_nano: Path) -> None:
    recipe = recipe_from(small_nano)
    model = find_model("wan2.1-14b")
    full = recipe.model_copy(update={"weights": "full", "transformer_file": None})
    at_most = estimate_peak_bytes(RESIDENT_PLAN, model, recipe)
    assert at_most is not None
    assert at_most < estimate_peak_bytes(RESIDENT_PLAN, model, full) - 0.9 * estimate_transformer_bytes(model, full)  # type: ignore[operator]
    assert not can_fuse_pipeline(find_model("wan2.1-1.3b"), RESIDENT_PLAN, "fused", recipe.weights)


def test_batch_with_a_gguf_file_records_it(wantui: Wantui, small_nano: Path) -> None:
    asked = [f"model_settings.transformer_file={small_nano}", "model_settings.steps=2", "video_settings.frames=5"]
    result = wantui(
        "run", "-t", "a star", "--videos-per-variation", 1, *(word for one in asked for word in ("--set", one))
    )
    assert result.code == 0, result.err
    recipe = read_manifest(batch(result)).videos[0].recipe
    assert recipe.transformer_file is not None
    assert recipe.transformer_file.path == str(small_nano)


def test_computation_note_names_non_default_weights_and_speed(small_nano: Path) -> None:
    assert recipe_from(small_nano).computation_note == "transformer from nano-Q8_0.gguf"
    cached = recipe_from(small_nano, "model_settings.speed=cached")
    assert (
        cached.computation_note == "cached by the first block, transformer from nano-Q8_0.gguf"
    )  # which was not calibrated
    nano = preview_batch(load_config("nano", ["model_settings.speed=cached", "model_settings.weights=int8"]), "a star")
    assert nano.first_recipe.computation_note == "cached by magnitudes, weights in int8"
    assert preview_batch(load_config("nano"), "a star").first_recipe.computation_note == ""


def test_gguf_file_changed_after_planning_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", NANO, Kind.Q8_0)
    recipe = recipe_from(path)
    check_weight_fingerprints(recipe)
    write_gguf(path, NANO, Kind.Q5_0)
    with pytest.raises(LoadError, match=r"a\.gguf has changed since this batch was planned"):
        check_weight_fingerprints(recipe)
    path.unlink()
    with pytest.raises(LoadError, match=r"a\.gguf cannot be read: No such file"):
        check_weight_fingerprints(recipe)


def test_gguf_file_of_another_model_is_refused_with_the_mismatch(
    tmp_path: Path, tiny_models: dict[str, WanModel], small_nano: Path
) -> None:
    with pytest.raises(LoadError, match=r"nano-Q8_0\.gguf cannot be loaded as the transformer of wan2\.1"):
        load_pipeline(tiny_models["wan2.1"], None, "bfloat16", CPU, weights="gguf", transformer_file=small_nano)
    lacking = write_gguf(tmp_path / "b.gguf", NANO, Kind.Q8_0, without="blocks.3.attn1.to_q")
    with pytest.raises(LoadError, match=r"b\.gguf cannot be loaded .* has no blocks\.3\.attn1\.to_q\.bias and 1 more"):
        load_pipeline(NANO, None, "bfloat16", CPU, weights="gguf", transformer_file=lacking)
    # A2
    for extra, hint in (("blocks.0.self_attn.q.scale_weight", "they are scales of 8-bit weights"), ("x", "ignore")):
        other = write_gguf(tmp_path / "d.gguf", NANO, Kind.Q8_0, extra=extra)
        with pytest.raises(LoadError, match=rf"d\.gguf cannot be loaded .* which the model would .*{hint}"):
            load_pipeline(NANO, None, "bfloat16", CPU, weights="gguf", transformer_file=other)
    cut = tmp_path / "c.gguf"
    cut.write_bytes(small_nano.read_bytes()[:500_000])
    with pytest.raises(
        LoadError, match=r"c\.gguf cannot be loaded .* it is damaged, incomplete, .*\. Copy or download"
    ):
        load_pipeline(NANO, None, "bfloat16", CPU, weights="gguf", transformer_file=cut)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("blocks.0.attn1.to_q.bias", Kind.BF16, "blocks.0.attn1.to_q.bias stored as BF16, which is only supported for"),
        ("blocks.0.attn1.norm_q.weight", Kind.Q8_0, "norm_q.weight stored as Q8_0, which is only supported for"),
        ("patch_embedding.weight", Kind.BF16, "patch_embedding.weight stored as BF16, which is only supported for"),
        ("blocks.0.attn1.to_q.weight", Kind.MXFP4, "to_q.weight stored as MXFP4, which is not supported. Use a file"),
        ("blocks.0.attn1.to_q.weight", Kind.I8, "to_q.weight stored as I8, which is not supported. Use a file with"),
        ("scale_shift_table", Kind.Q8_0, None),
        ("blocks.0.scale_shift_table", Kind.BF16, None),
        ("condition_embedder.time_embedder.linear_1.bias", Kind.BF16, None),
        ("proj_out.weight", Kind.Q4_0, None),
    ],
)
def test_gguf_type_is_refused_where_it_would_not_be_decoded(
    tmp_path: Path, name: str, kind: Any, message: str | None
) -> None:
    path = write_gguf(tmp_path / "a.gguf", NANO, Kind.F16, kinds={name: kind})
    if message is None:
        load_pipeline(NANO, None, "bfloat16", CPU, weights="gguf", transformer_file=path)
        return
    with pytest.raises(LoadError, match=r"a\.gguf cannot be loaded .*" + re.escape(message)):
        load_pipeline(NANO, None, "bfloat16", CPU, weights="gguf", transformer_file=path)


def test_invalid_gguf_file_is_refused_when_planned(tmp_path: Path, tiny_models: dict[str, WanModel]) -> None:
    with pytest.raises(PlanError, match=r"transformer_file: .*none\.gguf cannot be read: No such file"):
        recipe_from(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not one")
    (tmp_path / "blob").write_bytes(b"GGUF and more")
    with pytest.raises(
        PlanError, match=r"blob: diffusers recognises GGUF files by their suffix\. Rename it to NAME\.gguf"
    ):
        recipe_from(tmp_path / "blob")
    with pytest.raises(PlanError, match=r"text\.gguf is not a GGUF file"):
        recipe_from(tmp_path / "text.gguf")
    with pytest.raises(PlanError, match="has two transformers, and one file cannot replace both"):
        recipe_from(tmp_path / "text.gguf", f"model_settings.model_id={tiny_models['a14b'].location}")


def make_gguf_header(*values: tuple[bytes, int, bytes]) -> bytes:
    """Return a GGUF file of version 3 without tensors: key, type and value of its metadata."""
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values))
    for key, value_type, value in values:
        content += struct.pack("<Q", len(key)) + key + struct.pack("<I", value_type) + value
    return content


@pytest.mark.parametrize(
    ("value_type", "value", "message"),
    [
        (9, struct.pack("<IQ", 0, 2**40), r"an array of its metadata has 1,099,511,627,776 values"),
        (9, struct.pack("<IQ", 4, 10**6), r"a value at byte \d+ lies beyond the end of the file"),
        (8, struct.pack("<Q", 2**60) + b"wan", r"a value at byte \d+ lies beyond the end of the file"),
        (4, b"", r"a value at byte \d+ lies beyond the end of the file"),
        (9, struct.pack("<IQ", 9, 1) * 5000, "maximum recursion depth exceeded"),
    ],
)
def test_gguf_metadata_beyond_its_file_is_refused(
    value_type: int, value: bytes, message: str, tmp_path: Path
) -> None:  # B3
    path = tmp_path / "a.gguf"
    path.write_bytes(make_gguf_header((b"a", value_type, value)))
    with pytest.raises(PartError, match=rf"it is damaged, incomplete, .*{message}.*Copy or download it again"):
        check_gguf_tensors(Path(NANO.location), path)


def test_gguf_is_refused_with_8_bit_weights_or_without_the_library(
    small_nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [f"model_settings.transformer_file={small_nano}", "model_settings.weights=float8"]
    refusals = preview_batch(load_config("nano", asked), "a star").refusals
    assert any("float8 cannot be combined with a transformer_file" in refusal for refusal in refusals)
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    refusals = preview_batch(load_config("nano", asked[:1]), "a star").refusals
    assert any("transformer_file needs gguf: pip install gguf" in refusal for refusal in refusals)


def test_trajectories_of_different_weights_are_not_compared(wantui: Wantui, tmp_path: Path, small_nano: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", NANO, Kind.Q5_0)
    folders = []
    for path in (small_nano, small_nano, other):
        size = ["video_settings.width=64", "video_settings.height=64", "video_settings.frames=5"]
        asked = [f"model_settings.transformer_file={path}", "model_settings.steps=3", *size]
        words = [word for one in asked for word in ("--set", one)]
        result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *words)
        assert result.code == 0, result.err
        folders.append(batch(result).root)
    kept, left = select_comparable_videos([video for folder in folders for video in read_batch_videos(folder)])
    assert len(kept) == 2
    assert [video.folder for video in left] == [folders[2]]
    assert left[0].exclusion_reason is not None
    assert left[0].exclusion_reason.startswith("transformer_file is ")
