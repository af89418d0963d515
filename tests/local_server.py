"""A server on this machine that lies, stalls and breaks off when told to, for tests of what downloads."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image


def image_bytes(seed, kind="PNG", size=24):
    """A grey image of noise as the bytes of its file."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)).save(file, kind)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``faults[path]`` holds what it does instead, request by request.

    A fault is a status, other bytes, ``"cut"``, ``"stall"``, or a function of the handler and the file's bytes. ``logins`` are
    the ``Authorization`` headers of all requests.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked, self.released = {}, {}, Counter(), threading.Event()
        self.logins = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def serve(self, url, content):
        """Answer what is asked of the host of `url`."""
        self.files[unquote(urlsplit(url).path)] = content

    def fault(self, path, *faults):
        """What to do when the file is asked for the first time, the second time, …"""
        self.faults[next(known for known in self.files if known.endswith(path))] = list(faults)

    def times(self, path):
        """How often a file was asked for."""
        return sum(count for known, count in self.asked.items() if known.endswith(path))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked[path] += 1
        self.server.logins.append(self.headers["Authorization"])
        faults = self.server.faults.get(path)
        fault = faults.pop(0) if faults else None
        content = fault if isinstance(fault, bytes) else self.server.files.get(path)
        if callable(fault):
            with contextlib.suppress(ConnectionError):  # hung up on
                fault(self, content)
            self.close_connection = True
            return
        if content is None or isinstance(fault, int):
            self.send_error(fault or 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault in ("cut", "stall") else content)
        if fault == "stall":
            self.server.released.wait(10)
        self.close_connection = True

    def answer(self, status=200, **headers):
        """Send a status and headers; underscores stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""
