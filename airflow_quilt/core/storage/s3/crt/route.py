"""The route by which boto3 reaches a bucket, and the reasons why the common runtime cannot take the same one.

Some of it is private to boto3. Where a release has moved the names that are used here, all requests are left to boto3.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore import UNSIGNED
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_OPERATIONS: Final = ("PutObject", "UploadPart", "GetObject", "HeadObject", "ListObjectsV2", "ListObjectVersions")
_EVENTS: Final = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "response-received",
    "after-call",
)
"""The events that boto3 emits for a request that succeeds; one that fails is made again by boto3, which then emits all."""
_OWN: Final = ("botocore.", "boto3.", "airflow_quilt.")
_NOT_OWN: Final = "botocore.stub"
_KNOWN_SETTINGS: Final = frozenset({"addressing_style", "us_east_1_regional_endpoint", "use_arn_region"})
_OPTIONS: Final[Mapping[str, str]] = {
    "proxies": "a proxy",
    "client_cert": "a certificate of its own",
    "use_dualstack_endpoint": "dual-stack endpoints",
    "use_fips_endpoint": "FIPS endpoints",
    "auth_scheme_preference": "a preference among signatures",
    "sigv4a_signing_region_set": "a set of regions to sign for",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The address of the objects of a bucket, and the region of signatures for them.

    Attributes:
        host: the name and port of the server.
        path: the path before the key, without a trailing ``/``: empty, or with the bucket in it.
        region: of the signature.
    """

    host: str
    path: str
    region: str


def why_not(client: "S3Client") -> str | None:
    """Return the reason to leave the requests of a client to boto3; None if the common runtime makes the same ones."""
    try:
        return next(_reasons(client), None)
    except AttributeError as error:
        return f"this release of botocore does not show its settings ({error})"


def _reasons(client: Any) -> Iterator[str]:
    config = client.meta.config
    yield from (f"the client asks for {feature}" for option, feature in _OPTIONS.items() if getattr(config, option, None))
    yield from (f"the client has the S3 setting {name!r}" for name in (config.s3 or {}) if _is_unknown(name, config.s3[name]))
    if config.signature_version not in (UNSIGNED, "s3v4"):
        yield f"the client signs by {config.signature_version!r}"
    if (config.retries or {}).get("mode") == "adaptive":
        yield "the client limits the rate of its requests (retries: adaptive)"
    if get_environ_proxies(client.meta.endpoint_url):
        yield "the environment names a proxy"
    if not verified_by(client):
        yield "the certificate of the store is not to be verified"
    yield from (f"{handler!r} handles the client's events" for handler in _handlers(client) if not _is_own(handler))


def _is_unknown(name: str, value: object) -> bool:
    return value is not None and value is not False and name not in _KNOWN_SETTINGS


def _handlers(client: Any) -> Iterator[Callable[..., Any]]:
    """Yield the handlers of the events of a request that succeeds."""
    emitter = client.meta.events
    emitter = getattr(emitter, "_emitter", emitter)
    for operation in _OPERATIONS:
        for event in _EVENTS:
            yield from emitter._handlers.prefix_search(f"{event}.s3.{operation}")  # noqa: SLF001


def _is_own(handler: Callable[..., Any]) -> bool:
    module = f"{getattr(handler, '__module__', '')}."
    return module.startswith(_OWN) and not module.startswith(_NOT_OWN)


def verified_by(client: Any) -> str | None:
    """Return the path of the CA bundle (PEM), or of a directory of such, of a client; None where it verifies no certificate."""
    path = get_cert_path(client._endpoint.http_session._verify)  # noqa: SLF001
    return os.fspath(path) if path else None


def frozen_credentials(client: Any) -> tuple[str, str, str | None] | None:
    """Return access key, secret key and session token of a client, renewed if it is time; None if there are none."""
    credentials = client._get_credentials()  # noqa: SLF001
    return None if credentials is None else tuple(credentials.get_frozen_credentials()[:3])


def route(client: Any, bucket: str) -> Route | None:
    """Return the present route to the objects of a bucket; None where boto3 takes another signature or headers for it."""
    operation = client.meta.service_model.operation_model(_OPERATIONS[0])
    context: dict[str, Any] = {
        "client_region": client.meta.region_name,
        "client_config": client.meta.config,
        "has_streaming_input": True,
        "auth_type": operation.resolved_auth_type,
        "unsigned_payload": operation.unsigned_payload,
        "auth_options": None,
    }
    parameters = client._emit_api_params({"Bucket": bucket, "Key": "key"}, operation, context)  # noqa: SLF001
    url, headers, properties = client._resolve_endpoint_ruleset(operation, parameters, context)  # noqa: SLF001
    schemes = [scheme["name"] for scheme in properties.get("authSchemes", [])]
    if headers or schemes not in ([], ["sigv4"]):
        return None
    parts = urlsplit(url)
    return Route(parts.netloc, parts.path.rstrip("/"), context.get("signing", {}).get("region") or client.meta.region_name)
