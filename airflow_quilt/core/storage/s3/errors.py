"""The core's errors for those of boto and of S3 stores."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from airflow_quilt.core.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ChecksumMismatchError,
    CredentialsExpiredError,
    ObjectNotFoundError,
    PreconditionError,
    QuiltError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
    UnsupportedError,
    UploadVanishedError,
    plain,
)
from airflow_quilt.core.format.uris import PhysicalKey

_REFUSED: Final = "access denied"
_CODES: Final[Mapping[str, tuple[type[StorageError], str]]] = {
    "404": (ObjectNotFoundError, "there is no such object"),
    "NoSuchKey": (ObjectNotFoundError, "there is no such object"),
    "NoSuchVersion": (ObjectNotFoundError, "there is no such version of the object"),
    "NoSuchUpload": (UploadVanishedError, "the upload was completed or aborted"),
    "MethodNotAllowed": (ObjectNotFoundError, "the object was deleted"),
    "405": (ObjectNotFoundError, "the object was deleted"),
    "NoSuchBucket": (BucketNotFoundError, "correct the name, or create it: there is no such bucket"),
    "InvalidBucketName": (BucketNotFoundError, "this is no name of a bucket"),
    "403": (AccessDeniedError, _REFUSED),
    "AccessDenied": (AccessDeniedError, _REFUSED),
    "InvalidAccessKeyId": (AccessDeniedError, "correct the access key: the store does not know it"),
    "SignatureDoesNotMatch": (AccessDeniedError, "correct the secret key: it does not match the access key"),
    "InvalidToken": (AccessDeniedError, "give a new session token: this one is not valid"),
    "InvalidClientTokenId": (AccessDeniedError, "correct the access key: AWS does not know it"),
    "UnrecognizedClientException": (AccessDeniedError, "correct the access key: AWS does not know it"),
    "UnauthorizedException": (AccessDeniedError, "AWS does not accept the session of the login"),
    "InvalidIdentityToken": (AccessDeniedError, "AWS does not accept the token of the identity provider"),
    "IDPCommunicationError": (StorageUnavailableError, "AWS cannot reach the identity provider"),
    "InvalidObjectState": (StorageError, "restore the object first: it is archived"),
    "ExpiredToken": (CredentialsExpiredError, "the credentials have expired"),
    "ExpiredTokenException": (CredentialsExpiredError, "the credentials have expired"),
    "RequestExpired": (CredentialsExpiredError, "the credentials have expired"),
    "TokenRefreshRequired": (CredentialsExpiredError, "the credentials have expired"),
    "412": (PreconditionError, "the object is not in the state that was expected"),
    "PreconditionFailed": (PreconditionError, "the object is not in the state that was expected"),
    # Of the conflicts only these are to be repeated ("Error responses", Amazon S3 API Reference). They prove nothing of the
    # object: its other writer may fail.
    "ConditionalRequestConflict": (StorageUnavailableError, "another request is changing the object at this moment"),
    "OperationAborted": (StorageUnavailableError, "another request is changing the object at this moment"),
    "409": (StorageUnavailableError, "another request is changing the object at this moment"),
    "NotImplemented": (UnsupportedError, "the store does not know this request"),
    "501": (UnsupportedError, "the store does not know this request"),
    "SlowDown": (ThrottledError, "the store asks to slow down"),
    "Throttling": (ThrottledError, "the store asks to slow down"),
    "ThrottlingException": (ThrottledError, "the store asks to slow down"),
    "TooManyRequests": (ThrottledError, "the store asks to slow down"),
    "RequestLimitExceeded": (ThrottledError, "the store asks to slow down"),
    "RequestTimeout": (StorageUnavailableError, "the request took too long"),
    "RequestTimeTooSkewed": (StorageUnavailableError, "set the clock of this machine: it and that of the store differ too much"),
}
_OTHER_BYTES: Final = {"BadDigest", "InvalidPart", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_STATUSES: Final[Mapping[int, tuple[type[StorageError], str]]] = {
    401: (AccessDeniedError, _REFUSED),
    403: (AccessDeniedError, _REFUSED),
    429: (ThrottledError, "the store asks to slow down"),
    501: (UnsupportedError, "the store does not know this request"),
}
"""Errors by the status of HTTP, for codes that are not known."""
_LONGEST: Final = 1000
"""The most characters of boto's messages, which may hold the store's."""
_LONGEST_REASON: Final = 400
"""The most characters of a store's own sentence: AWS names in it the identity, the action, the resource and the policy."""
_GET: Final = "s3:GetObject"
_READS: Final = {"GetObject", "HeadObject"}
ACTIONS: Final[Mapping[str, str]] = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "AssumeRole": "sts:AssumeRole",
    "AssumeRoleWithSAML": "sts:AssumeRoleWithSAML",
    "AssumeRoleWithWebIdentity": "sts:AssumeRoleWithWebIdentity",
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": "s3:GetObject, and at the destination s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteMessageBatch": "sqs:DeleteMessage",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObject": _GET,
    "GetObjectAttributes": "s3:GetObjectAttributes",
    "HeadObject": _GET,
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "PutObject": "s3:PutObject",
    "ReceiveMessage": "sqs:ReceiveMessage",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:GetObject, and at the destination s3:PutObject",
}
"""The permissions that requests take ("Required permissions for Amazon S3 API operations", Amazon S3 User Guide)."""
_NAMED_ACTION: Final = re.compile(r"perform: ([a-z0-9-]+:[A-Za-z]+)")
_SERVER_ERROR: Final = 500
_SERVER_ERRORS: Final = {"InternalError", "ServiceUnavailable"}
"""Codes for one object of a batch, which come without a status."""
NO_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    NoAuthTokenError,
    RefreshWithMFAUnsupportedError,
    SSOError,
)
"""boto's errors for credentials that are not there, or that only a new login gives."""
UNAVAILABLE: Final = (
    BotoConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
)
"""boto's errors for services that do not answer, those that give credentials among them."""
_KINDS: Final[Sequence[tuple[tuple[type[BotoCoreError], ...], type[StorageError], str]]] = (
    (NO_CREDENTIALS, AccessDeniedError, "no credentials; give it some, or an API key: "),
    ((TokenRetrievalError,), CredentialsExpiredError, "the session of the login has expired: "),
    (UNAVAILABLE, StorageUnavailableError, ""),
    ((BotoCoreError,), StorageError, ""),
)
_INVALID_HEADER: Final = "Invalid header value"
"""The beginning of http.client's message about a header that it does not send; the value follows."""


@contextlib.contextmanager
def translated(key: PhysicalKey | str) -> Iterator[None]:
    """Raise the core's errors for those of boto; they name the key, or another place."""
    try:
        yield
    except ClientError as error:
        details = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        is_pinned = isinstance(key, PhysicalKey) and key.version_id is not None
        action = f"{_GET}Version" if is_pinned and error.operation_name in _READS else ACTIONS.get(error.operation_name)
        raise error_of(code_of(error), details.get("Message", ""), status, str(key), action) from error
    except FlexibleChecksumError as error:
        raise ChecksumMismatchError(f"{key}: other bytes came than the store has: {plain(error)}") from error
    except BotoCoreError as error:
        kind, meaning = next((kind, meaning) for kinds, kind, meaning in _KINDS if isinstance(error, kinds))
        if _INVALID_HEADER in str(error):  # And then the session token, or the access key.
            raise AccessDeniedError(
                "the credentials have line breaks, or other characters that no request holds", str(key)
            ) from None
        raise kind(f"{meaning}{plain(error, _LONGEST)}", str(key)) from error
    except QuiltError:
        raise
    except Exception as error:  # For an answer that was damaged on its way botocore raises errors of many kinds.
        raise StorageUnavailableError(f"the answer cannot be read: {type(error).__name__} {plain(error)}", str(key)) from error


def _refused(reason: str, location: str, action: str | None) -> AccessDeniedError:
    """Return the error for a request that the store refuses; AWS names the action itself where it is another one, as of a key."""
    if named := _NAMED_ACTION.search(reason):
        action = named[1]
    hint = "; where s3:ListBucket is not allowed, S3 answers so for an object that is not there, too" if action == _GET else ""
    return AccessDeniedError((f"{_REFUSED} ({reason})" if reason else _REFUSED) + hint, location, action)


def code_of(error: ClientError) -> str:
    """Return the code of an error of S3: its name or, where the answer has no body, its status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_of(code: str, message: str, status: int, location: str, action: str | None = None) -> QuiltError:
    """Return the error for a code of S3 and a status of HTTP, 0 where there is none; ``action`` is the permission it takes."""
    code, message = plain(code), plain(message, _LONGEST_REASON)  # As the store sent them.
    if code in _OTHER_BYTES:
        return ChecksumMismatchError(f"{location}: the store received other bytes than were sent")
    kind, meaning = _CODES.get(code) or _STATUSES.get(status) or (StorageError, "")
    if meaning == _REFUSED:
        return _refused(" ".join(filter(None, ["" if code.isdigit() else code, message])), location, action)
    if kind is BucketNotFoundError and location.startswith("s3://"):
        location = "/".join(location.split("/")[:3])  # Not a key in it, or a prefix that nobody wrote.
    if meaning:
        reason = (message if not code.isdigit() else "") if code in _CODES else f"{code} {message}".strip()
        return kind(f"{meaning} ({reason})" if reason else meaning, location)
    if status >= _SERVER_ERROR or code in _SERVER_ERRORS:
        return StorageUnavailableError(f"the store failed ({status} {code} {message})".strip(), location)
    return StorageError(f"the store refused ({status} {code} {message})".strip(), location)
