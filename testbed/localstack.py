"""LocalStack's S3: a second implementation of the protocol, closer to Amazon's in its answers to copies.

It lives in a virtual environment of its own, which `make test` makes on Python 3.11, the only one that it is pinned for.
It has one user, accepts any secret, and enforces no policy: test no permissions with it.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from testbed.server import Identity, S3Server, free_ports, running

PYTHON: Final = Path(__file__).parent.parent / ".venv-localstack" / "bin" / "python"
_USER: Final = Identity("test", "test")


@contextlib.contextmanager
def localstack(directory: Path) -> Iterator[S3Server]:
    """Run a server that keeps its data in ``directory``, until the block ends or this process dies."""
    directory.mkdir(parents=True, exist_ok=True)
    [port] = free_ports(1)
    environment = {
        **os.environ,
        "GATEWAY_SERVER": "hypercorn",  # The default one listens on all addresses.
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "SERVICES": "s3",
        "STRICT_SERVICE_LOADING": "1",
        "EAGER_SERVICE_LOADING": "1",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
        "S3_SKIP_SIGNATURE_VALIDATION": "0",
        "FILESYSTEM_ROOT": str(directory),
        "TMPDIR": str(directory),
    }
    command = [str(PYTHON), "-m", "localstack.runtime.main"]
    with running(S3Server(f"http://127.0.0.1:{port}", _USER, _USER), command, directory / "server.log", environment) as server:
        yield server
