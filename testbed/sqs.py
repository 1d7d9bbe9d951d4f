"""An SQS queue on loopback, by moto: it checks no signatures, and counts messages."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.handlers import BUILTIN_HANDLERS

from testbed.server import Identity


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: its server, its URL, and a client of it."""

    endpoint: str
    url: str
    client: Any

    def send(self, registry: str, package: str, top_hash: str) -> None:
        """Send an event as a Quilt stack does by EventBridge."""
        detail = {
            "version": "0.1",
            "type": "created",
            "bucket": registry.removeprefix("s3://"),
            "handle": package,
            "topHash": top_hash,
        }
        event = {"version": "0", "source": "com.quiltdata", "detail-type": "package-revision", "detail": detail}
        self.client.send_message(QueueUrl=self.url, MessageBody=json.dumps(event))

    def count(self) -> int:
        """Return the number of messages in the queue, received or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(value) for value in found.values())


@contextlib.contextmanager
def running_queue() -> Iterator[Queue]:
    """Run a server with one queue, until the block ends."""
    from moto.core.models import botocore_stubber
    from moto.server import ThreadedMotoServer

    # The import hooks into every later client of the process, which then makes no request through the common runtime.
    with contextlib.suppress(ValueError):
        BUILTIN_HANDLERS.remove(("before-send", botocore_stubber))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        who = Identity.make()
        client = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
        )
        # A message whose receiver was stopped comes again after these seconds, and not only after SQS's own 30.
        made = client.create_queue(QueueName="packages", Attributes={"VisibilityTimeout": "3"})
        yield Queue(endpoint, made["QueueUrl"], client)
    finally:
        server.stop()
