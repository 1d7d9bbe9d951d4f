"""Events of a Quilt stack about packages, from an SQS queue.

A stack publishes them through EventBridge: source ``com.quiltdata``, detail type ``package-revision``
(https://docs.quilt.bio/quilt-platform-administrator/advanced-usage/eventbridge); a rule sends them to the queue. Each arrives
at least once, in no order, so an event is only a reason to poll.
"""

import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.storage.s3.errors import translated
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
_OF_AWS: Final = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.")
"""The beginning of a URL of AWS, with its region."""


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
    def parse(cls, body: str) -> Self | None:
        """Parse the body of a message, which SNS wraps once more; return None for an event of another kind."""
        try:
            event: Any = json.loads(body)
            if isinstance(event, dict) and "Message" in event:
                event = json.loads(event["Message"])
            if event["detail-type"] != _KIND:
                return None
            detail = event["detail"]
            return cls(f"s3://{detail['bucket']}", str(detail["handle"]), str(detail["topHash"]))
        except (ValueError, TypeError, KeyError):
            return None


class PackageQueue:
    """An SQS queue of package events.

    Args:
        url: the queue's.
        settings: the Quilt connection's; its AWS connection provides the credentials, and the region unless the URL
            names one. An endpoint of that connection for all services is taken for S3's: the queue is where its URL says,
            unless ``service_config`` names an endpoint for ``sqs``.
        longest: the most seconds for which one request waits for messages.

    Raises:
        QuiltError: no session can be made with the AWS connection.
    """

    def __init__(self, url: str, settings: "QuiltSettings", longest: float = _LONGEST) -> None:
        self._url = url
        hook = BoundedAwsHook(settings.aws_conn_id, region_name=settings.region_name, client_type="sqs", timeout=longest + _GRACE)
        of_sqs = hook.conn_config.service_config.setdefault("sqs", {})
        if hook.conn_config.endpoint_url:
            parts = urlsplit(url)
            of_sqs.setdefault("endpoint_url", f"{parts.scheme}://{parts.netloc}")
        region = found[1] if (found := _OF_AWS.match(url)) else hook.region_name
        self._client: Any = hook.get_client_type(region_name=region)
        self._receipts: list[dict[str, str]] = []

    def receive(self, seconds: float) -> Collection[PackageEvent]:
        """Wait for messages, at most for so many seconds; return their events. Other messages are dropped.

        Raises:
            QuiltError: the queue cannot be read.
        """
        wait = max(1, min(_LONGEST, int(seconds)))
        with translated(self._url):
            response = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=wait)
        messages = response.get("Messages", ())
        self._receipts += [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages, len(self._receipts))
        ]
        return [event for message in messages if (event := PackageEvent.parse(message["Body"]))]

    def done(self) -> None:
        """Delete the received messages; until then the queue delivers them again, in case their receiver is lost."""
        while self._receipts:
            batch, self._receipts = self._receipts[:_BATCH], self._receipts[_BATCH:]
            try:
                with translated(self._url):
                    self._client.delete_message_batch(QueueUrl=self._url, Entries=batch)
            except QuiltError as error:
                _log.warning("Events stay in the queue and will be delivered again: %s", error)
