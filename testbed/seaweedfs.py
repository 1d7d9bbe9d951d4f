"""SeaweedFS: a real S3 store in one process, on free ports of loopback, with credentials made at the start."""

import contextlib
import ctypes
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GRPC: Final = 10_000  # Every port of SeaweedFS has a second one, this much higher.
_PORTS: Final = ("master", "volume", "filer", "s3", "admin")
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 10
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the store."""

    access_key: str
    secret_key: str

    @classmethod
    def make(cls) -> "Identity":
        """Make a user whom nobody has seen before."""
        return cls("AK" + secrets.token_hex(9).upper(), secrets.token_hex(20))


@dataclass(frozen=True, slots=True)
class SeaweedFS:
    """A running store: the URL that S3 clients talk to, an administrator, and a user who may only read."""

    endpoint: str
    admin: Identity
    reader: Identity

    def client(self, identity: Identity | None = None) -> "S3Client":
        """Return a boto3 client, for the administrator unless another user is given."""
        who = identity or self.admin
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
            config=Config(max_pool_connections=32, retries={"mode": "standard", "total_max_attempts": 3}),
        )
        return client

    def make_bucket(self, name: str, *, versioned: bool = True) -> str:
        """Create a bucket and return its name."""
        client = self.client()
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name


@contextlib.contextmanager
def seaweedfs(directory: Path) -> Iterator[SeaweedFS]:
    """Run a store that keeps its data in ``directory``, until the block ends or this process dies."""
    directory.mkdir(parents=True, exist_ok=True)
    admin, reader = Identity.make(), Identity.make()
    _write_identities(directory / "s3.json", admin, reader)
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    log = directory / "weed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(_command(directory, ports), stdout=out, stderr=out, preexec_fn=_die_with_parent)  # noqa: PLW1509
    store = SeaweedFS(f"http://127.0.0.1:{ports['s3']}", admin, reader)
    try:
        _wait_until_up(store, process, log)
        yield store
    finally:
        _stop(process)


def _command(directory: Path, ports: dict[str, int]) -> list[str]:
    # Without -ip and -ip.bind it listens on all addresses; without the bucket flags a PUT creates a missing bucket.
    return [
        str(Path(sys.executable).with_name("weed")),
        "-logtostderr=true",
        "mini",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        f"-s3.config={directory / 's3.json'}",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-master.telemetry=false",
        "-volume.max=10000",  # Each bucket takes volumes of its own; the default is full after some 70 buckets.
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def _write_identities(path: Path, admin: Identity, reader: Identity) -> None:
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": who.access_key, "secretKey": who.secret_key}],
            "actions": actions,
        }
        for name, who, actions in (
            ("admin", admin, ["Admin", "Read", "List", "Tagging", "Write"]),
            ("reader", reader, ["Read", "List"]),
        )
    ]
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": identities}), encoding="utf-8")


def _free_ports(count: int) -> list[int]:
    """Find ports that are free together with the ones 10,000 above them."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = 20_000 + secrets.randbelow(20_000)
            with contextlib.suppress(OSError):
                for number in (port, port + _GRPC):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
                ports.append(port)
    return ports


def _wait_until_up(store: SeaweedFS, process: "subprocess.Popen[bytes]", log: Path) -> None:
    client = store.client()
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.list_buckets()
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start; {log} ends with:\n{log.read_text()[-2000:]}") from error
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
    """Let Linux stop the server when this process is killed, and keep Ctrl-C for this process alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
