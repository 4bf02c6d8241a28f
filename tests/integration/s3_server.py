"""As much of S3 as the artifacts need, in this process: objects, multipart uploads, and signatures of version 4 checked.

Written from the documentation of AWS, not from boto3: a URL that is signed wrongly gets 403 here, as there.
"""

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI"


class S3Server:
    """What is stored, and what was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.failing: list[int] = []
        """Statuses of the next answers."""


@contextmanager
def s3_server() -> Iterator[S3Server]:
    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Handler.store = store = S3Server(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    store: S3Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer_object()

    def do_HEAD(self) -> None:
        self._answer_object()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._welcome():
            return
        path, query = self._asked()
        if "uploadId" in query:
            self.store.parts[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.store.objects[path] = body
        self._say(200, headers={"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._welcome():
            return
        path, query = self._asked()
        if "uploads" in query:
            upload = f"upload-{len(self.store.parts)}"
            self.store.parts[upload] = {}
            self._say(200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
            return
        numbers = sorted(int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body))
        self.store.objects[path] = b"".join(self.store.parts[query["uploadId"]][number] for number in numbers)
        self._say(200, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer_object(self) -> None:
        if not self._welcome():
            return
        found = self.store.objects.get(self._asked()[0])
        if found is None:
            self._say(404, "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")
        else:
            self._say(200, found)

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True))

    def _welcome(self) -> bool:
        if self.store.failing:
            self._say(self.store.failing.pop(0), "<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
            return False
        if not self._is_signed():
            self._say(403, "<Error><Code>SignatureDoesNotMatch</Code><Message>bad signature</Message></Error>")
            return False
        return True

    def _is_signed(self) -> bool:
        _, query = self._asked()
        if "X-Amz-Signature" in query:
            signature, credential = query.pop("X-Amz-Signature"), query["X-Amz-Credential"]
            made = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if datetime.now(UTC) > made + timedelta(seconds=int(query["X-Amz-Expires"])):
                return False
            date, signed, payload = query["X-Amz-Date"], query["X-Amz-SignedHeaders"], "UNSIGNED-PAYLOAD"
        else:
            header = self.headers.get("Authorization", "")
            found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=(\S+), SignedHeaders=(\S+), Signature=(\w+)", header)
            if found is None:
                return False
            credential, signed, signature = found.groups()
            date, payload = self.headers["X-Amz-Date"], self.headers["X-Amz-Content-SHA256"]
        access, day, region, service, _ = credential.split("/")
        lines = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in signed.split(";"))
        request = f"{self.command}\n{urlsplit(self.path).path}\n{lines}\n{headers}\n{signed}\n{payload}"
        scope = f"{day}/{region}/{service}/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = f"AWS4{SECRET}".encode()
        for word in (day, region, service, "aws4_request", text):
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        return access == ACCESS and hmac.compare_digest(key.hex(), signature)

    def _say(self, status: int, body: str | bytes = b"", headers: dict[str, str] | None = None) -> None:
        raw = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), "ETag": '"x"', **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)
