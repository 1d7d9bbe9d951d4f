"""Pushes and installs through a network and a store that fail: at each kind of request in turn, and at random."""

import contextlib
import itertools
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format import layout
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.runtime.retry import RetryPolicy
from testbed.faults import KINDS, Fault, Kind, RandomFaults
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import S3Server
from tests.chaos.faults import (
    PARTS,
    Files,
    Make,
    Publisher,
    Tally,
    Weather,
    Work,
    World,
    copies,
    files_in_parts,
    is_begin,
    look,
    objects_in_place,
    path_of,
    publish_through,
    registry_at,
    small_files,
    update,
)

HASTE = 0.4
"""Seconds after which a client gives up that is in a hurry."""
PATIENCE = 30.0
"""Seconds after which one gives up that no busy machine keeps waiting for so long."""
MANIFESTS = "/.quilt/packages/"
POINTERS = "/.quilt/named_packages/"
FAULTS: Mapping[Kind, list[Fault]] = {
    "drop": [Fault("drop")],
    "lose": [Fault("lose")],
    "reset": [Fault("reset"), Fault("reset", late=True)],
    "throttle": [Fault.refusal("SlowDown"), Fault.refusal("NotSoFast")],
    "error": [Fault.refusal("InternalError")],
    "expire": [Fault.refusal("ExpiredToken")],
    "conflict": [Fault.refusal("ConditionalRequestConflict"), Fault.refusal("OperationAborted")],
}


def is_copy(request: Request) -> bool:
    return "x-amz-copy-source" in request.headers


def is_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.path


def is_put_of(request: Request, *ends: str) -> bool:
    return request.method == "PUT" and path_of(request).endswith(ends)


UPLOADS: Mapping[str, Callable[[Request], bool]] = {
    "upload": lambda request: is_put_of(request, "/content.txt"),
    "part": lambda request: is_part(request) and not is_copy(request),
    "manifest": lambda request: request.method == "PUT" and MANIFESTS in request.path,
    "pointer": lambda request: is_put_of(request, *"0123456789") and POINTERS in request.path,
    "latest": lambda request: is_put_of(request, "/latest"),
}
ANSWERS: Mapping[str, Callable[[Request], bool]] = {
    "begin": is_begin,
    "complete": lambda request: request.method == "POST" and "uploadId=" in request.path,
    "copy": lambda request: is_copy(request) and not is_part(request),
    "copied part": lambda request: is_copy(request) and is_part(request),
    "read": lambda request: request.method == "GET" and "/data/" in request.path,
    "not there": lambda request: request.method == "GET" and path_of(request).endswith("/latest"),
    "list": lambda request: request.method == "GET" and "list-type=2" in request.path,
}
REQUESTS = {**UPLOADS, **ANSWERS, "look": lambda request: request.method == "HEAD"}


def everything(world: World, package: str, directory: Path, chance: random.Random, before: Files) -> Work:
    """A push that makes every kind of request."""
    content = {"content.txt": chance.randbytes(100), "content.bin": chance.randbytes(PARTS)}
    copied = {key: f"s3://{world.source}/data/{key}" for key in ("checked", "large")}
    entries = {**content, **copied, "small": f"s3://{world.bucket}/data/small"}
    return Work(Draft(package=package, entries=entries), {**content, **world.objects})


@pytest.fixture(scope="module")
def world(s3: S3Server) -> World:
    return World(s3, s3.make_bucket("faults-registry"), s3.make_bucket("faults-source"))


@pytest.fixture
def publisher(world: World, proxy: S3Proxy, tmp_path: Path, request: pytest.FixtureRequest) -> Publisher:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Publisher(world, f"faults/{name}", proxy, tmp_path, random.Random(1))  # noqa: S311


@pytest.mark.parametrize("kind", FAULTS)
def test_push_survives_each_fault(publisher: Publisher, proxy: S3Proxy, kind: Kind) -> None:
    for fault, where in itertools.product(FAULTS[kind], REQUESTS.values()):
        proxy.order(fault, where)
    publisher.push(everything)

    assert publisher.tally.wrong == []
    assert publisher.tally.errors == {}
    assert len(proxy.faults) == len(FAULTS[kind]) * len(REQUESTS)


def test_push_survives_delays(world: World, proxy: S3Proxy, tmp_path: Path) -> None:
    publisher = Publisher(world, "faults/late", proxy, tmp_path, random.Random(1), HASTE)  # noqa: S311
    for late, where in itertools.product((False, True), REQUESTS.values()):
        proxy.order(Fault("delay", late=late, seconds=1.5 * HASTE), where)
    publisher.push(everything)

    assert publisher.tally.wrong == []
    assert publisher.tally.errors == {}
    assert len(proxy.faults) == 2 * len(REQUESTS)


def test_push_survives_cut_answers(publisher: Publisher, proxy: S3Proxy) -> None:
    for where in ANSWERS.values():
        proxy.truncate(where)
    publisher.push(everything)

    assert publisher.tally.wrong == []
    assert publisher.tally.errors == {}
    assert len(proxy.faults) == len(ANSWERS)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_corrupt_upload_is_resent(publisher: Publisher, proxy: S3Proxy, at: float) -> None:
    for where in UPLOADS.values():
        proxy.order(Fault("corrupt", at=at), where)
    publisher.push(everything)

    assert publisher.tally.wrong == []
    assert publisher.tally.errors == {}
    assert len(proxy.faults) == len(UPLOADS)


@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_corrupt_parts_make_no_object(publisher: Publisher, proxy: S3Proxy, at: float) -> None:
    proxy.order(Fault("corrupt", at=at), ANSWERS["complete"])
    publisher.push(everything)

    assert publisher.tally.wrong == []
    assert len(proxy.faults) == 1


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("begin", files_in_parts),
        ("complete", files_in_parts),
        ("copy", copies),
        ("copied part", copies),
        ("read", objects_in_place),
        ("not there", small_files),
        ("list", small_files),
    ],
)
def test_corrupt_answer_is_harmless(publisher: Publisher, proxy: S3Proxy, what: str, make: Make) -> None:
    for at in (0.3, 0.5, 0.7):
        proxy.order(Fault("corrupt", late=True, at=at), ANSWERS[what])
        publisher.push(make)

    assert publisher.tally.wrong == []
    assert len(proxy.faults) == 3


def test_update_rejects_corrupt_entry(publisher: Publisher, world: World, proxy: S3Proxy) -> None:
    publisher.push(everything)
    manifest = world.client.get_object(Bucket=world.bucket, Key=layout.manifest(look(world, publisher.package).latest))
    at = manifest["Body"].read().index(b"data/small")
    fault = Fault("corrupt", late=True, at=(at + 0.5) / manifest["ContentLength"])
    proxy.order(fault, lambda request: request.method == "GET" and MANIFESTS in request.path)
    publisher.push(update)

    assert publisher.tally.wrong == []
    assert len(proxy.faults) == 1


def test_corrupt_delete_spares_others(world: World, proxy: S3Proxy) -> None:
    package = "faults/deleted"
    published = [push(world.registry, Draft(package=package, entries={"a": b"%d" % number})) for number in range(10)]
    doomed, others = published[4], {one.revision.published_at.int_timestamp for one in published[:4] + published[5:]}
    stamp = str(doomed.revision.published_at.int_timestamp)
    begin = '<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>.quilt/named_packages/' + f"{package}/{stamp}"
    end = "</Key></Object><Quiet>true</Quiet></Delete>"
    fault = Fault("corrupt", at=(len(begin) - 0.5) / len(begin + end))
    proxy.order(fault, lambda request: request.method in {"POST", "DELETE"})
    with contextlib.suppress(QuiltError):
        delete(registry_at(proxy.store, world.bucket), package, doomed.top_hash)

    assert look(world, package).history.keys() >= others


def test_failed_push_is_invisible(world: World, proxy: S3Proxy) -> None:
    package, hasty = "faults/half", RetryPolicy(seconds=0.5, shortest=0.1, longest=0.1)
    proxy.fail("InternalError", lambda request: UPLOADS["pointer"](request) and proxy.count(UPLOADS["latest"]) > 0, times=1000)
    try:
        published = push(registry_at(proxy.store, world.bucket, retry=hasty), Draft(package=package, entries={"a": b"a"}))
    except QuiltError:
        assert look(world, package).latest is None
    else:
        assert look(world, package).latest == published.top_hash
    assert proxy.count_faults()["error"] > 0


def test_throttled_push_succeeds(publisher: Publisher, proxy: S3Proxy) -> None:
    throttles = RandomFaults(random.Random(1), 0.5, ("throttle",))  # noqa: S311
    with proxy.disturbed(lambda request: throttles(request) if proxy.count() < 30 else None):
        while proxy.count() < 30:
            publisher.push(everything)
            publisher.install()

    assert publisher.tally.wrong == []
    assert publisher.tally.errors == {}
    assert proxy.count_faults()["throttle"] > 5


def test_any_fault_ends_cleanly(world: World, tmp_path: Path) -> None:
    """Let clients be in a hurry only where answers are late: one that gives up by itself leaves uploads that it never heard of."""

    def publish(kind: Kind) -> Tally:
        weather = Weather((kind,), 0.05, 1, 2 * HASTE if kind == "delay" else PATIENCE)
        return publish_through(world, weather, tmp_path, workers=1, rounds=2)

    with ThreadPoolExecutor(len(KINDS)) as pool:
        tallies = list(pool.map(publish, KINDS))

    assert [tally.wrong for tally in tallies] == [[]] * len(KINDS)
    assert sum(tallies, Tally()).faults.total() > 5


def test_many_faults_end_cleanly(world: World, tmp_path: Path) -> None:
    kinds = [kind for kind in KINDS if kind != "delay"]
    tally = publish_through(world, Weather(kinds, 0.2, 1, PATIENCE), tmp_path, 2, 2)

    assert tally.wrong == []
    assert tally.faults.total() > 10
