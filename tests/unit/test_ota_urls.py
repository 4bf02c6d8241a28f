"""Where devices may be sent, and what logs may say about it."""

import pytest

from ota.urls import redacted, why_refused


@pytest.mark.parametrize(
    ("url", "hosts", "signed"),
    [
        ("https://files.example/2.4.1.bin", (), False),
        ("https://files.example/2.4.1.bin?X-Amz-Signature=ab%2F", (), True),
        ("https://FILES.example/x", ("files.EXAMPLE",), False),
        ("https://files.example:8443/x", ("files.example",), False),
        ("https://files.example:8443/x", ("files.example:8443",), False),
        ("https://files.example/x", ("files.example:443",), False),
        ("http://10.0.0.5:8080/x", ("10.0.0.5:8080",), True),
        ("http://files.example/x", ("files.example:80",), True),
        ("https://[fd00::1]:8443/x", ("[fd00::1]:8443",), False),
        ("https://[fd00::1]/x", ("[fd00::1]",), False),
    ],
)
def test_allowed(url: str, hosts: tuple[str, ...], signed: bool) -> None:
    assert why_refused(url, hosts, signed) is None


@pytest.mark.parametrize(
    ("url", "hosts", "signed", "words"),
    [
        ("http://files.example/x", (), True, "plain http"),
        ("http://files.example/x", ("files.example",), False, "plain http"),
        ("http://other.example/x", ("files.example",), True, "not in ota.allowed_hosts"),
        ("https://other.example/x", ("files.example",), True, "not in ota.allowed_hosts"),
        ("https://files.example.evil.example/x", ("files.example",), True, "not in ota.allowed_hosts"),
        ("https://evil.example/files.example", ("files.example",), True, "not in ota.allowed_hosts"),
        ("https://files.example:8443/x", ("files.example:443",), True, "not in ota.allowed_hosts"),
        ("https://files.example@evil.example/x", ("files.example",), True, "user name"),
        ("https://user:secret@files.example/x", (), True, "user name"),
        ("https://@files.example/x", (), True, "user name"),
        ("https://files.example\\@evil.example/x", (), True, "characters"),
        ("https://files.example/a b", (), True, "characters"),
        ("https://files.example/\n", (), True, "characters"),
        ("https://f\u00efles.example/x", (), True, "characters"),
        ("https:///x", (), True, "no https URL"),
        ("https://files.example:99999/x", (), True, "no https URL"),
        ("https://[fd00::1/x", (), True, "no https URL"),
        ("s3://bucket/x", (), True, "no https URL"),
        ("file:///srv/x", (), True, "no https URL"),
        ("ftp://files.example/x", ("files.example",), True, "no https URL"),
        ("", (), True, "no https URL"),
    ],
)
def test_refused(url: str, hosts: tuple[str, ...], signed: bool, words: str) -> None:
    problem = why_refused(url, hosts, signed)
    assert problem is not None
    assert words in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://files.example/x?X-Amz-Signature=abc#f", "https://files.example/x"),
        ("https://user:secret@files.example:8443/x?a=b", "https://files.example:8443/x"),
        ("s3://bucket/prefix/x", "s3://bucket/prefix/x"),
        ("file:///srv/x", "file:///srv/x"),
        ("https://[bad", "(a URL that cannot be read)"),
        ("secret", "(a URL that cannot be read)"),
    ],
)
def test_redacted(url: str, told: str) -> None:
    assert redacted(url) == told
