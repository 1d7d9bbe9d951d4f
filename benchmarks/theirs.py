"""One piece of work, done by quilt3 as its documentation shows, in a process of its own; see :mod:`benchmarks.client`."""

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import quilt3

from benchmarks.client import main


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Redirect the output of quilt3, so that it does not mix with the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def push_directory(registry: str, package: str, source: str) -> dict[str, Any]:
    """Push a directory, or a prefix on S3."""
    with _quiet():
        made = quilt3.Package().set_dir(".", source).push(package, registry, force=True)
    return {"entries": sum(1 for _ in made.walk()), "top_hash": made.top_hash}


def build_prefix(registry: str, package: str, source: str) -> dict[str, Any]:
    """Build a package of a prefix or a directory."""
    with _quiet():
        made = quilt3.Package().set_dir(".", source)
        return {"top_hash": made.build(package, registry), "entries": sum(1 for _ in made.walk())}


def build_package(registry: str, package: str, source: str) -> dict[str, Any]:
    """Build a package of the entries of another package of a local registry, whose hashes are known."""
    with _quiet():
        made = quilt3.Package.browse(source, registry)
        return {"top_hash": made.build(package, registry)}


def resolve_and_push(registry: str, package: str, top_hash: str, source: str) -> dict[str, Any]:
    """Resolve a short hash to a revision of a package, then push a directory to another package."""
    found = quilt3.Package.resolve_hash(package, registry, top_hash)
    return {**push_directory(registry, f"{package}-next", source), "resolved": found}


def read_package(registry: str, package: str) -> dict[str, Any]:
    """Read a manifest, and iterate over its entries."""
    with _quiet():
        ((last, _),) = deque(quilt3.Package.browse(package, registry).walk(), 1)
    return {"last": last}


def install_package(registry: str, package: str, dest: str) -> dict[str, Any]:
    """Install a package to a directory."""
    with _quiet():
        made = quilt3.Package.install(package, registry, dest=dest)
    return {"entries": sum(1 for _ in (made or quilt3.Package.browse(package, registry)).walk())}


def list_revisions(registry: str, package: str) -> dict[str, Any]:
    """List the revisions of a package."""
    return {"revisions": len([stamp for stamp, _ in quilt3.list_package_versions(package, registry) if stamp != "latest"])}


def delete_package(registry: str, package: str) -> dict[str, Any]:
    """Delete a package."""
    with _quiet():
        quilt3.delete_package(package, registry)
    return {}


if __name__ == "__main__":
    main(globals())
