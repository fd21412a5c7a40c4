"""The command line as its users see it: output, exit codes, and what lies on disk afterwards."""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import zarr

from wantui.cli import main
from wantui.engine import run as engine_run
from wantui.generation import make_video
from wantui.models.catalogue import WanModel
from wantui.storage.atomic import one_writer
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.mp4 import ClipError, read_frames, read_tags


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Wantui = Callable[..., Result]


@pytest.fixture
def wantui(capsys: pytest.CaptureFixture[str]) -> Wantui:
    """Run the program with arguments."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def small(tiny_models: dict[str, WanModel]) -> list[str]:
    """Options for a video in a fraction of a second."""
    settings = {
        "model_settings.model_id": tiny_models["wan2.1"].location,
        "model_settings.steps": 3,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "video_settings.frames": 9,
        "model_settings.device": "cpu",
    }
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def files(root: Path | str = ".") -> list[str]:
    return sorted(str(path) for path in Path(root).rglob("*") if path.is_file())


def batch(result: Result) -> BatchFolder:
    return BatchFolder(Path(result.out.strip()))


TEMPLATE = "a [red|blue] (circle)"


def test_run_makes_every_video_and_prints_the_folder(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 2, "--batch-name", "my batch", *small)
    assert result.code == 0
    folder = batch(result)
    assert folder.root.parent == Path("outputs")
    assert folder.root.name.startswith("my_batch_2")
    made = [file.removeprefix(f"{folder.root}/") for file in files(folder.root)]
    assert made == [
        "batch.json",
        "configs/generation_config.yaml",
        "configs/prompt_template.txt",
        "configs/prompt_variations.json",
        *(f"videos/prompt_00{v}/video_00{k}.{end}" for v in (0, 1) for k in (1, 2) for end in ("jpg", "mp4")),
    ]
    manifest = read_manifest(folder)
    assert {video.state for video in manifest.videos} == {"done"}
    for video in manifest.videos:
        clip = folder.root / video.files["clip"]
        recipe, made_with = read_tags(clip)
        assert recipe == video.recipe
        assert made_with["latents_sha256"] == video.latents_sha256
        assert len(list(read_frames(clip))) == 9
        assert video.bytes == sum((folder.root / path).stat().st_size for path in video.files.values())
    assert "4 of 4 videos done" in result.err


def test_the_same_command_makes_the_same_latents(wantui: Wantui, small: list[str]) -> None:
    first, second = (
        read_manifest(batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, *small))) for _ in range(2)
    )
    assert [v.latents_sha256 for v in first.videos] == [v.latents_sha256 for v in second.videos]
    assert len({v.latents_sha256 for v in first.videos}) == 2


def test_store_latents_writes_every_state_and_changes_nothing(wantui: Wantui, small: list[str]) -> None:
    plain = read_manifest(batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)))
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, "--store-latents", *small))
    video = read_manifest(folder).videos[0]
    assert video.latents_sha256 == plain.videos[0].latents_sha256
    group: Any = zarr.open_group(folder.root / video.files["latents"], mode="r")
    assert group["latents"].shape == (4, 16, 3, 4, 4)
    noise = torch.randn((1, 16, 3, 4, 4), generator=torch.Generator().manual_seed(video.seed))
    assert np.array_equal(group["latents"][0], noise[0].numpy())
    flat = group["latents"][:].reshape(4, -1).astype(np.float64)
    assert np.allclose(group["gram"][:], flat @ flat.T, rtol=1e-12)


def test_resume_makes_only_what_is_missing(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 2, *small))
    before = {video.id: video.latents_sha256 for video in read_manifest(folder).videos}
    kept = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*.mp4")}
    lost = folder.clip(1, 1)
    lost.unlink()
    del kept[lost]
    result = wantui("run", "--resume", folder.root)
    assert result.code == 0
    assert "1/1 blue seed 42" in result.err
    assert lost.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert {video.id: video.latents_sha256 for video in read_manifest(folder).videos} == before
    again = wantui("run", "--resume", folder.root)
    assert (again.code, "4 of 4 videos done" in again.err, "1/" in again.err) == (0, True, False)


def test_resume_takes_the_same_template_and_options_and_refuses_others(wantui: Wantui, small: list[str]) -> None:
    options = ["--videos-per-variation", 1, *small]
    folder = batch(wantui("run", "-t", TEMPLATE, *options))
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()}
    assert wantui("run", "-t", TEMPLATE, *options, "--resume", folder.root).code == 0
    other = wantui("run", "-t", "a [green|blue] (circle)", *options, "--resume", folder.root)
    assert (other.code, TEMPLATE in other.err, "another template" in other.err) == (2, True, True)
    steps = wantui("run", "-t", TEMPLATE, *options, "--set", "model_settings.steps=4", "--resume", folder.root)
    assert (steps.code, "steps: 3, and these options say 4" in steps.err) == (2, True)
    more = wantui("run", "-t", TEMPLATE, *small, "--videos-per-variation", 2, "--resume", folder.root)
    assert (more.code, "a batch of 2 videos" in more.err) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()} == before


def test_resume_refuses_weights_that_have_changed(
    wantui: Wantui, small: list[str], tiny_models: dict[str, WanModel], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_models["wan2.1"].location, copy)
    options = [*small, "--set", f"model_settings.model_id={copy}", "--videos-per-variation", 1]
    folder = batch(wantui("run", "-t", "a star", *options))
    folder.clip(0, 1).unlink()
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    result = wantui("run", "--resume", folder.root)
    assert result.code == 2
    assert "have changed since this batch was planned" in result.err


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the encoder failed"),
        TypeError("the encoder failed"),
        ClipError("the encoder failed"),
        av.error.ExternalError(1, "the encoder failed", "libx264"),
    ],
    ids=repr,
)
def test_a_failed_video_does_not_stop_the_batch(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = make_video.write_mp4

    def failing(path: Path, *rest: Any) -> None:
        if path.parent.name == "prompt_000":
            raise error
        real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(make_video, "write_mp4", failing)
        result = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, "--store-latents", *small)
    folder = batch(result)
    assert result.code == 1
    assert "1 of 2 videos done, 1 failed" in result.err
    assert f"failed: red seed 42: {type(error).__name__}: " in result.err
    assert "the encoder failed" in result.err
    assert [video.state for video in read_manifest(folder).videos] == ["failed", "done"]
    assert not folder.clip(0, 1).exists()
    assert not folder.latents(0, 1).exists()
    assert not list(folder.root.rglob("*.partial"))
    assert wantui("run", "--resume", folder.root).code == 0


def test_nan_in_the_latents_fails_the_video_by_step(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine_run.load_for

    def spoilt(*arguments: Any) -> Any:
        pipeline = real(*arguments)
        pipeline.transformer.register_forward_hook(lambda module, inputs, output: (output[0] * float("nan"),))
        return pipeline

    monkeypatch.setattr(engine_run, "load_for", spoilt)
    result = wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)
    assert result.code == 1
    assert "NaN or infinity after step 1 of 3" in result.err


def test_ctrl_c_leaves_nothing_half_written_and_says_how_to_go_on(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = make_video.decode_frames

    def interrupted(*arguments: Any) -> Any:
        frames = real(*arguments)
        yield next(frames)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(make_video, "decode_frames", interrupted)
        result = wantui("run", "-t", TEMPLATE, "--videos-per-variation", 1, "--store-latents", *small)
    assert result.code == 130
    assert "interrupted: 0 of 2 videos are done; go on with\n  wantui run --resume outputs/" in result.err
    assert [Path(file).name for file in files("outputs") if "configs" not in file] == ["batch.json"]
    assert wantui("run", "--resume", next(Path("outputs").iterdir())).code == 0


def test_json_lines_tell_every_event(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "--json", "-t", TEMPLATE, "--videos-per-variation", 1, *small)
    events = [json.loads(line) for line in result.out.splitlines()]
    one_video = ["started", "step", "step", "step", "done"]
    assert [event["event"] for event in events] == ["loading", *one_video, *one_video, "end"]
    assert events[-1]["done"] == 2


def test_preview_shows_brackets_and_colons_as_they_are(wantui: Wantui) -> None:
    assert r"a [bold] cat :cat: [/b]" in wantui("preview", "-t", r"a \[bold\] cat :cat: \[/b\]").out


def test_preview_shows_variations_and_cost_and_makes_nothing(wantui: Wantui) -> None:
    result = wantui("preview", "-t", "a [red|blue|] (circle:1.5)", "--store-latents")
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()[1:4]] == [
        ["0", "red", "a", "red", "circle", "circle", "x1.5"],
        ["1", "blue", "a", "blue", "circle", "circle", "x1.5"],
        ["2", "none", "a", "circle", "circle", "x1.5"],
    ]
    assert "3 variations x 2 seeds (42 to 43) = 6 videos" in result.out
    assert "6 videos x 21 steps x 16 x 5 x 16 x 16 x 4 bytes" in result.out
    assert "not run by this version: the template weights words" in result.out
    assert files() == []
    report = json.loads(wantui("preview", "--json", "-t", "a [red|blue|] (circle:1.5)").out)
    assert [v["prompt"] for v in report["variations"]] == ["a red circle", "a blue circle", "a circle"]
    assert report["variations"][0]["marks"] == [{"text": "circle", "start": 6, "end": 12, "weight": 1.5}]


def test_a_template_can_come_from_a_file(wantui: Wantui) -> None:
    Path("t.txt").write_text("a [red|blue] circle\n")
    assert "a blue circle" in wantui("preview", "--template-file", "t.txt").out
    assert wantui("preview", "--template-file", "none.txt").code == 2
    assert wantui("preview", "--template-file", "t.txt", "-t", "x").code == 2


MISTAKES = {
    "unknown key": (["--set", "model_settings.stps=3"], "did you mean model_settings.steps?"),
    "wrong type": (["--set", "model_settings.steps=many"], "model_settings.steps: input should be a valid integer"),
    "missing config": (["-c", "nowhere.yaml"], "no such file"),
    "broken yaml": (["-c", "broken.yaml"], "broken.yaml:3: not valid YAML"),
    "empty template": (["-t", " "], "the template is empty"),
    "unmatched bracket": (["-t", "a [red|blue"], "never closed; write \\[ for the character itself (column 3)\n"),
    "weight out of range": (["-t", "a (red:99)"], "the weight 99 is outside of 0 to 10"),
    "weight": (["-t", "a (red:2)"], "marks them only"),
    "odd width": (["--set", "video_settings.width=100"], "nearest are 96 or 112"),
    "unknown sampler": (["--set", "model_settings.sampler=ddim"], "model_settings.sampler: input should be"),
    "refused sampler": (["--set", "model_settings.sampler=lcm"], "lcm is not offered"),
    "unknown model": (["--set", "model_settings.model_id=wan9"], "unknown model 'wan9'"),
    "too many variations": (["-t", "[1|2|3|4|5|6|7|8|9|0]" * 5], "expands to 100,000 variations"),
    "attention": (["--store-attention"], "attention maps are not captured by this version"),
    "output is a file": (["--output-dir", "broken.yaml"], "cannot be written"),
    "output in a file": (["--output-dir", "broken.yaml/x"], "cannot be written"),
    "output not writable": (["--output-dir", "/proc/outputs"], "cannot be written"),
    "no such option": (["--colour", "red"], "No such option"),
    "seed": (["--seed", "x"], "is not a valid integer"),
    "negative seed": (["--seed", "-1"], "model_settings.seed"),
    "resume nothing": (["--resume", "nowhere"], "is not a batch folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_input_gets_a_sentence_and_exit_code_2_and_nothing_is_made(wantui: Wantui, mistake: str) -> None:
    Path("broken.yaml").write_text("model_settings:\n  steps: [\n")
    arguments, said = MISTAKES[mistake]
    template = [] if "-t" in arguments else ["-t", "a circle"]
    result = wantui("run", *template, *arguments)
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert files() == ["broken.yaml"]
    assert [path.name for path in Path().iterdir()] == ["broken.yaml"]


def test_without_a_template_run_says_what_to_give(wantui: Wantui) -> None:
    result = wantui("run")
    assert result.code == 2
    assert "give a template" in result.err


def test_missing_weights_without_a_network_say_what_to_do(wantui: Wantui) -> None:
    result = wantui("run", "-c", "default", "-t", "a cat", "--videos-per-variation", 1)
    assert result.code == 2
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers are not on this machine" in result.err
    assert "model_id: nano" in result.err
    assert files() == []


def test_two_programs_do_not_write_one_batch(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    with one_writer(folder.root):
        result = wantui("run", "--resume", folder.root)
    assert result.code == 2
    assert "another wantui is at work in" in result.err
    assert wantui("run", "--resume", folder.root).code == 0


def test_a_disk_that_fills_up_under_the_manifest_is_a_sentence_and_keeps_the_clips(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = engine_run.write_manifest, 0

    def full(*arguments: Any) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine_run, "write_manifest", full)
        result = wantui("run", "-t", "a star", "--videos-per-variation", 2, *small)
    assert result.code == 1
    assert "no room is left in outputs/" in result.err
    folder = BatchFolder(next(Path("outputs").iterdir()))
    assert folder.clip(0, 1).exists()
    assert wantui("run", "--resume", folder.root).code == 0


def test_resume_takes_the_device_that_is_given_now(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    folder.clip(0, 1).unlink()
    result = wantui("run", "--resume", folder.root, "--set", "model_settings.device=cuda:7")
    assert result.code == 3
    assert folder.manifest.exists()
    assert wantui("run", "--resume", folder.root, "--seed", 42).code == 0
    assert folder.clip(0, 1).exists()


def test_a_gpu_that_is_not_here_is_exit_code_3(wantui: Wantui, small: list[str]) -> None:
    result = wantui("run", "-t", "a star", *small, "--set", "model_settings.device=cuda:7")
    assert result.code == 3
    assert "cuda:7 is not here" in result.err
    assert files() == []


def test_a_disk_without_room_is_refused_before_anything_is_made(
    wantui: Wantui, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    result = wantui("run", "-t", "a star", *small)
    assert result.code == 2
    assert "has 1.0 kB free" in result.err
    assert files() == []


def test_rerun_makes_the_same_clip_again(wantui: Wantui, small: list[str]) -> None:
    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    clip = folder.clip(0, 1)
    before = clip.read_bytes()
    result = wantui("rerun", clip, "-o", "again.mp4", "--device", "cpu")
    assert result.out == f"bit-identical: latents and frames of {clip}\n"
    assert result.code == 0
    assert clip.read_bytes() == before
    assert read_tags(Path("again.mp4"))[0] == read_tags(clip)[0]
    assert wantui("rerun", clip, "-o", "again.mp4").code == 2


def test_rerun_tells_a_clip_that_was_changed(wantui: Wantui, small: list[str]) -> None:
    from wantui.storage.mp4 import write_mp4

    folder = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small))
    recipe, made_with = read_tags(folder.clip(0, 1))
    frames = [255 - frame for frame in read_frames(folder.clip(0, 1))]
    tags = {"wantui": recipe.to_json(), "wantui_made_with": json.dumps({**made_with, "torch": "1.0"})}
    write_mp4(Path("changed.mp4"), frames, 8, 9, tags)
    result = wantui("rerun", "changed.mp4", "--device", "cpu")
    assert result.code == 1
    assert "not identical: pixels differ by up to" in result.out
    assert f"torch: was 1.0, is {torch.__version__}" in result.out


@pytest.mark.parametrize("content", [None, b"", b"\0" * 5000])
def test_rerun_refuses_what_is_no_clip(wantui: Wantui, content: bytes | None) -> None:
    if content is not None:
        Path("clip.mp4").write_bytes(content)
    result = wantui("rerun", "clip.mp4")
    assert result.code == 2
    assert "clip.mp4" in result.err


def test_rerun_refuses_a_clip_that_was_cut_short(wantui: Wantui, small: list[str]) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).clip(0, 1)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = wantui("rerun", clip, "--device", "cpu")
    assert result.code == 2
    assert "not a clip that can be read" in result.err


def test_rerun_writes_over_nothing(wantui: Wantui, small: list[str]) -> None:
    clip = batch(wantui("run", "-t", "a star", "--videos-per-variation", 1, *small)).clip(0, 1)
    Path("again.jpg").write_text("a picture")
    for output, said in (("again.mp4", "again.jpg exists already"), ("nowhere/again.mp4", "cannot be written")):
        result = wantui("rerun", clip, "-o", output, "--device", "cpu")
        assert result.code == 2
        assert said in result.err
    assert Path("again.jpg").read_text() == "a picture"
    assert wantui("rerun", clip, "--device", "gpu").code == 2


def test_config_validate_judges_every_file(wantui: Wantui) -> None:
    Path("good.yaml").write_text("model_settings:\n  model_id: nano\nvideo_settings:\n  width: 128\n  height: 128\n")
    Path("bad.yaml").write_text("model_settings:\n  stps: 3\nvideo_settings:\n  fps: 0\n")
    result = wantui("config", "validate", "good.yaml", "bad.yaml", "nano")
    assert result.code == 2
    assert result.out.splitlines() == ["good.yaml: valid", "bad.yaml: not valid", "nano: valid"]
    assert "bad.yaml:2: model_settings.stps" in result.err
    assert "bad.yaml:4: video_settings.fps" in result.err
    assert [r["valid"] for r in json.loads(wantui("config", "validate", "--json", "good.yaml", "bad.yaml").out)] == [
        True,
        False,
    ]


def test_config_show_prints_what_is_in_effect_and_loads_again(wantui: Wantui) -> None:
    Path("shown.yaml").write_text(wantui("config", "show", "nano", "--set", "model_settings.steps=9").out)
    assert wantui("config", "show", "shown.yaml").out == Path("shown.yaml").read_text()
    assert "steps: 9" in Path("shown.yaml").read_text()
    assert "romantic_scenes" in wantui("config", "show").out


def test_the_schema_describes_every_setting(wantui: Wantui) -> None:
    schema = json.loads(wantui("config", "schema").out)
    assert schema["$defs"]["ModelSettings"]["properties"]["steps"]["maximum"] == 1000
    assert schema["$defs"]["VideoSettings"]["properties"]["fps"]["description"] == "Frames per second."


def test_models_ls_says_which_weights_are_here(wantui: Wantui) -> None:
    rows = {row["name"]: row["weights"] for row in json.loads(wantui("models", "ls", "--json").out)}
    assert rows["nano"] == "part of wantui"
    assert rows["wan2.1-14b"] == "not here"


def test_doctor_reports_libraries_and_nano(wantui: Wantui) -> None:
    result = wantui("doctor", "--json", "--full")
    findings = {finding["about"]: finding for finding in json.loads(result.out)}
    assert findings["torch"]["found"] == torch.__version__
    assert findings["nano"]["state"] == "ok"
    assert findings["self-check"]["state"] == "ok"
