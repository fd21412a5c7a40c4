"""wantui doctor: what of this machine matters, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from wantui.cli.output import echo, print_json, print_line
from wantui.environment import torch_environment
from wantui.formatting import format_bytes
from wantui.planning.requirements import explain_missing_compiler

if TYPE_CHECKING:
    from wantui.queue.state_dir import StateDirectory

LIBRARIES = ("torch", "diffusers", "transformers", "av", "zarr", "pydantic", "textual")
DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest driver for each CUDA, by NVIDIA's table of minor version compatibility."""
ATTENTION = (
    ("flash_attn", "flash-attn 2"),
    ("flash_attn_interface", "flash-attn 3"),
    ("sageattention", "sageattention (computes in 8 bits: not used)"),
)
"""Modules with attention kernels, and their display names."""
LITTLE_SPACE = 5_000_000_000
MAX_IMPORT_SECONDS = 60
"""Longest wait for the import of torch, which takes seconds from a local disk."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "problem"]
    check: str
    result: str
    advice: str = ""


@click.command("doctor")
@click.option("--full", is_flag=True, help="Load nano and make one pass through it (takes seconds, needs torch).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--systemd-unit", is_flag=True, help="Print a systemd user unit for the engine, and nothing else.")
def command(full: bool, as_json: bool, systemd_unit: bool) -> None:
    """Check this machine; each line says what to do. Exit code 1 when there is a problem."""
    if systemd_unit and as_json:
        raise click.UsageError("choose one of --systemd-unit and --json: each prints something else")
    if systemd_unit:
        from wantui.engine import logind as logout

        echo(logout.systemd_unit(), nl=False)
        echo("save it as ~/.config/systemd/user/wantui.service; systemctl --user enable --now wantui", err=True)
        return
    findings = []
    for finding in examine(full):
        findings.append(finding)
        if not as_json:
            advice = f"  -> {finding.advice}" if finding.advice else ""
            print_line(f"{finding.state:<8} {finding.check:<14} {finding.result}{advice}", indent=24)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    sys.exit(1 if any(finding.state == "problem" for finding in findings) else 0)


def examine(full: bool) -> Iterator[Finding]:
    """Yield the findings as they are made."""
    python_fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "ok" if python_fits else "problem",
        "python",
        platform.python_version(),
        "" if python_fits else "wantui is made for Python 3.11 to 3.13",
    )
    yield from _requirements()
    yield from _torch_import()
    yield from _gpus()
    yield _nano()
    yield from _space()
    yield from _engine()
    yield _hub_cache()
    if full:
        yield _self_check()


def _requirements() -> Iterator[Finding]:
    """Check the installed libraries against the metadata of the installed wantui."""
    try:
        requirements = importlib.metadata.requires("wantui") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree through PYTHONPATH
        yield Finding("problem", "wantui", "not installed: its requirements are not known here", "pip install -e .")
        return
    yield from _libraries(requirements)


def _libraries(requirements: Sequence[str]) -> Iterator[Finding]:
    """Compare installed libraries with those wantui was made for: others are known to break, or were never tried.

    Args:
        requirements: as in the metadata of a package.
    """
    from packaging.requirements import Requirement

    for wanted in map(Requirement, requirements):
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", wanted.name, "not installed", "install wantui again with pip")
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            advice = f"pip install '{wanted.name}{wanted.specifier}'"
            yield Finding("problem", wanted.name, f"{installed}, and wantui is made for {wanted.specifier}", advice)
        elif wanted.name in LIBRARIES:
            yield Finding("ok", wanted.name, installed)


def _torch_import() -> Iterator[Finding]:
    """Import torch in a process of its own: a damaged library can end the process that loads it."""
    if importlib.util.find_spec("torch") is None:
        yield Finding("problem", "torch", "not installed", "pip install torch")
        return
    try:
        ended = subprocess.run(
            [sys.executable, "-c", "import torch"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MAX_IMPORT_SECONDS,
            env=torch_environment(os.environ),
        )
    except subprocess.TimeoutExpired:
        problem = f"its import takes over {MAX_IMPORT_SECONDS} seconds"
        yield Finding("note", "torch", problem, "every worker waits for it: install it on a local disk")
        return
    except OSError as error:
        problem = f"cannot be tried: {sys.executable} cannot be started ({error.strerror or error})"
        yield Finding("problem", "torch", problem, "give this user the right to run it; workers need it too")
        return
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"its import ended with exit code {ended.returncode}"
        yield Finding("problem", "torch", f"cannot be imported: {reason}", "pip install --force-reinstall torch")


def _gpus() -> Iterator[Finding]:
    from wantui.gpu.nvml import NoSuchGpuError, device_remarks, query_gpus, visible_gpus

    report, setting = query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        visible_gpus(report.gpus, setting)
    except NoSuchGpuError as error:
        yield Finding("problem", "gpu", str(error), "set it to GPUs that are here; without them only device: cpu works")
    for remark in device_remarks(report, setting):
        yield Finding("problem", "gpu", remark, "unset CUDA_VISIBLE_DEVICES, or fix the driver")
    if not report.gpus:
        advice = "nano runs on the CPU; the large models need an NVIDIA GPU"
        yield Finding("note", "gpu", report.reason or "none", advice)
        return
    for gpu in report.gpus:
        memory = "memory not counted by the driver"
        if gpu.memory_total is not None and gpu.memory_used is not None:
            memory = f"{format_bytes(gpu.memory_total - gpu.memory_used)} of {format_bytes(gpu.memory_total)} free"
        yield Finding("ok", f"gpu {gpu.index}", f"{gpu.name}, {memory}, driver {report.driver}")
    yield torch_and_driver(_torch_version(), report.driver or "")
    yield from _who_holds_memory()
    missing = explain_missing_compiler()
    yield Finding(
        "problem" if missing else "ok",
        "kernels",
        missing or "wantui's own can be built (model_settings.speed: fused, attention maps)",
        "install it, or set model_settings.speed: reference" if missing else "",
    )

    others = [name for module, name in ATTENTION if importlib.util.find_spec(module) is not None]
    beside = f"; {', '.join(others)} installed beside it" if others else ""
    yield Finding("ok", "attention", f"torch's own, or of fused blocks what `wantui bench` found quicker{beside}")


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def torch_and_driver(torch_version: str, driver: str) -> Finding:
    """Check that this build of torch can use the GPUs through this driver."""
    if torch_version.endswith("+cpu"):
        return Finding(
            "problem",
            "cuda",
            f"torch {torch_version} is a build for CPUs, and here are GPUs",
            "pip install --force-reinstall torch, from an index with builds for CUDA",
        )
    built = re.search(r"\+cu(\d+)\d$", torch_version)
    if built is None:
        return Finding("ok", "cuda", f"torch {torch_version}")
    cuda, least = int(built[1]), DRIVERS.get(int(built[1]))
    major = int(driver.partition(".")[0]) if driver.partition(".")[0].isdigit() else None
    if least is not None and major is not None and major < least:
        return Finding(
            "problem",
            "cuda",
            f"torch {torch_version} needs driver {least} or newer, and {driver} is installed",
            f"update the driver, or install a torch that is built for an older CUDA than {cuda}",
        )
    return Finding("ok", "cuda", f"torch is built for CUDA {cuda}, driver {driver} is new enough")


def _who_holds_memory() -> Iterator[Finding]:
    from wantui.gpu.monitor import GpuMonitor

    sampler = GpuMonitor(lambda _: None)
    sampler.reads_processes = True
    for gpu in sampler.sample().gpus:
        for process in gpu.processes:
            held = format_bytes(process.memory) if process.memory is not None else "some memory"
            usage = f"process {process.process} ({process.name}) holds {held}"
            yield Finding("note", f"gpu {gpu.index}", usage, "videos have what is left")


def _nano() -> Finding:
    from wantui.errors import UserError
    from wantui.models.catalogue import read_directory
    from wantui.models.fingerprint import fingerprint
    from wantui.models.nano import WEIGHTS

    try:
        read_directory(WEIGHTS)
    except UserError as error:
        return Finding("problem", "nano", str(error), "install wantui again with pip")
    return Finding("ok", "nano", f"weights {fingerprint(WEIGHTS)[:12]}")


def _hub_cache() -> Finding:
    """Find where weights from the Hugging Face hub are kept, as huggingface_hub does."""
    try:
        cache = hub_cache(os.environ)
    except RuntimeError:  # no home folder
        return Finding("problem", "hub cache", "there is no home folder", "set HF_HOME to a folder for weights")
    if cache.is_dir():
        return Finding("ok", "hub cache", str(cache))
    return Finding("note", "hub cache", f"{cache} is not there", "it is made when a model is first fetched")


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of the hub cache; importing huggingface_hub for it would take a second."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name):
            return _expand(environment[name])
    if environment.get("HF_HOME"):
        return _expand(environment["HF_HOME"]) / "hub"
    return _expand(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expand(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _queue(state_dir: "StateDirectory") -> Finding:
    """Open the database as it is: a check changes nothing, and a damaged one is the engine's to put aside."""
    import sqlite3

    from wantui.engine.control import DATABASE_ADVICE
    from wantui.errors import UserError
    from wantui.queue.database import NAME, check_database, is_damage
    from wantui.queue.state_dir import write_fault

    path = state_dir.directory / NAME
    try:
        held = check_database(path) if path.exists() else None
    except sqlite3.DatabaseError as error:
        advice = (
            "wantui engine start keeps it under another name and begins a new one"
            if is_damage(error)
            else DATABASE_ADVICE
        )
        return Finding("problem", "queue", f"{path} cannot be opened: {error}", advice)
    except UserError as error:
        return Finding("problem", "queue", str(error))
    if (reason := write_fault(state_dir.directory)) is not None:
        return Finding(
            "problem", "queue", f"{state_dir.directory} cannot be written: {reason}", "make room on its disk"
        )
    if held is not None:
        return Finding("problem", "queue", f"on hold: {held}", "wantui queue resume, once that is corrected")
    return Finding("note" if state_dir.note else "ok", "queue", state_dir.note or f"in {state_dir.directory}")


def _engine() -> Iterator[Finding]:
    from wantui.engine import logind as logout
    from wantui.engine.control import find_engine
    from wantui.errors import UserError
    from wantui.queue.state_dir import state_place

    try:
        state_dir = state_place()
    except UserError as error:
        yield Finding("problem", "queue", str(error))
        return
    yield _queue(state_dir)
    engine = find_engine(state_dir.directory)
    yield Finding("ok", "engine", f"process {engine.process}, logs in {engine.logs}" if engine else "none runs")
    for warning in engine.warnings() if engine else ():
        yield Finding("note", "engine", warning)
    logout_effect = logout.read_logind()
    if logout_effect.engine_survives:
        yield Finding("ok", "logout", f"the engine outlives it ({logout_effect.reason})")
    else:
        yield Finding(
            "problem",
            "logout",
            f"it ends the engine ({logout_effect.reason})",
            "loginctl enable-linger, and run the engine as a unit: wantui doctor --systemd-unit",
        )


def _space() -> Iterator[Finding]:
    from wantui.queue.state_dir import NETWORK_FILE_SYSTEMS, file_system
    from wantui.storage.locks import can_lock

    try:
        here = Path.cwd()
    except FileNotFoundError:
        yield Finding("problem", "disk", "the working folder was deleted", "change to another folder")
        return
    free = shutil.disk_usage(here).free
    text = f"{format_bytes(free)} free in {here}"
    if free < LITTLE_SPACE:
        yield Finding("note", "disk", text, "stored latents take hundreds of MB for a video; choose --output-dir")
    else:
        yield Finding("ok", "disk", text)
    kind = file_system(here)
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "latents go over the network; an --output-dir on a local disk is quicker"
        yield Finding("note", "disk", f"{here} is on a network file system ({kind})", advice)
    if os.access(here, os.W_OK) and not can_lock(here):
        advice = "one worker at a time for a batch here; wantui slurm needs locks (Lustre: mount with -o flock)"
        yield Finding("note", "disk", f"{here} is on a file system without locks ({kind})", advice)


def _self_check() -> Finding:
    try:
        from wantui.generation.load import load_pipeline, resolve_device
        from wantui.models.catalogue import NANO

        device = resolve_device("auto")
        load_pipeline(NANO, None, "float32", device)
    except Exception as error:
        return Finding("problem", "self-check", f"{type(error).__name__}: {error}", "look at torch's installation")
    return Finding("ok", "self-check", f"nano loads and gives finite output on {device}")
