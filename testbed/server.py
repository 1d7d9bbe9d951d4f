"""The common parts of the S3 servers: users, free ports, start and stop."""

import contextlib
import ctypes
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Role = Literal["writer", "reader"]
"""Who may do everything on S3, and who may only read."""

_REGION: Final = "us-east-1"
_FIRST_PORT: Final = 20_000
_EPHEMERAL: Final = 32_768
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 10
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of a server."""

    access_key: str
    secret_key: str

    @classmethod
    def make(cls) -> "Identity":
        """Make a user with a new name and secret."""
        return cls("AK" + secrets.token_hex(9).upper(), secrets.token_hex(20))


@dataclass(frozen=True, slots=True)
class TemporaryCredentials:
    """Temporary credentials of STS; ``expiration`` is an aware time."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: datetime


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server: its S3 endpoint, an administrator, a user with read access only, its process id, and its CA's bundle."""

    endpoint: str
    admin: Identity
    reader: Identity
    process: int = 0
    ca_bundle: Path | None = None

    def client(self, identity: Identity | TemporaryCredentials | None = None) -> "S3Client":
        """Return a boto3 client, for the administrator unless another user is given."""
        who = identity or self.admin
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=_REGION,
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
            aws_session_token=who.session_token if isinstance(who, TemporaryCredentials) else None,
            verify=str(self.ca_bundle) if self.ca_bundle else None,
            config=Config(max_pool_connections=32, retries={"mode": "standard", "total_max_attempts": 3}),
        )
        return client

    def assume(self, role: Role, seconds: int = 900) -> TemporaryCredentials:
        """Ask STS for the credentials of a role, for 15 minutes to 12 hours; safe to use from several threads."""
        sts = boto3.session.Session().client(
            "sts",
            endpoint_url=self.endpoint,
            region_name=_REGION,
            aws_access_key_id=self.admin.access_key,
            aws_secret_access_key=self.admin.secret_key,
            verify=str(self.ca_bundle) if self.ca_bundle else None,
        )
        answer = sts.assume_role(RoleArn=role_arn(role), RoleSessionName="testbed", DurationSeconds=seconds)["Credentials"]
        return TemporaryCredentials(
            answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"], answer["Expiration"]
        )

    def make_bucket(self, name: str, *, versioned: bool = True) -> str:
        """Create a bucket and return its name."""
        self.client().create_bucket(Bucket=name)
        if versioned:
            self.set_versioning(name, "Enabled")
        return name

    def set_versioning(self, bucket: str, status: Literal["Enabled", "Suspended"]) -> None:
        """Let a bucket keep versions from now on, or suspend that; the objects from before have the version ``null``."""
        self.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})

    def destroy(self, bucket: str, key: str, version_id: str) -> None:
        """Delete a version of an object for good, as a lifecycle rule does."""
        self.client().delete_object(Bucket=bucket, Key=key, VersionId=version_id)


def role_arn(role: Role) -> str:
    """Return the name of a role in the store."""
    return f"arn:aws:iam::000000000000:role/{role}"


@contextlib.contextmanager
def running(
    server: S3Server, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[S3Server]:
    """Run an S3 server until the block ends or this process dies; its output goes to ``log``."""
    client = server.client()
    with running_process(command, log, client.list_buckets, (BotoCoreError, ClientError), environment) as process:
        yield replace(server, process=process)


@contextlib.contextmanager
def running_process(
    command: Sequence[str],
    log: Path,
    probe: Callable[[], object],
    not_yet: tuple[type[Exception], ...],
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run any server, likewise, and return its process id; it is up when ``probe`` raises none of ``not_yet``."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, preexec_fn=_die_with_parent)  # noqa: PLW1509
    try:
        _wait_until_up(probe, not_yet, process, log)
        yield process.pid
    finally:
        _stop(process)


def free_ports(count: int, companion: int = 0) -> list[int]:
    """Find ports of loopback that are free, each together with the one that is ``companion`` above it.

    All are below those that Linux gives to outgoing connections, which could take one before its server starts. No other
    process that asks here gets them while this one lives, since it may start its server first: the UDP ports of the same
    numbers, which none of the servers uses, say that they are taken.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _FIRST_PORT + secrets.randbelow(_EPHEMERAL - _FIRST_PORT - companion)
        if all(_take(number) for number in {port, port + companion}):
            ports.append(port)
    return ports


def _take(port: int) -> bool:
    """Take a port for this process if it is free."""
    taken = socket.socket(type=socket.SOCK_DGRAM)
    with contextlib.suppress(OSError), socket.socket() as server:
        taken.bind(("127.0.0.1", port))
        server.bind(("127.0.0.1", port))
        taken.detach()  # It stays open until the process ends.
        return True
    taken.close()
    return False


def _wait_until_up(
    probe: Callable[[], object], not_yet: tuple[type[Exception], ...], process: "subprocess.Popen[bytes]", log: Path
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            probe()
        except not_yet as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start; {log} ends with:\n{log.read_text()[-2000:]}") from error
            time.sleep(0.1)
        else:
            return


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    """Make Linux stop the server when this process is killed, and keep Ctrl-C for this process alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
