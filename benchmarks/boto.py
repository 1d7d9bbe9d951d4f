"""One piece of work, done by boto3's transfer manager as it is set, in a process of its own; see :mod:`benchmarks.client`."""

from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager

from benchmarks.client import main


def upload_directory(bucket: str, prefix: str, source: str) -> dict[str, Any]:
    """Upload the files of a directory; their paths below it follow a prefix, which ends in ``/``."""
    paths = [path for path in Path(source).rglob("*") if path.is_file()]
    with create_transfer_manager(boto3.client("s3"), TransferConfig()) as manager:
        running = [manager.upload(str(path), bucket, f"{prefix}{path.relative_to(source)}") for path in paths]
        for each in running:
            each.result()
    return {"entries": len(paths)}


def download_prefix(bucket: str, prefix: str, dest: str) -> dict[str, Any]:
    """Download the objects of a prefix to a directory."""
    client = boto3.client("s3")
    running = []
    with create_transfer_manager(client, TransferConfig()) as manager:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page["Contents"]:
                path = Path(dest, each["Key"].removeprefix(prefix))
                path.parent.mkdir(parents=True, exist_ok=True)
                running.append(manager.download(bucket, each["Key"], str(path)))
        for future in running:
            future.result()
    return {"entries": len(running)}


if __name__ == "__main__":
    main(globals())
