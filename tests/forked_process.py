"""Start wantui's processes by a fork of a server that has imported wantui and torch, instead of anew.

A new worker takes about 6 CPU seconds until it can claim a video, a forked one a fraction of one. `ForkedPopen` is a
`subprocess.Popen` that lets a server fork the processes that run `SERVED_MODULES` or a program given by `-c`; it starts
all others as usual. The forked process is a child of the process that asked for it, like a new one: it has the
arguments, environment, working folder, open files, session, process group and ignored signals that were asked for, and
ends as the interpreter does. It gets a server of its own before it runs, for the processes that it starts: engine and
workers. Tests about the start itself, such as missing packages, start new processes (`Machine(is_forked=False)`).
"""

import atexit
import ctypes
import fcntl
import gc
import inspect
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

WORKER = "wantui.worker.process"
SERVED_MODULES = ("wantui", "wantui.engine.process", WORKER)
"""Modules that a forked process can run with `python -m`; it can also run any program given by `python -c`."""
LIBRARY_VARIABLES = ("HF_", "TRANSFORMERS_", "DIFFUSERS_", "TORCH", "TRITON_", "MPL", "TEXTUAL", "COVERAGE")
THREAD_VARIABLES = ("OMP_", "GOMP_", "MKL_", "OPENBLAS_", "KMP_")
READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", *LIBRARY_VARIABLES, *THREAD_VARIABLES)
"""First letters of the variables that the interpreter or a library reads when it starts."""
FOLLOWED_LATER = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TORCHINDUCTOR_CACHE_DIR")
"""Exceptions: a forked process can change them. torch sets the last one in a process of pytest, sooner or later."""
MAX_REQUEST_BYTES = 100_000
ANSWER_SECONDS = 120.0
"""Seconds after which a server counts as dead; its imports take a fraction of that."""
ARGUMENTS_BYTES = 8192
"""Bytes of the memory in which /proc shows the arguments of a process; forked processes write their own there."""
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Request:
    """What a forked process runs, and how."""

    arguments: list[str]
    """Arguments after the interpreter: `-m` and a module, or `-c` and a program; and its arguments."""
    environment: dict[str, str]
    folder: str
    """Working folder."""
    umask: int
    ignored_signals: list[int]
    has_new_session: bool
    process_group: int
    """Process group to join, 0 for a new one, or -1 for that of the parent."""
    takes_terminal: bool


def get_read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a forked process cannot change any more."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name not in FOLLOWED_LATER
    }


def is_served(words: list[str]) -> bool:
    return words[:2] == [sys.executable, "-c"] or (words[:2] == [sys.executable, "-m"] and words[2] in SERVED_MODULES)


class ForkedPopen(subprocess.Popen[Any]):
    """A process, forked if its command is served."""

    server: socket.socket | None = None
    """Connection to the server of this process; its first use in a process of pytest starts one."""
    variables_at_start: dict[str, str] = {}  # noqa: RUF012
    """Variables that the interpreter and the libraries of the server have read."""
    lock = threading.Lock()

    def _execute_child(self, *values: Any) -> None:
        start_new: Any = super()._execute_child  # type: ignore[misc]
        options = inspect.signature(start_new).bind(*values).arguments
        words = list(map(os.fsdecode, options["args"])) if not isinstance(options["args"], (str, bytes)) else []
        environment = {os.fsdecode(k): os.fsdecode(v) for k, v in (options["env"] or os.environ).items()}
        if (
            not is_served(words)
            or options["preexec_fn"] not in (None, take_terminal)
            or options["pass_fds"]
            or sum(len(os.fsencode(word)) + 1 for word in words) > ARGUMENTS_BYTES
            or sum(len(os.fsencode(text)) for pair in environment.items() for text in pair) > MAX_REQUEST_BYTES // 2
        ):
            start_new(*values)
            return
        variables = get_read_at_start(os.environ) if ForkedPopen.server is None else self.variables_at_start
        if get_read_at_start(environment) != variables:
            start_new(*values)
            return
        sys.audit("subprocess.Popen", options["executable"], options["args"], options["cwd"], options["env"])
        request = Request(
            words[1:],
            environment,
            os.fsdecode(options["cwd"] or os.getcwd()),  # noqa: PTH109
            read_umask(),
            [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN],
            bool(options["start_new_session"]),
            options["process_group"],
            options["preexec_fn"] is take_terminal,
        )
        ends = [options[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [standard if end == -1 else end for standard, end in enumerate(ends)]
        with self.lock:
            self.pid = ask_for_process(get_server(), request, streams)
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        close_pipes: Any = self._close_pipe_fds  # type: ignore[attr-defined]
        close_pipes(*(options[name] for name in names))


def take_terminal() -> None:
    """Make the terminal at the standard input that of the session of this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def get_server() -> socket.socket:
    """Return the connection to the server of this process; start one if it has none."""
    if ForkedPopen.server is None:
        ForkedPopen.server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ForkedPopen.server.settimeout(ANSWER_SECONDS)
        ForkedPopen.variables_at_start = get_read_at_start(os.environ)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno()), "-" * ARGUMENTS_BYTES]
            subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    return ForkedPopen.server


def ask_for_process(server: socket.socket, request: Request, streams: list[int]) -> int:
    """Let a server fork a process with the standard streams `streams`; return the ID of this new child."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # the orphaned grandchild of the server becomes our child
    try:
        socket.send_fds(server, [json.dumps(asdict(request)).encode()], streams)
        answer = server.recv(100)
    except BaseException:  # a late answer must not become that of the next request
        server.close()
        ForkedPopen.server = None
        raise
    finally:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    if not answer.isdigit():
        raise RuntimeError(f"the server of forked processes could not fork ({answer!r}): see its error above")
    return int(answer)


# What follows runs in the server and in forked processes.


def import_modules() -> None:
    """Import what the processes of wantui import; modules that they run with `-m` have to be absent afterwards."""
    for module in (*SERVED_MODULES[1:], "wantui.tui.app"):
        import_module(module)
    for package in (import_module("wantui.cli"), import_module("wantui.batches")):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                import_module(info.name)
    for module in SERVED_MODULES[1:]:
        del sys.modules[module]
    gc.collect()
    gc.freeze()


def wait_for_request(connection: socket.socket) -> tuple[Request, list[int]]:
    """Serve requests; return only in a new process, with its request and its standard streams."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
        if not message:
            os._exit(0)  # the process that this server belongs to has ended
        read_end, write_end = os.pipe()
        middle = os.fork()
        if not middle:
            middle = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == middle:
                time.sleep(0.0005)
            os.write(write_end, str(os.getpid()).encode())
            connection.close()
            os.close(read_end)
            os.close(write_end)
            return Request(**json.loads(message)), descriptors
        os.close(write_end)
        os.waitpid(middle, 0)
        connection.send(os.read(read_end, 100) or b"the new process ended")
        for descriptor in (read_end, *descriptors):
            os.close(descriptor)


def detach() -> None:
    """Leave the session, the folder and the standard streams of the process that this server belongs to."""
    os.setsid()
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.close(nowhere)


@cache
def find_arguments() -> tuple[int, int]:
    """Return where the memory begins and ends in which /proc shows the arguments of this process."""
    with open("/proc/self/stat", encoding="ascii") as file:  # noqa: PTH123
        words = file.read().rpartition(")")[2].split()
    return int(words[45]), int(words[46])


def show_arguments(arguments: list[str]) -> None:
    start, end = find_arguments()
    shown = b"".join(os.fsencode(argument) + b"\0" for argument in (sys.executable, *arguments))
    assert len(shown) <= end - start, "the arguments are too long"
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def open_stream(number: int, old: Any) -> io.TextIOWrapper:
    """Open a standard stream as the interpreter does when it starts, with the encoding of the former one."""
    is_line_buffered = not old.write_through and (number == 2 or os.isatty(number))
    raw = io.FileIO(number, old.mode, closefd=False)
    raw.name = old.name
    file: Any = raw if old.write_through and number else (io.BufferedWriter if number else io.BufferedReader)(raw)
    result = io.TextIOWrapper(file, old.encoding, old.errors, "\n", is_line_buffered, old.write_through)
    result.mode = old.mode  # type: ignore[misc]
    return result


def apply_request(request: Request) -> None:
    """Give this process the state in which a new interpreter would run the request."""
    if request.has_new_session:
        os.setsid()
    if request.process_group >= 0:
        os.setpgid(0, request.process_group)
    if request.takes_terminal:
        take_terminal()
    os.umask(request.umask)
    os.chdir(request.folder)
    for number in request.ignored_signals:
        signal.signal(number, signal.SIG_IGN)
    old_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request.environment)
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        file = open_stream(number, getattr(sys, f"__{stream}__"))
        setattr(sys, stream, file)
        setattr(sys, f"__{stream}__", file)
    show_arguments(request.arguments)
    sys.orig_argv = [sys.executable, *request.arguments]
    sys.argv = request.arguments[1:] if request.arguments[0] == "-m" else ["-c", *request.arguments[2:]]
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in old_path]
    sys.path[:] = [request.folder, *added, *sys.path[1:]]
    if added:
        sys.modules.pop("sitecustomize", None)
        runpy.run_path(os.path.join(added[0], "sitecustomize.py"), run_name="sitecustomize")  # noqa: PTH118


def end_process(code: int) -> NoReturn:
    """End as the interpreter does, but do not free the modules: that would take most of the time of a short process."""
    shut_threads_down: Any = threading._shutdown  # type: ignore[attr-defined]
    shut_threads_down()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serve requests; each new process carries its request out."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    ForkedPopen.variables_at_start = get_read_at_start(os.environ)
    import_modules()
    while True:
        request, streams = wait_for_request(connection)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.closerange(3, 1000)
        if request.arguments[1] == WORKER:
            break  # it starts no other process
        ours, connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            connection.close()
            ForkedPopen.server = ours
            subprocess.Popen = ForkedPopen  # type: ignore[misc]
            break
        ours.close()
        detach()
    apply_request(request)
    code = 0
    try:
        if request.arguments[0] == "-m":
            runpy.run_module(request.arguments[1], run_name="__main__", alter_sys=True)
        else:
            exec(compile(request.arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        code = end.code or 0
    end_process(code)


if __name__ == "__main__":
    # One module, not two: processes of wantui must see the class that `main` prepares.
    import_module("forked_process").main()
