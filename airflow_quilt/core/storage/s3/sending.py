"""Sending of small bodies at once: boto3 asks before it sends any body, which takes a round trip (``Expect: 100-continue``)."""

from typing import TYPE_CHECKING, Any, Final

from airflow_quilt.core.storage.objects import CHUNK

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SIZES: Final = ("X-Amz-Decoded-Content-Length", "Content-Length")
"""The headers that state the size of a body; the second one counts the framing of the first one's, or is missing."""


def send_small_bodies_at_once(client: "S3Client") -> None:
    """Let a boto3 client send bodies of up to :data:`CHUNK` bytes with their headers; a refusal comes after them as well."""
    client.meta.events.register("before-send.s3.PutObject", _send_at_once, unique_id=__name__)


def _send_at_once(request: Any, **_: object) -> None:
    size = next((request.headers[name] for name in _SIZES if name in request.headers), None)
    if size is not None and int(size) <= CHUNK:
        request.headers.pop("Expect", None)
