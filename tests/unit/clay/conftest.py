"""An authority of a company's own, for TLS between the client and a server of a test."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme


@dataclass
class Authority:
    """A company's authority, as networks that inspect TLS have one: `file` for the client, `tls`
    for the server.
    """

    file: str
    tls: ssl.SSLContext


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    company = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    company.cert_pem.write_to_path(tmp_path / "company.pem")
    company.issue_cert("127.0.0.1").configure_cert(tls)
    return Authority(str(tmp_path / "company.pem"), tls)
