"""Commands without a module of their own: their output, and their errors for invalid input."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Wantui, batch, files, only_queued
from fake_nvml import FakeNvml

from wantui.batches.demo import plan_demo_batch
from wantui.batches.enqueue import Shard
from wantui.batches.rerun import RerunResult
from wantui.cli import logs
from wantui.cli.doctor import _check_library_versions, find_hub_cache
from wantui.cli.rerun import _print_rerun_result
from wantui.errors import UserError
from wantui.gpu.nvml import Gpu, GpuReport
from wantui.planning import Recipe
from wantui.queue import reader, state_files
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import find_state_directory
from wantui.storage import video_files
from wantui.storage.manifest import read_manifest
from wantui.storage.manifest_store import ManifestStore
from wantui.storage.mp4 import read_clip_tags, read_frames, write_mp4

pytestmark = pytest.mark.torch


def test_preview_prints_brackets_and_colons_literally(wantui: Wantui) -> None:
    assert r"a [bold] cat :cat: [/b]" in wantui("preview", "-t", r"a \[bold\] cat :cat: \[/b\]").out


def test_preview_prints_variations_and_cost_and_writes_no_files(wantui: Wantui) -> None:
    result = wantui("preview", "-t", "a [red|blue|] (circle:1.5)", "--store-latents")
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()[1:4]] == [
        ["0", "red", "a", "red", "circle", "circle", "x1.5"],
        ["1", "blue", "a", "blue", "circle", "circle", "x1.5"],
        ["2", "none", "a", "circle", "circle", "x1.5"],
    ]
    assert "3 variations x 2 seeds (42 to 43) = 6 videos" in result.out
    assert "float32, word weights by attention\n" in result.out
    assert "6 videos x 21 steps x 16 x 5 x 16 x 16 x 4 bytes" in result.out
    assert files() == []
    report = json.loads(wantui("preview", "--json", "-t", "a [red|blue|] (circle:1.5)").out)
    assert [v["prompt"] for v in report["variations"]] == ["a red circle", "a blue circle", "a circle"]
    assert report["variations"][0]["marks"] == [{"text": "circle", "start": 6, "end": 12, "weight": 1.5}]


def test_template_can_be_read_from_a_file(wantui: Wantui) -> None:
    Path("t.txt").write_text("a [red|blue] circle\n")
    assert "a blue circle" in wantui("preview", "--template-file", "t.txt").out
    assert wantui("preview", "--template-file", "none.txt").code == 2
    assert wantui("preview", "--template-file", "t.txt", "-t", "x").code == 2


@pytest.mark.parametrize(
    ("options", "reason", "code"),
    [
        (
            ["--set", "model_settings.device=cuda:9"],
            "cannot use model_settings.device: cuda:9: this machine has no",
            3,
        ),
        (["--output-dir", "file/x"], "file is not a folder. Choose another path", 2),
        (
            ["--output-dir", "full", "--batch-name", "b", "--set", "use_timestamp=false"],
            "b exists already. Choose",
            2,
        ),
        (["--set", "latent_analysis_settings.store_predicted_clean=true"], "needs store_latents", 2),
    ],
    ids=["device", "folder in a file", "taken name", "plan"],
)
def test_preview_reports_why_run_would_refuse(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, options: list[str], reason: str, code: int
) -> None:
    monkeypatch.setattr(
        "wantui.batches.enqueue.query_gpus", lambda: GpuReport((), None, "no NVIDIA driver is installed")
    )
    Path("file").write_text("")
    Path("full/b").mkdir(parents=True)
    Path("full/b/x").write_text("")
    before = sorted(Path().rglob("*"))
    result = wantui("preview", "-t", "a star", *options)
    assert result.code == code
    assert "\ncannot run: " in result.out
    assert reason in result.out
    json_result = wantui("preview", "-t", "a star", "--json", *options)
    assert any(reason in text for text in json.loads(json_result.out)["refusals"])
    assert json_result.code == code
    assert sorted(Path().rglob("*")) == before
    assert wantui("run", "--detach", "-t", "a star", *options).code == code


MISTAKES = {
    "unknown key": (["--set", "model_settings.stps=3"], "did you mean model_settings.steps?"),
    "wrong type": (["--set", "model_settings.steps=many"], "--set: model_settings.steps: should be a whole number"),
    "missing config": (["-c", "nowhere.yaml"], "no such file"),
    "broken yaml": (["-c", "broken.yaml"], "broken.yaml:3: not valid YAML"),
    "empty template": (["-t", " "], "the template is empty"),
    "unmatched bracket": (["-t", "a [red|blue"], "never closed; write \\[ for the character itself (column 3)\n"),
    "weight out of range": (["-t", "a (red:99)"], "the weight 99 is not between 0 and 10"),
    "weight above the limit": (["-t", "a (red:10.0000001)"], "the weight 10.0000001 is not between 0 and 10"),
    "two templates": (["-t", "a", "-t", "b"], "--template is given 2 times. Give it once; write alternatives as"),
    "two configs": (["-t", "a", "-c", "nano", "-c", "default"], "--config is given 2 times. Give it once"),
    "template without its option": (
        ["a [red|blue] star"],
        "unexpected argument 'a [red|blue] star'. Write a template as -t 'a [red|blue] circle', a config as -c NAME",
    ),
    "words without quotes": (["-t", "a", "red", "star"], "unexpected argument 'red star'. Write a template as -t"),
    "variable without a name": (
        ["-t", "a", "--output-dir", "${}"],
        "'${}': ${} is not the name of an environment variable",
    ),
    "file as log folder": (["-t", "a", "--logs", "/dev/null"], "cannot write the log folder /dev/null: it is not a fo"),
    "odd width": (["--set", "video_settings.width=100"], "nearest are 96 or 112"),
    "unknown sampler": (["--set", "model_settings.sampler=ddim"], "model_settings.sampler: input should be"),
    "refused sampler": (["--set", "model_settings.sampler=deis"], "deis is not supported"),
    "unknown model": (["--set", "model_settings.model_id=wan9"], "unknown model 'wan9'"),
    "too many variations": (["-t", "[1|2|3|4|5|6|7|8|9|0]" * 5], "it has 100,000 variations"),
    "attention": (["--store-attention"], "the template marks no words"),
    "output is a file": (["--output-dir", "broken.yaml"], "cannot be written"),
    "output in a file": (["--output-dir", "broken.yaml/x"], "cannot be written"),
    "output not writable": (["--output-dir", "/proc/outputs"], "cannot be written"),
    "no such option": (["--colour", "red"], "No such option"),
    "seed": (["--seed", "x"], "should be a whole number in decimal digits, got 'x'"),
    "negative seed": (["--seed", "-1"], "wantui: --seed: model_settings.seed: input should be greater"),  # C7
    "resume nothing": (["--resume", "nowhere"], "nowhere is not a batch folder: it does not exist"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_invalid_input_exits_with_code_2_and_writes_nothing(wantui: Wantui, mistake: str) -> None:
    Path("broken.yaml").write_text("model_settings:\n  steps: [\n")
    arguments, message = MISTAKES[mistake]
    template = [] if "-t" in arguments else ["-t", "a circle"]
    result = wantui("run", *template, *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert files() == ["broken.yaml"]
    assert [path.name for path in Path().iterdir()] == ["broken.yaml"]


def test_rerun_reproduces_a_clip_bit_identically(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    clip = folder.make_clip_path(0, 1)
    before = clip.read_bytes()
    result = wantui("rerun", clip, "-o", "again.mp4", "--device", "cpu")
    assert result.out == f"bit-identical: latents and frames of {clip}\n"
    assert result.code == 0
    assert clip.read_bytes() == before
    assert read_clip_tags(Path("again.mp4"))[0] == read_clip_tags(clip)[0]
    assert wantui("rerun", clip, "-o", "again.mp4").code == 2


def test_rerun_uses_tile_size_of_original_clip(wantui: Wantui, small: list[str]) -> None:
    tiled = [*small, "--set", "memory_settings.plan=small-tiles"]
    for side, pixels in (("width", 192), ("height", 160)):
        tiled += ["--set", f"video_settings.{side}={pixels}"]
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *tiled)).make_clip_path(0, 1)
    recipe, made_with = read_clip_tags(clip)
    assert made_with["tile"] == 128
    assert wantui("rerun", clip, "--device", "cpu").out == f"bit-identical: latents and frames of {clip}\n"
    # Of a clip that says it was decoded as a whole, the tiles are what is found.
    tags = {"wantui": recipe.to_json(), "wantui_made_with": json.dumps({**made_with, "tile": None})}
    write_mp4(Path("whole.mp4"), list(read_frames(clip)), 8, 9, tags)
    whole = wantui("rerun", "whole.mp4", "--device", "cpu")
    assert whole.code == 1
    assert "latents equal: True; frames equal: False" in whole.out


def test_rerun_matches_a_clip_of_an_earlier_version(wantui: Wantui, small: list[str]) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).make_clip_path(0, 1)
    recipe, made_with = read_clip_tags(clip)
    former = json.loads(recipe.to_json()) | {"format": 1, "speed": "exact"}
    tags = {"wantui": json.dumps(former), "wantui_made_with": json.dumps({**made_with, "blocks": "plain"})}
    write_mp4(Path("former.mp4"), list(read_frames(clip)), 8, 9, tags)
    read, read_made_with = read_clip_tags(Path("former.mp4"))
    assert (read, read.digest, read_made_with) == (recipe, recipe.digest, made_with)
    again = wantui("rerun", "former.mp4", "--device", "cpu")
    assert "latents equal: True" in again.out  # its frames were encoded twice
    assert "blocks" not in again.out


def test_rerun_reports_a_changed_clip(wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_CBWR", raising=False)
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    recipe, made_with = read_clip_tags(folder.make_clip_path(0, 1))
    frames = [255 - frame for frame in read_frames(folder.make_clip_path(0, 1))]
    made_with |= {"torch": "1.0", "environment": "NVIDIA_TF32_OVERRIDE=0"}
    tags = {"wantui": recipe.to_json(), "wantui_made_with": json.dumps(made_with)}
    write_mp4(Path("changed.mp4"), frames, 8, 9, tags)
    result = wantui("rerun", "changed.mp4", "--device", "cpu")
    assert result.code == 1
    assert "not identical: pixels differ by up to" in result.out
    assert f"torch: was 1.0, now {torch.__version__}" in result.out
    assert "environment: was NVIDIA_TF32_OVERRIDE=0, now none" in result.out
    del made_with["environment"]  # as in clips of earlier versions
    write_mp4(Path("earlier.mp4"), frames, 8, 9, tags | {"wantui_made_with": json.dumps(made_with)})
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    result = wantui("rerun", "earlier.mp4", "--device", "cpu")
    assert f"torch: was 1.0, now {torch.__version__}" in result.out
    assert "environment" not in result.out


@pytest.mark.parametrize("content", [None, b"", b"\0" * 5000])
def test_rerun_refuses_a_file_that_is_not_a_clip(wantui: Wantui, content: bytes | None) -> None:
    if content is not None:
        Path("clip.mp4").write_bytes(content)
    result = wantui("rerun", "clip.mp4")
    assert result.code == 2
    assert "clip.mp4" in result.err


def test_rerun_tells_a_missing_clip_from_a_folder(wantui: Wantui) -> None:
    assert "cannot read clip.mp4: it does not exist" in wantui("rerun", "clip.mp4").err
    Path("clip.mp4").mkdir()
    assert "cannot read clip.mp4: it is not a regular file" in wantui("rerun", "clip.mp4").err


def test_rerun_refuses_a_truncated_clip(wantui: Wantui, small: list[str]) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).make_clip_path(0, 1)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = wantui("rerun", clip, "--device", "cpu")
    assert result.code == 2
    assert "not a readable clip" in result.err


def test_rerun_refuses_a_clip_whose_size_differs_from_its_recipe(small: list[str], wantui: Wantui) -> None:
    clip = next(batch(wantui("run", "-t", "a star", *small)).root.rglob("*.mp4"))
    recipe, _ = read_clip_tags(clip)
    edited = recipe.model_copy(update={"width": 16_000})
    write_mp4(Path("edited.mp4"), read_frames(clip), recipe.fps, recipe.frames, {"wantui": edited.to_json()})
    result = wantui("rerun", "edited.mp4", "--device", "cpu")
    assert result.code == 2
    assert result.err == (
        "wantui: cannot regenerate edited.mp4: it was changed: its frames are 32x32, not 16000x32 as in its recipe\n"
    )


def test_rerun_refuses_a_name_too_long_for_the_partial_file(small: list[str], wantui: Wantui) -> None:
    clip = next(batch(wantui("run", "-t", "a star", *small)).root.rglob("*.mp4"))
    result = wantui("rerun", clip, "-o", "y" * 244 + ".mp4", "--device", "cpu")
    assert result.code == 2
    assert "its name is too long. Choose a name of at most 247 bytes" in result.err


def test_rerun_claims_equal_versions_only_if_the_clip_records_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for then, message in (
        ({}, "the clip does not record its versions"),
        ({"torch": "2"}, "versions, device and weights are"),
    ):
        _print_rerun_result(Path("a.mp4"), RerunResult(None, 9, {}, is_known=bool(then)))
        assert message in capsys.readouterr().out


def test_rerun_overwrites_no_files(wantui: Wantui, small: list[str]) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).make_clip_path(0, 1)
    Path("again.jpg").write_text("a picture")
    for output, message in (
        ("again.mp4", "cannot write again.jpg: it already exists"),
        ("nowhere/again.mp4", "cannot write nowhere/again.mp4: "),
    ):
        result = wantui("rerun", clip, "-o", output, "--device", "cpu")
        assert result.code == 2
        assert message in result.err
    assert Path("again.jpg").read_text() == "a picture"
    assert wantui("rerun", clip, "--device", "gpu").code == 2


def test_preview_without_a_gpu_says_that_the_memory_counts_only_the_weights(wantui: Wantui) -> None:
    result = wantui("preview", "-c", "nano", "-t", "a red circle", "--set", "frames=18")
    assert "\nmemory: weights only: 24.5 MB; " in result.out + result.err
    assert "18 frames, which is not 4k + 1: the model will generate 17" in result.err
    assert "128x128, 17 frames at " in result.out + result.err


def test_config_validate_checks_every_file(wantui: Wantui) -> None:
    Path("good.yaml").write_text("model_settings:\n  model_id: nano\nvideo_settings:\n  width: 128\n  height: 128\n")
    Path("bad.yaml").write_text("model_settings:\n  stps: 3\nvideo_settings:\n  fps: 0\n")
    result = wantui("config", "validate", "good.yaml", "bad.yaml", "nano")
    assert result.code == 2
    assert result.out.splitlines() == [
        "good.yaml: valid (nano, 128x128, 50 steps)",
        "bad.yaml: not valid",
        "nano: valid (nano, 128x128, 20 steps)",
    ]
    assert "bad.yaml:2: model_settings.stps" in result.err
    assert "bad.yaml:4: video_settings.fps" in result.err
    Path("worse.yaml").write_text("model_settings:\n  model_id: nano\n  stps: 3\nvideo_settings:\n  width: 129\n")
    result = wantui("config", "validate", "worse.yaml")
    assert "worse.yaml:3: model_settings.stps" in result.err
    assert "error: worse.yaml:5: video_settings.width: 129 is" in result.err, "checked in spite of the unknown key"
    assert [r["valid"] for r in json.loads(wantui("config", "validate", "--json", "good.yaml", "bad.yaml").out)] == [
        True,
        False,
    ]


def test_config_validate_names_the_default_model_the_sweep_and_the_line_of_an_unknown_model(wantui: Wantui) -> None:
    Path("default.yaml").write_text("sweeps: steps=10,20\n")
    result = wantui("config", "validate", "default.yaml")
    assert result.out == "default.yaml: valid (wan2.1-1.3b by default, 832x480, 50 steps; sweep of steps)\n"
    report = json.loads(wantui("config", "validate", "--json", "default.yaml").out)[0]
    assert (report["model"], report["width"], report["height"], report["steps"]) == ("wan2.1-1.3b", 832, 480, 50)
    Path("unknown.yaml").write_text("model_settings:\n  model_id: wan9\n")
    assert (
        "error: unknown.yaml:2: model_settings.model_id: unknown model"
        in wantui("config", "validate", "unknown.yaml").err
    )


def test_config_show_output_can_be_loaded_again(wantui: Wantui) -> None:
    Path("shown.yaml").write_text(wantui("config", "show", "nano", "--set", "model_settings.steps=9").out)
    assert wantui("config", "show", "shown.yaml").out == Path("shown.yaml").read_text()
    assert "steps: 9" in Path("shown.yaml").read_text()
    assert "romantic_scenes" in wantui("config", "show").out


def test_config_schema_contains_limits_and_descriptions(wantui: Wantui) -> None:
    schema = json.loads(wantui("config", "schema").out)
    assert schema["$defs"]["ModelSettings"]["properties"]["steps"]["maximum"] == 1000
    assert schema["$defs"]["VideoSettings"]["properties"]["fps"]["description"] == "Frames per second."


def test_models_ls_shows_available_weights(wantui: Wantui) -> None:
    rows = {row["name"]: row["weights"] for row in json.loads(wantui("models", "ls", "--json").out)}
    assert rows["nano"] == "bundled"
    assert rows["wan2.1-14b"] == "missing"


def test_models_card_prints_the_training_frequencies_of_nano(wantui: Wantui) -> None:
    for arguments in ((), ("nano",)):
        card = wantui("models", "card", *arguments).out
        assert "| shape | circle, square, triangle, star, cross, ring | 45, 25, 14, 8, 5, 3 % |" in card
    other = wantui("models", "card", "wan2.1-14b")
    assert other.code == 2
    assert "cannot print the card of wan2.1-14b: wantui has only nano's card" in other.err
    assert "wantui models card" in wantui("models", "ls").err


def test_doctor_reports_unsupported_and_missing_libraries() -> None:
    wanted = ["numpy>=99", "click>=8", "no-such-library", "pytest>=99; extra == 'test'"]
    result = {finding.check: finding for finding in _check_library_versions(wanted)}
    assert set(result) == {"numpy", "no-such-library"}
    assert result["numpy"].state == result["no-such-library"].state == "problem"
    assert " installed, >=99 required" in result["numpy"].result
    assert result["numpy"].advice == "pip install 'numpy>=99'"


@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_runs_from_a_source_tree_that_is_not_installed(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", not_installed)
    result = wantui("doctor")
    assert result.code == 1  # C7
    assert "not installed: cannot check its requirements" in " ".join(result.out.split())


@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_reports_network_file_systems_and_missing_locks(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    assert "file system" not in wantui("doctor").out
    monkeypatch.setattr("wantui.queue.state_dir.find_file_system_type", lambda path: "lustre")
    monkeypatch.setattr("wantui.storage.locks.fcntl.flock", refuse)
    output = " ".join(wantui("doctor").out.split())
    assert "is on a network file system (lustre)" in output
    assert "without locks (lustre)" in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise OSError('libcudart.so: cannot open shared object file')", "OSError: libcudart.so: cannot open shared"),
        ("import os; os._exit(7)", "the import ended with exit code 7"),
    ],
)
def test_doctor_reports_a_torch_import_failure(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    result = wantui("doctor")
    assert result.code == 1
    assert f"torch cannot be imported: {message}" in " ".join(result.out.split())


def test_doctor_checks_the_driver_for_a_cuda_build_from_pypi(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The metadata of torch's packages on PyPI does not have the tag of the build.
    (tmp_path / "torch.py").write_text("print('loaded'); __version__ = '2.13.0+cu130'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver_version="550.54"))
    result = wantui("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(result.out)}
    assert findings["torch"]["result"] == "2.13.0+cu130"
    assert findings["cuda"]["state"] == "problem"
    assert findings["cuda"]["result"] == "torch 2.13.0+cu130 needs driver 580 or newer, but 550.54 is installed"


def test_doctor_reports_an_unsupported_torch_once(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("__version__ = '2.5.1+cu124'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"torch": "2.5.1"}.get(name, "1.0"))
    findings = [one for one in json.loads(wantui("doctor", "--json").out) if one["check"] == "torch"]
    assert [one["state"] for one in findings] == ["problem"]
    assert findings[0]["result"].startswith("2.5.1 installed, ")


def test_doctor_reports_a_python_that_cannot_be_started(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    result = wantui("doctor")
    assert result.code == 1
    assert "cannot start /nowhere/python (No such file or directory)" in " ".join(result.out.split())


def test_doctor_reports_libraries_and_nano(wantui: Wantui) -> None:
    result = wantui("doctor", "--json", "--full")
    findings = {finding["check"]: finding for finding in json.loads(result.out)}
    assert findings["torch"]["result"] == torch.__version__
    assert findings["nano"]["state"] == "ok"
    assert findings["self-check"]["state"] == "ok"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/cache", "HF_HOME": "/home"}, "/home/hub"),
        ({"HF_HOME": "~/hf"}, "~/hf/hub"),
        ({"HF_HOME": "/home", "HF_HUB_CACHE": "/hub"}, "/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/older"}, "/older"),
    ],
)
def test_doctor_uses_the_hub_cache_of_huggingface_hub(environment: dict[str, str], expected: str) -> None:
    # C7
    assert find_hub_cache(environment) == Path(expected).expanduser()
    names = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    other = {name: value for name, value in os.environ.items() if name not in names} | environment
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    output = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True, check=True)
    assert Path(output.stdout.strip()) == find_hub_cache(environment)


def test_doctor_leaves_nothing_in_the_working_folder(wantui: Wantui) -> None:  # C15
    wantui("doctor")
    assert files() == []


@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_names_a_requested_gpu_that_is_missing(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    # C15
    monkeypatch.setattr("wantui.gpu.nvml.query_gpus", lambda: GpuReport((), None, "no driver"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7")
    assert "problem gpu CUDA_VISIBLE_DEVICES=MIG-7, but no GPU" in " ".join(wantui("doctor").out.split())
    gpus = (Gpu(0, "GPU-a", "H100", 80_000_000_000, 0),)
    monkeypatch.setattr("wantui.gpu.nvml.query_gpus", lambda: GpuReport(gpus, "580", None))
    assert "problem gpu CUDA_VISIBLE_DEVICES=MIG-7: MIG-7 matches no GPU" in " ".join(wantui("doctor").out.split())


def test_duplicate_visible_device_is_refused_before_queueing(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:  # C15
    gpus = (Gpu(0, "GPU-a", "H100", 80_000_000_000, 0),)
    monkeypatch.setattr("wantui.batches.enqueue.query_gpus", lambda: GpuReport(gpus, "580", None))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,0")
    result = wantui("run", "-t", "a star")
    assert (result.code, "names GPU-a twice" in result.err) == (3, True)
    assert not Path("outputs").exists()


def test_rerun_prints_its_progress(wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).make_clip_path(0, 1)
    monkeypatch.setattr("wantui.cli.rerun.SECONDS_BETWEEN_PROGRESS_LINES", 0.0)
    lines = wantui("rerun", clip, "--device", "cpu").err.splitlines()
    assert lines[0].startswith("loading ")  # C11
    assert lines[0].endswith(" on cpu")
    assert "step 1/3" in lines
    assert any(line.startswith("step 3/3, 0:0") for line in lines)
    assert "frame 9/9 decoded" in lines


@pytest.mark.parametrize("model", ["somebody/a-model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan2.2-5b"])
def test_rerun_downloads_a_named_model_only_on_request(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def fetch(*_: object) -> Path:
        raise AssertionError("the hub was asked")

    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).make_clip_path(0, 1)
    recipe, made_with = read_clip_tags(clip)
    other = recipe.model_copy(update={"model": model, "revision": None})
    tags = {"wantui": other.to_json(), "wantui_made_with": json.dumps(made_with)}
    write_mp4(Path("foreign.mp4"), list(read_frames(clip)), 8, 9, tags)
    monkeypatch.setattr("wantui.models.fetch.fetch_model", fetch)
    result = wantui("rerun", "foreign.mp4", "--device", "cpu")
    assert (result.code, result.out) == (2, "")
    assert "wantui models fetch" in result.err  # F18
    assert "--fetch" in result.err
    with pytest.raises(AssertionError, match="the hub was asked"):
        wantui("rerun", "foreign.mp4", "--device", "cpu", "--fetch")


def test_rerun_refuses_an_output_equal_to_its_contact_sheet(wantui: Wantui, small: list[str]) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).make_clip_path(0, 1)
    result = wantui("rerun", clip, "-o", "again.jpg", "--device", "cpu")
    assert result.code == 2
    assert "contact sheet" in result.err


def test_queue_commands_explain_why_nothing_changed(wantui: Wantui, tmp_path: Path) -> None:
    with Queue(find_state_directory().directory) as queue:
        # A batch that was continued: only what was missing is in the queue.
        queue.add_batch(tmp_path / "a", "cpu", [NewVideo(number, f"v{number}", "{}", 3) for number in (4, 5, 8)])
        claim = queue.claim_next_video("w", ("cpu",))
        assert claim is not None
        queue.record_done(claim)
    done = wantui("queue", "retry", 1, 5)
    assert (done.code, done.err) == (
        0,
        "queued again: 0 videos\nvideo 5 of batch 1 is done; only failed or cancelled videos can be retried\n",
    )
    whole = wantui("queue", "retry", 1)
    assert "batch 1 has 1 done, 2 queued; only failed or cancelled videos can be retried" in whole.err
    cancelled = wantui("queue", "cancel", 1, 5)
    assert "video 5 of batch 1 is done; only unfinished videos can be cancelled" in cancelled.err
    for number in (1, 4, 7, 10, 2**70):
        unknown = wantui("queue", "cancel", 1, number)
        assert unknown.code == 2
        assert f"batch 1 has no video {number} in the queue. Its video numbers: 5 to 6, 9" in unknown.err
    assert "1 video cancelled" in wantui("queue", "cancel", 1, 9).err


def test_detached_run_prints_its_folder_or_one_json_object(wantui: Wantui, small: list[str]) -> None:
    with only_queued():
        run = ("run", "--detach", "-t", "a star", "--videos-per-variation", 3, *small)
        assert Path(wantui(*run).out.strip()).is_dir()
        output = json.loads(wantui(*run, "--json").out)
    assert output.pop("folder").startswith("outputs/")
    assert output == {"event": "detached", "batch": 2, "videos": 3}


def test_doctor_refuses_systemd_unit_with_json(wantui: Wantui) -> None:
    result = wantui("doctor", "--systemd-unit", "--json")
    assert (result.code, result.out) == (2, "")
    assert "cannot combine --systemd-unit and --json" in result.err


@pytest.mark.parametrize(("lines", "shown"), [("0", []), ("1", ["c"]), ("2", ["b", "c"]), ("9", ["a", "b", "c"])])
def test_logs_print_the_requested_number_of_last_lines(wantui: Wantui, lines: str, shown: list[str]) -> None:
    Path("logs").mkdir()
    Path("logs/engine.log").write_text("a\nb\nc\n")
    assert wantui("logs", "--logs", "logs", "-n", lines).out.splitlines() == shown


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_followed_log_shows_lines_written_just_before_a_rotation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rotations: int
) -> None:
    path = Path("logs/engine.log").absolute()
    path.parent.mkdir()
    path.write_text("first\n")

    def write_and_rotate(_: float) -> None:
        if path.read_text() != "first\n":
            raise KeyboardInterrupt
        for number in range(1, rotations + 1):
            with path.open("a") as log:
                log.write(f"before rotation {number}\n")
            for backup in range(number - 1, 0, -1):
                path.with_name(f"engine.log.{backup}").rename(path.with_name(f"engine.log.{backup + 1}"))
            path.rename(path.with_name("engine.log.1"))
            path.write_text("")
        path.write_text("after the rotations\n" * 2)  # longer than the part of the first file that was read

    monkeypatch.setattr("wantui.cli.logs.time.sleep", write_and_rotate)
    with pytest.raises(KeyboardInterrupt):
        logs.command.callback(None, True, 20, path.parent)  # type: ignore[misc]
    expected_lines = ["first", *(f"before rotation {n + 1}" for n in range(rotations)), *["after the rotations"] * 2]
    assert capsys.readouterr().out.splitlines() == expected_lines


def rotate_log(path: Path, kept_count: int = 3) -> None:
    """Make `path` its first backup, and keep at most `kept_count` backups."""
    for backup in range(kept_count - 1, 0, -1):
        if (earlier := path.with_name(f"{path.name}.{backup}")).exists():
            earlier.replace(path.with_name(f"{path.name}.{backup + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))


def test_log_that_rotates_while_its_backups_are_read_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path, positions = Path("engine.log"), dict[Path, logs.LogPosition]()
    path.write_text("one\n")
    assert logs._read_new_lines(path, positions) == ["one"]
    rotate_log(path)
    path.write_text("two\n")
    open_file = state_files.open_state_file

    def rotate_before_opening(opened_path: Path, *arguments: int) -> int:
        if opened_path.name == "engine.log.1" and not Path("engine.log.2").exists():
            rotate_log(path)
            path.write_text("three\n")
        return open_file(opened_path, *arguments)

    monkeypatch.setattr(state_files, "open_state_file", rotate_before_opening)
    assert logs._read_new_lines(path, positions) == ["two"]
    assert logs._read_new_lines(path, positions) == ["three"]


def test_log_whose_earlier_file_is_removed_shows_the_backups_written_since() -> None:
    path, positions = Path("engine.log"), dict[Path, logs.LogPosition]()
    Path("engine.log.1").write_text("old\n")
    os.utime("engine.log.1", (1, 1))
    path.write_text("first\n")
    assert logs._read_new_lines(path, positions) == ["first"]
    path.rename("first.log")
    path.write_text("second\n")
    Path("second.log").hardlink_to(path)  # so that no other file gets its inode
    assert logs._read_new_lines(path, positions) == ["second"]
    for word in ("third", "fourth", "fifth"):
        rotate_log(path, 2)
        path.write_text(f"{word}\n")
    assert logs._read_new_lines(path, positions) == ["third", "fourth", "fifth"]


@pytest.mark.parametrize("lines", ["-1", "1_0", "\u0663", "x"])
def test_logs_refuse_an_invalid_number_of_lines(wantui: Wantui, lines: str) -> None:
    Path("logs").mkdir()
    Path("logs/engine.log").write_text("a\nb\nc\n")
    result = wantui("logs", "--logs", "logs", "-n", lines)
    assert (result.code, result.out) == (2, "")
    assert "--lines" in result.err


def test_cancel_is_reported_before_the_manifest_is_written(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_queued():
        assert wantui("run", "--detach", "-t", "a star", "--videos-per-variation", 3, *small).code == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # by a user who does not wait for a slow disk

    monkeypatch.setattr(ManifestStore, "end_videos", interrupted)
    assert "3 videos cancelled\n" in wantui("queue", "cancel", 1).err


def test_cancelling_queued_videos_searches_for_no_files(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(video_files, "find_linked_folder", lambda root, path: looked.append(path))
    monkeypatch.setattr(video_files, "remove_path", looked.append)
    with only_queued():
        folder = batch(wantui("run", "--detach", "-t", "a star", "--videos-per-variation", 50, *small))
    assert "50 videos cancelled\n" in wantui("queue", "cancel", 1).err
    assert {video.state for video in read_manifest(folder).videos} == {"cancelled"}
    assert looked == []


def test_queue_commands_refuse_to_pause_resume_or_move_an_ended_batch(wantui: Wantui, tmp_path: Path) -> None:
    with Queue(find_state_directory().directory) as queue:
        for name in "abc":
            queue.add_batch(tmp_path / name, "cpu", [NewVideo(0, "v", "{}", 3)])
        queue.cancel_videos(2)
        refused = "batch 2 has 1 cancelled; only batches with unfinished videos can be "
        assert wantui("queue", "pause", 2).err == f"{refused}paused\n"
        assert not queue.list_batches()[1].paused
        moved = wantui("queue", "move", 2, "top").err
        assert moved == f"{refused}moved\nqueue order: 1, 3\n"
        assert wantui("queue", "resume", 2).err.startswith(f"{refused}resumed\n")
        assert wantui("queue", "move", 1, "up").err == "batch 1 is already there\nqueue order: 1, 3\n"
        assert wantui("queue", "move", 3, "up").err == "queue order: 3, 1\n"
        wantui("queue", "pause", 3)
        assert wantui("queue", "resume").err.startswith("the queue is not held\nstill paused: batch 3. ")
        assert wantui("queue", "resume", 3).err.startswith("batch 3 resumed\n")
        assert wantui("queue", "resume", 3).err.startswith("batch 3 is not paused\n")
        queue.hold_queue("paused", "it was paused")
        assert "the queue is held: it was paused. " in wantui("queue", "resume", 3).err
        assert wantui("queue", "resume").err.startswith("queue resumed\n")


def test_queue_ls_names_ended_batches_with_failed_videos(wantui: Wantui, tmp_path: Path) -> None:
    with Queue(find_state_directory().directory) as queue:
        for number in range(5):
            queue.add_batch(tmp_path / f"b{number}", "cpu", [NewVideo(0, "v", "{}", 3)])
            claim = queue.claim_next_video("w", ("cpu",))
            assert claim is not None
            queue.record_batch_failure(claim, "no weights", 2)
    output = wantui("queue", "ls").err
    assert "the queue has no unfinished batches" in output
    assert "failed: 1 video of batch 5 (b4). Show errors: wantui queue show 5; retry: wantui queue retry 5" in output
    assert "videos of 2 earlier batches failed too: wantui queue ls --all" in output
    assert "no weights" in wantui("queue", "show", 5).out
    assert "failed: " not in wantui("queue", "ls", "--all").err


@pytest.mark.parametrize("number", ["1_000", "٣", "３", "0x10", "1.5", "one", ""])
@pytest.mark.parametrize(
    "command",
    [
        ("preview", "-t", "a", "--seed"),
        ("run", "-t", "a", "--videos-per-variation"),
        ("serve", "--port"),
        ("engine", "start", "--workers"),
        ("queue", "show", "1", "--page"),
        ("queue", "cancel", "1"),
        ("queue", "retry", "1"),
        ("slurm", "-t", "a", "--jobs"),
        ("analyze", ".", "--stride"),
    ],
    ids=" ".join,
)
def test_integer_options_accept_decimal_notation_only(wantui: Wantui, command: tuple[str, ...], number: str) -> None:
    result = wantui(*command, number)
    assert result.code == 2
    assert "should be a whole number" in result.err


@pytest.mark.parametrize("number", ["1_0", "٠.٥", "nan", "inf"])
def test_float_options_accept_decimal_notation_only(wantui: Wantui, number: str) -> None:
    result = wantui("analyze", ".", "--compare", "--margin", number)
    assert result.code == 2
    assert "should be a number in decimal digits" in result.err


@pytest.mark.parametrize("share", ["٢/٨", "1_0/8", "0/8", "9/8", "2/", "/8", f"1/{'9' * 5000}"])
def test_invalid_shares_are_refused(share: str) -> None:
    with pytest.raises(UserError, match="cannot read the share"):
        Shard.parse(share)


def test_page_number_above_the_limit_is_refused(wantui: Wantui) -> None:
    result = wantui("queue", "show", "1", "--page", "9" * 20)
    assert result.code == 2
    assert "is not in the range 1<=x<=1000000000" in result.err


def test_file_with_the_name_of_the_default_preset_is_not_read_unasked(wantui: Wantui) -> None:
    Path("nano").write_text("model_settings: {model_id: nano, steps: 3}\n")
    assert "20 steps of unipc" in wantui("preview", "-t", "a circle").out
    assert "3 steps of unipc" in wantui("preview", "-c", "./nano", "-t", "a circle").out
    assert plan_demo_batch().config.settings.video_settings.width == 128


@pytest.mark.torch
def test_calibration_is_measured_without_the_schedules_and_bends_of_the_config(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_recipes: list[Recipe] = []

    def measure(pipeline: object, recipe: Recipe, *_: object) -> tuple[tuple[float, float], ...]:
        measured_recipes.append(recipe)
        return ((1.0, 0.0), (0.0, -1.0))

    loaded = SimpleNamespace(pipeline=SimpleNamespace(transformer_2=None), embeddings=None)
    monkeypatch.setattr("wantui.batches.calibrate.load_recipe_pipeline", lambda *_: loaded)
    monkeypatch.setattr("wantui.batches.calibrate.prepare_inputs", lambda *_: None)
    monkeypatch.setattr("wantui.batches.calibrate.measure_magnitudes", measure)
    Path("controls.yaml").write_text(
        "model_settings: {model_id: nano, cfg_scale: 4}\n"
        "cfg_schedule_settings: {schedule: {0: 7, 50%: 1}}\n"
        "guidance_settings: {rule: cfg-zero-star, zero_steps: 2}\n"
        "attention_bending_settings: {bends: [{words: [circle], mode: amplify, amplify_factor: 2}]}\n"
        "lora_settings: {adapters: [{path: nano-style}]}\n"
    )
    result = wantui("models", "calibrate", "-c", "controls.yaml", "-t", "a circle", "--output", "magnitudes.json")
    assert result.code == 0, result.err
    (recipe,) = measured_recipes
    assert list(recipe.controls) == ["lora"]
    assert (recipe.prompt, recipe.guidance_scale, recipe.steps) == ("a circle", 4.0, 50)


def test_calibrate_names_the_variation_that_it_measures(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wantui.batches.calibrate.calibrate_model", lambda *_: Path("magnitudes.json"))
    several = wantui("models", "calibrate", "-t", "a [red|blue] star")
    assert several.err == "warning: the template has 2 variations; only the first is measured: a red star\n"
    assert wantui("models", "calibrate", "-t", "a red star").err == ""


def test_calibrate_counts_finished_steps(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrate(_recipe: object, _device: str, _plan: str, show_step: Callable[[int, int], None], _: object) -> Path:
        show_step(1, 2)
        show_step(2, 2)
        return Path("magnitudes.json")

    texts: list[str] = []
    monkeypatch.setattr("wantui.batches.calibrate.calibrate_model", calibrate)
    monkeypatch.setattr("wantui.cli.models.print_progress", texts.append)
    assert wantui("models", "calibrate", "-t", "a star").code == 0
    assert texts == ["1 of 2 steps done", "2 of 2 steps done", ""]


def test_help_shows_no_range_for_unbounded_numbers(wantui: Wantui) -> None:
    help_text = wantui("run", "--help").out
    assert "--seed INTEGER" in help_text
    assert "None" not in help_text


@pytest.mark.parametrize("arguments", [("ls",), ("ls", "--json"), ("show", 1)])
def test_queue_lists_report_a_queue_that_cannot_be_written(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    with only_queued():
        assert wantui("run", "--detach", "-t", "a circle", "-n", "1", "--batch-name", "b").code == 0
    assert "warning" not in wantui("queue", *arguments).err
    monkeypatch.setattr(reader, "find_write_error", lambda folder: "No space left on device")
    result = wantui("queue", *arguments)
    assert result.code == 0
    assert "warning: cannot write the queue in " in result.err
    assert "No space left on device. Fix this, and the engine continues by itself" in result.err


@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_reports_a_disk_without_free_inodes(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {name: getattr(os.statvfs("."), name) for name in ("f_bavail", "f_blocks", "f_bfree", "f_frsize")}
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(**space, f_files=50_000, f_favail=999))
    result = wantui("doctor", "--json")
    assert result.code == 1
    finding = next(finding for finding in json.loads(result.out) if "inodes" in finding["result"])
    assert (finding["state"], finding["check"]) == ("problem", "disk")
    assert finding["result"].startswith("only 999 more files can be created in ")
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(**space, f_files=0, f_favail=0))
    assert "inodes" not in wantui("doctor", "--json").out


def test_logs_of_a_moved_batch_say_so(wantui: Wantui) -> None:
    with only_queued():
        assert wantui("run", "--detach", "-t", "a circle", "-n", "1", "--batch-name", "b").code == 0
    assert "no video of the batch has started" in wantui("logs", 1).err
    next(Path("outputs").iterdir()).rename("moved")
    result = wantui("logs", 1)
    assert result.code == 2
    assert "the batch folder was deleted or moved" in result.err


@pytest.mark.parametrize("group", ["queue", "library", "engine", "models", "commitment", "generic"])
def test_group_without_a_command_prints_its_help_once(wantui: Wantui, group: str) -> None:
    result = wantui(group)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Usage: wantui {group} ")
    assert result.err.count("Usage:") == 1
    assert "Error:" not in result.err
