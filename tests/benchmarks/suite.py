"""CPU seconds of the tests, with all processes that they start: python tests/benchmarks/suite.py [PYTEST ARGUMENTS].

Unlike the time on the clock, they hardly depend on the number of cores and on what else runs.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

PR_SET_CHILD_SUBREAPER = 36
SHOWN_TESTS = 30
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


def run_to_the_end(command: list[str]) -> int:
    """Run a command, wait for all its descendants, and return its exit code."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # engines outlive the process that starts them
    process, code = subprocess.Popen(command), 1
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            return code
        if ended == process.pid:
            code = os.waitstatus_to_exitcode(status)


def main() -> None:
    """Print the total and the tests that take most."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[TIMES_FOLDER] = folder
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        start = time.monotonic()
        code = run_to_the_end([sys.executable, "-m", "pytest", "-p", "suite", *sys.argv[1:]])
        lines = [line for path in Path(folder).iterdir() for line in path.read_text().splitlines()]
    lines.sort(key=lambda line: -float(line.split()[0]))
    click.echo("\n".join(lines[:SHOWN_TESTS]))
    click.echo(f"{measure_cpu_seconds():.0f} CPU seconds in {time.monotonic() - start:.0f} s; pytest ended with {code}")
    sys.exit(code)


if __name__ == "__main__":
    main()
