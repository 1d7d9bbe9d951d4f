"""The catalog, the S3 clients and the storages of a connection."""

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore import UNSIGNED
from botocore.config import Config

from airflow_quilt.core.catalog.client import CATALOG_RETRY, Catalog, HttpSettings
from airflow_quilt.core.errors import AccessDeniedError, LocationError, QuiltError, SettingsError, StorageError, quoted
from airflow_quilt.core.format.hints import did_you_mean
from airflow_quilt.core.format.web_url import WebUrl
from airflow_quilt.core.plan.reach import Reach
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.runtime.stop import call_apart
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.crt.route import frozen_credentials
from airflow_quilt.core.storage.s3.storage import S3Storage, client_config
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.hooks._connections import known_connections
from airflow_quilt.hooks._secrets import mask
from airflow_quilt.hooks._sessions import bounded, session_errors
from airflow_quilt.hooks.aws import BoundedAwsHook, QuiltAwsHook

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_quilt.core.catalog.credentials import CredentialSource
    from airflow_quilt.hooks._settings import QuiltSettings

_OF_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
"""Ends of the names of AWS's own endpoints."""
_ANONYMOUS: Final = "anonymous, public buckets"
_DEFAULT_AWS: Final = "aws_default"
_STS_SECONDS: Final = 5.0
"""The most seconds that STS has to name an identity."""


def make_catalog(settings: "QuiltSettings", conn_id: str | None, timeout: float | None = None) -> Catalog:
    """Return the catalog of a connection; Airflow masks every secret that its login yields.

    Args:
        settings: of the Quilt connection.
        conn_id: its name, for errors.
        timeout: the most seconds that the catalog has to answer, at its only attempt; by default the connection's, five times.

    Raises:
        SettingsError: the connection has no host.
    """
    if not settings.catalog:
        raise SettingsError(f"connection {conn_id!r}: put the URL of the catalog into its host; it has none")
    seconds = min(timeout, settings.timeout) if timeout else settings.timeout
    http = HttpSettings(verify=settings.verify, timeout=seconds, allow_http=settings.allow_http)
    retry = replace(CATALOG_RETRY, attempts=1) if timeout else CATALOG_RETRY
    host = settings.registry_host
    return Catalog(settings.catalog, settings.secret, http=http, retry=retry, on_secret=mask, registry_host=host)


def make_aws_hook(
    settings: "QuiltSettings", credentials: "CredentialSource | None", timeout: float | None = None
) -> BoundedAwsHook:
    """Return the hook of the Amazon provider that makes clients: with the credentials of a login, or with its own.

    Args:
        settings: of the Quilt connection.
        credentials: those of the login, if there is one.
        timeout: seconds, see :class:`~airflow_quilt.hooks.aws.BoundedAwsHook`.
    """
    options: dict[str, Any] = {
        "aws_conn_id": settings.aws_conn_id,
        "region_name": settings.region_name,
        "client_type": "s3",
        "timeout": timeout,
    }
    return QuiltAwsHook(credentials=credentials, **options) if credentials else BoundedAwsHook(**options)


def make_client(settings: "QuiltSettings", aws: BoundedAwsHook, catalog: Catalog | None = None) -> "S3Client":
    """Return the S3 client of a connection.

    Args:
        settings: of the Quilt connection.
        aws: makes the client.
        catalog: the one of the login; its region is used only where the connections name none.

    Raises:
        SettingsError: the AWS connection cannot be used.
        QuiltError: its session cannot be made, see :func:`~airflow_quilt.hooks._sessions.session_errors`.
    """
    config = client_config(aws.conn_config.botocore_config, settings.limits)
    if settings.anonymous:
        config = config.merge(Config(signature_version=UNSIGNED))
    if getattr(config, "proxies", None) is None and _is_loopback(aws.conn_config.get_service_endpoint_url("s3")):
        # From a proxy of the environment loopback is another machine; and it would read the session token.
        config = config.merge(Config(proxies={}))
    region = aws.region_name or (catalog.config().region if catalog else None)
    # A role is assumed here, by a service that may hang.
    client: S3Client = call_apart(partial(aws.get_client_type, region_name=region, config=config))
    return client


def _is_loopback(endpoint: str | None) -> bool:
    try:
        return WebUrl.parse(endpoint or "").is_loopback
    except LocationError:
        return False


def make_stores(settings: "QuiltSettings", client: "S3Client", retry: RetryPolicy) -> Stores:
    """Return the storages of a connection; ``retry`` is for failures that botocore does not repeat, see :class:`S3Storage`."""
    remote = S3Storage(client, retry, transport=settings.transport)
    return Stores(LocalStorage(), remote, limits=settings.limits, reach=_reach(settings))


def _reach(settings: "QuiltSettings") -> Reach | None:
    if settings.allowed_buckets is None:
        return None
    own = [resolve_registry(settings.registry)] if settings.registry else []
    return Reach(settings.allowed_buckets, frozenset(own))


def identify(aws: BoundedAwsHook, client: "S3Client") -> str:
    """Return the identity that a client signs with: its ARN at AWS, at another store the end of the access key.

    Only the client's own credentials and endpoint count: STS is asked for a name, and need not be within reach for the work.

    Raises:
        AccessDeniedError: there are no credentials.
        QuiltError: their source does not give them.
    """
    key = _signer(aws, client)
    if key == _ANONYMOUS or not str(urlsplit(client.meta.endpoint_url).hostname).endswith(_OF_AWS):
        return key
    try:
        return _arn(aws)
    except QuiltError as error:
        return f"{key}; STS does not name its owner ({error})"


def _signer(aws: BoundedAwsHook, client: "S3Client") -> str:
    """Return the end of the access key that a client signs with; raise as :func:`identify`."""
    config: Any = client.meta.config
    if config.signature_version is UNSIGNED:
        return _ANONYMOUS
    with session_errors(aws.aws_conn_id):
        credentials = frozen_credentials(client)
    if credentials is None:
        raise AccessDeniedError(f"name an AWS connection that has credentials, or an API key{_missing(aws)}", "S3")
    return f"access key …{credentials[0][-4:]} at {client.meta.endpoint_url}"


def _missing(aws: BoundedAwsHook) -> str:
    """Return the end of a message for an AWS connection that does not exist: Airflow takes an empty one in its place."""
    if aws.conn_config or not aws.aws_conn_id:
        return ""
    return f"; there is no AWS connection {quoted(aws.aws_conn_id)}{did_you_mean(aws.aws_conn_id, known_connections('aws'))}"


def _arn(aws: BoundedAwsHook) -> str:
    with session_errors(aws.aws_conn_id):
        endpoint = aws.conn_config.get_service_endpoint_url("sts", sts_test_connection=True)
        config = bounded(aws.config, _STS_SECONDS)
        sts = aws.get_session(aws.region_name).client("sts", endpoint_url=endpoint, config=config, verify=aws.verify)
        return str(sts.get_caller_identity()["Arn"])


def explain(error: StorageError, aws: BoundedAwsHook, client: "S3Client") -> None:
    """Add to the message of an error of S3 the identity that was refused, and the AWS connection that is missing.

    STS is asked for an identity that lacks a permission, unless the message of AWS names it already.
    """
    if not error.location.startswith("s3://"):
        return
    with contextlib.suppress(QuiltError):  # The message stands without it.
        if isinstance(error, AccessDeniedError) and "arn:" not in str(error):
            error.name_identity(identify(aws, client) if error.action else _signer(aws, client))
    if aws.aws_conn_id != _DEFAULT_AWS or isinstance(error, AccessDeniedError):  # Without it, boto3's own chain may be meant.
        error.args = (f"{error}{_missing(aws)}",)
