"""A file server on this machine that serves from memory, as well or as badly as a test says."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `files` by their path, with ranges; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        """Method, path and range of every request."""
        self.hangs_up_after: int | None = None
        """Bytes of an answer after which the connection breaks off."""
        self.knows_ranges = True
        self.tells_length = True
        self.redirects: dict[str, str] = {}
        """Path by path that is asked for."""
        self.authorizations: list[str | None] = []
        """The header of that name, of every request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        asked = self.headers["Range"]
        self.server.asked.append((self.command, self.path, asked))
        self.server.authorizations.append(self.headers["Authorization"])
        path = self.path.partition("?")[0]
        if path in self.server.redirects:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", self.server.url + self.server.redirects[path])
            self.end_headers()
            return
        if path not in self.server.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content, start = self.server.files[path], 0
        if asked and self.server.knows_ranges:
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            assert found
            start = int(found[1])
            if start >= len(content):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if has_body:
            self.wfile.write(content[start:][: self.server.hangs_up_after])

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[FileServer]:
    """Run a file server for the time of the block."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
