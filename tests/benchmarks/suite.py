"""CPU seconds of the tests, with all processes that they start: python tests/benchmarks/suite.py [PYTEST ARGUMENTS].

Unlike the time on the clock, they hardly depend on the number of cores and on what else runs. Engines outlive the
clients that start them, so that no test waits for them: they are counted together, each with its workers.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

PR_SET_CHILD_SUBREAPER = 36
SHOWN_TESTS, SHOWN_MODULES = 30, 20
TIMES_FOLDER = "WANTUI_SUITE_TIMES"
"""Environment variable: folder in which each process of pytest writes the seconds of its tests."""


def measure_cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the ended processes that it waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Write the CPU seconds of each test."""
    start = measure_cpu_seconds()
    try:
        return (yield)
    finally:
        with (Path(os.environ[TIMES_FOLDER]) / str(os.getpid())).open("a") as file:
            file.write(f"{measure_cpu_seconds() - start:.3f} {item.nodeid!a}\n")


@dataclass(frozen=True)
class Run:
    """How a command ended, and what its detached descendants used."""

    exit_code: int
    detached_count: int
    detached_cpu_seconds: float


def run_to_the_end(command: Sequence[str]) -> Run:
    """Run a command, and wait for all its descendants."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # the kernel gives orphans to this process
    process, code = subprocess.Popen(command), 1
    seconds: list[float] = []
    while True:
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return Run(code, len(seconds), sum(seconds))
        if ended == process.pid:
            code = os.waitstatus_to_exitcode(status)
        else:
            seconds.append(usage.ru_utime + usage.ru_stime)


def sum_modules(lines: Sequence[str]) -> list[tuple[float, str]]:
    """Return the CPU seconds and the name of each module, in descending order."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        value, name = line.split(maxsplit=1)
        seconds[name.strip("'\"").partition("::")[0]] += float(value)
    return sorted(((value, module) for module, value in seconds.items()), reverse=True)


def main() -> None:
    """Print the total, and the modules and tests that take most."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[TIMES_FOLDER] = folder
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        start = time.monotonic()
        run = run_to_the_end([sys.executable, "-m", "pytest", "-p", "suite", *sys.argv[1:]])
        lines = [line for path in Path(folder).iterdir() for line in path.read_text().splitlines()]
    lines.sort(key=lambda line: -float(line.split()[0]))
    click.echo("\n".join(lines[:SHOWN_TESTS]))
    for seconds, module in sum_modules(lines)[:SHOWN_MODULES]:
        click.echo(f"{seconds:7.1f} {module}")
    click.echo(f"{run.detached_cpu_seconds:7.1f} {run.detached_count} detached processes, such as engines with workers")
    total = f"{measure_cpu_seconds():.0f} CPU seconds in {time.monotonic() - start:.0f} s"
    click.echo(f"{total}; pytest ended with {run.exit_code}")
    sys.exit(run.exit_code)


if __name__ == "__main__":
    main()
