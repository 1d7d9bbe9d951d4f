"""quilt3 as one of many that write a package; only for a process of its own, with a home of its own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import quilt3
from botocore.exceptions import ClientError
from quilt3.util import QuiltConflictException, QuiltException

from tests.chaos.writers_client import AgainError, GoneError, Place, Push
from tests.oracle.quilt3_worker import _share_clients


class Quilt3:
    """quilt3, used as its documentation says: browse the latest revision, change it, push it; build it on a local disk."""

    def __init__(self, place: Place) -> None:
        self._place = place
        _share_clients()  # Its speed is not the question here.
        self._source = place.location if not place.is_local else Path(place.location).as_uri()

    def publish(self, what: Push) -> tuple[int | None, str]:
        package = self._begun(what)
        package.set(what.logical_key, str(self._place.source(what.work)))
        if self._place.is_local:
            return None, package.build(self._place.package, self._source, what.work)
        with _told():
            made = package.push(self._place.package, self._source, message=what.work, force=what.style == "overwrite")
        return None, made.top_hash

    def delete(self, top_hash: str) -> None:
        with _told():
            quilt3.delete_package(self._place.package, self._source, top_hash)

    def roll_back(self, top_hash: str) -> None:
        with _told():
            quilt3.Package.rollback(self._place.package, self._source, top_hash)

    def history(self) -> list[str]:
        return [top_hash for stamp, top_hash in self._pointers() if stamp != "latest"]

    def latest(self) -> str | None:
        return dict(self._pointers()).get("latest")

    def _pointers(self) -> list[tuple[str, str]]:
        return sorted(quilt3.list_package_versions(self._place.package, self._source), reverse=True)

    def _begun(self, what: Push) -> Any:
        """Return the latest revision as far as the new one keeps it."""
        if what.style == "overwrite":
            return quilt3.Package()
        package = quilt3.Package.browse(self._place.package, self._source)
        if what.style == "fail":
            for key in list(package.keys()):
                package.delete(key)
        return package


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except QuiltConflictException as error:
        raise AgainError(f"{type(error).__name__}: {error}") from error
    except (FileNotFoundError, QuiltException) as error:
        raise GoneError(str(error)) from error
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"404", "NoSuchKey"}:
            raise
        raise GoneError(str(error)) from error
