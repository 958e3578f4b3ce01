import ssl
import subprocess
from pathlib import Path

import pytest

from tests.servers.fixtures import own_redis as own_redis
from tests.servers.fixtures import redis70 as redis70
from tests.servers.fixtures import redis82 as redis82
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey_cluster as valkey_cluster


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for this machine and its key, signed by itself."""
    place = tmp_path_factory.mktemp("tls")
    wanted = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run([*made, *wanted], cwd=place, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not found here")
    return place / "cert.pem"


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS; the wheels' servers cannot, so a proxy does it for them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context
