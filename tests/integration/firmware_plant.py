"""A site with firmware, for the tests of `factoryd firmware`: a directory for artifacts, a file, and a trusted key."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg

from ota.signing import why_not_trusted
from storage.firmware_rows import load_keys, load_row
from tests.integration.command_line import CommandLine
from tests.integration.conftest import Database

FILE = b"firmware of a press\0" * 5000
SHA256 = hashlib.sha256(FILE).hexdigest()


def site(database: Database, tmp_path: Path) -> CommandLine:
    """With a directory for artifacts, a file, and a trusted key."""
    (tmp_path / "fw.bin").write_bytes(FILE)
    environment = {
        "FACTORYD_OTA__ARTIFACT_URL": f"file://{tmp_path}/store",
        "FACTORYD_OTA__ARTIFACT_BASE_URL": "https://files.example/fw",
    }
    factoryd = CommandLine(database.daemon, environment)
    factoryd.good("firmware", "keygen", str(tmp_path / "keys"))
    factoryd.good("firmware", "key", "add", str(tmp_path / "keys/firmware.pub"), "--note", "in the safe")
    return factoryd


def added(factoryd: CommandLine, tmp_path: Path, version: str = "2.4.1", *more: str) -> None:
    factoryd.good("firmware", "add", version, "--file", str(tmp_path / "fw.bin"), "--hardware", "plc-gw/rev-c", *more)


def signed(factoryd: CommandLine, tmp_path: Path, key: str, version: str = "2.4.1", *more: str) -> None:
    added(factoryd, tmp_path, version, *more)
    factoryd.good("firmware", "sign", version, "--key", key)


def trusted(database: Database, version: str = "2.4.1") -> str | None:
    with psycopg.connect(database.daemon) as connection:
        return why_not_trusted(load_row(connection, version).version, load_keys(connection))


def stored(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "store").iterdir()
    return path


def refused(factoryd: CommandLine, *arguments: str, code: int = 1) -> str:
    answer = factoryd(*arguments)
    assert answer.code == code, answer
    assert answer.err.startswith("factoryd: ")
    return answer.err


@contextmanager
def web_server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/rubbish":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                return
            self.send_response({"/fw.bin": 200, "/long": 200, "/moved": 302}.get(self.path, 404))
            if self.path == "/moved":
                self.send_header("Location", "/fw.bin")
            self.end_headers()
            if self.path in {"/fw.bin", "/long"}:
                self.wfile.write(FILE if self.path == "/fw.bin" else FILE * 2)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
