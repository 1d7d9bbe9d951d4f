"""Real storages, wrapped so that a test sees every call and decides its outcome."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Final, Literal, Protocol, TypeVar

from airflow_quilt.core.errors import StorageUnavailableError
from airflow_quilt.core.format.hashes import StoreAlgorithm
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.retry import NO_RETRY
from airflow_quilt.core.storage.base import FileStore, MultipartUpload, ObjectStore, PartialFile, Storage
from airflow_quilt.core.storage.memory import MemoryStorage, MemoryUpload
from airflow_quilt.core.storage.objects import ObjectInfo, StoredObject, WriteMode
from airflow_quilt.core.storage.stores import Stores

T = TypeVar("T")

WRITES: Final = frozenset(
    {"put", "delete", "upload", "copy", "begin", "send part", "copy part", "create", "write part", "complete", "abort"}
)
"""The operations that change a store."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a storage; ``number`` counts parts from 1, ``size`` is that of the requested read or part."""

    operation: str
    key: PhysicalKey
    number: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"{self.operation} {self.key}" + (f" #{self.number}" if self.number else "")


class Tap(Protocol):
    """An interceptor of the calls of a storage."""

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        """Let a call happen, or not."""
        ...


class Recorder:
    """Writes down the calls in the order in which they began, the bytes they brought, and how many ran at a time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.bytes_read = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        with self._lock:
            self.calls.append(call)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = run()
        finally:
            with self._lock:
                self._at_once -= 1
        if isinstance(answer, list) and call.operation == "stream":
            with self._lock:
                self.bytes_read += sum(map(len, answer))
        return answer

    @property
    def writes(self) -> list[Call]:
        """The calls that change a store."""
        return [call for call in self.calls if call.operation in WRITES]

    def of(self, *operations: str) -> list[Call]:
        """Return the calls of some operations."""
        return [call for call in self.calls if call.operation in operations]


FaultMode = Literal["before", "after", "killed before", "killed after", "repeated"]


class Fault:
    """Strikes at one call, counted from 1 over all storages that share it.

    Args:
        at: the number of the call.
        mode: ``"before"`` fails it without effect, ``"after"`` fails it though it took effect, ``"killed …"`` fails all
            later calls as well, ``"repeated"`` does it twice, as a client does whose first answer was lost.
        among: counts only these operations.
    """

    def __init__(self, at: int, mode: FaultMode = "before", among: Callable[[Call], bool] = lambda _call: True) -> None:
        self.struck: Call | None = None
        self._at = at
        self._mode = mode
        self._among = among
        self._seen = 0
        self._lock = threading.Lock()

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        with self._lock:
            self._seen += self._among(call)
            strikes = self._seen == self._at and self.struck is None
            dead = self.struck is not None and self._mode.startswith("killed")
            if strikes:
                self.struck = call
        if dead:
            raise StorageUnavailableError("the process is gone", str(call.key))
        if not strikes:
            return run()
        if self._mode == "repeated":
            run()
            return run()
        if self._mode.endswith("after"):
            with contextlib.suppress(Exception):  # Its own refusal is lost on the way as well.
                run()
        raise StorageUnavailableError(f"fault at call {self._at} ({self._mode}): {call}", str(call.key))


class Before:
    """Does something once, before the first call that matches."""

    def __init__(self, matches: Callable[[Call], bool], action: Callable[[], object]) -> None:
        self.done = False
        self._matches = matches
        self._action = action
        self._lock = threading.Lock()

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        with self._lock:
            due = not self.done and self._matches(call)
            self.done = self.done or due
        if due:
            self._action()
        return run()


class Chain:
    """Several taps, the first one outermost."""

    def __init__(self, *taps: Tap) -> None:
        self._taps = taps

    def __call__(self, call: Call, run: Callable[[], T]) -> T:
        for tap in reversed(self._taps):
            run = _bound(tap, call, run)
        return run()


def _bound(tap: Tap, call: Call, run: Callable[[], T]) -> Callable[[], T]:
    return lambda: tap(call, run)


def is_put_of(suffix: str) -> Callable[[Call], bool]:
    """Return a predicate: a ``put`` of a key that ends in ``suffix``."""
    return lambda call: call.operation == "put" and call.key.key.endswith(suffix)


class TappedStorage:
    """A storage whose calls go through a tap; deleting several objects is one call for each."""

    def __init__(self, storage: Storage, tap: Tap) -> None:
        self._storage = storage
        self._tap = tap

    def get(self, key: PhysicalKey, most: int | None = None) -> StoredObject:
        return self._tap(Call("get", key), lambda: self._storage.get(key, most))

    def stream(self, key: PhysicalKey, start: int, stop: int) -> Iterator[bytes]:
        call = Call("stream", key, size=stop - start)
        return iter(self._tap(call, lambda: list(self._storage.stream(key, start, stop))))

    def put(
        self, key: PhysicalKey, body: bytes | IO[bytes], mode: WriteMode = "overwrite", writer_tag: str | None = None
    ) -> ObjectInfo:
        if not isinstance(body, bytes):
            body.seek(0)
        data = body if isinstance(body, bytes) else body.read()
        return self._tap(Call("put", key, size=len(data)), lambda: self._storage.put(key, data, mode, writer_tag))

    def supports_conditional_writes(self, key: PhysicalKey, data: bytes) -> bool:
        return self._tap(Call("conditions", key), lambda: self._storage.supports_conditional_writes(key, data))

    def stat(self, key: PhysicalKey) -> ObjectInfo:
        return self._tap(Call("stat", key), lambda: self._storage.stat(key))

    def list_objects(self, prefix: PhysicalKey, after: str = "") -> Iterator[ObjectInfo]:
        return iter(self._tap(Call("scan", prefix), lambda: list(self._storage.list_objects(prefix, after))))

    def list_names(self, prefix: PhysicalKey) -> Iterator[str]:
        return iter(self._tap(Call("names", prefix), lambda: list(self._storage.list_names(prefix))))

    def remove_directory(self, prefix: PhysicalKey) -> bool:
        return self._storage.remove_directory(prefix)  # No request; a disk is tapped below.

    def delete(self, keys: Sequence[PhysicalKey]) -> None:
        for key in keys:
            self._delete_one(key)

    def _delete_one(self, key: PhysicalKey) -> None:
        self._tap(Call("delete", key), lambda: self._storage.delete([key]))


class TappedFileStore(TappedStorage):
    """A store of files whose calls, and those of its files that are written in parts, go through a tap."""

    def __init__(self, store: FileStore, tap: Tap) -> None:
        super().__init__(store, tap)
        self._store = store

    def remove_directory(self, prefix: PhysicalKey) -> bool:
        return self._tap(Call("remove directory", prefix), lambda: self._store.remove_directory(prefix))

    def stat(self, key: PhysicalKey, *, follow: bool = True) -> ObjectInfo:
        return self._tap(Call("stat", key), lambda: self._store.stat(key, follow=follow))

    def list_items(self, prefix: PhysicalKey) -> Iterator[str]:
        return iter(self._tap(Call("scan", prefix), lambda: list(self._store.list_items(prefix))))

    def forget_directories(self) -> None:
        self._store.forget_directories()

    def create(self, key: PhysicalKey, size: int) -> PartialFile:
        return TappedFile(key, self._tap(Call("create", key, size=size), lambda: self._store.create(key, size)), self._tap)


class TappedFile:
    """A file that is written in parts, whose calls go through a tap; a part has been read when its call begins."""

    def __init__(self, key: PhysicalKey, file: PartialFile, tap: Tap) -> None:
        self._key = key
        self._file = file
        self._tap = tap

    def write(self, start: int, chunks: Iterable[bytes]) -> None:
        data = list(chunks)
        return self._tap(Call("write part", self._key, size=sum(map(len, data))), lambda: self._file.write(start, data))

    def complete(self) -> None:
        return self._tap(Call("complete", self._key), self._file.complete)

    def abort(self) -> None:
        return self._tap(Call("abort", self._key), self._file.abort)


class TappedObjectStore(TappedStorage):
    """An object store whose calls, and those of its uploads in parts, go through a tap."""

    def __init__(self, store: ObjectStore, tap: Tap) -> None:
        super().__init__(store, tap)
        self._store = store

    @property
    def is_tls(self) -> bool:
        return self._store.is_tls

    def list_versions(self, prefix: PhysicalKey, most: int | None = None) -> Iterator[ObjectInfo]:
        return iter(self._tap(Call("scan", prefix), lambda: list(self._store.list_versions(prefix, most))))

    def part_sizes(self, stat: ObjectInfo) -> Sequence[int]:
        return self._tap(Call("parts", stat.key), lambda: self._store.part_sizes(stat))

    def keeps_versions(self, key: PhysicalKey) -> bool:
        return self._tap(Call("versions", key), lambda: self._store.keeps_versions(key))

    def upload(self, key: PhysicalKey, data: bytes, digest: bytes, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        return self._tap(Call("upload", key, size=len(data)), lambda: self._store.upload(key, data, digest, algorithm))

    def copy(self, source: ObjectInfo, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> ObjectInfo:
        return self._tap(Call("copy", key, size=source.size), lambda: self._store.copy(source, key, algorithm))

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> MultipartUpload:
        return TappedUpload(key, self._tap(Call("begin", key), lambda: self._store.begin(key, algorithm)), self._tap)

    def unfinished(self, key: PhysicalKey, since: float, algorithm: StoreAlgorithm = "SHA256") -> Sequence[MultipartUpload]:
        found = self._tap(Call("unfinished", key), lambda: self._store.unfinished(key, since, algorithm))
        return [TappedUpload(key, upload, self._tap) for upload in found]


class TappedUpload:
    """An upload in parts whose calls go through a tap."""

    def __init__(self, key: PhysicalKey, upload: MultipartUpload, tap: Tap) -> None:
        self._key = key
        self._upload = upload
        self._tap = tap

    def has(self, number: int, data: bytes, digest: bytes) -> bool:
        return self._upload.has(number, data, digest)  # No request: the parts were listed with the upload.

    def arrived(self, number: int, size: int) -> bytes | None:
        return self._upload.arrived(number, size)

    def send(self, number: int, data: bytes, digest: bytes) -> None:
        call = Call("send part", self._key, number, len(data))
        return self._tap(call, lambda: self._upload.send(number, data, digest))

    def copy(self, number: int, source: ObjectInfo, start: int, stop: int) -> bytes | None:
        call = Call("copy part", self._key, number, stop - start)
        return self._tap(call, lambda: self._upload.copy(number, source, start, stop))

    def complete(self) -> ObjectInfo:
        return self._tap(Call("complete", self._key), self._upload.complete)

    def abort(self) -> None:
        return self._tap(Call("abort", self._key), self._upload.abort)


def tapped(stores: Stores, *taps: Tap) -> Stores:
    """Return the same stores with every call going through the taps, and without retries."""
    tap = Chain(*taps)
    local, remote = TappedFileStore(stores.local, tap), TappedObjectStore(stores.remote, tap)
    return replace(stores, local=local, remote=remote, retry=NO_RETRY)


class SilentStorage(MemoryStorage):
    """A store that neither keeps nor reports checksums, of objects or of copied parts."""

    def store(
        self,
        key: PhysicalKey,
        data: bytes,
        mode: WriteMode = "overwrite",
        checksums: Mapping[StoreAlgorithm, str] | None = None,  # noqa: ARG002
        writer_tag: str | None = None,
    ) -> ObjectInfo:
        return super().store(key, data, mode, writer_tag=writer_tag)

    def begin(self, key: PhysicalKey, algorithm: StoreAlgorithm = "SHA256") -> MemoryUpload:
        self.uploads.append(upload := _SilentUpload(self, key, algorithm))
        return upload


class _SilentUpload(MemoryUpload):
    def copy(self, number: int, source: ObjectInfo, start: int, stop: int) -> bytes | None:
        super().copy(number, source, start, stop)
        return None

    def arrived(self, number: int, size: int) -> bytes | None:  # noqa: ARG002
        return None


def objects(store: MemoryStorage, *buckets: str) -> dict[str, bytes]:
    """Return the objects of some buckets: each current object's URL, at its version, and its bytes."""
    found = [stat.key for bucket in buckets for stat in store.list_versions(PhysicalKey(bucket, ""))]
    return {str(key): store.get(key).data for key in found}
