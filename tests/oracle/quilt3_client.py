"""Asks the real quilt3, which runs in a process of its own (``quilt3_worker.py``), and describes packages to both clients."""

import base64
import contextlib
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any

from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.workflows.config import Choice
from testbed.quilt3 import quilt3_environment
from testbed.server import S3Server

Meta = Mapping[str, Any]
Step = tuple[str, str, list[Any]]
"""A call of a method of quilt3's package, or of the part of it at a key: the key, the method, the arguments."""
LONG_AGO = 1_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A package that either client can make: the places of its files, metadata, a message.

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
    """An error of quilt3."""


class Quilt3:
    """The real quilt3.

    Registries are named as quilt3 takes them: ``s3://bucket``, or a local path.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self._lock = threading.Lock()

    def build(self, registry: str, package: str, spec: Spec, *directories: Directory, workflow: Choice = ...) -> str:
        """Build a package where its files are; return the top hash."""
        request = _request(spec, *directories)
        return self._call("build", registry=registry, package=package, spec=request, **_chosen(workflow))

    def push(
        self, registry: str, package: str, spec: Spec, *, force: bool = True, dedupe: bool = False, workflow: Choice = ...
    ) -> str:
        """Push a package; return the top hash."""
        options = {"force": force, "dedupe": dedupe, **_chosen(workflow)}
        return self._call("push", registry=registry, package=package, spec=_request(spec), **options)

    def publish(self, registry: str, package: str, spec: Spec) -> str:
        """Push a package, or build it where the registry is local, as the newest revision; return the top hash."""
        return self._call("publish", registry=registry, package=package, spec=_request(spec))

    def revise(
        self,
        registry: str,
        package: str,
        *steps: Step,
        top_hash: str | None = None,
        message: str | None = None,
        build: bool = False,
    ) -> str:
        """Change a revision and publish it; ``build`` builds it on S3 too. Return the top hash."""
        options = {"top_hash": top_hash, "message": message, "build": build}
        return self._call("revise", registry=registry, package=package, steps=steps, **options)

    def place(
        self,
        registry: str,
        package: str,
        made: Spec | str,
        *,
        select: str | None = None,
        dest: object = None,
        land: str | None = None,
    ) -> str:
        """Push a package, or the latest one of another registry, by functions of ``quilt3_worker.py`` or to a prefix.

        Return the top hash.
        """
        spec = made if isinstance(made, str) else _request(made)
        return self._call("place", registry=registry, package=package, spec=spec, select=select, dest=dest, land=land)

    def top_hash(self, spec: Spec) -> str:
        """Return the top hash that a package gets; nothing is written."""
        return self._call("top_hash", spec=_request(spec))

    def browse(self, registry: str, package: str, top_hash: str | None = None) -> dict[str, Any]:
        """Read a revision: its ``header``, the records of its ``entries``, and the ``top_hash`` computed from them."""
        return self._call("browse", registry=registry, package=package, top_hash=top_hash)

    def relay(self, manifest: str) -> dict[str, str]:
        """Read the text of a manifest; return the ``manifest`` that quilt3 writes for it, and its ``top_hash``."""
        return self._call("relay", manifest=manifest)

    def diff(self, registry: str, package: str, old: str, new: str) -> dict[str, list[str]]:
        """List the keys of entries that are ``added``, ``modified`` or ``deleted`` from one revision to another."""
        return self._call("diff", registry=registry, package=package, old=old, new=new)

    def read(self, registry: str, package: str, key: str) -> bytes:
        """Return the bytes of an entry, which quilt3 checks against its hash."""
        return base64.b64decode(self._call("read", registry=registry, package=package, key=key))

    def install(
        self, registry: str, package: str, directory: Path, *, top_hash: str | None = None, path: str | None = None
    ) -> None:
        """Download a revision, or a path of it, to a directory."""
        local = directory.with_name(directory.name + "-registry")
        options = {"directory": str(directory), "local_registry": str(local), "top_hash": top_hash, "path": path}
        self._call("install", registry=registry, package=package, **options)

    def verify(
        self, registry: str, package: str, directory: Path | str, *, top_hash: str | None = None, extra_files_ok: bool = False
    ) -> bool:
        """Whether a directory or prefix holds exactly a revision."""
        options = {"directory": str(directory), "top_hash": top_hash, "extra_files_ok": extra_files_ok}
        return self._call("verify", registry=registry, package=package, **options)

    def packages(self, registry: str) -> list[str]:
        """List the packages of a registry."""
        return self._call("packages", registry=registry)

    def pointers(self, registry: str, package: str) -> dict[str, str]:
        """Return the top hashes of a package's revisions by their unix seconds, and that of ``latest``."""
        return dict(self._call("revisions", registry=registry, package=package))

    def revisions(self, registry: str, package: str) -> list[str]:
        """List the top hashes of a package's history, newest first."""
        pointers = self.pointers(registry, package)
        return [pointers[stamp] for stamp in sorted(pointers.keys() - {"latest"}, reverse=True)]

    def latest(self, registry: str, package: str) -> str | None:
        """Return the top hash that ``latest`` holds, or None where there is no such package."""
        return self.pointers(registry, package).get("latest")

    def delete(self, registry: str, package: str, top_hash: str | None = None) -> None:
        """Delete a package, or a revision of it."""
        self._call("delete", registry=registry, package=package, top_hash=top_hash)

    def rollback(self, registry: str, package: str, top_hash: str) -> None:
        """Let ``latest`` be another revision."""
        self._call("rollback", registry=registry, package=package, top_hash=top_hash)

    def resolve(self, registry: str, package: str, prefix: str) -> str:
        """Return the top hash that begins with a prefix."""
        return self._call("resolve", registry=registry, package=package, prefix=prefix)

    def directory_keys(self, path: Path) -> list[str]:
        """List the logical keys that a directory becomes."""
        return self._call("directory_keys", path=str(path))

    def physical_key(self, text: str) -> dict[str, str | None]:
        """Read a physical key: its ``bucket``, ``key`` and ``version_id``, and the ``text`` that quilt3 prints for it."""
        return self._call("physical_key", text=text)

    def public_names(self) -> dict[str, list[str]]:
        """List quilt3's public functions and methods, by the place where they are."""
        return self._call("public_names")

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
    environment = quilt3_environment(s3, directory / "home")
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


def _chosen(workflow: Choice) -> dict[str, str | None]:
    """Return the workflow as JSON can carry it: without a choice there is no key."""
    return {} if isinstance(workflow, EllipsisType) else {"workflow": workflow}


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


@dataclass(frozen=True, slots=True)
class Manuscript:
    """A manifest of another writer: its header, and the records of directories and entries in their order."""

    header: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]

    @property
    def data(self) -> bytes:
        """The bytes of the manifest."""
        return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in (self.header, *self.records))

    @property
    def top_hash(self) -> str:
        """The top hash, computed by neither client."""
        counted = ({key: each[key] for key in ("hash", "logical_key", "meta", "size")} for each in self._entries())
        lines = (json.dumps(line, sort_keys=True, separators=(",", ":")) for line in (self.header, *counted))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        return (each for each in self.records if "physical_keys" in each)


def plant(registry: Registry, package: str, *manuscripts: Manuscript) -> list[str]:
    """Write revisions into a registry by hand, the last one as the latest, all long ago; return their top hashes."""
    for seconds, manuscript in enumerate(manuscripts, LONG_AGO):
        write(registry, f".quilt/packages/{manuscript.top_hash}", manuscript.data)
        for pointer in (str(seconds), "latest"):
            write(registry, f".quilt/named_packages/{package}/{pointer}", manuscript.top_hash.encode())
    return [manuscript.top_hash for manuscript in manuscripts]


def write(registry: Registry, relative: str, data: bytes) -> PhysicalKey:
    """Write a file of a registry; return where it is, at its version."""
    key = registry.location.root.join(relative)
    return registry.stores.of(key).put(key, data).key


def long_ago(registry: Registry) -> Registry:
    """Return a registry whose new revisions are older than any of quilt3, which lets each second have one."""
    return Registry(registry.location, registry.stores, clock=lambda: LONG_AGO)


def tree(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory by their relative paths."""
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
