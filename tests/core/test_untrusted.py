"""A manifest that a stranger wrote does no harm: it is used as far as it is right, or refused, in bounded time and memory."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import (
    EntryDamagedError,
    LocationError,
    LogicalKeyError,
    ManifestError,
    ObjectNotFoundError,
    QuiltError,
)
from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.names import PackageName, parse_logical_key, walk_order
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import InstallResult, install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import Verification, verify
from tests.core.faulty import Recorder
from tests.core.packages import files_below
from tests.property.hostile import MIB, value_or_refusal
from tests.support import through

NAME: Final = PackageName("team", "package")
GOOD: Final = b"good bytes"
CANARY: Final = b"a secret of this machine"
NEW: Final = {"zz new.json": {"content": {"by": "us"}}}

Record = dict[str, Any]


def entry(key: str, **changes: Any) -> Record:
    """Return the record of a right entry with some changes."""
    digest = hash_of(GOOD)
    right = {
        "logical_key": key,
        "physical_keys": ["s3://source/good"],
        "size": len(GOOD),
        "hash": {"type": digest.type, "value": digest.value},
        "meta": {},
    }
    return right | changes


def canonical(record: object) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def counted(record: Record | bytes) -> bytes:
    """Return the bytes of a record that the top hash covers; none of an unreadable record."""
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(record) if isinstance(record, bytes) else record
        if fields.get("physical_keys"):
            return canonical({field: fields.get(field) for field in ("hash", "logical_key", "meta", "size")})
    return b""


def plant(registry: Registry, records: Sequence[Record | bytes], header: Mapping[str, Any] | None = None) -> str:
    """Write a revision past the core, as a stranger does; return its top hash, which is right if the records are."""
    head = {"version": "v0", "message": None} if header is None else header
    digest = hashlib.sha256(canonical(head))
    for record in records:
        digest.update(counted(record))
    top_hash = digest.hexdigest()
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (head, *records)]
    files = {
        f".quilt/packages/{top_hash}": b"\n".join(lines),
        f".quilt/named_packages/{NAME}/1700000000": top_hash.encode(),
        f".quilt/named_packages/{NAME}/latest": top_hash.encode(),
    }
    for path, data in files.items():
        key = registry.location.root.join(path)
        registry.stores.of(key).put(key, data)
    return top_hash


def remove_tree(path: Path) -> None:
    """Remove a directory, however deep: Python's own way is by recursion."""
    subprocess.run(["/bin/rm", "-rf", path], check=True)


@dataclass
class World:
    """A stranger's registry, our own, a directory to install to, and a secret file."""

    theirs: Registry
    ours: Registry
    memory: MemoryStorage
    home: Path

    @property
    def out(self) -> Path:
        return self.home / "out"

    @property
    def uri(self) -> str:
        return f"quilt+{self.theirs.location}#package={NAME}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The directory in which everything local happens."""
    (tmp_path / "home").mkdir()
    yield tmp_path / "home"
    remove_tree(tmp_path / "home")


def world_in(home: Path, kind: str = "s3") -> World:
    (home / "canary").write_bytes(CANARY)
    memory = MemoryStorage(["registry", "source", "ours", "target"])
    memory.put(PhysicalKey("source", "good"), GOOD)
    stores = Stores(LocalStorage(), memory)
    theirs = "s3://registry" if kind == "s3" else str(home / "theirs")
    return World(Registry(resolve_registry(theirs), stores), Registry(RegistryLocation.parse("s3://ours"), stores), memory, home)


@pytest.fixture
def world(home: Path) -> World:
    """The same, with the stranger's registry on S3."""
    return world_in(home)


Use = Callable[[World], object]

REFERENCE: Final = Reference(str(NAME))
COPIED: Final = "team/copied"


def one_more(world: World) -> Draft:
    return Draft(package=str(NAME), mode="update", entries=NEW)


def one_more_object(world: World) -> Draft:
    return Draft(package=str(NAME), mode="update", entries={"zz": "s3://source/good"})


USES: Final[dict[str, Use]] = {
    "install to a directory": lambda world: install(world.theirs, REFERENCE, str(world.out)),
    "install to a prefix": lambda world: install(world.theirs, REFERENCE, "s3://target/out/"),
    "install a part": lambda world: install(world.theirs, Reference(str(NAME), path="a"), str(world.out)),
    "verify its objects": lambda world: verify(world.theirs, REFERENCE),
    "verify a directory": lambda world: verify(world.theirs, REFERENCE, str(world.out)),
    "verify a prefix": lambda world: verify(world.theirs, REFERENCE, "s3://target/out/"),
    "push an update": lambda world: push(world.theirs, one_more(world)),
    "push an update that copies all": lambda world: push(world.theirs, one_more(world), copy="all"),
    "build an update": lambda world: build(world.theirs, one_more_object(world)),
    "push the package": lambda world: push(world.ours, Draft(package=COPIED, entries=world.uri)),
    "push a directory of it": lambda world: push(world.ours, Draft(package=COPIED, entries={"in/": f"{world.uri}&path=a"})),
    "build the package": lambda world: build(world.ours, Draft(package=COPIED, entries=world.uri)),
    "compare it with itself": lambda world: list(world.theirs.diff(NAME, None, None)),
}


def used(use: Use, world: World) -> tuple[object, Recorder]:
    """Use a package; return the result or the error, and the calls."""
    recorder = Recorder()
    seen = World(through(world.theirs, recorder), through(world.ours, recorder), world.memory, world.home)
    return value_or_refusal(lambda: use(seen)), recorder


def is_inside(path: str, directory: Path) -> bool:
    return Path(path).is_relative_to(directory)


def harm(world: World, result: object, recorder: Recorder) -> Iterator[str]:
    """Yield each harm that a stranger's package did."""
    for call in recorder.calls:  # What lies in a local directory may name any file of the machine.
        if call.key.is_local and not world.theirs.location.is_local and not is_inside(call.key.key, world.out):
            yield f"{call} is none of its business"
    if (world.home / "canary").read_bytes() != CANARY:
        yield "a file of this machine was written over"
    if strays := [path.name for path in world.home.iterdir() if path.name not in {"out", "canary", "theirs"}]:
        yield f"files came where none should: {strays}"
    if left := [path for path in map(str, files_in(world.out)) if path.endswith(".tmp")]:
        yield f"temporary files stay: {left}"
    if world.memory.uploads:
        yield "uploads stay open"
    if isinstance(result, InstallResult) and any(not is_there(world, path) for path in result.paths):
        yield "it is reported as installed, and is not"


def files_in(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory, however deep; ``rglob`` and the like recurse."""
    found = subprocess.run(["/usr/bin/find", directory, "-type", "f", "-print0"], capture_output=True, check=False).stdout
    return (Path(os.fsdecode(name)) for name in found.split(b"\0") if name)


def is_there(world: World, path: str) -> bool:
    if path.startswith("s3://"):
        key = PhysicalKey.parse(path)
        return key.bucket == "target" and key.key.startswith("out/") and world.memory.stat(key).size >= 0
    return is_inside(os.path.normpath(path), world.out) and Path(path).is_file()


# Entries that are wrong in one thing. Whatever is done with them, it ends soon, and does no harm.

DEEP: Final = "a/" * 10_000 + "x"
DEEPER_THAN_PYTHON: Final = "a/" * 1_500 + "x"
LONG: Final = "x" * MIB


def nested(depth: int) -> bytes:
    """Return the line of an entry with metadata of a depth; to write it is beyond Python where it is too deep."""
    return (
        json.dumps(entry("a/b", meta=0)).replace('"meta": 0', '"meta": {"user_meta": ' + "[" * depth + "]" * depth + "}").encode()
    )


def raw(**texts: str) -> bytes:
    """Return the line of an entry some of whose fields are written as they stand here."""
    line = json.dumps(entry("a/b", **dict.fromkeys(texts, 0)))
    for field, text in texts.items():
        line = line.replace(f'"{field}": 0', f'"{field}": {text}')
    return line.encode()


def directory(key: str) -> Record:
    return {"logical_key": key, "meta": {"x": 1}}


HOSTILE: Final[dict[str, Sequence[Record | bytes]]] = {
    **{
        f"a key like {key!r}": [entry(key)]
        for key in (
            "a/../../canary",
            "/canary",
            "..",
            "a//b",
            "a/.",
            "C:\\canary",
            "..\\canary",
            "~/canary",
            "%2e%2e/canary",
            "-rf",
        )
    },
    **{f"a key with {ord(letter):#x}": [entry(f"a/{letter}")] for letter in "\n\r\x1b\x7f\u202e\ufeff"},
    "a key with a NUL": [entry("a/\0")],
    "a key that is no Unicode": [entry("a/\ud800")],
    "a key of 1 MiB": [entry(LONG)],
    "a key of 1 MiB below a directory": [entry(f"a/{LONG}")],
    "a key of 10,000 parts": [entry(DEEP)],
    "a key of 1,500 parts": [entry(DEEPER_THAN_PYTHON)],
    "keys that are 1,500 deep and one less": [entry(DEEPER_THAN_PYTHON), entry("a/" * 1_499 + "y")],
    "a directory of 1,500 parts": [directory("a/" * 1_500), entry("a/b")],
    "a directory above the root": [directory("../"), entry("a/b")],
    "the registry's own area": [entry(f".quilt/named_packages/{NAME}/latest")],
    "a key that is given twice": [entry("a/b"), entry("a/b")],
    "a directory that is given twice": [directory("a/"), directory("a/"), entry("a/b")],
    **{
        f"a size of {size[:20]}": [raw(size=size)]
        for size in ("-1", "9", "11", "0", "1e1", "1e3", "10.0", "true", '"10"', "null", str(2**43), str(2**62), str(2**63 - 1))
    },
    **{f"a size of {digits} digits": [raw(size="9" * digits)] for digits in (19, 30, 400, 4300, 4301)},
    "sizes that add up to more digits than Python prints": [
        raw(size="9" * 4300).replace(b'"a/b"', b'"a/%d"' % number) for number in range(9)
    ],
    **{
        f"a place like {place[:40]!r}": [entry("a/b", physical_keys=[place])]
        for place in (
            *(
                "",
                "s3://",
                "s3:///good",
                "s3://source",
                "s3://source/",
                "s3://source/gone",
                "s3://gone/good",
                "s3://Not A Bucket/x",
            ),
            *(
                "s3://source/good?versionId=gone",
                "s3://source/good?x=1",
                "s3://source/good#x",
                "s3://[::1/good",
                "s3://source/\udcff",
            ),
            *(
                "http://127.0.0.1:1/good",
                "file:",
                "file://host/good",
                "canary",
                "./canary",
                "~",
                "~root/x",
                "/canary",
                "C:\\good",
                "\0",
            ),
            *("s3://source/" + LONG, "file:///" + LONG, "s3://source/" + DEEP, "file:///" + DEEP),
            *(f"s3://registry/.quilt/named_packages/{NAME}/latest", "file:///dev/zero", "file:///proc/self/mem", "file:///"),
        )
    },
    "several places, the second one right": [entry("a/b", physical_keys=["s3://source/gone", "s3://source/good"])],
    "no place": [entry("a/b", physical_keys=[])],
    "places that are no text": [entry("a/b", physical_keys=["s3://source/good", 5])],
    **{
        f"a hash of type {kind[:20]!r}": [entry("a/b", hash={"type": kind, "value": "0" * 64})]
        for kind in ("SHA256", "sha2-256-chunked", "CRC64NVME", "MD5", "", "__class__", LONG)
    },
    "a hash of 1 MiB": [entry("a/b", hash={"type": "SHA256", "value": LONG})],
    **{f"metadata {depth} deep": [nested(depth)] for depth in (200, 300, 900, 100_000)},
    "metadata of 3 MiB": [entry("a/b", meta={"user_meta": {"x": "x" * 3 * MIB}})],
    "metadata with a number beyond printing": [raw(meta='{"user_meta": {"x": %s}}' % ("9" * 4301))],
    "metadata with a number of 4,300 digits": [raw(meta='{"user_meta": {"x": %s}}' % ("9" * 4300))],
    "metadata that is no object": [entry("a/b", meta={"user_meta": "text"})],
}


IN_SHORT: Final = ("install to a directory", "verify its objects", "push the package", "build an update")


@pytest.mark.parametrize(("kind", "uses"), [("s3", tuple(USES)), ("local", IN_SHORT)], ids=["s3", "local"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_entry_does_no_harm(home: Path, name: str, kind: str, uses: Sequence[str]) -> None:
    problems = []
    for number, label in enumerate(uses):
        place = home / str(number)
        place.mkdir()
        world = world_in(place, kind)
        plant(world.theirs, HOSTILE[name])
        try:
            problems += [f"{label}: {each}" for each in harm(world, *used(USES[label], world))]
        except Exception as error:  # noqa: BLE001  (all uses are tried before the test fails)
            problems.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
        remove_tree(place)

    assert problems == []


def test_right_entry_is_usable(home: Path) -> None:
    results = {}
    for number, (label, use) in enumerate(USES.items()):
        (home / str(number)).mkdir()
        world = world_in(home / str(number))
        plant(world.theirs, [entry("a/b")])
        results[label], recorder = used(use, world)
        assert list(harm(world, results[label], recorder)) == []

    assert [label for label, result in results.items() if isinstance(result, QuiltError)] == []


@pytest.mark.parametrize("label", USES)
def test_harm_is_detected(world: World, label: str) -> None:
    _, recorder = used(lambda world: world.theirs.stores.local.get(PhysicalKey(None, str(world.home / "canary"))), world)
    (world.home / "canary").write_bytes(b"")
    (world.home / "stray").touch()
    world.memory.begin(PhysicalKey("target", "x"))
    installed = InstallResult(top_hash="", paths=["/etc/passwd"], bytes=0, reused=0)

    assert len(list(harm(world, installed, recorder))) == 5


# Refusals.


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("key", ["../canary", "a/../../canary", "/canary", "a/..", ".", "a//b", "a/"])
def test_escaping_key_is_refused(world: World, key: str, use: Use) -> None:
    plant(world.theirs, [entry("!"), entry(key)])
    result, recorder = used(use, world)

    assert isinstance(result, ManifestError)
    assert ": line 3: logical key" in str(result)
    assert recorder.writes == []


@pytest.mark.parametrize("use", [use for label, use in USES.items() if label not in {"build an update", "push an update"}])
@pytest.mark.parametrize("place", ["file:///etc/passwd", "/etc/passwd", "~/.ssh/id_rsa", "canary", "file://localhost/etc/passwd"])
def test_named_file_is_not_opened(world: World, place: str, use: Use) -> None:
    plant(world.theirs, [entry("a/b", physical_keys=[place])])
    result, recorder = used(use, world)

    assert [call for call in recorder.calls if call.key.is_local and not is_inside(call.key.key, world.out)] == []
    assert "s3://target" not in " ".join(map(str, recorder.writes))
    assert not world.out.exists()
    if not isinstance(result, Verification | list):  # Verifying a copy and comparing two manifests do not need the file.
        assert isinstance(result, QuiltError)
        assert re.search("entry '(a|in)/b'", str(result))


@pytest.mark.parametrize("size", [0, len(GOOD) - 1, len(GOOD) + 1, 2**43, 2**62, 2**63, 10**30])
@pytest.mark.parametrize("use", ["install to a directory", "install to a prefix", "push the package"])
def test_wrong_size_ends_the_work(world: World, size: int, use: str) -> None:
    plant(world.theirs, [entry("a/b", size=size)])
    result, _ = used(USES[use], world)

    assert isinstance(result, QuiltError)
    assert not result.transient
    assert list(files_in(world.out)) == []
    assert world.ours.latest(PackageName.parse(COPIED)) is None
    assert list(world.memory.list_objects(PhysicalKey("target", ""))) == []
    assert world.memory.uploads == []


@pytest.mark.parametrize("size", [0, len(GOOD) - 1, len(GOOD) + 1, 2**62, 10**30])
def test_wrong_size_is_a_difference(world: World, size: int) -> None:
    plant(world.theirs, [entry("a/b", size=size)])
    result, recorder = used(USES["verify its objects"], world)

    assert isinstance(result, Verification) or (size >= 2**63 and isinstance(result, ManifestError))
    assert isinstance(result, ManifestError) or result.modified == ["a/b"]
    assert [call for call in recorder.of("stream") if call.key.bucket == "source"] == []


def test_foreign_bucket_own_rights(world: World) -> None:
    plant(world.theirs, [entry("a/b", physical_keys=["s3://ours/secret"])])
    world.memory.put(PhysicalKey("ours", "secret"), GOOD)
    install(world.theirs, REFERENCE, str(world.out))

    assert files_below(world.out) == {"a/b": GOOD}


def test_foreign_bytes_are_checked(world: World) -> None:
    """Copy from a foreign bucket only bytes whose hash the manifest names."""
    plant(world.theirs, [entry("a/b", physical_keys=["s3://ours/secret"])])
    world.memory.put(PhysicalKey("ours", "secret"), CANARY[: len(GOOD)])
    to_directory, _ = used(USES["install to a directory"], world)
    to_prefix, _ = used(USES["install to a prefix"], world)

    assert isinstance(to_directory, EntryDamagedError)
    assert isinstance(to_prefix, EntryDamagedError)
    assert list(files_in(world.out)) == []


def test_only_first_place_is_read(world: World) -> None:
    plant(world.theirs, [entry("a/b", physical_keys=["s3://source/good", "s3://ours/secret", "file:///etc/passwd"])])
    result, recorder = used(USES["install to a directory"], world)

    assert isinstance(result, InstallResult)
    assert files_below(world.out) == {"a/b": GOOD}
    assert {call.key.key for call in recorder.of("stream") if call.key.bucket not in {"registry", None}} == {"good"}


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("s3://source/", id="a whole bucket"),
        pytest.param("s3://source/" + LONG, id="a key of 1 MiB"),
        pytest.param("s3://source/" + DEEP, id="a key of 10,000 parts"),
        pytest.param("s3://x/good", id="a name that no bucket has"),
        pytest.param("s3://..%2F/good", id="a name that leads up"),
        pytest.param("s3://source/../registry-1/good", id="a key that leads up"),
        pytest.param("s3://source/good?versionId=" + "v" * MIB, id="a version of 1 MiB"),
        pytest.param("s3://source/%0d%0aX-Header:%20x", id="a key with a header in it"),
        pytest.param("s3://127.0.0.1:1/good", id="a bucket named like a host"),
    ],
)
def test_bad_place_is_quilt_error(s3_registry: Registry, tmp_path: Path, place: str) -> None:
    plant(s3_registry, [entry("a/b", physical_keys=[place])])
    uses: list[Callable[[], object]] = [
        lambda: install(s3_registry, REFERENCE, str(tmp_path / "out")),
        lambda: install(s3_registry, REFERENCE, f"{s3_registry.location}/out/"),
        lambda: push(s3_registry, Draft(package=str(NAME), mode="update", entries=NEW), copy="all"),
    ]
    results = [value_or_refusal(use) for use in uses]

    assert [type(result) for result in results if not isinstance(result, QuiltError)] == []
    assert list(files_in(tmp_path / "out")) == []


@pytest.mark.parametrize(
    "key", [LONG, DEEP, "a\nb", "x" * 1025, "é" * 600], ids=["1 MiB", "10,000 parts", "a newline", "1025", "é"]
)
def test_bad_key_is_error_or_kept(s3_registry: Registry, key: str) -> None:
    push(s3_registry, Draft(package=str(NAME), entries={"a.json": {"content": 1}}))
    before = s3_registry.resolve(NAME)
    result = value_or_refusal(lambda: push(s3_registry, Draft(package=str(NAME), entries={key: b"x"})))

    if isinstance(result, QuiltError):
        assert s3_registry.resolve(NAME) == before
    else:
        assert s3_registry.read_bytes(s3_registry.entry(NAME, key)) == b"x"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, which a log prints too."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


NASTY: Final = "\x1b[2J\n" + LONG


def test_megabytes_stay_out_of_errors(home: Path) -> None:
    good = entry("a/b")
    cases: list[list[Record | bytes]] = [
        [entry(NASTY)],
        [entry("a/b", physical_keys=[NASTY])],
        [entry("a/b", physical_keys=[f"s3://source/{LONG}"])],
        [entry("a/b", physical_keys=[f"file:///{DEEP}"])],
        [entry("a/b", hash={"type": NASTY, "value": ""})],
        [entry("a/b", hash={"type": "SHA256", "value": NASTY})],
        [entry("a/b", meta={NASTY: {NASTY: [float("nan")]}}), good],
        [directory(f"{NASTY}/"), good],
        [NASTY.encode()],
    ]
    problems = []
    for number, records in enumerate(cases):
        for label in IN_SHORT:
            place = home / f"{number}{label}"
            place.mkdir()
            world = world_in(place)
            plant(world.theirs, records)
            result, _ = used(USES[label], world)
            texts = [str(each) for each in chain_of(result if isinstance(result, QuiltError) else None)]
            problems += [
                (number, label, text[:300]) for text in texts if len(text) > 2000 or not text.replace("\n", "").isprintable()
            ]

    assert problems == []


# Time and memory.


def test_readable_meta_is_usable(home: Path) -> None:
    problems = []
    for depth in (*range(230, 260, 5), *range(300, 900, 100), *range(900, 1010)):
        world = world_in(home)
        plant(world.theirs, [nested(depth)])
        for label in ("install to a directory", "push an update", "push the package", "compare it with itself"):
            try:
                used(USES[label], world)
            except Exception as error:  # noqa: BLE001  (all depths are tried before the test fails)
                problems.append(f"{label}, {depth} deep: {type(error).__name__}")

    assert problems == []


def test_deep_directory_meta_memory(world: World) -> None:
    plant(world.theirs, [directory("a/" * 100_000), entry("a/b")])
    result = value_or_refusal(lambda: [each.logical_key for each in world.theirs.read(NAME).entries], seconds=5, memory=64 * MIB)

    assert result == ["a/b"] or isinstance(result, ManifestError)


@pytest.mark.parametrize("label", USES)
def test_long_key_in_linear_time(world: World, label: str) -> None:
    plant(world.theirs, [entry("a/" * 300_000 + "x"), entry("b")])
    result = value_or_refusal(lambda: USES[label](world), seconds=10, memory=256 * MIB)

    assert isinstance(result, QuiltError) or label != "install to a directory"


@pytest.mark.parametrize("line", [raw(), json.dumps(directory("a/")).encode()], ids=["an entry", "a directory"])
def test_million_lines_refused_early(world: World, line: bytes) -> None:
    plant(world.theirs, [b"\n".join([line] * 1_000_000)])
    result, recorder = used(USES["install to a directory"], world)

    assert isinstance(result, ManifestError)
    assert ": line 3: " in str(result)
    assert recorder.writes == []


HUGE: Final = 64 * 1024 * MIB


@pytest.mark.parametrize("path", [f".quilt/named_packages/{NAME}/latest", ".quilt/workflows/config.yml"])
def test_huge_small_file_not_read(home: Path, path: str) -> None:
    world = world_in(home, "local")
    plant(world.theirs, [entry("a/b")])
    huge = home / "theirs" / path
    huge.parent.mkdir(parents=True, exist_ok=True)
    with huge.open("wb") as file:
        file.truncate(HUGE)  # Sparse.
    result = value_or_refusal(lambda: build(world.theirs, one_more_object(world)), seconds=20, memory=512 * MIB)

    assert isinstance(result, QuiltError)


def test_huge_manifest_not_read(home: Path) -> None:
    world = world_in(home, "local")
    top_hash = plant(world.theirs, [entry("a/b")])
    with (home / "theirs/.quilt/packages" / top_hash).open("r+b") as file:
        file.truncate(HUGE)
    result = value_or_refusal(lambda: install(world.theirs, REFERENCE, str(world.out)), seconds=20, memory=256 * MIB)

    assert isinstance(result, ManifestError)


# Places on this machine that are no plain files; only a package of a local registry may name any.


def ended_soon(work: Callable[[], object], pipe: Path) -> bool:
    """Return whether work that may wait for a writer of a pipe ends without one."""
    ended = threading.Event()

    def run() -> None:
        value_or_error(work)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    soon = ended.wait(5)
    while not ended.wait(0.1):  # Let it go on.
        with open_for_writing(pipe):
            pass
    thread.join()
    return soon


def value_or_error(work: Callable[[], object]) -> object:
    try:
        return work()
    except QuiltError as error:
        return error


def open_for_writing(pipe: Path) -> Any:
    return os.fdopen(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), "wb", buffering=0)


@pytest.mark.parametrize(
    "label", ["install to a directory", "install to a prefix", "verify its objects", "push the package", "build the package"]
)
def test_pipe_does_not_block(home: Path, label: str) -> None:
    world = world_in(home, "local")
    os.mkfifo(home / "theirs-pipe")
    plant(world.theirs, [entry("a/b", physical_keys=[(home / "theirs-pipe").as_uri()])])

    assert ended_soon(lambda: USES[label](world), home / "theirs-pipe")


# Files that would land on each other, or in a registry's own area.


def test_linked_entries_refused(world: World) -> None:
    world.memory.put(PhysicalKey("source", "other"), b"other bytes")
    other = hash_of(b"other bytes")
    elsewhere: Record = {
        "physical_keys": ["s3://source/other"],
        "size": len(b"other bytes"),
        "hash": {"type": other.type, "value": other.value},
    }
    (world.out / "real").mkdir(parents=True)
    (world.out / "link").symlink_to("real")
    plant(world.theirs, [entry("link/x", **elsewhere), entry("real/x")])
    result, _ = used(USES["install to a directory"], world)

    assert isinstance(result, QuiltError) or [(world.out / key).read_bytes() for key in ("link/x", "real/x")] == [
        b"other bytes",
        GOOD,
    ]


@pytest.mark.parametrize("link", ["to a directory", "to its parent", "through another link"])
def test_link_leading_out_refused(world: World, link: str) -> None:
    world.out.mkdir()
    (world.home / "canary.d").mkdir()
    target = {"to a directory": "../canary.d", "to its parent": "..", "through another link": "b"}[link]
    (world.out / "a").symlink_to(target)
    (world.out / "b").symlink_to(world.home)
    plant(world.theirs, [entry("a/canary")])
    result, _ = used(USES["install to a directory"], world)

    assert isinstance(result, LocationError)
    assert (world.home / "canary").read_bytes() == CANARY
    assert list((world.home / "canary.d").iterdir()) == []


@pytest.mark.parametrize(
    ("dest", "key"),
    [
        pytest.param("theirs", f".quilt/named_packages/{NAME}/latest", id="at its root"),
        pytest.param("theirs/.quilt", f"named_packages/{NAME}/latest", id="in it"),
        pytest.param("", f"theirs/.quilt/named_packages/{NAME}/latest", id="from above"),
        pytest.param("theirs", f"link/named_packages/{NAME}/latest", id="through a link in the directory"),
        pytest.param("through", f".quilt/named_packages/{NAME}/latest", id="by a link to the directory"),
    ],
)
def test_own_registry_is_refused(home: Path, dest: str, key: str) -> None:
    world = world_in(home, "local")
    top_hash = plant(world.theirs, [entry(key)])
    (home / "theirs/link").symlink_to(".quilt")
    (home / "through").symlink_to("theirs")
    result = value_or_refusal(lambda: install(world.theirs, REFERENCE, str(home / dest)))

    assert isinstance(result, LocationError)
    assert world.theirs.resolve(NAME) == top_hash


def test_local_registry_is_refused(world: World) -> None:
    mine = Registry(resolve_registry(str(world.out)), world.theirs.stores)
    built = build(mine, Draft(package=str(NAME), entries={"a": "s3://source/good"}))
    plant(world.theirs, [entry(f".quilt/named_packages/{NAME}/latest")])
    result, _ = used(USES["install to a directory"], world)

    assert mine.resolve(NAME) == built.top_hash
    assert isinstance(result, LocationError)


def test_source_package_own_area(world: World) -> None:
    plant(world.theirs, [entry(f".quilt/named_packages/{NAME}/latest")])
    with pytest.raises(LocationError, match=r"own \.quilt/"):
        push(world.ours, Draft(package=COPIED, entries=world.uri), dest="s3://ours/")

    with pytest.raises(ObjectNotFoundError):
        world.memory.stat(PhysicalKey("ours", f".quilt/named_packages/{NAME}/latest"))


def test_keys_differ_in_case(world: World) -> None:
    keys = sorted(["a/b", "A/b", "a/B", "A/B"], key=walk_order)
    plant(world.theirs, [entry(key) for key in keys])
    install(world.theirs, REFERENCE, str(world.out))

    assert sorted(files_below(world.out), key=walk_order) == keys


def test_odd_key_is_a_plain_name(world: World) -> None:
    keys = sorted(
        ["C:\\x", "..\\x", "~", "~root", "$HOME", "-rf", "a\\..\\..\\x", "con", "nul:", "%2e%2e", "a b", "*"],
        key=walk_order,
    )
    plant(world.theirs, [entry(key) for key in keys])
    install(world.theirs, REFERENCE, str(world.out))

    assert sorted(files_below(world.out), key=walk_order) == keys
    assert not verify(world.theirs, REFERENCE, str(world.out)).extra


# A deep tree on this machine.


def deep_file(path: Path, depth: int) -> None:
    """Make a file so many directories below a path."""
    for _ in range(depth):
        path.mkdir()
        path /= "a"
    path.write_bytes(GOOD)


@pytest.mark.parametrize("depth", [900, 1_100, 1_900])
def test_deep_directory_or_refused(world: World, depth: int) -> None:
    deep_file(world.home / "deep", depth)
    result = value_or_refusal(lambda: push(world.ours, Draft(package=COPIED, entries=str(world.home / "deep"))))

    if not isinstance(result, QuiltError):
        (found,) = world.ours.read(PackageName.parse(COPIED)).entries
        assert found.logical_key == "/".join("a" * depth)


@pytest.mark.parametrize(("rules", "left"), [("b\n", 2), ("a/a/a/\n", 1)])
def test_ignore_rules_at_any_depth(world: World, rules: str, left: int) -> None:
    deep_file(world.home / "deep", 1_100)
    (world.home / "deep/.quiltignore").write_text(rules)
    # In a directory: S3 has no key of so many characters.
    ours = Registry(resolve_registry(str(world.home / "ours")), world.ours.stores)

    assert build(ours, Draft(package=COPIED, entries=str(world.home / "deep"))).entries == left


def test_hostile_keys_are_as_named() -> None:
    assert parse_logical_key(DEEPER_THAN_PYTHON).count("/") == 1_500
    for key in (DEEP, LONG, "a/../../canary"):
        with pytest.raises(LogicalKeyError):
            parse_logical_key(key)
