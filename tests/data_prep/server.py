"""A web server on localhost that the tests fill, and that hangs up when told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What the test's server has, what it was asked for, and after how many bytes it hangs up (for one request each)."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    hang_up_after: list[int] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    tag: str = '"one"'
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Serve a file or the part of it that is asked for."""
        data = self.files.get(handler.path)
        wanted = handler.headers.get("Range")
        self.asked.append((handler.command, wanted))
        if handler.command in self.refused:
            handler.send_error(405)
            return
        if data is None:
            handler.send_error(404)
            return
        start = 0
        if wanted and handler.headers.get("If-Range") == self.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        handler.send_response(416 if start >= len(data) else 206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("ETag", self.tag)
        handler.end_headers()
        if handler.command == "GET":
            most = self.hang_up_after.pop(0) if self.hang_up_after else len(data)
            handler.wfile.write(data[start:][:most])


@contextmanager
def running() -> Iterator[Server]:
    """The server, while the context lasts."""
    shared = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shared.answer(self)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        shared.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield shared
        listening.shutdown()
