"""The pieces of work that are cut off in tests, each with the world before it and the judge of its end."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.format import layout
from airflow_quilt.core.format.hashes import CRC64NVME
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.install import InstallResult, install
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.attempt import Attempt
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.revisions import DeleteResult, Revision
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.rollback import RollbackResult, rollback
from airflow_quilt.core.runtime.threads import map_concurrently
from tests.core.crash import LARGE, OLDER, SMALL, Judge, Kind, Work, World, broken_invariants
from tests.core.faulty import Before, is_put_of, tapped

ANOTHER: Final = "another writer"
LONG: Final = 10_000
"""Pointers of a long history."""
Run = Callable[[World, Registry, float | None], Any]
_TEMPORARY: Final = re.compile(r"(.*/)?\.[0-9a-f]{32}\.tmp")


class Judgement:
    """The state that every kind of work must keep: the earlier revisions, their data, and all other data."""

    def __init__(self, world: World, lost: Callable[[Revision], bool] = lambda _revision: False) -> None:
        self.world = world
        self.data = world.data() | world.manifests()
        self.before = world.history()
        self.kept = [revision for revision in self.before if not lost(revision)]

    def midway(self, *, is_clean: bool) -> Iterator[str]:
        yield from broken_invariants(self.world, self.data, self.kept)
        if is_clean and (uploads := self.world.open_uploads()):
            yield f"{uploads} uploads in parts stay open"

    def end(self, result: Any) -> Iterator[str]:  # noqa: ARG002
        yield from broken_invariants(self.world, self.data, self.kept)
        if self.world.is_locked():
            yield "a lock was left"


class PublishingJudgement(Judgement):
    """One new revision, besides those of other writers, with the wanted content."""

    def end(self, result: PublishResult) -> Iterator[str]:
        yield from super().end(result)
        history, latest = self.world.history(), self.world.latest()
        new = [revision for revision in history if revision not in self.before]
        others = [revision for revision in new if is_of_another(self.world, revision.top_hash)]
        if (mine := [revision for revision in new if revision not in others]) != self.wanted(result):
            yield f"not exactly one revision more, {mine} for {result.revision}"
        if result.created != bool(mine):
            yield f"it says that it made {'a' if result.created else 'no'} revision"
        if latest != result.top_hash and not any(
            is_newer(other, result.revision) and other.top_hash == latest for other in others
        ):
            yield f"latest is {latest}, not {result.top_hash}"
        if uploads := self.world.open_uploads():
            yield f"{uploads} uploads in parts stay open"

    def wanted(self, result: PublishResult) -> list[Revision]:
        return [result.revision]


class DedupedJudgement(PublishingJudgement):
    """No new revision where the latest one is the same."""

    def wanted(self, result: PublishResult) -> list[Revision]:
        return [] if self.before else [result.revision]


class MergingJudgement(PublishingJudgement):
    """An update that loses no key that other writers added."""

    def end(self, result: PublishResult) -> Iterator[str]:
        yield from super().end(result)
        held = keys_of(self.world, self.world.latest())
        for revision in self.world.history():
            if is_of_another(self.world, revision.top_hash) and not _acknowledgement(self.world, revision.top_hash).exists():
                continue
            if added := {key for key in keys_of(self.world, revision.top_hash) if key.startswith("other-")} - held:
                yield f"the update of another writer is lost: {added}"
        if "mine.txt" not in held:
            yield "the update itself is lost"


class DeletionJudgement(Judgement):
    """The chosen revision, or all of them, are gone, and ``latest`` is the newest of the others."""

    def __init__(self, world: World) -> None:
        super().__init__(world, lambda revision: world.chosen in {None, revision.top_hash})

    def end(self, result: DeleteResult) -> Iterator[str]:
        yield from super().end(result)
        history = self.world.history()
        if without_others(self.world, history) != self.kept:
            yield f"the history is {history}"
        if (latest := self.world.latest()) != (history[0].top_hash if history else None):
            yield f"latest is {latest}"


class RollbackJudgement(Judgement):
    """``latest`` is the old or the chosen revision, and the chosen one in the end; the history is unchanged."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.latest = world.latest()

    def midway(self, *, is_clean: bool) -> Iterator[str]:
        yield from super().midway(is_clean=is_clean)
        if (latest := self.world.latest()) not in {self.latest, self.world.chosen}:
            yield f"latest is {latest}"
        yield from self._history()

    def end(self, result: RollbackResult) -> Iterator[str]:
        yield from super().end(result)
        if (latest := self.world.latest()) != self.world.chosen or result.top_hash != latest:
            yield f"latest is {latest}"
        yield from self._history()

    def _history(self) -> Iterator[str]:
        if without_others(self.world, history := self.world.history()) != self.before:
            yield f"the history is {history}"


class InstallJudgement(Judgement):
    """Files are whole and right, or unchanged; temporary files stay only where nothing could clean them up."""

    files: Final = {"large.bin": LARGE, "small.txt": SMALL}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.older = world.installed()
        self.left: set[str] = set()

    def midway(self, *, is_clean: bool) -> Iterator[str]:
        yield from super().midway(is_clean=is_clean)
        there = self.world.installed()
        self.left = {key for key in there if _TEMPORARY.fullmatch(key)}
        if is_clean and self.left:
            yield f"temporary files stay: {self.left}"
        for key in there.keys() - self.left:
            if there[key] not in {self.files.get(key), self.older.get(key)}:
                yield f"{key} has wrong bytes"

    def end(self, result: InstallResult) -> Iterator[str]:
        yield from super().end(result)
        there = self.world.installed()
        if wrong := [key for key, data in self.files.items() if there.get(key) != data]:
            yield f"{wrong} are not right"
        if others := there.keys() - self.files.keys() - self.left:
            yield f"there is more than was installed: {others}"
        if uploads := self.world.open_uploads():
            yield f"{uploads} uploads in parts stay open"


def is_of_another(world: World, top_hash: TopHash) -> bool:
    return str(world.registry().read(world.name, top_hash).header.get("message")).startswith(ANOTHER)


def without_others(world: World, history: Sequence[Revision]) -> list[Revision]:
    return [revision for revision in history if not is_of_another(world, revision.top_hash)]


def is_newer(revision: Revision, other: Revision) -> bool:
    return bool(revision.published_at > other.published_at)


def keys_of(world: World, top_hash: TopHash | None) -> set[str]:
    return {entry.logical_key for entry in world.registry().read(world.name, top_hash).entries}


# The worlds before. The messages name the package: otherwise packages would share manifests.


def nothing(_world: World) -> None:
    """A package that is not there yet."""


def one_revision(world: World) -> None:
    draft = Draft(package=str(world.name), entries=f"s3://{world.bucket}/data/small.txt", message=f"first of {world.name}")
    build(world.registry(), draft)


def one_revision_with_files(world: World) -> None:
    """Publish the files to install; one of them is there in an older state."""
    entries = f"s3://{world.source}/data/" if not world.location.is_local else str(world.files)
    build(world.registry(), Draft(package=str(world.name), entries=entries, message=f"first of {world.name}"))
    target = PhysicalKey.parse(world.out).join("small.txt")
    if target.is_local:
        Path(target.key).parent.mkdir(parents=True)
    world.stores.of(target).put(target, OLDER)


def three_revisions(choose: Callable[[Sequence[Revision]], Revision | None]) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        for number in ("first", "second", "third"):
            entries, message = f"s3://{world.source}/data/small.txt", f"{number} of {world.name}"
            build(world.registry(), Draft(package=str(world.name), entries=entries, message=message))
        chosen = choose(world.history())
        world.chosen = chosen.top_hash if chosen else None

    return prepare


def long_history(choose: Callable[[Sequence[Revision]], Revision | None]) -> Callable[[World], None]:
    """Give the revision between the others thousands of pointers more: to read them takes longer than the lease of a lock."""

    def prepare(world: World) -> None:
        three_revisions(choose)(world)
        between, directory = world.history()[1].top_hash, world.location.root.join(layout.pointers(world.name))
        put = partial(world.stores.of(directory).put, body=between.encode())
        map_concurrently(put, [directory.join(str(10**9 + number)) for number in range(LONG)], 16)

    return prepare


def another_publishes(world: World) -> None:
    """Let another writer add a file of its own to the package, in any state of it."""
    number = len(world.history())
    entries = {f"other-{number}.txt": f"s3://{world.source}/data/small.txt"}
    message = f"{ANOTHER} of {world.name}"
    made = build(world.registry(), Draft(package=str(world.name), mode="update", entries=entries, message=message))
    _acknowledgement(world, made.top_hash).touch()


def _acknowledgement(world: World, top_hash: TopHash) -> Path:
    """Return the path of a file that is there once another writer's publish has returned: it may be killed before, too."""
    return world.files.parent / f"acknowledged-{top_hash}"


# The work.


def attempt_at(world: World, since: float | None) -> Attempt:
    return Attempt(key=f"a task that publishes {world.name}", since=since)


def draft_of(world: World, entries: object, message: str = "second", **more: Any) -> Draft:
    return Draft(package=str(world.name), entries=entries, message=f"{message} of {world.name}", **more)


def pushing(entries: Callable[[World], object], copy: Any = "if-outside", **more: Any) -> Run:
    def run(world: World, registry: Registry, since: float | None) -> PublishResult:
        return push(registry, draft_of(world, entries(world), **more), copy=copy, attempt=attempt_at(world, since))

    return run


def building(entries: Callable[[World], object], **more: Any) -> Run:
    def run(world: World, registry: Registry, since: float | None) -> PublishResult:
        return build(registry, draft_of(world, entries(world), **more), attempt=attempt_at(world, since))

    return run


def raced(run: Run) -> Run:
    """Let another writer publish right before the first attempt writes ``latest``."""

    def against_another(world: World, registry: Registry, since: float | None) -> Any:
        if since is None:
            other = Before(is_put_of(f"{world.name}/latest"), lambda: another_publishes(world))
            registry = world.registry(tapped(registry.stores, other))
        return run(world, registry, since)

    return against_another


def deleting(world: World, registry: Registry, since: float | None) -> DeleteResult:
    return delete(registry, str(world.name), world.chosen, missing_ok=since is not None)


def rolling_back(world: World, registry: Registry, since: float | None) -> tuple[Revision, TopHash]:
    assert world.chosen is not None
    return rollback(registry, str(world.name), world.chosen)


def installing(world: World, registry: Registry, since: float | None) -> InstallResult:
    return install(registry, Reference(str(world.name)), world.out, attempt=attempt_at(world, since))


def publishing(kind: Kind, run: Run, judge: Callable[[World], Judge] = PublishingJudgement, *, may_lose: bool = False) -> Work:
    return Work(kind=kind, prepare=nothing, run=run, judge=judge, may_lose=may_lose)


def file(world: World, name: str) -> str:
    return str(world.files / name)


def objects(world: World, name: str = "") -> str:
    return f"s3://{world.source}/data/{name}"


def in_place(world: World) -> str:
    """Return an object in the registry's bucket, the one in :func:`one_revision`."""
    return f"s3://{world.bucket}/data/small.txt"


def all_kinds(world: World) -> object:
    return {
        "content.txt": b"content",
        "files/": file(world, "small.txt"),
        "copies/": objects(world),
        "kept/": in_place(world),
    }


def mine(world: World) -> object:
    return {"mine.txt": b"mine"} if not world.location.is_local else {"mine.txt": file(world, "small.txt")}


_RACING: Final[Mapping[str, Any]] = {"mode": "update", "conflict": "rebase"}

PUBLISHING: Final[Mapping[str, Work]] = {
    "push content": publishing("s3", pushing(lambda _: {"a.txt": b"content"})),
    "push a small file": publishing("s3", pushing(lambda world: {"a.txt": file(world, "small.txt")})),
    "push a file in parts": publishing("s3", pushing(lambda world: {"a.bin": file(world, "large.bin")})),
    "push a copy": publishing("s3", pushing(lambda world: {"a.txt": objects(world, "small.txt")})),
    "push a copy in parts": publishing("s3", pushing(lambda world: {"a.bin": objects(world, "large.bin")})),
    "push an object in place": publishing("s3", pushing(lambda world: {"a.txt": in_place(world)})),
    "push of all kinds": publishing("s3", pushing(all_kinds)),
    "push a file in parts with a CRC": publishing(
        "s3", pushing(lambda world: {"a": file(world, "large.bin")}, hash_type=CRC64NVME)
    ),
    "push copies with a CRC": publishing("s3", pushing(objects, hash_type=CRC64NVME)),
    "push an object in place with a CRC": publishing("s3", pushing(in_place, hash_type=CRC64NVME)),
    "push an update": publishing(
        "s3", pushing(lambda _: {"a.txt": b"a", "d/": {"meta": {"n": 1}}}, mode="update", remove=["small.txt"])
    ),
    "push an update that copies its base": publishing(
        "s3", pushing(lambda _: {"a.txt": b"a"}, copy="all", mode="update", meta={"n": 1})
    ),
    "push an update that is merged again": publishing("s3", raced(pushing(mine, **_RACING)), MergingJudgement),
    "push that loses to another writer": publishing("s3", raced(pushing(mine)), may_lose=True),
    "push that overwrites another writer": publishing("s3", raced(pushing(mine, conflict="overwrite"))),
    "push of what is there": publishing("s3", pushing(in_place, message="first"), DedupedJudgement),
    "push of what is there, without dedupe": publishing("s3", pushing(in_place, message="first", dedupe=False)),
    "build of objects in an S3 registry": publishing("s3", building(objects)),
    "build of files in a local registry": publishing("local", building(lambda world: str(world.files))),
    "build of objects in a local registry": publishing("local", building(objects)),
    "build of an update in a local registry": publishing(
        "local", building(lambda world: {"copies/": objects(world, "small.txt")}, mode="update", meta={})
    ),
    "build of an update that is merged again": publishing("local", raced(building(mine, **_RACING)), MergingJudgement),
    "build that loses to another writer": publishing("local", raced(building(mine)), may_lose=True),
    "build that overwrites another writer": publishing("local", raced(building(mine, conflict="overwrite"))),
    "build of what is there, without dedupe": publishing("local", building(in_place, message="first", dedupe=False)),
}
"""Each can be done to a package that is not there yet, and to one that has a revision."""

_CHOICES: Final[Mapping[str, Callable[[Sequence[Revision]], Revision | None]]] = {
    "the oldest revision": lambda history: history[2],
    "a revision between": lambda history: history[1],
    "the latest revision": lambda history: history[0],
    "the whole package": lambda _history: None,
}
_KINDS: Final[Mapping[Kind, str]] = {"s3": "an S3", "local": "a local"}

DELETING: Final[Mapping[str, Work]] = {
    f"delete {what} of {registry} registry": Work(
        kind=kind, prepare=three_revisions(choose), run=deleting, judge=DeletionJudgement
    )
    for kind, registry in _KINDS.items()
    for what, choose in _CHOICES.items()
}
ROLLBACK: Final[Mapping[str, Work]] = {
    f"roll back to {what} of {registry} registry": Work(
        kind=kind, prepare=three_revisions(_CHOICES[what]), run=rolling_back, judge=RollbackJudgement
    )
    for kind, registry in _KINDS.items()
    for what in ("the oldest revision", "the latest revision")
}
LONG_HISTORIES: Final[Mapping[str, Work]] = {
    "delete the oldest revision of a long history": Work(
        kind="s3", prepare=long_history(_CHOICES["the oldest revision"]), run=deleting, judge=DeletionJudgement
    ),
    "delete the latest revision of a long history": Work(
        kind="s3", prepare=long_history(_CHOICES["the latest revision"]), run=deleting, judge=DeletionJudgement
    ),
    "roll back to the oldest revision of a long history": Work(
        kind="s3", prepare=long_history(_CHOICES["the oldest revision"]), run=rolling_back, judge=RollbackJudgement
    ),
}
INSTALL: Final[Mapping[str, Work]] = {
    f"install to {place} from {registry} registry": Work(
        kind=kind, prepare=one_revision_with_files, run=installing, judge=InstallJudgement, to_prefix=place == "a prefix"
    )
    for kind, registry in _KINDS.items()
    for place in ("a directory", "a prefix")
}

WORKS: Final[Mapping[str, Work]] = {**PUBLISHING, **DELETING, **ROLLBACK, **LONG_HISTORIES, **INSTALL}
