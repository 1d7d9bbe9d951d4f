"""Work that is stopped while a request of it hangs: it ends, asks nothing more of the store, and leaves nothing open."""

import itertools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.errors import CancelledError
from airflow_quilt.core.format.uris import RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.stop import stoppable
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from testbed.faults import Fault
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from tests.support import workers_since

THREADS = 4
HANG = 60.0
"""Seconds for which a request is held up."""
PARTS = 9 * 1024 * 1024

Work = Callable[[Registry, str, Path, threading.Event], object]


def push_all(registry: Registry, source: str, directory: Path, stop: threading.Event) -> object:
    entries = {"new/": str(directory), "copied": f"s3://{source}/d/large", "found/": f"s3://{source}/d/"}
    return push(registry, Draft(package=f"team/{directory.name}", entries=entries), stop=stop)


def install_all(registry: Registry, _: str, directory: Path, stop: threading.Event) -> object:
    return install(registry, Reference("team/data"), str(directory / "out"), stop=stop)


def verify_all(registry: Registry, _: str, __: Path, stop: threading.Event) -> object:
    return verify(registry, Reference("team/data"), read_all=True, stop=stop)


def delete_all(registry: Registry, _: str, __: Path, stop: threading.Event) -> object:
    with stoppable(stop):
        return registry.delete("team/data")


def is_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.path


def is_copy(request: Request) -> bool:
    return "x-amz-copy-source" in request.headers


HELD: Mapping[str, tuple[Work, Callable[[Request], bool]]] = {
    "push: a listing": (push_all, lambda request: "versions" in request.path),
    "push: the begin of an upload": (push_all, lambda request: request.path.endswith("?uploads")),
    "push: a part": (push_all, lambda request: is_part(request) and not is_copy(request)),
    "push: a copied part": (push_all, lambda request: is_part(request) and is_copy(request)),
    "push: the end of an upload": (push_all, lambda request: request.method == "POST" and "uploadId=" in request.path),
    "push: the manifest": (push_all, lambda request: request.method == "PUT" and "/.quilt/packages/" in request.path),
    "push: latest": (push_all, lambda request: request.method == "PUT" and request.path.endswith("/latest")),
    "install: a large object": (install_all, lambda request: request.method == "GET" and "/team/data/large" in request.path),
    "verify: a small object": (verify_all, lambda request: request.method == "GET" and "/team/data/small" in request.path),
    "delete: the pointers": (delete_all, lambda request: request.method == "GET" and "named_packages" in request.path),
}


@pytest.fixture(scope="module")
def stage(s3: S3Server) -> tuple[str, str]:
    """A bucket with a package, and a bucket of its sources."""
    registry, source = s3.make_bucket("stops-registry"), s3.make_bucket("stops-source")
    for name, size in (("large", PARTS), ("small", 10)):
        s3.client().put_object(Bucket=source, Key=f"d/{name}", Body=bytes(size))
    stores = Stores(LocalStorage(), S3Storage(s3.client()))
    push(Registry(RegistryLocation.parse(f"s3://{registry}"), stores), Draft(package="team/data", entries=f"s3://{source}/d/"))
    return registry, source


def open_uploads(s3: S3Server, bucket: str) -> list[Any]:
    return s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])


@pytest.mark.parametrize(
    ("held", "transport"),
    [
        *((held, "auto") for held in HELD),
        *((held, "boto3") for held in ("push: a listing", "push: a part", "verify: a small object")),
    ],
)
def test_hanging_request_is_left(
    s3: S3Server, stage: tuple[str, str], proxy: S3Proxy, tmp_path: Path, held: str, transport: Transport
) -> None:
    (work, where), (bucket, source), stop = HELD[held], stage, threading.Event()
    for name in ("small", "large"):
        (tmp_path / name).write_bytes(bytes(PARTS if name == "large" else 10))
    seen: list[int] = []

    def hold(request: Request) -> Fault | None:
        if not where(request):
            return None
        seen.append(len(proxy.requests))
        threading.Timer(0.1, stop.set).start()
        return Fault("delay", late=True, seconds=HANG)

    stores = Stores(LocalStorage(), S3Storage(proxy.store.client(), transport=transport), limits=Limits(max_concurrency=THREADS))
    before = threading.enumerate()
    with proxy.disturbed(hold), pytest.raises(CancelledError, match="stopped on request"):
        work(Registry(RegistryLocation.parse(f"s3://{bucket}"), stores), source, tmp_path, stop)

    assert not proxy.is_idle  # The request hangs still: the work has not waited for it.
    # Requests of the other threads may have been on their way, and clean-up follows.
    after = [request for request in itertools.islice(proxy.requests, seen[0], None) if request.method != "DELETE"]
    assert len(after) <= 2 * THREADS
    proxy.end()
    proxy.wait_until_idle()
    for thread in workers_since(before):
        thread.join(HANG)
    assert len(proxy.requests) <= seen[0] + 3 * THREADS
    assert open_uploads(s3, bucket) == []
