"""``/livez``, ``/readyz`` and ``/metrics`` of one worker, answered from a thread of its own.

A worker whose event loop stands still has to be able to say so.
"""

import errno
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from msgspec import Struct

from taskq.errors import ConfigError

PORTS = 100
"""How many ports a worker among others on the same machine tries, from the first one on."""


class Page(Struct, frozen=True):
    """An answer."""

    text: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"


Pages = dict[str, Callable[[], Page]]


def verdict(trouble: str | None, remark: str | None = None) -> Page:
    """200 and ``ok``, with a remark if there is one, or 503 and the trouble."""
    if trouble is None:
        return Page(b"ok\n" if remark is None else f"ok, {remark}\n".encode())
    return Page(f"{trouble}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)


@contextmanager
def served(host: str, port: int, pages: Pages, *, next_free: bool = False) -> Generator[int]:
    """Serve pages while the context is open; answers the port.

    Raises ConfigError when the port is taken, or none of a hundred when the ``next_free`` one may be used.
    """
    server = _bound(host, port, _handler(pages), PORTS if next_free else 1)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="taskq probes", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(host: str, port: int, handler: type[BaseHTTPRequestHandler], tries: int) -> ThreadingHTTPServer:
    for number in range(port, port + tries):
        try:
            return ThreadingHTTPServer((host, number), handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"{host}:{number} cannot be listened on: {error.strerror or error}") from error
    ports = f"port {port} is" if tries == 1 else f"ports {port} to {port + tries - 1} are"
    raise ConfigError(f"{ports} taken on {host}: give another one")


def _handler(pages: Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "taskq"
        sys_version = ""
        timeout = 10.0

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            page = Page(b"no such page\n", HTTPStatus.NOT_FOUND) if make is None else make()
            self.send_response(page.status)
            self.send_header("Content-Type", page.kind)
            self.send_header("Content-Length", str(len(page.text)))
            self.end_headers()
            self.wfile.write(page.text)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a probe comes every few seconds."""

    return Handler
