import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.errors import (
    BucketNotFoundError,
    EmptyPackageError,
    LogicalKeyError,
    ObjectTooLargeError,
    PackageNotFoundError,
    QuiltError,
    SourceError,
)
from airflow_quilt.core.format.hashes import CHUNKED, CRC64NVME, Hash, hash_of, to_s3
from airflow_quilt.core.format.manifest import Entry, EntryBlock
from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey
from airflow_quilt.core.format.ordering import validate_order
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Source, origin_of
from airflow_quilt.core.plan.tree import SourceTree
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.sources.discover import FindOptions, SourceFinder
from airflow_quilt.core.sources.parse import parse_entries, where_of
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.stores import Stores

Write = Callable[..., Path]
HASH = Hash("sha2-256-chunked", "x" * 44)
TOP_HASH = "0123456789abcdef" * 4


class Finder:
    """Finds the sources of entries, and notes which packages were read."""

    def __init__(self, memory: MemoryStorage) -> None:
        self.stores = Stores(LocalStorage(), memory)
        self.packages: dict[str, list[Entry]] = {}
        self.directories: dict[DirectoryKey, Any] = {}
        """The metadata of directories in each of the packages."""
        self.read: list[QuiltUri] = []

    def __call__(self, entries: object, **options: Any) -> list[Source]:
        return list(self.tree(entries, **options).sources)

    def tree(self, entries: object, **options: Any) -> SourceTree:
        found: Spool[Source] = Spool(Source, 2)
        finder = SourceFinder(self.stores, self._read_package, FindOptions(**options))
        with found:
            directories = finder.find(parse_entries(entries), found)
            return SourceTree(list(validate_order(found, directories, origin_of)), directories)

    def keys(self, entries: object, **options: Any) -> list[str]:
        return [source.logical_key for source in self(entries, **options)]

    def _read_package(self, uri: QuiltUri) -> Manifest:
        self.read.append(uri)
        if str(uri.package) not in self.packages:
            raise PackageNotFoundError(f"there is no package {uri.package}")
        directories: dict[DirectoryKey, Any] = {}

        def blocks() -> Iterator[EntryBlock]:
            directories.update(self.directories)  # As in a manifest: they are known when the entries have been read.
            yield from (EntryBlock([entry], b"") for entry in self.packages[str(uri.package)])

        return Manifest({}, blocks(), directories)


@pytest.fixture
def find(memory: MemoryStorage) -> Finder:
    return Finder(memory)


def put(memory: MemoryStorage, key: str, data: bytes = b"hello") -> PhysicalKey:
    return memory.put(PhysicalKey("source", key), data).key


# Files and directories.


def test_file_has_size_and_place(find: Finder, write: Write) -> None:
    path = write("raw/a.txt", "hello")
    (source,) = find({"sub/b.txt": path})

    assert (source.logical_key, source.size, source.hash, source.meta) == ("sub/b.txt", 5, None, {})
    assert source.origin == PhysicalKey(None, str(path.resolve()))
    assert source.etag == find.stores.local.stat(resolve_path(path)).etag


def test_file_keeps_given_meta(find: Finder, write: Write) -> None:
    (source,) = find({"a": {"path": write("a.txt"), "meta": {"x": 1}}})

    assert source.meta == {"user_meta": {"x": 1}}


def test_empty_file_is_a_file(find: Finder, write: Write) -> None:
    (source,) = find({"a": write("a.txt")})

    assert source.size == 0


def test_bad_content_precedes_requests(find: Finder) -> None:
    with pytest.raises(SourceError, match=r"'a\.json': its content is not JSON"):
        find({"in/": "quilt+s3://other#package=team/data", "a.json": float("nan")})

    assert find.read == []


def test_content_in_calling_thread(find: Finder) -> None:
    class Lazy(Sequence[int]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: Any) -> Any:
            return [threading.get_ident()][index]

    (source,) = find({"a.json": Lazy()})

    assert source.origin == b"[%d]" % threading.get_ident()


def test_content_is_found_as_is(find: Finder) -> None:
    assert find({"b": {"content": "é", "meta": {"x": 1}}, "a": b""}) == [
        Source(logical_key=LogicalKey("a"), origin=b"", size=0),
        Source(logical_key=LogicalKey("b"), origin="é".encode(), size=2, meta={"user_meta": {"x": 1}}),
    ]


@pytest.mark.parametrize("ending", ["", "/"], ids=["plain", "with-slash"])
@pytest.mark.parametrize("key", ["", "sub/"], ids=["root", "below-a-key"])
def test_directory_is_packed_whole(find: Finder, write: Write, key: str, ending: str) -> None:
    for name in ("a.txt", "a/b/c.txt", "a/.hidden", "é +%?#.txt"):
        root = write(f"raw/{name}", name)
    root = root.parent
    (root / "empty").mkdir()
    sources = find({key or "/": f"{root}{ending}"})

    assert [source.logical_key for source in sources] == [
        f"{key}{name}" for name in ("a/.hidden", "a/b/c.txt", "a.txt", "é +%?#.txt")
    ]
    assert all(source.origin == PhysicalKey(None, f"{root.resolve()}/{source.logical_key[len(key) :]}") for source in sources)
    assert [source.size for source in sources] == [len(source.logical_key[len(key) :].encode()) for source in sources]


@pytest.mark.parametrize("key", ["", "sub/"])
def test_file_lands_in_directory(find: Finder, write: Write, key: str) -> None:
    assert find.keys({key or "/": write("raw/a.txt")}) == [f"{key}a.txt"]


def test_file_as_whole_package(find: Finder, write: Write) -> None:
    assert find.keys(write("raw/a.txt")) == ["a.txt"]


def test_list_lands_by_base_name(find: Finder, write: Write, memory: MemoryStorage) -> None:
    put(memory, "p/o.txt")
    entries = {"out/": [write("x/a.txt"), str(write("y/b.txt")), write("z/c/d.txt").parent.parent, "s3://source/p/o.txt"]}

    assert find.keys(entries) == ["out/a.txt", "out/b.txt", "out/c/d.txt", "out/o.txt"]


def test_sources_in_walk_order(find: Finder, write: Write) -> None:
    path = write("x")

    assert find.keys(dict.fromkeys(["b", "a.txt", "a/b", "a-b", "a/b.c/d"], path)) == ["a/b", "a/b.c/d", "a-b", "a.txt", "b"]


def test_many_sources_in_order(find: Finder, write: Write) -> None:
    path = write("x")
    keys = [f"{number:04}" for number in range(500)]

    assert find.keys(dict.fromkeys(reversed(keys), path)) == keys


# What does not fit together.


def test_same_base_name_refused(find: Finder, write: Write) -> None:
    """Name both sources, and the cure."""
    first, second = write("x/part.csv"), write("y/part.csv")
    with pytest.raises(LogicalKeyError, match=r"'out/part\.csv' is given twice: by .*'\{index\}' does that") as caught:
        find({"out/": [first, second]})

    assert all(path.as_uri() in str(caught.value) for path in (first, second))
    assert find.keys({"out/{index}/": [first, second]}) == ["out/0/part.csv", "out/1/part.csv"]


def test_clash_with_content_names_both(find: Finder, memory: MemoryStorage) -> None:
    place = put(memory, "p/part.csv")
    with pytest.raises(LogicalKeyError) as caught:
        find({"out/": "s3://source/p/part.csv", "out/part.csv": b"12345"})

    assert "content of 5 bytes" in str(caught.value)
    assert str(place) in str(caught.value)


def test_directory_and_entry_clash(find: Finder, write: Write) -> None:
    path = write("x/a.txt")
    with pytest.raises(LogicalKeyError, match=r"'a\.txt' is given twice"):
        find({"/": path.parent, "a.txt": path})


def test_file_and_directory_refused(find: Finder, write: Write) -> None:
    path, other = write("x/a.txt"), write("b")
    with pytest.raises(LogicalKeyError, match=r"'d' is a file, and a directory that holds 'd/a\.txt': by .*/b and by .*/x/a.txt"):
        find({"d": other, "d/": path.parent})


# What is not there.


@pytest.mark.parametrize("key", ["a.txt", "a/", ""])
def test_vanished_file_is_named(find: Finder, tmp_path: Path, key: str) -> None:
    with pytest.raises(SourceError) as caught:
        find({key or "/": tmp_path / "gone.txt"}, allow_empty=True)

    assert str(caught.value).startswith(f"{where_of(key)}: give a path that this worker")
    assert "gone.txt" in str(caught.value)


def test_vanished_directory_refused(find: Finder, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'a/': .*there is no directory at"):
        find({"a/": f"{tmp_path}/gone/"}, allow_empty=True)


def test_file_with_slash_refused(find: Finder, write: Write) -> None:
    with pytest.raises(SourceError, match="there is no directory at"):
        find({"a/": f"{write('file.txt')}/"})


def test_path_below_file_refused(find: Finder, write: Write) -> None:
    with pytest.raises(SourceError, match="'a': .*there is no file at"):
        find({"a": write("file.txt") / "below"})


def test_special_file_is_refused(find: Finder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="'a': .*there is no file at"):
        find({"a": tmp_path / "pipe"})


@pytest.mark.parametrize("ending", ["", "/"])
def test_directory_needs_slash_key(find: Finder, write: Write, ending: str) -> None:
    with pytest.raises(SourceError, match=r"'data': end the logical key in '/' to pack the files of .*, which is a directory"):
        find({"data": f"{write('raw/a.txt').parent}{ending}"})


def test_empty_directory_refused(find: Finder, write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty/below").mkdir(parents=True)
    entries = {"a": write("a.txt"), "e/": tmp_path / "empty"}

    with pytest.raises(EmptyPackageError, match="'e/': give allow_empty=True .* there is no file below"):
        find(entries)
    assert [source.logical_key for source in find(entries, allow_empty=True)] == ["a"]


@pytest.mark.parametrize("entries", [{}, [], {"a/": []}], ids=["no-entries", "empty-list", "empty-list-below-a-key"])
def test_no_entries_no_sources(find: Finder, entries: object) -> None:
    assert find.tree(entries) == SourceTree([])


def test_bad_entry_ends_the_search(find: Finder, write: Write) -> None:
    with pytest.raises(SourceError, match="'b': give a source; it is None"):
        find({"a": write("a.txt"), "b": None})


# Links.


def test_inner_link_is_its_target(find: Finder, write: Write) -> None:
    target = write("raw/sub/a.txt", "hello")
    (target.parent.parent / "link.txt").symlink_to(target)
    sources = find(target.parent.parent)

    assert [source.logical_key for source in sources] == ["link.txt", "sub/a.txt"]
    assert {source.origin for source in sources} == {PhysicalKey(None, str(target.resolve()))}
    assert {source.size for source in sources} == {5}


@pytest.mark.parametrize("inside", ["secret.txt", "raw-other/secret.txt"], ids=["elsewhere", "name-begins-alike"])
def test_outer_link_is_refused(find: Finder, write: Write, inside: str) -> None:
    secret = write(inside, "secret")
    link = write("raw/a.txt").parent / "link.txt"
    link.symlink_to(secret)

    with pytest.raises(SourceError) as caught:
        find(link.parent)

    assert str(link) in str(caught.value)
    assert str(secret) in str(caught.value)


def test_link_chain_out_is_refused(find: Finder, write: Write) -> None:
    secret = write("secret.txt", "secret")
    directory = write("raw/a.txt").parent
    (directory / "one").symlink_to(secret)
    (directory / "two").symlink_to(directory / "one")

    with pytest.raises(SourceError, match="leads out of"):
        find({"/": directory, "b": write("b")})


def test_inner_directory_link_counted(find: Finder, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Leave out a link to a directory inside, in a circle too, and say so: its files have names of their own."""
    directory = write("raw/sub/a.txt").parent.parent
    (directory / "latest").symlink_to("sub")
    (directory / "sub/loop").symlink_to(directory)

    assert find.keys(directory) == ["sub/a.txt"]
    [line] = [message for message in caplog.messages if "left out" in message]
    assert line.endswith("left out 2 links to directories: 'latest', 'sub/loop'")


@pytest.mark.parametrize("target", ["nowhere", "dangling", "a.txt/below"], ids=["nothing", "itself", "below-a-file"])
@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_dangling_link_is_refused(find: Finder, write: Write, target: str, *, follow_symlinks: bool) -> None:
    directory = write("raw/sub/a.txt").parent
    (directory / "dangling").symlink_to(target)

    with pytest.raises(SourceError, match=r"raw/sub/dangling: this link leads nowhere: .*rule in \.quiltignore"):
        find({"d/": directory.parent}, follow_symlinks=follow_symlinks)
    write("raw/.quiltignore", "dangling")
    assert find.keys(directory.parent, follow_symlinks=follow_symlinks) == [".quiltignore", "sub/a.txt"]


def test_outer_directory_link_refused(find: Finder, write: Write) -> None:
    directory = write("raw/a.txt").parent
    (directory / "out").symlink_to(write("other/b.txt").parent)

    with pytest.raises(SourceError, match=r"raw/out: this link leads out of .*, to .*/other; .*follow_symlinks=True"):
        find(directory)


def test_directory_links_are_followed(find: Finder, write: Write) -> None:
    directory, other = write("raw/sub/a.txt", "a").parent.parent, write("other/deep/b.txt", "bb").parent.parent
    (directory / "latest").symlink_to("sub")
    (directory / "out").symlink_to(other)
    (other / "back").symlink_to(directory / "sub/a.txt")
    (other / "ignored").symlink_to(directory / "sub")
    write("raw/.quiltignore", "ignored/")
    sources = find({"d/": directory}, follow_symlinks=True)

    assert [(source.logical_key, source.size) for source in sources] == [
        ("d/.quiltignore", 8),
        ("d/latest/a.txt", 1),
        ("d/out/back", 1),
        ("d/out/deep/b.txt", 2),
        ("d/sub/a.txt", 1),
    ]
    assert {source.origin for source in sources[1:3]} == {resolve_path(directory / "sub/a.txt")}
    assert sources[3].origin == resolve_path(other / "deep/b.txt")


@pytest.mark.parametrize(
    "links",
    [
        {"raw/sub/self": "."},
        {"raw/sub/up": "../.."},
        {"raw/sub/x": "../other", "raw/other/y": "../sub"},
        {"raw/out": "../elsewhere", "elsewhere/back": "../raw"},
    ],
    ids=["itself", "above-the-root", "one-another", "by-way-of-outside"],
)
def test_circle_of_links_refused(find: Finder, write: Write, tmp_path: Path, links: dict[str, str]) -> None:
    for name in ("raw/sub/a.txt", "raw/other/b.txt", "elsewhere/c.txt"):
        write(name)
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)

    with pytest.raises(SourceError, match=r"this link leads back to .*, in a circle; .*\.quiltignore"):
        find(tmp_path / "raw", follow_symlinks=True)


def test_special_files_are_counted(find: Finder, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """A pipe neither blocks nor is packed; it is named, and so is a leftover of a killed installation."""
    directory = write("raw/a.txt").parent
    os.mkfifo(directory / "pipe")
    (directory / "link").symlink_to("pipe")
    write(f"raw/.{'0' * 32}.tmp")

    assert find.keys(directory) == ["a.txt"]
    assert [message.partition("left out ")[2] for message in caplog.messages if "left out" in message] == [
        "2 pipes, sockets and devices: 'link', 'pipe'",
        f"1 leftover of a killed installation: '.{'0' * 32}.tmp'",
    ]


def test_marker_with_bytes_is_counted(find: Finder, memory: MemoryStorage, caplog: pytest.LogCaptureFixture) -> None:
    put(memory, "raw/a.txt")
    put(memory, "raw/marker/", b"")
    put(memory, "raw/data/", b"bytes")

    assert find.keys("s3://source/raw/") == ["a.txt"]
    [line] = [message for message in caplog.messages if "left out" in message]
    assert line.endswith("which has bytes: 'raw/data/'")


def test_directory_through_a_link(find: Finder, write: Write, tmp_path: Path) -> None:
    directory = write("raw/a.txt").parent
    (directory / "b.txt").symlink_to(directory / "a.txt")
    (tmp_path / "link").symlink_to(directory)

    assert find.keys(tmp_path / "link") == ["a.txt", "b.txt"]


def test_non_unicode_name_refused(find: Finder, write: Write) -> None:
    directory = write("raw/a.txt").parent
    try:
        Path(os.fsdecode(os.fsencode(directory) + b"/\xff.bin")).touch()
    except OSError:
        pytest.skip("this file system holds only Unicode names")

    with pytest.raises(LogicalKeyError, match="not valid Unicode"):
        find(directory)


def test_outer_link_may_be_packed(find: Finder, write: Write) -> None:
    secret = write("elsewhere/secret.txt", "secret")
    directory = write("raw/a.txt").parent
    (directory / "one").symlink_to(secret)
    (directory / "two").symlink_to(directory / "one")
    plain, one, two = find({"d/": directory}, follow_symlinks=True)

    assert [plain.logical_key, one.logical_key, two.logical_key] == ["d/a.txt", "d/one", "d/two"]
    assert {(source.origin, source.size) for source in (one, two)} == {(resolve_path(secret), 6)}


@pytest.mark.parametrize("follow_symlinks", [True, False])
def test_given_link_is_followed(find: Finder, write: Write, tmp_path: Path, *, follow_symlinks: bool) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(write("elsewhere/secret.txt", "secret"))
    (source,) = find({"d/": link}, follow_symlinks=follow_symlinks)

    assert (source.logical_key, source.size) == ("d/link.txt", 6)


# .quiltignore.


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        pytest.param("", ["a.log", "a.txt", "cache/x.txt", "sub/a.log", "sub/cache/y.txt"], id="no-rule"),
        pytest.param("*.log", ["a.txt", "cache/x.txt", "sub/cache/y.txt"], id="suffix"),
        pytest.param("cache", ["a.log", "a.txt", "sub/a.log"], id="directory-anywhere"),
        pytest.param("cache/", ["a.log", "a.txt", "sub/a.log"], id="directory-with-slash"),
        pytest.param("a.txt/", ["a.log", "a.txt", "cache/x.txt", "sub/a.log", "sub/cache/y.txt"], id="slash-means-no-file"),
        pytest.param("sub/cache", ["a.log", "a.txt", "cache/x.txt", "sub/a.log"], id="path"),
        pytest.param("sub/*", ["a.log", "a.txt", "cache/x.txt"], id="below-a-directory"),
        pytest.param("?.log\n\n[x]*.txt\n", ["a.txt", "sub/cache/y.txt"], id="several-rules"),
        pytest.param("*.log\r\ncache\r\n", ["a.txt"], id="lines-of-windows"),
        pytest.param("*.nothing", ["a.log", "a.txt", "cache/x.txt", "sub/a.log", "sub/cache/y.txt"], id="no-match"),
    ],
)
def test_quiltignore_leaves_out(find: Finder, write: Write, rules: str, left: list[str]) -> None:
    for name in ("a.log", "a.txt", "cache/x.txt", "sub/a.log", "sub/cache/y.txt"):
        write(f"raw/{name}")
    ignore = write("raw/.quiltignore", rules)

    assert find.keys(ignore.parent) == [".quiltignore", *left]


def test_quiltignore_only_at_root(find: Finder, write: Write) -> None:
    write("raw/sub/.quiltignore", "*")
    root = write("raw/a.txt").parent

    assert find.keys(root) == ["a.txt", "sub/.quiltignore"]


def test_all_ignored_is_empty(find: Finder, write: Write) -> None:
    with pytest.raises(EmptyPackageError):
        find(write("raw/.quiltignore", "*").parent)


def test_outer_link_may_be_ignored(find: Finder, write: Write) -> None:
    directory = write("raw/.quiltignore", "link*").parent
    (directory / "link.txt").symlink_to(write("secret"))

    assert find.keys(directory) == [".quiltignore"]


def test_binary_quiltignore_refused(find: Finder, write: Write) -> None:
    with pytest.raises(QuiltError, match="quiltignore"):
        find(write("raw/.quiltignore", b"\xff\xfe").parent)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        pytest.param("x" * (1024 * 1024 + 1), "bytes, and no more than 1,048,576 are read", id="large"),
        pytest.param("\n".join(map(str, range(10_001))), "10,001 rules, the most is 10,000", id="many rules"),
        pytest.param("[" * 100_000, r"too many '\['", id="open brackets"),
        pytest.param("\n".join("[" * 900 + str(number) for number in range(900)), r"too many '\['", id="many open brackets"),
    ],
)
def test_costly_quiltignore_refused(find: Finder, write: Write, rules: str, words: str) -> None:
    with pytest.raises((SourceError, ObjectTooLargeError), match=words):
        find(write("raw/.quiltignore", rules).parent)


def test_stars_of_quiltignore_are_linear(find: Finder, write: Write) -> None:
    name = "a" * 200
    write(f"raw/{name}")
    rules = "\n".join(["*a" * 400 + "b", "*" * 100_000 + "c", *(f"{number}*" for number in range(9000))])

    assert find.keys(write("raw/.quiltignore", rules).parent) == [".quiltignore", name]


# Objects and prefixes.


def test_object_at_current_version(find: Finder, memory: MemoryStorage) -> None:
    put(memory, "raw/a.txt", b"old")
    current = put(memory, "raw/a.txt", b"newer")
    (source,) = find({"b": "s3://source/raw/a.txt"})

    assert current.version_id is not None
    assert (source.origin, source.size, source.hash) == (current, 5, None)


def test_object_at_given_version(find: Finder, memory: MemoryStorage) -> None:
    old = put(memory, "raw/a.txt", b"old")
    put(memory, "raw/a.txt", b"newer")
    (source,) = find({"b": str(old)})

    assert (source.origin, source.size) == (old, 3)


def test_absent_version_refused(find: Finder, memory: MemoryStorage) -> None:
    put(memory, "raw/a.txt")
    with pytest.raises(SourceError, match="'b': .*there is no file at"):
        find({"b": "s3://source/raw/a.txt?versionId=none"})


def test_known_checksum_is_hash(find: Finder, memory: MemoryStorage) -> None:
    memory.upload(PhysicalKey("source", "a"), b"hello", hashlib.sha256(b"hello").digest())
    memory.upload(PhysicalKey("source", "empty"), b"", hashlib.sha256(b"").digest())
    source, empty = find({"a": "s3://source/a", "b": "s3://source/empty"})

    assert source.hash == hash_of(b"hello")
    assert empty.hash == hash_of(b"")


def test_absent_object_refused(find: Finder, memory: MemoryStorage) -> None:
    memory.delete([put(memory, "deleted")])
    for key in ("deleted", "never"):
        with pytest.raises(SourceError, match=f"'a': there is no file at 's3://source/{key}"):
            find({"a": f"s3://source/{key}"})


def test_absent_bucket_own_error(find: Finder) -> None:
    with pytest.raises(BucketNotFoundError, match="s3://nowhere"):
        find({"a": "s3://nowhere/a"})


@pytest.mark.parametrize("url", ["s3://source/raw", "s3://source/raw/"])
def test_prefix_at_current_versions(find: Finder, memory: MemoryStorage, url: str) -> None:
    put(memory, "raw/a.txt", b"old")
    current = put(memory, "raw/a.txt")
    below = put(memory, "raw/sub/é +%?#.txt")
    put(memory, "raw/folder/", b"")
    put(memory, "raw-other/c.txt")
    put(memory, "rawer")
    memory.delete([put(memory, "raw/deleted.txt")])

    assert [(source.logical_key, source.origin) for source in find({"d/": url})] == [
        ("d/a.txt", current),
        ("d/sub/é +%?#.txt", below),
    ]


@pytest.mark.parametrize("url", ["s3://source", "s3://source/"])
def test_bucket_is_a_prefix(find: Finder, memory: MemoryStorage, url: str) -> None:
    put(memory, "a/b.txt")
    put(memory, "c.txt")

    assert find.keys(url) == ["a/b.txt", "c.txt"]


def test_object_precedes_prefix(find: Finder, memory: MemoryStorage) -> None:
    put(memory, "raw/a.txt")
    put(memory, "raw")

    assert find.keys({"d/": "s3://source/raw"}) == ["d/raw"]
    assert find.keys({"d/": "s3://source/raw/"}) == ["d/a.txt"]


@pytest.mark.parametrize("url", ["s3://source/raw", "s3://source/raw/"])
def test_prefix_needs_slash_key(find: Finder, memory: MemoryStorage, url: str) -> None:
    put(memory, "raw/a.txt")
    with pytest.raises(SourceError, match="'data': .*end the logical key in '/'"):
        find({"data": url})


def test_prefix_version_refused(find: Finder, memory: MemoryStorage) -> None:
    put(memory, "raw/a.txt")
    with pytest.raises(QuiltError, match="version"):
        find({"d/": "s3://source/raw/?versionId=v1"})


def test_empty_prefix_refused(find: Finder, memory: MemoryStorage) -> None:
    put(memory, "raw/folder/", b"")

    for url in ("s3://source/raw/", "s3://source/none/"):
        with pytest.raises(EmptyPackageError, match="'d/': give allow_empty=True .* there is no file below"):
            find({"d/": url})
        assert find({"d/": url}, allow_empty=True) == []


@pytest.mark.parametrize("key", ["raw//a.txt", "raw/../a.txt", "raw/./a.txt"])
def test_bad_object_key_refused(find: Finder, memory: MemoryStorage, key: str) -> None:
    put(memory, key)
    with pytest.raises(LogicalKeyError):
        find("s3://source/raw/")


def test_unversioned_drops_versions(find: Finder, memory: MemoryStorage) -> None:
    put(memory, "raw/a.txt", b"old")
    put(memory, "raw/a.txt")
    pinned = put(memory, "pinned.txt")
    entries = {"one": "s3://source/raw/a.txt", "all/": "s3://source/raw/", "old": str(pinned)}

    assert {source.logical_key: source.origin for source in find(entries, unversioned=True)} == {
        "one": PhysicalKey("source", "raw/a.txt"),
        "all/a.txt": PhysicalKey("source", "raw/a.txt"),
        "old": pinned,
    }


def test_unversioned_keeps_stat(find: Finder, memory: MemoryStorage) -> None:
    stat = memory.upload(PhysicalKey("source", "a"), b"hello", hashlib.sha256(b"hello").digest())
    (source,) = find({"a": "s3://source/a"}, unversioned=True)

    assert (source.size, source.etag, source.hash) == (5, stat.etag, hash_of(b"hello"))


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
def test_sources_get_hash_type(find: Finder, write: Write, memory: MemoryStorage, hash_type: str) -> None:
    put(memory, "p/o.txt")
    entries = {"content": b"x", "file": write("raw/a.txt"), "files/": write("raw/a.txt").parent, "objects/": "s3://source/p/"}

    assert {source.hash_type for source in find(entries, hash_type=hash_type)} == {hash_type}


@pytest.mark.parametrize("hash_type", [CHUNKED, CRC64NVME])
@pytest.mark.parametrize("known", [CHUNKED, CRC64NVME])
def test_other_checksum_is_no_hash(find: Finder, memory: MemoryStorage, hash_type: str, known: str) -> None:
    checksums = {
        CHUNKED: {"SHA256": to_s3(hashlib.sha256(b"hello").digest())},
        CRC64NVME: {"CRC64NVME": hash_of(b"hello", CRC64NVME).value},
    }
    memory.store(PhysicalKey("source", "a"), b"hello", "create", checksums[known])
    (source,) = find({"a": "s3://source/a"}, hash_type=hash_type)

    assert source.hash == (hash_of(b"hello", hash_type) if hash_type == known else None)


# Metadata of directories.


@pytest.mark.parametrize("key", ["d/", "d/e/"])
def test_directory_meta_alone(find: Finder, key: str) -> None:
    tree = find.tree({key: {"meta": {"x": 1}}, "a": b"a"})

    assert tree.directories == {key: {"x": 1}}
    assert [source.logical_key for source in tree.sources] == ["a"]


def test_meta_of_given_directory(find: Finder, write: Write) -> None:
    tree = find.tree({"d/": {"path": write("raw/a.txt").parent, "meta": {"x": 1}}})

    assert tree.directories == {"d/": {"x": 1}}
    assert [(source.logical_key, source.meta) for source in tree.sources] == [("d/a.txt", {})]


@pytest.mark.parametrize("url", ["s3://source/raw", "s3://source/raw/"])
def test_meta_of_given_prefix(find: Finder, memory: MemoryStorage, url: str) -> None:
    put(memory, "raw/a.txt")

    assert find.tree({"d/": {"path": url, "meta": {"x": 1}}}).directories == {"d/": {"x": 1}}


def test_meta_of_file_in_directory(find: Finder, write: Write) -> None:
    tree = find.tree({"d/": {"path": write("raw/a.txt"), "meta": {"x": 1}}})

    assert tree.directories == {}
    assert [(source.logical_key, source.meta) for source in tree.sources] == [("d/a.txt", {"user_meta": {"x": 1}})]


def test_empty_meta_removes_it(find: Finder, write: Write) -> None:
    entries = {"d/": {"path": write("raw/a.txt").parent, "meta": {}}, "e/": {"meta": {}}}

    assert find.tree(entries).directories == {"d/": {}, "e/": {}}


@pytest.mark.parametrize("place", ["directory", "prefix", "package"])
def test_root_meta_is_refused(find: Finder, write: Write, memory: MemoryStorage, package: str, place: str) -> None:
    put(memory, "raw/a.txt")
    path = {"directory": str(write("raw/a.txt").parent), "prefix": "s3://source/raw/", "package": package}[place]

    with pytest.raises(SourceError, match="entries: give the metadata of .* as the package's own"):
        find({"/": {"path": path, "meta": {"x": 1}}})


def test_duplicate_meta_refused(find: Finder, write: Write) -> None:
    with pytest.raises(LogicalKeyError, match="'d/': metadata of this directory is given twice"):
        find({"d/": [{"path": str(write(f"{name}/a.txt").parent), "meta": {"x": 1}} for name in ("one", "two")]})


@pytest.mark.parametrize("key", ["d/", "d/e/", "d/e/f/"])
def test_meta_at_file_is_refused(find: Finder, key: str) -> None:
    with pytest.raises(LogicalKeyError, match="logical key 'd' is a file, and a directory that has metadata"):
        find({"d": b"x", key: {"meta": {"x": 1}}})


@pytest.fixture
def described(find: Finder, package: str) -> str:
    """A package whose directories have metadata."""
    find.directories = {DirectoryKey("a/"): {"of": "a"}, DirectoryKey("a/c/"): {"of": "c"}, DirectoryKey("b/"): {"of": "b"}}
    return package


@pytest.mark.parametrize(
    ("key", "path", "directories"),
    [
        pytest.param("", "", {"a/": "a", "a/c/": "c", "b/": "b"}, id="whole"),
        pytest.param("in/", "", {"in/a/": "a", "in/a/c/": "c", "in/b/": "b"}, id="below-a-key"),
        pytest.param("in/", "&path=a", {"in/": "a", "in/c/": "c"}, id="directory-below-a-key"),
        pytest.param("in/", "&path=a/c/", {"in/": "c"}, id="deeper-directory-below-a-key"),
        pytest.param("", "&path=a", {"c/": "c"}, id="directory-as-the-whole-package"),
        pytest.param("in/", "&path=a.txt", {}, id="file"),
    ],
)
def test_package_brings_meta(find: Finder, described: str, key: str, path: str, directories: dict[str, str]) -> None:
    assert find.tree({key or "/": described + path}).directories == {name: {"of": of} for name, of in directories.items()}


def test_given_meta_replaces_own(find: Finder, described: str) -> None:
    tree = find.tree({"in/": {"path": f"{described}&path=a", "meta": {"x": 1}}})

    assert tree.directories == {"in/": {"x": 1}, "in/c/": {"of": "c"}}


def test_package_meta_duplicate(find: Finder, described: str) -> None:
    with pytest.raises(LogicalKeyError, match="'in/a/': metadata of this directory is given twice"):
        find({"in/": described, "in/a/": {"meta": {"x": 1}}})


# Packages.


def packed(key: str, place: str | None = None, **meta: object) -> Entry:
    return Entry(LogicalKey(key), (place or f"s3://other/{key}?versionId=v",), 5, HASH, meta)


@pytest.fixture
def package(find: Finder) -> str:
    find.packages["team/data"] = [packed("a/b.txt", user_meta={"x": 1}, theirs=2), packed("a/c/d.txt"), packed("a.txt")]
    return "quilt+s3://other#package=team/data"


def test_package_brings_entries(find: Finder, package: str) -> None:
    sources = find({"in/": package})

    assert [source.logical_key for source in sources] == ["in/a/b.txt", "in/a/c/d.txt", "in/a.txt"]
    assert sources[0] == Source(
        logical_key=LogicalKey("in/a/b.txt"),
        origin=PhysicalKey("other", "a/b.txt", "v"),
        size=5,
        hash=HASH,
        meta={"user_meta": {"x": 1}, "theirs": 2},
        physical_keys=("s3://other/a/b.txt?versionId=v",),
    )


def test_package_as_whole_package(find: Finder, package: str) -> None:
    assert find.keys(package) == ["a/b.txt", "a/c/d.txt", "a.txt"]


@pytest.mark.parametrize("path", ["a", "a/"])
def test_package_directory_entries(find: Finder, package: str, path: str) -> None:
    assert find.keys({"in/": f"{package}&path={path}"}) == ["in/b.txt", "in/c/d.txt"]


def test_package_file_keeps_name(find: Finder, package: str) -> None:
    assert find.keys({"in/": f"{package}&path=a/c/d.txt"}) == ["in/d.txt"]
    assert find.keys({"x.txt": f"{package}&path=a/c/d.txt"}) == ["x.txt"]
    assert find.keys(f"{package}&path=a/c/d.txt") == ["d.txt"]


def test_given_meta_of_package_file(find: Finder, package: str) -> None:
    (source,) = find({"b": {"path": f"{package}&path=a/b.txt", "meta": {"y": 2}}})

    assert source.meta == {"user_meta": {"y": 2}, "theirs": 2}


@pytest.mark.parametrize(
    "pin",
    ["", f"@{TOP_HASH}", "@abcdef", ":latest", ":1700000000", ":prod"],
    ids=["none", "hash", "short", "latest", "time", "tag"],
)
def test_pin_reaches_the_reader(find: Finder, package: str, pin: str) -> None:
    find({"in/": f"{package}{pin}&path=a"})

    assert find.read == [QuiltUri.parse(f"{package}{pin}&path=a")]


@pytest.mark.parametrize("path", ["", "&path=a", "&path=a/"])
def test_package_files_need_slash(find: Finder, package: str, path: str) -> None:
    with pytest.raises(SourceError, match="'x': .*end the logical key in '/'"):
        find({"x": package + path})


@pytest.mark.parametrize("path", ["none", "a/none", "a/b", "A"])
def test_absent_package_path(find: Finder, package: str, path: str) -> None:
    with pytest.raises(EmptyPackageError, match="'in/': give allow_empty=True .* there is no file below"):
        find({"in/": f"{package}&path={path}"})


def test_absent_package_file(find: Finder, package: str) -> None:
    with pytest.raises(SourceError, match="'x'"):
        find({"x": f"{package}&path=none.txt", "y": b"y"}, allow_empty=True)


def test_absent_package_own_error(find: Finder) -> None:
    with pytest.raises(PackageNotFoundError, match="no/such"):
        find("quilt+s3://other#package=no/such")


def test_foreign_file_is_refused(find: Finder, write: Write) -> None:
    find.packages["team/data"] = [packed("a", write("secret").as_uri())]

    with pytest.raises(SourceError, match="'in/a': .*a file of some other machine"):
        find({"in/": "quilt+s3://other#package=team/data"})


def test_first_physical_key_counts(find: Finder) -> None:
    find.packages["team/data"] = [Entry(LogicalKey("a"), ("s3://x/first?versionId=1", "s3://x/second"), 5, HASH)]
    (source,) = find("quilt+s3://other#package=team/data")

    assert source.origin == PhysicalKey("x", "first", "1")
    assert source.physical_keys == ("s3://x/first?versionId=1", "s3://x/second")


@pytest.mark.parametrize("place", ["https://x/y", "", "s3://x/y?z=1"])
def test_bad_physical_key_refused(find: Finder, place: str) -> None:
    find.packages["team/data"] = [Entry(LogicalKey("a"), (place,), 5, HASH)]

    with pytest.raises(SourceError, match="'in/a'"):
        find({"in/": "quilt+s3://other#package=team/data"})


def test_local_package_has_files(find: Finder, write: Write) -> None:
    path = write("a.txt", "hello")
    find.packages["team/data"] = [packed("a", path.as_uri())]
    (source,) = find({"in/": "quilt+file:///registry#package=team/data"})

    assert (source.origin, source.movable) == (resolve_path(path), True)
