"""Files below one URL, in S3 or in a directory: put, fetched back, listed, deleted. The one door to S3.

What has a name is whole, whenever the power fails: a directory's files are renamed into place; S3 shows an object once it has
all of it.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from botocore import exceptions as boto_errors

from storage.refusals import Conflict, NotFound

CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
"""Of a multipart upload: 10,000 parts are the most that S3 takes, so files may have 160 GB."""
PART_PREFIX = ".part-"
"""Begins the name of a file that is still being written."""
GONE = frozenset({"404", "NoSuchKey", "NoSuchBucket"})

Progress = Callable[[int], None]
"""Told of every piece: its bytes."""


class StoreUnavailable(ConnectionError):
    """The store does not answer, or is in trouble: try again."""


class Content(NamedTuple):
    """What a file holds."""

    size_bytes: int
    sha256: str


class ObjectStore:
    """What lies below a URL.

    Args:
        root: s3://bucket/prefix or file:///path.
        endpoint: of an S3 server other than AWS.
        timeout_s: longest silence of the S3 server.
    """

    def __init__(self, root: str, endpoint: str | None, timeout_s: float) -> None:
        self.root = root.rstrip("/")
        self._endpoint, self._timeout_s = endpoint, timeout_s
        self._is_s3 = urlsplit(root).scheme == "s3"
        self._client: Any = None

    def close(self) -> None:
        """Closes its connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def url(self, key: str) -> str:
        """Returns an object's URL; a file's name in it is percent-encoded."""
        return f"{self.root}/{key if self._is_s3 else quote(key, safe='/=')}"

    def put(self, path: Path, key: str, progress: Progress = lambda _: None) -> None:
        """Stores a file under a key, in place of what is there.

        Raises:
            StoreUnavailable: try again.
            NotFound: there is no such bucket.
            Conflict: the store refuses.
        """
        if not self._is_s3:
            with told_as_ours(self.url(key)):
                copy_whole(path, self._path(key), progress)
            return
        with self._s3(key) as client:
            upload_to_s3(client, path, self.url(key), progress)

    def fetch(self, key: str, target: Path, progress: Progress = lambda _: None) -> Content:
        """Writes what is stored under a key to a file, and returns what it holds.

        Raises:
            NotFound: there is none.
            StoreUnavailable: try again; it may also have ended too soon.
            Conflict: the store refuses.
        """
        with self._opened(key) as chunks, target.open("wb") as file:
            return digest(_written(chunks, file), progress)

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yields the keys that begin with the prefix (it ends at a slash), and the bytes of each.

        Raises:
            StoreUnavailable: try again.
            NotFound: there is no such bucket.
            Conflict: the store refuses.
        """
        if not self._is_s3:
            base = self._path("")
            with told_as_ours(self.url(prefix)):
                found = sorted(path for path in self._path(prefix).rglob("*") if path.is_file())
                yield from ((path.relative_to(base).as_posix(), path.stat().st_size) for path in found)
            return
        with self._s3(prefix) as client:
            bucket, whole = place(self.url(prefix))
            skip = len(whole) - len(prefix)
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=whole):
                yield from ((item["Key"][skip:], item["Size"]) for item in page.get("Contents", ()))

    def delete(self, key: str) -> None:
        """Deletes what is stored under a key, if there is something.

        Raises:
            StoreUnavailable: try again.
            Conflict: the store refuses.
        """
        if not self._is_s3:
            with told_as_ours(self.url(key)):
                self._path(key).unlink(missing_ok=True)
            return
        with suppress(NotFound), self._s3(key) as client:
            bucket, name = place(self.url(key))
            client.delete_object(Bucket=bucket, Key=name)

    def abort_uploads(self, prefix: str) -> int:
        """Gives up what was begun to be uploaded below a prefix, and never finished because its process was killed.

        A server that does not know how to list them has none to give up. Returns how many there were.

        Raises:
            StoreUnavailable: try again.
        """
        if not self._is_s3:
            base = self._path("")
            left = [path for path in base.rglob(f"{PART_PREFIX}*") if path.relative_to(base).as_posix().startswith(prefix)]
            for path in left:
                path.unlink(missing_ok=True)
            return len(left)
        count = 0
        with suppress(NotFound, Conflict), self._s3(prefix) as client:
            bucket, whole = place(self.url(prefix))
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=whole):
                for upload in page.get("Uploads", ()):
                    client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    count += 1
        return count

    def _path(self, key: str) -> Path:
        return Path(unquote(urlsplit(self.root).path)) / key

    @contextmanager
    def _s3(self, key: str) -> Iterator[Any]:
        with s3_told_as_ours(self.url(key)):
            self._client = self._client or s3_client(self._endpoint, self._timeout_s)
            yield self._client

    @contextmanager
    def _opened(self, key: str) -> Iterator[Iterator[bytes]]:
        if not self._is_s3:
            with told_as_ours(self.url(key)), self._path(key).open("rb") as file:
                yield pieces_of(file)
            return
        with self._s3(key) as client:
            bucket, name = place(self.url(key))
            body = client.get_object(Bucket=bucket, Key=name)["Body"]
            try:
                yield body.iter_chunks(CHUNK_BYTES)
            finally:
                body.close()


@contextmanager
def open_s3(url: str, endpoint: str | None, timeout_s: float = 60.0) -> Iterator[Any]:
    """Opens a client for one use; see `s3_told_as_ours`."""
    with s3_told_as_ours(url):
        client = s3_client(endpoint, timeout_s)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def s3_told_as_ours(url: str) -> Iterator[None]:
    """Turns the library's errors, about `url`, into ours.

    Raises:
        StoreUnavailable: try again.
        NotFound: no such object or bucket.
        Conflict: it refuses.
    """
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - slow to import, and many sites never need it

    try:
        yield
    except boto_errors.ClientError as error:
        raise _refusal(url, error, error) from error
    except Boto3Error as error:
        raise _refusal(url, error, error.__context__) from error
    except (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError) as error:
        raise Conflict(f"{url}: {error}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile") from error
    except (boto_errors.BotoCoreError, TimeoutError) as error:
        raise StoreUnavailable(f"{url}: {error}") from error


def s3_client(endpoint: str | None, timeout_s: float = 60.0) -> Any:
    """Signs as of version 4, which all regions take; checksums only where S3 asks for them: other servers know none."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "virtual"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=min(10.0, timeout_s),
        read_timeout=timeout_s,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=endpoint, region_name=session.region_name or "us-east-1", config=config)


def upload_to_s3(client: Any, path: Path, url: str, progress: Progress) -> None:
    """Uploads a file, in parts if it is large."""
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    bucket, key = place(url)
    parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
    client.upload_file(str(path), bucket, key, Callback=progress, Config=parts)


def place(url: str) -> tuple[str, str]:
    """Returns bucket and key of an s3 URL."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def content_of(path: Path, progress: Progress = lambda _: None) -> Content:
    """Returns size and hash of a file, read in pieces."""
    with path.open("rb") as file:
        return digest(pieces_of(file), progress)


def digest(pieces: Iterator[bytes], progress: Progress = lambda _: None) -> Content:
    """Returns size and sha256 of what comes."""
    size, sha256 = 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        sha256.update(piece)
        progress(len(piece))
    return Content(size, sha256.hexdigest())


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """Yields a file's bytes."""
    while piece := file.read(CHUNK_BYTES):
        yield piece


def copy_whole(source: Path, target: Path, progress: Progress) -> None:
    """Copies a file; what has the name is whole, whenever the power fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file, tempfile.NamedTemporaryFile(dir=target.parent, prefix=PART_PREFIX, delete=False) as part:
        try:
            for piece in pieces_of(file):
                part.write(piece)
                progress(len(piece))
            part.flush()
            os.fchmod(part.fileno(), 0o644)  # the web server, or who reads the archive, is somebody else
            os.fsync(part.fileno())
            Path(part.name).replace(target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def told_as_ours(url: str) -> Iterator[None]:
    """Turns a directory's errors into a store's."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{url}: there is no such file") from error
    except PermissionError as error:
        raise Conflict(f"{url}: {error.strerror}: let {_user()} write there") from error
    except OSError as error:
        raise StoreUnavailable(f"{url}: {error.strerror or error}") from error


def _user() -> str:
    return f"user {os.getuid()}"


def _written(chunks: Iterator[bytes], file: BinaryIO) -> Iterator[bytes]:
    for chunk in chunks:
        file.write(chunk)
        yield chunk


def _refusal(url: str, error: Exception, answer: BaseException | None) -> Exception:
    """Returns what to raise: a server in trouble may be well again soon; what it refuses, it goes on refusing."""
    said = answer.response if isinstance(answer, boto_errors.ClientError) else {}
    if str(said.get("Error", {}).get("Code", "")) in GONE:
        return NotFound(f"{url}: there is no such file or bucket")
    if int(said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500:
        return StoreUnavailable(f"{url}: S3 is in trouble: {error}")
    if answer is None or not isinstance(answer, boto_errors.ClientError):
        return StoreUnavailable(f"{url}: {error}")
    return Conflict(f"{url}: S3 refuses: {error}")
