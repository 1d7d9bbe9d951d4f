"""quilt3 and our engine build the same files: the manifests must be the same to the byte."""

import functools
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import RecordSizeError
from airflow_quilt.core.format.manifest import MAX_RECORD_SIZE
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.registry.registry import Registry
from tests.oracle.quilt3_client import Meta, Quilt3, Quilt3Error, Spec, place, record

MIB = 1024 * 1024
NAME = "team/data"

FLOATS = [1e16, 0.1, -0.0, 0.0, 1e-7, 1e22, 1e21, 123456789012345680.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1e5, 1.0]
INTEGERS = [0, -1, 2**53 + 1, 2**63, 2**64, -(2**64), 10**40]
# Names that have two spellings in Unicode, right-to-left text, and characters beyond 16 bits; by UTF-16 the order is another.
UNICODE = [
    "\u00e9",
    "e\u0301",
    "\ud55c\uae00",
    "\u1112\u1161\u11ab",
    "\U0001f427",
    "\uff5e",
    "\ufb01",
    "\u05d0\u202e",
    "\u00df",
    "\U00010348",
]
CONTROLS = "".join(map(chr, range(0x20))) + "\x7f\x80\x85\x9f\u2028\u2029\ufeff\ufffd\uffff"
PUNCTUATION = [
    "a",
    "a b",
    "a!b",
    "a#b",
    "a%20b",
    "a%b",
    "a&b",
    "a'b",
    "a+b",
    'a"b',
    "a:b",
    "a;b",
    "a=b",
    "a?b",
    "a@b",
    "a\\b",
    "a~b",
    " ",
    "-a",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A package before its files have a place."""

    files: Mapping[str, bytes] = field(default_factory=lambda: {"a.txt": b"a"})
    file_meta: Mapping[str, Meta] = field(default_factory=dict)
    meta: Meta | None = None
    message: str | None = None

    def place(self, directory: Path) -> Spec:
        """Write the files below a directory."""
        return Spec(files=place(directory, self.files), file_meta=self.file_meta, meta=self.meta, message=self.message)


def named(*keys: str) -> dict[str, bytes]:
    """Return files under these keys, no two of them alike."""
    return {key: key.encode() for key in keys}


def noise(size: int) -> bytes:
    """Return bytes of which no part is like another."""
    return hashlib.shake_128(str(size).encode()).digest(size)


CASES = {
    "one file": Case(),
    "no files": Case(files={}),
    "no files, but metadata and a message": Case(files={}, meta={"a": 1}, message="empty on purpose"),
    "an empty file": Case(files={"empty": b""}),
    "empty files beside full ones": Case(files={"a/empty": b"", "a/full": b"x", "empty": b""}),
    "a directory beside names that begin as it does": Case(
        files=named(
            "d/b.txt", "d.txt", "d-b", "d b", "d!b", "d0", "d\x01b/x", "D/z", "D.txt", "d/b/c", "d/b-c", "d/b.c", "d/b0/c"
        )
    ),
    "keys given backwards": Case(
        files=named(*sorted((f"{a}/{b}{c}" for a, b, c in itertools.product("xyz", "ab", ".-0")), reverse=True))
    ),
    "Unicode keys": Case(files=named(*UNICODE, *(f"dir {name}/{other}" for name, other in itertools.pairwise(UNICODE)))),
    "keys with punctuation": Case(files=named(*PUNCTUATION, *(f"deep/{name}/{name}" for name in PUNCTUATION))),
    "keys with control characters": Case(files=named("a\nb", "a\tb", "a\rb", "a\x7fb", "a\x01b", "a\x85b", "a\u2028b")),
    "a long key": Case(files=named("/".join(["d" * 200] * 8) + "/file")),
    "floats": Case(meta={"floats": FLOATS, "one": 1e16}, file_meta={"a.txt": {"floats": FLOATS}}),
    "integers": Case(meta={"integers": INTEGERS}, file_meta={"a.txt": {"integers": INTEGERS}}),
    "one is not 1.0 is not true": Case(meta={"integer": 1, "float": 1.0, "truth": True, "zero": 0, "lie": False, "text": "1"}),
    "Unicode metadata": Case(meta={name: name for name in UNICODE}, file_meta={"a.txt": {"text": UNICODE}}),
    "control characters and DEL in metadata": Case(
        meta={"text": CONTROLS, CONTROLS: "key"}, file_meta={"a.txt": {CONTROLS: CONTROLS}}, message=CONTROLS
    ),
    "quotes and slashes in metadata": Case(meta={'"': "'", "\\": "/", "<&>": "</script>", "\\u0041": "\\n"}),
    "metadata keys not in order": Case(
        meta={"b": 1, "a": {"z": 1, "Z": 2, "_": 3}, "B": 2, "10": 1, "9": 1, "": 0},
        file_meta={"a.txt": {"y": {"2": 1, "1": 2}, "x": [{"q": 1, "p": 2}]}},
    ),
    "metadata keys beyond 16 bits": Case(meta={"\U0001f427": 1, "\uff5e": 2, "\ue000": 3, "a": 4}),
    "nested metadata": Case(
        meta={"a": [[], {}, [{}], {"b": [None, True, False, [1, [2, [3]]]]}]}, file_meta={"a.txt": {"a": {"b": {"c": {}}}}}
    ),
    "metadata that is deep": Case(meta=functools.reduce(lambda inner, _: {"in": inner}, range(50), {"core": 1})),
    "empty metadata": Case(meta={}),
    "metadata with a null": Case(meta={"user_meta": None, "message": None, "version": "v1"}),
    "empty metadata of a file": Case(file_meta={"a.txt": {}}),
    "metadata of some files": Case(
        files=named("a", "b", "c/d"), file_meta={"b": {"user_meta": {}}, "c/d": {"hash": "x", "size": 1}}
    ),
    "an empty message": Case(message=""),
    "a message with newlines and quotes": Case(message='first line\nsecond "line"\r\n\ttab \\ \u00e9 \U0001f427\n'),
    "8 MiB - 1": Case(files={"x": noise(8 * MIB - 1)}),
    "8 MiB": Case(files={"x": noise(8 * MIB)}),
    "8 MiB + 1": Case(files={"x": noise(8 * MIB + 1)}),
    "16 MiB": Case(files={"x": noise(16 * MIB)}),
    "16 MiB + 1": Case(files={"x": noise(16 * MIB + 1)}),
    "20 MiB": Case(files={"x": noise(20 * MIB)}),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_build_equals_quilt3s(case: Case, quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    spec = case.place(tmp_path / "files")
    other = tmp_path / "registry-of-quilt3"
    published = build(local_registry, spec.draft(NAME))
    assert quilt3.build(str(other), NAME, spec) == published.top_hash
    assert manifest(local_registry, published.top_hash) == (other / ".quilt/packages" / published.top_hash).read_bytes()


@every_case
def test_quilt3_reads_our_build(case: Case, quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    published = build(local_registry, case.place(tmp_path / "files").draft(NAME))
    found = quilt3.browse(root(local_registry), NAME)
    assert found["top_hash"] == published.top_hash == quilt3.latest(root(local_registry), NAME)
    assert found["header"].get("user_meta") == case.meta
    assert found["header"]["message"] == case.message
    assert {each["logical_key"]: each["size"] for each in found["entries"]} == {
        key: len(data) for key, data in case.files.items()
    }


@every_case
def test_core_reads_quilt3_build(case: Case, quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    top_hash = quilt3.build(root(local_registry), NAME, case.place(tmp_path / "files"))
    found = quilt3.browse(root(local_registry), NAME)
    read = local_registry.read(PackageName.parse(NAME), top_hash)
    assert read.header == found["header"]
    assert [record(entry) for entry in read.entries] == found["entries"]


def test_directory_equals_quilt3s(quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    files = CASES["a directory beside names that begin as it does"].files | named(*UNICODE, ".hidden", ".hidden directory/x")
    spec = Spec(files=place(tmp_path / "files", files), meta={"a": 1})
    published = build(local_registry, Draft(package=NAME, entries=str(tmp_path / "files"), meta={"a": 1}))
    assert quilt3.top_hash(spec) == published.top_hash
    assert published.entries == len(files)


def test_link_is_packed_as_its_file(quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    place(tmp_path / "files", named("data/2026.csv"))
    (tmp_path / "files/latest.csv").symlink_to("data/2026.csv")
    spec = Spec(files={key: str(tmp_path / "files" / key) for key in ("data/2026.csv", "latest.csv")})
    other = tmp_path / "registry-of-quilt3"
    published = build(local_registry, Draft(package=NAME, entries=str(tmp_path / "files")))
    assert quilt3.build(str(other), NAME, spec) == published.top_hash
    assert manifest(local_registry, published.top_hash) == (other / ".quilt/packages" / published.top_hash).read_bytes()


@pytest.mark.parametrize("line", [0, 1], ids=["header", "entry"])
def test_longest_record_is_equal(line: int, quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    files = place(tmp_path / "files", {"a.txt": b"a"})

    def spec(text: str) -> Spec:
        meta = {"text": text}
        return Spec(files=files, meta=meta) if line == 0 else Spec(files=files, file_meta={"a.txt": meta})

    short = build(local_registry, spec("").draft(NAME))
    room = MAX_RECORD_SIZE - len(manifest(local_registry, short.top_hash).split(b"\n")[line])
    # Bytes are counted, and this letter has two.
    longest = spec("\u00e9" * (room // 2) + "x" * (room % 2))
    assert build(local_registry, longest.draft(NAME)).top_hash == quilt3.build(str(tmp_path / "other"), NAME, longest)
    too_long = spec("\u00e9" * (room // 2) + "x" * (room % 2 + 1))
    with pytest.raises(RecordSizeError):
        build(local_registry, too_long.draft(NAME))
    with pytest.raises(Quilt3Error, match="Size of manifest record"):
        quilt3.build(str(tmp_path / "other"), NAME, too_long)


def root(registry: Registry) -> str:
    """Return the directory of a local registry."""
    return registry.location.root.key


def manifest(registry: Registry, top_hash: str) -> bytes:
    """Return the bytes of a manifest in a local registry."""
    return Path(root(registry), ".quilt/packages", top_hash).read_bytes()
