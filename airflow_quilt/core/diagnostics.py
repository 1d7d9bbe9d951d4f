"""Checks of a registry, part by part, that leave nothing behind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from airflow_quilt.core.errors import QuiltError, StorageError, plain
from airflow_quilt.core.format import layout
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.workflows.config import check_config

Verdict = Literal["ok", "warning", "failed"]

_MAX_DETAIL: Final = 2000
"""Maximum characters of the detail of a check, as it is shown."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    part: str
    verdict: Verdict
    detail: str

    def __str__(self) -> str:
        label = {"ok": "OK", "warning": "WARNING", "failed": "FAILED"}[self.verdict]
        return f"{label} {self.part}: {plain(self.detail, _MAX_DETAIL)}"  # With texts of others: one line.


def run_check(part: str, check: Callable[[], str], *, on_error: Verdict = "failed") -> CheckResult:
    """Run a check, which returns a detail or raises; ``on_error`` is the verdict for a :class:`QuiltError`."""
    try:
        return CheckResult(part, "ok", check())
    except QuiltError as error:
        return CheckResult(part, on_error, f"{error}")


def run_checks(registry: Registry) -> Iterator[CheckResult]:
    """Check the parts of a registry that publishing and reading need; stop if its packages cannot be listed."""
    if registry.location.is_local:
        yield run_check("registry", lambda: f"{registry.location} is a directory of this machine with {_packages(registry)}")
        return
    yield (first := run_check("list", lambda: f"{registry.location} has {_packages(registry)}"))
    if first.verdict == "failed":
        return
    yield run_check("read", lambda: _read(registry))
    yield run_check("write", lambda: _write(registry), on_error="warning")
    yield run_check("versions", lambda: _keeps_versions(registry), on_error="warning")
    yield run_check("workflows", lambda: _workflows(registry))


def _packages(registry: Registry) -> str:
    found = next(registry.packages(), None)
    return f"packages, {plain(found)} among them" if found else "no package yet"


def _read(registry: Registry) -> str:
    registry.workflows_config()
    return f"may read {layout.OWN}"


def _write(registry: Registry) -> str:
    registry.check_writable()
    return f"may write {layout.OWN}"


def _keeps_versions(registry: Registry) -> str:
    if not registry.stores.remote.keeps_versions(registry.location.root):
        raise StorageError(
            "keeps no versions: a new revision overwrites the objects of the old one; switch versioning on",
            str(registry.location),
        )
    return "the bucket keeps versions"


def _workflows(registry: Registry) -> str:
    config = registry.workflows_config()
    if config is None:
        return "none"
    return check_config(config, registry.stores.text)
