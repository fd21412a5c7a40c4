"""A second GPU for one video, from the setting to the manifest: refusals, queue, engine, worker and predictions."""

import inspect
import json
import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Wantui, recipe_for
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from fitted_throughput import fit_known_throughput
from gpu_samples import make_gpu_sample, make_gpu_state
from queue_errors import make_lock_error

from wantui.batches import enqueue
from wantui.batches.batch_cost import estimate_batch_costs
from wantui.batches.cell_cost import estimate_cell_costs
from wantui.batches.enqueue import check_second_gpu, enqueue_new_batch
from wantui.config import load_config
from wantui.engine.control import Engine
from wantui.engine.pairing import is_gpu_borrowed, prepare_slot
from wantui.engine.slots import WorkerSlot, create_worker_slots
from wantui.engine.supervisor import Supervisor
from wantui.errors import UserError
from wantui.generation.attention_backends import KERNEL_NAMES, PROCESS_WIDE_KERNELS
from wantui.generation.fuse import fuse_pipeline
from wantui.generation.guidance_split import GuidanceSplit, SecondGpuError, find_guidance_split, remove_guidance_split
from wantui.generation.load import load_pipeline
from wantui.generation.preview import fit_latents_to_rgb
from wantui.gpu.nvml import Gpu, GpuReport
from wantui.models.catalogue import WanModel, find_model
from wantui.planning import Batch, Recipe, TimedVideo, estimate_video_seconds, plan_batch, preview_batch
from wantui.planning.memory_plan import RESIDENT_PLAN, estimate_peak_working_bytes, find_plan
from wantui.planning.second_gpu import estimate_second_gpu_bytes
from wantui.planning.throughput import FLASH_ATTENTION_4, NATIVE_ATTENTION
from wantui.process_exits import SECOND_GPU_LOST_EXIT_CODE
from wantui.queue.claims import LostClaimError
from wantui.queue.events import VideoOnOneGpu, VideoOutOfMemory, VideoReleased, VideoResumed
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest
from wantui.worker import second_gpu
from wantui.worker.outcome_applier import OutcomeApplier
from wantui.worker.outcomes import ErrorContext, LeaveSecondGpu, decide_outcome
from wantui.worker.pipelines import LoadedPipeline
from wantui.worker.second_gpu import SecondGpu
from wantui.worker.worker import Worker

pytestmark = pytest.mark.torch

LOG = logging.getLogger("worker")
TWO = "model_settings.gpus_per_video=2"
GB = 1_000_000_000


def gpu(index: int, name: str = "NVIDIA H200", uuid_prefix: str = "GPU") -> Gpu:
    return Gpu(index, f"{uuid_prefix}-{index}", name, 140 * GB, 0)


MIXED = [gpu(0, "NVIDIA A100"), gpu(1), gpu(2)]
INSTANCES = [gpu(0, "NVIDIA H200 MIG 1g.18gb", "MIG"), gpu(1, "NVIDIA H200 MIG 1g.18gb", "MIG")]


# The setting


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model_settings.device=cpu", "needs two GPUs: it cannot be combined with model_settings.device: cpu"),
        ("model_settings.speed=cached", "works with model_settings.speed: reference or fused, and not with cached"),
        ("model_settings.weights=float8", "works with model_settings.weights: full, and not with float8"),
    ],
)
def test_settings_that_two_gpus_cannot_compute_are_refused_by_name(setting: str, message: str) -> None:
    refusals = preview_batch(load_config("nano", [TWO, setting]), "a circle").refusals
    advice = "Set it to 1, which gives bit-identical videos"
    assert f"model_settings.gpus_per_video: 2 {message}. {advice}" in refusals
    assert not preview_batch(load_config("nano", [TWO]), "a circle").refusals


def test_recipe_does_not_depend_on_the_number_of_gpus() -> None:
    digests = [preview_batch(load_config("nano", each), "a circle").first_recipe.digest for each in ([], [TWO])]
    assert digests[0] == digests[1]


def test_second_gpu_without_guidance_causes_a_warning() -> None:
    warnings = preview_batch(load_config("nano", [TWO, "model_settings.cfg_scale=1"]), "a circle").warnings
    (warning,) = [warning for warning in warnings if "gpus_per_video" in warning]
    assert warning.endswith("the second GPU is reserved and idle. Without guidance, use 1")
    assert not any("gpus_per_video" in text for text in preview_batch(load_config("nano", [TWO]), "a circle").warnings)


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ([], "this machine has 0 GPUs"),
        ([gpu(0)], "this machine has 1 GPU"),
        (
            [gpu(0), gpu(1, "NVIDIA A100")],
            "2 GPUs of different kinds (NVIDIA H200, NVIDIA A100), and their results may differ",
        ),
        ([gpu(0), gpu(1)], None),
    ],
)
def test_machine_without_two_gpus_of_one_kind_is_refused_before_queueing(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], message: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(tuple(gpus), "1", None))
    asked = load_config("nano", [TWO]).settings
    check_second_gpu(find_state_directory(), load_config("nano").settings)
    if message is None:
        check_second_gpu(find_state_directory(), asked)
        with pytest.raises(UserError, match=r"with memory_settings\.plan: stream, which streams the weights"):
            check_second_gpu(find_state_directory(), load_config("nano", [TWO, "memory_settings.plan=stream"]).settings)
        return
    with pytest.raises(UserError) as refusal:
        check_second_gpu(find_state_directory(), asked)
    assert "cannot use model_settings.gpus_per_video: 2: it needs two GPUs of one kind" in str(refusal.value)
    assert message in str(refusal.value)


@pytest.mark.parametrize("has_engine", [False, True])
@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (MIXED, "auto", None),
        (MIXED, "cuda:2", None),
        (MIXED, "cuda:0", "two GPUs of one kind, one of them cuda:0, and {} has 3 GPUs of different kinds (NVIDIA A1"),
        (MIXED[:2], "auto", "two GPUs of one kind, and {} has 2 GPUs of different kinds (NVIDIA A100, NVIDIA H200)"),
        (INSTANCES, "auto", "and {} has 2 GPUs, which are MIG instances: CUDA shows only one of them to a process"),
    ],
)
def test_second_gpu_must_be_of_the_kind_of_the_requested_device(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], device: str, message: str | None, has_engine: bool
) -> None:
    names = ("auto", "cpu", "cuda", *(f"cuda:{i}" for i in range(len(gpus))))
    visible_devices = {"CUDA_VISIBLE_DEVICES": None}
    engine = Engine(7, 0.0, Path("logs"), "1", names, environment=visible_devices) if has_engine else None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(tuple(gpus), "1", None))
    monkeypatch.setattr(enqueue, "find_engine", lambda _: engine)
    asked = load_config("nano", [TWO, f"model_settings.device={device}"]).settings
    if message is None:
        check_second_gpu(find_state_directory(), asked)
        return
    with pytest.raises(UserError) as refusal:
        check_second_gpu(find_state_directory(), asked)
    assert message.format("the running engine" if has_engine else "this machine") in str(refusal.value)


def test_gpus_of_the_running_engine_equal_those_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("auto", "cpu", "cuda", "cuda:0", "cuda:1")
    engine = Engine(7, 0.0, Path("logs"), "1", names, environment={"CUDA_VISIBLE_DEVICES": "0,1"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")  # two of one kind, which the engine does not have
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(tuple(MIXED), "1", None))
    monkeypatch.setattr(enqueue, "find_engine", lambda _: engine)
    with pytest.raises(UserError, match="the running engine has 2 GPUs of different kinds"):
        check_second_gpu(find_state_directory(), load_config("nano", [TWO]).settings)


@pytest.mark.parametrize(
    ("device", "indices"), [("auto", [0, 1]), ("cuda:0", [0]), ("cuda:1", [1]), ("cuda:2", []), ("cpu", [])]
)
def test_memory_and_fp8_are_checked_on_the_gpus_that_can_render_a_batch(
    monkeypatch: pytest.MonkeyPatch, device: str, indices: list[int]
) -> None:
    names = ("auto", "cpu", "cuda", "cuda:0", "cuda:1")
    engine = Engine(7, 0.0, Path("logs"), "1", names, environment={"CUDA_VISIBLE_DEVICES": "0,1"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(tuple(MIXED), "1", None))
    monkeypatch.setattr(enqueue, "find_engine", lambda _: engine)
    assert [each.index for each in enqueue._list_device_gpus(find_state_directory(), device)] == indices


def test_sweep_on_the_cpu_runs_despite_invalid_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(enqueue, "query_gpus", lambda: GpuReport(tuple(MIXED), "1", None))
    settings = ["model_settings.device=cpu", "sweeps=steps=3,10"]
    batch = plan_batch(load_config("nano", settings), "a star")
    assert batch.sweep is not None
    assert enqueue.fit_batch_to_machine(find_state_directory(), batch) is batch
    assert enqueue.find_machine_refusals(find_state_directory(), batch) == []


def test_run_on_a_machine_without_gpus_is_refused_and_leaves_no_folder(wantui: Wantui, tmp_path: Path) -> None:
    result = wantui("run", "-c", "nano", "-t", "a star", "--set", TWO, "--set", f"output_dir={tmp_path / 'outputs'}")
    assert result.code == 3
    assert "it needs two GPUs of one kind" in result.err
    assert not (tmp_path / "outputs").exists()


# Queue and engine


def add(queue: Queue, name: str, gpus_per_video: int, videos: int = 2) -> None:
    new_videos = [NewVideo(i, "red", "{}", 20) for i in range(videos)]
    queue.add_batch(Path("/outputs") / name, "auto", new_videos, gpus_per_video=gpus_per_video)


def test_worker_claims_only_the_next_video_and_only_for_its_number_of_gpus(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    add(queue, "a", 2)
    add(queue, "b", 1)
    assert queue.find_next_gpu_count(("auto",)) == 2
    assert queue.claim_next_video("w", ("auto",), (1,)) is None
    claims = [queue.claim_next_video("w", ("auto",), (2,)) for _ in range(3)]
    assert [each and each.gpus_per_video for each in claims] == [2, 2, None]
    assert queue.find_next_gpu_count(("auto",)) == 1
    claim = queue.claim_next_video("w", ("auto",), (1, 2))
    assert claim is not None
    assert claim.gpus_per_video == 1
    assert queue.find_next_gpu_count(("cuda:7",)) is None
    assert [batch.gpus_per_video for batch in queue.list_batches()] == [2, 1]


class RunningProcess:
    """A process that runs until a test ends it."""

    def __init__(self, pid: int) -> None:
        self.pid, self.exit_code = pid, None

    def poll(self) -> int | None:
        return self.exit_code


class RecordedSlot(WorkerSlot):
    """A slot that starts nothing, and records the GPUs of each start."""

    def start_process(self, state_directory: Path, logs_folder: Path) -> None:
        starts.append((self.name, self.gpu_counts, self.build_environment()["CUDA_VISIBLE_DEVICES"]))
        self.process = RunningProcess(len(starts))  # type: ignore[assignment]
        self.sent_signals = set()


starts: list[tuple[str, tuple[int, ...], str]] = []


def slots_of(*gpus: Gpu) -> list[RecordedSlot]:
    starts.clear()
    return [RecordedSlot(**vars(slot)) for slot in create_worker_slots(gpus, None)]


def end(queue: Queue, slot: WorkerSlot, exit_code: int = 0) -> None:
    """End the process of a slot, after it was ready."""
    queue.record_ready_worker(slot.worker_name)
    slot.process.exit_code = exit_code  # type: ignore[union-attr]


def test_engine_gives_two_gpus_to_a_worker_and_both_back(tmp_path: Path) -> None:
    queue, slots = Queue(tmp_path), slots_of(gpu(0), gpu(1), gpu(2), gpu(3))
    add(queue, "a", 2)
    engine = Supervisor(queue, slots, tmp_path, LOG, ends_when_idle=False)
    engine._supervise_once()
    assert starts == [("worker-0", (2,), "GPU-0,GPU-1"), ("worker-2", (2,), "GPU-2,GPU-3")]
    assert [is_gpu_borrowed(slot, slots) for slot in slots] == [False, True, False, True]
    while queue.claim_next_video("w", ("auto",), (2,)) is not None:
        pass
    add(queue, "b", 1)
    end(queue, slots[0])
    starts.clear()
    engine._supervise_once()
    assert starts == [("worker-0", (1,), "GPU-0"), ("worker-1", (1,), "GPU-1")]


def test_video_starts_on_one_gpu_only_while_the_other_renders(tmp_path: Path) -> None:
    queue, slots = Queue(tmp_path), slots_of(gpu(0), gpu(1))
    add(queue, "b", 1)
    engine = Supervisor(queue, slots, tmp_path, LOG, ends_when_idle=False)
    engine._supervise_once()
    assert [counts for _, counts, _ in starts] == [(1,), (1,)]
    claims = [queue.claim_next_video(slot.worker_name, ("auto",), (1,)) for slot in slots]
    assert claims[0] is not None
    queue.record_done(claims[0])
    add(queue, "a", 2)
    end(queue, slots[0])
    starts.clear()
    engine._supervise_once()
    assert starts == [("worker-0", (1, 2), "GPU-0")]  # worker-1 renders
    assert claims[1] is not None
    queue.record_done(claims[1])
    end(queue, slots[0])
    starts.clear()
    engine._supervise_once()
    assert starts == []  # worker-1 is idle, and ends by itself
    end(queue, slots[1])
    engine._supervise_once()
    assert starts == [("worker-0", (2,), "GPU-0,GPU-1")]


def test_gpus_of_different_models_are_not_paired() -> None:
    slots = slots_of(gpu(0), gpu(1, "NVIDIA A100"), gpu(2))
    assert prepare_slot(slots[0], slots, 2, ())
    assert slots[0].partner is slots[2]
    assert prepare_slot(slots[1], slots, 2, ())
    assert (slots[1].partner, slots[1].gpu_counts) == (None, (1, 2))


def test_mig_instances_are_not_paired() -> None:
    slots = slots_of(*INSTANCES)
    assert prepare_slot(slots[0], slots, 2, ())
    assert (slots[0].partner, slots[0].gpu_counts) == (None, (1, 2))


def test_engine_replaces_a_failed_second_gpu_by_a_working_one(tmp_path: Path) -> None:
    queue, slots = Queue(tmp_path), slots_of(gpu(0), gpu(1), gpu(2))
    add(queue, "a", 2)
    engine = Supervisor(queue, slots, tmp_path, LOG, ends_when_idle=False)
    engine._supervise_once()
    assert starts == [("worker-0", (2,), "GPU-0,GPU-1"), ("worker-2", (1, 2), "GPU-2")]
    for slot in (slots[0], slots[2]):
        end(queue, slot, SECOND_GPU_LOST_EXIT_CODE if slot is slots[0] else 0)
    starts.clear()
    engine._supervise_once()
    assert starts[0] == ("worker-0", (2,), "GPU-0,GPU-2")
    assert not prepare_slot(slots[1], [slots[1], replace(slots[0], partner=None)], 2, ())  # it waits for the idle one
    assert prepare_slot(slots[1], slots, 2, (slots[0].worker_name,))
    assert (slots[1].partner, slots[1].gpu_counts) == (None, (1, 2))
    assert slots[1].one_gpu_reason == "the second GPU failed during an earlier video"


def test_engine_uses_one_gpu_after_a_worker_died_with_two(tmp_path: Path) -> None:
    queue, slots = Queue(tmp_path), slots_of(gpu(0), gpu(1))
    add(queue, "a", 2)
    engine = Supervisor(queue, slots, tmp_path, LOG, ends_when_idle=False)
    engine._supervise_once()
    assert queue.claim_next_video(slots[0].worker_name, ("auto",), (2,)) is not None
    end(queue, slots[0], 1)
    starts.clear()
    engine._supervise_once()
    assert starts[0] == ("worker-0", (1, 2), "GPU-0")
    assert slots[0].one_gpu_reason == "an earlier process of worker-0 died while using two GPUs"


def test_engine_continues_with_one_gpu_after_the_second_failed(tmp_path: Path) -> None:
    queue, slots = Queue(tmp_path), slots_of(gpu(0), gpu(1))
    add(queue, "a", 2, videos=1)
    engine = Supervisor(queue, slots, tmp_path, LOG, ends_when_idle=False)
    engine._supervise_once()
    claim = queue.claim_next_video(slots[0].worker_name, ("auto",), (2,))
    assert claim is not None
    queue.release_video(claim, "it continues on one GPU")
    end(queue, slots[0], SECOND_GPU_LOST_EXIT_CODE)
    starts.clear()
    engine._supervise_once()
    assert starts[0] == ("worker-0", (1, 2), "GPU-0")
    assert slots[0].one_gpu_reason == "the second GPU failed during an earlier video"
    assert [slot.is_bad_partner for slot in slots] == [False, True]
    assert queue.read_hold() is None


# The worker


def planned_batch(model: WanModel, output_dir: Path, *settings: str) -> Batch:
    values = {
        "model_settings.model_id": model.location,
        "model_settings.steps": 4,
        "model_settings.cfg_scale": 4.0,
        "video_settings.width": 32,
        "video_settings.height": 32,
        "video_settings.frames": 9,
        "videos_per_variation": 2,
        "output_dir": output_dir,
    }
    return plan_batch(
        load_config("default", [*(f"{key}={value}" for key, value in values.items()), *settings]), "a star"
    )


@pytest.fixture
def queued(
    tiny_models: dict[str, WanModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StateDirectory, BatchFolder]:
    """A batch of two videos for two GPUs, queued on a machine that seems to have them."""
    monkeypatch.setattr(enqueue, "check_second_gpu", lambda *_: None)
    state_dir = find_state_directory()
    batch = enqueue_new_batch(state_dir, planned_batch(tiny_models["wan2.1"], tmp_path / "outputs", TWO))
    return state_dir, BatchFolder(batch.folder)


def render(queue: Queue, second_device: str | None, **options: Any) -> None:
    worker = Worker(queue, "worker-0:7", ("auto", "cpu"), "cpu", LOG, second_device_name=second_device, **options)
    while (claim := queue.claim_next_video(worker.name, ("auto",))) is not None:
        worker.run_claim(claim)
    worker.finish_pending_video()


def entries_of(folder: BatchFolder) -> list[VideoEntry]:
    entries = read_manifest(folder).videos
    assert [entry.state for entry in entries] == ["done"] * len(entries)
    return list(entries)


@pytest.fixture
def expected(tiny_models: dict[str, WanModel], tmp_path: Path) -> list[VideoEntry]:
    """The same videos on one device."""
    state_dir = StateDirectory(tmp_path / "other state")
    state_dir.directory.mkdir()
    batch = enqueue_new_batch(state_dir, planned_batch(tiny_models["wan2.1"], tmp_path / "one"))
    with Queue(state_dir.directory) as queue:
        render(queue, None)
    return entries_of(BatchFolder(batch.folder))


def assert_equal_videos(entries: list[VideoEntry], expected_entries: list[VideoEntry]) -> None:
    assert [entry.latents_sha256 for entry in entries] == [entry.latents_sha256 for entry in expected_entries]
    assert [entry.id for entry in entries] == [entry.id for entry in expected_entries]


def list_payloads(queue: Queue, kind: type) -> list[Any]:
    return [event.payload for event in queue.list_events(0) if isinstance(event.payload, kind)]


def test_videos_on_two_devices_are_bit_identical_to_those_on_one(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry]
) -> None:
    state_dir, folder = queued
    with Queue(state_dir.directory) as queue:
        render(queue, "cpu")
        assert not list_payloads(queue, VideoOnOneGpu)
        (_, done), _ = queue.list_finished_videos()
        assert done["gpus"] == 2
    entries = entries_of(folder)
    assert_equal_videos(entries, expected)
    assert [entry.gpus for entry in entries] == [2, 2]
    assert [entry.gpus for entry in expected] == [None, None]


def test_worker_with_one_device_says_so_and_renders_the_same_videos(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry]
) -> None:
    state_dir, folder = queued
    with Queue(state_dir.directory) as queue:
        render(queue, None)
        reasons = [payload.reason for payload in list_payloads(queue, VideoOnOneGpu)]
    assert reasons == ["no second GPU of the same kind is free"] * 2
    assert_equal_videos(entries_of(folder), expected)


def pipeline_with_kernel(model: WanModel, kernel_name: str) -> LoadedPipeline:
    pipeline = load_pipeline(model, None, "float32", torch.device("cpu"))
    fuse_pipeline(pipeline, kernel_name)
    return LoadedPipeline(pipeline, RESIDENT_PLAN, None, fit_latents_to_rgb(pipeline))


@pytest.mark.parametrize("kernel_name", ["_native_cudnn", "_native_flash"])
def test_kernels_that_set_flags_of_the_process_keep_a_video_on_one_gpu(
    tiny_models: dict[str, WanModel], kernel_name: str
) -> None:
    loaded = pipeline_with_kernel(tiny_models["wan2.1"], kernel_name)
    reason = SecondGpu("cpu").prepare(loaded, recipe_for(tiny_models["wan2.1"]))
    assert reason == f"the attention kernel {kernel_name} sets process-wide flags, which two threads would share"
    assert find_guidance_split(loaded.pipeline) is None


def test_torch_kernel_uses_two_gpus(tiny_models: dict[str, WanModel]) -> None:
    loaded = pipeline_with_kernel(tiny_models["wan2.1"], NATIVE_ATTENTION)
    assert SecondGpu("cpu").prepare(loaded, recipe_for(tiny_models["wan2.1"])) is None
    assert find_guidance_split(loaded.pipeline) is not None
    remove_guidance_split(loaded.pipeline)


def test_process_wide_kernels_are_those_that_set_flags_in_diffusers() -> None:
    functions = _AttentionBackendRegistry._backends
    setting_flags = {
        name
        for name in KERNEL_NAMES
        if name != FLASH_ATTENTION_4 and "sdpa_kernel(" in inspect.getsource(functions[AttentionBackendName(name)])
    }
    assert setting_flags == PROCESS_WIDE_KERNELS


def test_worker_reports_the_reason_of_the_engine(queued: tuple[StateDirectory, BatchFolder]) -> None:
    with Queue(queued[0].directory) as queue:
        render(queue, None, one_gpu_reason="the second GPU failed during an earlier video")
        reasons = [payload.reason for payload in list_payloads(queue, VideoOnOneGpu)]
    assert reasons == ["the second GPU failed during an earlier video"] * 2


def test_video_continues_on_one_gpu_after_the_second_was_lost(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir, folder = queued
    run_pass, counts = GuidanceSplit._run_pass, [0]

    def fail_in_the_third_pass(self: GuidanceSplit, *arguments: Any) -> torch.Tensor:
        counts[0] += 1
        if counts[0] == 4:  # the first one is the check of the copy
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return run_pass(self, *arguments)

    monkeypatch.setattr(GuidanceSplit, "_run_pass", fail_in_the_third_pass)
    monkeypatch.setattr("wantui.generation.checkpoint.MAX_CHECKPOINT_TIME_FRACTION", float("inf"))
    with Queue(state_dir.directory) as queue:
        worker = Worker(queue, "worker-0:7", ("auto",), "cpu", LOG, (2,), "cpu")
        worker.run()  # ends by itself
        assert worker.has_lost_second_gpu
        (report,) = list_payloads(queue, VideoOnOneGpu)
        assert "the second GPU failed: CUDA error: an illegal memory access" in report.reason
        assert [each.reason for each in list_payloads(queue, VideoReleased)] == ["it continues on one GPU"]
        render(queue, None)
        assert [each.steps_done for each in list_payloads(queue, VideoResumed)] == [2]
    assert_equal_videos(entries_of(folder), expected)


def test_video_with_a_full_second_gpu_continues_in_the_same_process(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir, folder = queued
    run_pass, counts = GuidanceSplit._run_pass, [0]

    def fail_once(self: GuidanceSplit, *arguments: Any) -> torch.Tensor:
        counts[0] += 1
        if counts[0] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_pass(self, *arguments)

    monkeypatch.setattr(GuidanceSplit, "_run_pass", fail_once)
    with Queue(state_dir.directory) as queue:
        render(queue, "cpu")
        reasons = [payload.reason for payload in list_payloads(queue, VideoOnOneGpu)]
    assert reasons == ["the second GPU ran out of memory"]
    entries = entries_of(folder)
    assert_equal_videos(entries, expected)
    assert [entry.gpus for entry in entries] == [None, 2]  # the second video uses both again


@pytest.fixture
def fake_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker see a second GPU of the kind of the first."""
    monkeypatch.setattr(second_gpu, "resolve_device", lambda _: torch.device("cuda:1"))
    monkeypatch.setattr(second_gpu, "find_device_name", lambda _: "NVIDIA H200")


def test_second_gpu_that_is_gone_before_the_start_does_not_fail_the_batch(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir, folder = queued
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with Queue(state_dir.directory) as queue:
        render(queue, "cuda:1")
        reasons = [payload.reason for payload in list_payloads(queue, VideoOnOneGpu)]
    assert reasons == ["the second GPU is no longer available"] * 2
    assert_equal_videos(entries_of(folder), expected)


@pytest.mark.usefixtures("fake_gpus")
def test_second_gpu_without_memory_for_a_context_keeps_the_memory_plan(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir, folder = queued

    def run_out_of_memory(_: torch.device) -> int:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(second_gpu, "query_free_gpu_bytes", run_out_of_memory)
    with Queue(state_dir.directory) as queue:
        render(queue, "cuda:1")
        reasons = [payload.reason for payload in list_payloads(queue, VideoOnOneGpu)]
        assert not list_payloads(queue, VideoOutOfMemory)
    assert reasons == ["the second GPU ran out of memory"] * 2
    assert_equal_videos(entries_of(folder), expected)


@pytest.mark.usefixtures("fake_gpus")
def test_fatal_error_while_the_second_gpu_is_checked_leaves_only_that_gpu(
    queued: tuple[StateDirectory, BatchFolder], expected: list[VideoEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir, folder = queued

    def fail(_: torch.device) -> int:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(second_gpu, "query_free_gpu_bytes", fail)
    with Queue(state_dir.directory) as queue:
        worker = Worker(queue, "worker-0:7", ("auto",), "cpu", LOG, (2,), "cuda:1")
        worker.run()  # ends by itself
        assert worker.has_lost_second_gpu
        (report,) = list_payloads(queue, VideoOnOneGpu)
        assert "the second GPU failed: CUDA error: uncorrectable ECC" in report.reason
        render(queue, None)
    assert_equal_videos(entries_of(folder), expected)


def test_worker_ends_if_the_next_video_needs_another_number_of_gpus(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    add(queue, "a", 2)
    Worker(queue, "worker-0:7", ("auto",), "cpu", LOG, (1,)).run()
    assert [video.state for video in queue.list_videos(1)] == ["queued", "queued"]


def test_idle_worker_ends_if_the_queue_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(tmp_path)

    def fail(*_: Any) -> None:
        queue.db.execute("SELECT missing FROM video")

    monkeypatch.setattr(Queue, "find_next_gpu_count", fail)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        Worker(queue, "worker-0:7", ("auto",), "cpu", LOG, (1,)).run()


def test_idle_worker_waits_for_a_locked_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(tmp_path)
    add(queue, "a", 2)
    find_next_gpu_count, calls = Queue.find_next_gpu_count, list[int]()

    def fail_once(self: Queue, devices: Iterable[str]) -> int | None:
        calls.append(1)
        if len(calls) == 1:
            raise make_lock_error()
        return find_next_gpu_count(self, devices)

    monkeypatch.setattr(Queue, "find_next_gpu_count", fail_once)
    monkeypatch.setattr("wantui.worker.worker.QUEUE_RETRY_SECONDS", 0.01)
    Worker(queue, "worker-0:7", ("auto",), "cpu", LOG, (1,)).run()
    assert len(calls) == 2


@pytest.mark.parametrize("error", [make_lock_error(), LostClaimError("it is lost")])
def test_worker_that_lost_the_second_gpu_ends_even_if_the_queue_cannot_be_written(
    queued: tuple[StateDirectory, BatchFolder], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    def lose_second_gpu(*_: Any) -> None:
        raise SecondGpuError("the second GPU failed: CUDA error")

    monkeypatch.setattr(SecondGpu, "prepare", lose_second_gpu)
    monkeypatch.setattr(OutcomeApplier, "apply_outcome", fail)
    monkeypatch.setattr("wantui.worker.worker.QUEUE_RETRY_SECONDS", 0.01)
    with Queue(queued[0].directory) as queue:
        worker = Worker(queue, "worker-0:7", ("auto",), "cpu", LOG, (2,), "cpu")
        worker.run()
        assert worker.has_lost_second_gpu
        assert sorted(video.state for video in queue.list_videos(1)) == ["queued", "running"]  # none with the lost GPU


def test_failure_of_the_second_gpu_does_not_fail_the_video(tmp_path: Path) -> None:
    error = SecondGpuError("the second GPU failed: CUDA error")
    error.__cause__ = RuntimeError("CUDA error")
    context = ErrorContext(tmp_path, lambda: False, lambda: True, lambda: 1)
    assert decide_outcome(error, context) == LeaveSecondGpu(str(error))


# Predictions


RECIPE = recipe_for(find_model("wan2.1-1.3b"), steps=20, width=832, height=480, frames=81, dtype="bfloat16")


def test_guided_step_on_two_gpus_takes_the_time_of_one_pass() -> None:
    model, throughput = find_model("wan2.1-1.3b"), fit_known_throughput()
    one, two = (throughput.predict_step_seconds(model, RECIPE, gpu_count=count) for count in (1, 2))
    assert two == pytest.approx(one / 2)
    unguided = RECIPE.model_copy(update={"guidance_scale": 1.0})
    assert throughput.predict_step_seconds(model, unguided, gpu_count=2) == pytest.approx(two)


def test_times_of_two_gpus_predict_only_those() -> None:
    alone, together = (
        TimedVideo(RECIPE, "cuda", 2.0, 0.5, None, "resident"),
        TimedVideo(RECIPE, "cuda", 1.1, 0.5, None, "resident", 2),
    )
    videos = [alone, together]
    assert estimate_video_seconds(RECIPE, "cuda", videos).value == pytest.approx(20 * 2.0 + 0.5)
    assert estimate_video_seconds(RECIPE, "cuda", videos, gpu_count=2).value == pytest.approx(20 * 1.1 + 0.5)
    assert estimate_video_seconds(RECIPE, "cuda", [alone], gpu_count=2).value == pytest.approx(20 * 1.0 + 0.5)
    assert estimate_video_seconds(RECIPE, "cuda", [together]).value == pytest.approx(20 * 2.2 + 0.5)


def test_second_gpu_needs_the_memory_of_denoising_without_the_vae() -> None:
    model = find_model("wan2.1-1.3b")
    without_vae = replace(
        model,
        vae_parameter_count=0,
        text_encoder_parameter_count=0,
        decode_bytes_per_pixel=0,
        fused_decode_bytes_per_pixel=0,
    )
    first = estimate_peak_working_bytes(find_plan("encode-first"), without_vae, RECIPE)
    assert first is not None
    assert first * 0.95 < estimate_second_gpu_bytes(RESIDENT_PLAN, model, RECIPE) <= first


def test_cost_names_the_memory_of_both_gpus_and_the_shorter_time() -> None:
    preview = preview_batch(load_config("default", [TWO]), "a star")
    past = [TimedVideo(preview.first_recipe, "cuda", 2.0, 0.5, None, "encode-first")]
    both, single = (
        make_gpu_sample(make_gpu_state(80 * GB, 0), make_gpu_state(80 * GB, 0)),
        make_gpu_sample(make_gpu_state(80 * GB, 0)),
    )
    (two,), (one,) = (estimate_cell_costs(preview, past, each) for each in (both, single))
    assert (two.gpu_count, one.gpu_count) == (2, 1)
    assert one.video_seconds.value == pytest.approx(50 * 2.0 + 0.5)
    assert two.video_seconds.value == pytest.approx(50 * 1.0 + 0.5)
    texts = [
        {line.name: line for line in estimate_batch_costs(preview, past, each)}["memory"] for each in (both, single)
    ]
    assert "on the second GPU" in texts[0].text
    assert "on one GPU, because there is no second one" in texts[1].basis
    full = make_gpu_sample(make_gpu_state(80 * GB, 0), make_gpu_state(80 * GB, 79 * GB))
    (line,) = [line for line in estimate_batch_costs(preview, past, full) if line.name == "memory"]
    assert "on one GPU now: the second GPU needs" in line.basis
    streamed = preview_batch(load_config("default", [TWO, "memory_settings.plan=stream"]), "a star")
    (line,) = [line for line in estimate_batch_costs(streamed, past, both) if line.name == "memory"]
    assert "because the plan stream streams the weights: a second GPU would be idle" in line.basis


def test_manifest_of_one_gpu_equals_that_of_earlier_versions(expected: list[VideoEntry]) -> None:
    stored = json.loads(expected[0].model_dump_json())
    assert "gpus" not in stored
    assert "second_peak_memory" not in stored
    assert isinstance(Recipe.model_validate(stored["recipe"]), Recipe)
