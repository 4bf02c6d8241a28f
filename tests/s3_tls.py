"""An S3 server with TLS: rclone's, on a directory. pgBackRest speaks to no S3 server without TLS."""

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from factoryd.embedded.directory import free_port
from tests.backup_plant import until
from tests.servers import _listens

ACCESS, SECRET, BUCKET = "AKIDEXAMPLE", "wJalrXUtnFEMI", "bucket"
DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TlsS3:
    """Where it is, and whom to trust."""

    port: int
    ca_file: Path
    objects: Path


@contextmanager
def tls_s3(directory: Path) -> Iterator[TlsS3]:
    """Runs it, with one empty bucket."""
    server = TlsS3(free_port(), directory / "ca.crt", directory / "objects" / BUCKET)
    server.objects.mkdir(parents=True)
    _certify(directory)
    rclone = Path(sys.prefix) / "bin" / "rclone"
    command = [
        str(rclone),
        "serve",
        "s3",
        "--config",
        "",
        "--addr",
        f"127.0.0.1:{server.port}",
        "--auth-key",
        f"{ACCESS},{SECRET}",
    ]
    files = ["--cert", str(directory / "server.crt"), "--key", str(directory / "server.key"), str(server.objects.parent)]
    with (directory / "rclone.log").open("wb") as log:
        process = subprocess.Popen([*command, *files], stdout=log, stderr=log)
        try:
            until(lambda: _listens(server.port), (directory / "rclone.log").read_text)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _certify(directory: Path) -> None:
    """Writes a CA, and what it has certified of localhost."""
    now, ca_key, key = dt.datetime.now(dt.UTC), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("CA of a test", "localhost"))
    builder = x509.CertificateBuilder().issuer_name(ca_name).not_valid_before(now - DAY).not_valid_after(now + DAY)
    ca = (
        builder.subject_name(ca_name)
        .serial_number(x509.random_serial_number())
        .public_key(ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    alternatives = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    server = (
        builder.subject_name(name)
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .add_extension(alternatives, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (directory / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    unencrypted = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    (directory / "server.key").write_bytes(pem)
