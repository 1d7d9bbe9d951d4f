"""Where a registry keeps things: version 1 of the layout, the only one that Quilt's platform reads."""

from typing import Final

from airflow_quilt.core.format.names import PackageName, TopHash

OWN: Final = ".quilt/"
"""What belongs to the registry itself; no data may land below it."""

NAMES: Final = ".quilt/named_packages/"
LATEST: Final = "latest"
WRITE_CHECK: Final = ".quilt/packages/write-check"
"""A multipart upload is begun here, and never completed, to learn whether manifests can be written."""

WORKFLOWS: Final = ".quilt/workflows/config.yml"


def manifest(top_hash: TopHash) -> str:
    """Return the path of a manifest below the registry."""
    return f".quilt/packages/{top_hash}"


def pointers(name: PackageName) -> str:
    """Return the directory of a package's pointers below the registry."""
    return f"{NAMES}{name}/"


def pointer(name: PackageName, revision: str) -> str:
    """Return the path of a pointer: ``latest``, or the unix seconds of a revision."""
    return pointers(name) + revision


def lock(name: PackageName) -> str:
    """Return the path of a package's lock below the registry: an object of ours, which other clients of Quilt do not look at."""
    return f".quilt/locks/{name}"
