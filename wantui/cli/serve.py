"""wantui serve: the terminal application in a browser."""

import socket

import click

from wantui.errors import UserError


@click.command("serve")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
def command(port: int) -> None:
    """Serve the application to a browser on this machine, at an address that opens once.

    It listens on the loopback address only. From elsewhere: ssh -L 8000:localhost:8000 HOST, then open the address.
    Closing the browser, or ending this with Ctrl-C, changes nothing for the engine.
    """
    from wantui.tui.browser import LOOPBACK, BrowserServer

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}; --port chooses another") from None
    server = BrowserServer(port)
    click.echo("open this address; it works once, and is for you alone:", err=True)
    click.echo(server.address)
    server.serve()
