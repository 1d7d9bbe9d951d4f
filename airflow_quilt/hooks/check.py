"""What works in a connection and what does not, part by part."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from botocore.config import Config

from airflow_quilt.core.checkup import Finding, check_registry, look
from airflow_quilt.core.credentials import CredentialSource
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.locations import RegistryLocation
from airflow_quilt.core.registry import Registry
from airflow_quilt.hooks.stores import identify, make_aws_hook, make_catalog, make_stores

if TYPE_CHECKING:
    from airflow_quilt.core.catalog import Catalog
    from airflow_quilt.hooks.quilt import QuiltHook
    from airflow_quilt.hooks.settings import QuiltSettings

_SECONDS: Final = 5.0
"""What each part has to answer: somebody is waiting."""
_QUICK: Final = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"mode": "standard", "total_max_attempts": 1})


def check(hook: "QuiltHook") -> Iterator[Finding]:
    """Look at the parts of a connection, until one fails that the next ones need."""
    part = "connection"
    try:
        settings = hook.settings
        yield Finding(part, "ok", f"{hook.quilt_conn_id!r} can be read")
        part = "login"
        source = catalog = None
        if settings.catalog:
            catalog = make_catalog(settings, hook.quilt_conn_id, timeout=_SECONDS, attempts=1)
            yield (found := look("catalog", lambda: _describe(catalog)))
            if settings.secret and found.verdict == "failed":
                return
            if settings.secret:
                source = CredentialSource(catalog.credentials)
                yield Finding(part, "ok", f"S3 credentials for {source.current().lifetime / 60:,.0f} minutes")
        part = "identity"
        yield from _check_s3(settings, source, catalog if source else None)
    except QuiltError as error:
        yield Finding(part, "failed", str(error))


def _check_s3(settings: "QuiltSettings", source: CredentialSource | None, catalog: "Catalog | None") -> Iterator[Finding]:
    aws = make_aws_hook(settings, source)
    yield Finding("identity", "ok", "nobody, for public buckets" if settings.anonymous else identify(aws, _QUICK))
    if not settings.registry:
        yield Finding("registry", "warning", "none is named: set the extra 'registry', or name one in each operator")
        return
    yield from check_registry(Registry(RegistryLocation.parse(settings.registry), make_stores(settings, aws, catalog, _QUICK)))


def _describe(catalog: "Catalog") -> str:
    config = catalog.config()
    return f"{catalog.url}, version {config.stack_version or 'unknown'}, its service at {config.registry_url}"
