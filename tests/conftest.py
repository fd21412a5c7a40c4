"""Fixtures of all tests: a folder and a queue for each, the program to be run, and models. It loads no torch by itself.

`pytest --fast` leaves out every module and every test with a marker of `LEFT_OUT`.
"""

import ast
import errno
import fcntl
import functools
import gc
import importlib.metadata
import io
import logging
import os
import shutil
import signal
import stat
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: tests run beside each other, on tiny models
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # else bits depend on where weights lie in memory: those of a file, or of a copy
os.environ["GOMP_SPINCOUNT"] = "0"  # threads that spin while another process has the core make steps slow
os.environ.setdefault("HF_HOME", "/nonexistent/hub")  # no test may find, or need, what a machine has cached
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # hundreds of processes would each compile wantui anew
    sys.dont_write_bytecode = False

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from wantui import __version__
from wantui.cli import doctor, main
from wantui.cli.doctor_finding import Finding
from wantui.engine import control
from wantui.models.catalogue import NANO, WanModel, read_model_directory
from wantui.planning import Recipe
from wantui.queue.events import StepDone
from wantui.queue.queue import Queue
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.storage.layout import BatchFolder

if TYPE_CHECKING:
    from diffusers import WanPipeline

LEFT_OUT = ("torch", "processes", "terminal", "slow")
"""Markers of the tests that `--fast` leaves out."""
MARKER_OF_FIXTURE = {"load_once": "torch", "tiny_models": "torch", "machine": "processes"}
"""Markers of the tests that use a fixture."""
MAX_WORKERS = 4
"""Most pytest processes at once: each that loads torch needs about a gigabyte."""
MAX_TEST_SECONDS = 600
"""Seconds after which a test fails that waits for what does not come; the slowest takes minutes on a loaded machine."""
REPEATED_ALARM_SECONDS = 5
"""Seconds from one alarm of a hanging test to the next: asyncio logs an exception of a callback, and continues."""
MEMORY_FOLDER, MIN_MEMORY_BYTES = Path("/dev/shm"), 4_000_000_000
"""Folder of a file system in memory, and its free bytes from which on the folders of tests are in it."""
STARTS_A_PROCESS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"})
"""Audit events of CPython."""


def pytest_addoption(parser: pytest.Parser) -> None:
    left_out = ", ".join(LEFT_OUT)
    parser.addoption("--fast", action="store_true", help=f"leave out the tests that are marked {left_out}")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of pytest processes: one a core, or none beside this one for named modules and tests.

    One more where tests wait for other processes and screens, which leaves cores idle.
    """
    if not all(Path(argument.partition("::")[0]).is_dir() for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0))
    return min(cores if config.getoption("--fast") else cores + 1, MAX_WORKERS)


class TorchIsRefused:
    """Finder of modules under `--fast`: whatever loads torch lacks its marker."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name in ("torch", "diffusers", "transformers"):
            raise ImportError(f"cannot import {name} under --fast. Mark the test, or its module, with `torch`.")


def use_memory_folder() -> None:
    """Put the folders of tests into memory: on disk, making and removing them takes up to a quarter of the CPU time."""
    has_room = MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free >= MIN_MEMORY_BYTES
    is_usable = has_room and os.access(MEMORY_FOLDER, os.W_OK)
    if is_usable and not os.statvfs(MEMORY_FOLDER).f_flag & os.ST_NOEXEC:  # tests run programs there
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_FOLDER))


def pytest_configure(config: pytest.Config) -> None:
    if sys.getfilesystemencoding() != "utf-8":
        raise pytest.UsageError("cannot run the tests: they need file names in UTF-8. Set LC_ALL=C.UTF-8.")
    use_memory_folder()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; clients would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--fast"):
        sys.meta_path.insert(0, TorchIsRefused)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect no garbage while modules are imported, and rarely later.

    Collections would take a fifth of the CPU time of the imports, and with torch and textual a third of that of the
    tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        gc.enable()


def read_module_markers(module: Path) -> set[str]:
    """Read the markers in `pytestmark` of a module without importing it: the import alone may take seconds."""
    for statement in ast.parse(module.read_bytes()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            return {node.attr for node in ast.walk(statement.value) if isinstance(node, ast.Attribute)}
    return set()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, under `--fast`, the modules that are marked."""
    is_module = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if config.getoption("--fast") and is_module and read_module_markers(collection_path) & set(LEFT_OUT):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, start with the slow ones, and leave out what `--fast` does."""
    for item in items:
        for fixture in MARKER_OF_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKER_OF_FIXTURE[fixture])
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if config.getoption("--fast"):
        left_out = [item for item in items if any(map(item.get_closest_marker, LEFT_OUT))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not any(map(item.get_closest_marker, LEFT_OUT))]


unmarked: list[str] = []
"""The running test, if it lacks the marker `processes`."""


def refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    if unmarked and event in STARTS_A_PROCESS:
        raise RuntimeError(f"cannot start a process ({event}): the test lacks a marker. Mark it with `processes`.")


sys.addaudithook(refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep tests without any of the markers from starting processes, and end tests that hang."""
    if not any(map(item.get_closest_marker, LEFT_OUT)):
        unmarked.append(item.nodeid)
    signal.signal(signal.SIGALRM, end_test)
    if not item.config.getoption("usepdb"):  # a debugger waits for its user
        signal.setitimer(signal.ITIMER_REAL, MAX_TEST_SECONDS, REPEATED_ALARM_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        unmarked.clear()


def end_test(*_: object) -> None:
    """Fail the running test wherever it waits: in a setup, the call or a teardown."""
    pytest.fail(f"the test did not end within {MAX_TEST_SECONDS} s")


def without_surrogates(value: Any) -> Any:
    """Escape lone surrogates in all text of a report."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_surrogates(item) for item in value)
    return value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape what a test printed that is no text: the pipe between pytest's processes cannot carry it, and breaks."""
    return without_surrogates((yield))


needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao (extra int8)")


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture
def queue() -> Iterator[Queue]:
    """Return the queue of the test's state directory, opened without an engine."""
    result = Queue(find_state_directory().directory)
    yield result
    result.close()


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Fill a folder, or return it if this or another process of this run of pytest has filled it.

    Tests only read such a folder: they run concurrently, in any order.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, unfinished = shared / name, shared / f"{name}.unfinished"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that failed
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_models(make_once: MakeOnce) -> dict[str, WanModel]:
    """Diffusers directories of a tiny model of each form, as the catalogue sees them."""
    from tiny import FORMS, tiny_pipeline

    models = make_once("models", lambda folder: [tiny_pipeline(form).save_pretrained(folder / form) for form in FORMS])
    return {form: read_model_directory(models / form) for form in FORMS}


LoadOnce = Callable[[WanModel, str], "WanPipeline"]


@pytest.fixture(scope="session")
def load_once() -> LoadOnce:
    """Load a model in a dtype, as every model is loaded, or return the pipeline of an earlier test.

    Tests change only copies of it (`copy.deepcopy`).
    """
    import torch
    from tiny import remember_embeddings

    from wantui.generation.load import load_pipeline

    @functools.cache
    def load(model: WanModel, dtype: str) -> "WanPipeline":
        return remember_embeddings(load_pipeline(model, None, dtype, torch.device("cpu")))

    return load


@pytest.fixture(scope="session")
def tiny(load_once: LoadOnce, tiny_models: dict[str, WanModel]) -> "WanPipeline":
    """The Wan 2.1 form in float32."""
    return load_once(tiny_models["wan2.1"], "float32")


@pytest.fixture(scope="session")
def nano(load_once: LoadOnce) -> "WanPipeline":
    return load_once(NANO, "float32")


fsync = os.fsync
"""The function of the system, which the tests replace with `check_descriptor`."""


def check_descriptor(descriptor: int) -> None:
    """Do not wait for the disk: no test cuts the power, and the waits take a fifth of the time of a video."""
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        fsync(descriptor)  # which raises the error of a FIFO or a device


@pytest.fixture(scope="session", autouse=True)
def _without_waits_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", check_descriptor)
        yield


@pytest.fixture(scope="session", autouse=True)
def _with_cached_versions() -> Iterator[None]:
    """Read the metadata of each installed package once: every `wantui doctor` reads those of all requirements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", functools.cache(importlib.metadata.version))
        yield


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in a folder and with a queue of its own, so that whatever it leaves behind is seen there."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for kind in ("state", "cache", "data", "config"):
        monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", str(tmp_path / kind))
    # Otherwise a user would get notices of the tests, and screens would be drawn without colours.
    for variable in ("WANTUI_TUI_CONFIG", "WANTUI_ENGINE_CONFIG", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)


def generate_queued_videos(place: StateDirectory) -> None:
    """Make in this process all that is in the queue, as a worker does in its own."""
    import torch
    from shared_models import models_shared

    from wantui.worker.worker import Worker

    torch.set_num_threads(1)  # tiny models only lose by more
    queue, devices = Queue(place.directory), ("auto", "cpu")
    worker = Worker(queue, "worker-0:test", devices, "cpu", logging.getLogger("worker"))
    with models_shared():
        while (claim := queue.claim_next_video(worker.name, devices)) is not None:
            worker.run_claim(claim)
        worker.finish_pending_video()


def generate_batch(folder: Path, *options: object) -> None:
    """Generate a batch in the folder "batch" of a folder, in this process and with a queue of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "ensure_engine", engine_of_this_process)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        settings = ("use_timestamp=false", f"output_dir={folder}", "batch_name=batch")
        with pytest.raises(SystemExit) as ended:
            main(["run", *map(str, options), *(word for setting in settings for word in ("--set", setting))])
    assert ended.value.code == 0


def copy_batch(made: Path) -> BatchFolder:
    """Copy the batch that `generate_batch` generated in a folder to the output folder of the running test."""
    folder = Path("outputs", "batch")
    shutil.copytree(made / "batch", folder)
    return BatchFolder(folder)


def step_done(index: int, count: int, seconds: float, sigma: float, **figures: Any) -> StepDone:
    """The event of a step, from 0, of `count`."""
    return StepDone(step=index + 1, steps=count, seconds=seconds, sigma=sigma, **figures)


def engine_of_this_process(
    place: StateDirectory, logs: Path, workers: int | None = None, on_locked: object = None
) -> tuple[control.Engine, bool]:
    """Generate the videos of the queue in this process, instead of `control.ensure_engine`."""
    generate_queued_videos(place)
    return control.Engine(os.getpid(), 0.0, logs, __version__, ("auto", "cpu")), False


@contextmanager
def only_queued() -> Iterator[None]:
    """What is put on the queue stays there: no engine is started."""
    engine = control.Engine(os.getpid(), 0.0, Path("logs"), __version__, ("auto", "cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "ensure_engine", lambda *_: (engine, False))
        yield


@pytest.fixture
def torch_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `wantui doctor` skip the import of torch in another process, which test_commands.py tests."""
    monkeypatch.setattr(doctor, "_check_torch_import", lambda: (Finding("ok", "torch", "2.13.0"), None))


def models_copied() -> AbstractContextManager[None]:
    """Let commands copy the models of earlier tests, if one has loaded torch."""
    if "wantui.worker.pipelines" not in sys.modules:
        return nullcontext()
    from shared_models import models_shared

    return models_shared()


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Wantui = Callable[..., Result]


@pytest.fixture
def wantui(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Wantui:
    """Run the program with arguments; in the place of an engine, this process works the queue off."""
    monkeypatch.setattr(control, "ensure_engine", engine_of_this_process)

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = 0
        try:
            with models_copied():
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


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


TEMPLATE = "a [red|blue] (circle)"


def recipe_for(model: WanModel, **changes: object) -> Recipe:
    """A short recipe for a tiny model: 9 frames of 32x32 (64x64 for the 5B form)."""
    side = 2 * model.size_multiple
    values = {
        "model": model.location,
        "revision": None,
        "prompt": "a red star moving left",
        "negative_prompt": "",
        "seed": 7,
        "sampler": "unipc",
        "steps": 4,
        "flow_shift": 3.0,
        "guidance_scale": 4.0,
        "width": side,
        "height": side,
        "frames": 9,
        "fps": 8,
        "dtype": "float32",
    }
    return Recipe.model_validate(values | changes)


def deny(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """Let nobody look into a folder; root, as whom tests may run, enters folders of any mode."""
    denied = denied.absolute()

    def guard(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def guarded(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int):
                asked = Path(os.fsdecode(path)).absolute()
                if denied in asked.parents or (name in ("scandir", "listdir") and asked == denied):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(module, name, guarded)

    for name in ("stat", "lstat", "open", "scandir", "listdir"):
        guard(os, name)
    guard(io, "open")
