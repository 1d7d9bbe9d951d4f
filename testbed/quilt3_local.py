"""quilt3-local: Quilt's own catalog and registry, for the one user whose AWS credentials it runs with.

It lives in a virtual environment of its own, which `make test` makes on Python 3.11, the last one that it supports. It needs
no password: test no refused logins with it. Its pages of a package, apart from the list of revisions, need S3 Select, which the
store lacks.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import requests

from testbed.loopback import Exchange, LoopbackServer
from testbed.server import Identity, S3Server, TemporaryCredentials, free_ports, running_process

PYTHON: Final = Path(__file__).parent.parent / ".venv-quilt3-local" / "bin" / "python"
_CALL_SECONDS: Final = 10
_STS_ANSWER: Final = """\
<GetSessionTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetSessionTokenResult><Credentials>
<AccessKeyId>{0.access_key}</AccessKeyId><SecretAccessKey>{0.secret_key}</SecretAccessKey>
<SessionToken>{0.session_token}</SessionToken><Expiration>{0.expiration:%Y-%m-%dT%H:%M:%SZ}</Expiration>
</Credentials></GetSessionTokenResult></GetSessionTokenResponse>"""


@contextlib.contextmanager
def quilt3_local(directory: Path, store: S3Server, make: Callable[[], TemporaryCredentials]) -> Iterator[str]:
    """Run a catalog whose user is the store's administrator, until the block ends or this process dies; yields its URL.

    A login gets temporary credentials of STS. The store's STS lacks ``GetSessionToken``, so a server on loopback answers
    that, with the credentials that ``make`` returns.
    """

    def respond(exchange: Exchange) -> None:
        known = b"Action=GetSessionToken" in b"".join(exchange.body())
        answer = _STS_ANSWER.format(make()) if known else ""
        exchange.answer(200 if known else 400, {"Content-Type": "text/xml"}, answer.encode())

    sts = LoopbackServer()
    with sts.serving(respond), _running(directory, store, store.admin, sts.url) as url:
        yield url


@contextlib.contextmanager
def quilt3_local_with(directory: Path, store: S3Server, credentials: TemporaryCredentials) -> Iterator[str]:
    """Run a catalog with temporary credentials, which it returns without their expiry; yields its URL."""
    with _running(directory, store, credentials, store.endpoint) as url:
        yield url


@contextlib.contextmanager
def _running(directory: Path, store: S3Server, who: Identity | TemporaryCredentials, sts: str) -> Iterator[str]:
    directory.mkdir(parents=True, exist_ok=True)
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "HOME": str(directory),  # There may be a configuration of AWS in the user's.
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_ENDPOINT_URL_STS": sts,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": who.access_key,
        "AWS_SECRET_ACCESS_KEY": who.secret_key,
    }
    if isinstance(who, TemporaryCredentials):
        environment["AWS_SESSION_TOKEN"] = who.session_token
    command = [str(PYTHON), "-m", "uvicorn", "quilt3_local.main:app", "--host", "127.0.0.1", "--port", str(port)]

    def probe() -> None:
        requests.get(f"{url}/config.json", timeout=_CALL_SECONDS).raise_for_status()

    with running_process(command, directory / "server.log", probe, (requests.RequestException,), environment):
        yield url
