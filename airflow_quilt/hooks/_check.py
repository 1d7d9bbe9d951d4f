"""Checks of a connection, part by part."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from botocore.config import Config

from airflow_quilt.core.catalog.client import API_KEY_PREFIX
from airflow_quilt.core.catalog.credentials import CredentialSource
from airflow_quilt.core.diagnostics import CheckResult, run_check, run_checks
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.plan.placement import parse_dest
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.workflows.config import load_workflow
from airflow_quilt.hooks._stores import identify, make_aws_hook, make_catalog, make_stores

if TYPE_CHECKING:
    from airflow_quilt.core.catalog.client import Catalog
    from airflow_quilt.hooks._settings import QuiltSettings

_SECONDS: Final = 5.0
"""Timeout of each request: a user waits for the result."""
_QUICK: Final = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"mode": "standard", "total_max_attempts": 1})


def check(read: "Callable[[], QuiltSettings]", conn_id: str | None) -> Iterator[CheckResult]:
    """Check the parts of a connection; stop at a failure that the next parts depend on."""
    try:
        settings = read()
    except QuiltError as error:
        yield CheckResult("connection", "failed", str(error))
        return
    yield CheckResult("connection", "ok", "its settings are valid")
    source = catalog = None
    if settings.catalog:
        catalog = make_catalog(settings, conn_id, timeout=_SECONDS, attempts=1)
        yield (found := run_check("catalog", partial(_describe, catalog)))
        if settings.secret and found.verdict == "failed":
            return
    if catalog and settings.secret:
        if not settings.secret.startswith(API_KEY_PREFIX):
            yield CheckResult("login", "warning", "use an API key; a refresh token is not tested: it may be accepted only once")
            return
        source = CredentialSource(catalog.credentials)
        yield (found := run_check("login", partial(_log_in, source)))
        if found.verdict == "failed":
            return
    yield from _check_s3(settings, source, catalog if source else None)


def _check_s3(settings: "QuiltSettings", source: CredentialSource | None, catalog: "Catalog | None") -> Iterator[CheckResult]:
    aws = make_aws_hook(settings, source)
    try:
        location = resolve_registry(settings.registry) if settings.registry else None
    except QuiltError as error:
        yield CheckResult("registry", "failed", str(error))
        return
    if location is None or not location.is_local:
        yield (
            found := run_check("identity", lambda: "anonymous, public buckets" if settings.anonymous else identify(aws, _QUICK))
        )
        if found.verdict == "failed":
            return
    if location is None:
        yield CheckResult("registry", "warning", "there is none: set the extra 'registry', or name one in each operator")
        return
    try:
        registry = Registry(location, make_stores(settings, aws, catalog, _QUICK))
    except QuiltError as error:
        yield CheckResult("registry", "failed", str(error))
        return
    yield from run_checks(registry)
    if dest := settings.dest:
        yield run_check("dest", lambda: f"files land below {parse_dest(dest, registry.location)}")
    if workflow := settings.workflow:
        yield run_check("workflow", partial(_find_workflow, registry, workflow))


def _describe(catalog: "Catalog") -> str:
    config = catalog.config()
    return f"{catalog.url}, version {config.stack_version or 'unknown'}, its service at {config.registry_url}"


def _log_in(source: CredentialSource) -> str:
    return f"S3 credentials for {source.current().lifetime / 60:,.0f} minutes"


def _find_workflow(registry: Registry, workflow: str) -> str:
    load_workflow(workflow, registry.workflows_config(), lambda key: registry.stores.of(key).get(key))
    return f"{workflow!r} is in the registry's config"
