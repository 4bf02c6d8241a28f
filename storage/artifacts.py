"""Firmware files where they lie: in S3, or in a directory that a web server of the site's own gives out.

The daemon only makes URLs here, without a word over the network. People's commands write files, and read them back.
"""

import re
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from botocore import exceptions as boto_errors

from config.ota_settings import OtaSettings
from ota.catalogue import Address, NoAddress
from ota.firmware import Version
from ota.urls import redacted
from storage.objects import (
    CHUNK_BYTES,
    Content,
    Progress,
    content_of,
    copy_whole,
    digest,
    open_s3,
    place,
    s3_client,
    upload_to_s3,
)
from storage.refusals import InvalidInput, NotFound

SAME_URL_S = 60.0
"""A rollout's devices share a presigned URL for so long, or half its life: making one costs a millisecond of our time."""
ODD = re.compile(r"[^A-Za-z0-9._-]+")


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
            StoreUnavailable: try again.
            Conflict: the store refuses it.
        """
        content = content_of(path)
        if content.size_bytes == 0:
            raise InvalidInput(f"{path} is empty")
        plain = PurePosixPath(ODD.sub("_", name))
        stored = f"{plain.stem}-{content.sha256[:12]}{plain.suffix}"
        match urlsplit(self._root).scheme:
            case "s3":
                url = f"{self._root}/{stored}"
                with open_s3(url, self._settings.s3_endpoint_url) as client:
                    upload_to_s3(client, path, url, progress)
            case "file":
                copy_whole(path, Path(unquote(urlsplit(self._root).path)) / stored, progress)
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
            StoreUnavailable: try again.
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
        with open_s3(firmware_url, self._settings.s3_endpoint_url) as client:
            bucket, key = place(firmware_url)
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
        bucket, key = place(url)
        try:
            self._signer = self._signer or s3_client(self._settings.s3_endpoint_url)
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
