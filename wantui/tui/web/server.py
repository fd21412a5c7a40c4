"""HTTP server of `wantui serve`, for one user of a shared machine.

Other users of the machine can connect to the loopback address, and can listen on its other ports. Therefore:

* The server binds and prints the literal address 127.0.0.1: `localhost` may be ::1, where another user may listen.
* The token in the address works once. A form exchanges it, so that a link preview or a HEAD request does not use it up.
* The cookie is bound to a secret path, because browsers send cookies of 127.0.0.1 to every port.
* Requests for another host, or from a page of another origin, are refused.
* The number and duration of connections without the cookie, and the size of their requests, are limited.
"""

import asyncio
import errno
import hmac
import html
import json
import logging
import re
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

import textual_serve
from aiohttp import WSMsgType, web

from wantui.environment import build_python_command
from wantui.formatting import escape_unprintable
from wantui.stop_signals import STOP_SIGNALS
from wantui.tui.web.connections import ConnectionLimiter, OneLineErrorFilter
from wantui.tui.web.process import ApplicationProcess, clamp_terminal_size

LOOPBACK = "127.0.0.1"
MAX_APPLICATIONS = 8
"""Maximum number of open tabs; each has a process of about 80 MB."""
MAX_MESSAGE_BYTES = 1_000_000
"""Maximum bytes of a message from a browser; a larger one, such as a paste, closes the session."""
COOKIE_SECONDS = 7 * 24 * 3600
"""Lifetime of the cookie in seconds; restarting the server invalidates it earlier."""
MAX_CLOSE_SECONDS = 2.0
"""Seconds to wait for a browser to close its websocket."""
CLEAR_SCREEN = "\x1b[?1049l\x1b[?1003l\x1b[?1000l\x1b[0m\x1b[2J\x1b[H"
"""Commands that leave the application's screen and turn off its mouse reports."""
HOST_PATTERN = re.compile(rf"{re.escape(LOOPBACK)}(:\d{{1,5}})?", re.ASCII)
"""Accepted values of the Host header, with any port, because SSH may forward from another one."""
STATIC_FOLDER = Path(textual_serve.__file__).parent / "static"
"""Folder of Textual's static files."""
RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """Server of `wantui` for one user's browsers; each tab has its own application, all share the queue.

    Args:
        port: port of the loopback address.
        application_arguments: command-line arguments of each application.
        announce_address: called with the new address each time an address has been used.
    """

    def __init__(
        self,
        port: int,
        application_arguments: tuple[str, ...] = (),
        announce_address: Callable[[str], None] | None = None,
    ) -> None:
        self.port = port
        self.cookie_name = f"wantui_{port}"
        self.application_command: Sequence[str] = build_python_command("-m", "wantui", *application_arguments)
        self._announce_address = announce_address
        self._secret_path = f"/{secrets.token_urlsafe(24)}"
        self._session_secret = secrets.token_urlsafe(24)
        self._one_time_token = secrets.token_urlsafe(24)
        self._limiter: ConnectionLimiter | None = None
        self._tabs: set[web.WebSocketResponse] = set()

    @property
    def address(self) -> str:
        """Return the address that opens the application in a browser; it works once."""
        return f"http://{LOOPBACK}:{self.port}{self._secret_path}/?token={self._one_time_token}"

    async def serve_until_signal(self, listening_socket: socket.socket) -> None:
        """Serve on a bound socket until Ctrl-C or another stop signal."""
        loop, stop_requested = asyncio.get_running_loop(), asyncio.Event()
        for signal_number in (signal.SIGINT, *STOP_SIGNALS):
            loop.add_signal_handler(signal_number, stop_requested.set)
        logging.getLogger("aiohttp.server").addFilter(OneLineErrorFilter())
        # Without cancellation, a handler waiting for its application would not notice that the browser disconnected.
        runner = web.AppRunner(
            self.build_application(), access_log=None, shutdown_timeout=MAX_CLOSE_SECONDS, handler_cancellation=True
        )
        await runner.setup()
        assert runner.server is not None
        self._limiter = ConnectionLimiter(runner.server)
        server = await loop.create_server(self._limiter, sock=listening_socket, backlog=16)
        try:
            await stop_requested.wait()
        finally:
            server.close()
            await asyncio.gather(*(self._close_websocket(tab) for tab in list(self._tabs)))
            await runner.cleanup()

    def build_application(self) -> web.Application:
        """Return the aiohttp application: pages, static files and the websocket, all protected."""
        application = web.Application(middlewares=[self._protect_request], client_max_size=MAX_MESSAGE_BYTES)
        application.add_routes(
            [
                web.get(f"{self._secret_path}/", self._serve_page),
                web.post(f"{self._secret_path}/open", self._exchange_token),
                web.get(f"{self._secret_path}/ws", self._run_application),
                web.static(f"{self._secret_path}/static", STATIC_FOLDER),
            ]
        )
        return application

    @web.middleware
    async def _protect_request(self, request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        """Reject unauthorised requests, and add headers against framing, caching and referrers."""
        try:
            response = await self._handle_if_authorised(request, handler)
        except web.HTTPException as error:
            response = error
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
                raise
            response = web.HTTPNotFound()  # the file name is impossible
        if not response.prepared:
            response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            response.headers["X-Frame-Options"] = "DENY"
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Referrer-Policy"] = "same-origin"  # no-referrer would make the form's Origin null
            response.headers["Cache-Control"] = "no-store"
        if isinstance(response, web.HTTPException):
            raise response
        return response

    async def _handle_if_authorised(self, request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        """Handle an authorised request, or raise HTTPForbidden."""
        origin = request.headers.get("Origin")
        is_other_origin = origin is not None and origin.rstrip("/") != f"http://{request.host}"
        if is_other_origin or not HOST_PATTERN.fullmatch(request.host):
            raise web.HTTPForbidden(text=f"wantui serves http://{LOOPBACK} only; from another machine, use ssh -L\n")
        if _equals_secret(request.cookies.get(self.cookie_name, ""), self._session_secret):
            if self._limiter is not None:
                self._limiter.mark_authenticated(request.protocol)
            return await handler(request)
        if request.path == f"{self._secret_path}/" and _equals_secret(
            request.query.get("token", ""), self._one_time_token
        ):
            return _render_page("open.html", request.host, token=self._one_time_token)
        if request.path == f"{self._secret_path}/open" and request.method == "POST":
            return await handler(request)
        raise web.HTTPForbidden(text="open the address that `wantui serve` printed last; each address works once\n")

    async def _exchange_token(self, request: web.Request) -> web.StreamResponse:
        """Exchange the token for the cookie."""
        try:  # `request.post` would use whatever codec or multipart boundary the request names
            form = parse_qs((await request.read()).decode("ascii", "replace"))
        except web.RequestPayloadError:  # damaged compression
            raise web.HTTPBadRequest(text="cannot read the form\n") from None
        if not _equals_secret(form.get("token", [""])[0], self._one_time_token):
            raise web.HTTPForbidden(text="this address was used; open the one that `wantui serve` printed last\n")
        self._one_time_token = secrets.token_urlsafe(24)
        if self._announce_address is not None:
            self._announce_address(self.address)
        response = web.HTTPSeeOther(f"{self._secret_path}/")
        response.set_cookie(
            self.cookie_name,
            self._session_secret,
            max_age=COOKIE_SECONDS,
            path=f"{self._secret_path}/",
            httponly=True,
            samesite="Strict",
        )
        return response

    async def _serve_page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:  # reopened with a used address: keep the token out of the browser history
            raise web.HTTPSeeOther(f"{self._secret_path}/")
        return _render_page("application.html", request.host, websocket=f"ws://{request.host}{self._secret_path}/ws")

    async def _run_application(self, request: web.Request) -> web.StreamResponse:
        """Run an application while its tab is open."""
        terminal_size = clamp_terminal_size(request.query.get("width", 80), request.query.get("height", 24))
        if terminal_size is None:
            raise web.HTTPBadRequest(text="width and height must be numbers of cells\n")
        if len(self._tabs) >= MAX_APPLICATIONS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_APPLICATIONS} tabs are open; close one first\n")
        websocket = web.WebSocketResponse(heartbeat=15, timeout=MAX_CLOSE_SECONDS, max_msg_size=MAX_MESSAGE_BYTES)
        self._tabs.add(websocket)  # before the first await, so that tabs opened at the same time are counted
        try:
            await websocket.prepare(request)
            process = await ApplicationProcess.start_application(self.application_command, terminal_size)
            forwarding = asyncio.create_task(self._forward_output(process, websocket))
            try:
                async for message in websocket:
                    if message.type != WSMsgType.TEXT or not await _forward_message(process, websocket, message.data):
                        break
            finally:
                forwarding.cancel()
                with suppress(asyncio.CancelledError):
                    await forwarding
                await process.stop_application()
        finally:
            self._tabs.discard(websocket)
            await self._close_websocket(websocket)
        return websocket

    async def _forward_output(self, process: ApplicationProcess, websocket: web.WebSocketResponse) -> None:
        """Forward the application's output until it exits, then show its error or close the websocket."""
        with suppress(ConnectionError, RuntimeError):
            await process.forward_output(websocket.send_bytes)
            if failure := await process.read_failure():
                text = f"{escape_unprintable(failure, keep_lines=True)}\n\nReload this page to start wantui again."
                await websocket.send_bytes(f"{CLEAR_SCREEN}{text}".replace("\n", "\r\n").encode())
                return  # the browser closes the websocket
        await self._close_websocket(websocket)

    @staticmethod
    async def _close_websocket(websocket: web.WebSocketResponse) -> None:
        with suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
            await asyncio.wait_for(websocket.close(), 2 * MAX_CLOSE_SECONDS)


def _render_page(template_name: str, host: str, **values: str) -> web.Response:
    """Render a page template; its content security policy allows connections to `host` only."""
    nonce = secrets.token_urlsafe(16)
    page_template = Template(files("wantui.tui.web").joinpath(template_name).read_text(encoding="utf-8"))
    policy = (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; font-src 'self'; connect-src 'self' ws://{host}; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    page_text = page_template.substitute({name: html.escape(value) for name, value in values.items()}, nonce=nonce)
    return web.Response(text=page_text, content_type="text/html", headers={"Content-Security-Policy": policy})


async def _forward_message(process: ApplicationProcess, websocket: web.WebSocketResponse, message: str) -> bool:
    """Handle a browser's message, a JSON list of kind and data; return whether it is valid."""
    try:
        message_kind, data = (*json.loads(message), None)[:2]
    except (ValueError, TypeError, RecursionError):
        return False
    match message_kind:
        case "stdin" if isinstance(data, str):
            await process.send_keys(data)
        case "resize" if isinstance(data, dict):
            terminal_size = clamp_terminal_size(data.get("width"), data.get("height"))
            if terminal_size is None:
                return False
            await process.send_event("resize", width=terminal_size[0], height=terminal_size[1])
        case "ping" if isinstance(data, str):
            with suppress(ConnectionError):
                await websocket.send_json(["pong", data])
        case "focus" | "blur":
            await process.send_event(message_kind)
        case _:
            return False
    return True


def _equals_secret(text: str, secret: str) -> bool:
    """Compare in constant time, as bytes, because `hmac` refuses non-ASCII text."""
    return hmac.compare_digest(text.encode("utf-8", "surrogatepass"), secret.encode())
