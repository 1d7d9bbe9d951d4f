"""One of many writers of a package: the core, and the interface that it shares with other clients beside it."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import PackageNotFoundError, QuiltError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import Identity, S3Server

Style = Literal["fail", "rebase", "overwrite"]
"""How a revision is made: it replaces the latest one and fails where that moved, adds one file to it, or replaces anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A package with many writers, and a directory for their sources and their journals.

    Attributes:
        location: of the registry: ``s3://`` and a bucket, or a directory.
    """

    location: str
    package: str
    directory: str
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def is_local(self) -> bool:
        return not self.location.startswith("s3://")

    def server(self) -> S3Server:
        """Return the store as other processes see it."""
        admin = Identity(self.access_key, self.secret_key)
        return S3Server(self.endpoint, admin, admin)

    def stores(self) -> Stores:
        return Stores(LocalStorage(), S3Storage(self.server().client()))

    def registry(self, stores: Stores | None = None, clock: Callable[[], float] = time.time) -> Registry:
        return Registry(resolve_registry(self.location), stores or self.stores(), clock=clock)

    @property
    def name(self) -> PackageName:
        return PackageName.parse(self.package)

    def source(self, work: str) -> Path:
        """Write the file that a piece of work publishes."""
        path = Path(self.directory, "sources", f"{work}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}")
        own.write_text(work)
        with contextlib.suppress(FileExistsError):  # Another process does the same work.
            path.hardlink_to(own)
        own.unlink()
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A revision to be.

    Attributes:
        work: a name for this piece of work and no other; it is the message of the revision.
        since: on a retry, the begin of the first attempt.
    """

    work: str
    style: Style
    since: float | None = None

    @property
    def logical_key(self) -> str:
        return own_key(self.work) if self.style == "rebase" else "data.txt"


def own_key(work: str) -> str:
    """Return the logical key that a piece of work adds to a package."""
    return f"{work}.txt"


class AgainError(Exception):
    """It may be tried again."""


class GoneError(Exception):
    """The revision to be deleted or to be the latest one is not there."""


class Client(Protocol):
    """A writer of packages."""

    def publish(self, what: Push) -> tuple[int | None, str]:
        """Publish a revision; return its second, if the client reports it, and its top hash.

        Raises:
            AgainError: nothing was published.
        """
        ...

    def delete(self, top_hash: str) -> None:
        """Delete a revision.

        Raises:
            AgainError: it was not deleted for now.
            GoneError: there is none.
        """
        ...

    def roll_back(self, top_hash: str) -> None:
        """Make a revision the latest one again; raises as :meth:`delete`."""
        ...

    def history(self) -> list[str]:
        """List the top hashes of the history, newest first."""
        ...

    def latest(self) -> str | None:
        """Read the hash in ``latest``."""
        ...


class Ours:
    """The core."""

    def __init__(self, place: Place, stores: Stores | None = None, clock: Callable[[], float] = time.time) -> None:
        self._place = place
        self._registry = place.registry(stores, clock)

    def publish(self, what: Push) -> tuple[int | None, str]:
        attempt = Attempt(what.work, what.since)
        with _told():
            if self._place.is_local:
                made = build(self._registry, self._draft(what, str(self._place.source(what.work))), attempt=attempt)
            else:
                made = push(self._registry, self._draft(what, what.work.encode()), attempt=attempt)
        return made.revision.published_at.int_timestamp, made.top_hash

    def delete(self, top_hash: str) -> None:
        with _told():
            delete(self._registry, self._place.package, top_hash)

    def roll_back(self, top_hash: str) -> None:
        with _told():
            rollback(self._registry, self._place.package, top_hash)

    def history(self) -> list[str]:
        return [revision.top_hash for revision in self._registry.revisions(self._place.name)]

    def latest(self) -> str | None:
        found = self._registry.latest(self._place.name)
        return found.top_hash if found else None

    def _draft(self, what: Push, source: object) -> Draft:
        mode: Literal["update", "replace"] = "update" if what.style == "rebase" else "replace"
        entries = {what.logical_key: source}
        return Draft(package=self._place.package, entries=entries, message=what.work, mode=mode, conflict=what.style)


class Careless:
    """A storage whose writes ignore their conditions, as a store does that silently does not support them."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def put(self, key: Any, body: Any, _mode: Any = None, writer_tag: str | None = None) -> Any:
        return self._storage.put(key, body, "overwrite", writer_tag)

    def supports_conditional_writes(self, _key: Any, _data: bytes) -> bool:
        return True


def careless(place: Place) -> Ours:
    """Return the core on stores that let it down."""
    stores: Any = place.stores()
    return Ours(place, Stores(Careless(stores.local), Careless(stores.remote)))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except PackageNotFoundError as error:
        raise GoneError(str(error)) from error
    except QuiltError as error:
        if not error.transient:
            raise
        raise AgainError(f"{type(error).__name__}: {error}") from error


def wait_until(moment: float) -> None:
    """Sleep until a time of the clock that all processes share."""
    time.sleep(max(0.0, moment - time.time()))
