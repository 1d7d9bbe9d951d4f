"""Many writers at once on a real S3 store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import RevisionConflictError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from testbed.server import S3Server

R = TypeVar("R")
NAME = PackageName("team", "package")


def at_once(writers: int, work: Callable[[int], R]) -> list[R]:
    """Let so many threads begin to work at the same moment; return their results."""
    start = Barrier(writers)

    def begin(writer: int) -> R:
        start.wait(60)
        return work(writer)

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(begin, range(writers)))


def separate(s3: S3Server, registry: Registry) -> Registry:
    """Return the same registry through a client of its own, as another process has it."""
    return Registry(registry.location, Stores(LocalStorage(), S3Storage(s3.client())))


def test_parallel_pushes_all_land(s3: S3Server, s3_registry: Registry) -> None:
    def work(writer: int) -> PublishResult:
        return push(s3_registry, Draft(package=f"team/package-{writer}", entries={"a.txt": b"%d" % writer}))

    published = at_once(16, work)

    assert sorted(s3_registry.packages()) == sorted(each.package for each in published)
    client = s3.client()
    for writer, each in enumerate(published):
        assert each.created
        assert list(s3_registry.revisions(each.package)) == [each.revision]
        (entry,) = s3_registry.read(each.package).entries
        key = PhysicalKey.parse(entry.physical_keys[0])
        assert client.get_object(Bucket=key.bucket or "", Key=key.key)["Body"].read() == b"%d" % writer


def test_acknowledged_pushes_stay(s3: S3Server, s3_registry: Registry) -> None:
    writers, rounds = 8, 5

    def work(writer: int) -> list[PublishResult]:
        mine = separate(s3, s3_registry)
        return [
            push(mine, Draft(package=str(NAME), entries={"a.txt": f"{writer}-{i}".encode()}, conflict="overwrite"))
            for i in range(rounds)
        ]

    acknowledged = [published.revision for made in at_once(writers, work) for published in made]

    history = list(s3_registry.revisions(NAME))
    assert len(acknowledged) == writers * rounds
    assert len({revision.published_at for revision in acknowledged}) == writers * rounds
    assert [revision for revision in acknowledged if revision not in history] == []
    assert len(history) == writers * rounds
    assert s3_registry.resolve(NAME) in {revision.top_hash for revision in history}


def test_one_racing_writer_wins(s3: S3Server, s3_registry: Registry) -> None:
    first = build(s3_registry, Draft(package=str(NAME), entries={}, allow_empty=True))

    def work(writer: int) -> PublishResult | RevisionConflictError:
        try:
            return push(separate(s3, s3_registry), Draft(package=str(NAME), entries={"a.txt": b"%d" % writer}))
        except RevisionConflictError as error:
            return error

    answers = at_once(8, work)
    won = [answer.revision for answer in answers if isinstance(answer, PublishResult)]
    history = list(s3_registry.revisions(NAME))

    assert won
    assert sorted(history, key=lambda revision: revision.published_at) == sorted(
        [first.revision, *won], key=lambda revision: revision.published_at
    )
    assert s3_registry.resolve(NAME) in {revision.top_hash for revision in won}


def test_same_content_stays_latest(s3: S3Server, s3_registry: Registry) -> None:
    def work(_writer: int) -> PublishResult | RevisionConflictError:
        try:
            return push(separate(s3, s3_registry), Draft(package=str(NAME), entries={"a.txt": b"same"}))
        except RevisionConflictError as error:
            return error

    for _ in range(3):
        acknowledged = {answer.top_hash for answer in at_once(8, work) if isinstance(answer, PublishResult)}
        history = {revision.top_hash for revision in s3_registry.revisions(NAME)}
        assert len(acknowledged) == 1
        assert history == acknowledged == {s3_registry.resolve(NAME)}
        s3_registry.delete(NAME)
