"""wantui doctor: check this machine, with advice for each problem."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.common_options import add_json_option
from wantui.cli.doctor_engine import check_engine_state
from wantui.cli.doctor_finding import Finding
from wantui.cli.output import echo, print_json, print_wrapped_line
from wantui.environment import build_python_command, build_torch_environment, check_working_folder
from wantui.errors import UserError
from wantui.formatting import format_bytes, format_count
from wantui.planning.requirements import explain_missing_compiler
from wantui.planning.throughput import PACKAGE_BY_KERNEL
from wantui.process_exits import describe_exit

REPORTED_LIBRARIES = ("diffusers", "transformers", "av", "zarr", "pydantic", "textual")
MIN_DRIVER_BY_CUDA_VERSION = {11: 450, 12: 525, 13: 580}
"""CUDA major version -> oldest driver, from NVIDIA's table of minor version compatibility."""
UNUSED_PACKAGE_REASONS = {"sageattention": "computes in 8 bits: not used"}
"""Packages with attention kernels that wantui does not use, and why."""
LOW_DISK_BYTES = 5_000_000_000
"""Free space below which the report has a note."""
MAX_TORCH_IMPORT_SECONDS = 60
"""Timeout for importing torch, which takes a few seconds from a local disk."""


@click.command("doctor", cls=WantuiCommand)
@click.option("--full", "runs_nano", is_flag=True, help="Also load nano and run it once (needs torch; takes seconds).")
@add_json_option
@click.option("--systemd-unit", "prints_unit", is_flag=True, help="Only print a systemd user unit for the engine.")
def command(runs_nano: bool, as_json: bool, prints_unit: bool) -> None:
    """Check this machine, with advice for each problem.

    Exit code 0: no problem, 1: at least one problem.
    """
    if prints_unit and as_json:
        raise click.UsageError("cannot combine --systemd-unit and --json. Choose one")
    if prints_unit:
        from wantui.engine.logind import build_systemd_unit as unit_text

        echo(unit_text(), nl=False)
        echo(
            "Save it as ~/.config/systemd/user/wantui.service, then run: systemctl --user enable --now wantui", err=True
        )
        return
    findings = []
    for finding in run_doctor_checks(runs_nano):
        findings.append(finding)
        if not as_json:
            advice = f"  -> {finding.advice}" if finding.advice else ""
            print_wrapped_line(f"{finding.state:<8} {finding.check:<14} {finding.result}{advice}", indent=24)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    sys.exit(1 if any(finding.state == "problem" for finding in findings) else 0)


def run_doctor_checks(runs_nano: bool) -> Iterator[Finding]:
    """Run all checks, and yield each finding as soon as it is known."""
    is_supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "ok" if is_supported else "problem",
        "python",
        platform.python_version(),
        "" if is_supported else "install Python 3.11, 3.12 or 3.13",
    )
    reported_checks = set()
    for finding in _check_installed_requirements():
        reported_checks.add(finding.check)
        yield finding
    torch_finding, torch_version = _check_torch_import()
    if torch_finding.check not in reported_checks:  # otherwise it is missing or unsupported
        yield torch_finding
    yield from _check_gpus(torch_version)
    yield _check_nano_weights()
    yield from _check_disk_space()
    yield from check_engine_state()
    yield _check_hub_cache()
    if runs_nano:
        yield _run_nano_self_check()


def _check_installed_requirements() -> Iterator[Finding]:
    """Check the installed libraries against the metadata of the installed wantui."""
    try:
        requirements = importlib.metadata.requires("wantui") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree through PYTHONPATH
        yield Finding("problem", "wantui", "not installed: cannot check its requirements", "pip install -e .")
        return
    yield from _check_library_versions(requirements)


def _check_library_versions(requirements: Sequence[str]) -> Iterator[Finding]:
    """Compare the versions of installed libraries with the required ones; different versions fail or are untested.

    Args:
        requirements: PEP 508 strings from the metadata of a package.
    """
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed_version = _find_installed_version(requirement.name)
        if installed_version is None:
            yield Finding("problem", requirement.name, "not installed", "reinstall wantui with pip")
            continue
        if not requirement.specifier.contains(installed_version, prereleases=True):
            advice = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(
                "problem", requirement.name, f"{installed_version} installed, {requirement.specifier} required", advice
            )
        elif requirement.name in REPORTED_LIBRARIES:
            yield Finding("ok", requirement.name, installed_version)


def _run_torch_code(code: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python code that imports torch in a child process, as a worker would.

    Raises:
        OSError, subprocess.TimeoutExpired: the process does not start, or does not end in time.
    """
    return subprocess.run(
        build_python_command("-c", code),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=MAX_TORCH_IMPORT_SECONDS,
        cwd="/",  # the working folder may be deleted
        env=build_torch_environment(os.environ),
    )


def _check_torch_import() -> tuple[Finding, str | None]:
    """Import torch in a child process, because a damaged library can crash the process that loads it.

    Returns:
        The finding, and the version of torch with the tag of its build; None if torch cannot be imported. The metadata
        of the package does not have the tag: PyPI allows none.
    """
    if importlib.util.find_spec("torch") is None:
        return Finding("problem", "torch", "not installed", "pip install torch"), None
    try:
        result = _run_torch_code("import torch; print(torch.__version__)")
    except subprocess.TimeoutExpired:
        problem_text = f"importing it takes more than {MAX_TORCH_IMPORT_SECONDS} seconds"
        return Finding(
            "note", "torch", problem_text, "install it on a local disk: every worker waits for the import"
        ), None
    except OSError as error:
        problem_text = f"cannot test its import: cannot start {sys.executable} ({error.strerror or error})"
        return Finding("problem", "torch", problem_text, "make it executable for this user; workers need it too"), None
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"the import ended with {describe_exit(result.returncode)}"
        advice = "pip install --force-reinstall torch"
        return Finding("problem", "torch", f"cannot be imported: {reason}", advice), None
    version = result.stdout.decode(errors="replace").split()[-1]
    return Finding("ok", "torch", version), version


def _check_gpus(torch_version: str | None) -> Iterator[Finding]:
    """Check the GPUs, their driver, their memory, and the kernels for them.

    Args:
        torch_version: version of torch with the tag of its build; None if torch cannot be imported.
    """
    from wantui.gpu.nvml import (
        NoSuchGpuError,
        find_device_remarks,
        list_usable_gpus,
        query_gpus,
        select_visible_gpus,
    )

    gpu_report, visible_devices = query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    selected_gpus = []
    try:
        selected_gpus = list_usable_gpus(select_visible_gpus(gpu_report.gpus, visible_devices))
    except NoSuchGpuError as error:
        yield Finding(
            "problem", "gpu", str(error), "set CUDA_VISIBLE_DEVICES to GPUs of this machine, or use device: cpu"
        )
    for remark in find_device_remarks(gpu_report, visible_devices):
        advice = "restart the machine" if gpu_report.unusable else "unset CUDA_VISIBLE_DEVICES, or fix the driver"
        yield Finding("problem", "gpu", remark, advice)
    if not (usable_gpus := list_usable_gpus(gpu_report.gpus)):
        advice = "nano runs on the CPU; large models need an NVIDIA GPU"
        yield Finding("note", "gpu", gpu_report.reason or "none", advice)
        return
    for gpu in usable_gpus:
        memory_text = "memory not reported by the driver"
        if gpu.total_bytes is not None and gpu.used_bytes is not None:
            memory_text = f"{format_bytes(gpu.total_bytes - gpu.used_bytes)} of {format_bytes(gpu.total_bytes)} free"
        yield Finding("ok", f"gpu {gpu.index}", f"{gpu.name}, {memory_text}, driver {gpu_report.driver_version}")
    if torch_version is not None:
        driver_finding = check_driver_supports_torch(torch_version, gpu_report.driver_version or "")
        yield driver_finding
        if driver_finding.state == "ok" and selected_gpus:
            yield from _check_torch_uses_gpu()
    yield from _find_gpu_processes()
    compiler_problem = explain_missing_compiler()
    yield Finding(
        "problem" if compiler_problem else "ok",
        "kernels",
        compiler_problem or "wantui's kernels can be compiled (model_settings.speed: fused, attention maps)",
        "install it, or set model_settings.speed: reference" if compiler_problem else "",
    )

    installed_packages = ", ".join(_list_attention_packages())
    installed_text = f"; also installed: {installed_packages}" if installed_packages else ""
    yield Finding(
        "ok",
        "attention",
        f"torch's kernels; fused blocks use the kernel that was fastest in `wantui bench`{installed_text}",
    )


def _find_installed_version(package: str) -> str | None:
    """Return the version of an installed package without importing it; None if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _list_attention_packages() -> list[str]:
    """Return name and version of the installed packages with attention kernels."""
    return [
        f"{package} {version}" + (f" ({UNUSED_PACKAGE_REASONS[package]})" if package in UNUSED_PACKAGE_REASONS else "")
        for package in (*PACKAGE_BY_KERNEL.values(), *UNUSED_PACKAGE_REASONS)
        if (version := _find_installed_version(package)) is not None
    ]


def check_driver_supports_torch(torch_version: str, driver_version: str) -> Finding:
    """Check that the driver supports the CUDA version of a torch build."""
    if torch_version.endswith("+cpu"):
        return Finding(
            "problem",
            "cuda",
            f"torch {torch_version} is a CPU build, but this machine has GPUs",
            "pip install --force-reinstall torch, from an index with CUDA builds",
        )
    cuda_tag = re.search(r"\+cu(\d+)\d$", torch_version)
    if cuda_tag is None:
        return Finding("ok", "cuda", f"torch {torch_version}")
    cuda_version, oldest_driver = int(cuda_tag[1]), MIN_DRIVER_BY_CUDA_VERSION.get(int(cuda_tag[1]))
    driver_major = int(driver_version.partition(".")[0]) if driver_version.partition(".")[0].isdigit() else None
    if oldest_driver is not None and driver_major is not None and driver_major < oldest_driver:
        return Finding(
            "problem",
            "cuda",
            f"torch {torch_version} needs driver {oldest_driver} or newer, but {driver_version} is installed",
            f"update the driver, or install a torch build for CUDA {cuda_version - 1} or older",
        )
    return Finding("ok", "cuda", f"torch is built for CUDA {cuda_version}; driver {driver_version} supports it")


def _check_torch_uses_gpu() -> Iterator[Finding]:
    """Let torch initialise CUDA in a child process, which fails for example without the service of an NVSwitch."""
    try:
        result = _run_torch_code("import torch; torch.cuda.is_available() or torch.cuda.init()")
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("problem", "cuda", f"torch cannot initialise CUDA: {error}", "check the GPUs with nvidia-smi")
        return
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"the process ended with {describe_exit(result.returncode)}"
        advice = "workers on GPUs cannot start; restart the machine, or check its GPUs with nvidia-smi"
        yield Finding("problem", "cuda", f"torch cannot use the GPUs: {reason}", advice)


def _find_gpu_processes() -> Iterator[Finding]:
    """Report the processes that use GPU memory."""
    from wantui.gpu.monitor import GpuMonitor

    gpu_monitor = GpuMonitor(lambda _: None)
    gpu_monitor.reads_processes = True
    for gpu in gpu_monitor.read_sample().gpus:
        for gpu_process in gpu.processes:
            memory_text = format_bytes(gpu_process.memory) if gpu_process.memory is not None else "some memory"
            usage_text = f"process {gpu_process.process} ({gpu_process.name}) uses {memory_text}"
            yield Finding("note", f"gpu {gpu.index}", usage_text, "videos can use only the remaining memory")


def _check_nano_weights() -> Finding:
    from wantui.errors import UserError
    from wantui.models.catalogue import read_model_directory
    from wantui.models.fingerprint import fingerprint_model
    from wantui.models.nano import NANO_WEIGHTS_FOLDER

    try:
        read_model_directory(NANO_WEIGHTS_FOLDER)
    except UserError as error:
        return Finding("problem", "nano", str(error), "reinstall wantui with pip")
    return Finding("ok", "nano", f"weights {fingerprint_model(NANO_WEIGHTS_FOLDER)[:12]}")


def _check_hub_cache() -> Finding:
    """Check the folder of weights from the Hugging Face hub."""
    try:
        cache_folder = find_hub_cache(os.environ)
    except RuntimeError:  # no home folder
        return Finding("problem", "hub cache", "cannot find the home folder", "set HF_HOME to a folder for weights")
    if cache_folder.is_dir():
        return Finding("ok", "hub cache", str(cache_folder))
    return Finding("note", "hub cache", f"{cache_folder} does not exist", "fetching a model creates it")


def find_hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the hub cache folder by the rules of huggingface_hub, whose import would take a second."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name):
            return _expand_environment_path(environment[name])
    if environment.get("HF_HOME"):
        return _expand_environment_path(environment["HF_HOME"]) / "hub"
    return _expand_environment_path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expand_environment_path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _check_disk_space() -> Iterator[Finding]:
    """Check the free space and the file system of the working folder."""
    from wantui.queue.state_dir import NETWORK_FILE_SYSTEM_TYPES, find_file_system_type
    from wantui.storage.disk_space import has_free_files, query_free_file_count
    from wantui.storage.locks import can_lock_files

    try:
        working_folder = Path.cwd()
    except FileNotFoundError:
        yield Finding("problem", "disk", "the working folder was deleted", "change to another folder")
        return
    free_bytes = shutil.disk_usage(working_folder).free
    free_text = f"{format_bytes(free_bytes)} free in {working_folder}"
    if free_bytes < LOW_DISK_BYTES:
        yield Finding(
            "note",
            "disk",
            free_text,
            "stored latents take hundreds of MB per video; choose another disk with --output-dir",
        )
    else:
        yield Finding("ok", "disk", free_text)
    if not has_free_files(working_folder):
        free_file_text = format_count(query_free_file_count(working_folder) or 0, "more file")
        yield Finding(
            "problem",
            "disk",
            f"only {free_file_text} can be created in {working_folder} (free inodes)",
            "delete files on this disk, or choose another disk with --output-dir",
        )
    file_system_type = find_file_system_type(working_folder)
    if file_system_type in NETWORK_FILE_SYSTEM_TYPES:
        advice = "writing latents is slow there; choose a local disk with --output-dir"
        yield Finding("note", "disk", f"{working_folder} is on a network file system ({file_system_type})", advice)
    if os.access(working_folder, os.W_OK) and not can_lock_files(working_folder):
        advice = (
            "a batch there runs on one worker at a time, and `wantui slurm` needs locks (Lustre: mount with -o flock)"
        )
        yield Finding(
            "note", "disk", f"{working_folder} is on a file system without locks ({file_system_type})", advice
        )


def _run_nano_self_check() -> Finding:
    """Load nano and run it once."""
    try:
        check_working_folder()
    except UserError as error:
        return Finding("problem", "self-check", str(error))
    try:
        from wantui.generation.load import load_pipeline, resolve_device
        from wantui.models.catalogue import NANO

        device = resolve_device("auto")
        load_pipeline(NANO, None, "float32", device)
    except Exception as error:
        return Finding("problem", "self-check", f"{type(error).__name__}: {error}", "reinstall torch")
    return Finding("ok", "self-check", f"nano loads, and its output is finite on {device}")
