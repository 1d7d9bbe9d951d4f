"""The core's errors for those of boto and of S3 stores."""

import contextlib
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

_CODES: Final[Mapping[str, tuple[type[StorageError], str]]] = {
    "404": (ObjectNotFoundError, "there is no such object"),
    "NoSuchKey": (ObjectNotFoundError, "there is no such object"),
    "NoSuchVersion": (ObjectNotFoundError, "there is no such version of the object"),
    "NoSuchUpload": (UploadVanishedError, "the upload was completed or aborted"),
    "MethodNotAllowed": (ObjectNotFoundError, "the object was deleted"),
    "405": (ObjectNotFoundError, "the object was deleted"),
    "NoSuchBucket": (BucketNotFoundError, "there is no such bucket"),
    "InvalidBucketName": (BucketNotFoundError, "this is no name of a bucket"),
    "403": (AccessDeniedError, "access denied"),
    "AccessDenied": (AccessDeniedError, "access denied"),
    "InvalidAccessKeyId": (AccessDeniedError, "the store does not know the access key"),
    "SignatureDoesNotMatch": (AccessDeniedError, "the secret key does not match the access key"),
    "InvalidToken": (AccessDeniedError, "the session token is not valid"),
    "InvalidClientTokenId": (AccessDeniedError, "AWS does not know the access key"),
    "UnrecognizedClientException": (AccessDeniedError, "AWS does not know the access key"),
    "UnauthorizedException": (AccessDeniedError, "AWS does not accept the session of the login"),
    "InvalidIdentityToken": (AccessDeniedError, "AWS does not accept the token of the identity provider"),
    "IDPCommunicationError": (StorageUnavailableError, "AWS cannot reach the identity provider"),
    "InvalidObjectState": (StorageError, "the object is archived: restore it first"),
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
    "RequestTimeTooSkewed": (StorageUnavailableError, "the clocks of this machine and the store differ too much"),
}
_OTHER_BYTES: Final = {"BadDigest", "InvalidPart", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_STATUSES: Final[Mapping[int, tuple[type[StorageError], str]]] = {
    401: (AccessDeniedError, "access denied"),
    403: (AccessDeniedError, "access denied"),
    429: (ThrottledError, "the store asks to slow down"),
    501: (UnsupportedError, "the store does not know this request"),
}
"""Errors by the status of HTTP, for codes that are not known."""
_LONGEST: Final = 1000
"""The most characters of boto's messages, which may hold the store's."""
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
    (NO_CREDENTIALS, AccessDeniedError, "no credentials: "),
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
        raise error_of(code_of(error), details.get("Message", ""), status, str(key)) from error
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


def code_of(error: ClientError) -> str:
    """Return the code of an error of S3: its name or, where the answer has no body, its status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_of(code: str, message: str, status: int, location: str) -> QuiltError:
    """Return the error for a code of S3 and a status of HTTP, 0 where there is none."""
    code, message = plain(code), plain(message)  # As the store sent them.
    if code in _OTHER_BYTES:
        return ChecksumMismatchError(f"{location}: the store received other bytes than were sent")
    if code in _CODES:
        kind, meaning = _CODES[code]
        return kind(f"{meaning} ({message})" if message and not code.isdigit() else meaning, location)
    if status in _STATUSES:
        kind, meaning = _STATUSES[status]
        return kind(f"{meaning} ({code} {message})".strip(), location)
    if status >= _SERVER_ERROR or code in _SERVER_ERRORS:
        return StorageUnavailableError(f"the store failed ({status} {code} {message})".strip(), location)
    return StorageError(f"the store refused ({status} {code} {message})".strip(), location)
