"""Environment variables: defaults for torch, and the variables that must be equal in an engine and its clients."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from platformdirs import user_cache_path

from wantui.errors import UserError

OPENMP_WAIT_VARIABLES = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE"}
"""Variables that let waiting OpenMP threads sleep: processes that spin on the same cores are many times slower."""
GPU_VARIABLES = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Settings of torch's allocator, and the order of the GPUs: that of the driver, by which the engine numbers them. By
default, CUDA puts the fastest GPU first, so that on a machine with GPUs of several kinds, cuda:1 of a command and of
the engine would be different GPUs."""
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
ARITHMETIC_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "DIFFUSERS_ATTN_BACKEND",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
"""Environment variables with which the libraries choose other kernels, and so compute other bits."""
RENDERING_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HF_TOKEN_PATH",
    *SECRET_VARIABLES,
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "OMP_NUM_THREADS",
    *ARITHMETIC_VARIABLES,
)
"""Variables that select the weights, devices, threads and kernels of a video."""
UMASK_KEY = "umask"
OPTIMIZE_VARIABLE = "PYTHONOPTIMIZE"


def build_torch_environment(base_environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that imports torch; values in `base_environment` take precedence.

    PYTHONOPTIMIZE=2 removes docstrings, which transformers reads on import; only 1 is passed on.
    """
    # Each of the two variables alone decides how threads wait: do not overrule the one that the user has set.
    wait_variables = {} if any(name in base_environment for name in OPENMP_WAIT_VARIABLES) else OPENMP_WAIT_VARIABLES
    level = base_environment.get(OPTIMIZE_VARIABLE, "")
    docstring_variables = {OPTIMIZE_VARIABLE: "1"} if level.isdecimal() and int(level) > 1 else {}
    return {
        **wait_variables,
        **GPU_VARIABLES,
        **_build_kernel_cache_variables(),
        **base_environment,
        **docstring_variables,
    }


def _build_kernel_cache_variables() -> dict[str, str]:
    """Return the variables that let flash-attn 4 store its kernels in the user's cache.

    By default, each process compiles them, and its own cache is a folder in /tmp.
    """
    try:
        kernel_folder = user_cache_path("wantui") / "flash-attn-4"
    except RuntimeError:  # the user has no home directory
        return {}
    return {
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(kernel_folder),
    }


def build_python_command(*arguments: str) -> list[str]:
    """Return a command that runs this Python with `arguments`, without modules from the working folder.

    Without -P, Python would import a file such as queue.py or torch.py of the working folder before its own modules.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", *arguments]


def restart_with_docstrings() -> None:
    """Start this program again with docstrings, which -OO or PYTHONOPTIMIZE=2 removed: a command may import torch."""
    arguments = drop_optimize_options(sys.orig_argv[1:])
    environment = build_torch_environment(os.environ) | {OPTIMIZE_VARIABLE: "1"}
    if arguments != sys.orig_argv[1:] or os.environ.get(OPTIMIZE_VARIABLE) != "1":  # otherwise it has restarted
        os.execve(sys.executable, [sys.executable, *arguments], environment)


def drop_optimize_options(arguments: Sequence[str]) -> list[str]:
    """Return Python's arguments without the option -O, also if it is in a group of options, such as -OOm."""
    kept_arguments, remaining = [], list(arguments)
    while remaining and re.match("-.", remaining[0]):
        flags, letter, value = re.findall("^-([^-cmWX]*)([cmWX]?)(.*)", remaining.pop(0), re.DOTALL)[0]
        if kept_flags := flags.replace("O", "") + letter + value:
            kept_arguments.append(f"-{kept_flags}")
        if letter in ("W", "X") and not value:  # the next argument is the option's value
            kept_arguments += remaining[:1]
            del remaining[:1]
        elif letter or not flags:  # what follows is for the program
            break
    return kept_arguments + remaining


def prepare_for_torch() -> None:
    """Set the variables that torch reads on import, for this process and its children."""
    os.environ.update(build_torch_environment(os.environ))


def check_working_folder() -> None:
    """Refuse a deleted working folder, from which the import of torch aborts the process (oneMKL).

    Raises:
        UserError: the folder was deleted.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("cannot load torch: the working folder was deleted. Change to another folder (cd)") from None


def read_rendering_environment() -> dict[str, str | None]:
    """Return the variables that affect rendering, as a worker of this process gets them; secrets are digests."""
    value_by_name: dict[str, str | None] = {}
    environment = build_torch_environment(os.environ)
    for name in RENDERING_VARIABLES:
        value = environment.get(name)
        if value is not None and name in SECRET_VARIABLES:
            import hashlib  # loads OpenSSL, which most commands do not need

            value = "secret " + hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:12]
        value_by_name[name] = value
    value_by_name[UMASK_KEY] = _read_umask()
    return value_by_name


def describe_environment_differences(
    engine_environment: Mapping[str, str | None], process_environment: Mapping[str, str | None]
) -> list[str]:
    """Return one phrase for each variable whose value differs between an engine and this process."""
    return [
        f"{name} is {_format_variable_value(name, engine_environment[name])} in the engine and "
        f"{_format_variable_value(name, process_environment.get(name))} here"
        for name in engine_environment
        if engine_environment[name] != process_environment.get(name)
    ]


def _format_variable_value(name: str, value: str | None) -> str:
    if value is None:
        return "not set"
    if name in SECRET_VARIABLES:
        return f"set ({value.removeprefix('secret ')})"
    return value or "empty"


def _read_umask() -> str | None:
    """Return this process's umask in octal, as the kernel reports it: `os.umask` would change the umask to read it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith("Umask:")), None)
