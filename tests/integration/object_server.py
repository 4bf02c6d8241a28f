"""A real S3 server (rclone, files on disk, signatures checked), and a proxy before it that misbehaves when told to."""

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from factoryd.embedded.directory import free_port
from storage.objects import open_s3
from tests.servers import _listens

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI"
BUCKET = "plant"
RCLONE = Path(sys.executable).parent / "rclone"

Fault = Callable[["_Handler", int, bytes], None]
"""Answers a request in place of the server; given what the server said."""


@dataclass
class ObjectServer:
    """Where it is, its files, and how it misbehaves."""

    url: str
    directory: Path
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    """Method, and what happens to the next such request; each once."""
    always: tuple[str, Fault] | None = None
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def bucket(self) -> Path:
        return self.directory / BUCKET

    def stored(self) -> list[str]:
        return sorted(path.relative_to(self.bucket).as_posix() for path in self.bucket.rglob("*") if path.is_file())

    def heal(self) -> None:
        self.faults.clear()
        self.always = None
        if not self.bucket.exists():
            with open_s3(f"s3://{BUCKET}", self.url) as client:
                client.create_bucket(Bucket=BUCKET)


@contextmanager
def object_server(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Starts both; boto3 finds the credentials in the environment."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (directory / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS},{SECRET}", str(directory)]
    with (directory.parent / "rclone.log").open("wb") as log:
        process = subprocess.Popen([*command, "--config", os.devnull], stdout=log, stderr=log)
        try:
            while not _listens(port):
                assert process.poll() is None, "rclone ended during its start"
                time.sleep(0.01)
            with _proxy(port, directory) as server:
                yield server
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def _proxy(upstream: int, directory: Path) -> Iterator[ObjectServer]:
    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Handler.upstream = upstream
        Handler.server_state = state = ObjectServer(f"http://127.0.0.1:{server.server_port}", directory)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    upstream: int
    server_state: ObjectServer
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._fault()
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            said = answer.read()
            headers = [pair for pair in answer.getheaders() if pair[0].lower() not in {"transfer-encoding", "connection"}]
        finally:
            connection.close()
        if fault is not None:
            fault(self, answer.status, said)
            return
        self.send_response_only(answer.status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - as http.server wants them

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fault(self) -> Fault | None:
        state = self.server_state
        if state.always is not None and state.always[0] == self.command:
            return state.always[1]
        for place, (method, fault) in enumerate(state.faults):
            if method == self.command:
                del state.faults[place]
                return fault
        return None


def error(status: int, code: str) -> Fault:
    """Answers with an error as S3 words it."""

    def act(handler: _Handler, _: int, __: bytes) -> None:
        handler.answer(status, f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode())

    return act


def silence(handler: _Handler, _: int, __: bytes) -> None:
    """Answers nothing, until the test is over."""
    handler.server_state.released.wait()
    handler.close_connection = True


def truncated(handler: _Handler, status: int, said: bytes) -> None:
    """Sends half of what it promises."""
    handler.answer(status, said[: len(said) // 2], len(said))
    handler.close_connection = True


def corrupted(handler: _Handler, status: int, said: bytes) -> None:
    """Sends one byte wrong."""
    handler.answer(status, said[:-9] + bytes([said[-9] ^ 1]) + said[-8:])
