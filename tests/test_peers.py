"""The benchmark of the official code, diffusers and wantui, on a CPU with tiny models.

A stand-in for the official transformer has its layout of files and its name of the attention. With WANTUI_OFFICIAL_WAN,
the path of a clone of Wan-Video/Wan2.1, the real code is tested too.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import torch
from benchmarks import batch, peers
from benchmarks.official_wan import (
    FILES,
    build_official_model,
    check_clone,
    choose_attention,
    describe_version,
    evaluate_official,
    import_official_code,
)
from benchmarks.peers import Bench, Result, format_table, measure_peer, run_peer
from conftest import recipe_for

from wantui.models.catalogue import find_model
from wantui.planning.memory_plan import RESIDENT_PLAN
from wantui.planning.throughput import FLASH_ATTENTION_4, Throughput
from wantui.queue.benchmark_store import load_attention_backend

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
needs_clone = pytest.mark.skipif(
    "WANTUI_OFFICIAL_WAN" not in os.environ, reason="WANTUI_OFFICIAL_WAN is not set to a clone of Wan-Video/Wan2.1"
)
MODEL = """
from .attention import flash_attention
"""
ATTENTION = """
FLASH_ATTN_2_AVAILABLE = FLASH_ATTN_3_AVAILABLE = False


def flash_attention(q, k, v):
    raise AssertionError


def attention(q, k, v):
    return "fallback"
"""


@pytest.fixture(autouse=True)
def forget_official_code() -> Iterator[None]:
    """Let each test import the official code anew."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "wan"]:
        del sys.modules[name]


@pytest.fixture
def bench() -> Bench:
    return Bench("wan2.1-1.3b", True, 2)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    for name, text in zip(FILES, (MODEL, ATTENTION, "class FlowUniPCMultistepScheduler: pass"), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("peer", ["diffusers", "reference", "fused", "fp8"])
def test_a_peer_is_measured_in_its_own_loop(bench: Bench, peer: str, tmp_path: Path) -> None:
    result = measure_peer(bench, peer, None, tmp_path / peer)
    assert (result.peer, result.attention, result.note) == (peer, "torch SDPA", "")
    assert len(bench.step_ends) == 2 + 1 + 1  # two timed steps, one before them, and the beginning
    assert result.step_seconds > 0
    wanted = bench.build_transformer()
    with torch.no_grad():
        expected = [
            wanted(bench.noise.bfloat16(), torch.tensor([500.0]), bench.embed_prompt(text), return_dict=False)[0]
            for text in ("x", "")
        ]
    velocities, expected_velocities = torch.load(tmp_path / peer), torch.stack(expected).float()
    error = float((velocities - expected_velocities).norm() / expected_velocities.norm())
    if peer in ("diffusers", "reference"):
        assert error == 0
    else:
        assert 0 < error < 0.1


def test_cached_is_the_mean_over_a_video_with_published_magnitudes(bench: Bench) -> None:
    result = measure_peer(bench, "cached", None, None)
    assert result.note == "mean of 50 steps, 21 computed"


def test_both_texts_of_a_guided_step_differ(bench: Bench) -> None:
    assert torch.equal(bench.embed_prompt(""), -bench.embed_prompt("a prompt"))
    assert bench.embed_prompt("x")[0, : peers.TOKEN_COUNT].any(-1).all()
    assert not bench.embed_prompt("x")[0, peers.TOKEN_COUNT :].any()


def test_a_folder_without_the_official_code_is_refused_by_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"has no wan/modules/model\.py"):
        check_clone(tmp_path)


def test_the_official_code_without_flash_attn_gets_its_own_fallback(stand_in: Path) -> None:
    code = import_official_code(stand_in, CPU)
    assert code.attention.startswith("torch SDPA")
    assert code.model_module.flash_attention(None, None, None) == "fallback"


@pytest.mark.parametrize(
    ("has_version_3", "package", "expected"),
    [
        (True, SimpleNamespace(), "FlashAttention-3"),
        (False, SimpleNamespace(flash_attn_varlen_func=None), "FlashAttention-2"),
        (False, SimpleNamespace(cute=None), "torch SDPA (its fallback `attention`, patched in)"),
    ],
)
def test_the_official_attention_is_named(has_version_3: bool, package: SimpleNamespace, expected: str) -> None:
    """The package flash_attn of FlashAttention-4 can be imported, and lacks the function of version 2."""
    attention = SimpleNamespace(
        FLASH_ATTN_3_AVAILABLE=has_version_3, FLASH_ATTN_2_AVAILABLE=True, flash_attn=package, attention=len
    )
    model = SimpleNamespace(flash_attention=max)
    assert choose_attention(model, attention, torch.device("cuda")) == expected
    is_patched = expected.startswith("torch")
    assert model.flash_attention is (len if is_patched else max)
    assert attention.FLASH_ATTN_2_AVAILABLE is not is_patched


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.processes
def test_a_clone_is_named_by_its_commit_and_other_files_by_their_digest(stand_in: Path) -> None:
    assert describe_version(stand_in).startswith("no git checkout, files with SHA-256 ")
    git = ("git", "-C", str(stand_in), "-c", "user.name=x", "-c", "user.email=x")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "x")):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert describe_version(stand_in) == f"commit {head}"
    (stand_in / FILES[0]).write_text("changed")
    assert describe_version(stand_in) == f"commit {head}, CHANGED"


@needs_clone
@pytest.mark.parametrize("is_float32", [True, False])
def test_the_official_transformer_computes_what_diffusers_computes(bench: Bench, is_float32: bool) -> None:
    code = import_official_code(Path(os.environ["WANTUI_OFFICIAL_WAN"]), CPU)
    timestep, noise = torch.tensor([500.0]), bench.noise
    reference, texts = bench.build_transformer().float(), (bench.embed_prompt("x"), bench.embed_prompt(""))
    with torch.no_grad():
        expected = torch.cat([reference(noise, timestep, text.float(), return_dict=False)[0] for text in texts])
    model = build_official_model(code, bench.model, bench.build_transformer(), is_float32)
    tokens = tuple(text[0, : peers.TOKEN_COUNT] for text in texts)
    result = evaluate_official(model, noise[0], timestep, (tokens[0], tokens[1]))
    assert float((result - expected).norm() / expected.norm()) < 0.02


def test_the_table_has_ratios_over_diffusers() -> None:
    plain = Result("diffusers", "torch SDPA", 1.0, 2.0, 4_000_000_000)
    fused = replace(plain, peer="fused", step_seconds=0.8, note="faster")
    lines = format_table([plain, fused], {"fused": 0.02})
    assert lines[2] == "| diffusers | torch SDPA | 1.000 | 1.000 | 4.00 | 2.0 |  |  |"
    assert lines[3] == "| fused | torch SDPA | 0.800 | 1.250 | 4.00 | 2.0 | 2.0e-02 | faster |"
    assert format_table([fused], {})[2] == "| fused | torch SDPA | 0.800 |  | 4.00 | 2.0 |  | faster |"


@pytest.mark.processes
def test_a_peer_without_a_result_is_reported_with_its_last_line() -> None:
    assert run_peer("x", [sys.executable, "-c", "raise ValueError('no GPU')"], 60) == "FAILED: ValueError: no GPU"
    assert run_peer("x", [sys.executable, "-c", "import time; time.sleep(60)"], 0.5) == "stopped, no result after 0 s"


def test_a_batch_with_another_attention_kernel_stores_it_after_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Throughput("H200", "fused", 1e-15, 1e-15, 1e-12, 1e-8, 0.0, 0.0, "2.11", 0.0)
    recipe = recipe_for(find_model("wan2.1-1.3b"), speed="fused")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(batch, "check_kernel_installed", lambda name: None)
    done = SimpleNamespace(returncode=0, stdout=json.dumps(asdict(measured)))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    batch.run_bench(FLASH_ATTENTION_4)
    assert load_attention_backend("H200", recipe, RESIDENT_PLAN) == FLASH_ATTENTION_4
