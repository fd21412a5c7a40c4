"""`wantui serve`: access, attacks by other users of the machine, and shutdown."""

import asyncio
import contextlib
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, CookieJar, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer
from harness_engine import Machine
from process_state import has_ended

from wantui.tui.web import LOOPBACK, WebServer
from wantui.tui.web.connections import MAX_UNAUTHENTICATED_CONNECTIONS
from wantui.tui.web.process import MAX_COLUMNS, MAX_ROWS, clamp_terminal_size

pytestmark = [pytest.mark.processes, pytest.mark.terminal]

TIMEOUT_SECONDS = 120.0


@dataclass
class Reply:
    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)


def ask(server: WebServer, *requests: dict[str, Any]) -> list[Reply]:
    """Send requests one after the other as one browser; `forget` drops its cookies after that request."""

    async def talk() -> list[Reply]:
        replies = []
        served = TestServer(server.build_application())
        jar = CookieJar(unsafe=True)
        async with TestClient(served, cookie_jar=jar) as client:
            for request in requests:
                headers = {"Host": f"{LOOPBACK}:{served.port}", **request.get("headers", {})}
                reply = await client.request(
                    request.get("method", "GET"),
                    request["path"],
                    headers=headers,
                    data=request.get("data"),
                    allow_redirects=False,
                )
                replies.append(Reply(reply.status, await reply.text(), dict(reply.headers)))
                if request.get("forget"):
                    jar.clear()
        return replies

    return asyncio.run(talk())


def path_of(server: WebServer) -> str:
    return urlsplit(server.address).path


def first_visit(server: WebServer) -> dict[str, Any]:
    token = urlsplit(server.address).query.removeprefix("token=")
    return {"method": "POST", "path": f"{path_of(server)}open", "data": {"token": token}}


def test_address_opens_once_and_the_cookie_afterwards() -> None:
    server = WebServer(8000)
    path, post = path_of(server), first_visit(server)
    replies = ask(server, {"path": path}, post, {"path": path, "forget": True}, {"path": path}, post)
    assert [reply.status for reply in replies] == [403, 303, 200, 403, 403]
    assert "was used" in replies[4].text


def test_get_and_head_do_not_use_up_the_address() -> None:
    server = WebServer(8000)
    address = server.address
    query = f"{path_of(server)}?{urlsplit(address).query}"
    replies = ask(server, {"path": query}, {"path": query, "method": "HEAD"}, first_visit(server))  # R3
    assert [reply.status for reply in replies] == [200, 200, 303]
    assert server.address != address, "the next browser gets an address of its own"


def test_cookie_has_a_secret_path_and_the_port_in_its_name() -> None:
    server = WebServer(8123)
    cookie = ask(server, first_visit(server))[0].headers["Set-Cookie"]  # R3: cookies know no port
    assert cookie.startswith("wantui_8123=")
    assert f"Path={path_of(server)}" in cookie
    assert len(path_of(server)) >= 34
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert WebServer(8123).address != server.address


def test_address_is_the_bound_loopback_address() -> None:
    assert WebServer(8000).address.startswith("http://127.0.0.1:8000/")  # R3: localhost may be ::1, somebody else's


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost:8000"},
        {"Host": "localhost.evil.example"},
        {"Host": "0.0.0.0:8000"},
        {"Host": '127.0.0.1:"><script>'},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
def test_requests_from_other_hosts_or_origins_are_refused_despite_the_token(headers: dict[str, str]) -> None:
    server = WebServer(8000)
    assert ask(server, {**first_visit(server), "headers": headers})[0].status == 403


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "%00", "..%2f..%2fetc/passwd"])
def test_unknown_static_files_are_not_found(name: str) -> None:
    server = WebServer(8000)
    assert ask(server, first_visit(server), {"path": f"{path_of(server)}static/{name}"})[1].status == 404


def test_pages_forbid_framing_and_load_nothing_external() -> None:
    server = WebServer(8000)
    page = ask(server, first_visit(server), {"path": path_of(server)})[1]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "https://" not in page.text  # R3: a font was asked for from a public server


@pytest.mark.parametrize("text", ["é", "日本", "%ff", "x" * 2000])
def test_invalid_tokens_and_cookies_are_refused_without_a_server_error(text: str) -> None:
    server = WebServer(8000)
    requests = (
        {"path": f"{path_of(server)}?token={text}"},
        {"path": path_of(server), "headers": {"Cookie": f"{server.cookie_name}={text}"}},
        {"path": f"{path_of(server)}open", "method": "POST", "data": {"token": text}},
    )
    assert [reply.status for reply in ask(server, *requests)] == [403, 403, 403]  # R3: was 500


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", b"\xff%ff=\xe9&token=\xff"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken\r\n\r\n--x--\r\n"),
        ("application/x-www-form-urlencoded; charset=nope", b"\xff%ff=\xe9&token=\xff"),
        ("application/x-www-form-urlencoded; charset=utf-7", b"token=+2AA-"),
        ("application/x-www-form-urlencoded; charset=unicode_escape", b"token=\\ud800"),
        ("application/x-www-form-urlencoded", b"token=%ED%A0%80&token=&&&"),
    ],
)
def test_undecodable_forms_are_refused_without_a_server_error(content_type: str, body: bytes) -> None:
    server = WebServer(8000)
    form = {"method": "POST", "path": f"{path_of(server)}open", "data": body}
    assert ask(server, form | {"headers": {"Content-Type": content_type}})[0].status == 403  # R3: was 500


@pytest.mark.parametrize(
    ("columns", "rows", "size"),
    [
        (80, 24, (80, 24)),
        ("80", "24", (80, 24)),
        (-5, 10**9, (1, MAX_ROWS)),
        (float("inf"), 3, None),
        (10**30, 0, (MAX_COLUMNS, 1)),
        (None, 3, None),
        ([], 3, None),
        ("x", 3, None),
    ],
)
def test_terminal_sizes_are_bounded(columns: Any, rows: Any, size: tuple[int, int] | None) -> None:
    assert clamp_terminal_size(columns, rows) == size  # R3: a child took 12 GB


# A server in a process of its own


class Served:
    """`wantui serve` with few file descriptors, as a cluster's login node gives them."""

    def __init__(self, machine: Machine) -> None:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            self.port = probe.getsockname()[1]
        self.errors = machine.root / "serve.err"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wantui", "serve", "--port", str(self.port)],
                cwd=machine.root,
                env=machine.env,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)),
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.errors.read_text()

    async def open(self, session: ClientSession) -> str:
        """Log a browser in and return the address of its websocket."""
        url = urlsplit(self.address)
        base = f"http://{url.netloc}{url.path}"
        async with session.post(f"{base}open", data={"token": url.query.removeprefix("token=")}) as reply:
            assert reply.status == 200
        return f"{base}ws?width=80&height=24"

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    machine = Machine(tmp_path)
    server = Served(machine)
    yield server
    children = server.children() if server.process.poll() is None else []
    server.process.kill()
    server.process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    machine.shut_down()


async def screen(socket: ClientWebSocketResponse, text: str) -> None:
    """Wait until an application has drawn a text."""
    seen = b""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                seen += message.data
                if text.encode() in seen:
                    return
    raise AssertionError(f"{text!r} was not drawn")


async def connected(session: ClientSession, address: str) -> ClientWebSocketResponse:
    """Open a session, as soon as those that ended before have given up their places."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            try:
                return await session.ws_connect(address)
            except WSServerHandshakeError as error:
                if error.status != 503:
                    raise
                await asyncio.sleep(0.1)


def test_idle_connections_of_strangers_do_not_block_the_owner(served: Served) -> None:
    strangers = []
    for _ in range(400):  # R3: more than the descriptors of the process
        stranger = socket.create_connection((LOOPBACK, served.port))
        strangers.append(stranger)

    async def visit() -> None:
        async with (
            ClientSession(cookie_jar=CookieJar(unsafe=True)) as session,
            session.ws_connect(await served.open(session)) as websocket,
        ):
            await screen(websocket, "Compose")

    asyncio.run(visit())
    opened = [c for c in psutil.Process(served.process.pid).net_connections() if c.status == "ESTABLISHED"]
    assert len(opened) <= MAX_UNAUTHENTICATED_CONNECTIONS + 1
    for stranger in strangers:
        stranger.close()
    assert len(served.errors.read_text().splitlines()) <= 4, served.errors.read_text()


def test_malformed_requests_are_not_logged(served: Served) -> None:
    for line in (b"x" * 20_000, b"\x00\xff", b"GET / HTTP/9.9", b"GET \xe9 HTTP/1.1"):
        with socket.create_connection((LOOPBACK, served.port), timeout=TIMEOUT_SECONDS) as stranger:
            stranger.sendall(line + b"\r\n\r\n")
            stranger.recv(4096)
    for encoding in (b"gzip", b"deflate"):
        with socket.create_connection((LOOPBACK, served.port), timeout=TIMEOUT_SECONDS) as stranger:
            host = f"Host: {LOOPBACK}:{served.port}".encode()
            head = [b"POST / HTTP/1.1", host, b"Content-Encoding: " + encoding, b"Content-Length: 5"]
            stranger.sendall(b"\r\n".join([*head, b"", b"abcde"]))
            while stranger.recv(4096):  # until the server has read the body and closes the connection
                pass
    assert len(served.errors.read_text().splitlines()) == 1, "only the line that says what to do with the address"


MALFORMED = ("", "[", "[]", "{}", "7", '["resize", 3]', '["resize", {"width": "x"}]', '["stdin", 3]', "[" * 9999)


def test_malformed_messages_end_their_session_only(served: Served) -> None:
    async def visit() -> None:
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
            address = await served.open(session)
            for message in (*MALFORMED, '["unknown", {}]'):
                async with await connected(session, address) as broken, asyncio.timeout(TIMEOUT_SECONDS):
                    await broken.send_str(message)
                    while (await broken.receive()).type in (WSMsgType.BINARY, WSMsgType.TEXT):
                        pass
            async with await connected(session, address) as websocket:
                await screen(websocket, "Compose")
                # A terminal of one column shows no word; after another resize, the session is seen to be alive.
                await websocket.send_str(json.dumps(["resize", {"width": -5, "height": 1e9}]))
                await websocket.send_str(json.dumps(["resize", {"width": 100, "height": 30}]))
                await screen(websocket, "Compose")

    asyncio.run(visit())
    assert "Traceback" not in served.errors.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL])
def test_applications_end_with_the_server(served: Served, number: signal.Signals) -> None:
    async def visit() -> list[psutil.Process]:
        async with (
            ClientSession(cookie_jar=CookieJar(unsafe=True)) as session,
            session.ws_connect(await served.open(session), autoclose=False) as websocket,
        ):
            await screen(websocket, "Compose")
            children = served.children()
            served.process.send_signal(number)  # R3: they outlived it, and a silent browser kept it for 18 s
            await asyncio.to_thread(served.process.wait, TIMEOUT_SECONDS)
        return children

    children = asyncio.run(visit())
    assert len(children) == 1, "one process for each tab"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not all(has_ended(child.pid) for child in children):
        assert time.monotonic() < deadline, "an application outlived its server"
        time.sleep(0.05)


@pytest.mark.parametrize("greeting", ["", "print('__GANGLION__', flush=True); "])
def test_error_of_an_application_is_shown_in_its_tab(greeting: str) -> None:
    server = WebServer(0)
    server.application_command = (
        sys.executable,
        "-c",
        f"{greeting}raise SystemExit('tui.yaml: theem: no such key\\nline 2')",
    )

    async def visit() -> str:
        served = TestServer(server.build_application())
        async with TestClient(served, cookie_jar=CookieJar(unsafe=True)) as client:
            headers = {"Host": f"{LOOPBACK}:{served.port}"}
            url = urlsplit(server.address)
            token = url.query.removeprefix("token=")
            await client.post(f"{url.path}open", data={"token": token}, headers=headers, allow_redirects=False)
            websocket = await client.ws_connect(f"{url.path}ws?width=80&height=24", headers=headers)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                shown = await websocket.receive_bytes()
            await websocket.close()
            return shown.decode()

    shown = asyncio.run(visit())
    assert "tui.yaml: theem: no such key\r\nline 2" in shown
    assert "Reload this page" in shown


def test_application_that_ignores_input_ends_with_its_tab() -> None:
    server = WebServer(0)
    server.application_command = (
        sys.executable,
        "-c",
        "import time; print('__GANGLION__', flush=True); time.sleep(600)",
    )
    others = set(psutil.Process().children())  # of this process, by other tests: a resource tracker, say
    listening_socket = socket.create_server((LOOPBACK, 0))
    server.port = listening_socket.getsockname()[1]

    async def visit() -> None:
        serving = asyncio.create_task(server.serve_until_signal(listening_socket))
        url = urlsplit(server.address)
        base = f"http://{url.netloc}{url.path}"
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
            async with session.post(f"{base}open", data={"token": url.query.removeprefix("token=")}) as reply:
                assert reply.status == 200
            websocket = await session.ws_connect(f"{base}ws?width=80&height=24")
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not (children := set(psutil.Process().children()) - others):
                    await asyncio.sleep(0.05)
                await websocket.send_str(json.dumps(["stdin", "j" * 200_000]))  # more than the pipe holds
                await asyncio.sleep(0.5)
                assert websocket._writer is not None
                websocket._writer.transport.abort()
                while any(child.is_running() for child in children):
                    await asyncio.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(serving, TIMEOUT_SECONDS)

    with listening_socket:
        asyncio.run(visit())


def test_port_in_use_is_reported(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        code, _, err = machine.call("serve", "--port", taken.getsockname()[1])
    machine.shut_down()
    assert code == 2
    assert "Choose another port with --port" in err
