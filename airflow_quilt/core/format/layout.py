"""Paths below a registry (docs/format.md, "Layout of a registry"): layout version 1, the only one Quilt's platform reads."""

from typing import Final

from airflow_quilt.core.format.names import PackageName, TopHash

OWN: Final = ".quilt/"
"""The registry's own area; no data may land below it."""

NAMES: Final = ".quilt/named_packages/"
LATEST: Final = "latest"
WRITE_CHECK: Final = ".quilt/packages/write-check"
"""Key of a multipart upload that is started and never completed, to check that manifests can be written."""

WORKFLOWS: Final = ".quilt/workflows/config.yml"


def manifest(top_hash: TopHash) -> str:
    """Return the path of a manifest."""
    return f".quilt/packages/{top_hash}"


def pointers(name: PackageName) -> str:
    """Return the path of a package's directory of pointers, with its ``/``."""
    return f"{NAMES}{name}/"


def pointer(name: PackageName, revision: str) -> str:
    """Return the path of a pointer: ``latest``, or the unix seconds of a revision."""
    return pointers(name) + revision


def lock(name: PackageName) -> str:
    """Return the path of a package's lock, an object of this provider that other Quilt clients ignore."""
    return f".quilt/locks/{name}"
