"""A server on this machine that serves files as a public home does, and fails as one does."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer:
    """Serves `files` (name -> bytes), resumes with ranges, and can cut, redirect or refuse."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.cut_after: int | None = None
        """End the next answer after this many bytes."""
        self.has_ranges = True
        self.version = "1"
        self.asked: list[tuple[str, str | None]] = []
        """Path and Range of each request."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.lstrip("/")
        self.asked.append((name, request.headers.get("Range")))
        if name in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[name])
            request.end_headers()
            return
        if name not in self.files:
            request.send_error(404)
            return
        content, start, tag = self.files[name], 0, f'"{self.version}"'
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if found and self.has_ranges and request.headers.get("If-Range") == tag:
            start = int(found[1])
            if start >= len(content):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        request.send_header("ETag", tag)
        request.send_header("Content-Type", self.types.get(name, "application/octet-stream"))
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        end, self.cut_after = self.cut_after, None
        request.wfile.write(content[start:] if end is None else content[start : start + end])
        request.close_connection = True
