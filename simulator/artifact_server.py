"""A folder given out over HTTP, with ranges, for demonstrations and tests; what it answers can be made to go wrong.

By hand: `python -m simulator.artifact_server FOLDER [PORT]`.
"""

import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple


class Fetch(NamedTuple):
    """One request, as it was answered."""

    path: str
    range: str | None
    status: int


class ArtifactServer(ThreadingHTTPServer):
    """Serves a folder on loopback."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.fetches: list[Fetch] = []
        """All requests so far."""
        self.answers: dict[str, int] = {}
        """Paths, with their query, that are answered with this status instead of a file: 403 is an expired URL."""

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A device that goes away in the middle is none of our concern."""


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ArtifactServer

    def __init__(self, request: Any, client_address: Any, server: ArtifactServer) -> None:
        super().__init__(request, client_address, server, directory=str(server.folder))

    def do_GET(self) -> None:
        """Answers with the file, or a part of it."""
        path = Path(self.translate_path(self.path))
        status = self.server.answers.get(self.path, 200 if path.is_file() else 404)
        if status != 200:
            self._refuse(status)
            return
        with path.open("rb") as file:
            self._give(file, path.stat().st_size)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        """Says nothing."""

    def _give(self, file: BinaryIO, size: int) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if asked and first >= size:
            self._refuse(416)
            return
        self._note(206 if asked else 200)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        file.seek(first)
        shutil.copyfileobj(file, self.wfile)

    def _refuse(self, status: int) -> None:
        self._note(status)
        self.send_error(status)

    def _note(self, status: int) -> None:
        self.server.fetches.append(Fetch(self.path, self.headers.get("Range"), status))


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[ArtifactServer]:
    """Serves a folder in a thread of its own."""
    with ArtifactServer(folder, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with ArtifactServer(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8000) as foreground:
        foreground.serve_forever()
