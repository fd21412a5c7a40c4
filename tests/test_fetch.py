"""Fetching weights from a fake hub: the requests, and the errors if the hub refuses."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from conftest import Wantui
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from wantui.generation.errors import LoadError
from wantui.generation.load import load_pipeline_parts, read_gguf_transformer
from wantui.models.catalogue import WanModel, find_model
from wantui.models.fetch import FETCH_PATTERNS

pytestmark = pytest.mark.torch


class Hub:
    """Stands in for `snapshot_download`."""

    def __init__(self, error: Exception | None = None, *sizes: int) -> None:
        self.error, self.sizes, self.folder = error, sizes, "/cache/snapshots/abc"
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repo: str, **options: Any) -> Any:
        self.asked.append((repo, options))
        if self.error is not None:
            raise self.error
        if options.get("dry_run"):
            return [SimpleNamespace(will_download=size > 0, file_size=abs(size)) for size in self.sizes]
        return self.folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    result = Hub(None, 3_000_000_000, -5_000_000_000, 200)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", result)
    return result


def test_missing_files_are_downloaded_at_the_requested_revision(wantui: Wantui, hub: Hub) -> None:
    result = wantui("models", "fetch", "wan2.1-1.3b", "--revision", "v1")
    assert (result.code, result.out) == (0, "/cache/snapshots/abc\n")
    repo, options = hub.asked[-1]
    assert repo == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert options == {"revision": "v1", "allow_patterns": FETCH_PATTERNS}


def test_dry_run_reports_missing_files_and_fetches_nothing(wantui: Wantui, hub: Hub) -> None:
    assert wantui("models", "fetch", "wan2.1-14b", "--dry-run").out == "2 files, 3.0 GB\n"
    assert all(options["dry_run"] for _, options in hub.asked)


def test_fetch_without_disk_space_downloads_nothing(wantui: Wantui, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    result = wantui("models", "fetch", "wan2.1-1.3b")
    assert result.code == 2
    assert "needs 3.0 GB more, and 2.0 GB are free" in result.err
    assert "HF_HOME" in result.err
    assert len(hub.asked) == 1


RESPONSE: Any = SimpleNamespace(headers={}, request=None)
REFUSALS = {
    "gated": (GatedRepoError("gated", response=RESPONSE), "must grant access"),
    "unknown": (RepositoryNotFoundError("none", response=RESPONSE), "the hub has no such model"),
    "revision": (RevisionNotFoundError("none", response=RESPONSE), "it has no revision 'v9'"),
    "offline": (
        ConnectionError("Dry run cannot be performed as the repository cannot be accessed."),
        "cannot fetch Wan-AI/Some-Model: the repository cannot be accessed. Run the command again to resume",
    ),
    "network": (
        ConnectionError("Name or service not known"),
        "Name or service not known. Run the command again to resume",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_failed_download_is_reported_with_its_reason(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    error, message = REFUSALS[refusal]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(error))
    result = wantui("models", "fetch", "Wan-AI/Some-Model", "--revision", "v9")
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_wrapped_download_error_gives_its_reason(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = RuntimeError("dry run cannot be performed")
    wrapped.__cause__ = REFUSALS["gated"][0]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(wrapped))
    assert "must grant access" in wantui("models", "fetch", "Wan-AI/Some-Model").err


def test_revision_of_a_local_model_is_refused_by_fetch(wantui: Wantui) -> None:
    result = wantui("models", "fetch", "nano", "--revision", "v2")
    assert result.code == 2
    assert "cannot fetch a revision of nano: it is on this machine only. Omit --revision" in result.err


def test_local_files_are_not_downloaded(wantui: Wantui, hub: Hub) -> None:
    result = wantui("models", "fetch", "nano")
    assert result.code == 0
    assert "nano is on this machine" in result.err
    assert hub.asked == []
    assert Path("outputs").exists() is False


def test_missing_model_is_downloaded_on_load(hub: Hub, tiny_models: dict[str, WanModel]) -> None:
    hub.folder = tiny_models["wan2.1"].location
    pipeline = load_pipeline_parts(find_model("wan2.1-1.3b"), "v1", "bfloat16", {"text_encoder": None})
    assert hub.asked[-1][1] == {"revision": "v1", "allow_patterns": FETCH_PATTERNS}
    assert pipeline.text_encoder is None
    assert pipeline.transformer.config.text_dim == 32


def test_transformer_replaced_by_a_file_is_not_downloaded(
    hub: Hub, tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_models["wan2.1"].location, tmp_path / "model"))
    for weights in (folder / "transformer").glob("*.safetensors"):
        weights.unlink()
    hub.folder = str(folder)
    model, file = find_model("wan2.1-1.3b"), tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    pytest.importorskip("gguf", reason="needs gguf (extra gguf)")
    with pytest.raises(LoadError, match=r"a\.gguf cannot be loaded as the transformer of wan2\.1-1\.3b"):
        read_gguf_transformer(model, None, "bfloat16", file)
    transformer = load_pipeline_parts(tiny_models["wan2.1"], None, "bfloat16").transformer
    pipeline = load_pipeline_parts(
        model, None, "bfloat16", {"transformer": transformer}, replaced_parts=("transformer",)
    )
    assert pipeline.transformer is transformer
    patterns = [options["allow_patterns"] for _, options in hub.asked]
    assert len(patterns) == 4
    assert all("transformer/*" not in asked and "transformer/*config.json" in asked for asked in patterns)
    assert all("text_encoder/*" in asked for asked in patterns)


def test_loading_a_missing_model_checks_disk_space_first(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    with pytest.raises(LoadError, match=r"not all on this machine.*needs 3.0 GB more, and 2.0 GB are free"):
        load_pipeline_parts(find_model("wan2.1-1.3b"), None, "bfloat16")
    assert len(hub.asked) == 1
