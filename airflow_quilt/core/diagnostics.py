"""What works in a registry and what does not, part by part, without leaving anything behind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from airflow_quilt.core.errors import QuiltError, StorageError
from airflow_quilt.core.format import layout
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.workflows.config import check_config

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of looking at one part."""

    part: str
    verdict: Verdict
    detail: str

    def __str__(self) -> str:
        label = {"ok": "OK", "warning": "WARNING", "failed": "FAILED"}[self.verdict]
        return f"{label} {self.part}: {self.detail}"


def look(part: str, check: Callable[[], str], *, bad: Verdict = "failed") -> CheckResult:
    """Make a check that returns what it found or raises; ``bad`` is the verdict when it raises one of the engine's errors."""
    try:
        return CheckResult(part, "ok", check())
    except QuiltError as error:
        return CheckResult(part, bad, f"{error}")


def check_registry(registry: Registry) -> Iterator[CheckResult]:
    """Look at the parts of a registry that publishing and reading need; later parts are left out where the first fails."""
    if registry.location.is_local:
        yield look("registry", lambda: f"{registry.location} is a directory of this machine with {_packages(registry)}")
        return
    first = look("list", lambda: f"{registry.location} has {_packages(registry)}")
    yield first
    if first.verdict == "failed":
        return
    yield look("read", lambda: _may_read(registry))
    yield look("write", lambda: _may_write(registry), bad="warning")
    yield look("versions", lambda: _keeps_versions(registry), bad="warning")
    yield look("workflows", lambda: _workflows(registry))


def _packages(registry: Registry) -> str:
    found = next(registry.packages(), None)
    return f"packages, {found} among them" if found else "no package yet"


def _may_read(registry: Registry) -> str:
    registry.workflows_config()
    return f"may read {layout.OWN}"


def _may_write(registry: Registry) -> str:
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
    return check_config(config, lambda key: registry.stores.of(key).get(key))
