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
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from string import Template

import textual_serve
from aiohttp import WSMsgType, web

from wantui.tui.web.connections import ConnectionLimiter, OneLineErrorFilter
from wantui.tui.web.process import ApplicationProcess, clamp_size

LOOPBACK = "127.0.0.1"
MAX_APPLICATIONS = 8
"""Maximum number of open tabs; each has a process of about 80 MB."""
MAX_MESSAGE = 1_000_000
"""Maximum bytes of a message from a browser; a larger one, such as a paste, closes the session."""
COOKIE_SECONDS = 7 * 24 * 3600
"""Lifetime of the cookie in seconds; restarting the server invalidates it earlier."""
CLOSE_SECONDS = 2.0
"""Seconds to wait for a browser to close its websocket."""
HOST_PATTERN = re.compile(rf"{re.escape(LOOPBACK)}(:\d{{1,5}})?", re.ASCII)
"""Accepted values of the Host header, with any port, because SSH may forward from another one."""
STATIC = Path(textual_serve.__file__).parent / "static"
"""Folder of Textual's static files."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """Server of `wantui` for one user's browsers; each tab has its own application, all share the queue.

    Args:
        port: port of the loopback address.
        arguments: command-line arguments of each application.
        announce: called with the new address each time an address has been used.
    """

    def __init__(
        self, port: int, arguments: tuple[str, ...] = (), announce: Callable[[str], None] | None = None
    ) -> None:
        self.port = port
        self.cookie = f"wantui_{port}"
        self.command = (sys.executable, "-m", "wantui", *arguments)
        self._announce = announce
        self._path = f"/{secrets.token_urlsafe(24)}"
        self._session = secrets.token_urlsafe(24)
        self._token = secrets.token_urlsafe(24)
        self._limiter: ConnectionLimiter | None = None
        self._tabs: set[web.WebSocketResponse] = set()

    @property
    def address(self) -> str:
        """Return the address that opens the application in a browser; it works once."""
        return f"http://{LOOPBACK}:{self.port}{self._path}/?token={self._token}"

    async def run(self, listening: socket.socket) -> None:
        """Serve on a bound socket until SIGINT, SIGTERM or SIGHUP."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        logging.getLogger("aiohttp.server").addFilter(OneLineErrorFilter())
        # Without cancellation, a handler waiting for its application would not notice that the browser disconnected.
        runner = web.AppRunner(
            self.build_application(), access_log=None, shutdown_timeout=CLOSE_SECONDS, handler_cancellation=True
        )
        await runner.setup()
        assert runner.server is not None
        self._limiter = ConnectionLimiter(runner.server)
        server = await loop.create_server(self._limiter, sock=listening, backlog=16)
        try:
            await stop.wait()
        finally:
            server.close()
            await asyncio.gather(*(self._close(tab) for tab in list(self._tabs)))
            await runner.cleanup()

    def build_application(self) -> web.Application:
        """Return the aiohttp application: pages, static files and the websocket, all protected."""
        application = web.Application(middlewares=[self._protect], client_max_size=MAX_MESSAGE)
        application.add_routes(
            [
                web.get(f"{self._path}/", self._serve_page),
                web.post(f"{self._path}/open", self._exchange_token),
                web.get(f"{self._path}/ws", self._run_application),
                web.static(f"{self._path}/static", STATIC),
            ]
        )
        return application

    @web.middleware
    async def _protect(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse unauthorised requests, and add headers against framing, caching and referrers."""
        try:
            response = await self._guard(request, handler)
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

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle an authorised request, or raise HTTPForbidden."""
        origin = request.headers.get("Origin")
        is_other_origin = origin is not None and origin.rstrip("/") != f"http://{request.host}"
        if is_other_origin or not HOST_PATTERN.fullmatch(request.host):
            raise web.HTTPForbidden(text=f"wantui serves http://{LOOPBACK} only; from another machine, use ssh -L\n")
        if _is_equal(request.cookies.get(self.cookie, ""), self._session):
            if self._limiter is not None:
                self._limiter.admit(request.protocol)
            return await handler(request)
        if request.path == f"{self._path}/" and _is_equal(request.query.get("token", ""), self._token):
            return _render_page("open.html", request.host, token=self._token)
        if request.path == f"{self._path}/open" and request.method == "POST":
            return await handler(request)
        raise web.HTTPForbidden(text="open the address that `wantui serve` printed last; each address works once\n")

    async def _exchange_token(self, request: web.Request) -> web.StreamResponse:
        """Exchange the token for the cookie."""
        try:
            token = (await request.post()).get("token", "")
        except (ValueError, LookupError, web.RequestPayloadError):  # a form that cannot be decoded
            raise web.HTTPBadRequest(text="cannot read the form\n") from None
        if not isinstance(token, str) or not _is_equal(token, self._token):
            raise web.HTTPForbidden(text="this address was used; open the one that `wantui serve` printed last\n")
        self._token = secrets.token_urlsafe(24)
        if self._announce is not None:
            self._announce(self.address)
        response = web.HTTPSeeOther(f"{self._path}/")
        response.set_cookie(
            self.cookie, self._session, max_age=COOKIE_SECONDS, path=f"{self._path}/", httponly=True, samesite="Strict"
        )
        return response

    async def _serve_page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:  # reopened with a used address: keep the token out of the browser history
            raise web.HTTPSeeOther(f"{self._path}/")
        return _render_page("application.html", request.host, websocket=f"ws://{request.host}{self._path}/ws")

    async def _run_application(self, request: web.Request) -> web.StreamResponse:
        """Run an application while its tab is open."""
        size = clamp_size(request.query.get("width", 80), request.query.get("height", 24))
        if size is None:
            raise web.HTTPBadRequest(text="width and height must be numbers of cells\n")
        if len(self._tabs) >= MAX_APPLICATIONS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_APPLICATIONS} tabs are open; close one first\n")
        websocket = web.WebSocketResponse(heartbeat=15, timeout=CLOSE_SECONDS, max_msg_size=MAX_MESSAGE)
        self._tabs.add(websocket)  # before the first await, so that tabs opened at the same time are counted
        try:
            await websocket.prepare(request)
            process = await ApplicationProcess.start(self.command, size)
            forwarding = asyncio.create_task(self._forward(process, websocket))
            try:
                async for message in websocket:
                    if message.type != WSMsgType.TEXT or not await _handle_message(process, websocket, message.data):
                        break
            finally:
                forwarding.cancel()
                with suppress(asyncio.CancelledError):
                    await forwarding
                await process.stop()
        finally:
            self._tabs.discard(websocket)
            await self._close(websocket)
        return websocket

    async def _forward(self, process: ApplicationProcess, websocket: web.WebSocketResponse) -> None:
        """Forward the application's output until it exits, then close the websocket."""
        with suppress(ConnectionError, RuntimeError):
            await process.forward(websocket.send_bytes)
        await self._close(websocket)

    @staticmethod
    async def _close(websocket: web.WebSocketResponse) -> None:
        with suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
            await asyncio.wait_for(websocket.close(), 2 * CLOSE_SECONDS)


def _render_page(name: str, host: str, **values: str) -> web.Response:
    """Render a page template; its content security policy allows connections to `host` only."""
    nonce = secrets.token_urlsafe(16)
    page = Template(files("wantui.tui.web").joinpath(name).read_text(encoding="utf-8"))
    policy = (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; font-src 'self'; connect-src 'self' ws://{host}; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    text = page.substitute({name: html.escape(value) for name, value in values.items()}, nonce=nonce)
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})


async def _handle_message(process: ApplicationProcess, websocket: web.WebSocketResponse, text: str) -> bool:
    """Handle a browser's message, a JSON list of kind and data; return whether it is valid."""
    try:
        kind, data = (*json.loads(text), None)[:2]
    except (ValueError, TypeError, RecursionError):
        return False
    match kind:
        case "stdin" if isinstance(data, str):
            await process.send_keys(data)
        case "resize" if isinstance(data, dict):
            size = clamp_size(data.get("width"), data.get("height"))
            if size is None:
                return False
            await process.send_event("resize", width=size[0], height=size[1])
        case "ping" if isinstance(data, str):
            with suppress(ConnectionError):
                await websocket.send_json(["pong", data])
        case "focus" | "blur":
            await process.send_event(kind)
        case _:
            return False
    return True


def _is_equal(text: str, secret: str) -> bool:
    """Compare in constant time, as bytes, because `hmac` refuses non-ASCII text."""
    return hmac.compare_digest(text.encode("utf-8", "surrogateescape"), secret.encode())
