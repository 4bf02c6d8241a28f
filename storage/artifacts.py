"""Firmware files where they lie: in S3, or in a directory that a web server of the site's own gives out.

The daemon only makes URLs here, without a word over the network. People's commands write files, and read them back.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from botocore import exceptions as boto_errors

from config.ota_settings import OtaSettings
from ota.catalogue import Address, NoAddress
from ota.firmware import Version
from ota.urls import redacted
from storage.refusals import Conflict, InvalidInput, NotFound

CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
"""Of a multipart upload: 10,000 parts are the most that S3 takes, so files may have 160 GB."""
SAME_URL_S = 60.0
"""A rollout's devices share a presigned URL for so long, or half its life: making one costs a millisecond of our time."""
ODD = re.compile(r"[^A-Za-z0-9._-]+")

Progress = Callable[[int], None]
"""Told of every piece: its bytes."""


class ArtifactsUnavailable(ConnectionError):
    """The store does not answer: try again."""


class Content(NamedTuple):
    """What a file holds."""

    size_bytes: int
    sha256: str


class Uploaded(NamedTuple):
    """Where a file now lies, and what it holds."""

    url: str
    size_bytes: int
    sha256: str


class Artifacts:
    """The store of `ota.artifact_url`. Only what lies below it is given out: a row of the database must not make the daemon
    sign URLs of whatever else its credentials can read.
    """

    def __init__(self, settings: OtaSettings) -> None:
        self._settings = settings
        self._root = (settings.artifact_url or "").rstrip("/")
        self._signer: Any = None
        self._made: dict[str, tuple[datetime, Address]] = {}

    def device_url(self, version: Version, now: datetime) -> Address:
        """Returns where devices fetch a version's file: http and https as they are, s3 presigned, file by the web server.

        No network, with credentials from the environment or a file; those of an instance's role are fetched when they are due.

        Raises:
            NoAddress: there is no such URL; the text says why.
        """
        url = version.firmware_url
        match urlsplit(url).scheme if url.isascii() else "":
            case "http" | "https":
                return Address(url, None)
            case "s3":
                return self._presigned(url, now)
            case "file" if self._settings.artifact_base_url is not None:
                base = self._settings.artifact_base_url.rstrip("/")
                return Address(f"{base}/{quote(self._name_for_device(url))}", None)
            case "file":
                raise NoAddress(f"{url}: ota.artifact_base_url is not set, so no device can fetch it")
        raise NoAddress(f"{redacted(url)} is no URL that we know: https, s3 or file")

    def upload(self, path: Path, name: str, progress: Progress = lambda _: None) -> Uploaded:
        """Stores a file; its name there holds a part of its hash, so that nothing is ever overwritten by something else.

        Args:
            path: the file; read twice, in pieces.
            name: how to call it, such as 2.4.1.bin.
            progress: told of bytes as they are stored.

        Raises:
            InvalidInput: there is no place for files, or the file is empty.
            ArtifactsUnavailable: try again.
            Conflict: the store refuses it.
        """
        content = content_of(path)
        if content.size_bytes == 0:
            raise InvalidInput(f"{path} is empty")
        plain = PurePosixPath(ODD.sub("_", name))
        stored = f"{plain.stem}-{content.sha256[:12]}{plain.suffix}"
        match urlsplit(self._root).scheme:
            case "s3":
                self._put_s3(path, stored, progress)
            case "file":
                _copy(path, Path(unquote(urlsplit(self._root).path)) / stored, progress)
            case _:
                raise InvalidInput(
                    "ota.artifact_url is not set, so there is no place for files; set it, or give --url, --size and --sha256"
                )
        return Uploaded(f"{self._root}/{stored}", *content)

    def read_back(self, firmware_url: str, progress: Progress = lambda _: None) -> Content:
        """Returns what is stored there now, read in pieces.

        Raises:
            InvalidInput: not a URL of this store.
            NotFound: there is no such file.
            ArtifactsUnavailable: try again.
            Conflict: the store refuses.
        """
        name = self._name(firmware_url)
        if name is None:
            where = redacted(firmware_url)
            raise InvalidInput(f"{where} does not lie below ota.artifact_url, {self._root or 'which is not set'}")
        if urlsplit(firmware_url).scheme == "file":
            path = Path(unquote(urlsplit(self._root).path)) / name
            try:
                return content_of(path, progress)
            except FileNotFoundError as error:
                raise NotFound(f"there is no file {path}; upload it again with factoryd firmware add") from error
        with self._s3(firmware_url) as client:
            bucket, key = _place(firmware_url)
            body = client.get_object(Bucket=bucket, Key=key)["Body"]
            try:
                return digest(body.iter_chunks(CHUNK_BYTES), progress)
            finally:
                body.close()

    def _presigned(self, url: str, now: datetime) -> Address:
        life_s = int(self._settings.url_expires_s)
        shared = timedelta(seconds=min(SAME_URL_S, life_s / 2))
        made, address = self._made.get(url, (None, None))
        if made is not None and address is not None and timedelta() <= now - made < shared:
            return address
        self._name_for_device(url)
        bucket, key = _place(url)
        try:
            self._signer = self._signer or self._client()
            signed = self._signer.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=life_s)
        except (boto_errors.BotoCoreError, ValueError) as error:
            raise NoAddress(f"{url}: cannot be presigned: {error}") from error
        address = Address(signed, now + timedelta(seconds=life_s))
        self._made = {other: kept for other, kept in self._made.items() if now - kept[0] < timedelta(seconds=SAME_URL_S)}
        self._made[url] = now, address
        return address

    def _name_for_device(self, url: str) -> str:
        name = self._name(url)
        if name is None:
            raise NoAddress(f"{redacted(url)}: does not lie below ota.artifact_url, {self._root or 'which is not set'}")
        return name

    def _name(self, url: str) -> str | None:
        """Returns the file's name below the store, or None if it is not in there."""
        name = url.removeprefix(f"{self._root}/")
        if not self._root or name == url or "\\" in name or any(part in {"", ".", ".."} for part in unquote(name).split("/")):
            return None
        return unquote(name) if url.startswith("file:") else name

    def _put_s3(self, path: Path, name: str, progress: Progress) -> None:
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415 - as in _client

        with self._s3(f"{self._root}/{name}") as client:
            bucket, key = _place(f"{self._root}/{name}")
            parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
            client.upload_file(str(path), bucket, key, Callback=progress, Config=parts)

    @contextmanager
    def _s3(self, url: str) -> Iterator[Any]:
        """Opens a client for people's commands; the library's errors become ours."""
        from boto3.exceptions import Boto3Error  # noqa: PLC0415

        client = None
        try:
            client = self._client()
            yield client
        except boto_errors.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in {"404", "NoSuchKey", "NoSuchBucket"}:
                raise NotFound(f"{url}: there is no such file or bucket") from error
            raise _refusal(url, error, error) from error
        except Boto3Error as error:
            raise _refusal(url, error, error.__context__) from error
        except (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError) as error:
            raise Conflict(f"{url}: {error}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile") from error
        except (boto_errors.BotoCoreError, TimeoutError) as error:
            raise ArtifactsUnavailable(f"{url}: {error}") from error
        finally:
            if client is not None:
                client.close()

    def _client(self) -> Any:
        """Signs as of version 4, which all regions take; checksums only where S3 asks for them: other servers know none."""
        import boto3  # noqa: PLC0415 - slow to import, and many sites never need it
        from botocore.config import Config  # noqa: PLC0415

        endpoint = self._settings.s3_endpoint_url
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "virtual"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
        )
        session = boto3.session.Session()
        return session.client("s3", endpoint_url=endpoint, region_name=session.region_name or "us-east-1", config=config)


def content_of(path: Path, progress: Progress = lambda _: None) -> Content:
    """Returns size and hash of a file, read in pieces."""
    with path.open("rb") as file:
        return digest(_pieces(file), progress)


def digest(pieces: Iterator[bytes], progress: Progress = lambda _: None) -> Content:
    """Returns size and sha256 of what comes."""
    size, sha256 = 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        sha256.update(piece)
        progress(len(piece))
    return Content(size, sha256.hexdigest())


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _copy(source: Path, target: Path, progress: Progress) -> None:
    """What has the name is whole, whenever the power fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file, tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as part:
        try:
            for piece in _pieces(file):
                part.write(piece)
                progress(len(piece))
            part.flush()
            os.fchmod(part.fileno(), 0o644)  # the web server is somebody else
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


def _refusal(url: str, error: Exception, answer: BaseException | None) -> Exception:
    """Returns what to raise: a server in trouble may be well again soon; what it refuses, it goes on refusing."""
    said = answer.response.get("ResponseMetadata", {}) if isinstance(answer, boto_errors.ClientError) else {}
    if int(said.get("HTTPStatusCode", 0)) >= 500:
        return ArtifactsUnavailable(f"{url}: S3 is in trouble: {error}")
    return Conflict(f"{url}: S3 refuses: {error}")


def _place(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key
