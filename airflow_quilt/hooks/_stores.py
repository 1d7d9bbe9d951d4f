"""The catalog, the S3 clients and the storages of a connection."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from airflow.providers.common.compat.sdk import mask_secret
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_quilt.core.catalog.client import CATALOG_RETRY, Catalog, HttpSettings
from airflow_quilt.core.errors import AccessDeniedError, SettingsError
from airflow_quilt.core.runtime.retry import NO_RETRY, RetryPolicy
from airflow_quilt.core.storage.base import Stores
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import READ_RETRY, S3Storage, client_config
from airflow_quilt.hooks.aws import QuiltAwsHook

if TYPE_CHECKING:
    from airflow_quilt.core.catalog.credentials import CredentialSource
    from airflow_quilt.hooks._settings import QuiltSettings


def make_catalog(settings: "QuiltSettings", conn_id: str | None, *, timeout: float | None = None, attempts: int = 5) -> Catalog:
    """Return the catalog of a connection; Airflow masks every secret that its login yields.

    Args:
        settings: of the Quilt connection.
        conn_id: its name, for errors.
        timeout: seconds that the catalog has to answer; overrides the connection's.
        attempts: the most attempts of a request that fails for now.

    Raises:
        SettingsError: the connection has no host.
    """
    if not settings.catalog:
        raise SettingsError(f"connection {conn_id!r}: it has no host; put the URL of the catalog there")
    http = HttpSettings(verify=settings.verify, timeout=timeout or settings.timeout, allow_http=settings.allow_http)
    retry = replace(CATALOG_RETRY, attempts=attempts)
    return Catalog(settings.catalog, settings.secret, http=http, retry=retry, on_secret=mask_secret)


def make_aws_hook(settings: "QuiltSettings", credentials: "CredentialSource | None") -> AwsGenericHook[Any]:
    """Return the hook of the Amazon provider that makes clients: with the credentials of a login, or with its own."""
    options: dict[str, Any] = {
        "aws_conn_id": settings.aws_conn_id,
        "region_name": settings.region_name,
        "client_type": "s3",
    }
    return QuiltAwsHook(credentials=credentials, **options) if credentials else AwsGenericHook(**options)


def make_stores(
    settings: "QuiltSettings",
    aws: AwsGenericHook[Any],
    catalog: Catalog | None = None,
    config: Config | None = None,
    retry: RetryPolicy | None = None,
) -> Stores:
    """Return the storages of a connection.

    Args:
        settings: of the Quilt connection.
        aws: makes the client.
        catalog: the one of the login; its region is used only where the connections name none.
        config: overrides the botocore config of the AWS connection; with it the first failure is final by default.
        retry: the policy for failures that botocore does not repeat, see :class:`S3Storage`.

    Raises:
        SettingsError: the AWS connection cannot be used.
    """
    merged = client_config(aws.conn_config.botocore_config, settings.limits)
    if config:
        merged = merged.merge(config)
    if settings.anonymous:
        merged = merged.merge(Config(signature_version=UNSIGNED))
    try:
        region = aws.region_name or (catalog.config().region if catalog else None)
        client = aws.get_client_type(region_name=region, config=merged)
    except ValueError as error:  # botocore's way to refuse an endpoint URL.
        raise SettingsError(f"AWS connection {settings.aws_conn_id!r}: {error}") from error
    remote = S3Storage(client, retry or (NO_RETRY if config else READ_RETRY), transport=settings.transport)
    return Stores(LocalStorage(), remote, limits=settings.limits)


def identify(aws: AwsGenericHook[Any], config: Config) -> str:
    """Return the identity of a hook's credentials: their ARN at AWS, at another store the end of the access key.

    Raises:
        AccessDeniedError: there are none, or AWS does not accept them.
    """
    session = aws.get_session(region_name=aws.region_name)
    where = "" if aws.conn_config or not aws.aws_conn_id else f", and there is no AWS connection {aws.aws_conn_id!r}"
    try:
        credentials = session.get_credentials()
        if credentials is None:
            raise AccessDeniedError(f"no credentials{where}: name an AWS connection that has some, or an API key", "S3")
        key = str(credentials.get_frozen_credentials().access_key)
        if aws.conn_config.endpoint_url:
            return f"access key …{key[-4:]} at {aws.conn_config.endpoint_url}"
        return str(session.client("sts", config=config, verify=aws.verify).get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError) as error:
        raise AccessDeniedError(f"the credentials are not accepted{where}: {error}", "AWS") from error
