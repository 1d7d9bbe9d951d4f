"""Checks of a connection, part by part, through the same hook, client and storages as the work."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from airflow_quilt.core.catalog.client import API_KEY_PREFIX
from airflow_quilt.core.diagnostics import CheckResult, Verdict, run_check, run_checks
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.arguments import parse_dest
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.workflows.config import load_workflow

if TYPE_CHECKING:
    from airflow_quilt.core.catalog.client import Catalog
    from airflow_quilt.core.catalog.credentials import CredentialSource
    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.hooks._settings import QuiltSettings
    from airflow_quilt.hooks._target import RegistryTarget

SECONDS: Final = 5.0
"""Timeout of each request: a user waits for the result."""
_ORDER: Final[tuple[Verdict, ...]] = ("failed", "warning", "ok")
"""The order in which results are shown: Airflow's page shows them for a few seconds."""
_PROBE: Final = "write-check"
"""The name of an object of which an upload is begun, and aborted."""


class Checked(Protocol):
    """The parts of a :class:`~airflow_quilt.hooks.quilt.QuiltHook` that are checked."""

    @property
    def settings(self) -> "QuiltSettings":
        """The settings of the connection."""

    @property
    def catalog(self) -> "Catalog":
        """The catalog."""

    @property
    def credentials(self) -> "CredentialSource":
        """The credentials of the login."""

    def open(self) -> "RegistryTarget":
        """Open the connection's registry."""

    def identify(self) -> str:
        """Return the identity that requests of S3 are signed with."""


def report(results: Iterable[CheckResult], warn: Callable[..., object]) -> tuple[bool, str]:
    """Return whether no check failed, and all results for Airflow's page; log the warnings of a connection that passes.

    ``airflow connections test`` prints the results only if one failed, and switches logging off. There they are printed.
    """
    ordered = sorted(results, key=lambda result: _ORDER.index(result.verdict))
    passes = all(result.verdict != "failed" for result in ordered)
    warnings = [str(result) for result in ordered if result.verdict == "warning"] if passes else []
    if logging.root.manager.disable >= logging.WARNING:
        sys.stdout.writelines(f"{warning}\n" for warning in warnings)
    else:
        for warning in warnings:
            warn("%s", warning.removeprefix("WARNING "))
    return passes, ";\n".join(map(str, ordered))


def check(hook: Checked) -> Iterator[CheckResult]:
    """Check the parts of a connection; stop at a failure that the next parts depend on."""
    try:
        settings = hook.settings
    except QuiltError as error:
        yield CheckResult("connection", "failed", str(error))
        return
    yield CheckResult("connection", "ok", "its settings are valid")
    for extra in settings.unknown:
        yield CheckResult("extra", "warning", str(extra))
    if settings.catalog:
        # Without a login the catalog serves for links alone, and no work depends on it.
        on_error: Verdict = "failed" if settings.secret else "warning"
        yield (found := run_check("catalog", lambda: _describe(hook.catalog), on_error=on_error))
        if found.verdict == "failed":
            return
    if settings.secret:
        if not settings.secret.startswith(API_KEY_PREFIX):
            yield CheckResult("login", "warning", "use an API key; a refresh token is not tested: it may be accepted only once")
            return
        yield (found := run_check("login", lambda: _log_in(hook.credentials)))
        if found.verdict == "failed":
            return
    yield from _check_registry(hook, settings)


def _check_registry(hook: Checked, settings: "QuiltSettings") -> Iterator[CheckResult]:
    try:
        location = resolve_registry(settings.registry) if settings.registry else None
    except QuiltError as error:
        yield CheckResult("registry", "failed", str(error))
        return
    if location is None or not location.is_local:
        yield (found := run_check("identity", hook.identify))
        if found.verdict == "failed":
            return
    if location is None:
        yield CheckResult("registry", "warning", "there is none: set the extra 'registry', or name one in each operator")
        return
    try:
        target = hook.open()
    except QuiltError as error:
        yield CheckResult("registry", "failed", str(error))
        return
    yield from run_checks(target.registry)
    if settings.dest:
        yield _check_dest(target.registry, settings.dest)
    if settings.workflow:
        yield run_check("workflow", partial(_find_workflow, target.registry, settings.workflow))


def _check_dest(registry: "Registry", dest: str) -> CheckResult:
    """Check that files may be written below a dest; that they may not is no failure, since they may still be read."""
    try:
        prefix = parse_dest(dest, registry.location)
    except QuiltError as error:
        return CheckResult("dest", "failed", str(error))
    return run_check("dest", partial(_land, registry, prefix), on_error="warning")


def _land(registry: "Registry", prefix: PhysicalKey) -> str:
    if not prefix.is_local:
        registry.stores.remote.begin(prefix.join(_PROBE)).abort()
    return f"files land below {prefix}"


def _describe(catalog: "Catalog") -> str:
    config = catalog.config()
    return f"{catalog.url}, version {config.stack_version or 'unknown'}, its service at {config.registry_url}"


def _log_in(source: "CredentialSource") -> str:
    return f"S3 credentials for {source.current().lifetime / 60:,.0f} minutes"


def _find_workflow(registry: "Registry", workflow: str) -> str:
    load_workflow(workflow, registry.workflows_config(), lambda key: registry.stores.of(key).get(key))
    return f"{workflow!r} is in the registry's config"
