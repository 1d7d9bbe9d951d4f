import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from airflow_quilt.core.errors import LogicalKeyError, ManifestError, MetadataError
from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry, canonical_entry, entry_line, header_line
from airflow_quilt.core.format.manifest_reader import read_manifest
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, TopHash, check_next, is_walk, parse_logical_key, walk_order
from tests.property.strategies import HEADERS, JSON, LOGICAL_KEYS, META, TEXT, PackageTree, entries, trees


def check_each(keys: Sequence[LogicalKey]) -> None:
    for previous, key in itertools.pairwise(keys):
        check_next(previous, key)


def top_hash(header: Mapping[str, Any], of: Sequence[Entry]) -> str:
    return write_manifest(header, of, io.BytesIO()).top_hash


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return (data[start:stop] for start, stop in itertools.pairwise(edges))


def same(one: object, other: object) -> bool:
    """Whether two values are the same to JSON, with the order of keys and the kinds of numbers."""
    return json.dumps(one) == json.dumps(other)


@settings(max_examples=100)
@given(HEADERS, trees(), st.lists(st.integers(0, 2000), max_size=10), st.randoms(use_true_random=False))
def test_written_manifest_reads_back(header: dict[str, Any], tree: PackageTree, at: list[int], random: Random) -> None:
    out = io.BytesIO()
    shuffled = random.sample(list(tree.directories.items()), len(tree.directories))
    summary = write_manifest(header, tree.entries, out, dict(shuffled))
    manifest = read_manifest(cut(out.getvalue(), at), summary.top_hash)
    found = list(manifest.entries)

    assert found == tree.entries
    assert same([entry.meta for entry in found], [entry.meta for entry in tree.entries])
    assert same(manifest.header, header)
    assert same(dict(manifest.directories), tree.directories)
    assert (summary.entries, summary.bytes) == (len(found), sum(entry.size for entry in found))


def rewritten(lines: bytes, name: TopHash | None = None) -> bytes | None:
    """Read a manifest and write it again; None stands for one that was refused."""
    out = io.BytesIO()
    try:
        manifest = read_manifest([lines], name)
        write_manifest(manifest.header, list(manifest.entries), out, manifest.directories)
    except (ManifestError, MetadataError):  # The infinite numbers of old writers are read, and never written.
        return None
    return out.getvalue()


@settings(max_examples=100)
@given(HEADERS, trees())
def test_rewrite_keeps_every_byte(header: dict[str, Any], tree: PackageTree) -> None:
    out = io.BytesIO()
    summary = write_manifest(header, tree.entries, out, tree.directories)

    assert rewritten(out.getvalue(), summary.top_hash) == out.getvalue()


SPOILED = st.sampled_from(
    [b"", b"\n", b'"', b"\\", b"{", b"}", b"0", b"e999", b",", b" ", b"\xff", b"\0", b"\\ud800"]
) | st.binary(max_size=2)


@settings(max_examples=100)
@given(HEADERS, trees(), SPOILED, st.integers(0, 3), st.data())
def test_spoiled_manifest_is_refused(
    header: dict[str, Any], tree: PackageTree, instead: bytes, count: int, data: st.DataObject
) -> None:
    out = io.BytesIO()
    summary = write_manifest(header, tree.entries, out, tree.directories)
    lines = out.getvalue()
    at = data.draw(st.integers(0, len(lines)))
    again = rewritten(lines[:at] + instead + lines[at + count :], summary.top_hash)

    assert again is None or list(map(plain, entries_of(again))) == list(map(plain, tree.entries))


def entries_of(lines: bytes) -> list[Entry]:
    return list(read_manifest([lines]).entries)


ODD_TEXT = st.text(st.sampled_from("a/.\ud800\udfff\0é"), max_size=3)
ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(ODD_TEXT, inner, max_size=2),
    max_leaves=3,
)
RECORDS = st.fixed_dictionaries(
    {
        "logical_key": LOGICAL_KEYS,
        "physical_keys": st.lists(TEXT, min_size=1, max_size=2),
        "size": st.integers(0),
        "hash": st.fixed_dictionaries({"type": TEXT, "value": TEXT}),
        "meta": META,
    }
)
ODD_FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["logical_key", "physical_keys", "size", "hash", "meta", "more"], ODD_JSON)
)
ODD_RECORDS = (
    st.builds(lambda record, odd: record | odd, RECORDS, ODD_FIELDS)
    | st.builds(lambda record, odd: record | {"meta": {"user_meta": odd}}, RECORDS, ODD_JSON)
    | st.builds(lambda key, odd: {"logical_key": f"{key}/", "meta": odd}, LOGICAL_KEYS, ODD_JSON)
    | ODD_JSON
)


@settings(max_examples=150)
@given(st.just({}) | st.builds(lambda odd: {"user_meta": odd}, ODD_JSON), st.lists(ODD_RECORDS, max_size=2))
def test_foreign_records_round_trip(header: dict[str, Any], records: list[Any]) -> None:
    lines = [json.dumps(record).replace("Infinity", "1e999").encode() for record in [header, *records]]
    once = rewritten(b"\n".join(lines))

    assert once is None or rewritten(once) == once


PLAIN_RECORDS = st.fixed_dictionaries(
    {
        "logical_key": LOGICAL_KEYS | st.sampled_from(["a", "a/b", "a.b", "b", "b/", "/c", "c//d", "d/../e", "é", "\\", "."]),
        "physical_keys": st.lists(TEXT | st.sampled_from(["s3://b/k", "\\", '"', "\ud800"]), min_size=1, max_size=1),
        "size": st.integers(0, 9) | st.sampled_from([2**63 - 1, 2**63, -1]),
        "hash": st.fixed_dictionaries({"type": st.sampled_from(["SHA256", "\x7f"]), "value": TEXT}),
        "meta": st.sampled_from([{}, None, [], {"user_meta": {"x": [1.5, 2**70]}}]),
    }
)


def outcome(lines: bytes) -> tuple[list[Entry], str]:
    """Return the entries that are read, and the error after them."""
    found: list[Entry] = []
    try:
        for entry in read_manifest([lines]).entries:
            found.append(entry)  # noqa: PERF402  (what came before an error counts)
    except ManifestError as error:
        return found, str(error)
    return found, ""


@settings(max_examples=200)
@given(records=st.lists(PLAIN_RECORDS | RECORDS, max_size=4), in_order=st.booleans(), with_meta=st.booleans())
def test_block_reads_as_its_lines(*, records: list[Any], in_order: bool, with_meta: bool) -> None:
    if in_order:
        records.sort(key=lambda record: walk_order(record["logical_key"]))
    directories = [{"logical_key": "a/", "meta": {"x": 1}}] if with_meta else []
    common, other = (
        b"".join(
            json.dumps(record, ensure_ascii=False, separators=by).encode("utf-8", "surrogatepass") + b"\n" for record in lines
        )
        for by, lines in (((", ", ": "), [{}, *directories, *records]), ((" ,", " :"), [{}, *directories, *records]))
    )

    assert outcome(common) == outcome(other)
    assert outcome(common)[1] or has_its_text(common)


def has_its_text(lines: bytes) -> bool:
    """Whether each block of a manifest has the text that its entries have one by one."""
    return all(
        block.canonical.decode() == "".join(map(canonical_entry, block.entries))
        and block.lines in {None, b"".join(entry_line(entry) + b"\n" for entry in block.entries)}
        for block in read_manifest([lines]).blocks
    )


@settings(max_examples=150)
@given(entries())
def test_records_equal_plain_json(entry: Entry) -> None:
    digest = {"type": entry.hash.type, "value": entry.hash.value}
    record = {"logical_key": entry.logical_key, "physical_keys": entry.physical_keys, "size": entry.size, "hash": digest}
    told = {"hash": digest, "logical_key": entry.logical_key, "size": entry.size, "meta": entry.meta}

    assert entry_line(entry).decode() == json.dumps(record | {"meta": entry.meta}, ensure_ascii=False)
    assert canonical_entry(entry) == json.dumps(told, sort_keys=True, separators=(",", ":"))


@given(
    st.lists(LOGICAL_KEYS | st.sampled_from(["a", "a/b", "a//b", "/a", "a/", "..", "a/./b", "\0", ""]), min_size=1, max_size=5)
)
@example(["0/\n"])
@example(["a\nb", "c/"])
def test_walk_accepts_checked_keys(keys: list[str]) -> None:
    try:
        parsed = [parse_logical_key(key) for key in keys]
        check_each(parsed)
        is_right = parsed == sorted(parsed, key=walk_order)
    except LogicalKeyError:
        is_right = False

    assert is_walk(keys) == is_right


@given(st.binary() | st.text().map(str.encode))
def test_foreign_bytes_round_trip(data: bytes) -> None:
    for lines in (data, b"{}\n" + data):
        once = rewritten(lines)
        assert once is None or rewritten(once) == once


@given(HEADERS, st.lists(entries(), max_size=3))
def test_line_is_one_json_line(header: dict[str, Any], written: list[Entry]) -> None:
    for line in (header_line(header), *map(entry_line, written)):
        assert b"\n" not in line
        assert json.dumps(json.loads(line.decode()), ensure_ascii=False).encode() == line


@given(HEADERS, st.lists(entries(), max_size=4), st.data())
def test_hash_ignores_physical_keys(header: dict[str, Any], of: list[Entry], data: st.DataObject) -> None:
    moved = [replace(entry, physical_keys=tuple(data.draw(st.lists(TEXT, min_size=1, max_size=2)))) for entry in of]

    assert top_hash(header, of) == top_hash(header, moved)


def plain(entry: Entry) -> tuple[object, ...]:
    """Return the fields that decide about a top hash."""
    return entry.logical_key, entry.size, entry.hash, json.dumps(entry.meta, sort_keys=True)


def changed_in_one_field(data: st.DataObject, entry: Entry) -> Entry:
    other = data.draw(
        st.one_of(
            st.builds(lambda key: replace(entry, logical_key=LogicalKey(key)), LOGICAL_KEYS),
            st.builds(lambda size: replace(entry, size=size), st.integers(0, 2**43)),
            st.builds(lambda kind: replace(entry, hash=Hash(kind, entry.hash.value)), TEXT),
            st.builds(lambda value: replace(entry, hash=Hash(entry.hash.type, value)), TEXT),
            st.builds(lambda meta: replace(entry, meta=meta), META),
        )
    )
    assume(plain(other) != plain(entry))
    return other


@given(HEADERS, st.lists(entries(), min_size=1, max_size=3), st.data())
def test_hash_covers_entry_fields(header: dict[str, Any], of: list[Entry], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(of) - 1))
    changed = [*of[:index], changed_in_one_field(data, of[index]), *of[index + 1 :]]

    assert top_hash(header, of) != top_hash(header, changed)


@given(HEADERS, st.lists(entries(), max_size=2), st.sampled_from(["version", "message", "user_meta", "workflow", "more"]), JSON)
def test_hash_covers_the_header(header: dict[str, Any], of: list[Entry], key: str, value: Any) -> None:
    changed = header | {key: value}
    assume(json.dumps(changed, sort_keys=True) != json.dumps(header, sort_keys=True))

    assert top_hash(header, of) != top_hash(changed, of)


@given(HEADERS, st.lists(entries(), min_size=1, max_size=3))
def test_hash_covers_every_entry(header: dict[str, Any], of: list[Entry]) -> None:
    assert top_hash(header, of) != top_hash(header, of[:-1])


@given(HEADERS, st.lists(entries(), max_size=2))
def test_hash_ignores_key_order(header: dict[str, Any], of: list[Entry]) -> None:
    turned = [replace(entry, meta=dict(reversed(entry.meta.items()))) for entry in of]

    assert top_hash(dict(reversed(header.items())), turned) == top_hash(header, of)


# The order of entries.

NestedKeys = dict[str, "NestedKeys | None"]


def plant(keys: list[str]) -> NestedKeys | None:
    """Make a tree of keys, or None where one key would be a file and a directory, or is there twice."""
    tree: NestedKeys = {}
    for key in keys:
        *directories, name = key.split("/")
        place = tree
        for directory in directories:
            below = place.setdefault(directory, {})
            if below is None:
                return None
            place = below
        if name in place:
            return None
        place[name] = None
    return tree


def walk(tree: NestedKeys, prefix: str = "") -> Iterator[str]:
    for name, below in sorted(tree.items()):
        if below is None:
            yield prefix + name
        else:
            yield from walk(below, f"{prefix}{name}/")


def accepted(key: str) -> bool:
    try:
        return parse_logical_key(key) == key
    except LogicalKeyError:
        return False


def fits(keys: list[str]) -> bool:
    try:
        check_each(sorted(map(LogicalKey, keys), key=walk_order))
    except LogicalKeyError:
        return False
    return True


KEYS = st.lists(LOGICAL_KEYS.filter(accepted), max_size=8)


@given(KEYS)
@example(["a.txt", "a/b.txt", "a-b", "a/b/c", "ab"])
def test_walk_order_is_a_tree_walk(keys: list[str]) -> None:
    tree = plant(keys)
    assume(tree is not None)

    assert sorted(keys, key=walk_order) == list(walk(tree or {}))


@given(KEYS)
@example(["a", "a/b"])
@example(["a/b", "a", "a.b"])
@example(["a/b", "a/b"])
def test_fitting_keys_make_a_tree(keys: list[str]) -> None:
    assert fits(keys) == (plant(keys) is not None)


def test_accepted_keys_keep_order() -> None:
    ordered = [key for key in ("a/c", "a\0b") if accepted(key)]
    clashing = ["a", "a/b", *(key for key in ("a\0a",) if accepted(key))]

    assert sorted(ordered, key=walk_order) == list(walk(plant(ordered) or {}))
    assert not fits(clashing)
