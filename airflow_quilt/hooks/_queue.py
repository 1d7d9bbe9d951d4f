"""Events of a Quilt stack about packages, from an SQS queue.

A stack publishes them through EventBridge: source ``com.quiltdata``, detail type ``package-revision``
(https://docs.quilt.bio/quilt-platform-administrator/advanced-usage/eventbridge); a rule sends them to the queue. Each arrives
at least once, in no order, so an event is only a reason to poll.
"""

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct

from airflow_quilt.core.errors import InputError, StorageError, plain, quoted
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.storage.s3.answers import bound_answers
from airflow_quilt.core.storage.s3.errors import translated
from airflow_quilt.hooks._secrets import check_url
from airflow_quilt.hooks.aws import BoundedAwsHook

if TYPE_CHECKING:
    from airflow_quilt.hooks._settings import QuiltSettings

_log = logging.getLogger(__name__)

_BATCH: Final = 10
"""SQS's limit of messages per request."""
_LONGEST: Final = 20
"""Seconds that SQS waits for a message at most."""
_GRACE: Final = 5
"""Seconds that an answer may take in addition."""
_KIND: Final = "package-revision"
_MOST_CHARACTERS: Final = 65_536
"""The longest body that is parsed, some fifty times an event's; SQS takes up to 1 MiB of anything."""
_MOST_BYTES: Final = 40 * 1024 * 1024
"""The most bytes of an answer: ten such messages, of characters that JSON writes as three times as many."""
_OF_AWS: Final = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.")
"""The beginning of a URL of AWS, with its region."""


class _Detail(Struct, rename="camel"):
    bucket: str
    handle: str
    top_hash: str


class _Message(Struct, rename={"kind": "detail-type", "detail": "detail", "wrapped": "Message"}):
    """A message of EventBridge, or of SNS with one in it."""

    kind: str | None = None
    detail: Raw = Raw(b"null")
    wrapped: str | None = None


@dataclass(frozen=True, slots=True)
class PackageEvent:
    """An event: a package has a new revision.

    Attributes:
        registry: ``s3://bucket``.
        package: ``namespace/name``.
        top_hash: of the revision, which may no longer be the latest one.
    """

    registry: str
    package: str
    top_hash: str

    @classmethod
    def parse(cls, body: object) -> Self | None:
        """Parse the body of a message, which SNS wraps once more; return None for an event of another kind.

        Raises:
            InputError: it is no event at all: anyone who may write to the queue chose it.
        """
        try:
            message = _decoded(body)
            if message.wrapped is not None:
                message = _decoded(message.wrapped)
            if message.kind != _KIND:
                return None
            detail = msgspec.json.decode(message.detail, type=_Detail)
            return cls(f"s3://{detail.bucket}", str(PackageName.parse_existing(detail.handle)), detail.top_hash)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: texts that UTF-8 cannot hold, and ours.
            raise InputError(f"no event of a package: {plain(error)}") from error


def _decoded(body: object) -> _Message:
    if not isinstance(body, str) or len(body) > _MOST_CHARACTERS:
        raise InputError(f"expected text of at most {_MOST_CHARACTERS:,} characters")
    return msgspec.json.decode(body, type=_Message)


class PackageQueue:
    """An SQS queue of package events.

    Args:
        url: the queue's.
        settings: the Quilt connection's; its AWS connection provides the credentials, and the region unless the URL
            names one. An endpoint of that connection for all services is taken for S3's: the queue is where its URL says,
            unless ``service_config`` names an endpoint for ``sqs``.
        longest: the most seconds for which one request waits for messages.

    Raises:
        SettingsError: the URL holds a login.
        QuiltError: no session can be made with the AWS connection.
    """

    def __init__(self, url: str, settings: "QuiltSettings", longest: float = _LONGEST) -> None:
        check_url("queue", url)
        self._url = url
        hook = BoundedAwsHook(settings.aws_conn_id, region_name=settings.region_name, client_type="sqs", timeout=longest + _GRACE)
        of_sqs = hook.conn_config.service_config.setdefault("sqs", {})
        if hook.conn_config.endpoint_url:
            parts = urlsplit(url)
            of_sqs.setdefault("endpoint_url", f"{parts.scheme}://{parts.netloc}")
        region = found[1] if (found := _OF_AWS.match(url)) else hook.region_name
        self._client: Any = hook.get_client_type(region_name=region)
        bound_answers(self._client, _MOST_BYTES)
        self._receipts: list[str] = []

    def receive(self, seconds: float) -> Collection[PackageEvent]:
        """Wait for messages, at most for so many seconds; return their events.

        Other messages are dropped, and those that are no events at all logged, one for all of an answer: :meth:`done` deletes
        them too, so that none comes back.

        Raises:
            QuiltError: the queue cannot be read.
        """
        wait = max(1, min(_LONGEST, int(seconds)))
        with translated(self._url):
            response = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=wait)
            messages = [(message["ReceiptHandle"], message.get("Body")) for message in response.get("Messages", ())]
        self._receipts += [receipt for receipt, _ in messages]
        events, faults = list[PackageEvent](), list[str]()
        for _, body in messages:
            try:
                event = PackageEvent.parse(body)
            except InputError as error:
                faults.append(f"{error}: {quoted(body)}")
            else:
                events += [event] if event else []
        if faults:
            _log.warning("%s of %s messages of the queue are dropped, the first: %s", len(faults), len(messages), faults[0])
        return events

    def done(self) -> None:
        """Delete the received messages; until then the queue delivers them again, in case their receiver is lost.

        Raises:
            QuiltError: some could not be deleted, and are delivered again.
        """
        receipts, self._receipts = self._receipts, []
        for start in range(0, len(receipts), _BATCH):
            entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts[start:][:_BATCH])]
            with translated(self._url):
                answer = self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
                failed = [str(each.get("Code")) for each in answer.get("Failed", ())]
            if failed:
                raise StorageError(f"{len(failed)} messages could not be deleted ({plain(failed[0])})", self._url)
