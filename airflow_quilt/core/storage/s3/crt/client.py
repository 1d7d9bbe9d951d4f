"""Requests to an S3 store through the AWS Common Runtime, signed, addressed and verified as by a boto3 client (ADR 0010)."""

import ctypes
import logging
import os
import random
import time
import weakref
from concurrent.futures import Future, wait
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from awscrt.auth import (
    AwsCredentialsProvider,
    AwsSignatureType,
    AwsSignedBodyHeaderType,
    AwsSignedBodyValue,
    AwsSigningAlgorithm,
    AwsSigningConfig,
)
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    TlsConnectionOptions,
    TlsContextOptions,
)
from awscrt.s3 import S3Client as Runtime
from awscrt.s3 import S3Request, S3RequestTlsMode, S3RequestType, S3RetryConfig, S3RetryMode
from botocore import UNSIGNED

from airflow_quilt.core.errors import CancelledError, plain
from airflow_quilt.core.runtime.stop import await_result, call_apart, check_stop, sleep
from airflow_quilt.core.storage.objects import CHUNK, Data
from airflow_quilt.core.storage.s3.answers import most_seconds
from airflow_quilt.core.storage.s3.body import BodyFile
from airflow_quilt.core.storage.s3.crt.checksums import contradicts_s3
from airflow_quilt.core.storage.s3.crt.exchange import ABSENT, Answer, Request
from airflow_quilt.core.storage.s3.crt.route import Route, frozen_credentials, route, verified_by
from airflow_quilt.core.storage.s3.fields import bucket_of

_log = logging.getLogger(__name__)

_THREADS: Final = 1
"""Event loops. Each has an arena of the allocator, which keeps the bodies that were sent last; a second one saves no time."""
_MOST_FAILURES: Final = 16
_REST: Final = 60.0
"""Seconds for which all requests are left to boto3, after so many failures in a row."""
_GBPS: Final = 0.4
"""The throughput that the runtime expects of a connection: it opens as many as it needs for its target."""
_CONNECTIONS: Final = 25
"""The fewest, which it opens for its own target."""
_PAUSE: Final = 1.0
"""The most seconds before boto3 makes a request again, as many as before its own second attempt."""
_CANCELLING: Final = 0.3
"""Seconds for the end of a request that is cancelled."""
_NEVER: Final = float("inf")
_CHECKSUM: Final = "x-amz-checksum-"
_SERVER_ERROR: Final = 500
_UNKNOWN: Final = 501
"""The status of a request that the store does not know."""


class CrtClient:
    """A client of the common runtime with the settings of a boto3 client; its threads end when it is no longer referenced."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._timeout: float | None = client.meta.config.read_timeout
        self._is_tls = client.meta.endpoint_url.startswith("https:")
        self._is_anonymous = client.meta.config.signature_version is UNSIGNED
        self._runtime = _runtime(client, verified_by(client) if self._is_tls else None)
        self._routes: dict[str, Route | None] = {}
        self._signer: tuple[tuple[str, str, str | None], AwsCredentialsProvider] | None = None
        self._failures, self._rests_until = 0, 0.0

    @property
    def is_ready(self) -> bool:
        """Whether requests may be made now: not for a while after many failures in a row."""
        return time.monotonic() >= self._rests_until

    def payload_hash(self, data: Data) -> str:
        """Return the value that is signed for a body, the same as boto3's: its SHA-256, or a constant where TLS guards it."""
        return AwsSignedBodyValue.UNSIGNED_PAYLOAD if self._is_tls else sha256(data).hexdigest()

    def make(self, request: Request) -> Answer | None:
        """Make one attempt at a request.

        Returns:
            The answer, also one that there is no object; None for any other error, after which boto3 shall make the request.
        """
        check_stop()
        signer = None if self._is_anonymous else self._provider()
        if signer is None and not self._is_anonymous:
            return None
        is_range = request.method == "GET" and request.most is None
        answer = Answer(request.size if is_range else request.most, begun=None if request.most is None else Future())
        try:
            way = self._route(bucket_of(request.key))
            if way is None:
                return None
            sent = self._runtime.make_request(
                # The runtime holds the whole answer of other requests, of any length, before it passes the headers on.
                type=S3RequestType.GET_OBJECT if is_range else S3RequestType.DEFAULT,
                part_size=CHUNK if is_range else None,
                operation_name=request.operation,
                request=_http(request, way, self._client.meta.config.user_agent),
                signing_config=_signed(request, way.region, signer) if signer else None,
                on_headers=answer.on_headers,
                on_body=answer.on_body if request.method == "GET" else None,
            )
            self._finish(request, sent, answer)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  (boto3 will meet it too, and name it)
            error.__traceback__ = None  # The runtime keeps the error, which would keep the frames, which keep the request.
            if getattr(error, "status_code", None) != ABSENT:
                self._fail(request, error)
                return None
            answer = Answer(status=ABSENT, chunks=[getattr(error, "body", None) or b""])
        self._failures = 0
        return answer

    @staticmethod
    def is_whole(answer: Answer, data: bytes) -> bool:
        """Compare the bytes of an object with the length and the checksums in the headers."""
        if len(data) != int(answer.headers.get("content-length", -1)):
            return False
        checksums = {name.removeprefix(_CHECKSUM): value for name, value in answer.headers.items() if name.startswith(_CHECKSUM)}
        return not any(contradicts_s3(data, name, value) for name, value in checksums.items())

    def _provider(self) -> AwsCredentialsProvider | None:
        """Return the signer with boto3's present credentials, which may be fetched here; None if there are none."""
        credentials = call_apart(partial(frozen_credentials, self._client))  # They may come from afar.
        if credentials is None:
            return None
        signer = self._signer
        if signer is None or signer[0] != credentials:
            self._signer = signer = credentials, AwsCredentialsProvider.new_static(*credentials)
        return signer[1]

    def _route(self, bucket: str) -> Route | None:
        if bucket not in self._routes:
            self._routes[bucket] = route(self._client, bucket)
        return self._routes[bucket]

    def _finish(self, request: Request, sent: S3Request, answer: Answer) -> None:
        """Wait for the end of a request, or cancel it when it takes too long, its answer is too long, or a stop is requested."""
        seconds = _NEVER if self._timeout is None else most_seconds(request.size, self._timeout)
        try:
            if answer.begun:
                sent.finished_future.add_done_callback(lambda _: answer.begin())
                await_result(answer.begun, _NEVER if self._timeout is None else self._timeout)
            if answer.is_too_long:
                sent.cancel()
            else:
                await_result(sent.finished_future, seconds)
        except BaseException:
            sent.cancel()
            # Not long: but a part that is still on its way may arrive after its upload has been aborted.
            wait([sent.finished_future], _CANCELLING)
            raise

    def _fail(self, request: Request, error: Exception) -> None:
        self._routes.pop(request.key.bucket or "", None)  # The bucket may have been elsewhere; boto3 learns where it is.
        self._failures += 1
        status = getattr(error, "status_code", None)
        if status is None or (status >= _SERVER_ERROR and status != _UNKNOWN):
            # The store may still work on it, or be overloaded.
            sleep(random.uniform(0, _PAUSE))  # noqa: S311
        _log.debug("%s of %s is left to boto3: %s", request.operation, request.key, plain(error))
        if self._failures >= _MOST_FAILURES:
            self._rests_until = time.monotonic() + _REST
            _log.info(
                "After %s failures all requests are left to boto3 for %.0f seconds: %s", self._failures, _REST, plain(error)
            )


def _runtime(client: Any, ca_bundle: str | None) -> Runtime:
    tls = _tls_options(Path(ca_bundle)) if ca_bundle else None
    group = EventLoopGroup(_THREADS)
    _STARTED.add(group)
    seconds: float | None = client.meta.config.connect_timeout
    runtime = Runtime(
        bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
        region=client.meta.region_name,
        tls_mode=S3RequestTlsMode.ENABLED if tls else S3RequestTlsMode.DISABLED,
        tls_connection_options=tls,
        retry_config=S3RetryConfig(retry_mode=S3RetryMode.NONE),
        throughput_target_gbps=_GBPS * max(_CONNECTIONS, client.meta.config.max_pool_connections),
        connect_timeout_ms=None if seconds is None else max(1, round(seconds * 1000)),
    )
    _STARTED.add(runtime)
    return runtime


_STARTED: Final = weakref.WeakSet[Any]()
"""The objects of this process that have threads."""


def _keep_started() -> None:
    """Never end the parent's objects in a forked child, not even at its exit: their threads are not there, so it would crash."""
    for each in tuple(_STARTED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


os.register_at_fork(after_in_child=_keep_started)


def _tls_options(ca_bundle: Path) -> TlsConnectionOptions:
    options = TlsContextOptions()
    if ca_bundle.is_dir():
        options.override_default_trust_store_from_path(str(ca_bundle), None)
    else:
        options.override_default_trust_store_from_path(None, str(ca_bundle))
    return ClientTlsContext(options).new_connection_options()


def _signed(request: Request, region: str, signer: AwsCredentialsProvider) -> AwsSigningConfig:
    return AwsSigningConfig(
        algorithm=AwsSigningAlgorithm.V4,
        signature_type=AwsSignatureType.HTTP_REQUEST_HEADERS,
        service="s3",
        region=region,
        credentials_provider=signer,
        use_double_uri_encode=False,
        should_normalize_uri_path=False,
        signed_body_value=request.payload_hash,
        signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
    )


def _http(request: Request, way: Route, user_agent: str) -> HttpRequest:
    query = f"?{urlencode(request.query, quote_via=quote, safe='~')}" if request.query else ""
    headers = [("Host", way.host), ("User-Agent", user_agent), *request.headers]
    body = BodyFile(request.data) if request.data else None
    path = f"{way.path}/{quote(request.key.key, safe='/~')}" if request.key.key else way.path or "/"
    return HttpRequest(request.method, f"{path}{query}", HttpHeaders(headers), body)
