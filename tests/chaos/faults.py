"""Pushes and installs through a proxy that lets requests go wrong, and the state of the store after each of them."""

import itertools
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage, client_config
from airflow_quilt.core.storage.stores import Stores
from testbed.faults import Fault, Kind, RandomFaults, without_conditions
from testbed.loopback import Request
from testbed.proxy import S3Proxy, running_proxy
from testbed.server import S3Server
from tests.core.packages import files_below

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PARTS: Final = 8 * 1024 * 1024 + 1
"""Bytes of an upload in two parts."""
READ_TIMEOUT: Final = 2.5
"""Seconds after which the product takes an answer for lost."""
RETRY: Final = RetryPolicy(seconds=60.0, shortest=0.1, longest=3.0)
DELAYS: Final = (0.1, 1.4)
"""Read timeouts that a delay lasts: one that a client bears, and one that it does not."""

R = TypeVar("R")

Files = Mapping[str, bytes]


def registry_at(store: S3Server, bucket: str, read_timeout: float = READ_TIMEOUT, retry: RetryPolicy = RETRY) -> Registry:
    """Return a registry whose client has the settings of the product, but gives up sooner."""
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=store.endpoint,
        region_name="us-east-1",
        aws_access_key_id=store.admin.access_key,
        aws_secret_access_key=store.admin.secret_key,
        config=client_config(Config(connect_timeout=2, read_timeout=read_timeout)),
    )
    stores = Stores(LocalStorage(), S3Storage(client, retry), retry)
    return Registry(RegistryLocation.parse(f"s3://{bucket}"), stores)


@dataclass(frozen=True)
class World:
    """A store, a registry's bucket in it, and one with sources; objects lie in both."""

    s3: S3Server
    bucket: str
    source: str

    @cached_property
    def client(self) -> "S3Client":
        """The client of the store past the product."""
        return self.s3.client()

    @cached_property
    def registry(self) -> Registry:
        """The registry, past all proxies."""
        return registry_at(self.s3, self.bucket)

    @cached_property
    def objects(self) -> Files:
        """Objects of both buckets, and their bytes."""
        chance = random.Random(0)  # noqa: S311
        data = {"small": chance.randbytes(700), "checked": chance.randbytes(9000), "large": chance.randbytes(PARTS)}
        for bucket in (self.bucket, self.source):
            for key, body in data.items():
                options: Any = {"ChecksumAlgorithm": "SHA256"} if key == "checked" else {}
                self.client.put_object(Bucket=bucket, Key=f"data/{key}", Body=body, **options)
        return data


@dataclass(frozen=True)
class Work:
    """A draft to push, and the files of the package after that."""

    draft: Draft
    files: Files


Make = Callable[[World, str, Path, random.Random, Files], Work]


def small_files(world: World, package: str, directory: Path, chance: random.Random, before: Files) -> Work:
    files = {f"files/{i}.bin": chance.randbytes(1 << (4 * i)) for i in range(4)}
    content = {"number": chance.random()}
    for key, data in files.items():
        (directory / key).parent.mkdir(parents=True, exist_ok=True)
        (directory / key).write_bytes(data)
    entries = {"files/": str(directory / "files"), "content.json": content, "content.txt": b"text"}
    return Work(Draft(package=package, entries=entries), {**files, "content.json": _json(content), "content.txt": b"text"})


def files_in_parts(world: World, package: str, directory: Path, chance: random.Random, before: Files) -> Work:
    data = chance.randbytes(PARTS)
    (directory / "large.bin").write_bytes(data)
    entries = {"large.bin": str(directory / "large.bin"), "content": data[::-1]}
    return Work(Draft(package=package, entries=entries), {"large.bin": data, "content": data[::-1]})


def copies(world: World, package: str, directory: Path, chance: random.Random, before: Files) -> Work:
    entries = {key: f"s3://{world.source}/data/{key}" for key in world.objects}
    return Work(Draft(package=package, entries=entries, message=str(chance.random())), world.objects)


def objects_in_place(world: World, package: str, directory: Path, chance: random.Random, before: Files) -> Work:
    entries = {key: f"s3://{world.bucket}/data/{key}" for key in world.objects}
    return Work(Draft(package=package, entries=entries, message=str(chance.random())), world.objects)


def update(world: World, package: str, directory: Path, chance: random.Random, before: Files) -> Work:
    number = chance.random()
    removed = sorted(before)[:1]
    draft = Draft(package=package, mode="update", entries={"update.json": number}, remove=removed, message="update")
    return Work(draft, {key: data for key, data in before.items() if key not in removed} | {"update.json": _json(number)})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


WORKS: Final = (small_files, files_in_parts, copies, objects_in_place, update)


@dataclass(frozen=True)
class Seen:
    """Visible state of a package: ``latest``, the history, and revisions not published yet, or never."""

    latest: str | None
    history: Mapping[int, str]
    pending: Mapping[int, str]


def look(world: World, package: str) -> Seen:
    """Read a package past the product."""
    prefix = f"{layout.NAMES}{package}/"
    listed = world.client.list_objects_v2(Bucket=world.bucket, Prefix=prefix).get("Contents", [])
    latest, history, pending = None, {}, {}
    for key in (item["Key"] for item in listed):
        there = world.client.get_object(Bucket=world.bucket, Key=key)
        top_hash, pointer = there["Body"].read().decode(), key.removeprefix(prefix)
        if pointer == layout.LATEST:
            latest = top_hash
        elif there["Metadata"].get("airflow-quilt", "").startswith("pending"):
            pending[int(pointer)] = top_hash
        else:
            history[int(pointer)] = top_hash
    return Seen(latest, history, pending)


@dataclass
class Tally:
    """Outcomes of pushes and installs.

    Attributes:
        pushed: pushes that returned, and all is right.
        failed: pushes that raised an error, and nothing shows; each was made again past the proxy.
        installed: installs that returned, and all is right.
        refused: installs that raised an error, and left nothing wrong.
        pending: pointers that a failed push left behind; no reader ever takes them for the latest revision.
        unknown: uploads in parts that stay open because the answer to their begin was lost.
        unaborted: those that stay open because their abort went wrong.
        destroyed: versions of objects that were destroyed.
        errors: how pushes and installs failed.
        faults: those of the proxy.
        wrong: violations.
    """

    pushed: int = 0
    failed: int = 0
    installed: int = 0
    refused: int = 0
    pending: int = 0
    unknown: int = 0
    unaborted: int = 0
    destroyed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[Kind] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        failures = ", ".join(f"{error} {count}" for error, count in self.errors.most_common())
        parts = [
            f"pushes: {self.pushed} right, {self.failed} failed cleanly",
            f"installs: {self.installed} right, {self.refused} failed cleanly",
            f"{len(self.wrong)} wrong",
            f"{self.faults.total()} faults ({kinds})",
            f"left behind: {self.pending} pending pointers, {self.unknown} uploads whose begin nobody heard of, {self.unaborted} others",
            *([f"{self.destroyed} versions destroyed"] if self.destroyed else []),
            f"{self.seconds:.1f} s",
        ]
        return "; ".join([*parts, *([f"errors: {failures}"] if failures else [])])


class Publisher:
    """Pushes one package and installs it, through a proxy, and checks the store past it.

    Args:
        world: where.
        package: ``namespace/name``, without other writers.
        proxy: the store, as the product sees it.
        directory: for files to push and to install.
        chance: decides the pushes.
        read_timeout: seconds after which the product takes an answer for lost.
        loses_versions: whether versions of objects are destroyed after each push that replaces the package, which is then made again.
    """

    def __init__(
        self,
        world: World,
        package: str,
        proxy: S3Proxy,
        directory: Path,
        chance: random.Random,
        read_timeout: float = READ_TIMEOUT,
        *,
        loses_versions: bool = False,
    ) -> None:
        self.tally = Tally()
        self.files: Files = {}
        self._world = world
        self.package = package
        self._proxy = proxy
        self._read_timeout = read_timeout
        self._loses_versions = loses_versions
        self._registry = registry_at(proxy.store, world.bucket, read_timeout)
        self._directory = directory
        self._chance = chance
        self._serial = itertools.count()

    def push(self, make: Make) -> None:
        """Push, and if that fails push again past the proxy, as the next attempt of the same work."""
        directory, wrong = self._new_directory(), len(self.tally.wrong)
        work = make(self._world, self.package, directory, self._chance, self.files)
        before, since, faults = look(self._world, self.package), time.time(), len(self._proxy.faults)
        published = self._try(lambda: push(self._registry, work.draft, attempt=Attempt(str(directory))))
        self._proxy.wait_until_idle()
        self._check_uploads(self._proxy.faults[faults:])
        if published is None:
            self._check_nothing_shows(before)
            again = push(self._world.registry, work.draft, attempt=Attempt(str(directory), since))
        self._check_published(before, published or again, work.files)
        self.files = work.files
        if self._loses_versions and work.draft.mode == "replace":
            self._push_again(work, since)
        self._abort_uploads()
        shutil.rmtree(directory)
        if len(self.tally.wrong) == wrong:
            self.tally.pushed += published is not None
            self.tally.failed += published is None

    def _push_again(self, work: Work, since: float) -> None:
        """Destroy versions that the package names, and push the same again: it must name objects that are there."""
        self.tally.destroyed += self._destroy_versions()
        attempt = Attempt(f"again at {time.time()}")
        again = self._try(lambda: push(self._registry, work.draft, attempt=attempt))
        self._proxy.wait_until_idle()
        again = again or push(self._world.registry, work.draft, attempt=Attempt(attempt.key, since))
        self._check(look(self._world, self.package).latest == again.top_hash, f"latest is not {again.top_hash}, pushed again")
        self._check_entries(again.top_hash, work.files)

    def _destroy_versions(self) -> int:
        """Destroy about half of the versions of the package's objects; return their number."""
        found = self._world.client.list_object_versions(Bucket=self._world.bucket, Prefix=f"{self.package}/")
        lost = [version for version in found.get("Versions", ()) if self._chance.random() < 0.5]
        for version in lost:
            self._world.s3.destroy(self._world.bucket, version["Key"], version["VersionId"])
        return len(lost)

    def check_history(self) -> None:
        """Check that all objects are there that the revisions of the package name, with the bytes of their hashes."""
        for top_hash in set(look(self._world, self.package).history.values()):
            for entry in self._world.registry.read(self.package, top_hash).entries:
                data = self._download(entry)
                is_whole = data is not None and hash_of(data) == entry.hash
                self._check(is_whole, f"{entry.physical_keys[0]} is not whole any more, as revision {top_hash} needs it")

    def install(self) -> None:
        """Install the last push."""
        target, wrong = self._new_directory(), len(self.tally.wrong)
        installed = self._try(lambda: install(self._registry, Reference(self.package), str(target)))
        found = files_below(target)
        if installed:
            self._check(found == self.files, f"an install brought {_described(found)} for {_described(self.files)}")
        else:
            self._check(found.items() <= self.files.items(), f"an install that failed left {_described(found)}")
        shutil.rmtree(target)
        if len(self.tally.wrong) == wrong:
            self.tally.installed += installed is not None
            self.tally.refused += installed is None

    def _new_directory(self) -> Path:
        directory = self._directory / f"{self.package.replace('/', '-')}-{next(self._serial)}"
        directory.mkdir()
        return directory

    def _try(self, work: Callable[[], R]) -> R | None:
        try:
            return work()
        except QuiltError as error:
            self.tally.errors[_named(error)] += 1
        except Exception as error:  # noqa: BLE001  (the point is that there is none)
            self._check(False, f"{type(error).__name__} is no QuiltError: {error}")  # noqa: FBT003
        return None

    def _check(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001
        if not holds:
            self.tally.wrong.append(f"{self.package}: {otherwise}")

    def _check_nothing_shows(self, before: Seen) -> None:
        after = look(self._world, self.package)
        self._check(after.latest == before.latest, f"a push that failed moved latest from {before.latest} to {after.latest}")
        self._check(after.history == before.history, "a push that failed changed the history")
        self.tally.pending += len(after.pending)

    def _check_uploads(self, faults: Sequence[tuple[Fault, Request]]) -> None:
        unknown = Counter(
            path_of(request) for fault, request in faults if is_begin(request) and loses_answer(fault, self._read_timeout)
        )
        unaborted = Counter(path_of(request) for _, request in faults if is_abort(request))
        still_open = Counter(f"/{self._world.bucket}/{key}" for key, _ in self._uploads())
        self.tally.unknown += (still_open & unknown).total()
        self.tally.unaborted += ((still_open - unknown) & unaborted).total()
        left = still_open - unknown - unaborted
        self._check(not left, f"uploads that could have been aborted are open: {dict(left)}")

    def _check_published(self, before: Seen, published: PublishResult, files: Files) -> None:
        after, stamp = look(self._world, self.package), published.revision.published_at.int_timestamp
        self._check(after.latest == published.top_hash, f"latest is {after.latest}, but {published.top_hash} was published")
        self._check(
            after.history == {**before.history, stamp: published.top_hash} and stamp not in before.history,
            f"the history was {before.history} and is {after.history}, where {stamp}: {published.top_hash} is new",
        )
        self._check(not after.pending, f"pointers are pending after a push that returned: {after.pending}")
        self._check_entries(published.top_hash, files)

    def _check_entries(self, top_hash: str, files: Files) -> None:
        entries = {entry.logical_key: entry for entry in self._world.registry.read(self.package, top_hash).entries}
        self._check(entries.keys() == files.keys(), f"a package of {sorted(files)} holds {sorted(entries)}")
        for key in entries.keys() & files.keys():
            entry = entries[key]
            self._check(entry.hash == hash_of(files[key]), f"entry {key!r} does not have the hash of its bytes")
            self._check(self._download(entry) == files[key], f"{entry.physical_keys[0]} does not hold the bytes of {key!r}")

    def _download(self, entry: Entry) -> bytes | None:
        key = PhysicalKey.parse(entry.physical_keys[0])
        where: Any = {"Bucket": key.bucket, "Key": key.key, "VersionId": key.version_id}
        try:
            return self._world.client.get_object(**where)["Body"].read()
        except ClientError:
            return None

    def _uploads(self) -> list[tuple[str, str]]:
        listed = self._world.client.list_multipart_uploads(Bucket=self._world.bucket, Prefix=f"{self.package}/")
        return [(upload["Key"], upload["UploadId"]) for upload in listed.get("Uploads", [])]

    def _abort_uploads(self) -> None:
        for key, upload in self._uploads():
            self._world.client.abort_multipart_upload(Bucket=self._world.bucket, Key=key, UploadId=upload)


def path_of(request: Request) -> str:
    return urlsplit(request.path).path


def is_begin(request: Request) -> bool:
    return request.method == "POST" and urlsplit(request.path).query == "uploads"


def is_abort(request: Request) -> bool:
    return request.method == "DELETE" and "uploadId=" in request.path


def loses_answer(fault: Fault, read_timeout: float) -> bool:
    """Whether the store carries out a request, and the client does not learn the outcome."""
    held_up = fault.kind == "delay" and fault.seconds > read_timeout
    return held_up or fault.kind in {"lose", "truncate"} or (fault.late and fault.kind in {"reset", "corrupt"})


def _named(error: QuiltError) -> str:
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return f"{type(error).__name__} ({cause.response['Error']['Code']} at {cause.operation_name})"
    return f"{type(error).__name__} ({type(cause).__name__})" if cause else type(error).__name__


def _described(files: Files) -> dict[str, str]:
    return {key: f"{len(data)} bytes, {hash_of(data).value}" for key, data in files.items()}


@dataclass(frozen=True)
class Weather:
    """The kinds of faults, their rate, the seed that decides them, and the kind of store.

    Attributes:
        kinds: of faults.
        rate: the share of requests with a fault.
        seed: decides them.
        read_timeout: seconds after which the product takes an answer for lost.
        store: ``"no conditions"`` answers conditional writes with 501; ``"lost versions"`` loses half of a package's versions
            after each push.
    """

    kinds: Sequence[Kind]
    rate: float
    seed: int = 0
    read_timeout: float = READ_TIMEOUT
    store: Literal["plain", "no conditions", "lost versions"] = "plain"


def publish_through(world: World, weather: Weather, directory: Path, workers: int, rounds: int) -> Tally:
    """Push and install, each worker a package of its own, through a proxy of its own."""
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        tallies = pool.map(lambda number: _work(world, weather, directory, number, rounds), range(workers))
        tally = sum(tallies, Tally())
    tally.seconds = time.monotonic() - began
    return tally


def no_fault(request: Request) -> Fault | None:
    return None


def _work(world: World, weather: Weather, directory: Path, number: int, rounds: int) -> Tally:
    kind = weather.kinds[0] if len(weather.kinds) == 1 else "mix"
    name = "-".join([weather.store.replace(" ", "-"), kind, f"{weather.rate:.0%}".rstrip("%"), str(number)])
    chance = random.Random(f"{weather.seed} {name}")  # noqa: S311
    delays = [delay * weather.read_timeout for delay in DELAYS]
    faults = RandomFaults(random.Random(chance.random()), weather.rate, weather.kinds, delays)  # noqa: S311
    with running_proxy(world.s3) as proxy:
        publisher = Publisher(
            world,
            f"faults/{name}",
            proxy,
            directory,
            chance,
            weather.read_timeout,
            loses_versions=weather.store == "lost versions",
        )
        first = chance.randrange(len(WORKS))
        refuses = without_conditions if weather.store == "no conditions" else no_fault
        with proxy.disturbed(lambda request: refuses(request) or faults(request)):
            for i in range(rounds):
                publisher.push(WORKS[(first + i) % len(WORKS)])
                publisher.install()
        if weather.store != "lost versions":
            publisher.check_history()
        publisher.tally.faults = proxy.count_faults()
    return publisher.tally
