"""quilt3 and the core read, compare, verify, install, delete and roll back packages of either client alike."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.delete import delete
from airflow_quilt.core.errors import PackageNotFoundError, QuiltError, TopHashError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.install import install
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.rollback import rollback
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import Verification, verify
from testbed.server import S3Server
from tests.oracle.quilt3_client import Manuscript, Quilt3, Quilt3Error, Spec, long_ago, place, plant, record, tree, write

FILES = {
    "README.md": b"# Data\n",
    "empty": b"",
    "d/b": b"1",
    "d/c/e.txt": b"2",
    "d/c/\u00e9 +%20#?.txt": b"3",
    "d.txt": b"4",
    "d-b": b"5",
    "gone/for good": b"6",
}
CHANGED = {"README.md": b"# data\n", "d/new": b"7", "new/d": b"8", "new-d": b"9"}
KEPT = {key: data for key, data in FILES.items() if not key.startswith("gone/")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A package of two revisions that one of the clients wrote; tests that share it do not change it."""

    registry: Registry
    package: str
    hashes: list[str]

    @property
    def url(self) -> str:
        """The registry, as quilt3 names it."""
        return str(self.registry.location)

    @property
    def name(self) -> PackageName:
        """The name of the package, as our engine has it."""
        return PackageName.parse(self.package)

    def pointers(self) -> dict[str, str]:
        """Return the core's revisions in the form of quilt3's listing."""
        latest = self.registry.latest(self.name)
        return {str(each.published_at.int_timestamp): each.top_hash for each in self.registry.revisions(self.name)} | (
            {"latest": latest.top_hash} if latest else {}
        )


def specs(directory: Path) -> list[Spec]:
    """Return two revisions: files and their metadata change, come and go."""
    old = Spec(files=place(directory / "old", FILES), file_meta={"d/b": {"n": 1}}, meta={"week": 1}, message="old")
    new = Spec(files=place(directory / "new", KEPT | CHANGED), file_meta={"d/b": {"n": 2}}, meta={"week": 2})
    return [old, new]


def published(author: str, registry: Registry, package: str, directory: Path, quilt3: Quilt3) -> Written:
    """Let one of the clients publish the revisions."""
    publish = build if registry.location.is_local else push
    if author == "quilt3":
        hashes = [quilt3.publish(str(registry.location), package, spec) for spec in specs(directory)]
    else:
        hashes = [publish(long_ago(registry), spec.draft(package)).top_hash for spec in specs(directory)]
    return Written(registry=registry, package=package, hashes=hashes)


@pytest.fixture(scope="module", params=["disk", "s3"])
def shared_registry(
    request: pytest.FixtureRequest, s3: S3Server, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Registry:
    """A registry of each kind."""
    root = f"s3://{bucket}" if request.param == "s3" else str(tmp_path_factory.mktemp("registry"))
    return Registry(resolve_registry(root), Stores(LocalStorage(), S3Storage(s3.client())))


@pytest.fixture(scope="module", params=["quilt3", "we"])
def written(
    request: pytest.FixtureRequest, shared_registry: Registry, quilt3: Quilt3, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    """A package of each author."""
    directory = tmp_path_factory.mktemp("files")
    return published(request.param, shared_registry, f"read/of-{request.param}", directory, quilt3)


class TestReading:
    @pytest.mark.parametrize("digits", [None, 7, 64])
    @pytest.mark.parametrize("number", [0, 1], ids=["old", "new"])
    def test_finds_the_same_records(self, number: int, digits: int | None, written: Written, quilt3: Quilt3) -> None:
        revision = written.hashes[number][:digits] if digits else None
        found = quilt3.browse(written.url, written.package, revision)
        read = written.registry.read(written.name, revision)

        assert read.header == found["header"]
        assert [record(entry) for entry in read.entries] == found["entries"]
        assert found["top_hash"] == (written.hashes[number] if revision else written.hashes[1])

    def test_finds_the_same_bytes(self, written: Written, quilt3: Quilt3) -> None:
        bytes_of = {
            entry.logical_key: written.registry.read_bytes(entry) for entry in written.registry.read(written.name).entries
        }

        assert bytes_of == KEPT | CHANGED
        assert bytes_of == {key: quilt3.read(written.url, written.package, key) for key in bytes_of}

    def test_lists_the_same_packages(self, written: Written, quilt3: Quilt3) -> None:
        packages = sorted(map(str, written.registry.packages()))

        assert written.package in packages
        assert packages == sorted(quilt3.packages(written.url))

    def test_lists_the_same_revisions(self, written: Written, quilt3: Quilt3) -> None:
        assert [each.top_hash for each in written.registry.revisions(written.name)] == written.hashes[::-1]
        assert written.pointers() == quilt3.pointers(written.url, written.package)

    @pytest.mark.parametrize("digits", [6, 7, 12, 63, 64])
    def test_short_hashes_agree(self, digits: int, written: Written, quilt3: Quilt3) -> None:
        for top_hash in written.hashes:
            assert written.registry.resolve(written.name, top_hash[:digits]) == top_hash
            assert quilt3.resolve(written.url, written.package, top_hash[:digits]) == top_hash

    @pytest.mark.parametrize("prefix", ["", "0", "00000", "000000", "0" * 63, "0" * 65, "ABCDEF", "nothex", "../../"])
    def test_bad_hashes_are_refused(self, prefix: str, written: Written, quilt3: Quilt3) -> None:
        with pytest.raises(Quilt3Error, match="zero matches|Invalid hash"):
            quilt3.resolve(written.url, written.package, prefix)
        with pytest.raises(TopHashError):
            written.registry.resolve(written.name, prefix)

    @pytest.mark.parametrize(("old", "new"), [(0, 1), (1, 0), (1, 1)], ids=["forward", "backward", "the same"])
    def test_finds_the_same_changes(self, old: int, new: int, written: Written, quilt3: Quilt3) -> None:
        found: dict[str, list[str]] = {"added": [], "modified": [], "deleted": []}
        for change in written.registry.diff(written.name, written.hashes[old], written.hashes[new]):
            found[change.kind].append(change.logical_key)
        theirs = quilt3.diff(written.url, written.package, written.hashes[old], written.hashes[new])

        assert found | {"added": sorted(found["added"])} == theirs
        assert [len(keys) for keys in found.values()] == {(0, 1): [3, 2, 1], (1, 0): [1, 2, 3], (1, 1): [0, 0, 0]}[old, new]

    def test_finds_no_absent_package(self, written: Written, quilt3: Quilt3) -> None:
        with pytest.raises(Quilt3Error):
            quilt3.browse(written.url, f"{written.package}-2")
        with pytest.raises(PackageNotFoundError):
            written.registry.read(PackageName.parse(f"{written.package}-2"))


PATHS = {
    "everything": (None, FILES),
    "a file": ("README.md", {"README.md": FILES["README.md"]}),
    "a file deep inside": ("d/c/e.txt", {"e.txt": b"2"}),
    "a file of an awkward name": ("d/c/\u00e9 +%20#?.txt", {"\u00e9 +%20#?.txt": b"3"}),
    "an empty file": ("empty", {"empty": b""}),
    "a directory": ("d", {"b": b"1", "c/e.txt": b"2", "c/\u00e9 +%20#?.txt": b"3"}),
    "a directory deep inside": ("d/c", {"e.txt": b"2", "\u00e9 +%20#?.txt": b"3"}),
}


class TestInstalling:
    @pytest.mark.parametrize(("path", "files"), PATHS.values(), ids=PATHS)
    def test_installs_the_same_files(
        self, path: str | None, files: Mapping[str, bytes], written: Written, quilt3: Quilt3, tmp_path: Path
    ) -> None:
        quilt3.install(written.url, written.package, tmp_path / "theirs", top_hash=written.hashes[0], path=path)
        installed = install(written.registry, Reference(written.package, written.hashes[0], path), str(tmp_path / "ours"))

        assert tree(tmp_path / "ours") == tree(tmp_path / "theirs") == files
        assert sorted(installed.paths) == sorted(str(tmp_path / "ours" / key) for key in files)

    @pytest.mark.parametrize("path", ["D", "d/c/e", "d.tx", "README.md/x", "/d", "d//b", "d/../d/b", ".", "new-d"])
    def test_absent_path_installs_none(self, path: str, written: Written, quilt3: Quilt3, tmp_path: Path) -> None:
        with pytest.raises(Quilt3Error):
            quilt3.install(written.url, written.package, tmp_path / "theirs", top_hash=written.hashes[0], path=path)
        with pytest.raises(QuiltError):
            install(written.registry, Reference(written.package, written.hashes[0], path), str(tmp_path / "ours"))
        assert not tree(tmp_path)

    def test_replaces_only_own_files(self, written: Written, quilt3: Quilt3, tmp_path: Path) -> None:
        before = {"README.md": b"another", "d/b": b"1", "mine": b"mine", "d/mine": b"mine"}
        for directory in (tmp_path / "theirs", tmp_path / "ours"):
            place(directory, before)
        quilt3.install(written.url, written.package, tmp_path / "theirs")
        install(written.registry, Reference(written.package), str(tmp_path / "ours"))

        assert tree(tmp_path / "ours") == tree(tmp_path / "theirs") == before | KEPT | CHANGED


Change = Callable[[Path], object]
CHANGES: dict[str, tuple[Change, str, str | None]] = {
    "nothing": (lambda _directory: None, "", None),
    "another letter": (lambda directory: (directory / "README.md").write_bytes(b"# DATA\n"), "modified", "README.md"),
    "a letter more": (lambda directory: (directory / "d/b").write_bytes(b"11"), "modified", "d/b"),
    "a letter in an empty file": (lambda directory: (directory / "empty").write_bytes(b"1"), "modified", "empty"),
    "no letter": (lambda directory: (directory / "d.txt").write_bytes(b""), "modified", "d.txt"),
    "a file less": (lambda directory: (directory / "d/c/e.txt").unlink(), "missing", "d/c/e.txt"),
    "a file more": (lambda directory: (directory / "more").write_bytes(b""), "extra", "more"),
    "a file more below": (lambda directory: (directory / "d/c/more").write_bytes(b"1"), "extra", "d/c/more"),
    "a hidden file more": (lambda directory: (directory / ".more").write_bytes(b"1"), "extra", ".more"),
    "an empty directory more": (lambda directory: (directory / "more").mkdir(), "", None),
    "a link in place of a file": (lambda directory: link(directory, "d-b"), "", None),
    "a link that leads nowhere": (lambda directory: (directory / "more").symlink_to("nowhere"), "", None),
    "a link in place of a file that leads nowhere": (lambda directory: dangle(directory, "d-b"), "missing", "d-b"),
    "a directory in place of a file": (lambda directory: turn(directory, "d-b"), "missing", "d-b"),
}


def link(directory: Path, key: str) -> None:
    """Put a link to a file in its place."""
    (directory / key).rename(directory.with_name("elsewhere"))
    (directory / key).symlink_to(directory.with_name("elsewhere"))


def dangle(directory: Path, key: str) -> None:
    """Put a link that leads nowhere in place of a file."""
    (directory / key).unlink()
    (directory / key).symlink_to("nowhere")


def turn(directory: Path, key: str) -> None:
    """Put an empty directory in place of a file."""
    (directory / key).unlink()
    (directory / key).mkdir()


def is_right(verification: Verification, *, extra_files_ok: bool = False) -> bool:
    """Whether the core takes the files for those of the package."""
    try:
        verification.check(extra_files_ok=extra_files_ok)
    except QuiltError:
        return False
    return True


@pytest.fixture(scope="module")
def installed(written: Written, quilt3: Quilt3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older revision, installed by quilt3; each test changes a copy."""
    directory = tmp_path_factory.mktemp("installed") / "files"
    quilt3.install(written.url, written.package, directory, top_hash=written.hashes[0])
    return directory


class TestVerifying:
    @pytest.mark.parametrize(("change", "finding", "key"), CHANGES.values(), ids=CHANGES)
    def test_directory_verdict_is_equal(
        self, change: Change, finding: str, key: str | None, written: Written, installed: Path, *, quilt3: Quilt3, tmp_path: Path
    ) -> None:
        directory = shutil.copytree(installed, tmp_path / "files")
        change(directory)
        found = verify(written.registry, Reference(written.package, written.hashes[0]), str(directory))

        assert {"missing": found.missing, "modified": found.modified, "extra": found.extra} == {
            "missing": [],
            "modified": [],
            "extra": [],
        } | ({finding: [key]} if key else {})
        for extra_files_ok in (False, True):
            options = {"top_hash": written.hashes[0], "extra_files_ok": extra_files_ok}
            assert is_right(found, extra_files_ok=extra_files_ok) == quilt3.verify(
                written.url, written.package, directory, **options
            )

    def test_other_revision_fails(self, written: Written, installed: Path, quilt3: Quilt3) -> None:
        assert not quilt3.verify(written.url, written.package, installed)
        assert not is_right(verify(written.registry, Reference(written.package), str(installed)))

    @pytest.mark.parametrize("read_all", [False, True])
    def test_named_objects_are_right(self, *, read_all: bool, written: Written) -> None:
        for top_hash in written.hashes:
            found = verify(written.registry, Reference(written.package, top_hash), read_all=read_all)
            assert is_right(found)
            assert found.entries == len(list(written.registry.read(written.name, top_hash).entries))

    def test_copied_prefix_is_verified(self, written: Written, quilt3: Quilt3, other_bucket: str, namespace: str) -> None:
        prefix = f"s3://{other_bucket}/{namespace}"
        install(written.registry, Reference(written.package), prefix)
        remote = written.registry.stores.remote

        def verdicts() -> list[bool]:
            ours = [is_right(verify(written.registry, Reference(written.package), src)) for src in (prefix, f"{prefix}/")]
            return [*ours, quilt3.verify(written.url, written.package, prefix)]

        assert verdicts() == [True, True, True]
        remote.put(PhysicalKey(other_bucket, f"{namespace}/d/new"), b"?")
        assert verdicts() == [False, False, False]
        remote.put(PhysicalKey(other_bucket, f"{namespace}/d/new"), b"7")
        remote.put(PhysicalKey(other_bucket, f"{namespace}/d/more"), b"7")
        assert verdicts() == [False, False, False]

    def test_similar_prefix_is_ignored(self, written: Written, quilt3: Quilt3, other_bucket: str, namespace: str) -> None:
        install(written.registry, Reference(written.package), f"s3://{other_bucket}/{namespace}")
        written.registry.stores.remote.put(PhysicalKey(other_bucket, f"{namespace}.txt"), b"beside")

        assert is_right(verify(written.registry, Reference(written.package), f"s3://{other_bucket}/{namespace}"))
        assert quilt3.verify(written.url, written.package, f"s3://{other_bucket}/{namespace}")


@pytest.fixture(params=["local_registry", "s3_registry"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """A registry of each kind, for a test alone or for packages of its own."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("author", ["quilt3", "we"])
def test_each_undoes_the_others(author: str, registry: Registry, quilt3: Quilt3, tmp_path: Path, name: str) -> None:
    """Roll back and delete the other client's revisions one by one."""
    own = published(author, registry, name, tmp_path, quilt3)
    before = own.pointers()
    old, new = own.hashes
    roll_back, remove = (quilt3.rollback, quilt3.delete) if author == "we" else (rollback, delete)
    where = own.url if author == "we" else registry

    roll_back(where, name, old[:7])
    assert own.pointers() == quilt3.pointers(own.url, name) == before | {"latest": old}
    assert quilt3.browse(own.url, name)["header"]["message"] == registry.read(own.name).header["message"] == "old"

    roll_back(where, name, new)
    remove(where, name, old[:7])
    assert own.pointers() == quilt3.pointers(own.url, name) == {each: new for each in before if before[each] == new}
    assert quilt3.browse(own.url, name)["top_hash"] == registry.resolve(own.name) == new

    remove(where, name)
    assert own.pointers() == quilt3.pointers(own.url, name) == {}
    assert name not in quilt3.packages(own.url)
    assert own.name not in list(registry.packages())


def manuscripts(*messages: str) -> list[Manuscript]:
    """Return packages without entries that differ in their messages."""
    return [Manuscript({"version": "v0", "message": message}, []) for message in messages]


def replace_root(registry: Registry, directory: Path) -> Registry:
    """Return a registry on the disk beside another one."""
    return Registry(resolve_registry(str(directory)), registry.stores)


DELETED: dict[str, tuple[list[str], Callable[[list[str]], str | None]]] = {
    "everything": (["a", "b", "c"], lambda _hashes: None),
    "the latest revision": (["a", "b", "c"], lambda hashes: hashes[2]),
    "a revision in the middle, by a short hash": (["a", "b", "c"], lambda hashes: hashes[1][:6]),
    "the first revision": (["a", "b", "c"], lambda hashes: hashes[0]),
    "the only revision": (["a"], lambda hashes: hashes[0]),
    "a revision that was published twice": (["a", "b", "a"], lambda hashes: hashes[0]),
    "a revision that was published twice, and not last": (["a", "a", "b"], lambda hashes: hashes[0]),
}


@pytest.mark.parametrize("rolled_back", [False, True], ids=["", "rolled back to the first"])
@pytest.mark.parametrize(("messages", "choose"), DELETED.values(), ids=DELETED)
def test_delete_pointers_are_equal(
    messages: list[str],
    choose: Callable[[list[str]], str | None],
    *,
    rolled_back: bool,
    registry: Registry,
    quilt3: Quilt3,
    tmp_path: Path,
    name: str,
) -> None:
    other = replace_root(registry, tmp_path / "registry-of-quilt3")  # It cannot copy the pointer on every S3 store.
    for each in (registry, other):
        hashes = plant(each, name, *manuscripts(*(f"{name}: {message}" for message in messages)))
        if rolled_back:
            write(each, f".quilt/named_packages/{name}/latest", hashes[0].encode())
    delete(registry, name, choose(hashes))
    quilt3.delete(str(other.location), name, choose(hashes))
    left = quilt3.pointers(str(registry.location), name)

    assert left == quilt3.pointers(str(other.location), name)
    assert (name in quilt3.packages(str(registry.location))) == (name in quilt3.packages(str(other.location))) == bool(left)
    assert len(left) < len(messages) + 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_rollback_pointers_are_equal(number: int, registry: Registry, quilt3: Quilt3, name: str) -> None:
    url, other = str(registry.location), f"{name}-2"
    for package in (name, other):
        hashes = plant(registry, package, *manuscripts(*(f"{name}: {message}" for message in "abc")))
    rollback(registry, name, hashes[number][:8])
    quilt3.rollback(url, other, hashes[number][:8])

    assert quilt3.pointers(url, name) == quilt3.pointers(url, other)
    assert quilt3.latest(url, name) == hashes[number]


@pytest.mark.parametrize("top_hash", ["0" * 64, "000000", "00000"])
def test_missing_revision_fails(top_hash: str, registry: Registry, quilt3: Quilt3, name: str) -> None:
    url = str(registry.location)
    plant(registry, name, *manuscripts(name))
    before = quilt3.pointers(url, name)
    for theirs, ours in ((quilt3.delete, delete), (quilt3.rollback, rollback)):
        with pytest.raises(Quilt3Error):
            theirs(url, name, top_hash)
        with pytest.raises((PackageNotFoundError, TopHashError)):
            ours(registry, name, top_hash)

    assert quilt3.pointers(url, name) == before


class TestShortHashesOfSeveralRevisions:
    """Pointers and manifests are written by hand: no two packages have hashes so alike."""

    @pytest.fixture
    def alike(self, registry: Registry, name: str) -> list[str]:
        """Two revisions of a package, whose hashes have 10 digits in common."""
        digits = f"{int(name.removeprefix('team-').partition('/')[0]):04x}"
        hashes = [f"abcdef{digits}{letter}".ljust(64, "0") for letter in "01"]
        [manifest] = manuscripts(name)
        for seconds, top_hash in enumerate(hashes, 1_500_000_000):
            write(registry, f".quilt/packages/{top_hash}", manifest.data)
            write(registry, f".quilt/named_packages/{name}/{seconds}", top_hash.encode())
        write(registry, f".quilt/named_packages/{name}/latest", hashes[1].encode())
        return hashes

    def test_short_hash_matches_none(self, alike: list[str], registry: Registry, quilt3: Quilt3, name: str) -> None:
        with pytest.raises(Quilt3Error, match="multiple matches"):
            quilt3.resolve(str(registry.location), name, alike[0][:10])
        with pytest.raises(TopHashError, match=f"matches {alike[0][:12]}, {alike[1][:12]}"):
            registry.resolve(PackageName.parse(name), alike[0][:10])

    def test_one_more_digit_matches(self, alike: list[str], registry: Registry, quilt3: Quilt3, name: str) -> None:
        for top_hash in alike:
            assert registry.resolve(PackageName.parse(name), top_hash[:11]) == top_hash
            assert quilt3.resolve(str(registry.location), name, top_hash[:11]) == top_hash

    def test_ambiguous_hash_is_refused(self, alike: list[str], registry: Registry, quilt3: Quilt3, name: str) -> None:
        before = quilt3.pointers(str(registry.location), name)
        for theirs, ours in ((quilt3.delete, delete), (quilt3.rollback, rollback)):
            with pytest.raises(Quilt3Error, match="multiple matches"):
                theirs(str(registry.location), name, alike[0][:10])
            with pytest.raises(TopHashError):
                ours(registry, name, alike[0][:10])

        assert quilt3.pointers(str(registry.location), name) == before

    def test_quilt3_hashes_span_registry(self, alike: list[str], registry: Registry, quilt3: Quilt3, name: str) -> None:
        delete(registry, name, alike[0])

        assert registry.resolve(PackageName.parse(name), alike[0][:10]) == alike[1]
        with pytest.raises(Quilt3Error, match="multiple matches"):
            quilt3.resolve(str(registry.location), name, alike[0][:10])


def test_each_extends_the_others(registry: Registry, quilt3: Quilt3, tmp_path: Path, name: str) -> None:
    url = str(registry.location)
    spec = Spec(files=place(tmp_path, {"a": b"1", "b": b"2", "c": b"3"}), meta={"by": "us"}, message="ours")
    publish = build if registry.location.is_local else push
    ours = publish(long_ago(registry), replace(spec, files={"a": spec.files["a"]}).draft(name)).top_hash
    theirs = quilt3.revise(
        url, name, ("", "set", ["b", spec.files["b"], {"n": 1}]), ("a", "set_meta", [{"n": 2}]), message="theirs"
    )
    again = publish(registry, replace(spec, files={"c": spec.files["c"]}, meta=None).draft(name, mode="update")).top_hash

    assert quilt3.revisions(url, name) == [again, theirs, ours]
    found = quilt3.browse(url, name)
    assert {each["logical_key"]: each["meta"] for each in found["entries"]} == {
        "a": {"user_meta": {"n": 2}},
        "b": {"user_meta": {"n": 1}},
        "c": {},
    }
    assert [found["header"]["user_meta"], found["header"]["message"], found["top_hash"]] == [{"by": "us"}, "ours", again]
