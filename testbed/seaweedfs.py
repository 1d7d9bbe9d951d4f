"""SeaweedFS: a real S3 store and STS in one process, on free ports of loopback, with credentials made at the start."""

import base64
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from testbed.server import Identity, Role, S3Server, free_ports, role_arn, running
from testbed.tls import loopback_certificate

_GRPC: Final = 10_000  # Every port of SeaweedFS has a second one, this much higher.
_PORTS: Final = ("master", "volume", "filer", "s3", "admin")
_HTTP_1: Final = {"GODEBUG": "http2server=0"}  # S3 speaks no HTTP/2, which puts all requests of a client on one connection.
_ROLES: Final[Mapping[Role, list[str]]] = {"writer": ["s3:*"], "reader": ["s3:Get*", "s3:List*"]}


@contextlib.contextmanager
def seaweedfs(directory: Path, *, tls: bool = False) -> Iterator[S3Server]:
    """Run a store that keeps its data in ``directory``, until the block ends or this process dies.

    Args:
        directory: it is made if it is not there.
        tls: it speaks TLS, with a certificate of its own for loopback.
    """
    directory.mkdir(parents=True, exist_ok=True)
    admin, reader = Identity.make(), Identity.make()
    _write_identities(directory / "s3.json", admin, reader)
    _write_roles(directory / "iam.json")
    ports = dict(zip(_PORTS, free_ports(len(_PORTS), _GRPC), strict=True))
    server = S3Server(f"{'https' if tls else 'http'}://127.0.0.1:{ports['s3']}", admin, reader)
    command = _command(directory, ports)
    if tls:
        certificate = loopback_certificate(directory / "tls")
        server = replace(server, ca_bundle=certificate.authority)
        command += [f"-s3.cert.file={certificate.chain}", f"-s3.key.file={certificate.chain}"]
    with running(server, command, directory / "weed.log", {**os.environ, **_HTTP_1}) as store:
        try:
            yield store
        finally:
            os.kill(store.process, signal.SIGKILL)  # Its data is thrown away, and an orderly stop takes up to ten seconds.


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
        f"-s3.iam.config={directory / 'iam.json'}",
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
    _write_secret(path, {"identities": identities})


def _write_roles(path: Path) -> None:
    anybody = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}
    roles = [
        {"roleName": role, "roleArn": role_arn(role), "trustPolicy": _policy(anybody), "attachedPolicies": [role]}
        for role in _ROLES
    ]
    policies = [
        {"name": role, "document": _policy({"Effect": "Allow", "Action": actions, "Resource": ["*"]})}
        for role, actions in _ROLES.items()
    ]
    sts = {
        "tokenDuration": "1h",
        "maxSessionLength": "12h",
        "issuer": "testbed",
        "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
    }
    _write_secret(
        path, {"sts": sts, "policy": {"defaultEffect": "Deny", "storeType": "memory"}, "roles": roles, "policies": policies}
    )


def _policy(statement: Mapping[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [statement]}


def _write_secret(path: Path, content: Mapping[str, Any]) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content), encoding="utf-8")
