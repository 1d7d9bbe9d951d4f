"""S3 credentials of the Quilt service for hooks of the Amazon provider."""

import os
import re
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from botocore.credentials import ReadOnlyCredentials

from airflow_quilt.hooks._secrets import check_sendable, check_url, mask, mask_login
from airflow_quilt.hooks._sessions import bounded, session_errors, share_descriptions

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

    from airflow_quilt.core.catalog.credentials import CredentialSource

_SIGNED_BY: Final = re.compile(r"Credential=([^/]+)/")
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_MOST_ATTEMPTS: Final = 4


class QuiltCredentialsMixin:
    """Mixin that signs the requests of an Amazon hook with the S3 credentials of a Quilt login; put it before that hook.

    ``class QuiltS3Hook(QuiltCredentialsMixin, S3Hook)`` is used as
    ``QuiltS3Hook(credentials=QuiltHook().credentials, aws_conn_id=None)``. Region, endpoint and botocore settings are still
    those of the AWS connection.

    :param credentials: source of the credentials (:attr:`airflow_quilt.hooks.quilt.QuiltHook.credentials`).
    """

    def __init__(self, *args: Any, credentials: "CredentialSource", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._credentials = credentials
        self._sessions: dict[str | None, boto3.session.Session] = {}
        self._sessions_lock = threading.Lock()

    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> boto3.session.Session:  # noqa: FBT001, FBT002
        """Return the session for a region; its credentials stay fresh.

        Raises:
            NotImplementedError: with ``deferrable=True``; only synchronous sessions have these credentials.
        """
        if deferrable:
            raise NotImplementedError("run the task without deferrable=True: Quilt's credentials are for sessions of boto3 only")
        region: str | None = region_name or getattr(self, "region_name", None)
        with self._sessions_lock:
            if region not in self._sessions:
                self._sessions[region] = make_session(self._credentials, region)
            return self._sessions[region]


class BoundedAwsHook(AwsGenericHook[Any]):
    """Hook for clients of AWS that raises the core's errors, and may bound all requests, those for credentials too.

    :param timeout: the seconds for which a request waits for an answer, at its only attempt; by default the settings of the AWS
        connection, and botocore's retries.
    """

    def __init__(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timeout = timeout

    @cached_property
    def conn_config(self) -> "AwsConnectionWrapper":
        """The settings of the AWS connection.

        Raises:
            SettingsError: one of them cannot be used.
        """
        with session_errors(self.aws_conn_id):
            found = super().conn_config
            _check(found)
        if self._timeout:
            found.botocore_config = bounded(found.botocore_config, self._timeout)
        return found

    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> boto3.session.Session:  # noqa: FBT001, FBT002
        """Return a session for a region; raise the errors of :func:`~airflow_quilt.hooks._sessions.session_errors`."""
        with session_errors(self.aws_conn_id):
            session: boto3.session.Session = super().get_session(region_name, deferrable)
            share_descriptions(session._session)  # noqa: SLF001
        if self._timeout:
            # For the clients that botocore itself makes for credentials: roles of profiles, SSO.
            session._session.set_default_client_config(bounded(None, self._timeout))  # noqa: SLF001
        return session

    def get_client_type(self, *args: Any, **kwargs: Any) -> Any:
        """Return a client; raise as :meth:`get_session`."""
        with session_errors(self.aws_conn_id):
            client: Any = super().get_client_type(*args, **kwargs)
        check_url("the endpoint of AWS", client.meta.endpoint_url)  # Which a profile may name too.
        return client


def _check(config: "AwsConnectionWrapper") -> None:
    """Check the keys and the endpoints of an AWS connection and of the environment, and mask its secrets.

    Raises:
        SettingsError: one cannot be sent, or holds a login.
    """
    where = f"AWS connection {config.conn_id!r}"
    for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
        check_sendable(getattr(config, name), f"{where}: its {name}")
    mask(config.aws_secret_access_key)
    mask(config.aws_session_token)
    check_url(f"{where}: its endpoint_url", config.endpoint_url)
    for service in config.service_config:
        check_url(f"{where}: its endpoint_url for {service!r}", config.get_service_endpoint_url(service))
    for name, value in os.environ.items():
        if name.startswith("AWS_ENDPOINT_URL"):
            check_url(f"the environment: its {name}", value)
    for url in (getattr(config.botocore_config, "proxies", None) or {}).values():  # They may have a login.
        mask_login(str(url))


class QuiltAwsHook(QuiltCredentialsMixin, BoundedAwsHook):
    """Hook for clients of AWS that have the credentials of a Quilt login."""


def make_session(source: "CredentialSource", region: str | None) -> boto3.session.Session:
    """Return a boto3 session that signs with the credentials of a source.

    A request that is refused for expired credentials is signed with fresh ones and sent again.
    """
    session = botocore.session.get_session()
    share_descriptions(session)
    session._credentials = _Credentials(source)  # type: ignore[attr-defined]  # noqa: SLF001  (where the provider's factory puts its own)
    if region:
        session.set_config_variable("region", region)
    signed = threading.local()

    def note_signer(request: Any, **_: object) -> None:
        found = _SIGNED_BY.search(str(request.headers.get("Authorization", "")))
        signed.by = found[1] if found else None

    def refresh(response: Any, attempts: int, **_: object) -> int | None:
        code = response[1].get("Error", {}).get("Code") if response else None
        if code not in _EXPIRED or attempts >= _MOST_ATTEMPTS or not getattr(signed, "by", None):
            return None
        source.reject(signed.by)
        return 0

    session.register("before-send", note_signer)  # type: ignore[arg-type]
    session.register("needs-retry", refresh)  # type: ignore[arg-type]
    return boto3.session.Session(botocore_session=session)


class _Credentials:
    """Credentials for botocore, which asks the source for them at each signing."""

    method = "quilt-registry"
    account_id = None

    def __init__(self, source: "CredentialSource") -> None:
        self._source = source

    @property
    def access_key(self) -> str:
        return self._source.current().access_key

    @property
    def secret_key(self) -> str:
        return self._source.current().secret_key

    @property
    def token(self) -> str:
        return self._source.current().session_token

    def get_deferred_property(self, name: str) -> Any:
        return lambda: getattr(self, name, None)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        current = self._source.current()
        return ReadOnlyCredentials(current.access_key, current.secret_key, current.session_token)
