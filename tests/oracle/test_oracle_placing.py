"""A push copies the same objects to the same places as quilt3's.

quilt3 cannot copy objects on SeaweedFS, which reports no checksum of a copy; so that is tested on LocalStack.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_quilt.core.errors import InputError, LocationError, SourceError
from airflow_quilt.core.format.arguments import CopyRule
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from testbed.localstack import PYTHON, localstack
from testbed.server import S3Server
from tests.oracle.quilt3_client import (
    Manuscript,
    Quilt3,
    Quilt3Error,
    Spec,
    long_ago,
    place,
    plant,
    running_quilt3,
    s3_registry_in,
)
from tests.oracle.quilt3_worker import DESTINATIONS, ELSEWHERE, PLACED, SELECTORS

if TYPE_CHECKING:
    from airflow_quilt.core.plan.placement import CopyFunction, DestFunction

MIB = 1024 * 1024
LOCAL = {"local.txt": b"l", "sub/local \u00e9+%.csv": b"ll"}
INSIDE = {"inside.txt": b"iii", "sub/inside+%20.csv": b"ii"}
OUTSIDE = {"outside.txt": b"oooo", "outside/empty": b""}
META: dict[str, dict[str, Any]] = {"local.txt": {"place": "a/b"}, "inside.txt": {"copy": False}, "outside.txt": {"place": "c"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store, quilt3 on it, and our registry there."""

    server: S3Server
    quilt3: Quilt3
    registry: Registry

    @property
    def url(self) -> str:
        """The registry, as quilt3 names it."""
        return str(self.registry.location)

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Put an object; return its URL at its version."""
        version = self.server.client().put_object(Bucket=bucket, Key=key, Body=data)["VersionId"]
        return str(PhysicalKey(bucket, key, version))


@pytest.fixture(scope="module")
def seaweedfs_store(s3: S3Server, quilt3: Quilt3) -> Store:
    """The tests' own store."""
    return store_on(s3, quilt3)


@pytest.fixture(scope="module")
def localstack_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store on which quilt3 can copy objects."""
    if not PYTHON.exists():
        pytest.skip("LocalStack is installed on Python 3.11 only")
    with (
        localstack(tmp_path_factory.mktemp("localstack")) as server,
        running_quilt3(tmp_path_factory.mktemp("quilt3-on-localstack"), server) as quilt3,
    ):
        yield store_on(server, quilt3)


def store_on(server: S3Server, quilt3: Quilt3) -> Store:
    """Make the buckets that the functions of ``quilt3_worker.py`` know."""
    for bucket in (PLACED, ELSEWHERE):
        server.make_bucket(bucket)
    return Store(server=server, quilt3=quilt3, registry=long_ago(s3_registry_in(server, PLACED)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Copies and their places, in quilt3's arguments and in ours.

    Attributes:
        select: quilt3's selector, a key of ``SELECTORS``.
        copy: ours, where it is no function.
        dest: a prefix.
        land: a function, a key of ``DESTINATIONS``.
        local, inside, outside: whether there are such sources.
        copies: whether objects are copied.
    """

    select: str | None = None
    copy: CopyRule | None = None
    dest: str | None = None
    land: str | None = None
    local: bool = True
    inside: bool = True
    outside: bool = True
    copies: bool = True

    def spec(self, store: Store, directory: Path, prefix: str) -> Spec:
        """Put the sources to their places."""
        files = place(directory, LOCAL) if self.local else {}
        for is_there, bucket, objects in ((self.inside, PLACED, INSIDE), (self.outside, ELSEWHERE, OUTSIDE)):
            files |= {key: store.put(bucket, f"sources of {prefix}/{key}", objects[key]) for key in objects if is_there}
        meta = {key: META[key] for key in files if key in META}
        return Spec(files=files, file_meta=meta, meta={"n": 1}, message="placed")

    def push(self, registry: Registry, spec: Spec, package: str, **options: Any) -> str:
        """Push by our engine; return the top hash."""
        copy = cast("CopyRule | CopyFunction", self.copy or (SELECTORS[self.select] if self.select else "if-outside"))
        dest = cast("str | DestFunction | None", DESTINATIONS[self.land] if self.land else self.dest)
        return push(registry, spec.draft(package, **options), dest, copy=copy).top_hash


STAYING = {
    "what is in the bucket stays": Case(outside=False, copies=False),
    "local files only": Case(select="copy local", copy="local-only", copies=False),
    "nothing": Case(select="none", copy="none", local=False, copies=False),
    "nothing, by a function": Case(select="none", local=False, copies=False),
    "by key": Case(select="by key", inside=False, copies=False),
    "by version": Case(select="by version", copies=False),
    "to a prefix": Case(dest=f"s3://{PLACED}/some/where", outside=False, copies=False),
    "to a prefix with a slash": Case(dest=f"s3://{PLACED}/some/where/", outside=False, copies=False),
    "to a prefix with several slashes": Case(dest=f"s3://{PLACED}//some//where//", outside=False, copies=False),
    "to a prefix of an awkward name": Case(dest=f"s3://{PLACED}/a%20b+c %2B;d%25/\u00e9", outside=False, copies=False),
    "to the bucket": Case(dest=f"s3://{PLACED}", outside=False, copies=False),
    "to the bucket with a slash": Case(dest=f"s3://{PLACED}/", outside=False, copies=False),
    **{
        f"to places by a function: {land}": Case(land=land, outside=False, copies=False)
        for land in ("by key", "by size", "by metadata", "quoted", "in another bucket")
    },
    "to places by a function, local files only": Case(select="copy local", copy="local-only", land="by key", copies=False),
}
COPYING = {
    "what is outside of the bucket": Case(),
    "everything": Case(select="copy all", copy="all"),
    "everything, by a function": Case(select="all"),
    "everything to a prefix": Case(select="copy all", copy="all", dest=f"s3://{PLACED}/some/where"),
    "what is outside to a prefix": Case(dest=f"s3://{PLACED}/some/where/"),
    **{f"by a function: {select}": Case(select=select) for select in ("by metadata", "by bucket")},
    "by size": Case(select="by size", local=False),
    **{
        f"everything to places by a function: {land}": Case(select="copy all", copy="all", land=land)
        for land in ("by key", "by size", "by metadata", "quoted", "in another bucket")
    },
    "by functions": Case(select="by bucket", land="by metadata"),
}
TABLE = [
    *(pytest.param("seaweedfs_store", case, id=f"seaweedfs-{name}") for name, case in STAYING.items()),
    *(pytest.param("localstack_store", case, id=f"localstack-{name}") for name, case in COPYING.items()),
]


def entries_of(store: Store, package: str) -> dict[str, dict[str, Any]]:
    """Return the records of the latest revision by their keys."""
    return {each["logical_key"]: each for each in store.quilt3.browse(store.url, package)["entries"]}


def placed(entries: dict[str, dict[str, Any]], spec: Spec) -> dict[str, tuple[str, bool]]:
    """Return where each entry is, versions aside, and whether that is where it came from, at the same version."""
    keys = {key: entry["physical_keys"][0] for key, entry in entries.items()}
    return {key: (keys[key].partition("?")[0], keys[key] == spec.files[key]) for key in keys}


def of(request: pytest.FixtureRequest, store: str) -> Store:
    """Return a store by its name."""
    return cast("Store", request.getfixturevalue(store))


@pytest.mark.parametrize(("store", "case"), TABLE)
def test_placement_equals_quilt3s(store: str, case: Case, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    on = of(request, store)
    spec = case.spec(on, tmp_path, name)
    top_hash = case.push(on.registry, spec, name)
    ours = entries_of(on, name)

    assert on.quilt3.place(on.url, name, spec, select=case.select, dest=case.dest, land=case.land) == top_hash
    theirs = entries_of(on, name)
    assert placed(ours, spec) == placed(theirs, spec)
    assert any(not stays for key, (_, stays) in placed(ours, spec).items() if key not in LOCAL) == case.copies


@pytest.mark.parametrize(
    ("dest", "land", "prefix"),
    [
        pytest.param(None, None, "<name>", id="by default"),
        pytest.param(f"s3://{PLACED}/a%20b/", None, "a b", id="at a prefix"),
        pytest.param(None, "by size", "4", id="at places by a function"),
    ],
)
def test_object_at_target_stays(dest: str | None, land: str | None, prefix: str, seaweedfs_store: Store, name: str) -> None:
    on = seaweedfs_store
    prefix = prefix.replace("<name>", name)
    older = on.put(PLACED, f"{prefix}/{name}-older", b"1234")
    on.put(PLACED, f"{prefix}/{name}-older", b"5678")
    files = {f"{name}-older": older, f"{name}-b": on.put(PLACED, f"{prefix}/{name}-b", b"abcd")}
    case = Case(select="all", dest=dest, land=land)
    top_hash = case.push(on.registry, Spec(files=files), name)
    ours = entries_of(on, name)

    assert on.quilt3.place(on.url, name, Spec(files=files), select="all", dest=dest, land=land) == top_hash
    assert {key: each["physical_keys"] for key, each in ours.items()} == {key: [url] for key, url in files.items()}
    assert ours == entries_of(on, name)


def test_copies_keep_quilt3s_hash(localstack_store: Store, name: str) -> None:
    on = localstack_store
    sizes = {"empty": 0, "small": 5, "a part less a byte": 8 * MIB - 1, "a part": 8 * MIB, "a part and a byte": 8 * MIB + 1}
    files = {key: on.put(ELSEWHERE, f"{name}/{key}", b"x" * size) for key, size in sizes.items()}
    for key in files:
        on.put(ELSEWHERE, f"{name}/{key}", b"newer")
    published = push(on.registry, Spec(files=files).draft(name))
    ours = entries_of(on, name)

    assert on.quilt3.place(on.url, name, Spec(files=files)) == published.top_hash == on.quilt3.top_hash(Spec(files=files))
    assert published.bytes_copied == sum(sizes.values())
    assert {key: each["size"] for key, each in ours.items()} == sizes
    assert placed(ours, Spec(files=files)) == placed(entries_of(on, name), Spec(files=files))


DATA = {"a": b"1", "b": b"123456789"}
FOREIGN = [
    {"type": "SHA256", "value": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"},
    {"type": "CRC64NVME", "value": "rosUhgp5mIg="},
]


@pytest.mark.parametrize(
    ("copy", "select", "types"),
    [
        pytest.param("if-outside", None, {"sha2-256-chunked"}, id="copied"),
        pytest.param("local-only", "copy local", {"SHA256", "CRC64NVME"}, id="left in place"),
    ],
)
def test_copy_drops_other_hash_types(
    copy: CopyRule, select: str | None, types: set[str], localstack_store: Store, name: str
) -> None:
    """Keep them where the object stays."""
    on = localstack_store
    other = s3_registry_in(on.server, ELSEWHERE)
    records = [
        {
            "logical_key": key,
            "physical_keys": [on.put(ELSEWHERE, f"{name}/{key}", data)],
            "size": len(data),
            "hash": known,
            "meta": {"user_meta": {"n": 1}, "more": None},
        }
        for (key, data), known in zip(DATA.items(), FOREIGN, strict=True)
    ]
    [before] = plant(other, name, Manuscript({"version": "v0", "user_meta": {"n": 1}, "message": None}, records))
    draft = Draft(package=name, entries=f"quilt+{other.location}#package={name}")
    published = push(on.registry, draft, copy=copy)
    ours = entries_of(on, name)

    assert on.quilt3.place(on.url, name, str(other.location), select=select) == published.top_hash
    assert {each["hash"]["type"] for each in ours.values()} == types
    assert {key: each["meta"] for key, each in ours.items()} == {key: {"user_meta": {"n": 1}, "more": None} for key in DATA}
    assert (published.top_hash == before) == (copy == "local-only")


def test_local_package_push_agrees(seaweedfs_store: Store, local_registry: Registry, tmp_path: Path, name: str) -> None:
    on = seaweedfs_store
    spec = Spec(files=place(tmp_path, LOCAL), file_meta={"local.txt": {"n": 1}}, meta={"n": 1})
    built = on.quilt3.build(str(local_registry.location), name, spec)
    draft = Draft(package=name, entries=f"quilt+{local_registry.location}#package={name}@{built}")
    published = push(on.registry, draft)
    ours = entries_of(on, name)

    assert on.quilt3.place(on.url, name, str(local_registry.location)) == published.top_hash == built
    assert placed(ours, spec) == placed(entries_of(on, name), spec)


PREFIXES = {
    "another bucket": f"s3://{ELSEWHERE}/there",
    "a bucket of a similar name": f"s3://{PLACED}-2",
    "a version": f"s3://{PLACED}/there?versionId=x",
    "a query": f"s3://{PLACED}/there?x=1",
    "a path": "/there",
    "a relative path": "there",
    "a file": "file:///there",
    "another scheme": f"https://{PLACED}/there",
    "no bucket": "s3:///there",
    "a number": 5,
}


@pytest.mark.parametrize("dest", PREFIXES.values(), ids=PREFIXES)
def test_bad_prefix_fails_in_both(dest: Any, seaweedfs_store: Store, tmp_path: Path, name: str) -> None:
    on = seaweedfs_store
    spec = Spec(files=place(tmp_path, LOCAL))
    with pytest.raises(Quilt3Error):
        on.quilt3.place(on.url, name, spec, dest=dest)
    with pytest.raises(LocationError):
        push(on.registry, spec.draft(name), dest)

    assert on.registry.latest(PackageName.parse(name)) is None


NO_PLACES = [
    "no text",
    "bytes",
    "a version",
    "a query",
    "a file",
    "a path",
    "a relative path",
    "another scheme",
    "a directory",
    "a bucket",
    "no bucket",
]


@pytest.mark.parametrize("land", NO_PLACES)
def test_bad_place_fails_in_both(land: str, seaweedfs_store: Store, tmp_path: Path, name: str) -> None:
    on = seaweedfs_store
    spec = Spec(files=place(tmp_path, LOCAL))
    with pytest.raises(Quilt3Error):
        on.quilt3.place(on.url, name, spec, land=land)
    with pytest.raises(LocationError):
        push(on.registry, spec.draft(name), DESTINATIONS[land])

    assert on.registry.latest(PackageName.parse(name)) is None


@pytest.mark.parametrize(("select", "land"), [("an error", None), (None, "an error")])
def test_callback_error_ends_both(
    select: str | None, land: str | None, seaweedfs_store: Store, tmp_path: Path, name: str
) -> None:
    on = seaweedfs_store
    spec = Spec(files=place(tmp_path, LOCAL))
    with pytest.raises(Quilt3Error, match="ZeroDivisionError"):
        on.quilt3.place(on.url, name, spec, select=select, land=land)
    with pytest.raises(ZeroDivisionError):
        Case(select=select, land=land).push(on.registry, spec, name)

    assert on.registry.latest(PackageName.parse(name)) is None


@pytest.mark.parametrize(
    ("case", "error"),
    [
        pytest.param(Case(select="none"), SourceError, id="a local file that stays"),
        pytest.param(Case(select="no truth value"), InputError, id="a selector that returns no truth value"),
        pytest.param(Case(land="one place"), LocationError, id="two entries at one place"),
        pytest.param(Case(land="the registry's own area"), LocationError, id="places in the registry's own area"),
        pytest.param(Case(dest=f"s3://{PLACED}/.quilt/packages"), LocationError, id="a prefix in the registry's own area"),
        pytest.param(Case(dest=f"s3://{PLACED}/.quilt"), LocationError, id="the registry's own area"),
    ],
)
def test_harmful_places_are_refused(
    case: Case, error: type[Exception], seaweedfs_store: Store, tmp_path: Path, name: str
) -> None:
    """Refuse them although quilt3 lets them through."""
    on = seaweedfs_store
    spec = Spec(files=place(tmp_path, {f"{name}/{key}": data for key, data in LOCAL.items()}))
    with pytest.raises(error):
        case.push(on.registry, spec, name)
    assert on.registry.latest(PackageName.parse(name)) is None

    assert on.quilt3.place(on.url, name, spec, select=case.select, dest=case.dest, land=case.land)
