"""A process without awscrt, or with an old one: writes and reads objects, and prints their bytes, and a CRC64NVME or its error.

Arguments: the module or the name in a module that shall be missing, endpoint, access key, secret key, bucket.
"""

import importlib
import logging
import sys
from hashlib import sha256

HIDDEN, ENDPOINT, ACCESS_KEY, SECRET_KEY, BUCKET = sys.argv[1:]
module, _, name = HIDDEN.rpartition(".")
if module:
    delattr(importlib.import_module(module), name)
else:
    sys.modules[name] = None  # type: ignore[assignment]

import boto3  # noqa: E402

from airflow_quilt.core.errors import HashTypeError  # noqa: E402
from airflow_quilt.core.format.hashes import hash_of  # noqa: E402
from airflow_quilt.core.format.uris import PhysicalKey  # noqa: E402
from airflow_quilt.core.runtime.retry import NO_RETRY  # noqa: E402
from airflow_quilt.core.storage.s3.storage import S3Storage  # noqa: E402

DATA = b"hello"


def storage() -> S3Storage:
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    return S3Storage(boto3.client("s3", endpoint_url=ENDPOINT, **keys), NO_RETRY)


def cure() -> str:
    try:
        return hash_of(DATA, "CRC64NVME").value
    except HashTypeError as error:
        return str(error)


logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
key = PhysicalKey(BUCKET, "without/awscrt")
storage().put(key, DATA, "create")
parts = storage().begin(PhysicalKey(BUCKET, "without/parts"), "SHA256")
parts.send(1, DATA, sha256(DATA).digest())
sent = parts.complete()
read = [storage().get(key).data, *storage().stream(sent.key, 0, len(DATA))]
sys.stdout.write(f"{read}\n{cure()}\n")
