"""The history of a package under zombies, rivals and deletions, one interleaving at a time."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import PackageNotFoundError, RevisionConflictError, StorageUnavailableError
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt, WriterTag
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import Revision
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.runtime.retry import NO_RETRY
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from tests.core.faulty import Before, Call, Fault, is_put_of
from tests.core.weak import TaglessStorage
from tests.support import Clock, through

NAME = PackageName("team", "package")
NOW = 1_700_000_000
FIRST = Attempt("the work")
RETRY = replace(FIRST, since=float(NOW))


@pytest.fixture(params=["memory", "local"])
def any_registry(request: pytest.FixtureRequest, registry: Registry, local_registry: Registry) -> Registry:
    """A registry in memory, and one on the disk."""
    return registry if request.param == "memory" else local_registry


def publish(registry: Registry, message: str, attempt: Attempt | None = None, **more: Any) -> PublishResult:
    draft = Draft(**{"package": str(NAME), "entries": {}, "message": message, "allow_empty": True, **more})
    return build(registry, draft, attempt=attempt)


def messages(registry: Registry) -> list[str]:
    """Return the messages of the history, newest first."""
    return [registry.read(NAME, revision.top_hash).header["message"] for revision in registry.revisions(NAME)]


def latest(registry: Registry) -> str:
    return str(registry.read(NAME).header["message"])


def is_pointer(call: Call) -> bool:
    return call.operation == "put" and layout.NAMES in call.key.key and not call.key.key.endswith("/latest")


def is_workflows_config(call: Call) -> bool:
    """Whether a call comes after ``latest`` was read, and before it is read again."""
    return call.operation == "get" and call.key.key.endswith("config.yml")


def published_before(registry: Registry, matches: Callable[[Call], bool], message: str, **more: Any) -> PublishResult:
    """Publish; just before the call that matches, the same work is published by another process."""
    twin = Before(matches, lambda: publish(registry, message, FIRST, **more))
    return publish(through(registry, twin), message, FIRST, **more)


@pytest.mark.parametrize("moment", ["early", "pointer", "latest"])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="replace"),
        pytest.param({"conflict": "overwrite"}, id="overwrite"),
        pytest.param({"mode": "update", "conflict": "rebase", "allow_empty": True}, id="rebase"),
        pytest.param({"dedupe": False}, id="not deduplicated"),
    ],
)
def test_twins_make_one_revision(any_registry: Registry, moment: str, more: dict[str, Any]) -> None:
    publish(any_registry, "before")
    matches = {"early": is_workflows_config, "pointer": is_pointer, "latest": is_put_of("/latest")}[moment]
    published = published_before(any_registry, matches, "same", **more)

    assert messages(any_registry) == ["same", "before"]
    assert latest(any_registry) == "same"
    assert published.created
    assert published.revision in list(any_registry.revisions(NAME))


@pytest.mark.parametrize("third", ["publishes", "overwrites", "rolls back"])
@pytest.mark.parametrize("attempt", [FIRST, RETRY], ids=["first try", "retry"])
@pytest.mark.parametrize("more", [{}, {"conflict": "overwrite"}, {"mode": "update", "conflict": "rebase"}], ids=str)
def test_unmarked_attempt_is_found(any_registry: Registry, third: str, attempt: Attempt, more: dict[str, Any]) -> None:
    """Let a twin find the revision of an attempt that has not marked its pointer yet."""
    before = publish(any_registry, "before")
    twins: list[PublishResult] = []

    def meanwhile() -> None:
        if third == "rolls back":
            rollback(any_registry, str(NAME), before.top_hash)
        else:
            publish(any_registry, "theirs", conflict="overwrite" if third == "overwrites" else "fail")
        twins.append(publish(any_registry, "same", attempt, **more))

    published = publish(through(any_registry, Before(_second_pointer(), meanwhile)), "same", FIRST, **more)

    assert messages(any_registry) == (["same", "before"] if third == "rolls back" else ["theirs", "same", "before"])
    assert latest(any_registry) == ("before" if third == "rolls back" else "theirs")
    assert [(twin.revision, twin.created) for twin in twins] == [(published.revision, True)]


@pytest.mark.parametrize("attempt", [FIRST, RETRY], ids=["first try", "retry"])
def test_twin_overwrites_only_once(any_registry: Registry, attempt: Attempt) -> None:
    publish(any_registry, "before")

    def third(message: str) -> Before:
        return Before(is_put_of("/latest"), lambda: publish(any_registry, message, conflict="overwrite"))

    def twin() -> None:
        publish(any_registry, "third")
        publish(through(any_registry, third("fourth")), "same", attempt, conflict="overwrite")

    published = publish(through(any_registry, Before(is_put_of("/latest"), twin)), "same", FIRST, conflict="overwrite")

    assert sorted(messages(any_registry)) == ["before", "fourth", "same", "third"]
    assert published.revision in list(any_registry.revisions(NAME))


@pytest.mark.parametrize("more", [{}, {"dedupe": False}, {"conflict": "overwrite"}], ids=str)
def test_repeat_makes_no_revision(any_registry: Registry, more: dict[str, Any]) -> None:
    publish(any_registry, "before")
    first = publish(any_registry, "same", FIRST, **more)
    again = publish(any_registry, "same", RETRY, **more)

    assert (again.revision, again.created) == (first.revision, True)
    assert messages(any_registry) == ["same", "before"]


def test_retry_keeps_later_ones(any_registry: Registry) -> None:
    first = publish(any_registry, "mine", replace(FIRST))
    publish(any_registry, "theirs")
    again = publish(any_registry, "mine", RETRY)

    assert (again.revision, again.created) == (first.revision, True)
    assert messages(any_registry) == ["theirs", "mine"]
    assert latest(any_registry) == "theirs"


def test_retry_does_not_rebase(registry: Registry) -> None:
    def update(key: str, attempt: Attempt) -> PublishResult:
        draft = Draft(package=str(NAME), entries={key: key.encode()}, mode="update", conflict="rebase", message=key)
        return push(registry, draft, attempt=attempt)

    first = update("a.txt", FIRST)
    update("b.txt", Attempt("other work"))
    again = update("a.txt", RETRY)

    assert (again.revision, again.top_hash) == (first.revision, first.top_hash)
    assert messages(registry) == ["b.txt", "a.txt"]


def test_new_content_is_published(any_registry: Registry) -> None:
    publish(any_registry, "one", FIRST)
    publish(any_registry, "two", RETRY)

    assert messages(any_registry) == ["two", "one"]


def test_other_work_is_published(any_registry: Registry) -> None:
    for message, key in (("same", "a"), ("theirs", "b"), ("same", "c")):
        publish(any_registry, message, Attempt(key))

    assert messages(any_registry) == ["same", "theirs", "same"]


def test_rolled_back_revision_stays(any_registry: Registry) -> None:
    first, second = publish(any_registry, "one"), publish(any_registry, "two")
    rollback(any_registry, str(NAME), first.top_hash)
    again = publish(any_registry, "two")

    assert list(any_registry.revisions(NAME)) == [again.revision, second.revision, first.revision]


def test_retry_replaces_leftovers(any_registry: Registry) -> None:
    publish(any_registry, "before")
    with pytest.raises(StorageUnavailableError):
        publish(through(any_registry, Fault(1, "killed before", among=is_put_of("/latest"))), "mine", FIRST)
    assert messages(any_registry) == ["mine", "before"]
    publish(any_registry, "theirs")
    published = publish(any_registry, "mine", RETRY)

    assert messages(any_registry) == ["mine", "theirs", "before"]
    assert latest(any_registry) == "mine"
    assert published.created


def test_failed_mark_is_no_failure(any_registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    publish(through(any_registry, Fault(2, "killed before", among=is_pointer)), "mine", FIRST)
    assert latest(any_registry) == "mine"
    assert "is published, but its pointer still has the tag 'pending'" in caplog.text
    published = publish(any_registry, "mine", RETRY)

    assert messages(any_registry) == ["mine"]
    assert published.created
    rollback(any_registry, str(NAME), publish(any_registry, "later").top_hash)
    rollback(any_registry, str(NAME), published.top_hash)  # It counts as published now.


def test_loser_deletes_its_pointer(any_registry: Registry) -> None:
    publish(any_registry, "before")
    rival = Before(is_put_of("/latest"), lambda: publish(any_registry, "theirs"))

    with pytest.raises(RevisionConflictError) as caught:
        publish(through(any_registry, rival), "mine")
    assert messages(any_registry) == ["theirs", "before"]
    assert caught.value.found == any_registry.resolve(NAME)


def test_overwrite_keeps_rival(any_registry: Registry) -> None:
    publish(any_registry, "before")
    rival = Before(is_put_of("/latest"), lambda: publish(any_registry, "theirs"))
    publish(through(any_registry, rival), "mine", conflict="overwrite")

    assert sorted(messages(any_registry)) == ["before", "mine", "theirs"]
    assert latest(any_registry) == "mine"


def test_overwrite_during_deletion(any_registry: Registry) -> None:
    publish(any_registry, "before")
    deleting = Before(is_put_of("/latest"), lambda: delete(any_registry, str(NAME)))
    published = publish(through(any_registry, deleting), "mine", conflict="overwrite")

    assert list(any_registry.revisions(NAME)) == [published.revision]
    assert latest(any_registry) == "mine"


def test_deleted_pointer_is_restored(any_registry: Registry) -> None:
    def take_away() -> None:
        pointers = any_registry.location.root.join(layout.pointers(NAME))
        storage = any_registry.stores.of(pointers)
        storage.delete([stat.key for stat in storage.list_objects(pointers) if not stat.key.key.endswith("latest")])

    published = publish(through(any_registry, Before(_second_pointer(), take_away)), "mine", FIRST)

    assert list(any_registry.revisions(NAME)) == [published.revision]
    assert latest(any_registry) == "mine"


def _second_pointer() -> Callable[[Call], bool]:
    seen: list[Call] = []

    def matches(call: Call) -> bool:
        if is_pointer(call):
            seen.append(call)
        return len(seen) == 2

    return matches


def test_delete_skips_pending(any_registry: Registry) -> None:
    publish(any_registry, "one")
    second = publish(any_registry, "two")
    seen: list[str] = []

    def take_back() -> None:
        delete(any_registry, str(NAME), second.top_hash)
        seen.append(latest(any_registry))

    with pytest.raises(RevisionConflictError):
        publish(through(any_registry, Before(is_put_of("/latest"), take_back)), "three")
    assert seen == ["one"]
    assert messages(any_registry) == ["one"]


def test_loser_spares_next_of_second(any_registry: Registry) -> None:
    """Withdraw the own pointer only: a deletion may have taken it, and another writer its second."""
    still = Registry(any_registry.location, any_registry.stores, clock=lambda: NOW)
    publish(still, "one")
    theirs: list[PublishResult] = []

    def meanwhile() -> None:
        (pending, _) = still.revisions(NAME)
        delete(still, str(NAME), pending.top_hash)
        theirs.append(publish(still, "theirs"))
        assert theirs[0].revision.published_at == pending.published_at

    racing = through(still, Before(is_put_of("/latest"), meanwhile))
    with pytest.raises(RevisionConflictError):
        publish(Registry(racing.location, racing.stores, clock=lambda: NOW), "mine")
    assert messages(still) == ["theirs", "one"]
    assert latest(still) == "theirs"


def test_loser_without_tags_leaves_none() -> None:
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), TaglessStorage(["registry"]), NO_RETRY))
    publish(registry, "one")
    with pytest.raises(RevisionConflictError):
        publish(through(registry, Before(is_put_of("/latest"), lambda: publish(registry, "theirs"))), "mine")
    assert messages(registry) == ["theirs", "one"]


def test_deletion_spares_next_of_second(registry: Registry) -> None:
    """Delete a pending pointer only while it is that: its writer may withdraw it, and another one publish in its second."""
    still = Registry(registry.location, registry.stores, clock=lambda: NOW)
    publish(still, "one")
    dead = through(still, Fault(1, "killed before", among=is_put_of("/latest")))
    with pytest.raises(StorageUnavailableError):
        publish(Registry(dead.location, dead.stores, clock=lambda: NOW), "two")
    (pending, _) = still.revisions(NAME)
    key = still.location.root.join(layout.pointer(NAME, str(pending.published_at.int_timestamp)))
    reads: list[Call] = []

    def is_last_read(call: Call) -> bool:
        reads.extend([call] * (call.operation == "get" and call.key == key))
        return len(reads) == 2

    def meanwhile() -> None:
        still.stores.of(key).delete([key])
        publish(still, "theirs")

    delete(through(still, Before(is_last_read, meanwhile)), str(NAME), pending.top_hash)
    assert messages(still) == ["theirs", "one"]
    assert key in [info.key for info in still.stores.remote.list_objects(key)]


def test_rollback_refuses_pending(any_registry: Registry) -> None:
    publish(any_registry, "one")

    def roll_back() -> None:
        (pending, _) = any_registry.revisions(NAME)
        with pytest.raises(PackageNotFoundError, match="still being published"):
            rollback(any_registry, str(NAME), pending.top_hash)

    publish(through(any_registry, Before(is_put_of("/latest"), roll_back)), "two")
    assert messages(any_registry) == ["two", "one"]


def test_pending_expires_in_an_hour(memory: MemoryStorage) -> None:
    clock = Clock(float(NOW))
    registry = Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory), clock=clock)
    publish(registry, "one")
    faulty = through(registry, Fault(1, "killed before", among=is_put_of("/latest")))
    with pytest.raises(StorageUnavailableError):
        publish(Registry(faulty.location, faulty.stores, clock=clock), "two")
    (pending, _) = registry.revisions(NAME)
    clock.now += 2 * 60 * 60

    rollback(registry, str(NAME), pending.top_hash)
    assert latest(registry) == "two"


def test_republish_beats_deletion(any_registry: Registry) -> None:
    first = publish(any_registry, "one")
    publish(any_registry, "two")
    racing = Before(_second_pointer(), lambda: delete(any_registry, str(NAME), first.top_hash))
    published = publish(through(any_registry, racing), "one")

    assert latest(any_registry) in {"one", "two"}
    assert any_registry.resolve(NAME) in {revision.top_hash for revision in any_registry.revisions(NAME)}
    assert published.top_hash == first.top_hash


def test_rollback_waits_for_delete(any_registry: Registry) -> None:
    one, two = publish(any_registry, "one"), publish(any_registry, "two")
    errors: list[Exception] = []

    def roll_back() -> None:
        try:
            rollback(any_registry, str(NAME), one.top_hash)
        except PackageNotFoundError as error:
            errors.append(error)

    other = threading.Thread(target=roll_back)
    deleting = Before(lambda call: call.operation == "delete" and layout.NAMES in call.key.key, other.start)
    delete(through(any_registry, deleting), str(NAME), one.top_hash)
    other.join(60)

    assert len(errors) == 1
    assert list(any_registry.revisions(NAME)) == [two.revision]
    assert latest(any_registry) == "two"


def test_writer_tag_round_trips() -> None:
    writer_tag = WriterTag.of(Attempt("any text: ü / 1"))

    assert WriterTag.parse(str(writer_tag)) == writer_tag
    assert WriterTag.parse(str(writer_tag.published())) == writer_tag.published()
    assert str(writer_tag).isascii()
    of_task = WriterTag.of(Attempt("any", task="dag/run/task/-1")).at(7)
    assert WriterTag.parse(str(of_task.published())) == of_task.published()
    assert str(of_task).endswith(" 7 dag/run/task/-1")
    assert WriterTag.of(Attempt("a")).work == WriterTag.of(Attempt("a")).work != WriterTag.of(Attempt("b")).work


@pytest.mark.parametrize(
    "text", [None, "", "published", "done a b 1", "pending a b", "pending a b c", "pending a b 1 d e", "x" * 1000]
)
def test_foreign_tag_is_ignored(text: str | None) -> None:
    assert WriterTag.parse(text) is None


def test_foreign_pointer_is_revision(memory: MemoryStorage, registry: Registry) -> None:
    published = publish(registry, "one")
    root = PhysicalKey("registry", layout.pointers(NAME))
    for pointer in ("1500000000", "latest"):
        memory.put(root.join(pointer), published.top_hash.encode())
    second = publish(registry, "two")
    rollback(registry, str(NAME), published.top_hash)

    assert [revision.top_hash for revision in registry.revisions(NAME)] == [
        second.top_hash,
        published.top_hash,
        published.top_hash,
    ]
    assert isinstance(next(registry.revisions(NAME)), Revision)
