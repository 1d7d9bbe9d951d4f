"""Asks the real quilt3, which runs in a process of its own (``quilt3_worker.py``), and describes packages to both clients."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_quilt.core.locations import RegistryLocation
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.publish import Draft
from airflow_quilt.core.registry import Registry
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3 import S3Storage
from testbed.server import S3Server

Meta = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A package that either client can make: where its files are, and what is said about it.

    Attributes:
        files: logical keys, and the path or URL of each.
        file_meta: user metadata of files, by logical key.
    """

    files: Mapping[str, str]
    file_meta: Mapping[str, Meta] = field(default_factory=dict)
    meta: Meta | None = None
    message: str | None = None

    def draft(self, package: str, **options: Any) -> Draft:
        """Return the package as our engine takes it."""
        entries = {
            key: {"path": where, "meta": self.file_meta[key]} if key in self.file_meta else where
            for key, where in self.files.items()
        }
        options.setdefault("allow_empty", not entries)
        return Draft(package=package, entries=entries, meta=self.meta, message=self.message, **options)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory or prefix that quilt3 packs with ``set_dir``; its metadata gets a line of its own in the manifest."""

    key: str
    path: str
    meta: Meta | None = None


class Quilt3Error(Exception):
    """What quilt3 raised."""


class Quilt3:
    """The real quilt3.

    Registries are named as quilt3 takes them: ``s3://bucket``, or a local path.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self._lock = threading.Lock()

    def build(self, registry: str, package: str, spec: Spec, *directories: Directory) -> str:
        """Build a package where its files are; return the top hash."""
        return self._call("build", registry=registry, package=package, spec=_request(spec, *directories))

    def push(self, registry: str, package: str, spec: Spec, *, force: bool = True, dedupe: bool = False) -> str:
        """Push a package; return the top hash."""
        return self._call("push", registry=registry, package=package, spec=_request(spec), force=force, dedupe=dedupe)

    def top_hash(self, spec: Spec) -> str:
        """Return the top hash that a package gets; nothing is written."""
        return self._call("top_hash", spec=_request(spec))

    def browse(self, registry: str, package: str, top_hash: str | None = None) -> dict[str, Any]:
        """Read a revision: its ``header``, the records of its ``entries``, and the ``top_hash`` computed from them."""
        return self._call("browse", registry=registry, package=package, top_hash=top_hash)

    def read(self, registry: str, package: str, key: str) -> bytes:
        """Return the bytes of an entry, which quilt3 checks against its hash."""
        return base64.b64decode(self._call("read", registry=registry, package=package, key=key))

    def install(self, registry: str, package: str, directory: Path) -> None:
        """Download the latest revision to a directory."""
        local = directory.with_name(directory.name + "-registry")
        self._call("install", registry=registry, package=package, directory=str(directory), local_registry=str(local))

    def verify(self, registry: str, package: str, directory: Path) -> bool:
        """Tell whether a directory holds exactly the latest revision."""
        return self._call("verify", registry=registry, package=package, directory=str(directory))

    def packages(self, registry: str) -> list[str]:
        """List the packages of a registry."""
        return self._call("packages", registry=registry)

    def revisions(self, registry: str, package: str) -> list[str]:
        """List the top hashes of a package's history, newest first."""
        pointers = dict(self._call("revisions", registry=registry, package=package))
        return [pointers[stamp] for stamp in sorted(pointers.keys() - {"latest"}, reverse=True)]

    def latest(self, registry: str, package: str) -> str | None:
        """Return the top hash that ``latest`` holds, or None where there is no such package."""
        return dict(self._call("revisions", registry=registry, package=package)).get("latest")

    def delete(self, registry: str, package: str, top_hash: str | None = None) -> None:
        """Delete a package, or a revision of it."""
        self._call("delete", registry=registry, package=package, top_hash=top_hash)

    def directory_keys(self, path: Path) -> list[str]:
        """List the logical keys that a directory becomes."""
        return self._call("directory_keys", path=str(path))

    def physical_key(self, text: str) -> dict[str, str | None]:
        """Read a physical key: its ``bucket``, ``key`` and ``version_id``, and the ``text`` that quilt3 prints for it."""
        return self._call("physical_key", text=text)

    def _call(self, command: str, **arguments: Any) -> Any:
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"quilt3 has ended; it said:\n{self._log.read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise Quilt3Error(f"{answer['error']}: {answer['message']}")
        return answer["result"]


@contextlib.contextmanager
def running_quilt3(directory: Path, s3: S3Server) -> Iterator[Quilt3]:
    """Run quilt3 with a home in ``directory`` and an S3 store until the block ends."""
    log = directory / "quilt3.log"
    homes = {name: str(directory / name) for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    environment = homes | {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "QUILT_DISABLE_USAGE_METRICS": "true",
        "QUILT_MINIMIZE_STDOUT": "true",
        "QUILT_DISABLE_CACHE": "true",
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.admin.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.admin.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for home in homes.values():
        Path(home).mkdir()
    command = [sys.executable, str(Path(__file__).with_name("quilt3_worker.py"))]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, encoding="utf-8"
        ) as process,
    ):
        try:
            yield Quilt3(process, log)
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.close()  # It ends when its input does.
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def _request(spec: Spec, *directories: Directory) -> dict[str, Any]:
    return {
        "directories": [{"key": each.key, "path": each.path, "meta": each.meta} for each in directories],
        "files": [{"key": key, "where": where, "meta": spec.file_meta.get(key)} for key, where in spec.files.items()],
        "meta": spec.meta,
        "message": spec.message,
    }


def s3_registry_in(s3: S3Server, bucket: str) -> Registry:
    """Return the registry in a bucket of the store, for our engine."""
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), Stores(LocalStorage(), S3Storage(s3.client())))


def place(directory: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Write files below a directory; return the path of each by its logical key."""
    paths = {key: directory / key for key in files}
    for key, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[key])
    return {key: str(path) for key, path in paths.items()}


def record(entry: Entry) -> dict[str, Any]:
    """Return an entry as the record that stands for it in a manifest."""
    return {
        "logical_key": entry.logical_key,
        "physical_keys": list(entry.physical_keys),
        "size": entry.size,
        "hash": {"type": entry.hash.type, "value": entry.hash.value},
        "meta": entry.meta,
    }
