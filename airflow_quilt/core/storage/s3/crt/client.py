"""Requests to an S3 store through the AWS Common Runtime, signed, addressed and verified as a boto3 client would do it."""

import ctypes
import io
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
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
from awscrt.s3 import S3RequestTlsMode, S3RequestType, S3RetryConfig, S3RetryMode
from botocore import UNSIGNED

from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.s3.crt.route import Route, frozen_credentials, route, verified_by, why_not
from airflow_quilt.core.storage.s3.fields import bucket_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

_THREADS: Final = 2
_MOST_FAILURES: Final = 16
_REST: Final = 60.0
"""Seconds for which boto3 is asked at once, after so many failures one after the other."""
_SLOWEST: Final = 16 * 1024
"""Bytes a second: who is slower may be given up. A connection on which nothing moves at all ends by itself."""
_PAUSE: Final = 1.0
"""Seconds, the most of them, before boto3 makes a request again: as many as it waits itself before its second try."""
_SERVER_ERROR: Final = 500
_UNKNOWN: Final = 501
"""What the store answers to a request that it does not know."""
ABSENT: Final = 404
"""What the store answers where there is no object; all other errors are left to boto3."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and how many bytes it moves.

    Attributes:
        hashed: what stands for its bytes in the signature.
        most: the most bytes of an answer that are wanted.
    """

    operation: str
    method: str
    key: PhysicalKey
    query: Mapping[str, Any]
    headers: list[tuple[str, str]]
    hashed: str
    size: int
    data: bytes = b""
    most: int | None = None


@dataclass(slots=True)
class Answer:
    """What comes of a request; the runtime's threads fill it in.

    Attributes:
        is_too_long: whether there are more bytes than are wanted, which are not kept.
        begun: set as soon as it is known whether there are.
    """

    most: int | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    is_too_long: bool = False
    begun: threading.Event = field(default_factory=threading.Event)

    def begin(self, status_code: int, headers: list[tuple[str, str]], **_: object) -> None:
        """Take what comes before the bytes."""
        self.status = status_code
        self.headers = {name.lower(): value for name, value in headers}
        self.is_too_long = self.most is not None and int(self.headers.get("content-length", 0)) > self.most
        self.begun.set()

    def wait(self, seconds: float | None) -> None:
        """Wait until it begins.

        Raises:
            TimeoutError: it does not in that time.
        """
        if not self.begun.wait(seconds):
            raise TimeoutError(f"no answer within {seconds} seconds")

    def go_on(self, chunk: bytes, **_: object) -> None:
        """Take some bytes."""
        if not self.is_too_long:
            self.chunks.append(chunk)


class CrtClient:
    """The threads and connections of one process; they end when nobody holds it any more."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._timeout: float | None = client.meta.config.read_timeout
        self._is_safe = client.meta.endpoint_url.startswith("https:")
        self._is_anonymous = client.meta.config.signature_version is UNSIGNED
        self._runtime = _runtime(client, verified_by(client) if self._is_safe else None)
        self._routes: dict[str, Route | None] = {}
        self._signer: tuple[tuple[str, str, str | None], AwsCredentialsProvider] | None = None
        self._failures, self._rests_until = 0, 0.0

    @property
    def is_ready(self) -> bool:
        """Whether a request is worth the while, after how the last ones went."""
        return time.monotonic() >= self._rests_until

    def value_of(self, data: bytes) -> str:
        """Return what stands for the bytes in the signature, as boto3 has it: their hash, unless TLS guards them."""
        return AwsSignedBodyValue.UNSIGNED_PAYLOAD if self._is_safe else sha256(data).hexdigest()

    def make(self, request: Request) -> Answer | None:
        """Make a request once; return what the store answers to it, or None for an error of any kind."""
        signer = None if self._is_anonymous else self._provider()
        try:
            answer = self._make(request, signer) if signer or self._is_anonymous else None
        except Exception as error:  # noqa: BLE001  (boto3 will meet it too, and name it)
            error.__traceback__ = None  # The runtime keeps the error, which would keep the frames, which keep the request.
            if getattr(error, "status_code", None) != ABSENT:
                self._fail(request, error)
                return None
            answer = Answer(status=ABSENT, chunks=[getattr(error, "body", None) or b""])  # It says what there is to say.
        self._failures = 0
        return answer

    def _provider(self) -> AwsCredentialsProvider | None:
        """Return what signs with the credentials that boto3 would sign with now; they may be fetched here."""
        credentials = frozen_credentials(self._client)
        if credentials is None:
            return None
        signer = self._signer
        if signer is None or signer[0] != credentials:
            self._signer = signer = credentials, AwsCredentialsProvider.new_static(*credentials)
        return signer[1]

    def _make(self, request: Request, signer: AwsCredentialsProvider | None) -> Answer | None:
        bucket = bucket_of(request.key)
        if bucket not in self._routes:
            self._routes[bucket] = route(self._client, bucket)
        way = self._routes[bucket]
        return self._send(request, way, _signed(request, way.region, signer) if signer else None) if way else None

    def _send(self, request: Request, way: Route, signing: AwsSigningConfig | None) -> Answer:
        answer = Answer(request.most)
        sent = self._runtime.make_request(
            type=S3RequestType.DEFAULT,
            operation_name=request.operation,
            request=_http(request, way, self._client.meta.config.user_agent),
            signing_config=signing,
            on_headers=answer.begin,
            on_body=answer.go_on if request.method == "GET" else None,
        )
        seconds = None if self._timeout is None else self._timeout + request.size / _SLOWEST
        try:
            if request.most is not None:
                sent.finished_future.add_done_callback(lambda _: answer.begun.set())
                answer.wait(self._timeout)
            if answer.is_too_long:
                sent.cancel()
            else:
                sent.finished_future.result(seconds)
        except BaseException:
            sent.cancel()
            raise
        return answer

    def _fail(self, request: Request, error: Exception) -> None:
        self._routes.pop(request.key.bucket or "", None)  # The bucket may have been elsewhere; boto3 learns where it is.
        self._failures += 1
        status = getattr(error, "status_code", None)
        if status is None or (status >= _SERVER_ERROR and status != _UNKNOWN):
            # The store may be at it still, or be asked for too much.
            time.sleep(random.uniform(0, _PAUSE))  # noqa: S311
        _log.debug("%s of %s is left to boto3: %s", request.operation, request.key, error)
        if self._failures >= _MOST_FAILURES:
            self._rests_until = time.monotonic() + _REST
            _log.info("After %s failures all requests are left to boto3 for %.0f seconds: %s", self._failures, _REST, error)


def start(client: "S3Client") -> CrtClient | None:
    """Start what makes requests like those of a boto3 client; or say why boto3 is to make them."""
    reason = why_not(client)
    try:
        if reason is None:
            return CrtClient(client)
    except Exception as error:  # noqa: BLE001  (such as a file of authorities that the runtime cannot read)
        reason = f"the common runtime does not start ({error})"
    _log.info("The bytes of objects go through boto3, which is slower: %s", reason)
    return None


def _runtime(client: Any, authorities: str | None) -> Runtime:
    tls = _trusting(Path(authorities)) if authorities else None
    group = EventLoopGroup(_THREADS)
    _STARTED.add(group)
    seconds: float | None = client.meta.config.connect_timeout
    runtime = Runtime(
        bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
        region=client.meta.region_name,
        tls_mode=S3RequestTlsMode.ENABLED if tls else S3RequestTlsMode.DISABLED,
        tls_connection_options=tls,
        retry_config=S3RetryConfig(retry_mode=S3RetryMode.NONE),
        connect_timeout_ms=None if seconds is None else max(1, round(seconds * 1000)),
    )
    _STARTED.add(runtime)
    return runtime


_STARTED: Final = weakref.WeakSet[Any]()
"""What has threads, in this process."""


def _keep_what_the_parent_started() -> None:
    """Let nothing end it in this process, not even the end of the process: its threads are not here, and that would crash."""
    for each in tuple(_STARTED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


os.register_at_fork(after_in_child=_keep_what_the_parent_started)


def _trusting(authorities: Path) -> TlsConnectionOptions:
    options = TlsContextOptions()
    if authorities.is_dir():
        options.override_default_trust_store_from_path(str(authorities), None)
    else:
        options.override_default_trust_store_from_path(None, str(authorities))
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
        signed_body_value=request.hashed,
        signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
    )


def _http(request: Request, way: Route, user_agent: str) -> HttpRequest:
    query = f"?{urlencode(request.query, quote_via=quote, safe='~')}" if request.query else ""
    headers = [("Host", way.host), ("User-Agent", user_agent), *request.headers]
    body = io.BytesIO(request.data) if request.data else None
    path = f"{way.path}/{quote(request.key.key, safe='/~')}" if request.key.key else way.path or "/"
    return HttpRequest(request.method, f"{path}{query}", HttpHeaders(headers), body)
