"""An update of a revision equals quilt3's, made by ``browse``, some calls of methods, and ``build`` or ``push``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import LogicalKeyError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.paths import resolve_path
from tests.oracle.quilt3_client import Manuscript, Quilt3, Quilt3Error, Step, long_ago, place, plant, write

FILES = {"a.txt": b"a", "plots/1.png": b"1", "plots/deep/2.png": b"2", "plots.txt": b"3", "z/only": b"4"}
NEW = {"b.txt": b"b", "a.txt": b"another a", "dir/1.png": b"another 1", "dir/3.png": b"3", "dir/sub/4.png": b"4"}
HASHES = [
    {"type": "sha2-256-chunked", "value": "5CtDYtSDdrHzeNqjgLIKJMYrqGOnjMPUXFD37LRvPAk="},
    {"type": "SHA256", "value": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"},
    {"type": "CRC64NVME", "value": "AAAAAAAAAAA="},
    {"type": "of a client to come", "value": "?"},
]
HEADERS: dict[str, dict[str, Any]] = {
    "a plain header": {"version": "v0", "user_meta": {"week": 1}, "message": "base"},
    "a bare header": {"version": "v0"},
    "a header that others wrote": {
        "x-team": {"b": [1e16, None], "a": "\u00e9\x7f"},
        "message": "base",
        "workflow": {"id": "old", "config": "s3://gone/config.yml?versionId=1", "schemas": {}},
        "version": "v0",
        "user_meta": {"week": 1, "nested": {"z": 1, "a": 2}},
        "more": None,
    },
}
METAS: list[dict[str, Any]] = [
    {},
    {"user_meta": {"n": 1}},
    {"target": "parquet", "user_meta": {"n": 2}, "format": {"name": "csv", "opts": {}}},
    {"system": [1, 2.0]},
    {"user_meta": {}, "user_meta ": 1},
]
DIRECTORIES: dict[str, Any] = {"plots/": {"kind": "plots", "\u00e9": [1]}, "plots/deep/": {"deep": True}, "z/": {"last": None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An update, in quilt3's arguments and in ours; ``<new>`` stands for a directory, ``<base>`` for the revision."""

    steps: Sequence[Step] = ()
    entries: Mapping[str, object] | None = None
    remove: Sequence[str] = ()
    meta: Mapping[str, Any] | None = None
    message: str | None = "update"
    options: Mapping[str, Any] = field(default_factory=dict)


def put(key: str, file: str, *meta: Mapping[str, Any]) -> Step:
    """Return quilt3's call that puts a file at a key."""
    return ("", "set", [key, f"<new>/{file}", *meta])


def drop(key: str) -> Step:
    """Return quilt3's call that takes out a file or directory."""
    return ("", "delete", [key])


CASES = {
    "another message": Case(),
    "no message": Case(message=None),
    "an empty message": Case(message=""),
    "a file more": Case(steps=[put("b.txt", "b.txt")], entries={"b.txt": "<new>/b.txt"}),
    "a file more with metadata": Case(
        steps=[put("b.txt", "b.txt", {"n": 3})], entries={"b.txt": {"path": "<new>/b.txt", "meta": {"n": 3}}}
    ),
    "a file more in a directory": Case(steps=[put("plots/0", "b.txt")], entries={"plots/0": "<new>/b.txt"}),
    "a file more in a new directory": Case(steps=[put("new/deep/b", "b.txt")], entries={"new/deep/b": "<new>/b.txt"}),
    "a file in place of another": Case(steps=[put("a.txt", "a.txt")], entries={"a.txt": "<new>/a.txt"}),
    "a file with metadata in place of another": Case(
        steps=[put("plots/1.png", "a.txt", {"n": 3})], entries={"plots/1.png": {"path": "<new>/a.txt", "meta": {"n": 3}}}
    ),
    "a file less": Case(steps=[drop("a.txt")], remove=["a.txt"]),
    "a file less in a directory": Case(steps=[drop("plots/1.png")], remove=["plots/1.png"]),
    "the last file of a directory less": Case(steps=[drop("z/only")], remove=["z/only"]),
    "a directory less": Case(steps=[drop("plots")], remove=["plots/"]),
    "a directory inside a directory less": Case(steps=[drop("plots/deep")], remove=["plots/deep"]),
    "all files less": Case(
        steps=[drop(key) for key in ("a.txt", "plots", "plots.txt", "z")],
        remove=["a.txt", "plots", "plots.txt", "z"],
        options={"allow_empty": True},
    ),
    "a file in place of a directory": Case(
        steps=[drop("plots"), put("plots", "b.txt")], entries={"plots": "<new>/b.txt"}, remove=["plots"]
    ),
    "a directory in place of a file": Case(
        steps=[drop("a.txt"), put("a.txt/b", "b.txt")], entries={"a.txt/b": "<new>/b.txt"}, remove=["a.txt"]
    ),
    "a file that went and came back": Case(
        steps=[drop("a.txt"), put("a.txt", "a.txt")], entries={"a.txt": "<new>/a.txt"}, remove=["a.txt"]
    ),
    "other metadata": Case(steps=[("", "set_meta", [{"week": 2}])], meta={"week": 2}),
    "empty metadata": Case(steps=[("", "set_meta", [{}])], meta={}),
    "other metadata of an entry": Case(
        steps=[(key, "set_meta", [{"n": 3}]) for key in FILES],
        entries={key: {"path": f"<base>&path={key}", "meta": {"n": 3}} for key in FILES},
    ),
    "empty metadata of an entry": Case(
        steps=[(key, "set_meta", [{}]) for key in FILES],
        entries={key: {"path": f"<base>&path={key}", "meta": {}} for key in FILES},
    ),
    "an entry under a second key": Case(
        steps=[("", "set", ["copy/of 1", {"entry": "plots/1.png"}])], entries={"copy/of 1": "<base>&path=plots/1.png"}
    ),
    "metadata of a directory": Case(steps=[("plots", "set_meta", [{"x": 1}])], entries={"plots/": {"meta": {"x": 1}}}),
    "metadata of a directory inside a directory": Case(
        steps=[("plots/deep", "set_meta", [{"x": 1}])], entries={"plots/deep/": {"meta": {"x": 1}}}
    ),
    "no metadata of a directory": Case(steps=[("plots", "set_meta", [{}])], entries={"plots/": {"meta": {}}}),
    "a directory of files": Case(steps=[("", "set_dir", ["new", "<new>/dir"])], entries={"new/": "<new>/dir"}),
    "a directory of files with metadata": Case(
        steps=[("", "set_dir", ["new/deep", "<new>/dir", {"x": 1}])],
        entries={"new/deep/": {"path": "<new>/dir", "meta": {"x": 1}}},
    ),
    "a directory of files with metadata over another one": Case(
        steps=[("", "set_dir", ["plots", "<new>/dir/", {"x": 1}])], entries={"plots/": {"path": "<new>/dir", "meta": {"x": 1}}}
    ),
    "all of it": Case(
        steps=[
            drop("plots/deep"),
            drop("a.txt"),
            ("", "set_dir", ["plots", "<new>/dir", {"x": 1}]),
            put("a.txt", "a.txt", {"n": 3}),
            ("", "set_meta", [{"week": 2}]),
        ],
        entries={"plots/": {"path": "<new>/dir", "meta": {"x": 1}}, "a.txt": {"path": "<new>/a.txt", "meta": {"n": 3}}},
        remove=["plots/deep/", "a.txt"],
        meta={"week": 2},
    ),
}

BUILT_ON_S3 = ["another message", "all files less", "other metadata of an entry", "all of it"]
PUSHED = [
    *BUILT_ON_S3,
    "no message",
    "a file more with metadata",
    "a file in place of another",
    "the last file of a directory less",
    "a file in place of a directory",
    "a directory in place of a file",
    "empty metadata",
    "an entry under a second key",
    "metadata of a directory",
    "a directory of files with metadata over another one",
]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def manuscript(header: Mapping[str, Any], places: Mapping[str, str]) -> Manuscript:
    """Return a revision that neither client wrote, with hashes of every type and metadata on every level."""
    entries = [
        {
            "logical_key": key,
            "physical_keys": [places[key]],
            "size": 1,
            "hash": HASHES[number % len(HASHES)],
            "meta": METAS[number],
        }
        for number, key in enumerate(FILES)
    ]
    return Manuscript(header, [*({"logical_key": key, "meta": meta} for key, meta in DIRECTORIES.items()), *entries])


def local_base(registry: Registry, name: str, header: Mapping[str, Any], directory: Path) -> str:
    """Plant a revision of local files; return its top hash."""
    places = {key: str(resolve_path(path)) for key, path in place(directory, FILES).items()}
    return plant(registry, name, manuscript(header, places))[0]


def remote_base(registry: Registry, name: str, header: Mapping[str, Any]) -> str:
    """Plant a revision of objects in the registry's bucket; return its top hash."""
    places = {key: str(write(registry, f"base of {name}/{key}", data)) for key, data in FILES.items()}
    return plant(registry, name, manuscript(header, places))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A case in a registry: where the new files and the base are."""

    case: Case
    registry: Registry
    name: str
    base: str
    new: Path

    def __post_init__(self) -> None:
        place(self.new, NEW)

    def draft(self, **options: Any) -> Draft:
        """Return the update as our engine takes it."""
        case = self.case
        return Draft(
            package=self.name,
            mode="update",
            revision=self.base,
            entries=self._filled(case.entries),
            remove=case.remove,
            meta=case.meta,
            message=case.message,
            **{**case.options, **options},
        )

    def by_quilt3(self, quilt3: Quilt3, *, build: bool) -> str:
        """Let quilt3 make the update; return its top hash."""
        steps = self._filled(list(self.case.steps))
        return quilt3.revise(
            str(self.registry.location), self.name, *steps, top_hash=self.base, message=self.case.message, build=build
        )

    def manifest(self, top_hash: str) -> bytes:
        """Return the bytes of a manifest."""
        key = self.registry.location.root.join(f".quilt/packages/{top_hash}")
        return self.registry.stores.of(key).get(key).data

    def _filled(self, value: Any) -> Any:
        text = json.dumps(value).replace("<new>", str(self.new))
        return json.loads(text.replace("<base>", f"quilt+{self.registry.location}#package={self.name}@{self.base}"))


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@every_case
def test_local_build_equals_quilt3s(
    case: Case, header: Mapping[str, Any], quilt3: Quilt3, local_registry: Registry, tmp_path: Path, *, name: str
) -> None:
    base = local_base(local_registry, name, header, tmp_path / "base")
    update = Update(case=case, registry=local_registry, name=name, base=base, new=tmp_path / "new")
    published = build(local_registry, update.draft())
    ours = update.manifest(published.top_hash)

    assert update.by_quilt3(quilt3, build=True) == published.top_hash != base
    assert ours == update.manifest(published.top_hash)
    changes = quilt3.diff(str(local_registry.location), name, base, published.top_hash)
    assert (published.added, published.modified, published.removed) == tuple(map(len, changes.values()))


@pytest.mark.parametrize("case", [CASES[each] for each in BUILT_ON_S3], ids=BUILT_ON_S3)
def test_object_build_equals_quilt3s(case: Case, quilt3: Quilt3, s3_registry: Registry, tmp_path: Path, name: str) -> None:
    base = remote_base(s3_registry, name, HEADERS["a header that others wrote"])
    update = Update(case=case, registry=s3_registry, name=name, base=base, new=tmp_path / "new")
    published = build(s3_registry, update.draft())
    ours = update.manifest(published.top_hash)

    assert update.by_quilt3(quilt3, build=True) == published.top_hash != base
    assert ours == update.manifest(published.top_hash)


@pytest.mark.parametrize("case", [CASES[each] for each in PUSHED], ids=PUSHED)
def test_push_equals_quilt3s(case: Case, quilt3: Quilt3, s3_registry: Registry, tmp_path: Path, name: str) -> None:
    """Ignore the versions of uploaded objects."""
    base = remote_base(s3_registry, name, HEADERS["a header that others wrote"])
    update = Update(case=case, registry=s3_registry, name=name, base=base, new=tmp_path / "new")
    published = push(long_ago(s3_registry), update.draft())
    ours = quilt3.browse(str(s3_registry.location), name, published.top_hash)

    assert update.by_quilt3(quilt3, build=False) == published.top_hash == ours["top_hash"] != base
    theirs = quilt3.browse(str(s3_registry.location), name, published.top_hash)
    assert unversioned(ours, f"/{name}/") == unversioned(theirs, f"/{name}/")


def unversioned(found: Mapping[str, Any], below: str) -> list[Mapping[str, Any]]:
    """Return the records without the versions of objects below a prefix, and without directories, which quilt3 drops."""
    entries = [each for each in found["entries"] if "physical_keys" in each]
    keys = [each["physical_keys"][0] for each in entries]
    places = [key.partition("?")[0] if below in key else key for key in keys]
    return [found["header"], *(each | {"physical_keys": [where]} for each, where in zip(entries, places, strict=True))]


def test_short_hash_base_agrees(quilt3: Quilt3, local_registry: Registry, tmp_path: Path, name: str) -> None:
    places = {key: str(resolve_path(path)) for key, path in place(tmp_path / "base", FILES).items()}
    plain = manuscript(HEADERS["a plain header"], places)
    older, newer = plant(local_registry, name, plain, replace(plain, header=HEADERS["a bare header"]))
    case = CASES["the last file of a directory less"]
    update = Update(case=case, registry=local_registry, name=name, base=older[:7], new=tmp_path / "new")
    published = build(local_registry, update.draft())

    assert update.by_quilt3(quilt3, build=True) == published.top_hash not in {older, newer}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_workflow_record_is_equal(
    header: Mapping[str, Any], quilt3: Quilt3, local_registry: Registry, tmp_path: Path, name: str
) -> None:
    config = "version: '1'\ndefault_workflow: new\nworkflows: {new: {name: New}}\n"
    write(local_registry, ".quilt/workflows/config.yml", config.encode())
    base = local_base(local_registry, name, header, tmp_path / "base")
    update = Update(case=CASES["a file less"], registry=local_registry, name=name, base=base, new=tmp_path / "new")
    published = build(local_registry, update.draft())
    ours = update.manifest(published.top_hash)

    assert update.by_quilt3(quilt3, build=True) == published.top_hash
    assert ours == update.manifest(published.top_hash)
    assert json.loads(ours.splitlines()[0])["workflow"]["id"] == "new"


@pytest.mark.parametrize(
    ("steps", "entries"),
    [
        pytest.param([put("plots", "b.txt")], {"plots": "<new>/b.txt"}, id="a file over a directory"),
        pytest.param([put("a.txt/b", "b.txt")], {"a.txt/b": "<new>/b.txt"}, id="a directory over a file"),
        pytest.param([put("new/", "b.txt")], {"new/..": "<new>/b.txt"}, id="a key that is none"),
    ],
)
def test_misfit_fails_in_both(
    steps: list[Step], entries: dict[str, object], quilt3: Quilt3, local_registry: Registry, tmp_path: Path, *, name: str
) -> None:
    base = local_base(local_registry, name, HEADERS["a plain header"], tmp_path / "base")
    case = Case(steps=steps, entries=entries)
    update = Update(case=case, registry=local_registry, name=name, base=base, new=tmp_path / "new")
    with pytest.raises(Quilt3Error, match="QuiltException"):
        update.by_quilt3(quilt3, build=True)
    with pytest.raises(LogicalKeyError):
        build(local_registry, update.draft())

    assert quilt3.revisions(str(local_registry.location), name) == [base]


@pytest.mark.parametrize(
    ("key", "meta", "directories"),
    [
        pytest.param("z/", {"week": 1}, ["plots/", "plots/deep/"], id="a directory"),
        pytest.param("/", None, list(DIRECTORIES), id="the package"),
    ],
)
def test_directory_meta_is_kept(
    key: str, meta: object, directories: list[str], quilt3: Quilt3, local_registry: Registry, tmp_path: Path, *, name: str
) -> None:
    """Keep it where quilt3 forgets it."""
    base = local_base(local_registry, name, HEADERS["a plain header"], tmp_path / "base")
    case = Case(steps=[("", "set_dir", [key, "<new>/dir"])], entries={key: "<new>/dir"})
    update = Update(case=case, registry=local_registry, name=name, base=base, new=tmp_path / "new")
    ours = local_registry.read(PackageName.parse(name), build(local_registry, update.draft()).top_hash)
    keys = [entry.logical_key for entry in ours.entries]
    theirs = local_registry.read(PackageName.parse(name), update.by_quilt3(quilt3, build=True))

    assert keys == [entry.logical_key for entry in theirs.entries]
    assert [ours.user_meta, dict(ours.directories)] == [{"week": 1}, DIRECTORIES]
    assert [theirs.user_meta, list(theirs.directories)] == [meta, directories]


def test_mirror_keys_are_kept(quilt3: Quilt3, local_registry: Registry, tmp_path: Path, name: str) -> None:
    """Keep other physical keys of an entry where quilt3 drops them."""
    keys = [str(resolve_path(path)) for path in place(tmp_path, {"a": b"a", "mirror": b"a"}).values()]
    entry = {"logical_key": "a", "physical_keys": keys, "size": 1, "hash": HASHES[0], "meta": {}}
    [base] = plant(local_registry, name, Manuscript({"version": "v0", "message": None}, [entry]))
    published = build(local_registry, Draft(package=name, mode="update", message="update"))
    [ours] = local_registry.read(PackageName.parse(name)).entries

    assert quilt3.revise(str(local_registry.location), name, top_hash=base, message="update") == published.top_hash
    [theirs] = local_registry.read(PackageName.parse(name)).entries
    assert [list(ours.physical_keys), list(theirs.physical_keys)] == [keys, keys[:1]]
